//! Many exports in one process.

use std::{fmt::Write as _, fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::wait_until;

use crate::scene::{DONE, MIB, Scene, discover, write};

const MANY: u64 = 256;
/// How long nobody asks. Not for anything to happen: nothing should.
const IDLE: Duration = Duration::from_secs(10);
/// How long the daemon may take to fall asleep.
const FALL_ASLEEP: Duration = Duration::from_secs(20);
/// For each export that nobody asks.
const MOST_KIB: u64 = 200;

fn exports(count: u64) -> String {
    let mut text = "workers = 2\n".to_owned();
    for number in 0..count {
        let (shelf, slot) = (1 + number / 16, number % 16);
        write!(
            text,
            "[[export]]\naddress = \"e{shelf}.{slot}\"\npath = \"@/{number}.img\"\n\
             interfaces = [\"tgt0\"]\n"
        )
        .unwrap_or_default();
    }
    text
}

/// Of a process: a line of its status, in KiB.
fn resident_kib(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}

/// How often its threads went to sleep of their own accord, the kernel's own left out: those whose
/// names begin so.
fn sleeps(process: u32, name: &str) -> Result<u64> {
    let name = format!("Name:\t{name}");
    let mut sleeps = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        if status.contains("Name:\tiou-") || !status.contains(&name) {
            continue;
        }
        let counts = status
            .lines()
            .filter_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        for count in counts {
            sleeps += count.trim().parse::<u64>()?;
        }
    }
    Ok(sleeps)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn many_idle_exports_cost_no_processor_time_and_little_memory() -> Result<()> {
    let scene = Scene::new(1, 9000)?;
    for number in 0..MANY {
        scene.folder.image(&format!("{number}.img"), MIB)?;
    }
    // With as many workers.
    scene.configure(&exports(2))?;
    let daemon = scene.start()?;
    let few = resident_kib(daemon.process.id())?;
    daemon.stop()?;

    scene.configure(&exports(MANY))?;
    let daemon = scene.start()?;
    let process = daemon.process.id();
    let nic = scene.nic(0)?;
    ensure!(discover(&nic, 1)?.len() == usize::try_from(MANY)?);
    let last = scene.path(&nic, 0, (16, 15))?;
    ensure!(write(&nic, last, 2, 0, 1)? == DONE);

    let mut before = sleeps(process, "")?;
    // It looks after itself every second, if at all.
    wait_until("it sleeps", FALL_ASLEEP, || {
        thread::sleep(Duration::from_millis(1200));
        let now = sleeps(process, "")?;
        Ok(std::mem::replace(&mut before, now) == now)
    })?;
    thread::sleep(IDLE);
    let woken = sleeps(process, "")? - before;
    ensure!(woken == 0, "woken {woken} times in {IDLE:?}");
    // To be looked at is nothing to look after the exports for.
    let before = sleeps(process, "worker-")?;
    scene.control(&["status", "--json"])?;
    thread::sleep(Duration::from_secs(3));
    let woken = sleeps(process, "worker-")? - before;
    ensure!(
        (2..=4).contains(&woken),
        "two workers woken {woken} times by a look"
    );
    let each = (resident_kib(process)? - few) / (MANY - 2);
    eprintln!("{each} KiB for each idle export");
    ensure!(each < MOST_KIB, "{each} KiB for each idle export");
    daemon.stop()
}
