//! Every key of a configuration, once: what it takes, and an example that is right.
//!
//! The meaning of each stands in `docs/configuration.md`.

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Text in quotes.
    Text,
    /// A number of bytes, or text such as `"64MiB"`.
    Size,
    /// Text such as `"1s"`.
    Time,
    /// A whole number.
    Count,
    /// `true` or `false`.
    Switch,
    /// Texts in brackets.
    List,
    /// Keys of its own, under a line `[name]`.
    Table,
    /// Any number of tables, each under a line `[[name]]`.
    Tables,
}

impl Takes {
    /// As a message names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text in quotes",
            Self::Size => "a size in quotes, such as \"64MiB\", or a number of bytes",
            Self::Time => "a time in quotes, such as \"500ms\" or \"2s\"",
            Self::Count => "a whole number",
            Self::Switch => "true or false",
            Self::List => "a list of texts in quotes",
            Self::Table => "a table",
            Self::Tables => "a table of its own for each, in double brackets",
        }
    }
}

/// A key that may stand in a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// A value that is right.
    pub example: &'static str,
    /// For those of an export: it may stand under `[defaults]` too.
    pub shared: bool,
}

const fn key(name: &'static str, takes: Takes, example: &'static str) -> Key {
    Key {
        name,
        takes,
        example,
        shared: false,
    }
}

const fn shared(name: &'static str, takes: Takes, example: &'static str) -> Key {
    Key {
        shared: true,
        ..key(name, takes, example)
    }
}

/// Keys in front of the first table.
pub const TOP: &[Key] = &[
    key("state_folder", Takes::Text, "\"/var/lib/aoede\""),
    key("workers", Takes::Count, "2"),
    key("busy_poll", Takes::Time, "\"50us\""),
    key("control", Takes::Table, ""),
    key("status", Takes::Table, ""),
    key("lists", Takes::Table, ""),
    key("defaults", Takes::Table, ""),
    key("export", Takes::Tables, ""),
];

/// Keys under `[control]`.
pub const CONTROL: &[Key] = &[
    key("socket", Takes::Text, "\"/run/aoede/control.sock\""),
    key("group", Takes::Text, "\"aoede\""),
];

/// Keys under `[status]`.
pub const STATUS: &[Key] = &[
    key("listen", Takes::Text, "\"127.0.0.1:34978\""),
    key("beyond_loopback", Takes::Switch, "true"),
];

/// Keys under `[[export]]`; the shared ones under `[defaults]` as well.
pub const EXPORT: &[Key] = &[
    key("address", Takes::Text, "\"e1.1\""),
    key("path", Takes::Text, "\"/srv/disk.img\""),
    key("create", Takes::Size, "\"10GiB\""),
    key("offset", Takes::Count, "2048"),
    key("length", Takes::Count, "2097152"),
    shared("interfaces", Takes::List, "[\"eth0\", \"enp*\"]"),
    shared("read_only", Takes::Switch, "true"),
    shared("allow", Takes::List, "[\"52:54:00:00:00:01\"]"),
    shared("allow_read", Takes::List, "[\"52:54:00:00:00:01\"]"),
    shared("allow_write", Takes::List, "[\"52:54:00:00:00:01\"]"),
    shared("allow_configure", Takes::List, "[\"52:54:00:00:00:01\"]"),
    shared("cache", Takes::Text, "\"writethrough\""),
    shared("cache_size", Takes::Size, "\"64MiB\""),
    shared("dirty_size", Takes::Size, "\"32MiB\""),
    shared("dirty_age", Takes::Time, "\"1s\""),
    shared("io", Takes::Text, "\"direct\""),
    key("shadow", Takes::Text, "\"/srv/disk.shadow\""),
    key("shadow_limit", Takes::Size, "\"4GiB\""),
    key("shadow_full", Takes::Text, "\"fail\""),
    key("unfinished_freeze", Takes::Text, "\"continue\""),
    shared("engine", Takes::Text, "\"auto\""),
    shared("buffers", Takes::Count, "64"),
    shared("extensions", Takes::List, "[\"coalesced_read\", \"tags\"]"),
    shared("extension_reset", Takes::Text, "\"release\""),
    shared("model", Takes::Text, "\"AoEde\""),
    key("serial", Takes::Text, "\"e1.1:nas\""),
    shared("bytes_per_second", Takes::Size, "\"100MiB\""),
    shared("operations_per_second", Takes::Count, "5000"),
    key("worker", Takes::Count, "0"),
];

/// The key of that name.
pub(super) fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

/// Of some names the one that a wrong one was probably meant to be.
pub(super) fn nearest<'n>(
    names: impl IntoIterator<Item = &'n str>,
    wrong: &str,
) -> Option<&'n str> {
    // Longer ones are no slips of the finger, and comparing takes the square of their length.
    if wrong.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let wrong = plain(wrong);
    let distances = names.into_iter().map(|name| {
        let close = distance(&plain(name), &wrong);
        // What only begins or ends differently is meant, too: `interface`, `cache_mode`.
        let part = wrong.len() >= 4 && (name.starts_with(&wrong) || wrong.starts_with(name));
        (if part { close.min(2) } else { close }, name)
    });
    let (least, name) = distances.min_by_key(|&(distance, _)| distance)?;
    // A third of its letters.
    (least <= (wrong.chars().count() / 3).clamp(1, 3)).then_some(name)
}

/// How many letters must be put in, left out, changed, or swapped with the next.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &left) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &right) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let mut least = (at(&last, j) + usize::from(left != right))
                .min(at(&last, j + 1) + 1)
                .min(at(&row, j) + 1);
            let swapped =
                i > 0 && j > 0 && a.get(i - 1) == Some(&right) && b.get(j - 1) == Some(&left);
            if swapped {
                least = least.min(at(&before, j - 1) + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let names = || EXPORT.iter().map(|key| key.name);
        for (wrong, meant) in [
            ("adress", Some("address")),
            ("addrses", Some("address")),
            ("cache-size", Some("cache_size")),
            ("Cache_Size", Some("cache_size")),
            ("interface", Some("interfaces")),
            ("readonly", Some("read_only")),
            ("cache_mode", Some("cache")),
            ("pth", Some("path")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(names(), wrong), meant, "{wrong}");
        }
        assert_eq!(nearest(names(), &"address".repeat(10)), None);
    }

    #[test]
    fn a_distance_counts_slips() {
        for (a, b, slips) in [
            ("", "", 0),
            ("abc", "", 3),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("e1.1", "e1.2", 1),
        ] {
            assert_eq!(distance(a, b), slips, "{a} {b}");
        }
    }
}
