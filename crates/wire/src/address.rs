//! Who is meant: MAC addresses, and the shelf and slot of an AoE device.
//!
//! Read next: `header.rs`, where both stand in a frame.

use core::fmt;
use core::str::FromStr;

/// EtherType of ATA over Ethernet, in the order people write it.
pub const ETHERTYPE: u16 = 0x88A2;

/// A 48-bit Ethernet address, first byte first on the wire.
///
/// ```
/// use aoede_wire::MacAddr;
/// let mac: MacAddr = "02:00:00:00:00:0a".parse()?;
/// assert!(mac.is_unicast());
/// assert_eq!(mac.to_string(), "02:00:00:00:00:0a");
/// # Ok::<(), aoede_wire::MacError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Every station of the segment.
    pub const BROADCAST: Self = Self([0xFF; 6]);
    /// No station at all.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether the address can belong to one station: neither multicast (the group bit of the
    /// first byte) nor all zeros.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 0x01 == 0 && self != Self::ZERO
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddr({self})")
    }
}

/// Text that is no MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacError;

impl fmt::Display for MacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MAC address is six hexadecimal bytes, such as 02:00:00:00:00:0a")
    }
}

impl core::error::Error for MacError {}

impl FromStr for MacAddr {
    type Err = MacError;

    /// Accepts six bytes of two hexadecimal digits with `:` or `-` between them, or twelve digits
    /// without separators.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let bytes = text.as_bytes();
        let (step, separator) = match (bytes.len(), bytes.get(2)) {
            (12, _) => (2, None),
            (17, Some(&c)) if c == b':' || c == b'-' => (3, Some(c)),
            _ => return Err(MacError),
        };
        let mut mac = [0; 6];
        for (out, part) in mac.iter_mut().zip(bytes.chunks(step)) {
            let &[high, low, ref rest @ ..] = part else {
                return Err(MacError);
            };
            if rest.first().is_some_and(|&c| Some(c) != separator) {
                return Err(MacError);
            }
            *out = hex_digit(high)? << 4 | hex_digit(low)?;
        }
        Ok(Self(mac))
    }
}

fn hex_digit(digit: u8) -> Result<u8, MacError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(MacError),
    }
}

/// Shelf and slot of an AoE device, written `e7.1` or `7.1`; the wire calls them major and minor.
///
/// The all-ones shelf and slot are wildcards: a request that carries them means every device.
///
/// ```
/// use aoede_wire::Address;
/// let address: Address = "e7.1".parse()?;
/// assert_eq!((address.shelf, address.slot), (7, 1));
/// assert!(Address::ALL.selects(address));
/// # Ok::<(), aoede_wire::AddressError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// 0 to 65534; 65535 means all shelves.
    pub shelf: u16,
    /// 0 to 254; 255 means all slots.
    pub slot: u8,
}

impl Address {
    /// The shelf number that means all shelves.
    pub const ANY_SHELF: u16 = 0xFFFF;
    /// The slot number that means all slots.
    pub const ANY_SLOT: u8 = 0xFF;
    /// Every device of the segment.
    pub const ALL: Self = Self {
        shelf: Self::ANY_SHELF,
        slot: Self::ANY_SLOT,
    };

    /// The address of one device.
    ///
    /// # Errors
    /// A wildcard in either place: it names no single device.
    pub fn new(shelf: u16, slot: u8) -> Result<Self, AddressError> {
        match (shelf, slot) {
            (Self::ANY_SHELF, _) => Err(AddressError::Shelf),
            (_, Self::ANY_SLOT) => Err(AddressError::Slot),
            _ => Ok(Self { shelf, slot }),
        }
    }

    /// Whether shelf or slot is a wildcard.
    pub fn is_wildcard(self) -> bool {
        self.shelf == Self::ANY_SHELF || self.slot == Self::ANY_SLOT
    }

    /// Whether a request to this address is meant for `device`; each wildcard counts on its own.
    pub fn selects(self, device: Self) -> bool {
        (self.shelf == device.shelf || self.shelf == Self::ANY_SHELF)
            && (self.slot == device.slot || self.slot == Self::ANY_SLOT)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shelf {
            Self::ANY_SHELF => f.write_str("e*")?,
            shelf => write!(f, "e{shelf}")?,
        }
        match self.slot {
            Self::ANY_SLOT => f.write_str(".*"),
            slot => write!(f, ".{slot}"),
        }
    }
}

/// Why a text or a pair of numbers is no device address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// Not of the form `e<shelf>.<slot>`.
    Form,
    /// The shelf is not 0 to 65534.
    Shelf,
    /// The slot is not 0 to 254.
    Slot,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "an address is a shelf and a slot, such as e1.1",
            Self::Shelf => "the shelf must be 0 to 65534 (65535 means all shelves)",
            Self::Slot => "the slot must be 0 to 254 (255 means all slots)",
        })
    }
}

impl core::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    /// Accepts `e7.1` and `7.1`.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let text = text.strip_prefix('e').unwrap_or(text);
        let (shelf, slot) = text.split_once('.').ok_or(AddressError::Form)?;
        for part in [shelf, slot] {
            if part.is_empty() || !part.bytes().all(|c| c.is_ascii_digit()) {
                return Err(AddressError::Form);
            }
        }
        let shelf = shelf.parse().map_err(|_| AddressError::Shelf)?;
        let slot = slot.parse().map_err(|_| AddressError::Slot)?;
        Self::new(shelf, slot)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn mac_addresses_parse_in_the_usual_spellings() {
        let mac = MacAddr([0x02, 0xAB, 0, 0, 0, 0x0F]);
        for text in ["02:ab:00:00:00:0f", "02-AB-00-00-00-0F", "02ab0000000f"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        for text in [
            "",
            "02",
            "02:ab:00:00:00",
            "02:ab:00:00:00:0g",
            "02:ab-00:00:00:0f",
            "02:ab:00:00:00:0f:",
            "2:ab:0:0:0:f",
            "02:ab:00:00:0:00f",
            "é2:ab:00:00:00:0",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacError), "{text}");
        }
        assert_eq!(mac.to_string(), "02:ab:00:00:00:0f");
    }

    #[test]
    fn only_single_stations_are_unicast() {
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!MacAddr::BROADCAST.is_unicast());
        assert!(!MacAddr::ZERO.is_unicast());
        assert!(!MacAddr([1, 0, 0x5E, 0, 0, 1]).is_unicast());
    }

    #[test]
    fn addresses_parse_and_name_what_is_wrong() {
        assert_eq!("e7.1".parse(), Address::new(7, 1));
        assert_eq!("65534.254".parse(), Address::new(65534, 254));
        for (text, error) in [
            ("", AddressError::Form),
            ("7", AddressError::Form),
            ("e7.", AddressError::Form),
            ("e+7.1", AddressError::Form),
            ("ee7.1", AddressError::Form),
            ("7.1.2", AddressError::Form),
            ("65535.1", AddressError::Shelf),
            ("99999999999.1", AddressError::Shelf),
            ("1.255", AddressError::Slot),
            ("1.256", AddressError::Slot),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }

    #[test]
    fn each_wildcard_counts_on_its_own() {
        let device = Address::new(7, 1).unwrap();
        for (shelf, slot, selected) in [
            (7, 1, true),
            (0xFFFF, 0xFF, true),
            (0xFFFF, 1, true),
            (7, 0xFF, true),
            (0xFFFF, 2, false),
            (8, 0xFF, false),
            (8, 1, false),
        ] {
            assert_eq!(Address { shelf, slot }.selects(device), selected);
        }
        assert_eq!(Address::ALL.to_string(), "e*.*");
    }
}
