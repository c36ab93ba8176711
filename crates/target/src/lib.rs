//! What an ATA-over-Ethernet target does with a frame: who may ask, and what it means.
//!
//! A pure state machine. It holds no data, reads no clock, does no I/O and writes no log: frames
//! and completions go in, responses and disk requests come out, and what stays unanswered is
//! counted by its reason. Section marks (§) refer to `docs/protocol.md` of this project.
//!
//! # Order of calls
//!
//! ```text
//! bytes ─▶ Exports::screen ─▶ Exports::next ─▶ Target::handle_frame ─▶ Respond: send it
//!             (checks 1–4)    (each export       (checks 5–12)     ├▶ Ignore: counted, nothing to do
//!                              that is meant)                      ├▶ Disk: carry it out, then
//!                                                                  │  Target::handle_done: send it
//!                                                                  ├▶ Reads: Target::next_read makes
//!                                                                  │  one of these of each
//!                                                                  └▶ Hold: Exports::hold, and
//!                                                                     Exports::poll_response later
//! ```
//!
//! Disk requests may be finished in any order, but each [`Request`] is ended exactly once. The
//! data of a read never passes through here: the disk puts it into the response frame, from
//! [`DATA_OFFSET`] on, and [`handle_done`](Target::handle_done) writes what belongs before it, and
//! behind it the checksum if there is one.
//!
//! Time comes in with each frame ([`Arrival`]). What is held is due at
//! [`Exports::poll_timeout`]; then [`Exports::handle_timeout`] and [`Exports::poll_response`].
//! Write responses that are ready together may share a frame: [`WriteReplies`].
//!
//! The owner also tells a target its new size ([`set_sectors`](Target::set_sectors)) and what else
//! changes while it is served, asks whether its config string or mask list changed
//! ([`take_config_changed`](Target::take_config_changed),
//! [`take_mask_changed`](Target::take_mask_changed)) and sends its
//! [announcements](Target::announcement).
//!
//! # Limits
//!
//! | what | most | why |
//! |---|---|---|
//! | sectors of an export | 2^48 − 1 | IDENTIFY words 100–102 |
//! | sectors in a frame | 255, MTU, the worker's buffers | the count byte; [`PortFacts`] |
//! | config string | 1024 bytes | the specification |
//! | mask list | 255, or what a response on the editing port holds | the count byte |
//! | reservation | 255, or what a response on the asking port holds | the count byte |
//! | requests in progress | none here | the worker's buffers are the limit |
//! | initiators | 1024 for each export, the oldest makes room | memory: 400 bytes each, 8 KiB more with a tag window |
//! | held responses | 1024 and 1 MiB in all | memory, and what the receive ring has room for |
//!
//! Everything else is allocated when a target is made. Memory for an initiator is taken when it is
//! heard of, for extensions when they are negotiated, and for held responses while there are any;
//! other frames allocate nothing.
//!
//! ```
//! use std::time::Duration;
//! use aoede_target::{Action, Arrival, Exports, Outcome, PortFacts, Target, TargetSettings};
//! use aoede_wire::{Address, Ata, Body, Header, MacAddr, Opcode};
//!
//! let address = Address::new(1, 1)?;
//! let mut exports = Exports::new();
//! exports.insert(Target::new(TargetSettings::new(address, 16384))?)?;
//! let port = PortFacts { mac: MacAddr([2, 0, 0, 0, 0, 0x0A]), mtu: 1500, max_sectors: 16 };
//!
//! let header = Header::request(MacAddr([2, 0, 0, 0, 0, 0x0B]), port.mac, address);
//! let mut bytes = [0; 60];
//! let len = Body::Ata(Ata::request(Opcode::ReadExt, 8, 2)).encode(header, &mut bytes)?;
//!
//! let arrival = Arrival::new(Duration::ZERO, port);
//! let mut out = [0; 1514];
//! let (frame, mut selection) = exports.screen(&port, &bytes[..len])?;
//! while let Some((_, target)) = exports.next(&mut selection) {
//!     match target.handle_frame(&arrival, &frame, &mut out) {
//!         Outcome::Disk(admitted) => {
//!             assert_eq!(admitted.action, Action::Read { lba: 8, sectors: 2 });
//!             // The disk puts two sectors into out[DATA_OFFSET..], then:
//!             let len = target.handle_done(admitted.request, Ok(()), &mut out);
//!             assert_eq!(len, 36 + 2 * 512);
//!         }
//!         Outcome::Respond(len) => println!("send {len} bytes"),
//!         Outcome::Reads(_) | Outcome::Hold(_) => unreachable!("nobody negotiated that"),
//!         Outcome::Ignore(reason) => println!("{reason}"),
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod access;
mod ata;
mod config_string;
mod congestion;
mod exports;
mod extension;
mod extension_set;
mod initiator;
mod peers;
mod port;
mod reads;
mod request;
mod rights;
mod settings;
mod stats;
mod tag_window;
mod target;
mod write_replies;

pub use ata::Action;
pub use congestion::{HeldResponse, Hold};
pub use exports::{AddressTaken, Exports, Selection};
pub use extension_set::ExtensionSet;
pub use initiator::{Duplicates, Initiator};
pub use port::{Arrival, PortFacts, Queue};
pub use reads::Reads;
pub use request::{DATA_OFFSET, Request};
pub use rights::{Access, Who};
pub use settings::{
    ExtensionReset, MAX_SECTORS, MIN_BUFFER_COUNT, SettingsError, TargetSettings, Trim, WriteCache,
};
pub use stats::{IgnoreReason, Ignored, TargetStats};
pub use target::{Admitted, DeviceFailure, FIRMWARE_VERSION, Outcome, Target};
pub use write_replies::{MergeKey, WriteReplies, merge_write_response};
