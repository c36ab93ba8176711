//! The name by which multipath initiators know a disk.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_begin_with_the_address_and_fit() {
        let serial = serial(Address::new(65534, 254).unwrap());
        assert!(serial.starts_with("65534.254:"), "{serial}");
        assert!(serial.len() <= 20 && serial.is_ascii());
    }
}
