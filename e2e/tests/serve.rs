//! The daemon with real sockets: what a configuration says is served, a reload touches only what
//! has changed, and what initiators were promised outlives all of it.

#![expect(clippy::indexing_slicing, reason = "what is too short fails the test")]

#[path = "serve/interfaces.rs"]
mod interfaces;
#[expect(dead_code, reason = "others look at the longest times too")]
#[path = "failover/load.rs"]
mod load;
#[path = "serve/many.rs"]
mod many;
#[path = "serve/reload.rs"]
mod reload;
#[path = "serve/scene.rs"]
mod scene;
#[path = "serve/start.rs"]
mod start;
#[path = "serve/state.rs"]
mod state;
