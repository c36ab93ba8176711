//! What single initiators may do with an export: set by its operator, and nobody else.
//!
//! The MAC mask list (`access.rs`) decides who is heard at all, and initiators can change it; these
//! lists decide what those who are heard may do (§5.1).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use aoede_wire::MacAddr;

/// Some initiators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// All of them.
    #[default]
    Everyone,
    /// These, or nobody.
    These(BTreeSet<MacAddr>),
}

impl Who {
    /// Whether it is one of them.
    pub fn includes(&self, mac: MacAddr) -> bool {
        match self {
            Self::Everyone => true,
            Self::These(macs) => macs.contains(&mac),
        }
    }
}

/// What initiators may do with an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Who may read. Whoever is heard may ask for what changes nothing.
    pub read: Who,
    /// Who may write, trim, and switch the write cache.
    pub write: Who,
    /// Who may set the config string, the mask list and reservations.
    pub configure: Who,
}

impl Access {
    /// The initiators that may do anything at all, as a mask list has them: empty for everyone.
    pub fn mask(&self) -> Vec<MacAddr> {
        match (&self.read, &self.write, &self.configure) {
            (Who::These(read), Who::These(write), Who::These(configure)) => {
                let all: BTreeSet<&MacAddr> = read.iter().chain(write).chain(configure).collect();
                all.into_iter().copied().collect()
            }
            _ => Vec::new(),
        }
    }
}
