//! What happened on a port, in plain counters.
#![forbid(unsafe_code)]

/// Frames since the port was opened, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortStats {
    /// Handed to the caller.
    pub received: u64,
    /// Lost by the kernel because every slot of the receive ring was taken.
    pub ring_drops: u64,
    /// Skipped: meant for another station (somebody made the interface promiscuous), or tagged for
    /// a VLAN that has no interface here. A tag that only tells a priority does not count.
    pub foreign_ignored: u64,
    /// Skipped: sent by this host itself. Only on kernels before 4.20, newer ones are told not to
    /// show them.
    pub outgoing_ignored: u64,
    /// Skipped: longer than a slot of the receive ring, so cut off.
    pub truncated: u64,
    /// Skipped: the kernel described them by lengths that cannot be. Anything but 0 is a bug.
    pub malformed: u64,
    /// Accepted by the kernel for sending.
    pub sent: u64,
    /// Not sent: no memory or no room in the interface's queue (`ENOBUFS`, `ENOMEM`).
    pub send_lost_no_buffer: u64,
    /// Not sent: the interface is down or gone (`ENETDOWN`, `ENXIO`, `ENODEV`).
    pub send_lost_down: u64,
    /// Not sent: longer than the interface's MTU allows (`EMSGSIZE`).
    pub send_lost_too_long: u64,
    /// Not sent for any other reason.
    pub send_lost_other: u64,
    /// How often (not: for how many frames) the send buffer was full and the caller had to wait.
    pub send_waits: u64,
}

impl PortStats {
    /// Frames that were given to [`Port::send`](crate::Port::send) and not sent.
    pub fn send_lost(&self) -> u64 {
        self.send_lost_no_buffer
            + self.send_lost_down
            + self.send_lost_too_long
            + self.send_lost_other
    }
}
