//! What systemd is told, if it has asked for that.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// How often it wants to hear of a working daemon, at least.
const MOST_PAUSE: Duration = Duration::from_secs(15);

/// Everything is open and served.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends that.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// What was begun is being finished.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// All workers are there.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How long to pause between two of [`alive`], if they are wanted.
pub(super) fn watchdog_pause() -> Option<Duration> {
    let patience = sd_notify::watchdog_enabled()?;
    Some((patience / 2).min(MOST_PAUSE))
}

fn tell(state: &[NotifyState<'_>]) {
    // Without a socket in the environment nobody wants to know.
    if let Err(error) = sd_notify::notify(state) {
        debug!("cannot tell systemd: {error}");
    }
}
