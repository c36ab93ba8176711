//! By what initiators know a disk, and its write cache.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use aoede_wire::Address;

/// The serial number of an export: its address and this host's name, so that it is the same on
/// every interface and tells multipath initiators which paths lead to one disk. At most 20 ASCII
/// characters.
pub(crate) fn serial(address: Address) -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let mut serial = format!("{}.{}:{host}", address.shelf, address.slot);
    serial.retain(|c| c.is_ascii_graphic());
    serial.truncate(20);
    serial
}

/// A number for a write cache that begins empty, unlike that of any other, and not 0 (protocol.md
/// §3.6).
pub(crate) fn cache_number() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cache_has_a_number_of_its_own() {
        assert_ne!(cache_number(), cache_number());
    }

    #[test]
    fn serials_begin_with_the_address_and_fit() {
        let serial = serial(Address::new(65534, 254).unwrap());
        assert!(serial.starts_with("65534.254:"), "{serial}");
        assert!(serial.len() <= 20 && serial.is_ascii());
    }
}
