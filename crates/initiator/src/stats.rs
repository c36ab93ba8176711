//! What a session counts.

/// Counters since the session was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SessionStats {
    /// Frames encoded.
    pub sent: u64,
    /// Of those, requests that had been sent before.
    pub repeated: u64,
    /// Reads that travelled in another read's frame.
    pub coalesced: u64,
    /// Write responses that came in another's frame.
    pub coalesced_replies: u64,
    /// Responses that were waited for.
    pub answered: u64,
    /// Requests that were not answered in time.
    pub timed_out: u64,
    /// Responses to requests of ours that were answered or withdrawn before: late or double.
    pub late: u64,
    /// Responses that match no request: wrong tag, MAC or command.
    pub unmatched: u64,
    /// Frames that are no AoE responses for this session.
    pub ignored: u64,
    /// Responses with less data than was asked for: taken for lost.
    pub short: u64,
    /// Responses with a wrong checksum, registers that do not fit, or fewer entries than they
    /// announce: taken for lost.
    pub damaged: u64,
    /// Extensions were negotiated.
    pub negotiations: u64,
    /// A path that was in use went silent or down.
    pub paths_lost: u64,
    /// Full frames stopped passing on a path, and it went back to short ones.
    pub fallbacks: u64,
    /// The target was restarted, and may have lost acknowledged writes that no flush had covered: a
    /// flush tells of it, [`Error::CacheLost`](crate::Error::CacheLost), but of several users the
    /// first who asks for one.
    pub caches_lost: u64,
    /// Events that nobody took in time.
    pub events_lost: u64,
}
