//! How a session leaves: nothing that was agreed on stays in force behind it (§15, 8).

use aoede_wire::{Body, ExtensionTable};

use super::{Session, Transmit, send};
use crate::features::{Features, RESET};
use crate::paths::{Path, Task};
use crate::{Instant, Settings};

impl<B: AsRef<[u8]> + AsMut<[u8]>> Session<B> {
    /// Encodes a frame that takes back what was agreed on with the target, as
    /// [`poll_transmit`](Self::poll_transmit) does; `None` when that is done on all paths. To be
    /// called at the end, when nothing is under way and before the session is dropped.
    ///
    /// What stays in force is in force for whoever uses the port's MAC next, and that may be the
    /// kernel's own initiator, whose tags do not count upwards: a target that tracks them takes its
    /// writes for old ones.
    ///
    /// A path keeps what was agreed on if a change was sent again on its port within
    /// [`Settings::linger`]: only the target's tag window tells late copies of that.
    pub fn poll_farewell(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let in_force = |path: &Path| has_something_in_force(&self.settings, path);
            let index = self.paths.iter().position(in_force)?;
            let quiet = self.quiet_at(index).is_none_or(|at| at <= now);
            let path = self.paths.get_mut(index)?;
            path.features = Features::default();
            path.chore = None;
            let (id, mac) = (path.port, path.mac);
            let Some(port) = self.port(id).filter(|port| port.up && quiet) else {
                continue;
            };
            let tag = self.tags.take(send::tags(&self.pieces))?;
            let table = ExtensionTable::new(RESET).ok()?;
            let header = send::header(port.mac, mac, self.address, tag);
            let len = Body::Extension(table).encode(header, out).ok()?;
            self.stats.sent += 1;
            return Some(Transmit { port: id, len });
        }
    }
}

/// Whether the target has, or may have, something to remember of us.
fn has_something_in_force(settings: &Settings, path: &Path) -> bool {
    let agreed = Features {
        congestion: false,
        ..path.features
    } != Features::default();
    let asking = path
        .chore
        .is_some_and(|chore| chore.task == Task::Negotiate && chore.tries > 0);
    agreed || (asking && settings.wanted.stays_in_force())
}
