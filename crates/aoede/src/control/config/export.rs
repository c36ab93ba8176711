//! One export as a configuration has it: its keys, and what they mean together.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use aoede_disk::OpenOptions;
use aoede_target::{Access, ExtensionSet};
use aoede_wire::Address;
use clap::ValueEnum;

use super::access::{self, Lists};
use super::notes::{At, Notes};
use super::pattern::Pattern;
use super::table::Table;
use super::values;
use crate::service::{self, CacheSettings, EngineChoice, ExportSettings, IoChoice, ResetChoice};
use crate::size::Size;

/// Workers at most: more than any host of today has cores for.
pub(super) const MOST_WORKERS: u16 = 1024;

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

impl Extension {
    /// Its names on the wire.
    fn names(self) -> &'static [aoede_wire::Extension] {
        use aoede_wire::Extension as Name;
        match self {
            Self::CoalescedRead => &[Name::CoalescedRead],
            Self::CoalescedWriteReply => &[Name::CoalescedWriteReply],
            Self::Tags => &[Name::TagIncLe, Name::TagIncBe, Name::TagRandom],
            Self::Congestion => &[Name::Congestion],
            Self::Crc8x4 => &[Name::Crc8x4],
            Self::Crc32c => &[Name::Crc32c],
        }
    }

    /// Some of them, as a target is told.
    pub fn set(extensions: &BTreeSet<Self>) -> ExtensionSet {
        let names = extensions.iter().flat_map(|extension| extension.names());
        names.copied().collect()
    }
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
    let address = values::address(table, notes);
    let path = values::path(table, "path", notes);
    let shared = read_shared(table, lists, notes);
    access::check(&shared.access, table, notes);
    values::check_cache(&shared.cache, table, notes);
    let window = values::Window::read(table, shared.read_only, notes);
    let freeze = values::freeze(table, shared.read_only, notes);
    let serial = values::printable(table, "serial", 20, notes);
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
        interfaces: values::interfaces(table, notes),
        read_only: table.switch("read_only", notes).is_some_and(|at| at.value),
        access: lists.access(table, notes),
        cache: values::cache(table, notes),
        io: table.choice("io", notes).unwrap_or_default(),
        engine: table.choice("engine", notes).unwrap_or_default(),
        buffers: table
            .count("buffers", &service::BUFFERS_RANGE, notes)
            .map(|at| at.value),
        extensions: extensions.map_or_else(all, |of| of.into_iter().map(|at| at.value).collect()),
        extension_reset: table.choice("extension_reset", notes).unwrap_or_default(),
        model: values::printable(table, "model", 40, notes).map(|at| at.value.to_owned()),
        limits: values::limits(table, notes),
    }
}
