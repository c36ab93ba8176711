//! Names of interfaces, with wildcards: those that match now, and those that will.

use std::fmt;

use crate::harmless;

/// Bytes of the longest name that the kernel gives an interface (`IFNAMSIZ` without the zero).
const MOST_NAME_BYTES: usize = 15;

/// A name of interfaces: `eth0`, or with wildcards `enp*`, `eth?`.
///
/// ```
/// use aoede::control::config::Pattern;
/// let pattern = Pattern::new("enp?s*")?;
/// assert!(pattern.matches("enp3s0") && !pattern.matches("eth0"));
/// # Ok::<(), aoede::control::config::PatternError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern(String);

/// Text that no interface has for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatternError;

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a name has 1 to {MOST_NAME_BYTES} characters without blanks, slashes and colons, and \
             of wildcards * and ?"
        )
    }
}

impl std::error::Error for PatternError {}

impl Pattern {
    /// A name or pattern.
    ///
    /// # Errors
    /// No interface can have such a name.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        // What the kernel refuses, and the wildcards that others have.
        let is_wrong = |c: char| {
            c.is_whitespace()
                || harmless::is_order(c)
                || matches!(c, '/' | ':' | ',' | '[' | ']' | '{' | '}')
        };
        let fixed = text.bytes().filter(|&byte| byte != b'*').count();
        if text.is_empty()
            || fixed > MOST_NAME_BYTES
            || text.len() > 2 * MOST_NAME_BYTES + 1
            || text.contains(is_wrong)
            || matches!(text, "." | "..")
        {
            return Err(PatternError);
        }
        Ok(Self(text.to_owned()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names one interface only.
    pub fn is_name(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether it means an interface of this name.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Goes back to the latest star only, so it takes the product of both lengths at most.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Behind the latest star, and what it has swallowed up to.
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = name.get(read) {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, read));
                at += 1;
            }
            Some(want) if *want == b'?' || want == byte => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((behind, swallowed)) = star else {
                    return false;
                };
                star = Some((behind, swallowed + 1));
                at = behind;
                read = swallowed + 1;
            }
        }
    }
    pattern.iter().skip(at).all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_others() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth0", "eth", false),
            ("eth?", "eth1", true),
            ("eth?", "eth", false),
            ("eth?", "eth10", false),
            ("*", "", true),
            ("*", "x", true),
            ("en*", "en", true),
            ("en*s*f0", "enp1s0f0", true),
            ("en*s*f0", "enp1s0f1", false),
            ("*a*b", "aab", true),
            ("*a*b", "aabc", false),
            ("*ab", "aab", true),
            ("", "", true),
            ("", "a", false),
        ] {
            let found = matches(pattern.as_bytes(), name.as_bytes());
            assert_eq!(found, expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        for text in [
            "eth0",
            "*",
            "enp0s31f6",
            "abcdefghijklmno",
            "abcdefghijklmno*",
            "eth0.5",
        ] {
            assert!(Pattern::new(text).is_ok(), "{text}");
        }
        for text in [
            "",
            ".",
            "..",
            "eth 0",
            "eth0,eth1",
            "a/b",
            "eth0:1",
            "eth[01]",
            "abcdefghijklmnop",
        ] {
            assert_eq!(Pattern::new(text), Err(PatternError), "{text}");
        }
        assert!(Pattern::new(&"*".repeat(32)).is_err());
    }

    #[test]
    fn names_are_told_from_patterns() {
        for (text, is_name) in [("eth0", true), ("eth*", false), ("eth?", false)] {
            assert_eq!(Pattern::new(text).unwrap().is_name(), is_name);
        }
    }
}
