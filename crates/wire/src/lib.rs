//! ATA-over-Ethernet on the wire.
#![no_std]
#![forbid(unsafe_code)]

mod address;

pub use address::{Address, AddressError, ETHERTYPE, MacAddr, MacError};
