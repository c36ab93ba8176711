//! A target and an initiator with one cable or two, each with the forwarder in its middle.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Maker, Namespace, Scratch, TargetProcess, forwarder::Forwarder, wait_until,
};
use aoede_initiator::{Client, Disk, PathInfo, Settings};
use aoede_link::{Interface, Monitor};
use rustix::process::Signal;

use crate::load::{Load, Report, SECTORS};

/// Longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Requests of the load in each phase of a story.
pub(crate) const SOME: u64 = 500;
const MTU: u32 = 9000;

/// The target is e1.1 on tgt0, and tgt1 if there are two; the initiator has ini0, and ini1.
pub(crate) struct Scene {
    pub(crate) cables: Vec<Forwarder>,
    pub(crate) host: Namespace,
    pub(crate) initiator: Namespace,
    export: Export,
    target: Option<TargetProcess>,
    image: PathBuf,
    _folder: Scratch,
}

impl Scene {
    pub(crate) fn new(paths: usize) -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", SECTORS * 512)?;
        let (host, initiator) = (Namespace::new()?, Namespace::new()?);
        let mut cables = Vec::new();
        let mut export = Export::new(&image, "tgt0");
        for number in 0..paths {
            let (there, here) = (format!("tgt{number}"), format!("ini{number}"));
            cables.push(Forwarder::between(
                (&host, &there),
                (&initiator, &here),
                MTU,
            )?);
            if number > 0 {
                export = export.and_on(&there);
            }
        }
        let target = export.start(&host, Maker::Aoede)?;
        Ok(Self {
            cables,
            host,
            initiator,
            export,
            target: Some(target),
            image,
            _folder: folder,
        })
    }

    /// Attaches the disk and waits until all that paths find out is found out.
    pub(crate) fn attach(&self, settings: Settings) -> Result<Disk> {
        let disk = self.initiator.enter(|| {
            let mut monitor = Monitor::open()?;
            let interfaces = (0..self.cables.len())
                .map(|number| {
                    let name = format!("ini{number}");
                    monitor.interface(&name)?.context(name)
                })
                .collect::<Result<Vec<Interface>>>()?;
            let client = Client::open(&interfaces)?;
            Ok(client.attach("e1.1".parse()?, settings, SOON)?)
        })?;
        self.settled(&disk)?;
        Ok(disk)
    }

    /// Waits until every path is in use, with the largest frames and the extensions it should have.
    pub(crate) fn settled(&self, disk: &Disk) -> Result<Duration> {
        wait_for(disk, self.cables.len(), 17)
    }

    /// Ends the target, in peace or not, and starts another one after a pause.
    pub(crate) fn restart(&mut self, signal: Signal, pause: Duration) -> Result<()> {
        let target = self.target.take().context("no target")?;
        if signal == Signal::KILL {
            target.kill()?;
        } else {
            target.stop_by(signal)?;
        }
        thread::sleep(pause);
        self.target = Some(self.export.start(&self.host, Maker::Aoede)?);
        Ok(())
    }

    /// Ends the load, and looks at every sector: through the disk, and when the target is stopped
    /// in the image.
    pub(crate) fn end(self, load: Load, disk: Disk) -> Result<Report> {
        let report = load.stop()?;
        ensure!(report.done > 0);
        disk.flush()?;
        let mut content = vec![0; usize::try_from(SECTORS)? * 512];
        disk.read_at(0, &mut content)?;
        report.verify(&content).context("read back")?;
        eprintln!("{} requests, {:?}", report.done, disk.info()?.stats);
        drop(disk);
        self.target.context("no target")?.stop()?;
        report
            .verify(&fs::read(&self.image)?)
            .context("the image")?;
        Ok(report)
    }
}

/// With all extensions. On a busy machine frames wait long in the queues of those who have no turn:
/// so copies are given longer than usual, and a proof of a frame size that failed is soon repeated.
pub(crate) fn settings() -> Settings {
    Settings {
        linger: Duration::from_millis(500),
        prove_again_after: Duration::from_secs(1),
        ..Settings::default()
    }
}

/// Waits until a path is given up, and so many are left.
pub(crate) fn wait_for_loss(disk: &Disk, left: usize) -> Result<Duration> {
    wait_until("a path is given up", SOON, || {
        let info = disk.info()?;
        Ok(info.paths.iter().filter(|path| path.ready).count() == left)
    })
}

/// Waits until so many paths are in use, with frames of so many sectors.
pub(crate) fn wait_for(disk: &Disk, paths: usize, sectors: u8) -> Result<Duration> {
    let good =
        |path: &&PathInfo| path.ready && path.sectors_per_frame == sectors && path.features.tags;
    let waited = wait_until("the paths are as they should be", SOON, || {
        let info = disk.info()?;
        Ok(info.paths.iter().filter(good).count() == paths)
    });
    waited.with_context(|| format!("{:#?}", disk.info()))
}
