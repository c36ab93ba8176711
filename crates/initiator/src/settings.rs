//! How a session behaves; every limit is here.

use core::time::Duration;

/// Most local ports of a session; more are not used.
pub const MAX_PORTS: usize = 16;
/// Most paths (port and target MAC) of a session; more are not used. A request remembers the paths
/// it was sent on in 32 bits.
pub const MAX_PATHS: usize = 32;

/// Which extensions a session asks for (§7). It uses those the target accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each extension")]
pub struct Wanted {
    /// Several reads in one frame (§8).
    pub coalesced_read: bool,
    /// Several write responses in one frame (§18.1).
    pub coalesced_write_reply: bool,
    /// The target drops late copies of writes (§9). Not asked of the 2014 AoEde, where initiators
    /// share one window, unless [`Settings::sole_initiator`] is set.
    pub tags: bool,
    /// CRC 8x4 behind data (§11). Costs time at both ends; off by default.
    pub crc8x4: bool,
    /// CRC-32C behind data (§18.2), which finds more and costs less; off by default. If both are
    /// asked for, CRC 8x4 is for targets that do not know this one.
    pub crc32c: bool,
    /// Measures once after attaching how many requests the target's receive buffer holds (§10):
    /// half a second without I/O. Not asked of the 2014 AoEde, which would stop for all its
    /// initiators, unless [`Settings::sole_initiator`] is set.
    pub congestion: bool,
}

impl Wanted {
    /// Plain AoE.
    pub const NOTHING: Self = Self {
        coalesced_read: false,
        coalesced_write_reply: false,
        tags: false,
        crc8x4: false,
        crc32c: false,
        congestion: false,
    };

    /// Whether a target has to remember something of it.
    pub(crate) fn stays_in_force(self) -> bool {
        Self {
            congestion: false,
            ..self
        } != Self::NOTHING
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            coalesced_read: true,
            coalesced_write_reply: true,
            tags: true,
            crc8x4: false,
            crc32c: false,
            congestion: true,
        }
    }
}

/// How a session behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most requests taken and not finished; 1 to 4096.
    pub requests: u16,
    /// Most frames under way, if the target's buffer count allows as many; 1 to 1024.
    pub in_flight: u16,
    /// Most reads in one frame where the target knows how; 1 to 256, 1 for never.
    pub coalesce: u16,
    /// A request without progress for so long fails.
    pub give_up: Duration,
    /// How long a copy of a frame may stay under way on the network. The sectors of a write that
    /// was sent more than once stay closed to other changes for so long, unless the target drops
    /// late copies itself.
    pub linger: Duration,
    /// How often everybody is asked for the target (§15, 1).
    pub discover_every: Duration,
    /// When to look again whether larger frames pass, after they did not.
    pub prove_again_after: Duration,
    /// Extensions to ask for.
    pub wanted: Wanted,
    /// There is no other initiator of any export of the target's process.
    pub sole_initiator: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            requests: 256,
            in_flight: 256,
            coalesce: 32,
            give_up: Duration::from_secs(180),
            linger: Duration::from_millis(200),
            discover_every: Duration::from_secs(60),
            prove_again_after: Duration::from_secs(60),
            wanted: Wanted::default(),
            sole_initiator: false,
        }
    }
}

impl Settings {
    /// With every number within its range.
    pub(crate) fn clamped(mut self) -> Self {
        self.requests = self.requests.clamp(1, 4096);
        self.in_flight = self.in_flight.clamp(1, 1024);
        self.coalesce = self.coalesce.clamp(1, 256);
        self
    }
}
