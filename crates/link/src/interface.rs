//! What is known about a network interface.
#![forbid(unsafe_code)]

use aoede_wire::MacAddr;

/// A network interface as the kernel last described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number of the interface; stays when it is renamed.
    pub index: u32,
    /// Such as `eth0`.
    pub name: String,
    /// All zeros when the interface has none.
    pub mac: MacAddr,
    /// Bytes of the largest payload of a frame: everything after the 14-byte Ethernet header.
    pub mtu: u32,
    /// Switched on, with carrier and in service: frames pass.
    pub up: bool,
    /// Whether its frames are Ethernet frames; not so for loopback, tunnels and other links.
    pub ethernet: bool,
}
