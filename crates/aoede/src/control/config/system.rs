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
use crate::service::LEAST_MTU;

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
    let files = Files { system, daemon };
    let interfaces = system.interfaces();
    for draft in drafts {
        notes.add_all(files.judge(draft));
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

/// The files of this host.
struct Files<'s> {
    system: &'s dyn System,
    daemon: &'s Daemon,
}

impl Files<'_> {
    /// What is wrong with the files of an export: the first of each.
    fn judge(&self, draft: &Draft) -> impl Iterator<Item = Finding> + use<> {
        let freeze = draft.export.settings.freeze.as_ref();
        let shadow = freeze.zip(draft.places.shadow.as_ref());
        let shadow = shadow.and_then(|(freeze, span)| self.judge_folder(&freeze.path, span));
        self.judge_file(draft).into_iter().chain(shadow)
    }

    fn judge_file(&self, draft: &Draft) -> Option<Finding> {
        let open = &draft.export.settings.open;
        let path = &draft.export.settings.path;
        let name = quote(&path.to_string_lossy());
        let span = draft.places.path.clone();
        let found = match self.system.look(path) {
            Ok(Some(found)) => found,
            Ok(None) if open.create_bytes.is_some() => return self.judge_folder(path, &span),
            Ok(None) => {
                let remedy = "mend the path, or add a line such as create = \"10GiB\" to have it \
                              made";
                return Some(Finding::error(span, format!("there is no {name}"), remedy));
            }
            Err(error) => return Some(unseen(&name, &error, span)),
        };
        match (found.kind, found.used) {
            (Kind::Folder, _) => {
                let message = format!("{name} is a directory");
                let remedy = "name a file or block device in it";
                Some(Finding::error(span, message, remedy))
            }
            (Kind::Other, _) => {
                let message = format!("{name} is neither a regular file nor a block device");
                Some(Finding::error(span, message, "name one of these"))
            }
            (_, Some(used)) if !open.read_only => {
                let message = format!("{name} is in use: {used}");
                let remedy = "release it first, or set read_only = true";
                Some(Finding::error(span, message, remedy))
            }
            _ => judge_size(draft, found.bytes?, &name),
        }
    }

    /// Why a file cannot be made at a path.
    fn judge_folder(&self, path: &Path, span: &Range<usize>) -> Option<Finding> {
        let folder = path.parent()?;
        let name = quote(&folder.to_string_lossy());
        let span = span.clone();
        match self.system.look(folder) {
            Ok(Some(found)) if found.kind == Kind::Folder => None,
            // The daemon makes it.
            Ok(None) if folder == self.daemon.state_folder => None,
            Ok(Some(_)) => {
                let message = format!("{name} is no directory");
                Some(Finding::error(span, message, "choose a place in one"))
            }
            Ok(None) => {
                let message = format!("there is no directory {name} to make the file in");
                let remedy = "make the directory, or mend the path";
                Some(Finding::error(span, message, remedy))
            }
            Err(error) => Some(unseen(&name, &error, span)),
        }
    }
}

/// Something that only others may see.
fn unseen(name: &str, error: &io::Error, span: Range<usize>) -> Finding {
    Finding::warning(
        span,
        format!("{name} cannot be seen: {error}"),
        "look again as the user that the daemon runs as",
    )
}

/// What is wrong with the size of a file.
fn judge_size(draft: &Draft, bytes: u64, name: &str) -> Option<Finding> {
    let open = &draft.export.settings.open;
    let places = &draft.places;
    let span = |place: &Option<Range<usize>>| place.clone().unwrap_or_else(|| places.path.clone());
    if let Some(wanted) = open.create_bytes.filter(|&wanted| wanted > bytes) {
        return Some(Finding::error(
            span(&places.create),
            format!("{name} exists and has {bytes} bytes, not the {wanted} of `create`"),
            format!("take `create` out, or write create = {bytes}, or name another file"),
        ));
    }
    let sectors = bytes / SECTOR_BYTES;
    if sectors == 0 {
        return Some(Finding::error(
            places.path.clone(),
            format!("{name} is empty: a disk needs 512 bytes at least"),
            "remove the file, and add a line such as create = \"10GiB\"",
        ));
    }
    if let Some(outside) = files::outside(open.offset_sectors, open.length_sectors, sectors) {
        let place = match outside {
            files::Outside::Offset => span(&places.offset),
            files::Outside::Length { .. } => span(&places.length),
        };
        return Some(outside.finding(place, name, sectors));
    }
    let tail = bytes % SECTOR_BYTES;
    (tail != 0 && open.length_sectors.is_none()).then(|| {
        Finding::warning(
            places.path.clone(),
            format!("{name} is no whole number of sectors: its last {tail} bytes are left out"),
            "enlarge it to a multiple of 512 bytes if they matter",
        )
    })
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
