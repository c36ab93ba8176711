//! What a configuration says, held against what there is on this host.
//!
//! Only what cannot be served is an error. What may come later, such as an interface that is
//! plugged in, is a warning.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::Path;

use aoede_disk::SECTOR_BYTES;
use aoede_link::Interface;

use super::export::Draft;
use super::files;
use super::finding::Finding;
use super::notes::{Notes, list, quote};
use super::pattern::Pattern;

use super::{Daemon, daemon, keys};
use crate::service::{ExportSettings, LEAST_MTU};
use crate::size::Size;

/// The host that a configuration is for. Nothing that it is asked may open, make or lock anything.
pub trait System {
    /// What is at a path, links followed; none if there is nothing.
    ///
    /// # Errors
    /// It cannot be seen.
    fn look(&self, path: &Path) -> io::Result<Option<Found>>;

    /// The interfaces; none if the kernel does not tell.
    fn interfaces(&self) -> Option<Vec<Interface>>;

    /// Whether there is a group of this name; none if that cannot be told.
    fn has_group(&self, name: &str) -> Option<bool>;
}

/// Something at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// The same for every path that leads to it, and for nothing else.
    pub identity: (u64, u64),
    /// Its size, if that is known without opening it.
    pub bytes: Option<u64>,
    /// For what else the kernel uses it, such as `mounted at /srv`.
    pub used: Option<String>,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
    /// A folder.
    Folder,
    /// A pipe, socket or character device.
    Other,
}

/// Notes what of all this cannot be served on this host, or not yet.
pub(super) fn check(
    daemon: &Daemon,
    places: &daemon::Places,
    drafts: &[Draft],
    system: &dyn System,
    notes: &mut Notes,
) {
    let interfaces = system.interfaces();
    for draft in drafts {
        check_file(draft, system, notes);
        if let Some(interfaces) = &interfaces {
            check_interfaces(draft, interfaces, notes);
        }
    }
    if let (Some(group), Some(span)) = (&daemon.group, &places.group)
        && system.has_group(group) == Some(false)
    {
        notes.add(Finding::warning(
            span.clone(),
            format!("/etc/group has no group {}", quote(group)),
            format!(
                "make it (groupadd --system {group}), unless a directory of the network has it"
            ),
        ));
    }
}

fn check_file(draft: &Draft, system: &dyn System, notes: &mut Notes) {
    let settings = &draft.export.settings;
    if let Err((span, message, remedy)) = file(draft, settings, system, notes) {
        notes.add(Finding::error(span, message, remedy));
    }
    if let (Some(freeze), Some(span)) = (&settings.freeze, &draft.places.shadow) {
        check_folder(&freeze.path, span, system, notes);
    }
}

type Wrong = (Range<usize>, String, String);

/// The first thing found wrong with the file of an export.
fn file(
    draft: &Draft,
    settings: &ExportSettings,
    system: &dyn System,
    notes: &mut Notes,
) -> Result<(), Wrong> {
    let span = || draft.places.path.clone();
    let path = quote(&settings.path.to_string_lossy());
    let wrong = |message: String, remedy: &str| Err((span(), message, remedy.to_owned()));
    let found = match system.look(&settings.path) {
        Ok(found) => found,
        Err(error) => {
            notes.add(Finding::warning(
                span(),
                format!("{path} cannot be seen: {error}"),
                "look again as the user that the daemon runs as",
            ));
            return Ok(());
        }
    };
    let Some(found) = found else {
        if settings.open.create_bytes.is_none() {
            return wrong(
                format!("there is no {path}"),
                "mend the path, or add a line such as create = \"10GiB\" to have it made",
            );
        }
        check_folder(&settings.path, &draft.places.path, system, notes);
        return Ok(());
    };
    match (found.kind, found.used) {
        (Kind::Folder, _) => {
            return wrong(
                format!("{path} is a directory"),
                "name a file or block device in it",
            );
        }
        (Kind::Other, _) => {
            return wrong(
                format!("{path} is neither a regular file nor a block device"),
                "name one of these",
            );
        }
        (_, Some(used)) if !settings.open.read_only => {
            return wrong(
                format!("{path} is in use: {used}"),
                "release it first, or set read_only = true",
            );
        }
        _ => {}
    }
    let Some(bytes) = found.bytes else {
        return Ok(());
    };
    check_size(draft, settings, bytes, &path, notes)
}

fn check_size(
    draft: &Draft,
    settings: &ExportSettings,
    bytes: u64,
    path: &str,
    notes: &mut Notes,
) -> Result<(), Wrong> {
    let open = &settings.open;
    let places = &draft.places;
    let span = |place: &Option<Range<usize>>| place.clone().unwrap_or_else(|| places.path.clone());
    if let Some(wanted) = open.create_bytes.filter(|&wanted| wanted != bytes) {
        let message = format!("{path} exists and has {bytes} bytes, not the {wanted} of `create`");
        let remedy = format!(
            "take `create` out, or write create = {bytes}, or name another file ({})",
            Size(bytes)
        );
        return Err((span(&places.create), message, remedy));
    }
    let sectors = bytes / SECTOR_BYTES;
    if sectors == 0 {
        let message = format!("{path} is empty: a disk needs 512 bytes at least");
        let remedy = "remove the file, and add a line such as create = \"10GiB\"";
        return Err((places.path.clone(), message, remedy.to_owned()));
    }
    if let Some(outside) = files::outside(open.offset_sectors, open.length_sectors, sectors) {
        let place = match outside {
            files::Outside::Offset => span(&places.offset),
            files::Outside::Length { .. } => span(&places.length),
        };
        notes.add(outside.finding(place, path, sectors));
        return Ok(());
    }
    let tail = bytes % SECTOR_BYTES;
    if tail != 0 && open.length_sectors.is_none() {
        notes.add(Finding::warning(
            places.path.clone(),
            format!("{path} is no whole number of sectors: its last {tail} bytes are left out"),
            "enlarge it to a multiple of 512 bytes if they matter",
        ));
    }
    Ok(())
}

/// Notes that a file cannot be made.
fn check_folder(path: &Path, span: &Range<usize>, system: &dyn System, notes: &mut Notes) {
    let Some(folder) = path.parent() else { return };
    let name = quote(&folder.to_string_lossy());
    match system.look(folder) {
        Ok(Some(found)) if found.kind == Kind::Folder => {}
        Ok(Some(_)) => notes.add(Finding::error(
            span.clone(),
            format!("{name} is no directory"),
            "choose a place in one",
        )),
        Ok(None) => notes.add(Finding::error(
            span.clone(),
            format!("there is no directory {name} to make the file in"),
            "make the directory, or mend the path",
        )),
        // As for a file that cannot be seen.
        Err(error) => notes.add(Finding::warning(
            span.clone(),
            format!("{name} cannot be seen: {error}"),
            "look again as the user that the daemon runs as",
        )),
    }
}

fn check_interfaces(draft: &Draft, interfaces: &[Interface], notes: &mut Notes) {
    let patterns = &draft.export.interfaces;
    let matched = |one: &Interface| patterns.iter().any(|pattern| pattern.matches(&one.name));
    let is_served = interfaces.iter().any(|one| one.ethernet && matched(one));
    for (pattern, span) in patterns.iter().zip(&draft.places.interfaces) {
        if pattern.is_name() {
            let named = interfaces.iter().find(|one| one.name == pattern.as_str());
            notes.add_all(match named {
                Some(interface) => judge(interface, interfaces, span),
                None => Some(missing(pattern, interfaces, span)),
            });
        } else if !is_served {
            // Of several patterns one is enough: a file may be for several hosts.
            notes.add(Finding::warning(
                span.clone(),
                format!(
                    "no Ethernet interface matches {} now",
                    quote(pattern.as_str())
                ),
                format!(
                    "it is served there once one appears; now there is {}",
                    ethernet(interfaces)
                ),
            ));
        }
    }
}

fn missing(pattern: &Pattern, interfaces: &[Interface], span: &Range<usize>) -> Finding {
    let ethernets = interfaces.iter().filter(|one| one.ethernet);
    let names = ethernets.map(|one| one.name.as_str());
    let remedy = match keys::nearest(names, pattern.as_str()) {
        Some(name) => {
            format!("write \"{name}\", if that is meant; otherwise it is served once it appears")
        }
        None => format!(
            "it is served once it appears; now there is {}",
            ethernet(interfaces)
        ),
    };
    let message = format!("there is no interface {} now", quote(pattern.as_str()));
    Finding::warning(span.clone(), message, remedy)
}

/// What keeps an interface from being served.
fn judge(interface: &Interface, all: &[Interface], span: &Range<usize>) -> Option<Finding> {
    let Interface { name, mtu, up, .. } = interface;
    let span = span.clone();
    if !interface.ethernet {
        let message = format!("`{name}` is no Ethernet interface");
        let remedy = format!("name one that is: {}", ethernet(all));
        return Some(Finding::error(span, message, remedy));
    }
    if *mtu < LEAST_MTU {
        let message = format!("`{name}` has an MTU of {mtu} bytes: nothing is served there");
        let remedy = format!("AoE needs {LEAST_MTU} at least: ip link set {name} mtu 1500");
        return Some(Finding::warning(span, message, remedy));
    }
    let message = format!("`{name}` is down: nothing is served there until it is up");
    let remedy = format!("ip link set {name} up; or look at cable and switch");
    (!up).then(|| Finding::warning(span, message, remedy))
}

/// Interfaces that a message lists.
const MOST_LISTED: usize = 16;

fn ethernet(interfaces: &[Interface]) -> String {
    let all = interfaces.iter().filter(|one| one.ethernet);
    let names: BTreeSet<&str> = all.map(|one| one.name.as_str()).collect();
    if names.is_empty() {
        "none at all".to_owned()
    } else {
        list(names.into_iter().take(MOST_LISTED))
    }
}
