//! One export as a configuration has it: its keys, and what they mean together.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use aoede_disk::{OpenOptions, SECTOR_BYTES};
use aoede_target::MAX_SECTORS;
use aoede_wire::Address;
use clap::ValueEnum;

use super::access::{Access, Lists};
use super::finding::Finding;
use super::notes::{At, Notes, quote};
use super::pattern::Pattern;
use super::table::Table;
use crate::service::{
    self, CacheError, CacheSettings, EngineChoice, ExportSettings, FreezeSettings, IoChoice,
    ResetChoice,
};
use crate::size::Size;

/// The Linux driver refuses this shelf.
const SHELF_WITHOUT_LINUX: u16 = 4095;
/// Workers at most: more than any host of today has cores for.
pub(super) const MOST_WORKERS: u16 = 1024;
/// A slower disk would let requests run into their initiators' time limits.
const LEAST_BYTES_PER_SECOND: Size = Size(64 << 10);
/// Fewest operations for the same reason, and most that mean anything.
const OPERATIONS_PER_SECOND: std::ops::RangeInclusive<u32> = 8..=1_000_000_000;

/// One export, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Address, file, cache and the like: all that an export has without a daemon.
    pub settings: ExportSettings,
    /// Where it is served: every interface that one of these matches, now and later.
    pub interfaces: Vec<Pattern>,
    /// Kernel interface for file I/O.
    pub engine: EngineChoice,
    /// Who may do what. [`ExportSettings::allow`] has all that may do anything.
    pub access: Access,
    /// Model for IDENTIFY, up to 40 printable ASCII characters; the program's name if not given.
    pub model: Option<String>,
    /// Serial number for IDENTIFY, up to 20 printable ASCII characters; of address and host if not
    /// given.
    pub serial: Option<String>,
    /// What initiators may negotiate.
    pub extensions: BTreeSet<Extension>,
    /// How much of the disk initiators may take.
    pub limits: Limits,
    /// The worker that serves it, counted from 0, if that matters.
    pub worker: Option<u16>,
}

/// Something that an initiator may negotiate (§7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Extension {
    /// Several reads in one frame.
    CoalescedRead,
    /// Several write responses in one frame.
    CoalescedWriteReply,
    /// Tags that tell late copies of writes.
    Tags,
    /// How many requests fit.
    Congestion,
    /// A checksum of four CRC-8 behind data.
    #[value(name = "crc8x4")]
    Crc8x4,
    /// A CRC-32C behind data.
    #[value(name = "crc32c")]
    Crc32c,
}

/// Most that an export does in a second, for all initiators together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Data read and written.
    pub bytes_per_second: Option<Size>,
    /// Reads, writes, trims and flushes.
    pub operations_per_second: Option<u32>,
}

impl Export {
    /// A whole file on some interfaces, with the default of everything else.
    pub fn new(address: Address, path: PathBuf, interfaces: Vec<Pattern>) -> Self {
        Self {
            settings: ExportSettings::new(address, path),
            interfaces,
            engine: EngineChoice::default(),
            access: Access::default(),
            model: None,
            serial: None,
            extensions: Extension::value_variants().iter().copied().collect(),
            limits: Limits::default(),
            worker: None,
        }
    }

    /// Its shelf and slot.
    pub fn address(&self) -> Address {
        self.settings.address
    }
}

/// An export, and where in the text its parts stand.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) export: Export,
    pub(super) places: Places,
}

/// Parts that checks point at later.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) address: Range<usize>,
    pub(super) path: Range<usize>,
    pub(super) interfaces: Vec<Range<usize>>,
    pub(super) create: Option<Range<usize>>,
    pub(super) offset: Option<Range<usize>>,
    pub(super) length: Option<Range<usize>>,
    pub(super) shadow: Option<Range<usize>>,
    pub(super) serial: Option<Range<usize>>,
    pub(super) worker: Option<Range<usize>>,
}

/// Reads one export. None if it has no address or no path.
pub(super) fn read<'t>(
    table: &Table<'t>,
    lists: &mut Lists<'t>,
    notes: &mut Notes,
) -> Option<Draft> {
    table.check_keys(|_| true, notes);
    for name in ["address", "path", "interfaces"] {
        table.require(name, notes);
    }
    let address = address(table, notes);
    let path = path(table, "path", notes);
    let shared = read_shared(table, lists, notes);
    let window = Window::read(table, shared.read_only, notes);
    let freeze = freeze(table, shared.read_only, notes);
    let serial = printable(table, "serial", 20, notes);
    let worker = table.count("worker", &(0..=MOST_WORKERS - 1), notes);

    let (address, path) = (address?, path?);
    let (interfaces, interface_places) = unzip(shared.interfaces);
    let plain = ExportSettings::new(address.value, path.value);
    let export = Export {
        settings: ExportSettings {
            open: OpenOptions {
                read_only: shared.read_only,
                io: shared.io.into(),
                offset_sectors: window.offset.as_ref().map_or(0, |at| at.value),
                length_sectors: window.length.as_ref().map(|at| at.value),
                create_bytes: window.create.as_ref().map(|at| at.value.0),
                ..plain.open
            },
            allow: shared.access.mask(),
            buffers: shared.buffers.unwrap_or(plain.buffers),
            cache: shared.cache,
            freeze,
            extension_reset: shared.extension_reset.into(),
            ..plain
        },
        interfaces,
        engine: shared.engine,
        access: shared.access,
        model: shared.model,
        serial: serial.as_ref().map(|at| at.value.to_owned()),
        extensions: shared.extensions,
        limits: shared.limits,
        worker: worker.as_ref().map(|at| at.value),
    };
    let places = Places {
        address: address.span,
        path: path.span,
        interfaces: interface_places,
        create: window.create.map(|at| at.span),
        offset: window.offset.map(|at| at.span),
        length: window.length.map(|at| at.span),
        shadow: table.place("shadow"),
        serial: serial.map(|at| at.span),
        worker: worker.map(|at| at.span),
    };
    Some(Draft { export, places })
}

fn unzip<T>(values: Vec<At<T>>) -> (Vec<T>, Vec<Range<usize>>) {
    values.into_iter().map(|at| (at.value, at.span)).unzip()
}

/// What exports may have in common.
pub(super) struct Shared {
    interfaces: Vec<At<Pattern>>,
    read_only: bool,
    access: Access,
    cache: CacheSettings,
    io: IoChoice,
    engine: EngineChoice,
    buffers: Option<u16>,
    extensions: BTreeSet<Extension>,
    extension_reset: ResetChoice,
    model: Option<String>,
    limits: Limits,
}

/// Reads the keys that may stand under `[defaults]` too.
pub(super) fn read_shared<'t>(
    table: &Table<'t>,
    lists: &mut Lists<'t>,
    notes: &mut Notes,
) -> Shared {
    let all = || Extension::value_variants().iter().copied().collect();
    let extensions = table.choices("extensions", notes);
    Shared {
        interfaces: interfaces(table, notes),
        read_only: table.switch("read_only", notes).is_some_and(|at| at.value),
        access: lists.access(table, notes),
        cache: cache(table, notes),
        io: table.choice("io", notes).unwrap_or_default(),
        engine: table.choice("engine", notes).unwrap_or_default(),
        buffers: table
            .count("buffers", &service::BUFFERS_RANGE, notes)
            .map(|at| at.value),
        extensions: extensions.map_or_else(all, |of| of.into_iter().map(|at| at.value).collect()),
        extension_reset: table.choice("extension_reset", notes).unwrap_or_default(),
        model: printable(table, "model", 40, notes).map(|at| at.value.to_owned()),
        limits: limits(table, notes),
    }
}

fn address(table: &Table<'_>, notes: &mut Notes) -> Option<At<Address>> {
    let remedy = "write shelf and slot, such as e1.1: a shelf of 0 to 65534, a slot of 0 to 254";
    let address: At<Address> = table.parsed("address", remedy, notes)?;
    if address.value.shelf == SHELF_WITHOUT_LINUX {
        notes.add(Finding::warning(
            address.span.clone(),
            format!("{}: the Linux initiator refuses shelf 4095", address.value),
            "choose another shelf",
        ));
    }
    Some(address)
}

/// A path to a file, which means the same wherever the daemon is started.
pub(super) fn path(table: &Table<'_>, name: &str, notes: &mut Notes) -> Option<At<PathBuf>> {
    let text = table.text(name, notes)?;
    if text.value.ends_with('/') {
        return wrong_path(name, &text, "names a directory", notes);
    }
    whole_path(name, text, notes)
}

/// A path to a folder.
pub(super) fn folder(table: &Table<'_>, name: &str, notes: &mut Notes) -> Option<At<PathBuf>> {
    let text = table.text(name, notes)?;
    whole_path(name, text, notes)
}

fn whole_path(name: &str, text: At<&str>, notes: &mut Notes) -> Option<At<PathBuf>> {
    let wrong = match text.value {
        "" => "is empty",
        path if path.contains('\0') => "has a zero byte",
        path if path.starts_with('~') => "begins with ~, which only a shell understands",
        path if !path.starts_with('/') => "does not begin with a slash",
        path => return Some(At::new(text.span, PathBuf::from(path))),
    };
    wrong_path(name, &text, wrong, notes)
}

fn wrong_path<T>(name: &str, text: &At<&str>, wrong: &str, notes: &mut Notes) -> Option<T> {
    notes.add(Finding::error(
        text.span.clone(),
        format!("`{name}`: {} {wrong}", quote(text.value)),
        "write the whole path from / on, such as /srv/disk.img",
    ));
    None
}

fn interfaces(table: &Table<'_>, notes: &mut Notes) -> Vec<At<Pattern>> {
    let Some(names) = table.list("interfaces", notes) else {
        return Vec::new();
    };
    if names.value.is_empty() {
        notes.add(Finding::error(
            names.span,
            "`interfaces` names none",
            "name one at least; [\"*\"] is every Ethernet interface",
        ));
    }
    let mut patterns: Vec<At<Pattern>> = Vec::new();
    let mut seen: BTreeMap<Pattern, Range<usize>> = BTreeMap::new();
    for name in names.value {
        match Pattern::new(name.value) {
            Ok(pattern) => {
                if let Some(first) = seen.insert(pattern.clone(), name.span.clone()) {
                    let message = format!("{} stands here twice", quote(name.value));
                    notes.add(
                        Finding::error(name.span, message, "take one of them out")
                            .and(first, "the first"),
                    );
                } else {
                    patterns.push(At::new(name.span, pattern));
                }
            }
            Err(error) => {
                let message = format!("{} is no name of an interface: {error}", quote(name.value));
                let remedy = "write names as `ip link` shows them, each in quotes of its own, such \
                              as [\"eth0\", \"enp*\"]";
                notes.add(Finding::error(name.span, message, remedy));
            }
        }
    }
    patterns
}

fn cache(table: &Table<'_>, notes: &mut Notes) -> CacheSettings {
    let plain = CacheSettings::default();
    let size = table.size("cache_size", notes);
    let dirty = table.size("dirty_size", notes);
    let settings = CacheSettings {
        mode: table.choice("cache", notes).unwrap_or(plain.mode),
        size: size.as_ref().map(|at| at.value),
        dirty: dirty.as_ref().map_or(plain.dirty, |at| at.value),
        dirty_age: table
            .time("dirty_age", &service::DIRTY_AGES, notes)
            .unwrap_or(plain.dirty_age),
    };
    let place = |name| table.place(name).unwrap_or_else(|| table.span());
    match settings.check() {
        Ok(()) => {}
        Err(CacheError::TooSmall { size, least }) => notes.add(Finding::error(
            place("cache_size"),
            format!("a cache of {size} is too small"),
            format!("give it {least} at least, or leave `cache_size` out"),
        )),
        Err(CacheError::DirtyTooLarge { dirty, size, most }) => {
            let key = if table.place("dirty_size").is_some() {
                "dirty_size"
            } else {
                "cache_size"
            };
            notes.add(Finding::error(
                place(key),
                format!("a `dirty_size` of {dirty} does not fit a cache of {size}"),
                format!("make it {most} at most, or `cache_size` larger, or leave that out"),
            ));
        }
    }
    settings
}

fn freeze(table: &Table<'_>, read_only: bool, notes: &mut Notes) -> Option<FreezeSettings> {
    let limit = table.size("shadow_limit", notes);
    let full = table.choice("shadow_full", notes);
    let unfinished = table.choice("unfinished_freeze", notes);
    let Some(place) = table.place("shadow") else {
        for name in ["shadow_limit", "shadow_full", "unfinished_freeze"] {
            if let Some(span) = table.place(name) {
                notes.add(Finding::error(
                    span,
                    format!("`{name}` means nothing without a shadow"),
                    "add a line such as shadow = \"/srv/disk.shadow\", or take it out",
                ));
            }
        }
        return None;
    };
    if read_only {
        notes.add(Finding::error(
            place,
            "a read-only export needs no shadow: its file does not change",
            "take out `shadow`, or set read_only = false",
        ));
    }
    let path = path(table, "shadow", notes)?;
    Some(FreezeSettings {
        path: path.value,
        limit: limit.map(|at| at.value),
        full: full.unwrap_or_default(),
        unfinished: unfinished.unwrap_or_default(),
    })
}

fn limits(table: &Table<'_>, notes: &mut Notes) -> Limits {
    let bytes = table.size("bytes_per_second", notes);
    if let Some(bytes) = bytes
        .as_ref()
        .filter(|at| at.value < LEAST_BYTES_PER_SECOND)
    {
        notes.add(Finding::error(
            bytes.span.clone(),
            format!("{} a second are too few for any initiator", bytes.value),
            format!("give {LEAST_BYTES_PER_SECOND} at least, or leave the key out for no limit"),
        ));
    }
    let operations = table.count("operations_per_second", &OPERATIONS_PER_SECOND, notes);
    Limits {
        bytes_per_second: bytes.map(|at| at.value),
        operations_per_second: operations.map(|at| at.value),
    }
}

/// Text for IDENTIFY.
fn printable<'t>(
    table: &Table<'t>,
    name: &str,
    most: usize,
    notes: &mut Notes,
) -> Option<At<&'t str>> {
    let text = table.text(name, notes)?;
    let is_printable = text
        .value
        .bytes()
        .all(|c| c == b' ' || c.is_ascii_graphic());
    if is_printable && (1..=most).contains(&text.value.len()) {
        return Some(text);
    }
    notes.add(Finding::error(
        text.span,
        format!("`{name}` cannot be {}", quote(text.value)),
        format!("it takes 1 to {most} printable ASCII characters"),
    ));
    None
}

/// The part of a file that is served.
struct Window {
    create: Option<At<Size>>,
    offset: Option<At<u64>>,
    length: Option<At<u64>>,
}

impl Window {
    fn read(table: &Table<'_>, read_only: bool, notes: &mut Notes) -> Self {
        let window = Self {
            create: table.size("create", notes),
            offset: table.count("offset", &(0..=MAX_SECTORS), notes),
            length: table.count("length", &(1..=MAX_SECTORS), notes),
        };
        if let Some(create) = &window.create {
            window.check_create(create, read_only, notes);
        }
        window
    }

    fn check_create(&self, create: &At<Size>, read_only: bool, notes: &mut Notes) {
        let Size(bytes) = create.value;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) {
            notes.add(Finding::error(
                create.span.clone(),
                format!("{} is no size of a disk", create.value),
                format!(
                    "give a multiple of {SECTOR_BYTES} bytes that is not 0, such as \"{}\"",
                    Size(
                        bytes
                            .saturating_add(1)
                            .checked_next_multiple_of(1 << 20)
                            .unwrap_or(1 << 20)
                    )
                ),
            ));
            return;
        }
        if read_only {
            notes.add(Finding::error(
                create.span.clone(),
                "a read-only export of a new file has only zeros",
                "take out `create`, or set read_only = false",
            ));
        }
        check_window(self, bytes / SECTOR_BYTES, "create", notes);
    }
}

/// Whether offset and length lie inside so many sectors.
fn check_window(window: &Window, sectors: u64, of: &str, notes: &mut Notes) {
    let offset = window.offset.as_ref().map_or(0, |at| at.value);
    let found = super::files::outside(offset, window.length.as_ref().map(|at| at.value), sectors);
    let Some(outside) = found else { return };
    let place = match outside {
        super::files::Outside::Offset => window.offset.as_ref(),
        super::files::Outside::Length { .. } => window.length.as_ref(),
    };
    if let Some(place) = place {
        let what = format!("`{of}`");
        notes.add(outside.finding(place.span.clone(), &what, sectors));
    }
}
