//! The project's own initiator, whose repetitions are its own.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use aoede_e2e::{
    Maker,
    aoe::{Addressing, BROADCAST, Response},
    forwarder::{Direction, Fate, Frames, Rule, Watch},
};
use aoede_initiator::{Client, Disk, Settings, Wanted};
use aoede_link::Monitor;

use crate::scene::{Answer, LBA, SOON, Scene};

const OLD: u8 = 0x0d;
const NEW: u8 = 0xe7;
/// A tag for reads by hand.
const READ: u32 = 0x0bad_cafe;
/// Longer than a test needs from an answer to what it does then, on a busy machine too.
const LINGER: Duration = Duration::from_secs(1);

const TAGS: Wanted = Wanted {
    tags: true,
    ..Wanted::NOTHING
};

fn attach(scene: &Scene, wanted: Wanted, linger: Duration) -> Result<Disk> {
    let settings = Settings {
        wanted,
        linger,
        ..Settings::default()
    };
    scene.initiator.enter(|| {
        let ini0 = Monitor::open()?.interface("ini0")?.context("no ini0")?;
        let client = Client::open(&[ini0])?;
        Ok(client.attach("e1.1".parse()?, settings, SOON)?)
    })
}

/// The initiator writes; the forwarder keeps the first copy, and the repetition is answered.
fn write_twice(scene: &Scene, disk: &Disk) -> Result<Watch> {
    let late = scene.hold();
    disk.write_at(LBA, &[OLD; 512])?;
    ensure!(late.count()? == 1 && scene.fill(READ)? == OLD);
    Ok(late)
}

/// Every write of the sector that passes from now on.
fn watch_writes(scene: &Scene) -> Watch {
    let writes = Frames::writes().at(LBA);
    scene.forwarder.add(Rule::new(writes, Fate::Pass))
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_tags_and_without_care_the_initiator_loses_newer_data() -> Result<()> {
    for maker in [Maker::Vblade, Maker::Aoede] {
        let scene = Scene::new(maker)?;
        let disk = attach(&scene, Wanted::NOTHING, Duration::ZERO)?;
        let late = write_twice(&scene, &disk)?;
        disk.write_at(LBA, &[NEW; 512])?;
        ensure!(scene.fill(READ)? == NEW);
        ensure!(scene.release(&late, READ)? == Answer::Success);
        ensure!(scene.fill(READ)? == OLD, "{maker:?}");
        scene.stop(OLD)?;
    }
    Ok(())
}

/// §15, 10: the sectors of a write that was sent more than once stay closed to other changes. A
/// copy that is under way for longer than that is not provided for.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_tags_the_next_write_waits_until_copies_must_be_gone() -> Result<()> {
    for maker in [Maker::Vblade, Maker::Aoede] {
        let scene = Scene::new(maker)?;
        let disk = attach(&scene, Wanted::NOTHING, LINGER)?;
        let answers = Frames::going(Direction::ToInitiator);
        let answers = scene.forwarder.add(Rule::new(answers, Fate::Pass));
        let late = write_twice(&scene, &disk)?;
        let next = watch_writes(&scene);
        let newer = {
            let disk = disk.clone();
            thread::spawn(move || disk.write_at(LBA, &[NEW; 512]))
        };
        // Others may pass meanwhile.
        disk.write_at(LBA + 1, &[NEW; 512])?;
        ensure!(next.count()? == 0, "it did not wait");
        ensure!(scene.release(&late, READ)? == Answer::Success);
        newer.join().map_err(|_| anyhow!("the writer died"))??;
        ensure!(scene.fill(READ)? == NEW, "{maker:?}");

        let old_tag = Response(&late.met()?[0].frame).tag();
        let answers = answers.met()?;
        let mut answers = answers.iter();
        let answered = answers.find(|met| Response(&met.frame).tag() == old_tag);
        let waited = next.met()?[0].at - answered.context("no answer passed")?.at;
        // The initiator looks at the clock before it looks at its frames.
        ensure!(waited > LINGER / 2, "only {waited:?}");
        drop(disk);
        scene.stop(NEW)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn with_tags_the_next_write_goes_at_once_and_stays() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    // Were the initiator to wait, this would take an hour.
    let disk = attach(&scene, TAGS, Duration::from_secs(3600))?;
    let late = write_twice(&scene, &disk)?;
    disk.write_at(LBA, &[NEW; 512])?;
    ensure!(scene.release(&late, READ)? == Answer::Success);
    ensure!(scene.fill(READ)? == NEW);
    // The answer to the late copy was no answer to anything.
    ensure!(disk.info()?.stats.late > 0);
    drop(disk);
    scene.stop(NEW)
}

/// §15, 8: an announcement says that the target may have forgotten. A fresh window would take the
/// copy for new, so the initiator waits with it until all copies must be gone, and then leaps.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn before_it_negotiates_again_the_initiator_waits_until_copies_must_be_gone() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    // Longer than the second that lies between two negotiations anyway.
    let disk = attach(&scene, TAGS, 3 * LINGER)?;
    let writes = watch_writes(&scene);
    let late = write_twice(&scene, &disk)?;
    disk.write_at(LBA, &[NEW; 512])?;
    let tables = scene
        .forwarder
        .add(Rule::new(Frames::command(0x23), Fate::Pass));
    scene
        .forwarder
        .inject(Direction::ToInitiator, &announcement(&scene))?;
    ensure!(scene.release(&late, READ)? == Answer::Success);
    ensure!(tables.count()? == 0, "it did not wait");
    tables.wait(1, SOON)?;
    ensure!(scene.fill(READ)? == NEW);

    disk.write_at(LBA, &[OLD; 512])?;
    // On a busy machine any of them is repeated, with its tag.
    let met = writes.met()?;
    let mut tags: Vec<_> = met.iter().map(|met| Response(&met.frame).tag()).collect();
    let old = tags[0];
    let copies = met.iter().zip(&tags).filter(|(_, tag)| **tag == old);
    let repetition = copies.map(|(met, _)| met.at).nth(1);
    let waited = tables.met()?[0].at - repetition.context("no repetition passed")?;
    ensure!(waited > 2 * LINGER, "only {waited:?}");
    tags.dedup();
    let [_, newer, newest] = tags[..] else {
        anyhow::bail!("not three writes: {tags:x?}");
    };
    let leap = newest.wrapping_sub(newer);
    ensure!((65_536..70_000).contains(&leap), "by {leap} only");
    drop(disk);
    scene.stop(OLD)
}

/// What a target says unasked: who it is (§4.4).
fn announcement(scene: &Scene) -> Vec<u8> {
    let announcer = Addressing {
        to: BROADCAST,
        from: scene.e1_1.to,
        ..scene.e1_1
    };
    let mut frame = announcer.header(1, 0);
    frame[14] |= 0x08;
    // Buffer count, firmware, sectors in a frame, version, no config string.
    frame.extend([0, 64, 0x50, 0x01, 2, 0x10, 0, 0]);
    frame.resize(60, 0);
    frame
}
