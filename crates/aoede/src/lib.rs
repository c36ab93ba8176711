//! The program: the only place where wire, target, disk and link meet.
//!
//! Read [`worker`] first: it is the way of a frame from the ring to the disk and back. `service`
//! runs workers on real ports and files, `daemon` several of them by a configuration; `command` has
//! one file per subcommand. Commands that use
//! a disk on the network begin with `reach` and end with `output`.
#![forbid(unsafe_code)]

pub mod command;
pub mod control;
mod daemon;
mod escape;
mod freeze_signals;
mod harmless;
mod log;
pub mod nbd;
mod output;
pub mod page;
mod reach;
pub mod sandbox;
mod serial;
pub mod service;
pub mod size;
pub mod stop;
pub mod worker;
