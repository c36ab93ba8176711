//! Any text as a configuration: it is right, or whatever is said of it has a place and a remedy.
#![no_main]

use aoede::control::config::{Severity, Source, check};
use aoede::control::plan::{State, diff};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let checked = check(text, None);
    let source = Source { name: "x", text };
    let mut errors = 0;
    for (number, finding) in checked.findings.iter().enumerate() {
        errors += usize::from(finding.severity == Severity::Error);
        assert!(text.get(finding.span.clone()).is_some());
        for line in [&finding.message, &finding.remedy] {
            assert!(!line.is_empty() && !line.contains(char::is_control));
        }
        // To show one takes as long as the text is.
        if number >= 20 {
            continue;
        }
        let shown = source.show(finding, false);
        assert!(shown.contains(" help: "));
        // What a terminal takes for an order stays out.
        assert!(
            shown.chars().all(|c| c == '\n' || !c.is_control()),
            "{shown:?}"
        );
    }
    assert_eq!(checked.config.is_some(), errors == 0);
    let Some(config) = checked.config else { return };
    let wanted = State::wanted(config, &State::default(), 4);
    let plan = diff(&State::default(), &wanted);
    assert_eq!(plan.apply(State::default()), wanted);
    assert!(diff(&wanted, &wanted).is_empty());
});
