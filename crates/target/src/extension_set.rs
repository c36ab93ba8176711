//! Which extensions: those that an export offers, or that an initiator has switched on (§7.2).

use core::fmt;

use aoede_wire::Extension;

/// A set of extensions. `reset` is always understood, and in no set.
///
/// ```
/// use aoede_target::ExtensionSet;
/// use aoede_wire::Extension;
///
/// let checksums: ExtensionSet = [Extension::Crc8x4, Extension::Crc32c].into_iter().collect();
/// assert!(checksums.contains(Extension::Crc32c) && !checksums.contains(Extension::Congestion));
/// assert_eq!(checksums.to_string(), "crc8x4 crc32c");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExtensionSet(u16);

impl ExtensionSet {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All that there are.
    pub const ALL: Self = Self(((1 << Extension::ALL.len()) - 1) & !RESET);

    /// These and one more.
    #[must_use]
    pub fn with(self, extension: Extension) -> Self {
        Self((self.0 | bit(extension)) & Self::ALL.0)
    }

    /// Whether an extension is one of them.
    pub fn contains(self, extension: Extension) -> bool {
        self.0 & bit(extension) != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }

    /// They, in the order of §7.2.
    pub fn iter(self) -> impl Iterator<Item = Extension> {
        let all = Extension::ALL.into_iter();
        all.filter(move |&extension| self.contains(extension))
    }
}

impl FromIterator<Extension> for ExtensionSet {
    fn from_iter<I: IntoIterator<Item = Extension>>(extensions: I) -> Self {
        extensions.into_iter().fold(Self::NONE, Self::with)
    }
}

/// Their names with spaces between them; nothing for none.
impl fmt::Display for ExtensionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, extension) in self.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(f, "{space}{extension}")?;
        }
        Ok(())
    }
}

/// The first of them all.
const RESET: u16 = 1;

fn bit(extension: Extension) -> u16 {
    let place = Extension::ALL.iter().position(|&other| other == extension);
    place.map_or(0, |place| 1 << place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_all_but_reset() {
        let all: ExtensionSet = Extension::ALL.into_iter().collect();
        assert_eq!(all, ExtensionSet::ALL);
        assert_eq!(all.iter().count(), 8);
        assert!(!all.contains(Extension::Reset) && !all.is_empty());
        assert!(ExtensionSet::NONE.with(Extension::Reset).is_empty());
    }
}
