//! Which exports use the same file, and the same part of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use super::export::Draft;
use super::finding::Finding;
use super::notes::Notes;
use super::system::System;

/// Which of the two keys lies outside the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outside {
    /// Nothing is left behind it.
    Offset,
    /// More than the sectors that are left.
    Length {
        /// How many those are.
        left: u64,
    },
}

/// Whether a window lies in a file of so many sectors, and what does not.
pub(super) fn outside(offset: u64, length: Option<u64>, sectors: u64) -> Option<Outside> {
    match sectors.checked_sub(offset) {
        None | Some(0) => Some(Outside::Offset),
        Some(left) => length
            .filter(|&length| length > left)
            .map(|_| Outside::Length { left }),
    }
}

impl Outside {
    pub(super) fn finding(self, span: Range<usize>, file: &str, sectors: u64) -> Finding {
        match self {
            Self::Offset => Finding::error(
                span,
                format!("`offset` leaves nothing of {file}, which has {sectors} sectors"),
                "make it smaller; it counts sectors of 512 bytes",
            ),
            Self::Length { left } => Finding::error(
                span,
                format!("`length` goes beyond the end of {file}: {left} sectors are left there"),
                "make it smaller, or leave it out to serve all to the end; it counts sectors of \
                 512 bytes",
            ),
        }
    }
}

/// What tells one file from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    /// Whatever the path that leads to it.
    Known((u64, u64)),
    /// Not there yet, in a folder that is.
    In((u64, u64), PathBuf),
    /// Only its path is known.
    Path(PathBuf),
}

/// A part of a file that an export uses.
#[derive(Debug)]
struct Use {
    export: usize,
    span: Range<usize>,
    from: u64,
    to: u64,
    writes: bool,
}

/// Notes exports that use the same part of a file, if one of them writes it.
pub(super) fn check(drafts: &[Draft], system: Option<&dyn System>, notes: &mut Notes) {
    let mut files: BTreeMap<Identity, Vec<Use>> = BTreeMap::new();
    for (export, draft) in drafts.iter().enumerate() {
        let settings = &draft.export.settings;
        let from = settings.open.offset_sectors;
        let to = match settings.open.length_sectors {
            Some(length) => from.saturating_add(length),
            None => u64::MAX,
        };
        files
            .entry(identity(&settings.path, system))
            .or_default()
            .push(Use {
                export,
                span: draft.places.path.clone(),
                from,
                to,
                writes: !settings.open.read_only,
            });
        let Some(freeze) = &settings.freeze else {
            continue;
        };
        let mut map = freeze.path.clone().into_os_string();
        map.push(".map");
        for path in [&freeze.path, Path::new(&map)] {
            files.entry(identity(path, system)).or_default().push(Use {
                export,
                span: draft
                    .places
                    .shadow
                    .clone()
                    .unwrap_or_else(|| draft.places.path.clone()),
                from: 0,
                to: u64::MAX,
                writes: true,
            });
        }
    }
    for uses in files.into_values() {
        check_uses(drafts, uses, notes);
    }
}

/// One pass in the order of the file: of those before, only the ones that reach furthest matter.
fn check_uses(drafts: &[Draft], mut uses: Vec<Use>, notes: &mut Notes) {
    uses.sort_by_key(|part| (part.from, part.export));
    let mut furthest: Option<usize> = None;
    let mut furthest_written: Option<usize> = None;
    let reaches = |seen: Option<usize>| seen.and_then(|seen| uses.get(seen));
    for (index, part) in uses.iter().enumerate() {
        let before = if part.writes {
            furthest
        } else {
            furthest_written
        };
        if let Some(before) = reaches(before).filter(|before| before.to > part.from) {
            note(drafts, before, part, notes);
        }
        let is_further =
            |seen: Option<usize>| reaches(seen).is_none_or(|before| before.to < part.to);
        if is_further(furthest) {
            furthest = Some(index);
        }
        if part.writes && is_further(furthest_written) {
            furthest_written = Some(index);
        }
    }
}

fn note(drafts: &[Draft], a: &Use, b: &Use, notes: &mut Notes) {
    let (first, second) = if a.span.start <= b.span.start {
        (a, b)
    } else {
        (b, a)
    };
    let name = |part: &Use| {
        let draft = drafts.get(part.export);
        draft.map_or_else(String::new, |draft| draft.export.address().to_string())
    };
    let (message, remedy) =
        if first.export == second.export {
            (
                format!("{} has its shadow in the file itself", name(second)),
                "give the shadow a file of its own".to_owned(),
            )
        } else {
            (
            format!("{} and {} use the same part of one file", name(first), name(second)),
            "give each a file of its own, or parts that do not overlap (offset, length), or make \
             both read_only; two addresses for one disk are no second path to it"
                .to_owned(),
        )
        };
    notes.add(
        Finding::error(second.span.clone(), message, remedy).and(first.span.clone(), "also here"),
    );
}

fn identity(path: &Path, system: Option<&dyn System>) -> Identity {
    let look = |path: &Path| system.and_then(|system| system.look(path).ok().flatten());
    if let Some(found) = look(path) {
        return Identity::Known(found.identity);
    }
    match (path.parent().and_then(look), path.file_name()) {
        (Some(folder), Some(name)) => Identity::In(folder.identity, PathBuf::from(name)),
        _ => Identity::Path(plain(path)),
    }
}

/// Without what changes nothing: doubled slashes and dots.
fn plain(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}
