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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_may_not_get_is_escaped() {
        assert_eq!(escape(b"disk of host7, \"old\""), "disk of host7, \"old\"");
        assert_eq!(
            escape(b"C:\\\x1b[2J\0\xc3\xa9\x7f~ "),
            "C:\\\\\\x1b[2J\\x00\\xc3\\xa9\\x7f~ "
        );
    }
}
