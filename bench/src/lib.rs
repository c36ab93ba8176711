//! What a measurement of an AoE target is made of.
//!
//! * [`load`]: an initiator that does nothing but ask, as fast as one core can, and counts.
//! * [`probe`]: an initiator that measures congestion, again and again.
//! * [`responder`]: a target without a disk, the limit of the packet path.
//! * [`Histogram`]: latencies, in constant memory.
//! * [`statistics`]: medians over rounds, and ratios within them.
//! * [`process`]: which core to run on, and how much of it was used.
//!
//! The program `aoede-bench` offers the first three on the command line; `cargo xtask bench` has
//! them, and other people's targets, do the same work by turns. Any target can be measured: of
//! this project only the frame codec and the Ethernet port are used.
#![forbid(unsafe_code)]

pub mod load;
pub mod probe;
pub mod process;
pub mod responder;
pub mod statistics;

use std::time::{Duration, Instant};

use anyhow::Context as _;
pub use aoede_histogram::{Histogram, Latencies};
use aoede_link::{Interface, Monitor};

/// How long an interface may take until frames pass.
const CARRIER: Duration = Duration::from_secs(5);

/// Looks an interface up and waits until frames pass.
///
/// # Errors
/// There is no such interface in this network namespace, or it stays down.
pub fn interface(name: &str) -> anyhow::Result<Interface> {
    let mut monitor = Monitor::open().context("cannot ask the kernel about interfaces")?;
    let deadline = Instant::now() + CARRIER;
    loop {
        let interface = monitor
            .interface(name)?
            .with_context(|| format!("there is no interface {name}"))?;
        if interface.up {
            return Ok(interface);
        }
        anyhow::ensure!(Instant::now() < deadline, "interface {name} is down");
        std::thread::sleep(Duration::from_millis(10));
    }
}
