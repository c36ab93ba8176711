//! What a daemon is told to do, and what it has to change for that.
//!
//! `config` reads a configuration file and finds what is wrong with it; `plan` compares what is
//! running with what is wanted. Both are pure: [`config::System`] is all that they know of this
//! host, and [`Host`] is it.

pub mod api;
pub mod config;
mod host;
pub mod plan;
pub mod status;

pub use host::Host;
