//! What a target does, told as stories: frames and completions go in, outcomes come out. No
//! socket, no file, no thread. The bench checks of every response what must hold for all of them.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests: a panic is how they fail"
)]

mod ata;
mod bench;
mod config;
mod defects;
mod frames;
mod golden;
mod mask;
mod properties;
mod reserve;
