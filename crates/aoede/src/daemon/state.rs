//! What of each export outlives the daemon: a folder with one small file for each.
//!
//! A file is written under another name, brought to stable storage, and renamed: at any time there
//! is the old one or the new one, with a checksum. One that is damaged never counts as none: nobody
//! knows then whether acknowledged data was lost, so that is what is remembered of the export, and
//! what was damaged is kept beside it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aoede_disk::{Cause, DiskError, Errno, Operation};
use aoede_wire::{Address, MAX_CONFIG_BYTES, MacAddr};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use crate::control::config::{Access, Export, Who};
use crate::control::status::FailureStatus;
use crate::service::{Failure, Remembered};

/// Of the form of the files.
const VERSION: u16 = 1;
/// Larger than any: a mask list of 255 entries and 64 ranges take a part of it.
const MOST_BYTES: u64 = 1 << 20;
/// Of a mask list.
const MOST_MACS: usize = 255;
/// What a disk whose state is unknown fails with: EUCLEAN.
const UNKNOWN: Errno = Errno(117);

/// Where it is kept.
#[derive(Clone, Debug)]
pub(super) struct StateFolder {
    path: PathBuf,
}

/// A file of the folder.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    version: u16,
    /// CRC-32C of the rest: of this as JSON without spaces, with 0 in this place.
    checksum: u32,
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

    /// What is known of an export as it is configured now. Of one whose file is damaged that is a
    /// failure, until somebody has looked after it.
    ///
    /// # Errors
    /// What is known cannot be told: what the system said, or another version has written it.
    pub(super) fn load(&self, export: &Export) -> anyhow::Result<Remembered> {
        let address = export.address();
        let path = self.file(address);
        let context = || format!("{address}: the state in {}", path.display());
        let Some(bytes) = read(&path).with_context(context)? else {
            return Ok(Remembered::default());
        };
        let stored = match parse(&bytes) {
            Ok(stored) => stored,
            Err(Unusable::Version(version)) => {
                return Err(anyhow::anyhow!(
                    "has version {version}, and {VERSION} is all that is known here; serve it \
                     with the aoede that wrote it, or move the file away if nothing of it matters"
                )
                .context(context()));
            }
            Err(Unusable::Damaged(problem)) => {
                return self.latch(export, &bytes, &problem).with_context(context);
            }
        };
        if is_same_file(&stored.path, &export.settings.path) {
            return Ok(stored.into_remembered(&export.access));
        }
        let before = stored.path.display();
        if stored.failure.is_some() {
            let aside = self
                .set_aside(address, "other", &bytes)
                .with_context(context)?;
            error!(
                "{address}: it was {before} before, of which acknowledged data was lost; that is \
                 kept in {}, and does not count for {}",
                aside.display(),
                export.settings.path.display()
            );
        } else {
            warn!("{address}: it was {before} before: config string and the like begin anew");
        }
        Ok(Remembered::default())
    }

    /// Takes a damaged file for the worst that may have stood there, also at the next start.
    fn latch(
        &self,
        export: &Export,
        bytes: &[u8],
        problem: &anyhow::Error,
    ) -> anyhow::Result<Remembered> {
        let address = export.address();
        let aside = self.set_aside(address, "damaged", bytes)?;
        error!(
            "{address}: its state is damaged, and kept as {}: {problem:#}; whether acknowledged \
             data was lost is not known, so every write fails until: aoede reset {address}",
            aside.display()
        );
        let error = format!("the state file is damaged ({problem:#})");
        let remembered = Remembered {
            failure: Some(Failure {
                error: DiskError {
                    operation: Operation::Flush,
                    lba: 0,
                    sectors: 0,
                    cause: Cause::Device(UNKNOWN),
                },
                status: FailureStatus {
                    error,
                    ..FailureStatus::default()
                },
            }),
            ..Remembered::default()
        };
        self.store(export, &remembered)?;
        Ok(remembered)
    }

    /// Keeps a copy under another name.
    fn set_aside(&self, address: Address, why: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let aside = self.path.join(format!("{address}.state.{why}"));
        self.replace(&aside, bytes)?;
        Ok(aside)
    }

    /// Goes on in another folder, with all that is in this one.
    ///
    /// # Errors
    /// What the system said, or there are such files already. Then the other has none of these.
    pub(super) fn move_to(&self, path: &Path) -> anyhow::Result<Self> {
        let new = Self::open(path)?;
        let in_new = || format!("the state folder {}", path.display());
        if fs::canonicalize(path).ok() == fs::canonicalize(&self.path).ok() {
            return Ok(new);
        }
        let there = new.files().with_context(in_new)?;
        if let Some(there) = there.first() {
            anyhow::bail!(
                "{} has states already, such as {}: whose they are is not known; move them away, \
                 and reload again",
                in_new(),
                there.display()
            );
        }
        let old = self
            .files()
            .with_context(|| self.path.display().to_string())?;
        let copied = Self::copy(&old, &new).with_context(in_new);
        // What is not in use is not left to be taken for the truth later.
        let left = if copied.is_ok() { Ok(old) } else { new.files() };
        for file in left.unwrap_or_default() {
            if let Err(error) = fs::remove_file(&file) {
                warn!("cannot remove {}: {error}", file.display());
            }
        }
        copied?;
        info!("what outlives the daemon is in {} now", path.display());
        Ok(new)
    }

    fn copy(files: &[PathBuf], new: &Self) -> io::Result<()> {
        for file in files {
            if let Some(name) = file.file_name() {
                new.replace(&new.path.join(name), &fs::read(file)?)?;
            }
        }
        Ok(())
    }

    /// Those of exports.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "state") {
                files.push(path);
            }
        }
        Ok(files)
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
        let mut stored = Stored::new(export, remembered);
        stored.checksum = stored.checksum().with_context(context)?;
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

/// Why a file cannot be used.
#[derive(Debug)]
enum Unusable {
    /// Of another form.
    Version(u16),
    Damaged(anyhow::Error),
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.context("cannot be read")?,
    };
    anyhow::ensure!(
        found.is_file() && found.len() <= MOST_BYTES,
        "is no file of ours; move it away"
    );
    fs::read(path).map(Some).context("cannot be read")
}

fn parse(bytes: &[u8]) -> Result<Stored, Unusable> {
    let damaged = |error: serde_json::Error| Unusable::Damaged(error.into());
    let mut stored: Stored = match serde_json::from_slice(bytes) {
        Ok(stored) => stored,
        Err(error) => {
            let other = serde_json::from_slice(bytes).ok();
            let other = other.filter(|one: &Versioned| one.version > VERSION);
            return Err(other.map_or_else(|| damaged(error), |one| Unusable::Version(one.version)));
        }
    };
    let told = std::mem::take(&mut stored.checksum);
    if stored.checksum().map_err(damaged)? != told {
        let problem = anyhow::anyhow!("the checksum is another");
        return Err(Unusable::Damaged(problem));
    }
    if stored.version != VERSION {
        return Err(Unusable::Version(stored.version));
    }
    stored.check().map_err(Unusable::Damaged)?;
    Ok(stored)
}

/// What every version has.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u16,
}

/// Whether two paths lead to the same file or device.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path| fs::canonicalize(path).ok();
    one == other || real(one).is_some_and(|one| real(other) == Some(one))
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
            checksum: 0,
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

    /// Of all but itself, which must be 0.
    fn checksum(&self) -> serde_json::Result<u32> {
        serde_json::to_vec(self).map(|text| crc32c::crc32c(&text))
    }

    /// What does not make sense is damage too, whatever the checksum says.
    fn check(&self) -> anyhow::Result<()> {
        let bytes = self.config_bytes()?.len();
        anyhow::ensure!(
            bytes <= MAX_CONFIG_BYTES,
            "a config string of {bytes} bytes"
        );
        let macs = self.mask_macs()?.map_or(0, |macs| macs.len());
        anyhow::ensure!(macs <= MOST_MACS, "a mask list of {macs} entries");
        Ok(())
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
        anyhow::ensure!(
            digits.iter().all(u8::is_ascii_hexdigit),
            "no hexadecimal digit"
        );
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
        assert_eq!(folder.load(&export()).unwrap(), Remembered::default());
        folder.store(&export(), &full()).unwrap();
        assert_eq!(folder.load(&export()).unwrap(), full());
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
        assert_eq!(folder.load(&some).unwrap().mask, full().mask);
        let mut others = export();
        others.access.write = Who::These([mac(2)].into());
        let loaded = folder.load(&others).unwrap();
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
        assert_eq!(folder.load(&other).unwrap(), Remembered::default());
        assert_eq!(folder.load(&export()).unwrap(), full());
        // What was lost of the first is not forgotten with it.
        let kept = fs::read(place.path().join("e7.1.state.other")).unwrap();
        assert_eq!(parse(&kept).unwrap().failure.unwrap().lba, 8);
    }

    #[test]
    fn a_path_may_be_written_otherwise() {
        let place = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(&place.path().join("state")).unwrap();
        fs::write(place.path().join("disk.img"), "").unwrap();
        let mut one = export();
        one.settings.path = place.path().join("disk.img");
        folder.store(&one, &full()).unwrap();
        let mut other = export();
        other.settings.path = place.path().join("state/../disk.img");
        assert_eq!(folder.load(&other).unwrap(), full());
    }

    #[test]
    fn what_is_damaged_is_kept_and_is_a_failure_until_it_is_reset() {
        let place = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(place.path()).unwrap();
        folder.store(&export(), &full()).unwrap();
        let path = place.path().join("e7.1.state");
        let text = fs::read_to_string(&path).unwrap();
        for damaged in [
            String::new(),
            text[..text.len() / 2].to_owned(),
            text.replace("007fff", "007ffe"),
            text.replace("\"frozen\": true", "\"frozen\": false"),
        ] {
            fs::write(&path, &damaged).unwrap();
            let failure = folder.load(&export()).unwrap().failure.unwrap();
            assert!(failure.status.error.contains("damaged"), "{damaged}");
            let aside = place.path().join("e7.1.state.damaged");
            assert_eq!(fs::read_to_string(aside).unwrap(), damaged);
            let again = folder.load(&export()).unwrap().failure.unwrap();
            assert_eq!(again, failure, "also at the next start");
        }
    }

    #[test]
    fn no_bit_changes_what_is_remembered() {
        let mut stored = Stored::new(&export(), &full());
        stored.checksum = stored.checksum().unwrap();
        let text = serde_json::to_vec_pretty(&stored).unwrap();
        stored.checksum = 0;
        for place in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[place] ^= 1 << bit;
                // Some of them change the space between words.
                if let Ok(found) = parse(&damaged) {
                    assert_eq!(found, stored, "bit {bit} of byte {place}");
                }
            }
        }
    }

    #[test]
    fn a_checksum_excuses_no_nonsense() {
        let long = Remembered {
            config_string: vec![0; 1025],
            ..full()
        };
        let crowd = Remembered {
            mask: Some(vec![MacAddr([2, 0, 0, 0, 0, 1]); 256]),
            ..full()
        };
        for nonsense in [long, crowd] {
            let mut stored = Stored::new(&export(), &nonsense);
            stored.checksum = stored.checksum().unwrap();
            let text = serde_json::to_vec(&stored).unwrap();
            let found = parse(&text);
            assert!(matches!(found, Err(Unusable::Damaged(_))), "{found:?}");
        }
        let mut signed = Stored::new(&export(), &full());
        signed.config_string = "+f".to_owned();
        assert!(signed.check().is_err());
    }

    #[test]
    fn what_cannot_be_read_or_is_of_another_version_is_left_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let folder = StateFolder::open(place.path()).unwrap();
        let path = place.path().join("e7.1.state");
        fs::write(&path, "{\"version\": 2, \"more\": []}").unwrap();
        let error = format!("{:#}", folder.load(&export()).unwrap_err());
        assert!(error.contains("has version 2"), "{error}");
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        folder.load(&export()).unwrap_err();
    }

    #[test]
    fn a_folder_moves_with_all_that_is_in_it_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let old = StateFolder::open(&place.path().join("old")).unwrap();
        old.store(&export(), &full()).unwrap();
        let new = old.move_to(&place.path().join("new")).unwrap();
        assert_eq!(new.load(&export()).unwrap(), full());
        assert_eq!(old.load(&export()).unwrap(), Remembered::default());
        // Somebody else's are not mixed with these.
        old.store(&export(), &full()).unwrap();
        let error = format!("{:#}", new.move_to(&old.path).unwrap_err());
        assert!(error.contains("e7.1.state"), "{error}");
        assert_eq!(new.load(&export()).unwrap(), full());
    }
}
