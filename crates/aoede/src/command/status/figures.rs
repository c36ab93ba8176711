//! Figures as people read them.

use std::time::Duration;

use crate::control::status::Latency;
use crate::size::Size;

/// Bytes, with a prefix.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and far below the largest"
)]
pub(in crate::command) fn bytes(rate: f64) -> String {
    match rate as u64 {
        0 => "0".to_owned(),
        bytes => Size(bytes).to_string(),
    }
}

pub(in crate::command) fn whole(rate: f64) -> String {
    format!("{rate:.0}")
}

/// A figure of durations, if there are any.
pub(in crate::command) fn time(of: &Latency, nanos: u64) -> String {
    if of.count == 0 {
        return "-".to_owned();
    }
    let seconds = Duration::from_nanos(nanos).as_secs_f64();
    let (figure, unit) = match nanos {
        0..1_000_000 => (seconds * 1e6, "us"),
        1_000_000..1_000_000_000 => (seconds * 1e3, "ms"),
        _ => (seconds, "s"),
    };
    // Three digits tell all that there is.
    match figure {
        ..9.995 => format!("{figure:.2} {unit}"),
        ..99.95 => format!("{figure:.1} {unit}"),
        _ => format!("{figure:.0} {unit}"),
    }
}

/// What share the hits are.
pub(in crate::command) fn percent(hits: u64, misses: u64) -> String {
    match hits.saturating_add(misses) {
        0 => "-".to_owned(),
        all => format!("{} %", u128::from(hits) * 100 / u128::from(all)),
    }
}

/// How long somebody has been silent.
pub(in crate::command) fn silence(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        _ => humantime::format_duration(Duration::from_secs(millis / 1000)).to_string(),
    }
}

pub(in crate::command) fn uptime(micros: u64) -> String {
    humantime::format_duration(Duration::from_secs(micros / 1_000_000)).to_string()
}

pub(in crate::command) fn or(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise } else { text }.to_owned()
}
