//! The record by which an interrupted copy goes on: what is copied where, and how much of it is on
//! stable storage.
//!
//! Two lines: JSON, and its CRC-32C. A new record replaces the old one whole or not at all, and is
//! on stable storage before the copy goes on to believe in it.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// Of the fields below.
const VERSION: u32 = 1;
/// Longer files are no records; paths have 4096 bytes at most, and JSON may need six times as many.
const MOST_BYTES: u64 = 64 << 10;

/// How every record begins.
const BEGINNING: &[u8] = b"{\"version\":";

/// What an interrupted copy needs to know to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    pub(super) source: Side,
    pub(super) destination: Side,
    /// What is copied: the size of the source, in whole sectors.
    pub(super) bytes: u64,
    /// How much of it, from the beginning, is on stable storage.
    pub(super) stable_bytes: u64,
}

/// One end of a copy, as it can be known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Side {
    /// An AoE disk.
    Disk {
        address: String,
        serial: String,
        model: String,
        bytes: u64,
    },
    /// A regular file.
    File {
        path: String,
        bytes: u64,
        /// Where it is the source: it must not change. A destination changes, but stays one file.
        modified: Option<Modified>,
        inode: Option<u64>,
    },
    /// A block device.
    Device { path: String, bytes: u64 },
}

/// When a file was last changed, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Modified {
    pub(super) seconds: i64,
    pub(super) nanos: i64,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StateError {
    #[error("it is damaged")]
    Damaged,
    #[error("another version of aoede has written it")]
    Version,
}

impl State {
    /// The beginning of a copy.
    pub(super) fn new(source: Side, destination: Side, bytes: u64) -> Self {
        Self {
            version: VERSION,
            source,
            destination,
            bytes,
            stable_bytes: 0,
        }
    }

    fn encode(&self) -> io::Result<String> {
        let json = serde_json::to_string(self)?;
        let sum = crc32c::crc32c(json.as_bytes());
        Ok(format!("{json}\ncrc32c {sum:08x}\n"))
    }

    fn decode(text: &[u8]) -> Result<Self, StateError> {
        let text = str::from_utf8(text).map_err(|_| StateError::Damaged)?;
        let (json, sum) = text.split_once('\n').ok_or(StateError::Damaged)?;
        let right = format!("crc32c {:08x}\n", crc32c::crc32c(json.as_bytes()));
        if sum != right {
            return Err(StateError::Damaged);
        }
        // The sum is right, so what does not fit was written by somebody who has other fields.
        let state: Self = serde_json::from_str(json).map_err(|_| StateError::Version)?;
        if state.version != VERSION {
            return Err(StateError::Version);
        }
        if state.stable_bytes > state.bytes {
            return Err(StateError::Damaged);
        }
        Ok(state)
    }

    /// Whether the copy that `now` begins is the one that was interrupted.
    ///
    /// # Errors
    /// What has changed, in words for a person.
    pub(super) fn check(&self, now: &Self) -> anyhow::Result<()> {
        self.source.check(&now.source)?;
        self.destination.check(&now.destination)?;
        if self.bytes != now.bytes {
            bail!(
                "{} bytes are to be copied, and were {} when the copy began",
                now.bytes,
                self.bytes
            );
        }
        Ok(())
    }
}

impl Side {
    /// As a person names it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Disk { address, .. } => address,
            Self::File { path, .. } | Self::Device { path, .. } => path,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Disk { bytes, .. } | Self::File { bytes, .. } | Self::Device { bytes, .. } => {
                *bytes
            }
        }
    }

    /// Whether it is the same `now`.
    ///
    /// # Errors
    /// What has changed, in words for a person.
    pub(super) fn check(&self, now: &Self) -> anyhow::Result<()> {
        let name = now.name();
        if self.name() != name {
            bail!("it was {} when the copy began, not {name}", self.name());
        }
        if self.bytes() != now.bytes() {
            bail!(
                "{name} has {} bytes now, and had {} when the copy began",
                now.bytes(),
                self.bytes()
            );
        }
        if self == now {
            return Ok(());
        }
        match (self, now) {
            (Self::Disk { serial, model, .. }, Self::Disk { serial: other, .. }) => bail!(
                "{name} is another disk now: its serial number is \"{other}\", and was \"{serial}\" \
                 ({model}) when the copy began"
            ),
            (
                Self::File { modified, .. },
                Self::File {
                    modified: other, ..
                },
            ) if modified != other => {
                bail!("{name} was changed since the copy began")
            }
            _ => bail!("{name} is not what it was when the copy began"),
        }
    }
}

/// Where a record is kept.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The record, if there is one.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub(super) fn load(&self) -> anyhow::Result<Option<State>> {
        let context = || format!("the record of an interrupted copy, {}", self.path.display());
        let len = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(context),
        };
        if len > MOST_BYTES {
            return Err(StateError::Damaged).with_context(context);
        }
        let text = fs::read(&self.path).with_context(context)?;
        let state = State::decode(&text).with_context(context)?;
        Ok(Some(state))
    }

    /// Makes sure that what is there, if anything, is a record, damaged perhaps: nothing else is
    /// ever replaced.
    ///
    /// # Errors
    /// It is something else, or cannot be read.
    pub(super) fn is_ours(&self) -> anyhow::Result<()> {
        let path = self.path.display();
        let mut start = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(BEGINNING.len() as u64).read_to_end(&mut start),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => Err(error),
        }
        .with_context(|| path.to_string())?;
        if start != BEGINNING {
            bail!("{path} is no record of a copy; give another --state");
        }
        Ok(())
    }

    /// Replaces the record, whole or not at all.
    ///
    /// # Errors
    /// What the file system said. The old record is still there then.
    pub(super) fn save(&self, state: &State) -> io::Result<()> {
        // A name that nothing has: what is beside the record is not ours.
        let mut new = tempfile::Builder::new()
            .prefix(".aoede-copy-")
            .tempfile_in(folder_of(&self.path))?;
        new.write_all(state.encode()?.as_bytes())?;
        new.as_file().sync_all()?;
        new.persist(&self.path)?;
        sync_folder_of(&self.path)
    }

    /// Removes the record, if there is one, for good: a power cut does not bring it back.
    ///
    /// # Errors
    /// What the file system said.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_folder_of(&self.path),
        }
    }
}

/// Makes the name of a file as stable as its content.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state() -> State {
        let source = Side::File {
            path: "/srv/disk.img".to_owned(),
            bytes: 1 << 20,
            modified: Some(Modified {
                seconds: 1_700_000_000,
                nanos: 5,
            }),
            inode: None,
        };
        let destination = Side::Disk {
            address: "e1.1".to_owned(),
            serial: "1.1:nas".to_owned(),
            model: "AoEde".to_owned(),
            bytes: 2 << 20,
        };
        State {
            stable_bytes: 512,
            ..State::new(source, destination, 1 << 20)
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path().join("record"));
        assert_eq!(file.load().unwrap(), None);
        file.remove().unwrap();
        file.save(&state()).unwrap();
        assert_eq!(file.load().unwrap(), Some(state()));
        let later = State {
            stable_bytes: 1024,
            ..state()
        };
        file.save(&later).unwrap();
        assert_eq!(file.load().unwrap(), Some(later));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), None);
    }

    #[test]
    fn what_is_beside_a_record_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("record.new"), "mine").unwrap();
        fs::write(path("source"), "mine, too").unwrap();
        std::os::unix::fs::symlink("source", path("other.new")).unwrap();
        for name in ["record", "other"] {
            let file = StateFile::new(path(name));
            file.save(&state()).unwrap();
            assert_eq!(file.load().unwrap(), Some(state()));
        }
        assert_eq!(fs::read(path("record.new")).unwrap(), b"mine");
        assert_eq!(fs::read(path("source")).unwrap(), b"mine, too");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
    }

    /// What the text looks like is a promise to later versions.
    #[test]
    fn the_text_is_json_and_its_sum() {
        let text = state().encode().unwrap();
        let (json, sum) = text.split_once('\n').unwrap();
        assert_eq!(
            json,
            r#"{"version":1,"source":{"kind":"file","path":"/srv/disk.img","bytes":1048576,"#
                .to_owned()
                + r#""modified":{"seconds":1700000000,"nanos":5},"inode":null},"#
                + r#""destination":{"kind":"disk","address":"e1.1","serial":"1.1:nas","#
                + r#""model":"AoEde","bytes":2097152},"bytes":1048576,"stable_bytes":512}"#
        );
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(json.as_bytes());
        assert_eq!(sum, format!("crc32c {crc:08x}\n"));
    }

    #[test]
    fn nothing_but_a_record_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path().join("record"));
        file.is_ours().unwrap();
        file.save(&state()).unwrap();
        file.is_ours().unwrap();
        let mut damaged = fs::read(file.path()).unwrap();
        damaged.truncate(20);
        fs::write(file.path(), damaged).unwrap();
        file.is_ours().unwrap();
        for other in ["", "{", "{\"versions\":1}", "root:x:0:0:"] {
            fs::write(file.path(), other).unwrap();
            let error = file.is_ours().unwrap_err().to_string();
            assert!(
                error.ends_with("is no record of a copy; give another --state"),
                "{error}"
            );
        }
    }

    /// The line of JSON with a right sum.
    fn signed(json: &str) -> Vec<u8> {
        format!("{json}\ncrc32c {:08x}\n", crc32c::crc32c(json.as_bytes())).into_bytes()
    }

    #[test]
    fn records_of_others_are_refused() {
        let json = serde_json::to_string(&state()).unwrap();
        assert_eq!(State::decode(&signed(&json)), Ok(state()));
        let other = json.replace("\"version\":1", "\"version\":2");
        assert_eq!(State::decode(&signed(&other)), Err(StateError::Version));
        assert_eq!(State::decode(&signed("{}")), Err(StateError::Version));
        let beyond = json.replace("\"stable_bytes\":512", "\"stable_bytes\":1048577");
        assert_eq!(State::decode(&signed(&beyond)), Err(StateError::Damaged));
        assert_eq!(State::decode(b""), Err(StateError::Damaged));
    }

    #[test]
    fn a_file_that_is_far_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = StateFile::new(path).load().unwrap_err();
        assert!(format!("{error:#}").ends_with("it is damaged"), "{error:#}");
    }

    #[test]
    fn the_same_copy_goes_on_and_no_other() {
        let began = state();
        began
            .check(&State {
                stable_bytes: 0,
                ..state()
            })
            .unwrap();
        let changed = |change: &dyn Fn(&mut State)| {
            let mut now = state();
            change(&mut now);
            began.check(&now).unwrap_err().to_string()
        };
        let text = changed(&|now| {
            if let Side::File { bytes, .. } = &mut now.source {
                *bytes += 512;
            }
        });
        assert_eq!(
            text,
            "/srv/disk.img has 1049088 bytes now, and had 1048576 when the copy began"
        );
        let text = changed(&|now| {
            if let Side::File { modified, .. } = &mut now.source {
                *modified = Some(Modified {
                    seconds: 1_700_000_000,
                    nanos: 6,
                });
            }
        });
        assert_eq!(text, "/srv/disk.img was changed since the copy began");
        let text = changed(&|now| {
            if let Side::Disk { serial, .. } = &mut now.destination {
                "1.1:other".clone_into(serial);
            }
        });
        assert_eq!(
            text,
            "e1.1 is another disk now: its serial number is \"1.1:other\", and was \"1.1:nas\" \
             (AoEde) when the copy began"
        );
        let text = changed(&|now| {
            if let Side::File { path, .. } = &mut now.source {
                path.push('x');
            }
        });
        assert_eq!(
            text,
            "it was /srv/disk.img when the copy began, not /srv/disk.imgx"
        );
        let text = changed(&|now| {
            now.source = Side::Device {
                path: "/srv/disk.img".to_owned(),
                bytes: 1 << 20,
            };
        });
        assert_eq!(text, "/srv/disk.img is not what it was when the copy began");
        let text = changed(&|now| now.bytes -= 512);
        assert_eq!(
            text,
            "1048064 bytes are to be copied, and were 1048576 when the copy began"
        );
    }

    proptest! {
        #[test]
        fn any_damage_is_found(at in any::<proptest::sample::Index>(), mask in 1_u8..=255) {
            let mut text = state().encode().unwrap().into_bytes();
            let at = at.index(text.len());
            text[at] ^= mask;
            prop_assert_eq!(State::decode(&text), Err(StateError::Damaged));
        }

        #[test]
        fn a_record_cut_short_is_found(at in any::<proptest::sample::Index>()) {
            let text = state().encode().unwrap();
            let at = at.index(text.len());
            prop_assert_eq!(State::decode(&text.as_bytes()[..at]), Err(StateError::Damaged));
        }
    }
}
