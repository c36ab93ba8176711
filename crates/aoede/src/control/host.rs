//! This host, for checking a configuration: it is looked at, and nothing is opened.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use aoede_link::{Interface, Monitor};

use super::config::{Found, Kind, System};

/// The host that this program runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

impl System for Host {
    fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A file stands where a folder should.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
            metadata => metadata?,
        };
        let kind = metadata.file_type();
        if kind.is_block_device() {
            let device = Device::of(metadata.rdev());
            return Ok(Some(Found {
                kind: Kind::BlockDevice,
                // No file system has this number.
                identity: (u64::MAX, metadata.rdev()),
                bytes: device.bytes(),
                used: device.used(),
            }));
        }
        Ok(Some(Found {
            kind: match () {
                () if kind.is_file() => Kind::File,
                () if kind.is_dir() => Kind::Folder,
                () => Kind::Other,
            },
            identity: (metadata.dev(), metadata.ino()),
            bytes: kind.is_file().then_some(metadata.len()),
            used: None,
        }))
    }

    fn interfaces(&self) -> Option<Vec<Interface>> {
        Monitor::open().ok()?.interfaces().ok()
    }

    fn has_group(&self, name: &str) -> Option<bool> {
        let groups = fs::read_to_string(GROUPS).ok()?;
        Some(parse_groups(&groups).any(|(group, _)| group == name))
    }
}

const GROUPS: &str = "/etc/group";

/// The number of a group.
pub(crate) fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string(GROUPS).ok()?;
    parse_groups(&groups)
        .find(|&(group, _)| group == name)
        .map(|(_, id)| id)
}

/// The group with a number.
pub(crate) fn group_name(id: u32) -> Option<String> {
    let groups = fs::read_to_string(GROUPS).ok()?;
    parse_groups(&groups)
        .find(|&(_, other)| other == id)
        .map(|(name, _)| name.to_owned())
}

/// Names and numbers (group(5)).
fn parse_groups(text: &str) -> impl Iterator<Item = (&str, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, fields.nth(1)?.parse().ok()?))
    })
}

/// A block device as the kernel describes it.
struct Device {
    /// `major:minor`.
    number: String,
    folder: PathBuf,
}

impl Device {
    fn of(number: u64) -> Self {
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        Self::named(format!("{major}:{minor}"))
    }

    fn named(number: String) -> Self {
        let folder = Path::new("/sys/dev/block").join(&number);
        Self { number, folder }
    }

    fn bytes(&self) -> Option<u64> {
        let sectors = fs::read_to_string(self.folder.join("size")).ok()?;
        let sectors: u64 = sectors.trim().parse().ok()?;
        sectors.checked_mul(512)
    }

    /// For what it or one of its partitions is used.
    fn used(&self) -> Option<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let parts = entries(&self.folder).filter_map(|part| {
            let folder = self.folder.join(&part);
            folder.join("partition").exists().then_some(())?;
            let number = fs::read_to_string(folder.join("dev")).ok()?;
            Some((Self::named(number.trim().to_owned()), format!("{part} is ")))
        });
        let own = std::iter::once((Self::named(self.number.clone()), String::new()));
        let mut uses = own.chain(parts).filter_map(|(device, whose)| {
            let place = mounted_at(&mounts, &device.number);
            let used = place.map(|place| format!("mounted at {place}"));
            let used = used.or_else(|| {
                let holder = entries(&device.folder.join("holders")).next()?;
                Some(format!("part of {holder}"))
            });
            used.map(|used| format!("{whose}{used}"))
        });
        uses.next()
    }
}

/// Names in a folder; none if there is no such folder.
fn entries(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Where a device is mounted, by `/proc/PID/mountinfo` (proc(5)).
fn mounted_at<'m>(mounts: &'m str, number: &str) -> Option<&'m str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        (fields.next() == Some(number))
            .then(|| fields.nth(1))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_file_itself() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk.img");
        let link = folder.path().join("link");
        fs::write(&file, [0; 1000]).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let found = Host.look(&file).unwrap().unwrap();
        assert_eq!((found.kind, found.bytes), (Kind::File, Some(1000)));
        assert_eq!(Host.look(&link).unwrap().unwrap(), found);
        let kind = |path: &Path| Host.look(path).unwrap().map(|found| found.kind);
        assert_eq!(kind(folder.path()), Some(Kind::Folder));
        assert_eq!(kind(Path::new("/dev/null")), Some(Kind::Other));
        assert_eq!(kind(&folder.path().join("nothing")), None);
        assert_eq!(kind(&file.join("below")), None);
    }

    #[test]
    fn the_loopback_interface_and_the_group_of_root_are_there() {
        let interfaces = Host.interfaces().unwrap();
        assert!(
            interfaces
                .iter()
                .any(|one| one.name == "lo" && !one.ethernet)
        );
        assert_eq!(Host.has_group("root"), Some(true));
        assert_eq!(Host.has_group("no:such"), Some(false));
        assert_eq!((group_id("root"), group_id("no:such")), (Some(0), None));
        assert_eq!(group_name(0).as_deref(), Some("root"));
    }

    #[test]
    fn a_group_has_its_number_in_the_third_field() {
        let groups: Vec<_> = parse_groups("root:x:0:\naoede:x:998:ann,bob\n+\n").collect();
        assert_eq!(groups, [("root", 0), ("aoede", 998)]);
    }

    #[test]
    fn a_mounted_device_is_found_by_its_number() {
        let mounts = "\
22 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
90 28 254:17 / /srv/a\\040b rw shared:2 - ext4 /dev/vdb1 rw
";
        assert_eq!(mounted_at(mounts, "254:1"), Some("/"));
        assert_eq!(mounted_at(mounts, "254:17"), Some("/srv/a\\040b"));
        assert_eq!(mounted_at(mounts, "254:16"), None);
    }
}
