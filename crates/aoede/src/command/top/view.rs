//! What `top` knows: the latest status, what it tells together with the one before, and the last
//! minute. Pure.

use std::collections::{BTreeMap, VecDeque};

use crate::control::rates::{ExportRates, InitiatorRates, Interval};
use crate::control::status::{ExportStatus, InitiatorStatus, Status};

/// Samples that are kept of each line: a minute.
pub(super) const KEPT: u16 = 60;

/// What somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up(usize),
    Down(usize),
    Help,
    Quit,
}

#[derive(Debug, Default)]
pub(super) struct View {
    latest: Option<Status>,
    exports: BTreeMap<String, Line<ExportRates>>,
    /// By export and MAC.
    initiators: BTreeMap<(String, String), Line<InitiatorRates>>,
    /// The chosen export, by its place.
    chosen: usize,
    /// Why there is nothing newer.
    pub(super) trouble: Option<String>,
    pub(super) help: bool,
}

/// What is known about one thing.
#[derive(Debug, Default)]
struct Line<R> {
    rates: R,
    /// Bytes a second, oldest first.
    history: VecDeque<f64>,
}

impl<R> Line<R> {
    fn take(&mut self, rates: R, bytes: f64) {
        self.rates = rates;
        self.history.push_back(bytes);
        if self.history.len() > usize::from(KEPT) {
            self.history.pop_front();
        }
    }
}

impl View {
    /// An answer of the daemon, or why there is none.
    pub(super) fn take(&mut self, answer: Result<Status, String>) {
        let now = match answer {
            Ok(status) => status,
            Err(why) => {
                self.trouble = Some(why);
                return;
            }
        };
        self.trouble = None;
        match self.latest.take() {
            Some(before) => self.compare(&before, &now),
            None => self.forget(),
        }
        self.chosen = self.chosen.min(now.exports.len().saturating_sub(1));
        self.latest = Some(now);
    }

    fn forget(&mut self) {
        self.exports.clear();
        self.initiators.clear();
    }

    fn compare(&mut self, before: &Status, now: &Status) {
        let Some(interval) = Interval::new(before, now) else {
            // Another daemon.
            return self.forget();
        };
        self.exports
            .retain(|address, _| now.export(address).is_some());
        self.initiators.retain(|(address, mac), _| {
            let export = now.export(address);
            export.is_some_and(|export| export.initiators.iter().any(|one| one.mac == *mac))
        });
        for export in &now.exports {
            let rates = interval.export(export);
            let bytes = rates.read_bytes_per_second + rates.written_bytes_per_second;
            let line = self.exports.entry(export.address.clone());
            line.or_default().take(rates, bytes);
            for initiator in &export.initiators {
                let rates = interval.initiator(export, initiator);
                let bytes = rates.read_bytes_per_second + rates.written_bytes_per_second;
                let key = (export.address.clone(), initiator.mac.clone());
                self.initiators.entry(key).or_default().take(rates, bytes);
            }
        }
    }

    /// Does what a key is for. Whether that is to end.
    pub(super) fn press(&mut self, key: Key) -> bool {
        let exports = self
            .latest
            .as_ref()
            .map_or(0, |status| status.exports.len());
        match key {
            Key::Quit if !self.help => return true,
            Key::Quit | Key::Help => self.help = !self.help,
            Key::Up(lines) => self.chosen = self.chosen.saturating_sub(lines),
            Key::Down(lines) => {
                let last = exports.saturating_sub(1);
                self.chosen = self.chosen.saturating_add(lines).min(last);
            }
        }
        false
    }

    pub(super) fn status(&self) -> Option<&Status> {
        self.latest.as_ref()
    }

    /// The chosen export and its place.
    pub(super) fn chosen(&self) -> Option<(usize, &ExportStatus)> {
        let exports = &self.latest.as_ref()?.exports;
        exports.get(self.chosen).map(|export| (self.chosen, export))
    }

    /// What an export does, and the throughput of the last minute.
    pub(super) fn export(&self, export: &ExportStatus) -> (ExportRates, String) {
        let line = self.exports.get(&export.address);
        line.map_or_else(Default::default, |line| {
            (line.rates.clone(), sparkline(&line.history))
        })
    }

    /// The same of an initiator.
    pub(super) fn initiator(
        &self,
        export: &ExportStatus,
        initiator: &InitiatorStatus,
    ) -> (InitiatorRates, String) {
        let key = (export.address.clone(), initiator.mac.clone());
        let line = self.initiators.get(&key);
        line.map_or_else(Default::default, |line| {
            (line.rates, sparkline(&line.history))
        })
    }
}

/// A line of blocks, the highest for the most.
fn sparkline(history: &VecDeque<f64>) -> String {
    let most = history.iter().copied().fold(0.0, f64::max);
    let block = |&value: &f64| match value / most {
        // Nothing at all is nothing to see; a little is.
        share if share.is_nan() || share <= 0.0 => ' ',
        ..0.1875 => '▁',
        ..0.3125 => '▂',
        ..0.4375 => '▃',
        ..0.5625 => '▄',
        ..0.6875 => '▅',
        ..0.8125 => '▆',
        ..0.9375 => '▇',
        _ => '█',
    };
    history.iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_goes_from_nothing_to_the_most() {
        let history = [0.0, 1.0, 25.0, 50.0, 75.0, 100.0].into();
        assert_eq!(sparkline(&history), " ▁▂▄▆█");
        assert_eq!(sparkline(&[0.0, 0.0].into()), "  ");
        assert_eq!(sparkline(&VecDeque::new()), "");
    }

    #[test]
    fn a_minute_is_kept() {
        let mut line = Line::<()>::default();
        for _ in 0..100 {
            line.take((), 1.0);
        }
        assert_eq!(line.history.len(), 60);
    }

    #[test]
    fn what_is_chosen_is_there() {
        let mut view = View::default();
        assert!(view.chosen().is_none());
        assert!(!view.press(Key::Down(1)));
        let status = |exports: usize| Status {
            exports: vec![ExportStatus::default(); exports],
            ..Status::default()
        };
        view.take(Ok(status(3)));
        view.press(Key::Down(usize::MAX));
        assert_eq!(view.chosen().unwrap().0, 2);
        view.press(Key::Up(1));
        assert_eq!(view.chosen().unwrap().0, 1);
        view.take(Ok(status(1)));
        assert_eq!(view.chosen().unwrap().0, 0);
        view.take(Err("gone".to_owned()));
        assert_eq!(
            (view.chosen().unwrap().0, view.trouble.as_deref()),
            (0, Some("gone"))
        );
    }

    #[test]
    fn leaving_help_does_not_end_it() {
        let mut view = View::default();
        view.press(Key::Help);
        assert!(!view.press(Key::Quit) && !view.help);
        assert!(view.press(Key::Quit));
    }
}
