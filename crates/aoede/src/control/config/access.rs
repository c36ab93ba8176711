//! Who may read, write and configure: lists of MAC addresses, and lists with names.

use std::collections::{BTreeMap, BTreeSet};

use aoede_target::{Access, Who};
use aoede_wire::MacAddr;

use super::finding::Finding;
use super::keys;
use super::notes::{At, Notes, list, quote};
use super::table::Table;

/// Entries of a MAC mask list: its count on the wire is one byte (§5).
const MOST_ENTRIES: usize = 255;

/// Lists with names, and which of them were used.
pub(super) struct Lists<'t> {
    macs: BTreeMap<&'t str, BTreeSet<MacAddr>>,
    names: Vec<At<&'t str>>,
    used: BTreeSet<&'t str>,
}

impl<'t> Lists<'t> {
    pub(super) fn read(table: Option<Table<'t>>, notes: &mut Notes) -> Self {
        let mut lists = Self {
            macs: BTreeMap::new(),
            names: Vec::new(),
            used: BTreeSet::new(),
        };
        let Some(table) = table else {
            return lists;
        };
        for (name, entries) in table.own_lists(notes) {
            if name.value.parse::<MacAddr>().is_ok() {
                notes.add(Finding::error(
                    name.span.clone(),
                    format!(
                        "{} is a MAC address, and cannot be the name of a list",
                        quote(name.value)
                    ),
                    "give the list another name, such as rack1",
                ));
            }
            let macs = entries.value.iter().filter_map(|entry| {
                mac(
                    entry,
                    "write a MAC address; lists cannot stand in lists",
                    notes,
                )
            });
            lists.macs.insert(name.value, macs.collect());
            lists.names.push(name);
        }
        lists
    }

    /// Notes the lists that nothing uses.
    pub(super) fn check_used(self, notes: &mut Notes) {
        for name in self.names {
            if !self.used.contains(name.value) {
                notes.add(Finding::warning(
                    name.span,
                    format!("no export uses the list {}", quote(name.value)),
                    format!(
                        "name it in an export, as in allow = [\"{}\"], or take it out",
                        name.value.escape_debug()
                    ),
                ));
            }
        }
    }

    /// The initiators that a key names. None: it is not there, or is wrong.
    fn who(&mut self, table: &Table<'t>, key: &str, notes: &mut Notes) -> Option<Who> {
        let entries = table.list(key, notes)?;
        let mut who = BTreeSet::new();
        let mut is_right = true;
        for entry in &entries.value {
            if let Some((&name, macs)) = self.macs.get_key_value(entry.value) {
                self.used.insert(name);
                who.extend(macs);
            } else {
                let remedy = self.no_such(entry.value);
                let mac = mac(entry, &remedy, notes);
                is_right &= mac.is_some();
                who.extend(mac);
            }
        }
        if who.len() > MOST_ENTRIES {
            notes.add(Finding::error(
                entries.span,
                format!("`{key}` names {} initiators", who.len()),
                format!("name {MOST_ENTRIES} at most, or leave out the key for everyone"),
            ));
            return None;
        }
        is_right.then_some(Who::These(who))
    }

    fn no_such(&self, name: &str) -> String {
        let names = || self.macs.keys().copied();
        match keys::nearest(names(), name) {
            Some(meant) => format!("write \"{}\", or a MAC address such as 52:54:00:00:00:01", meant.escape_debug()),
            None if self.macs.is_empty() => {
                "write a MAC address such as 52:54:00:00:00:01; lists with names stand under [lists]"
                    .to_owned()
            }
            None => format!(
                "write a MAC address such as 52:54:00:00:00:01, or the name of a list: {}",
                list(names().take(16).map(quote))
            ),
        }
    }

    /// What initiators may do with the export of this table.
    pub(super) fn access(&mut self, table: &Table<'t>, notes: &mut Notes) -> Access {
        let all = self.who(table, "allow", notes);
        let mut some = |key| self.who(table, key, notes).or_else(|| all.clone());
        Access {
            read: some("allow_read").unwrap_or_default(),
            write: some("allow_write").unwrap_or_default(),
            configure: some("allow_configure").unwrap_or_default(),
        }
    }
}

/// Notes what is in order as such, and no use.
pub(super) fn check(access: &Access, table: &Table<'_>, notes: &mut Notes) {
    let place = |key| table.place(key).or_else(|| table.place("allow"));
    if access.read == Who::These(BTreeSet::new())
        && let Some(span) = place("allow_read")
    {
        notes.add(Finding::error(
            span,
            "nobody may read this disk",
            "name who may, or leave out the key for everyone",
        ));
        return;
    }
    let strangers = |who: &Who| match (who, &access.read) {
        (Who::These(who), Who::These(_)) => {
            who.iter().copied().find(|&mac| !access.read.includes(mac))
        }
        _ => None,
    };
    for (key, who) in [
        ("allow_write", &access.write),
        ("allow_configure", &access.configure),
    ] {
        if let (Some(mac), Some(span)) = (strangers(who), table.place(key)) {
            notes.add(Finding::warning(
                span,
                format!("`{key}` names {mac}, which may not read the disk"),
                "name it in `allow_read` or `allow` too: no initiator works without reading",
            ));
        }
    }
    let most = access.mask().len();
    if most > MOST_ENTRIES {
        notes.add(Finding::error(
            table.span(),
            format!("the lists of this export name {most} initiators"),
            format!("name {MOST_ENTRIES} at most, or leave out `allow_read` for everyone"),
        ));
    }
}

/// The address of one station.
fn mac(entry: &At<&str>, remedy: &str, notes: &mut Notes) -> Option<MacAddr> {
    let text = quote(entry.value);
    match entry.value.parse::<MacAddr>() {
        Ok(mac) if mac.is_unicast() => Some(mac),
        Ok(_) => {
            notes.add(Finding::error(
                entry.span.clone(),
                format!("{text} is the address of no single station"),
                "write the initiator's own address, as `ip link` shows it there",
            ));
            None
        }
        Err(_) => {
            notes.add(Finding::error(
                entry.span.clone(),
                format!("{text} is neither a MAC address nor the name of a list"),
                remedy,
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_list_lets_everybody_in_who_may_do_anything() {
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let these = |last: &[u8]| Who::These(last.iter().map(|&last| mac(last)).collect());
        let access = |read, write, configure| Access {
            read,
            write,
            configure,
        };
        let mask = access(these(&[1, 2]), these(&[2, 3]), these(&[4])).mask();
        assert_eq!(mask, [mac(1), mac(2), mac(3), mac(4)]);
        for open in [
            access(Who::Everyone, these(&[1]), these(&[1])),
            access(these(&[1]), Who::Everyone, these(&[1])),
            access(these(&[1]), these(&[1]), Who::Everyone),
        ] {
            assert_eq!(open.mask(), []);
        }
    }
}
