//! An AoE disk as an NBD server on a Unix socket, so that QEMU, nbdcopy, fio and the kernel's nbd
//! driver use it without an AoE driver.
//!
//! Pure: [`protocol`], numbers and what an export offers; [`handshake`], from the greeting to the
//! first request; [`request`] and [`reply`]. Around them [`server`] accepts clients at a
//! [`socket`], a [`service`] negotiates with each, and a [`connection`] brings its requests to a
//! [`disk`] and replies back.
//!
//! Order is the disk's affair: of requests that overlap the session with the target sends the second
//! when the first is finished, and its flush covers the writes of all connections. Zeros that are
//! written are several requests there, one after the other: another request that overlaps them may
//! come between. NBD leaves that to its clients, who wait for a reply where order matters.
//!
//! | limit | |
//! |---|---|
//! | clients at once | as many as [`server::run`] is told |
//! | memory of a client's requests | [`connection::WINDOW`], or one request of [`protocol::MAX_PAYLOAD`] |
//! | requests of a client under way | 128: each takes [`connection::LEAST_COST`] of that |
//! | an option of the negotiation | [`handshake::MAX_OPTION`] |

pub mod connection;
pub mod disk;
pub mod handshake;
pub mod protocol;
pub mod reply;
pub mod request;
mod seldom;
pub mod server;
pub mod service;
pub mod socket;
mod steps;
