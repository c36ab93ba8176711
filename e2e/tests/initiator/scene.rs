//! Two hosts, a disk, and a target of some kind that comes, grows and goes.

use std::{
    fs::{self, OpenOptions},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{Export, Maker, Namespace, Nic, Scratch, TargetProcess, aoe::Addressing};
use aoede_initiator::Client;
use aoede_link::Monitor;

use crate::old::Old;

/// At first; that of the golden frames.
pub(crate) const SECTORS: usize = 16_384;
pub(crate) const SECTOR: usize = 512;
/// Nobody's MAC address.
pub(crate) const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const SOON: Duration = Duration::from_secs(5);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Vblade,
    /// The 2014 AoEde, played.
    Old,
}

enum Target {
    Process(TargetProcess),
    Old(Old),
}

pub(crate) struct Scene {
    kind: Kind,
    host: Namespace,
    initiator: Namespace,
    image: PathBuf,
    target: Option<Target>,
    _folder: Scratch,
}

impl Scene {
    /// Nobody serves yet.
    pub(crate) fn new(kind: Kind, mtu: u32) -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", (SECTORS * SECTOR) as u64)?;
        let (host, initiator) = Namespace::pair(mtu)?;
        Ok(Self {
            kind,
            host,
            initiator,
            image,
            target: None,
            _folder: folder,
        })
    }

    /// An initiator on the other host.
    pub(crate) fn client(&self) -> Result<Client> {
        self.initiator.enter(|| {
            let interface = Monitor::open()?.interface("ini0")?.context("no ini0")?;
            Ok(Client::open(&[interface])?)
        })
    }

    /// A card that sees what the target's host sees.
    pub(crate) fn tap(&self) -> Result<Nic> {
        Nic::open(&self.host, "tgt0")
    }

    pub(crate) fn own_mac(&self) -> Result<[u8; 6]> {
        self.initiator.mac("ini0")
    }

    pub(crate) fn target_mac(&self) -> Result<[u8; 6]> {
        self.host.mac("tgt0")
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        let maker = match self.kind {
            Kind::Ours => Maker::Aoede,
            Kind::Vblade => Maker::Vblade,
            Kind::Old => {
                let disk = fs::read(&self.image)?;
                self.target = Some(Target::Old(Old::start(&self.host, "tgt0", disk)?));
                return Ok(());
            }
        };
        let export = Export::new(&self.image, "tgt0");
        let process = export.start(&self.host, maker)?;
        self.target = Some(Target::Process(process));
        Ok(())
    }

    /// Ends the target in peace.
    pub(crate) fn stop(&mut self) -> Result<()> {
        match self.target.take() {
            Some(Target::Process(process)) => process.stop().map(drop),
            Some(Target::Old(old)) => {
                fs::write(&self.image, old.disk())?;
                old.stop()
            }
            None => Ok(()),
        }
    }

    /// Makes the disk larger. Ours notices; the others look at its size once only.
    pub(crate) fn grow(&mut self, sectors: usize) -> Result<()> {
        if let Some(Target::Old(old)) = &self.target {
            old.grow(sectors);
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(&self.image)?;
        file.set_len((sectors * SECTOR) as u64)?;
        if self.kind == Kind::Vblade {
            self.stop()?;
            self.start()?;
        }
        Ok(())
    }

    /// What the disk holds when the target has stopped.
    pub(crate) fn image(&self) -> Result<Vec<u8>> {
        ensure!(self.target.is_none(), "it may still write");
        Ok(fs::read(&self.image)?)
    }

    /// Takes or releases the disk for a stranger, by force.
    pub(crate) fn reserve_for_a_stranger(&self) -> Result<()> {
        let nic = Nic::open(&self.initiator, "ini0")?;
        let addressing = Addressing {
            to: self.target_mac()?,
            from: STRANGER,
            address: (1, 1),
        };
        let mut request = addressing.header(3, 0x0BAD);
        request.extend([2, 1]);
        request.extend(STRANGER);
        let answer = nic.exchange(&request, SOON)?.context("no response")?;
        ensure!(answer[14] == 0x18 && answer[24..32] == request[24..32]);
        Ok(())
    }
}
