//! What a target does, told as stories: frames and completions go in, outcomes come out. No
//! socket, no file, no thread. The bench checks of every response what must hold for all of them.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests: a panic is how they fail"
)]

mod ata;
mod bench;
mod checksums;
mod coalesced;
mod config;
mod congestion;
mod defects;
mod extensions;
mod frames;
mod golden;
mod initiators;
mod mask;
mod properties;
mod reserve;
mod rights;
mod tags;
