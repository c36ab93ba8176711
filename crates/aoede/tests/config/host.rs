//! What is said of the host that a configuration is for.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use aoede::control::config::Severity::{Error, Warning};
use aoede::control::config::{Found, Kind, System};
use aoede_link::Interface;
use aoede_wire::MacAddr;

use super::{export, findings};

/// A host with /srv/a of 1 MiB, and eth0.
struct Host {
    found: BTreeMap<PathBuf, Found>,
    interfaces: Vec<Interface>,
}

fn file(inode: u64, bytes: u64) -> Found {
    Found {
        kind: Kind::File,
        identity: (1, inode),
        bytes: Some(bytes),
        used: None,
    }
}

fn interface(name: &str) -> Interface {
    Interface {
        index: 2,
        name: name.to_owned(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        up: true,
        ethernet: true,
    }
}

impl Host {
    fn new() -> Self {
        let folder = Found {
            kind: Kind::Folder,
            bytes: None,
            ..file(1, 0)
        };
        let found = [("/srv", folder), ("/srv/a", file(2, 1 << 20))];
        Self {
            found: found
                .map(|(path, found)| (PathBuf::from(path), found))
                .into(),
            interfaces: vec![
                interface("eth0"),
                Interface {
                    ethernet: false,
                    ..interface("lo")
                },
            ],
        }
    }

    fn with(mut self, path: &str, found: Found) -> Self {
        self.found.insert(PathBuf::from(path), found);
        self
    }

    fn with_interface(mut self, interface: Interface) -> Self {
        self.interfaces.retain(|one| one.name != interface.name);
        self.interfaces.push(interface);
        self
    }

    /// All that is said, as severity, line, message and remedy.
    fn says(&self, text: &str) -> Vec<(aoede::control::config::Severity, usize, String, String)> {
        let found = findings(text, Some(self));
        found
            .into_iter()
            .map(|one| (one.severity, one.line, one.message, one.remedy))
            .collect()
    }
}

impl System for Host {
    fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        if path == Path::new("/secret") || path.starts_with("/secret/") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(self.found.get(path).cloned())
    }

    fn interfaces(&self) -> Option<Vec<Interface>> {
        Some(self.interfaces.clone())
    }

    fn has_group(&self, name: &str) -> Option<bool> {
        Some(name == "aoede")
    }
}

#[test]
fn nothing_is_said_of_what_is_there() {
    assert_eq!(Host::new().says(&export("")), []);
    let text = format!("[control]\ngroup = \"aoede\"\n{}", export(""));
    assert_eq!(Host::new().says(&text), []);
}

/// One thing, with parts of its message and remedy.
#[track_caller]
fn assert_said(
    host: &Host,
    text: &str,
    severity: aoede::control::config::Severity,
    line: usize,
    message: &str,
    remedy: &str,
) {
    let said = host.says(text);
    let [one] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!((one.0, one.1), (severity, line), "{one:?}");
    assert!(one.2.contains(message) && one.3.contains(remedy), "{one:?}");
}

#[test]
fn files_that_cannot_be_disks_are_errors() {
    let missing = export("").replace("/srv/a", "/srv/b");
    assert_said(
        &Host::new(),
        &missing,
        Error,
        3,
        "there is no `/srv/b`",
        "create = \"10GiB\"",
    );
    let made = export("create = \"1GiB\"").replace("/srv/a", "/srv/b");
    assert_eq!(Host::new().says(&made), []);
    let nowhere = made.replace("/srv/", "/nowhere/");
    assert_said(
        &Host::new(),
        &nowhere,
        Error,
        3,
        "no directory `/nowhere`",
        "make the directory",
    );
    let below = made.replace("/srv/b", "/srv/a/b");
    assert_said(
        &Host::new(),
        &below,
        Error,
        3,
        "`/srv/a` is no directory",
        "",
    );

    let folder = export("").replace("/srv/a", "/srv");
    assert_said(
        &Host::new(),
        &folder,
        Error,
        3,
        "`/srv` is a directory",
        "in it",
    );
    let pipe = Host::new().with(
        "/srv/a",
        Found {
            kind: Kind::Other,
            ..file(2, 0)
        },
    );
    assert_said(
        &pipe,
        &export(""),
        Error,
        3,
        "neither a regular file nor a block device",
        "",
    );
    let empty = Host::new().with("/srv/a", file(2, 511));
    assert_said(
        &empty,
        &export(""),
        Error,
        3,
        "`/srv/a` is empty",
        "remove the file",
    );
    let mounted = Found {
        kind: Kind::BlockDevice,
        used: Some("mounted at /".to_owned()),
        ..file(2, 4096)
    };
    let mounted = Host::new().with("/srv/a", mounted);
    assert_said(
        &mounted,
        &export(""),
        Error,
        3,
        "in use: mounted at /",
        "read_only = true",
    );
    assert_eq!(mounted.says(&export("read_only = true")), []);
}

#[test]
fn windows_must_lie_in_the_file() {
    let host = Host::new();
    // 1 MiB are 2048 sectors.
    assert_eq!(host.says(&export("offset = 2047\nlength = 1")), []);
    assert_said(
        &host,
        &export("offset = 2048"),
        Error,
        5,
        "has 2048 sectors",
        "smaller",
    );
    assert_said(
        &host,
        &export("offset = 2047\nlength = 2"),
        Error,
        6,
        "1 sectors are left",
        "smaller",
    );
    assert_said(
        &host,
        &export("create = \"2MiB\""),
        Error,
        5,
        "1048576 bytes, not the 2097152",
        "create = 1048576",
    );
    assert_eq!(host.says(&export("create = \"1MiB\"")), []);
    assert_eq!(host.says(&export("create = 512")), [], "it may have grown");
}

#[test]
fn what_is_left_out_or_cannot_be_seen_is_a_warning() {
    let ragged = Host::new().with("/srv/a", file(2, 1000));
    assert_said(
        &ragged,
        &export(""),
        Warning,
        3,
        "its last 488 bytes are left out",
        "multiple of 512",
    );
    assert_eq!(ragged.says(&export("length = 1")), []);
    let secret = export("").replace("/srv/a", "/secret/a");
    assert_said(
        &Host::new(),
        &secret,
        Warning,
        3,
        "`/secret/a` cannot be seen",
        "as the user",
    );
}

#[test]
fn one_file_by_two_paths_is_one_file() {
    let host = Host::new()
        .with("/srv/link", file(2, 1 << 20))
        .with("/srv/b", file(3, 1 << 20));
    let text = |path: &str| {
        let second = export("").replace("e1.1", "e1.2").replace("/srv/a", path);
        format!("{}{second}", export(""))
    };
    assert_eq!(host.says(&text("/srv/b")), []);
    assert_said(
        &host,
        &text("/srv/link"),
        Error,
        8,
        "the same part of one file",
        "",
    );
    // Two new files, in one folder by two paths.
    let folder = host.found[Path::new("/srv")].clone();
    let host = host.with("/data", folder);
    let new = text("/data/new")
        .replace("/srv/a", "/srv/new")
        .replace("interfaces", "create = 512\ninterfaces");
    assert_said(&host, &new, Error, 9, "the same part of one file", "");
}

#[test]
fn a_shadow_needs_a_folder() {
    let text = export("shadow = \"/nowhere/s\"");
    assert_said(
        &Host::new(),
        &text,
        Error,
        5,
        "there is no directory `/nowhere`",
        "",
    );
    assert_eq!(Host::new().says(&export("shadow = \"/srv/s\"")), []);
}

/// The example names it, and a fresh host has none.
#[test]
fn the_state_folder_is_made_by_the_daemon() {
    let text = |path: &str| {
        let export = export("create = \"1GiB\"").replace("/srv/a", path);
        format!("state_folder = \"/var/lib/x/\"\n{export}")
    };
    assert_eq!(Host::new().says(&text("/var/lib/x/disk")), []);
    assert_said(
        &Host::new(),
        &text("/var/lib/x/deeper/disk"),
        Error,
        4,
        "there is no directory `/var/lib/x/deeper`",
        "make the directory",
    );
}

#[test]
fn interfaces_may_come_later() {
    let host = Host::new().with_interface(Interface {
        up: false,
        ..interface("eth1")
    });
    let on = |names: &str| export("").replace("\"eth0\"", names);
    assert_said(
        &host,
        &on("\"eht0\""),
        Warning,
        4,
        "no interface `eht0` now",
        "write \"eth0\"",
    );
    assert_said(
        &host,
        &on("\"wan\""),
        Warning,
        4,
        "no interface `wan` now",
        "now there is eth0, eth1",
    );
    assert_said(
        &host,
        &on("\"en*\""),
        Warning,
        4,
        "matches `en*` now",
        "once one appears",
    );
    // Of several patterns one is enough.
    assert_eq!(host.says(&on("\"en*\", \"eth?\"")), []);
    assert_said(
        &host,
        &on("\"l*\""),
        Warning,
        4,
        "no Ethernet interface matches `l*`",
        "",
    );
    assert_said(
        &host,
        &on("\"eth1\""),
        Warning,
        4,
        "`eth1` is down",
        "ip link set eth1 up",
    );
    assert_said(
        &host,
        &on("\"lo\""),
        Error,
        4,
        "`lo` is no Ethernet interface",
        "eth0, eth1",
    );
    let host = host.with_interface(Interface {
        mtu: 1041,
        ..interface("eth0")
    });
    assert_said(
        &host,
        &on("\"eth0\""),
        Warning,
        4,
        "an MTU of 1041 bytes",
        "1042 at least",
    );
}

#[test]
fn a_group_may_be_known_elsewhere() {
    let text = format!("[control]\ngroup = \"disk\"\n{}", export(""));
    assert_said(
        &Host::new(),
        &text,
        Warning,
        2,
        "no group `disk`",
        "groupadd --system disk",
    );
}
