//! An AoE disk as an NBD server, so that QEMU, nbdcopy, fio and the kernel's nbd driver use it
//! without an AoE driver.
//!
//! Pure: [`protocol`], numbers and what an export offers; [`handshake`], from the greeting to the
//! first request; [`request`] and [`reply`].
pub mod handshake;
pub mod protocol;
pub mod reply;
pub mod request;
