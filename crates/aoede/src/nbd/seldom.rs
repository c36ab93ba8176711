//! Lines of the log that would come too often.

use std::time::{Duration, Instant};

/// One line in this time.
const EVERY: Duration = Duration::from_secs(5);

/// When a line was logged last that clients can cause as often as they like.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    last: Option<Instant>,
}

impl Seldom {
    /// Whether it may be logged now; then it counts as logged.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let since = |last| now.saturating_duration_since(last);
        let due = self.last.is_none_or(|last| since(last) >= EVERY);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_at_once_and_then_every_five_seconds() {
        let start = Instant::now();
        let mut seldom = Seldom::default();
        let due: Vec<u64> = (0..12_000)
            .step_by(100)
            .filter(|&ms| seldom.is_due(start + Duration::from_millis(ms)))
            .collect();
        assert_eq!(due, [0, 5000, 10_000]);
    }
}
