//! The other end of ATA over Ethernet: an initiator as a library.
//!
//! - [`Session`] is one target as one initiator sees it: tags and repetitions, a congestion window,
//!   several paths, extensions, order. A pure state machine: frames, requests and time go in,
//!   frames and results come out.
//! - [`Discovery`] lists who is there, in the same way.
//! - [`Driver`] puts them on [`Port`](aoede_link::Port)s, without waiting.
//! - [`Client`] is a thread that waits, and [`Disk`] a handle with `read_at`, `write_at`, `flush`
//!   and `trim` that any number of threads may share. [`Queue`] has many requests under way from
//!   one thread.
//!
//! # What a session keeps to
//!
//! The rules of §15 of `docs/protocol.md`; section marks (§) in this crate refer to it. The most
//! important for who uses it:
//!
//! - Of two requests that overlap, of which one changes data, the second is sent when the first is
//!   finished. So a read sees all writes that were submitted before it, whole.
//! - A flush is sent when all earlier writes are finished.
//! - A write that was sent more than once keeps its sectors closed to other changes for
//!   [`Settings::linger`], unless the target itself drops late copies.
//! - A request without progress for [`Settings::give_up`] fails with [`Error::Silent`]; what a
//!   write left behind is not known then.
//!
//! # Limits
//!
//! | what | most | why |
//! |---|---|---|
//! | requests taken and not finished | [`Settings::requests`] | memory is taken at start |
//! | frames under way | [`Settings::in_flight`], the target's buffer count, the window | more are lost |
//! | ports, paths | [`MAX_PORTS`], [`MAX_PATHS`] | |
//! | targets that are listed | 1024 | |
//! | mask and reservation lists | 185 and 248 entries | a frame at an MTU of 1500 |
//!
//! # On real interfaces
//!
//! ```no_run
//! use aoede_initiator::{Client, Settings};
//! use aoede_link::Monitor;
//! use std::time::Duration;
//!
//! let eth0 = Monitor::open()?.interface("eth0")?.ok_or("there is no eth0")?;
//! let client = Client::open(&[eth0])?;
//! for found in client.discover(Duration::from_secs(1))? {
//!     println!("{} at {}", found.address, found.mac);
//! }
//! let disk = client.attach("e1.1".parse()?, Settings::default(), Duration::from_secs(10))?;
//! let mut sector = [0; 512];
//! disk.read_at(0, &mut sector)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Anywhere else
//!
//! Any [`Port`](aoede_link::Port) will do. Here a segment in memory has a session on one end and
//! this project's target on the other.
//!
//! ```
//! use aoede_initiator::{Driver, Event, Instant, Request, Settings, Wanted};
//! use aoede_link::{Port, sim::{SimNet, SimPort}};
//! use aoede_target::{
//!     Action, Arrival, DATA_OFFSET, Exports, Outcome, PortFacts, Queue, Target, TargetSettings,
//! };
//! use std::time::Duration;
//!
//! /// Answers what has come, from a disk of 1000 sectors.
//! fn serve(port: &mut SimPort, exports: &mut Exports, disk: &mut [u8]) {
//!     let facts = PortFacts { mac: port.interface().mac, mtu: 1500, max_sectors: 255 };
//!     let arrival = Arrival { now: Duration::ZERO, port: facts, seat: 0, queue: Queue::default() };
//!     let mut answers = Vec::new();
//!     while let Some(bytes) = port.receive() {
//!         let Ok((frame, mut selection)) = exports.screen(&facts, bytes) else { continue };
//!         while let Some((_, target)) = exports.next(&mut selection) {
//!             let mut out = vec![0; 1514];
//!             let len = match target.handle_frame(&arrival, &frame, &mut out) {
//!                 Outcome::Respond(len) => len,
//!                 // Nothing is negotiated here, so that no frame is held or has many reads.
//!                 Outcome::Ignore(_) | Outcome::Reads(_) | Outcome::Hold(_) => continue,
//!                 Outcome::Disk(admitted) => {
//!                     match admitted.action {
//!                         Action::Read { lba, sectors } => {
//!                             let data = &disk[lba as usize * 512..][..sectors as usize * 512];
//!                             out[DATA_OFFSET..][..data.len()].copy_from_slice(data);
//!                         }
//!                         Action::Write { lba, .. } => disk[lba as usize * 512..]
//!                             [..admitted.data.len()].copy_from_slice(admitted.data),
//!                         _ => {}
//!                     }
//!                     target.handle_done(admitted.request, Ok(()), &mut out)
//!                 }
//!             };
//!             out.truncate(len);
//!             answers.push(out);
//!         }
//!     }
//!     port.send(&answers);
//! }
//!
//! let net = SimNet::new(1);
//! let mut target_port = net.attach("target", 1500);
//! let mut exports = Exports::new();
//! exports.insert(Target::new(TargetSettings::new("e1.1".parse()?, 1000))?)?;
//! let mut disk = vec![0; 1000 * 512];
//!
//! let mut driver = Driver::new(vec![net.attach("initiator", 1500)]);
//! let settings = Settings { wanted: Wanted::NOTHING, ..Settings::default() };
//! let id = driver.attach("e1.1".parse()?, settings, 1);
//!
//! let mut now = Instant::START;
//! let mut results = 0;
//! let mut submitted = false;
//! while results < 2 {
//!     driver.turn(now);
//!     serve(&mut target_port, &mut exports, &mut disk);
//!     now += Duration::from_millis(1);
//!     let session = driver.session_mut(id).expect("it was not detached");
//!     if session.is_attached() && !submitted {
//!         submitted = true;
//!         session.submit(now, Request::Write { lba: 7, buffer: vec![0x5A; 5 * 512] })?;
//!         session.submit(now, Request::Read { lba: 9, buffer: vec![0; 512] })?;
//!     }
//!     while let Some((_, event)) = driver.poll_event() {
//!         if let Event::Done(done) = event {
//!             done.result?;
//!             assert!(done.buffer.is_some_and(|data| data.iter().all(|&byte| byte == 0x5A)));
//!             results += 1;
//!         }
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod alarm;
mod cache;
mod checksum;
mod client;
mod discover;
mod driver;
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
mod wait;
mod window;

pub use client::{Client, ClientError, Completion, Disk, DiskInfo, Queue};
pub use discover::{Discovery, Found};
pub use driver::{Driver, SessionId};
pub use error::{Error, Refusal, Refused, Registers};
pub use features::Features;
pub use identity::Identity;
pub use paths::{LocalPort, PortId};
pub use request::{Answer, Done, Request, RequestId};
pub use session::{Event, Notice, PathInfo, Session, Transmit};
pub use settings::{MAX_PATHS, MAX_PORTS, Settings, Wanted};
pub use stats::SessionStats;
pub use time::Instant;
pub use wait::{PollWaiter, Waiter};
