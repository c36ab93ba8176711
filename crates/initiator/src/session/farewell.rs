//! How a session leaves: nothing that was agreed on stays in force behind it (§15, 8).

use aoede_wire::{Body, ExtensionTable};

use super::{Session, Transmit, send};
use crate::Instant;
use crate::features::{Features, RESET};

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
    /// [`Settings::linger`](crate::Settings::linger): only the target's tag window
    /// tells late copies of that.
    pub fn poll_farewell(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        loop {
            let index = self.paths.iter().position(|path| path.may_be_in_force)?;
            let quiet = self.quiet_at(index).is_none_or(|at| at <= now);
            let path = self.paths.get_mut(index)?;
            path.features = Features::default();
            path.may_be_in_force = false;
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
