//! Bytes as text: a config string may hold any bytes (§4), a terminal should not get all of them.
//!
//! Printable ASCII stands for itself, `\\` for a backslash, `\xNN` for any byte. What is printed so
//! can be given back to `aoede set`.

/// Bytes as printable ASCII.
pub(crate) fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| escape_byte(byte)).collect()
}

fn escape_byte(byte: u8) -> String {
    match byte {
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    }
}

/// The bytes of a text with escapes.
///
/// # Errors
/// A backslash that begins no escape, with what to write instead.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (byte, behind) = escape_in(rest).ok_or_else(|| {
            r"after a backslash comes x and two hexadecimal digits, as in \x1b, or another backslash"
                .to_owned()
        })?;
        bytes.push(byte);
        rest = behind;
    }
    Ok(bytes)
}

/// The byte behind a backslash, and what follows.
fn escape_in(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match text {
        [b'\\', rest @ ..] => Some((b'\\', rest)),
        [b'x', high, low, rest @ ..] => {
            let value = digit(*high)? << 4 | digit(*low)?;
            Some((u8::try_from(value).ok()?, rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_given_back() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&escape(&every)), Ok(every));
        assert_eq!(unescape(r"a\x1B\\x1b\x00"), Ok(b"a\x1b\\x1b\0".to_vec()));
        assert_eq!(unescape("é"), Ok(vec![0xC3, 0xA9]));
        for wrong in [r"\", r"\x", r"\x1", r"\x1g", r"\n", r"a\", r"\X1b", r"\x+1"] {
            assert!(unescape(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_terminal_may_not_get_is_escaped() {
        assert_eq!(escape(b"disk of host7, \"old\""), "disk of host7, \"old\"");
        assert_eq!(
            escape(b"C:\\\x1b[2J\0\xc3\xa9\x7f~ "),
            "C:\\\\\\x1b[2J\\x00\\xc3\\xa9\\x7f~ "
        );
    }
}
