//! One suite for the initiator against every kind of target: vblade, ours with all that it speaks,
//! and the 2014 AoEde as it was captured. Real sockets; where a target lacks something the suite
//! says what the initiator does without it.

#![expect(
    clippy::indexing_slicing,
    reason = "a frame that is too short fails the test"
)]

#[path = "initiator/old.rs"]
mod old;
#[path = "initiator/scene.rs"]
mod scene;
#[path = "initiator/suite.rs"]
mod suite;

use anyhow::Result;
use aoede_initiator::{Settings, Wanted};
use scene::Kind;
use suite::{Expected, passes};

const OURS: Expected = Expected {
    payload: 17,
    buffers: 64,
    firmware: 0x5001,
    features: "coalesced_read coalesced_write_reply tag_inc congestion",
    trims: true,
    survives_mask_deletion: true,
};

const VBLADE: Expected = Expected {
    payload: 17,
    buffers: 16,
    firmware: 0x4019,
    features: "",
    trims: false,
    survives_mask_deletion: false,
};

const OLD: Expected = Expected {
    payload: 2,
    buffers: 64,
    firmware: 0x4015,
    features: "coalesced_read",
    trims: false,
    survives_mask_deletion: true,
};

/// Asks for a checksum too.
fn with(change: impl FnOnce(&mut Wanted)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings.wanted);
    settings
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ours_with_all_extensions() -> Result<()> {
    passes(Kind::Ours, 9000, &Settings::default(), &OURS)?;
    let payload = 2;
    passes(
        Kind::Ours,
        1500,
        &Settings::default(),
        &Expected { payload, ..OURS },
    )
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ours_without_extensions() -> Result<()> {
    let settings = with(|wanted| *wanted = Wanted::NOTHING);
    let features = "";
    passes(Kind::Ours, 9000, &settings, &Expected { features, ..OURS })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ours_with_crc8x4() -> Result<()> {
    let settings = with(|wanted| wanted.crc8x4 = true);
    let features = "coalesced_read coalesced_write_reply tag_inc crc8x4 congestion";
    // One sector fewer than without, at this MTU (§1).
    let payload = 15;
    let expected = Expected {
        payload,
        features,
        ..OURS
    };
    passes(Kind::Ours, 8228, &settings, &expected)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ours_with_crc32c() -> Result<()> {
    // Of both, this is the one in force.
    let settings = with(|wanted| (wanted.crc8x4, wanted.crc32c) = (true, true));
    let features = "coalesced_read coalesced_write_reply tag_inc crc32c congestion";
    passes(Kind::Ours, 9000, &settings, &Expected { features, ..OURS })
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn vblade() -> Result<()> {
    let settings = with(|wanted| wanted.crc32c = true);
    passes(Kind::Vblade, 9000, &settings, &VBLADE)?;
    let payload = 2;
    passes(
        Kind::Vblade,
        1500,
        &settings,
        &Expected { payload, ..VBLADE },
    )
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_original_protocol() -> Result<()> {
    let settings = with(|wanted| (wanted.crc8x4, wanted.crc32c) = (true, true));
    passes(Kind::Old, 1500, &settings, &OLD)
}

/// What it does to others it may do when there are none.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_original_protocol_for_one_initiator_alone() -> Result<()> {
    let settings = Settings {
        sole_initiator: true,
        ..Settings::default()
    };
    let features = "coalesced_read tag_inc congestion";
    passes(Kind::Old, 1500, &settings, &Expected { features, ..OLD })
}
