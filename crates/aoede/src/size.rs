//! Sizes as people write them: `4k`, `10GiB`, `1048576`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes. Suffixes are powers of 1024 in every spelling: `k`, `K`, `KB` and `KiB` all
/// mean 1024, as sectors and blocks are counted.
///
/// ```
/// use aoede::size::Size;
/// assert_eq!("4k".parse(), Ok(Size(4096)));
/// assert_eq!("10GiB".parse(), Ok(Size(10 << 30)));
/// assert_eq!(Size(10 << 30).to_string(), "10 GiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Text that is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeError;

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a size is a whole number with an optional suffix k, M, G, T or P, such as 4k or 10GiB",
        )
    }
}

impl std::error::Error for SizeError {}

const UNITS: [(&str, u32); 5] = [("p", 50), ("t", 40), ("g", 30), ("m", 20), ("k", 10)];

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, suffix) = text.split_at(end);
        let number: u64 = digits.parse().map_err(|_| SizeError)?;
        let suffix = suffix.trim_start().to_ascii_lowercase();
        let shift = match suffix.as_str() {
            "" | "b" => 0,
            _ => UNITS
                .iter()
                .find(|(unit, _)| {
                    suffix
                        .strip_prefix(unit)
                        .is_some_and(|rest| matches!(rest, "" | "b" | "ib"))
                })
                .map(|&(_, shift)| shift)
                .ok_or(SizeError)?,
        };
        let bytes = number.checked_mul(1 << shift).ok_or(SizeError)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Size {
    /// In the largest unit that is not above it, with one decimal, cut, unless it is whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            let one = 1_u64 << shift;
            if self.0 < one {
                continue;
            }
            let unit = unit.to_ascii_uppercase();
            let tenths = (u128::from(self.0) * 10) >> shift;
            return match (self.0 % one, tenths % 10) {
                (0, _) => write!(f, "{} {unit}iB", self.0 >> shift),
                (_, tenth) => write!(f, "{}.{tenth} {unit}iB", tenths / 10),
            };
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_in_every_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("4k", 4096),
            ("4K", 4096),
            ("4KB", 4096),
            ("4 KiB", 4096),
            ("10GiB", 10 << 30),
            ("2t", 2 << 40),
            ("1P", 1 << 50),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in [
            "",
            "k",
            "-1",
            "1.5G",
            "4x",
            "4kk",
            "4kbi",
            "99999999999P",
            "1 G B",
        ] {
            assert_eq!(text.parse::<Size>(), Err(SizeError), "{text}");
        }
    }

    #[test]
    fn sizes_print_short_and_true() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (4096, "4 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
