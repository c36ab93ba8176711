//! Ctrl-C and SIGTERM end a run early, but not without cleaning up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{Finished, Process};
use signal_hook::consts::{SIGINT, SIGTERM};

/// How often a process is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Whether somebody wants the run to end.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the signals only leave a mark. The children get a terminal's Ctrl-C too, and
    /// end by themselves.
    pub(super) fn install() -> Result<Self> {
        let mark = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&mark))
                .context("cannot prepare for signals")?;
        }
        Ok(Self(mark))
    }

    /// # Errors
    /// The run is to end.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    /// Sleeps.
    ///
    /// # Errors
    /// The run is to end.
    pub(super) fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL));
        }
    }

    /// Waits for the end of a process, and returns what it has written.
    ///
    /// # Errors
    /// It takes longer, it fails, or the run is to end.
    pub(super) fn finish(&self, mut process: Process, within: Duration) -> Result<Finished> {
        let end = Instant::now() + within;
        process.close_input();
        while process.is_running() {
            self.sleep(POLL)?;
            ensure!(Instant::now() < end, "it still runs after {within:?}");
        }
        let status = process.wait(POLL)?;
        let finished = Finished {
            code: status.code().unwrap_or(-1),
            stdout: process.stdout.text(),
            stderr: process.stderr.text(),
        };
        ensure!(
            status.success(),
            "it ended with {status}: {}",
            finished.stderr.trim()
        );
        Ok(finished)
    }
}
