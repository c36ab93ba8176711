//! The control socket, the commands that use it, the status page and the metrics, with a daemon
//! that only answers.
#![expect(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

mod api;
mod commands;
mod fake;
mod metrics;
mod page;
