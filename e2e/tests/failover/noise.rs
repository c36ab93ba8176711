//! One path that loses and doubles frames, and flips their bits where a checksum was agreed on: one
//! in twenty of each, by chance, from a seed.

use anyhow::{Result, ensure};
use aoede_e2e::{
    aoe::ata,
    forwarder::{Direction, Fate, Frames, Noise, Rule},
};
use aoede_initiator::{Settings, Wanted};

use crate::{
    load::Load,
    scene::{SOON, Scene, settings},
};

/// A few seconds of load.
const REQUESTS: u64 = 1000;
const LOSS: Noise = Noise {
    drop: 50,
    double: 50,
    flip: 0,
};

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn lost_and_doubled_frames_cost_no_error() -> Result<()> {
    let scene = Scene::new(1)?;
    let disk = scene.attach(settings())?;
    scene.cables[0].disturb(LOSS, 6);
    let load = Load::start_amid_noise(&disk, 6);
    load.go_on(REQUESTS, 3 * SOON)?;
    eprintln!("{:?}", load.worst());
    scene.cables[0].calm();
    let passed = scene.cables[0].passed();
    ensure!(passed.dropped > 0 && passed.doubled > 0, "{passed:?}");
    let report = scene.end(load, disk)?;
    ensure!(report.failed == 0, "{} requests failed", report.failed);
    Ok(())
}

/// A checksum keeps every flipped bit from the data, both ways. A request that is damaged where no
/// checksum covers it, its opcode say, may fail. What comes before a checksum is agreed on, and the
/// agreement itself, is protected by nothing and spared here.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flipped_bits_harm_no_data_where_a_checksum_was_agreed_on() -> Result<()> {
    let scene = Scene::new(1)?;
    let settings = Settings {
        wanted: Wanted {
            crc32c: true,
            ..Wanted::default()
        },
        ..settings()
    };
    let disk = scene.attach(settings)?;
    ensure!(disk.info()?.paths[0].features.crc32c);
    for frames in [
        Frames::command(1),
        Frames::command(0x23),
        Frames::ata(&[ata::IDENTIFY]),
        Frames::going(Direction::ToInitiator).of(1),
        Frames::going(Direction::ToInitiator).of(0x23),
        // An identity, without and with a checksum.
        Frames::going(Direction::ToInitiator).long(36 + 512),
        Frames::going(Direction::ToInitiator).long(36 + 512 + 4),
    ] {
        scene.cables[0].add(Rule::new(frames, Fate::Spare));
    }
    scene.cables[0].disturb(Noise { flip: 50, ..LOSS }, 7);
    let load = Load::start_amid_noise(&disk, 7);
    load.go_on(REQUESTS, 3 * SOON)?;
    eprintln!("{:?}", load.worst());
    scene.cables[0].calm();
    let passed = scene.cables[0].passed();
    ensure!(passed.flipped > 0, "{passed:?}");
    ensure!(disk.info()?.stats.damaged > 0, "nothing was damaged");
    let report = scene.end(load, disk)?;
    eprintln!("{} requests failed", report.failed);
    // One in a hundred would be many.
    ensure!(report.failed < REQUESTS / 100);
    Ok(())
}
