//! What a daemon is told to do, and what it has to change for that.
//!
//! `config` reads a configuration file and finds what is wrong with it; `plan` compares what is
//! running with what is wanted. Both are pure: [`config::System`] is all that they know of this
//! host, and [`Host`] is it.
//!
//! `status` is what the daemon tells of itself, `rates` what two statuses tell of the time between
//! them, `metrics` the same as text for Prometheus. `api` answers at the control socket; `client`
//! asks there.

pub mod api;
pub mod client;
pub mod config;
mod file;
mod host;
pub mod metrics;
pub mod plan;
pub mod rates;
pub mod status;

pub(crate) use file::read_text;
pub use host::Host;
pub(crate) use host::{group_id, group_name};
