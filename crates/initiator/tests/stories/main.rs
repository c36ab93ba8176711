//! Stories of the initiator: a session, or several, against this project's target.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "tests: a panic is how they fail, and their numbers are small"
)]

mod basics;
mod bench;
mod client;
mod farewell;
mod flush;
mod golden;
mod network;
mod paths;
mod properties;
mod rules;
mod scarcity;
mod shared;
mod simulation;
mod target;
