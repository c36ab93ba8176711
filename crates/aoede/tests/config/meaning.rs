//! What each key comes to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use aoede::control::config::{Access, Daemon, Export, Extension, Limits, Pattern, Who};
use aoede::service::{
    CacheMode, CacheSettings, EngineChoice, ExportSettings, FreezeSettings, FullShadow,
    UnfinishedFreeze,
};
use aoede::size::Size;
use aoede_disk::{IoMode, OpenOptions};
use aoede_target::ExtensionReset;
use aoede_wire::{Address, MacAddr};

use super::{export, findings, right};

fn only(text: &str) -> Export {
    right(text).exports.into_values().next().unwrap()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, last])
}

fn these(last: &[u8]) -> Who {
    Who::These(last.iter().map(|&last| mac(last)).collect())
}

#[test]
fn an_export_with_the_least_has_all_defaults() {
    let address = Address::new(1, 1).unwrap();
    let eth0 = Pattern::new("eth0").unwrap();
    let plain = Export::new(address, PathBuf::from("/srv/a"), vec![eth0]);
    assert_eq!(only(&export("")), plain);
    // Documented: docs/configuration.md.
    assert_eq!(plain.settings.buffers, 64);
    assert_eq!(plain.settings.cache.mode, CacheMode::Writethrough);
    assert_eq!(plain.settings.cache.dirty, Size(32 << 20));
    assert_eq!(plain.settings.cache.dirty_age, Duration::from_secs(1));
    assert_eq!(plain.settings.open.io, IoMode::Direct);
    assert_eq!(plain.settings.extension_reset, ExtensionReset::SetOnly);
    assert_eq!(plain.extensions.len(), 6);
    assert_eq!(plain.access, Access::default());
}

#[test]
fn every_key_of_an_export_arrives() {
    let text = "
[[export]]
address = '7.3'
path = '/dev/sdb'
create = '10GiB'
offset = 8
length = 16
interfaces = ['eth0', 'enp*']
allow = ['52-54-00-00-00-01']
cache = 'writeback'
cache_size = 67108864
dirty_size = '16MiB'
dirty_age = '250ms'
io = 'buffered'
shadow = '/srv/shadow'
shadow_limit = '4G'
shadow_full = 'thaw'
unfinished_freeze = 'merge'
engine = 'io_uring'
buffers = 1024
extensions = ['tags', 'crc32c']
extension_reset = 'config'
model = 'Disk'
serial = 'No. 1'
bytes_per_second = '100MiB'
operations_per_second = 5000
worker = 3
";
    let address = Address::new(7, 3).unwrap();
    let path = PathBuf::from("/dev/sdb");
    let expected = Export {
        settings: ExportSettings {
            open: OpenOptions {
                read_only: false,
                io: IoMode::Buffered,
                offset_sectors: 8,
                length_sectors: Some(16),
                create_bytes: Some(10 << 30),
                lock_patience: Duration::from_secs(2),
            },
            allow: vec![mac(1)],
            buffers: 1024,
            cache: CacheSettings {
                mode: CacheMode::Writeback,
                size: Some(Size(64 << 20)),
                dirty: Size(16 << 20),
                dirty_age: Duration::from_millis(250),
            },
            freeze: Some(FreezeSettings {
                path: PathBuf::from("/srv/shadow"),
                limit: Some(Size(4 << 30)),
                full: FullShadow::Thaw,
                unfinished: UnfinishedFreeze::Merge,
            }),
            extension_reset: ExtensionReset::AnyConfig,
            ..ExportSettings::new(address, path)
        },
        interfaces: ["eth0", "enp*"]
            .map(|name| Pattern::new(name).unwrap())
            .to_vec(),
        engine: EngineChoice::IoUring,
        access: Access {
            read: these(&[1]),
            write: these(&[1]),
            configure: these(&[1]),
        },
        model: Some("Disk".to_owned()),
        serial: Some("No. 1".to_owned()),
        extensions: BTreeSet::from([Extension::Tags, Extension::Crc32c]),
        limits: Limits {
            bytes_per_second: Some(Size(100 << 20)),
            operations_per_second: Some(5000),
        },
        worker: Some(3),
    };
    assert_eq!(only(text), expected);
    assert!(only(&export("read_only = true")).settings.open.read_only);
}

#[test]
fn every_key_of_the_daemon_arrives() {
    let text = "
state_folder = '/srv/state/'
workers = 8
busy_poll = '0s'
[control]
socket = '/run/x.sock'
group = 'disk'
[status]
listen = '10.0.0.1:80'
beyond_loopback = true
";
    let expected = Daemon {
        state_folder: PathBuf::from("/srv/state/"),
        workers: Some(8),
        busy_poll: Duration::ZERO,
        socket: PathBuf::from("/run/x.sock"),
        group: Some("disk".to_owned()),
        status: Some("10.0.0.1:80".parse().unwrap()),
    };
    assert_eq!(right(&format!("{text}{}", export(""))).daemon, expected);
    let plain = right(&export("")).daemon;
    assert_eq!(plain, Daemon::default());
    assert_eq!((plain.status, plain.group), (None, None));
    for listen in ["[::1]:34978", "127.9.9.9:1", "[::ffff:127.0.0.1]:1"] {
        let text = format!("[status]\nlisten = '{listen}'\n{}", export(""));
        assert_eq!(right(&text).daemon.status, Some(listen.parse().unwrap()));
    }
}

#[test]
fn defaults_are_for_exports_that_say_nothing() {
    let text = "
[defaults]
interfaces = ['eth0']
buffers = 16
read_only = true
allow = ['rack']
[lists]
rack = ['52:54:00:00:00:01', '525400000002']
[[export]]
address = 'e1.1'
path = '/srv/a'
[[export]]
address = 'e1.2'
path = '/srv/b'
buffers = 32
read_only = false
allow_write = []
";
    let config = right(text);
    let [first, second] = [(1, 1), (1, 2)].map(|(shelf, slot)| {
        let address = Address::new(shelf, slot).unwrap();
        config.exports[&address].clone()
    });
    assert_eq!((first.settings.buffers, second.settings.buffers), (16, 32));
    assert!(first.settings.open.read_only && !second.settings.open.read_only);
    assert_eq!(second.interfaces, first.interfaces);
    assert_eq!(first.access.write, these(&[1, 2]));
    assert_eq!(second.access.write, these(&[]));
    assert_eq!(second.access.read, these(&[1, 2]));
    assert_eq!(second.settings.allow, [mac(1), mac(2)]);
}

/// What exports make of them counts, not what they would come to alone.
#[test]
fn defaults_need_not_fit_together_without_an_export() {
    let text = |lines| {
        let export = export(lines);
        format!("[defaults]\ncache = 'writeback'\ncache_size = '8MiB'\n{export}")
    };
    assert_eq!(findings(&text("dirty_size = '4MiB'"), None), []);
    assert_eq!(findings(&text(""), None).len(), 1);
}

#[test]
fn whoever_may_do_anything_is_in_the_mask_list() {
    let text = export(
        "allow_read = ['52:54:00:00:00:02']\nallow_write = []\nallow_configure = ['52:54:00:00:00:02']",
    );
    let one = only(&text);
    assert_eq!(one.settings.allow, [mac(2)]);
    assert!(one.access.read.includes(mac(2)) && !one.access.write.includes(mac(2)));
    // Everyone may read: the mask list must let everyone in.
    let one = only(&export("allow_write = ['52:54:00:00:00:02']"));
    assert_eq!(one.settings.allow, []);
    assert!(one.access.read.includes(mac(9)) && !one.access.write.includes(mac(9)));
}

#[test]
fn parts_of_one_file_may_be_disks() {
    let parts = |first: &str, second: &str| {
        let text = format!(
            "{}{}",
            export(first),
            export(second).replace("e1.1", "e1.2")
        );
        findings(&text, None).len()
    };
    assert_eq!(parts("length = 8", "offset = 8"), 0);
    assert_eq!(parts("offset = 8", "length = 8"), 0);
    assert_eq!(parts("length = 9", "offset = 8"), 1);
    assert_eq!(parts("offset = 8", "length = 9"), 1);
    assert_eq!(parts("offset = 8", "offset = 100"), 1);
    assert_eq!(parts("offset = 8\nlength = 1", "length = 8"), 0);
    // Readers do not mind readers.
    assert_eq!(parts("read_only = true", "read_only = true"), 0);
    assert_eq!(parts("read_only = true", ""), 1);
    assert_eq!(parts("", "read_only = true"), 1);
}

/// Of three, the first reaches into the third, past the second.
#[test]
fn a_long_part_is_not_forgotten_behind_a_short_one() {
    let text = format!(
        "{}{}{}",
        export("length = 100\nread_only = true"),
        export("offset = 10\nlength = 1\nread_only = true").replace("e1.1", "e1.2"),
        export("offset = 50\nlength = 1").replace("e1.1", "e1.3"),
    );
    let found = findings(&text, None);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].message.contains("e1.1 and e1.3"), "{found:?}");
}

#[test]
fn a_mask_list_holds_255_initiators() {
    let macs = |count: u8| {
        let macs = (0..=count).map(|last| format!("'52:54:00:00:00:{last:02x}',"));
        macs.collect::<String>()
    };
    assert_eq!(
        only(&export(&format!("allow = [{}]", macs(254))))
            .settings
            .allow
            .len(),
        255
    );
    let found = findings(&export(&format!("allow = [{}]", macs(255))), None);
    assert_eq!(found[0].message, "`allow` names 256 initiators");
}
