//! One table of a configuration, read key by key: each value with its place, and each mistake noted.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::finding::Finding;
use super::keys::{self, Key, Takes};
use super::mend::{out_of_range, plain, type_name, wrong_type};
use super::notes::{At, Notes, list, quote};
use crate::size::Size;

/// A table, and the one that stands in for what it does not say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'t> {
    /// As its head is written.
    name: &'static str,
    keys: &'static [Key],
    entries: &'t DeTable<'t>,
    defaults: Option<&'t DeTable<'t>>,
    start: usize,
    end: usize,
}

/// Texts of a list, and where the list stands.
type Texts<'t> = At<Vec<At<&'t str>>>;

type Entry<'t> = (&'static Key, &'t Spanned<DeValue<'t>>);

impl<'t> Table<'t> {
    pub(super) fn new(
        name: &'static str,
        keys: &'static [Key],
        entries: &'t DeTable<'t>,
        span: Range<usize>,
    ) -> Self {
        Self {
            name,
            keys,
            entries,
            defaults: None,
            start: span.start,
            end: span.end,
        }
    }

    /// With another table for the shared keys that it does not have.
    pub(super) fn with_defaults(self, defaults: Option<&'t DeTable<'t>>) -> Self {
        Self { defaults, ..self }
    }

    /// Where its head stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Notes every key of its own that no such table has.
    pub(super) fn check_keys(&self, is_allowed: impl Fn(&Key) -> bool, notes: &mut Notes) {
        let names = || {
            let allowed = self.keys.iter().filter(|key| is_allowed(key));
            allowed.map(|key| key.name)
        };
        for written in self.entries.keys() {
            let name: &str = written.get_ref();
            match keys::find(self.keys, name) {
                Some(key) if is_allowed(key) => {}
                Some(key) => notes.add(Finding::error(
                    written.span(),
                    format!("`{}` cannot stand in {}", key.name, self.name),
                    format!(
                        "write it under the [[export]] that it is for; {} takes {}",
                        self.name,
                        list(names())
                    ),
                )),
                None => notes.add(Finding::error(
                    written.span(),
                    format!("{} has no key {}", self.name, quote(name)),
                    unknown(name, names()),
                )),
            }
        }
    }

    /// The value of a key, of its own or by default.
    fn entry(&self, name: &str) -> Option<Entry<'t>> {
        let key = keys::find(self.keys, name)?;
        let own = self.entries.get(name);
        let value = own.or_else(|| {
            let defaults = self.defaults.filter(|_| key.shared)?;
            defaults.get(name)
        })?;
        Some((key, value))
    }

    /// Where the value of a key stands, whatever it is.
    pub(super) fn place(&self, name: &str) -> Option<Range<usize>> {
        self.entry(name).map(|(_, value)| value.span())
    }

    /// Notes that a key must be there.
    pub(super) fn require(&self, name: &str, notes: &mut Notes) {
        if self.entry(name).is_some() {
            return;
        }
        let example = keys::find(self.keys, name).map_or("", |key| key.example);
        let place = if keys::find(self.keys, name).is_some_and(|key| key.shared) {
            " here or under [defaults]"
        } else {
            ""
        };
        notes.add(Finding::error(
            self.span(),
            format!("{} needs `{name}`", self.name),
            format!("add a line{place}, such as {name} = {example}"),
        ));
    }

    pub(super) fn text(&self, name: &str, notes: &mut Notes) -> Option<At<&'t str>> {
        let (key, value) = self.entry(name)?;
        match value.get_ref() {
            DeValue::String(text) => Some(At::new(value.span(), text)),
            _ => wrong_type(key, value, notes),
        }
    }

    /// Text that means something.
    pub(super) fn parsed<T>(&self, name: &str, remedy: &str, notes: &mut Notes) -> Option<At<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let At { value: text, span } = self.text(name, notes)?;
        match text.parse() {
            Ok(value) => Some(At::new(span, value)),
            Err(error) => {
                let message = format!("`{name}`: {} is wrong: {error}", quote(text));
                notes.add(Finding::error(span, message, remedy));
                None
            }
        }
    }

    /// One of several words.
    pub(super) fn choice<T: ValueEnum>(&self, name: &str, notes: &mut Notes) -> Option<T> {
        let text = self.text(name, notes)?;
        let found = word(name, &text, notes);
        found.map(|found| found.value)
    }

    /// Several of several words.
    pub(super) fn choices<T: ValueEnum>(
        &self,
        name: &str,
        notes: &mut Notes,
    ) -> Option<Vec<At<T>>> {
        let texts = self.list(name, notes)?;
        let found = texts.value.iter().map(|text| word(name, text, notes));
        // All of them are looked at before any is missed.
        let found: Vec<Option<At<T>>> = found.collect();
        found.into_iter().collect()
    }

    pub(super) fn size(&self, name: &str, notes: &mut Notes) -> Option<At<Size>> {
        let (key, value) = self.entry(name)?;
        let span = value.span();
        match value.get_ref() {
            DeValue::String(text) => match text.parse() {
                Ok(size) => Some(At::new(span, size)),
                Err(error) => {
                    let message = format!("`{name}`: {} is no size: {error}", quote(text));
                    let remedy = format!("write it as {name} = {}", key.example);
                    notes.add(Finding::error(span, message, remedy));
                    None
                }
            },
            DeValue::Integer(number) => match unsigned(number) {
                Some(bytes) => Some(At::new(span, Size(bytes))),
                None => out_of_range(key, span, "0 to 18446744073709551615", notes),
            },
            _ => wrong_type(key, value, notes),
        }
    }

    pub(super) fn time(
        &self,
        name: &str,
        range: &RangeInclusive<Duration>,
        notes: &mut Notes,
    ) -> Option<Duration> {
        let (key, value) = self.entry(name)?;
        let DeValue::String(text) = value.get_ref() else {
            return wrong_type(key, value, notes);
        };
        let example = format!("write it as {name} = {}", key.example);
        match humantime::parse_duration(text) {
            Ok(time) if range.contains(&time) => Some(time),
            Ok(_) => {
                let show = |time: &Duration| humantime::format_duration(*time).to_string();
                let accepted = format!("{} to {}", show(range.start()), show(range.end()));
                out_of_range(key, value.span(), &accepted, notes)
            }
            Err(error) => {
                let message = format!("`{name}`: {} is no time: {error}", quote(text));
                notes.add(Finding::error(value.span(), message, example));
                None
            }
        }
    }

    /// A whole number in a range.
    pub(super) fn count<T: TryFrom<u64> + PartialOrd + Display>(
        &self,
        name: &str,
        range: &RangeInclusive<T>,
        notes: &mut Notes,
    ) -> Option<At<T>> {
        let (key, value) = self.entry(name)?;
        let DeValue::Integer(number) = value.get_ref() else {
            return wrong_type(key, value, notes);
        };
        let number = unsigned(number).and_then(|number| T::try_from(number).ok());
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(At::new(value.span(), number));
        }
        let accepted = format!("{} to {}", range.start(), range.end());
        out_of_range(key, value.span(), &accepted, notes)
    }

    pub(super) fn switch(&self, name: &str, notes: &mut Notes) -> Option<At<bool>> {
        let (key, value) = self.entry(name)?;
        match value.get_ref() {
            DeValue::Boolean(on) => Some(At::new(value.span(), *on)),
            _ => wrong_type(key, value, notes),
        }
    }

    /// Texts; the ones that are no texts are noted and left out.
    pub(super) fn list(&self, name: &str, notes: &mut Notes) -> Option<Texts<'t>> {
        let (key, value) = self.entry(name)?;
        let DeValue::Array(_) = value.get_ref() else {
            return wrong_type(key, value, notes);
        };
        Some(At::new(value.span(), texts(name, value, notes)))
    }

    /// A table in this one.
    pub(super) fn table(
        &self,
        name: &'static str,
        head: &'static str,
        keys: &'static [Key],
        notes: &mut Notes,
    ) -> Option<Self> {
        let (key, value) = self.entry(name)?;
        match value.get_ref() {
            DeValue::Table(entries) => Some(Table::new(head, keys, entries, value.span())),
            _ => wrong_type(key, value, notes),
        }
    }

    /// Tables of one name in this one, in the order of the text.
    pub(super) fn tables(
        &self,
        name: &'static str,
        head: &'static str,
        keys: &'static [Key],
        notes: &mut Notes,
    ) -> Vec<Self> {
        let Some((key, value)) = self.entry(name) else {
            return Vec::new();
        };
        let DeValue::Array(tables) = value.get_ref() else {
            wrong_type::<()>(key, value, notes);
            return Vec::new();
        };
        let mut found = Vec::new();
        for table in tables {
            match table.get_ref() {
                DeValue::Table(entries) => {
                    found.push(Table::new(head, keys, entries, table.span()));
                }
                _ => drop(wrong_type::<()>(key, table, notes)),
            }
        }
        found
    }

    /// Entries whose names are the operator's own: name, and texts.
    pub(super) fn own_lists(&self, notes: &mut Notes) -> Vec<(At<&'t str>, Texts<'t>)> {
        let mut lists = Vec::new();
        for (name, value) in self.entries {
            let text: &str = name.get_ref();
            if matches!(value.get_ref(), DeValue::Array(_)) {
                let entries = At::new(value.span(), texts(text, value, notes));
                lists.push((At::new(name.span(), text), entries));
            } else {
                notes.add(Finding::error(
                    value.span(),
                    format!("{} takes {}", quote(text), Takes::List.name()),
                    if is_bare(text) {
                        format!("write {text} = [\"52:54:00:00:00:01\"]")
                    } else {
                        "write the list behind it in brackets: [\"52:54:00:00:00:01\"]".to_owned()
                    },
                ));
            }
        }
        lists
    }

    /// The table as it stands in the file.
    pub(super) fn entries(&self) -> &'t DeTable<'t> {
        self.entries
    }
}

/// Whether a key may be written without quotes, and is short enough to be repeated.
fn is_bare(key: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=60).contains(&key.len()) && key.chars().all(is_plain)
}

/// What to do about a key that there is not.
fn unknown(name: &str, names: impl Iterator<Item = &'static str> + Clone) -> String {
    if let Some(meant) = keys::nearest(names.clone(), name) {
        return format!("write `{meant}`");
    }
    let elsewhere = [
        ("in front of the first table", keys::TOP),
        ("under [control]", keys::CONTROL),
        ("under [status]", keys::STATUS),
        ("under [[export]]", keys::EXPORT),
    ];
    let place = elsewhere
        .iter()
        .find(|(_, keys)| keys::find(keys, name).is_some());
    match place {
        Some((place, _)) => format!("`{name}` stands {place}"),
        None => format!("it takes {}", list(names)),
    }
}

/// The texts of an array.
fn texts<'t>(name: &str, array: &'t Spanned<DeValue<'t>>, notes: &mut Notes) -> Vec<At<&'t str>> {
    let mut texts = Vec::new();
    for value in array
        .get_ref()
        .as_array()
        .into_iter()
        .flat_map(|array| array.iter())
    {
        match value.get_ref() {
            DeValue::String(text) => texts.push(At::new(value.span(), text.as_ref())),
            other => notes.add(Finding::error(
                value.span(),
                format!(
                    "{} is a list of texts, and this is {}",
                    quote(name),
                    type_name(other)
                ),
                match plain(other) {
                    Some(text) => format!("put it in quotes: \"{text}\""),
                    None => "write texts in quotes only, with commas between".to_owned(),
                },
            )),
        }
    }
    texts
}

fn word<T: ValueEnum>(name: &str, text: &At<&str>, notes: &mut Notes) -> Option<At<T>> {
    let span = text.span.clone();
    if let Ok(value) = T::from_str(text.value, false) {
        return Some(At::new(span, value));
    }
    let values = T::value_variants().iter().filter_map(T::to_possible_value);
    let words: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
    let meant = keys::nearest(words.iter().map(String::as_str), text.value);
    notes.add(Finding::error(
        span,
        format!("`{name}` has no choice {}", quote(text.value)),
        match meant {
            Some(meant) => format!("write \"{meant}\"; it takes {}", list(&words)),
            None => format!("it takes {}", list(&words)),
        },
    ));
    None
}

fn unsigned(number: &DeInteger<'_>) -> Option<u64> {
    let digits = number.as_str();
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    u64::from_str_radix(digits, number.radix()).ok()
}
