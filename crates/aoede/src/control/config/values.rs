//! The keys of an export, one by one or as few as belong together.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use aoede_disk::SECTOR_BYTES;
use aoede_target::MAX_SECTORS;
use aoede_wire::Address;

use super::export::Limits;
use super::files;
use super::finding::Finding;
use super::notes::{At, Notes, quote};
use super::pattern::Pattern;
use super::table::Table;
use crate::service::{self, CacheError, CacheSettings, FreezeSettings};
use crate::size::Size;

/// The Linux driver refuses this shelf.
const SHELF_WITHOUT_LINUX: u16 = 4095;
/// A slower disk would let requests run into their initiators' time limits.
const LEAST_BYTES_PER_SECOND: Size = Size(64 << 10);
/// Fewest operations for the same reason, and most that mean anything.
const OPERATIONS_PER_SECOND: RangeInclusive<u32> = 8..=1_000_000_000;

pub(super) fn address(table: &Table<'_>, notes: &mut Notes) -> Option<At<Address>> {
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

pub(super) fn interfaces(table: &Table<'_>, notes: &mut Notes) -> Vec<At<Pattern>> {
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

pub(super) fn cache(table: &Table<'_>, notes: &mut Notes) -> CacheSettings {
    let plain = CacheSettings::default();
    let size = table.size("cache_size", notes);
    let dirty = table.size("dirty_size", notes);
    CacheSettings {
        mode: table.choice("cache", notes).unwrap_or(plain.mode),
        size: size.as_ref().map(|at| at.value),
        dirty: dirty.as_ref().map_or(plain.dirty, |at| at.value),
        dirty_age: table
            .time("dirty_age", &service::DIRTY_AGES, notes)
            .unwrap_or(plain.dirty_age),
    }
}

/// Notes what the sizes of a cache make impossible together.
pub(super) fn check_cache(settings: &CacheSettings, table: &Table<'_>, notes: &mut Notes) {
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
}

pub(super) fn freeze(
    table: &Table<'_>,
    read_only: bool,
    notes: &mut Notes,
) -> Option<FreezeSettings> {
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

pub(super) fn limits(table: &Table<'_>, notes: &mut Notes) -> Limits {
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
pub(super) fn printable<'t>(
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
pub(super) struct Window {
    pub(super) create: Option<At<Size>>,
    pub(super) offset: Option<At<u64>>,
    pub(super) length: Option<At<u64>>,
}

impl Window {
    pub(super) fn read(table: &Table<'_>, read_only: bool, notes: &mut Notes) -> Self {
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
    let found = files::outside(offset, window.length.as_ref().map(|at| at.value), sectors);
    let Some(outside) = found else { return };
    let place = match outside {
        files::Outside::Offset => window.offset.as_ref(),
        files::Outside::Length { .. } => window.length.as_ref(),
    };
    if let Some(place) = place {
        let what = format!("`{of}`");
        notes.add(outside.finding(place.span.clone(), &what, sectors));
    }
}
