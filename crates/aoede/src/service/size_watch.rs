//! News about the sizes of files and devices, for a service that sleeps while nobody asks for them.
//!
//! - A file of a local file system is watched by inotify, and only while the service sleeps: our
//!   own writes are changes too.
//! - A whole block device has kernel events of its own, "uevents", as far as they reach us.
//! - For all others nobody tells, and the size has to be looked at: file systems that others change
//!   elsewhere (NFS, FUSE and the like), partitions, old kernels, user namespaces.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use aoede_disk::Backing;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{fstat, fstatfs, major, minor};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use rustix::system::uname;

/// Magic numbers (`statfs`) of file systems whose files change by this kernel only.
const LOCAL_MAGICS: [u32; 14] = [
    0x0000_EF53, // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683E, // Btrfs
    0xF2F5_2010, // F2FS
    0xCA45_1A4E, // bcachefs
    0x2FC1_2FC1, // ZFS
    0x3153_464A, // JFS
    0x0000_3434, // NILFS
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
    0x794C_7630, // overlayfs
    0x0000_4D44, // FAT
    0x2011_BAB0, // exFAT
    0x7366_746E, // NTFS, by the kernel's own driver
];
/// From this Linux on every change of a device's size is an event.
const TELLS_OF_DEVICES: (u32, u32) = (5, 11);
/// The group of events that come from the kernel itself.
const FROM_THE_KERNEL: u32 = 1;
/// Longer than any event; the rest of a longer one is cut off and of no interest.
const EVENT_BYTES: usize = 4096;

/// Tells that sizes may have changed, for all exports of a worker.
#[derive(Debug, Default)]
pub(super) struct SizeWatches {
    /// Of files; made with the first of them.
    inotify: Option<OwnedFd>,
    /// Of devices: something happened to any of them.
    events: Option<OwnedFd>,
}

/// How one export hears of its size.
#[derive(Debug)]
pub(super) enum SizeWatch {
    /// Somebody wrote to the file, or set its size.
    File {
        /// The file, whatever its name is by now.
        path: String,
        watch: Option<i32>,
    },
    /// Something happened to any block device.
    Device,
    /// Nobody tells.
    Nothing,
}

impl SizeWatches {
    /// What there is for this file or device.
    pub(super) fn watch(&mut self, backing: &Backing) -> SizeWatch {
        let file = &backing.file;
        let watch = if backing.block_device {
            device_events(file, &mut self.events).map(|heard| heard.then_some(SizeWatch::Device))
        } else {
            file_changes(file, &mut self.inotify).map(|heard| {
                heard.then(|| SizeWatch::File {
                    path: format!("/proc/self/fd/{}", file.as_raw_fd()),
                    watch: None,
                })
            })
        };
        watch.ok().flatten().unwrap_or(SizeWatch::Nothing)
    }

    /// Readable when there is news.
    pub(super) fn fds(&self) -> [Option<BorrowedFd<'_>>; 2] {
        [&self.inotify, &self.events].map(|fd| fd.as_ref().map(OwnedFd::as_fd))
    }

    /// Takes the news that are there.
    pub(super) fn take_news(&self) {
        let mut news = [0; EVENT_BYTES];
        if let Some(inotify) = &self.inotify {
            while rustix::io::read(inotify, &mut news).is_ok_and(|bytes| bytes > 0) {}
        }
        if let Some(events) = &self.events {
            // That some were lost is news too.
            let more = |result: rustix::io::Result<()>| match result {
                Ok(()) | Err(Errno::NOBUFS) => true,
                Err(_) => false,
            };
            while more(recv(events, &mut news, RecvFlags::DONTWAIT).map(drop)) {}
        }
    }
}

impl SizeWatch {
    /// Begins to listen; whether there will be news. What happened before has to be looked at.
    pub(super) fn arm(&mut self, watches: &SizeWatches) -> bool {
        match self {
            Self::File { path, watch } => {
                let inotify = watches.inotify.as_ref();
                *watch = inotify
                    .and_then(|it| inotify::add_watch(it, path.as_str(), WatchFlags::MODIFY).ok());
                watch.is_some()
            }
            Self::Device => true,
            Self::Nothing => false,
        }
    }

    /// Stops listening. Two parts of one file have one watch.
    pub(super) fn disarm(&mut self, watches: &SizeWatches) {
        if let Self::File { watch, .. } = self
            && let (Some(watch), Some(inotify)) = (watch.take(), &watches.inotify)
        {
            // It is gone already if the file system is, or another part of the file was first.
            let _ = inotify::remove_watch(inotify, watch);
        }
    }
}

/// Whether changes of the file are told of.
fn file_changes(file: &File, inotify: &mut Option<OwnedFd>) -> io::Result<bool> {
    // Its width differs between architectures, the numbers have 32 bits.
    let magic = u32::try_from(fstatfs(file)?.f_type & 0xFFFF_FFFF).unwrap_or(0);
    if !LOCAL_MAGICS.contains(&magic) {
        return Ok(false);
    }
    if inotify.is_none() {
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        *inotify = Some(inotify::init(flags)?);
    }
    Ok(true)
}

/// Whether changes of the device are told of.
fn device_events(device: &File, events: &mut Option<OwnedFd>) -> io::Result<bool> {
    let number = fstat(device)?.st_rdev;
    let (major, minor) = (major(number), minor(number));
    let partition = format!("/sys/dev/block/{major}:{minor}/partition");
    // In a user namespace of its own nobody hears of devices.
    let map = fs::read_to_string("/proc/self/uid_map")?;
    let whole_map = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let release = uname();
    let new = version(&release.release().to_string_lossy()) >= Some(TELLS_OF_DEVICES);
    if fs::exists(partition)? || !whole_map || !new {
        return Ok(false);
    }
    if events.is_some() {
        return Ok(true);
    }
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, FROM_THE_KERNEL))?;
    *events = Some(socket);
    Ok(true)
}

/// The first two numbers of a Linux release: `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_their_numbers() {
        for (release, expected) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.11-rc3", Some((5, 11))),
            ("5.4.0", Some((5, 4))),
            ("6", None),
            ("linux", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
        assert!(version("5.9.1") < version("5.11.0"));
    }
}
