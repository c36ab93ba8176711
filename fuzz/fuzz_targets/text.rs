//! Any text as an address or a size: it is refused, or it means what it prints as.
#![no_main]

use aoede_wire::{Address, MacAddr};
use libfuzzer_sys::fuzz_target;
use size::Size;

// The file alone: the program's other dependencies have no business here.
#[path = "../../crates/aoede/src/size.rs"]
mod size;

fuzz_target!(|text: &str| {
    if let Ok(address) = text.parse::<Address>() {
        assert!(!address.is_wildcard());
        assert_eq!(address.to_string().parse(), Ok(address));
        assert_eq!(Address::new(address.shelf, address.slot), Ok(address));
    }
    if let Ok(mac) = text.parse::<MacAddr>() {
        assert_eq!(mac.to_string().parse(), Ok(mac));
        let digits = |text: &str| -> String {
            let kept = text.chars().filter(|c| !matches!(c, ':' | '-'));
            kept.flat_map(char::to_lowercase).collect()
        };
        assert_eq!(digits(text), digits(&mac.to_string()));
    }
    if let Ok(size) = text.parse::<Size>() {
        let printed = size.to_string();
        // Fractions are cut, and a number of bytes is printed with the word, not the suffix.
        let exact = !printed.contains('.') && !printed.ends_with("bytes");
        assert!(!exact || printed.parse() == Ok(size), "{printed}");
        assert_eq!(size.0.to_string().parse(), Ok(size));
    }
});
