//! A configuration's text, from its file.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::size::Size;

/// Most that a configuration may have: some thousand exports.
const MOST_BYTES: u64 = 4 << 20;

/// Reads the text of a configuration.
///
/// # Errors
/// With the file's name: what the system said; it is too large; it is no UTF-8, and in which line.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    let name = path.display();
    let bytes = read(path).with_context(|| name.to_string())?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..valid).unwrap_or_default();
        let line = before.split(|&byte| byte == b'\n').count();
        anyhow::anyhow!("{name}:{line}: this is no UTF-8; save the file in that encoding")
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more tells whether that was all.
    File::open(path)?
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        bail!("larger than {}: that is no configuration", Size(MOST_BYTES));
    }
    Ok(bytes)
}
