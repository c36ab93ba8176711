//! What of each export outlives the daemon: a folder with one small file for each.
//!
//! A file is written under another name, brought to stable storage, and renamed: at any time there
//! is the old one or the new one. One that cannot be read is set aside and told of; the export
//! starts without it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aoede_disk::{Cause, DiskError, Errno, Operation};
use aoede_wire::{Address, MacAddr};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::control::config::{Access, Export, Who};
use crate::control::status::FailureStatus;
use crate::service::{Failure, Remembered};

/// Of the form of the files.
const VERSION: u16 = 1;
/// Larger than any: a mask list of 255 entries and 64 ranges take a part of it.
const MOST_BYTES: u64 = 1 << 20;

/// Where it is kept.
#[derive(Clone, Debug)]
pub(super) struct StateFolder {
    path: PathBuf,
}

/// A file of the folder.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    version: u16,
    address: String,
    /// Of the export's file. What belongs to another is not this disk's.
    path: PathBuf,
    /// In hexadecimal digits.
    config_string: String,
    /// As edited by initiators.
    mask: Option<StoredMask>,
    failure: Option<StoredFailure>,
    /// A shadow holds what was written since a freeze.
    frozen: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredMask {
    macs: Vec<String>,
    /// What the configuration said when it was edited: if that is another now, it counts again.
    configured: StoredAccess,
}

/// Lists of the configuration; none for everyone.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredAccess {
    read: Option<Vec<String>>,
    write: Option<Vec<String>>,
    configure: Option<Vec<String>>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredFailure {
    operation: StoredOperation,
    lba: u64,
    sectors: u32,
    /// Of the operating system.
    errno: i32,
    status: FailureStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredOperation {
    Read,
    Write,
    Flush,
    Trim,
}

impl StateFolder {
    /// Makes the folder if there is none.
    ///
    /// # Errors
    /// It cannot be made, or is none.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the state folder {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// What is known of an export as it is configured now. Whatever is wrong is told of.
    pub(super) fn load(&self, export: &Export) -> Remembered {
        let address = export.address();
        let path = self.file(address);
        match read(&path) {
            Ok(None) => Remembered::default(),
            Ok(Some(stored)) if stored.path == export.settings.path => {
                stored.into_remembered(&export.access)
            }
            Ok(Some(stored)) => {
                warn!(
                    "{address}: it was {} before: config string and the like begin anew",
                    stored.path.display()
                );
                Remembered::default()
            }
            Err(problem) => {
                let mut aside = path.clone().into_os_string();
                aside.push(".damaged");
                error!(
                    "{address}: {}: {problem:#}; the export starts without it, and it is kept as {}",
                    path.display(),
                    Path::new(&aside).display()
                );
                if let Err(error) = fs::rename(&path, &aside) {
                    error!("{address}: cannot rename it: {error}");
                }
                Remembered::default()
            }
        }
    }

    /// Keeps what is known of an export.
    ///
    /// # Errors
    /// What the system said; the file is as it was.
    pub(super) fn store(&self, export: &Export, remembered: &Remembered) -> anyhow::Result<()> {
        let path = self.file(export.address());
        let context = || {
            format!(
                "{}: cannot keep the state in {}",
                export.address(),
                path.display()
            )
        };
        let nothing = Remembered {
            cache_number: remembered.cache_number,
            ..Remembered::default()
        };
        if *remembered == nothing {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed.and_then(|()| self.sync()).with_context(context),
            };
        }
        let stored = Stored::new(export, remembered);
        let mut text = serde_json::to_vec_pretty(&stored).with_context(context)?;
        text.push(b'\n');
        self.replace(&path, &text).with_context(context)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut new = path.to_owned().into_os_string();
        new.push(".new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        self.sync()
    }

    /// Names last as long as what they name.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn file(&self, address: Address) -> PathBuf {
        self.path.join(format!("{address}.state"))
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Stored>> {
    let bytes = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("cannot be read"),
        Ok(found) => {
            anyhow::ensure!(found.len() <= MOST_BYTES, "is no file of ours");
            fs::read(path).context("cannot be read")?
        }
    };
    let stored: Stored = serde_json::from_slice(&bytes).context("is damaged")?;
    anyhow::ensure!(
        stored.version == VERSION,
        "has version {}, and {VERSION} is all that is known here",
        stored.version
    );
    // What does not make sense is damage too.
    stored.config_bytes().context("is damaged")?;
    stored.mask_macs().context("is damaged")?;
    Ok(Some(stored))
}

impl Stored {
    fn new(export: &Export, remembered: &Remembered) -> Self {
        let mut string = String::new();
        for byte in &remembered.config_string {
            // Into memory: it cannot fail.
            let _ = write!(string, "{byte:02x}");
        }
        Self {
            version: VERSION,
            address: export.address().to_string(),
            path: export.settings.path.clone(),
            config_string: string,
            mask: remembered.mask.as_ref().map(|macs| StoredMask {
                macs: macs.iter().map(MacAddr::to_string).collect(),
                configured: StoredAccess::from(&export.access),
            }),
            failure: remembered.failure.as_ref().map(|failure| StoredFailure {
                operation: failure.error.operation.into(),
                lba: failure.error.lba,
                sectors: failure.error.sectors,
                errno: failure.error.errno().0,
                status: failure.status.clone(),
            }),
            frozen: remembered.frozen,
        }
    }

    fn into_remembered(self, access: &Access) -> Remembered {
        let as_then = |mask: &StoredMask| mask.configured == StoredAccess::from(access);
        let is_current = self.mask.as_ref().is_some_and(as_then);
        Remembered {
            config_string: self.config_bytes().unwrap_or_default(),
            mask: self.mask_macs().ok().flatten().filter(|_| is_current),
            failure: self.failure.map(|failure| Failure {
                error: DiskError {
                    operation: failure.operation.into(),
                    lba: failure.lba,
                    sectors: failure.sectors,
                    cause: Cause::Device(Errno(failure.errno)),
                },
                status: failure.status,
            }),
            frozen: self.frozen,
            // Nobody knows what became of the cache meanwhile.
            cache_number: None,
        }
    }

    fn config_bytes(&self) -> anyhow::Result<Vec<u8>> {
        let digits = self.config_string.as_bytes();
        anyhow::ensure!(digits.len().is_multiple_of(2), "half a byte");
        let pairs = digits.chunks(2).map(|pair| {
            let text = std::str::from_utf8(pair)?;
            Ok(u8::from_str_radix(text, 16)?)
        });
        pairs.collect()
    }

    fn mask_macs(&self) -> anyhow::Result<Option<Vec<MacAddr>>> {
        let mask = self.mask.as_ref();
        let macs = mask.map(|mask| mask.macs.iter().map(|mac| Ok(mac.parse()?)).collect());
        macs.transpose()
    }
}

impl From<&Access> for StoredAccess {
    fn from(access: &Access) -> Self {
        let list = |who: &Who| match who {
            Who::Everyone => None,
            Who::These(macs) => Some(macs.iter().map(MacAddr::to_string).collect()),
        };
        Self {
            read: list(&access.read),
            write: list(&access.write),
            configure: list(&access.configure),
        }
    }
}

impl From<Operation> for StoredOperation {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Read => Self::Read,
            Operation::Write => Self::Write,
            Operation::Flush => Self::Flush,
            Operation::Trim => Self::Trim,
        }
    }
}

impl From<StoredOperation> for Operation {
    fn from(operation: StoredOperation) -> Self {
        match operation {
            StoredOperation::Read => Self::Read,
            StoredOperation::Write => Self::Write,
            StoredOperation::Flush => Self::Flush,
            StoredOperation::Trim => Self::Trim,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::control::status::SectorRange;

    use super::*;

    fn export() -> Export {
        let address = Address::new(7, 1).unwrap();
        Export::new(address, "/srv/disk.img".into(), Vec::new())
    }

    fn full() -> Remembered {
        Remembered {
            config_string: vec![0, 0x7F, 0xFF],
            mask: Some(vec![MacAddr([2, 0, 0, 0, 0, 1])]),
            failure: Some(Failure {
                error: DiskError {
                    operation: Operation::Write,
                    lba: 8,
                    sectors: 16,
                    cause: Cause::Device(Errno(28)),
                },
                status: FailureStatus {
                    error: "no room".to_owned(),
                    at_risk_bytes: 8192,
                    at_risk: vec![SectorRange {
                        lba: 8,
                        sectors: 16,
                    }],
                    more_ranges: 0,
                },
            }),
            frozen: true,
            cache_number: None,
        }
    }

    #[test]
    fn what_is_stored_is_found_again_and_nothing_leaves_no_file() {
        let place = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&place.path().join("new/state")).unwrap();
        assert_eq!(folder.load(&export()), Remembered::default());
        folder.store(&export(), &full()).unwrap();
        assert_eq!(folder.load(&export()), full());
        let files = || fs::read_dir(&folder.path).unwrap().count();
        assert_eq!(files(), 1);
        folder.store(&export(), &Remembered::default()).unwrap();
        assert_eq!(files(), 0);
        folder.store(&export(), &Remembered::default()).unwrap();
    }

    #[test]
    fn an_edited_mask_counts_until_the_configuration_says_something_else() {
        let place = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(place.path()).unwrap();
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let mut some = export();
        some.access.write = Who::These([mac(1)].into());
        folder.store(&some, &full()).unwrap();
        assert_eq!(folder.load(&some).mask, full().mask);
        let mut others = export();
        others.access.write = Who::These([mac(2)].into());
        let loaded = folder.load(&others);
        assert_eq!(loaded.mask, None);
        assert_eq!(loaded.config_string, full().config_string, "all else stays");
    }

    #[test]
    fn another_disk_at_the_address_begins_anew() {
        let place = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(place.path()).unwrap();
        folder.store(&export(), &full()).unwrap();
        let mut other = export();
        other.settings.path = "/srv/other.img".into();
        assert_eq!(folder.load(&other), Remembered::default());
        assert_eq!(folder.load(&export()), full());
    }

    #[test]
    fn what_is_damaged_is_set_aside() {
        let place = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(place.path()).unwrap();
        folder.store(&export(), &full()).unwrap();
        let path = place.path().join("e7.1.state");
        let text = fs::read_to_string(&path).unwrap();
        for damaged in [
            String::new(),
            text[..text.len() / 2].to_owned(),
            text.replace("007fff", "007ff"),
            text.replace("007fff", "00zzff"),
            text.replace("02:00", "0x:00"),
            text.replace("\"version\": 1", "\"version\": 2"),
        ] {
            fs::write(&path, &damaged).unwrap();
            assert_eq!(folder.load(&export()), Remembered::default(), "{damaged}");
            assert!(!path.exists());
            let aside = place.path().join("e7.1.state.damaged");
            assert_eq!(fs::read_to_string(aside).unwrap(), damaged);
        }
    }
}
