//! Values of the wrong type or out of range, and what was probably meant.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::finding::Finding;
use super::keys::{Key, Takes};
use super::notes::Notes;
use crate::harmless;

/// Bytes of a value that a remedy repeats.
const MOST_BYTES: usize = 60;

/// Notes a number or time that is too small or too large.
pub(super) fn out_of_range<T>(
    key: &Key,
    span: Range<usize>,
    accepted: &str,
    notes: &mut Notes,
) -> Option<T> {
    let name = key.name;
    notes.add(Finding::error(
        span,
        format!("`{name}` is out of range"),
        format!("it takes {accepted}; for example {name} = {}", key.example),
    ));
    None
}

/// Notes a value of another type than the key takes.
pub(super) fn wrong_type<T>(
    key: &Key,
    value: &Spanned<DeValue<'_>>,
    notes: &mut Notes,
) -> Option<T> {
    let name = key.name;
    notes.add(Finding::error(
        value.span(),
        format!(
            "`{name}` takes {}, and this is {}",
            key.takes.name(),
            type_name(value.get_ref())
        ),
        mend(key, value.get_ref()),
    ));
    None
}

/// What was probably meant, written as it should be.
fn mend(key: &Key, value: &DeValue<'_>) -> String {
    let name = key.name;
    let meant = plain(value).and_then(|text| {
        let lower = text.to_lowercase();
        match key.takes {
            Takes::Text => Some(format!("\"{text}\"")),
            Takes::Time if text.parse::<u64>().is_ok() => Some(format!("\"{text}s\"")),
            Takes::List => {
                let items = text.split(',').map(|item| format!("\"{}\"", item.trim()));
                Some(format!("[{}]", items.collect::<Vec<_>>().join(", ")))
            }
            Takes::Count if text.parse::<u64>().is_ok() => Some(text),
            Takes::Switch => match lower.as_str() {
                "true" | "yes" | "on" | "1" => Some("true".to_owned()),
                "false" | "no" | "off" | "0" => Some("false".to_owned()),
                _ => None,
            },
            _ => None,
        }
    });
    match (key.takes, meant) {
        (_, Some(meant)) => format!("write {name} = {meant}"),
        (Takes::Table, None) => format!("begin it with a line [{name}], its keys below"),
        (Takes::Tables, None) => {
            format!("begin each with a line [[{name}]], in double brackets, its keys below")
        }
        (_, None) => format!("write it as {name} = {}", key.example),
    }
}

/// A single value without quotes, if it is short and has nothing that would need escaping.
pub(super) fn plain(value: &DeValue<'_>) -> Option<String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) if number.radix() == 10 => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(on) => on.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        _ => return None,
    };
    let is_plain = |c: char| !harmless::is_order(c) && !matches!(c, '"' | '\\');
    (text.len() <= MOST_BYTES && text.chars().all(is_plain)).then_some(text)
}

/// As a message names it.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time of day",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
