//! A target, a cable with the forwarder in its middle, and an initiator's card.

use std::{os::unix::fs::FileExt as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Maker, Namespace, Nic, Scratch, TargetProcess,
    aoe::{Addressing, Response, ata},
    forwarder::{Fate, Forwarder, Frames, Rule, Watch},
};

/// Longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// The sector that everything is about.
pub(crate) const LBA: u64 = 8;

/// The target is e1.1 at an MTU of 1500.
pub(crate) struct Scene {
    pub(crate) forwarder: Forwarder,
    pub(crate) nic: Nic,
    pub(crate) e1_1: Addressing,
    pub(crate) initiator: Namespace,
    target: TargetProcess,
    image: PathBuf,
    _folder: Scratch,
    _host: Namespace,
}

impl Scene {
    pub(crate) fn new(maker: Maker) -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", 16_384 * 512)?;
        let (host, initiator) = (Namespace::new()?, Namespace::new()?);
        let forwarder = Forwarder::between((&host, "tgt0"), (&initiator, "ini0"), 1500)?;
        let target = Export::new(&image, "tgt0").start(&host, maker)?;
        let nic = Nic::open(&initiator, "ini0")?;
        let e1_1 = Addressing {
            to: host.mac("tgt0")?,
            from: nic.mac(),
            address: (1, 1),
        };
        Ok(Self {
            forwarder,
            nic,
            e1_1,
            initiator,
            target,
            image,
            _folder: folder,
            _host: host,
        })
    }

    /// Has the next write of the sector held back.
    pub(crate) fn hold(&self) -> Watch {
        let next = Rule::new(Frames::writes().at(LBA), Fate::Hold).once();
        self.forwarder.add(next)
    }

    /// Sends a write of one sector.
    pub(crate) fn send_write(&self, tag: u32, fill: u8) -> Result<()> {
        self.nic.send(&self.write(tag, fill))
    }

    /// Writes one sector, which must succeed.
    pub(crate) fn put(&self, tag: u32, fill: u8) -> Result<()> {
        let answer = self.ask(&self.write(tag, fill))?;
        ensure!(Response(&answer).succeeded(), "{answer:02x?}");
        Ok(())
    }

    fn write(&self, tag: u32, fill: u8) -> Vec<u8> {
        self.e1_1.ata(tag, ata::WRITE, LBA, 1, &[fill; 512])
    }

    /// What the sector holds, when the target has dealt with all that was sent before.
    pub(crate) fn fill(&self, tag: u32) -> Result<u8> {
        let answer = self.ask(&self.e1_1.ata(tag, ata::READ, LBA, 1, b""))?;
        let data = Response(&answer).data();
        let fill = *data.first().context("no data")?;
        ensure!(data == [fill; 512], "two writes in one sector: {data:02x?}");
        Ok(fill)
    }

    /// Asks for extensions, all of which must be accepted.
    pub(crate) fn negotiate(&self, table: &[u8]) -> Result<()> {
        let mut request = self.e1_1.header(0x23, 0x7000);
        request.extend(u16::try_from(table.len())?.to_le_bytes());
        request.extend(table);
        let answer = self.ask(&request)?;
        let accepted = answer.get(26..26 + table.len()).context("too short")?;
        ensure!(accepted == table.to_ascii_uppercase(), "{answer:02x?}");
        Ok(())
    }

    pub(crate) fn ask(&self, request: &[u8]) -> Result<Vec<u8>> {
        let what = || format!("no response to {:02x?}", request.get(14..36));
        self.nic.exchange(request, SOON)?.with_context(what)
    }

    /// Releases a held write and returns how it is answered: with success, or not at all. A read
    /// that is answered shows that the target has seen the write.
    pub(crate) fn release(&self, late: &Watch, read_tag: u32) -> Result<Answer> {
        while self.nic.try_receive()?.is_some() {}
        let tags: Vec<_> = late.met()?.iter().map(|met| tag(&met.frame)).collect();
        late.release()?;
        self.nic
            .send(&self.e1_1.ata(read_tag, ata::READ, LBA, 1, b""))?;
        let mut answer = Answer::Silence;
        loop {
            let frame = self
                .nic
                .receive(SOON)?
                .context("the read is not answered")?;
            let response = Response(&frame);
            if response.tag() == read_tag {
                return Ok(answer);
            }
            if response.command() == 0 && tags.contains(&response.tag()) {
                ensure!(response.succeeded(), "{frame:02x?}");
                answer = Answer::Success;
            }
        }
    }

    /// Stops the target; the sector in the file must hold this.
    pub(crate) fn stop(self, fill: u8) -> Result<()> {
        self.target.stop()?;
        let mut sector = [0; 512];
        std::fs::File::open(&self.image)?.read_exact_at(&mut sector, LBA * 512)?;
        ensure!(sector == [fill; 512], "the file holds {:02x}", sector[0]);
        self.forwarder.stop().map(drop)
    }
}

/// How a late copy is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// As if it were new, or as a repetition of what was done.
    Success,
    /// It is stale.
    Silence,
}

fn tag(frame: &[u8]) -> u32 {
    Response(frame).tag()
}
