//! A configuration file: text in, a checked [`Config`] or everything that is wrong with it out.
//!
//! [`check`] is all there is to call. It reads the text, each value with its place (`table.rs`), and
//! judges each export (`export.rs`, `values.rs`), all together (`files.rs`), and what there is on the host
//! (`system.rs`). It touches nothing: what it knows of the host comes by [`System`]. The keys stand
//! in `keys.rs`, their meaning in `docs/configuration.md`.
//!
//! ```
//! use aoede::control::config::{Source, check};
//! let text = "
//!     [[export]]
//!     address = 'e1.1'
//!     path = '/srv/disk.img'
//!     interfaces = ['eth0', 'enp*']
//! ";
//! let config = check(text, None).config.expect("nothing is wrong with it");
//! assert_eq!(config.exports.len(), 1);
//!
//! let wrong = text.replace("path", "pth");
//! let checked = check(&wrong, None);
//! assert!(checked.config.is_none());
//! let source = Source { name: "aoede.toml", text: &wrong };
//! assert_eq!(source.locate(&checked.findings[1]).line, 4);
//! ```

mod access;
mod daemon;
mod export;
mod files;
mod finding;
pub mod keys;
mod mend;
mod notes;
mod pattern;
mod syntax;
mod system;
mod table;
mod values;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use aoede_wire::Address;
use toml::de::DeTable;

pub use aoede_target::{Access, Who};
pub use daemon::Daemon;
pub use export::{Export, Extension, Limits};
pub use finding::{Finding, Located, Severity, Source};
pub use pattern::{Pattern, PatternError};
pub use system::{Found, Kind, System};

use access::Lists;
use export::Draft;
use notes::Notes;
use table::Table;

/// All that a daemon is told to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What concerns it as a whole.
    pub daemon: Daemon,
    /// What it serves.
    pub exports: BTreeMap<Address, Export>,
}

impl Config {
    /// What it serves, in the order of the addresses.
    pub fn exports(&self) -> impl Iterator<Item = &Export> {
        self.exports.values()
    }
}

/// What came of reading a configuration.
#[derive(Debug)]
pub struct Checked {
    /// What it says, if there is no error in it.
    pub config: Option<Config>,
    /// Errors and warnings, in the order of the text.
    pub findings: Vec<Finding>,
}

/// Reads a configuration, and finds all that is wrong with it: in itself, and on this host if there
/// is one to look at.
pub fn check(text: &str, system: Option<&dyn System>) -> Checked {
    let mut notes = Notes::default();
    let config = syntax::parse(text, &mut notes)
        .map(|top| read(top.get_ref(), first_line(text), system, &mut notes));
    let findings = notes.into_findings();
    let is_right = findings
        .iter()
        .all(|finding| finding.severity != Severity::Error);
    Checked {
        config: config.filter(|_| is_right),
        findings,
    }
}

/// Where what is missing in the whole file is shown.
fn first_line(text: &str) -> Range<usize> {
    0..text.find(['\r', '\n']).unwrap_or(text.len())
}

fn read(
    top: &DeTable<'_>,
    span: Range<usize>,
    system: Option<&dyn System>,
    notes: &mut Notes,
) -> Config {
    let top = Table::new("the part in front of the first table", keys::TOP, top, span);
    top.check_keys(|_| true, notes);
    let (daemon, places) = daemon::read(&top, notes);
    let lists = top.table("lists", "[lists]", &[], notes);
    let mut lists = Lists::read(lists, notes);
    let defaults = top.table("defaults", "[defaults]", keys::EXPORT, notes);
    if let Some(defaults) = &defaults {
        defaults.check_keys(|key| key.shared, notes);
        // Each value must be right even if no export takes it; together they may become so.
        export::read_shared(defaults, &mut lists, notes);
    }
    let defaults = defaults.map(|table| table.entries());
    let tables = top.tables("export", "[[export]]", keys::EXPORT, notes);
    if tables.is_empty() && top.place("export").is_none() {
        notes.add(Finding::warning(
            top.span(),
            "there is no export: nothing is served",
            "add one: a line [[export]], and below it address, path and interfaces",
        ));
    }
    let tables = tables
        .into_iter()
        .map(|table| table.with_defaults(defaults));
    let drafts = tables.filter_map(|table| export::read(&table, &mut lists, notes));
    let drafts: Vec<Draft> = drafts.collect();
    lists.check_used(notes);
    check_together(&drafts, notes);
    files::check(&drafts, system, notes);
    if let Some(system) = system {
        system::check(&daemon, &places, &drafts, system, notes);
    }
    check_workers(&daemon, &places, &drafts, notes);
    let exports = drafts
        .into_iter()
        .map(|draft| (draft.export.address(), draft.export));
    Config {
        daemon,
        exports: exports.collect(),
    }
}

/// Notes exports that cannot be told apart.
fn check_together(drafts: &[Draft], notes: &mut Notes) {
    let mut addresses: BTreeMap<Address, Range<usize>> = BTreeMap::new();
    let mut serials: BTreeMap<&str, Range<usize>> = BTreeMap::new();
    for Draft { export, places } in drafts {
        match addresses.entry(export.address()) {
            Entry::Vacant(free) => drop(free.insert(places.address.clone())),
            Entry::Occupied(first) => notes.add(
                Finding::error(
                    places.address.clone(),
                    format!("{} is the address of two exports", export.address()),
                    "give each an address of its own; initiators take one address for one disk",
                )
                .and(first.get().clone(), "the first"),
            ),
        }
        let (Some(serial), Some(place)) = (&export.serial, &places.serial) else {
            continue;
        };
        match serials.entry(serial) {
            Entry::Vacant(free) => drop(free.insert(place.clone())),
            Entry::Occupied(first) => notes.add(
                Finding::error(
                    place.clone(),
                    format!(
                        "{} is the serial number of two exports",
                        notes::quote(serial)
                    ),
                    "give each one of its own: by it, hosts tell disks from paths to one disk",
                )
                .and(first.get().clone(), "the first"),
            ),
        }
    }
}

/// Notes exports that are to be served by a worker that there will not be.
fn check_workers(daemon: &Daemon, places: &daemon::Places, drafts: &[Draft], notes: &mut Notes) {
    let (Some(workers), Some(place)) = (daemon.workers, &places.workers) else {
        return;
    };
    for Draft { export, places } in drafts {
        let pinned = export.worker.filter(|&worker| worker >= workers);
        if let (Some(worker), Some(span)) = (pinned, &places.worker) {
            notes.add(
                Finding::error(
                    span.clone(),
                    format!("there is no worker {worker}: of {workers}, the first is 0"),
                    format!("write 0 to {}, or make `workers` larger", workers - 1),
                )
                .and(place.clone(), "as many as here"),
            );
        }
    }
}
