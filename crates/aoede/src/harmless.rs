//! Text of others as a terminal may get it: nothing in it is an order, breaks the line, or turns
//! the direction of writing around, so that what is seen is what is there.

use std::borrow::Cow;

/// Whether a terminal does something at it instead of showing it: control characters, those behind
/// ASCII too, line and paragraph separators, and what changes the direction of writing.
pub(crate) fn is_order(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// As one line, with escapes: `\n`, `\u{1b}`.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_order)
}

/// As [`line`], but line breaks stay.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_order(c) && c != '\n')
}

fn escaped(text: &str, is_wrong: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_wrong) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_wrong(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// JSON that means the same. These characters stand in its texts only, but for its line breaks.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let is_wrong = |c: char| is_order(c) && c != '\n';
    if !text.contains(is_wrong) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| match c {
        // All of them are below U+10000, where one escape is enough.
        c if is_wrong(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    Cow::Owned(text.chars().map(escape).collect())
}

/// A whole file: every character stands where it stood, with one that can be seen in the place of
/// each order. Tabs and ends of lines stay.
pub(crate) fn file(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| visible(c) == c) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(visible).collect())
}

fn visible(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' => c,
        // Unicode has pictures of them, in the same order.
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        c if is_order(c) => '\u{fffd}',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, and the borders of each range.
    const ORDERS: &str = "\0\t\n\r\u{1b}\u{1f}\u{7f}\u{80}\u{85}\u{9b}\u{9f}\u{61c}\u{200e}\u{200f}\
                          \u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}";

    /// Those next to them.
    const PLAIN: &str =
        " ~\u{a0}\u{61b}\u{61d}\u{2010}\u{2027}\u{202f}\u{2065}\u{206a}\u{e9}\u{1f600}";

    #[test]
    fn orders_are_told_from_what_can_be_shown() {
        assert!(ORDERS.chars().all(is_order));
        assert!(!PLAIN.contains(is_order));
        assert_eq!((line(PLAIN), file(PLAIN)), (PLAIN.into(), PLAIN.into()));
    }

    #[test]
    fn a_line_has_escapes() {
        assert_eq!(line("a\n\t\u{9b}2J\u{202e}"), "a\\n\\t\\u{9b}2J\\u{202e}");
        assert_eq!(lines("a\n\r\u{9b}"), "a\n\\r\\u{9b}");
        assert!(!line(ORDERS).contains(is_order));
    }

    #[test]
    fn a_file_keeps_its_lines_and_the_places_in_them() {
        assert_eq!(
            file("\u{1b}[2J\ta\u{7f}\r\n\u{9b}\u{202e}\0"),
            "\u{241b}[2J\ta\u{2421}\r\n\u{fffd}\u{fffd}\u{2400}"
        );
        assert_eq!(file(ORDERS).chars().count(), ORDERS.chars().count());
    }

    #[test]
    fn json_means_the_same() {
        let text = serde_json::to_string_pretty(&[ORDERS, PLAIN]).unwrap();
        let shown = json(&text);
        assert!(!shown.replace('\n', "").contains(is_order), "{shown:?}");
        let back: Vec<String> = serde_json::from_str(&shown).unwrap();
        assert_eq!(back, [ORDERS, PLAIN]);
    }
}
