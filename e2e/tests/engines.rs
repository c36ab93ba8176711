//! The program where a kernel's interface is forbidden to it: it takes the next, says so, and
//! serves all the same.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Log, Maker, Namespace, Nic, Scratch, TargetProcess,
    aoe::{Addressing, Response, ata},
};

const SOON: Duration = Duration::from_secs(5);
const NO_URING: &str = "using Linux AIO";
const NO_AIO: &str = "using blocking calls";

struct Scene {
    _folder: Scratch,
    host: Namespace,
    initiator: Namespace,
    export: Export,
}

impl Scene {
    fn new() -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", 1 << 20)?;
        let (host, initiator) = Namespace::pair(1500)?;
        Ok(Self {
            export: Export::new(&image, "tgt0"),
            _folder: folder,
            host,
            initiator,
        })
    }

    /// A write and a read through the target.
    fn works(&self, target: &TargetProcess) -> Result<()> {
        let nic = Nic::open(&self.initiator, "ini0")?;
        let e1_1 = Addressing {
            to: self.host.mac("tgt0")?,
            from: nic.mac(),
            address: (1, 1),
        };
        let data = [0x5A; 1024];
        let ask = |request: Vec<u8>| {
            let answer = nic.exchange(&request, SOON)?;
            answer.with_context(|| format!("no answer; the log:\n{}", text(target)))
        };
        let written = ask(e1_1.ata(1, ata::WRITE, 8, 2, &data))?;
        let registers = Response(&written).registers();
        ensure!(registers == (0, 0x40), "write: {registers:?}");
        let read = ask(e1_1.ata(2, ata::READ, 8, 2, b""))?;
        ensure!(Response(&read).data() == data, "read: {read:02x?}");
        Ok(())
    }
}

fn text(target: &TargetProcess) -> String {
    target.log().map(Log::text).unwrap_or_default()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_next_engine_is_taken_where_one_is_forbidden() -> Result<()> {
    let scene = Scene::new()?;
    let (setup, enter) = (libc::SYS_io_uring_setup, libc::SYS_io_uring_enter);
    for (forbidden, uring, aio) in [
        (&[][..], true, true),
        (&[setup], false, true),
        // Rings can be made, and are of no use.
        (&[enter], false, true),
        (&[setup, libc::SYS_io_setup], false, false),
        (&[enter, libc::SYS_io_submit], false, false),
    ] {
        let export = scene.export.clone().without(forbidden);
        let target = export.start(&scene.host, Maker::Aoede)?;
        scene.works(&target)?;
        let log = text(&target);
        ensure!(
            log.contains(NO_URING) != uring && log.contains(NO_AIO) != aio,
            "without {forbidden:?}:\n{log}"
        );
        target.stop()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_engine_that_was_asked_for_is_not_replaced() -> Result<()> {
    let scene = Scene::new()?;
    for (engine, forbidden, says) in [
        ("io_uring", libc::SYS_io_uring_enter, "--engine auto or aio"),
        ("aio", libc::SYS_io_submit, "--engine auto or blocking"),
    ] {
        let export = scene.export.clone().with(&["--engine", engine]);
        let finished = export.without(&[forbidden]).fail(&scene.host, SOON)?;
        ensure!(
            finished.code == 1 && finished.stderr.contains(says),
            "{engine}: exit code {}:\n{}",
            finished.code,
            finished.stderr
        );
    }
    Ok(())
}
