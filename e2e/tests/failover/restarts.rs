//! One path, and something happens to the target or to the size of frames. The load may stand
//! still, but nothing fails.

use std::time::Duration;

use anyhow::{Result, ensure};
use aoede_e2e::wait_until;
use aoede_initiator::Disk;
use rustix::process::Signal;

use crate::{
    load::Load,
    scene::{SOME, SOON, Scene, settings, wait_for, wait_for_loss},
};

const SECOND: Duration = Duration::from_secs(1);

fn negotiations(disk: &Disk) -> Result<u64> {
    Ok(disk.info()?.stats.negotiations)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_target_that_is_restarted_costs_no_error() -> Result<()> {
    let mut scene = Scene::new(1)?;
    let disk = scene.attach(settings())?;
    let load = Load::start(&disk, 2);
    for (signal, pause) in [
        (Signal::TERM, Duration::ZERO),
        (Signal::KILL, Duration::ZERO),
        (Signal::KILL, SECOND),
        (Signal::TERM, 3 * SECOND),
    ] {
        load.go_on(SOME, SOON)?;
        let before = negotiations(&disk)?;
        load.worst();
        scene.restart(signal, pause)?;
        load.go_on(SOME, SOON)?;
        eprintln!("{signal:?} and {pause:?}: {:?}", load.worst());
        // The new process knows of no agreement. If the last one is young, this takes a second.
        wait_until("extensions are negotiated anew", SOON, || {
            Ok(negotiations(&disk)? > before)
        })?;
        scene.settled(&disk)?;
    }
    scene.end(load, disk).map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_only_path_may_go_down_and_up_again() -> Result<()> {
    let scene = Scene::new(1)?;
    let disk = scene.attach(settings())?;
    let load = Load::start(&disk, 3);
    for (host, name) in [(&scene.host, "tgt0"), (&scene.initiator, "ini0")] {
        load.go_on(SOME, SOON)?;
        host.ip(&format!("link set {name} down"))?;
        wait_for_loss(&disk, 0)?;
        load.worst();
        host.ip(&format!("link set {name} up"))?;
        load.go_on(SOME, SOON)?;
        eprintln!("{name} is up again: {:?}", load.worst());
        scene.settled(&disk)?;
    }
    scene.end(load, disk).map(drop)
}

/// In the middle, where nobody is told: only that long frames stay unanswered.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_path_that_narrows_is_found_out_and_so_is_its_widening() -> Result<()> {
    let scene = Scene::new(1)?;
    let disk = scene.attach(settings())?;
    let load = Load::start(&disk, 4);
    load.go_on(SOME, SOON)?;
    // 16 sectors need 36 + 16 × 512 bytes, 14 of them in the Ethernet header; 9 need 4644.
    for (mtu, sectors) in [(1500, 2), (8214, 16), (4630, 9), (9000, 17)] {
        scene.cables[0].set_mtu(mtu)?;
        let waited = wait_for(&disk, 1, sectors)?;
        load.go_on(SOME, SOON)?;
        eprintln!("MTU {mtu} after {waited:?}: {:?}", load.worst());
    }
    ensure!(disk.info()?.stats.fallbacks > 0);
    scene.end(load, disk).map(drop)
}

/// At either end, where the kernel tells: the target announces it, the initiator is told.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interface_may_change_its_mtu_under_load() -> Result<()> {
    let scene = Scene::new(1)?;
    let disk = scene.attach(settings())?;
    let load = Load::start(&disk, 5);
    for (host, name) in [(&scene.host, "tgt0"), (&scene.initiator, "ini0")] {
        for (mtu, sectors) in [(1500, 2), (9000, 17)] {
            load.go_on(SOME, SOON)?;
            host.ip(&format!("link set {name} mtu {mtu}"))?;
            wait_for(&disk, 1, sectors)?;
            load.go_on(SOME, SOON)?;
            eprintln!("{name} at {mtu}: {:?}", load.worst());
        }
    }
    scene.end(load, disk).map(drop)
}
