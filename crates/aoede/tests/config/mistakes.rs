//! What goes wrong most often: what is said, of which line, and what to do. `mistakes.txt` has them.

use aoede::control::config::{Located, Severity, check};

use super::{export, findings};

const MISTAKES: &str = include_str!("mistakes.txt");

/// What `@export` stands for.
fn first() -> String {
    export("").trim_end().to_owned()
}

struct Mistake<'t> {
    story: &'t str,
    text: String,
    expected: Vec<Expected<'t>>,
}

#[derive(Debug)]
struct Expected<'t> {
    severity: Severity,
    line: usize,
    message: &'t str,
    remedy: &'t str,
}

fn mistakes() -> Vec<Mistake<'static>> {
    let stories = MISTAKES.split("\n== ").skip(1);
    let mistakes = stories.map(|block| {
        let (story, rest) = block.split_once('\n').unwrap();
        let (text, expected) = rest.split_once("--\n").unwrap();
        Mistake {
            story,
            text: text.replace("@export", &first()),
            expected: expected.trim_end().lines().map(expectation).collect(),
        }
    });
    mistakes.collect()
}

/// `error 5 | message | remedy`
fn expectation(line: &str) -> Expected<'_> {
    let mut parts = line.splitn(3, " | ");
    let (severity, number) = parts.next().unwrap().split_once(' ').unwrap();
    Expected {
        severity: match severity {
            "error" => Severity::Error,
            "warning" => Severity::Warning,
            other => panic!("{other}"),
        },
        line: number.parse().unwrap(),
        message: parts.next().unwrap(),
        remedy: parts.next().filter(|remedy| !remedy.is_empty()).unwrap(),
    }
}

fn is_as_expected(found: &Located, expected: &Expected<'_>) -> bool {
    (found.severity, found.line) == (expected.severity, expected.line)
        && found.message.contains(expected.message)
        && found.remedy.contains(expected.remedy)
}

#[test]
fn every_mistake_is_told_with_its_line_and_remedy() {
    let mistakes = mistakes();
    assert!(mistakes.len() >= 60, "{}", mistakes.len());
    for Mistake {
        story,
        text,
        expected,
    } in mistakes
    {
        let found = findings(&text, None);
        let fits = found
            .iter()
            .zip(&expected)
            .all(|(found, expected)| is_as_expected(found, expected));
        assert!(
            fits && found.len() == expected.len(),
            "{story}: {expected:?}\n{found:#?}"
        );
        let is_error = |one: &Expected<'_>| one.severity == Severity::Error;
        let is_refused = check(&text, None).config.is_none();
        assert_eq!(is_refused, expected.iter().any(is_error), "{story}");
    }
}

#[test]
fn a_mistake_is_told_once_and_the_others_as_well() {
    let second = first().replace("1.1", "1.2").replace("/srv/a", "b");
    let text = format!("[defaults]\nbuffers = 1\n{}\n{second}", first());
    let found = findings(&text, None);
    let told: Vec<(usize, &str)> = found
        .iter()
        .map(|one| (one.line, one.message.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (2, "`buffers` is out of range"),
            (9, "`path`: `b` does not begin with a slash")
        ]
    );
}
