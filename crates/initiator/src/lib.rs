//! The other end of ATA over Ethernet: an initiator as a library.

#![forbid(unsafe_code)]
mod checksum;
mod discover;
mod error;
mod features;
mod identity;
mod order;
mod paths;
mod request;
mod session;
mod settings;
mod stats;
mod table;
mod tags;
mod time;
mod window;

pub use discover::{Discovery, Found};
pub use error::{Error, Refusal, Refused, Registers};
pub use features::Features;
pub use identity::Identity;
pub use paths::{LocalPort, PortId};
pub use request::{Answer, Done, Request, RequestId};
pub use session::{Event, Notice, PathInfo, Session, Transmit};
pub use settings::{MAX_PATHS, MAX_PORTS, Settings, Wanted};
pub use stats::SessionStats;
pub use time::Instant;
