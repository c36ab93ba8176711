//! Who watches a copy: signals, the progress bar, and the record by which it can go on.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::pump::{Overseer, Wish};
use super::state::{State, StateFile};
use crate::stop::Stop;

/// Rate and remaining time are for who looks at a terminal; nobody else gets a bar.
const BAR: &str = "{msg} {bytes} of {total_bytes} [{wide_bar}] {percent:>3} %  {binary_bytes_per_sec}  {eta} left";

/// A record, and what it says.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) file: StateFile,
    /// As it was last saved.
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) struct Watch<'a> {
    stop: &'a Stop,
    stopping: bool,
    bar: ProgressBar,
    record: Option<&'a mut Record>,
    sync_every: Duration,
    last_sync: Instant,
    save_failed: bool,
    zero_bytes: u64,
}

impl<'a> Watch<'a> {
    /// Of a copy, or a comparison, of so many bytes that begins at byte `from`. Without a record
    /// nothing is synced meanwhile.
    pub(super) fn new(
        stop: &'a Stop,
        doing: &'static str,
        from: u64,
        bytes: u64,
        record: Option<&'a mut Record>,
        sync_every: Duration,
    ) -> Self {
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(doing);
        bar.set_position(from);
        bar.reset_eta();
        Self {
            stop,
            stopping: false,
            bar,
            record,
            sync_every,
            last_sync: Instant::now(),
            save_failed: false,
            zero_bytes: 0,
        }
    }

    /// Bytes that arrived as zeros.
    pub(super) fn zero_bytes(&self) -> u64 {
        self.zero_bytes
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("aoede: {text}"));
    }
}

impl Overseer for Watch<'_> {
    fn look(&mut self, written_to: u64) -> Wish {
        if self.bar.position() != written_to {
            self.bar.set_position(written_to);
        }
        if self.stop.take() {
            if self.stopping {
                return Wish::Leave;
            }
            self.stopping = true;
            self.say("stopping: finishing what has begun; once more to leave at once");
        }
        if self.stopping {
            Wish::Stop
        } else {
            Wish::GoOn
        }
    }

    fn arrived(&mut self, bytes: u64, zeros: bool) {
        if zeros {
            self.zero_bytes += bytes;
        }
    }

    fn wants_sync(&mut self) -> bool {
        let due = self.record.is_some() && self.last_sync.elapsed() >= self.sync_every;
        if due {
            self.last_sync = Instant::now();
        }
        due
    }

    fn stable(&mut self, stable_to: u64) {
        let Some(record) = &mut self.record else {
            return;
        };
        let mut state = record.state.clone();
        state.stable_bytes = stable_to;
        match record.file.save(&state) {
            Ok(()) => record.state = state,
            // The old record is there still, and right.
            Err(error) => {
                if !self.save_failed {
                    let path = record.file.path().display();
                    let text = format!(
                        "cannot write {path}: {error}; after an interruption more has to be copied \
                         again"
                    );
                    self.say(&text);
                }
                self.save_failed = true;
            }
        }
        self.last_sync = Instant::now();
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::copy::state::Side;
    use std::fs;

    #[test]
    fn what_could_not_be_saved_is_not_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(folder.path().join("record"));
        let side = |path: &str| Side::Device {
            path: path.to_owned(),
            bytes: 4096,
        };
        let state = State::new(side("/dev/a"), side("/dev/b"), 4096);
        let mut record = Record { file, state };
        let (stop, _handle) = Stop::by_hand().unwrap();
        let every = Duration::from_secs(1);
        let mut watch = Watch::new(&stop, "copying", 0, 4096, Some(&mut record), every);
        watch.stable(1024);
        fs::remove_dir_all(folder.path()).unwrap();
        watch.stable(2048);
        drop(watch);
        assert_eq!(record.state.stable_bytes, 1024);
    }
}
