//! What an export knows of single initiators: the extensions they negotiated (§7.4).
//!
//! The state of an initiator is found by its MAC with a hash table of fixed size. An export whose
//! initiators negotiate nothing has no table; none has more than [`MAX_PEERS`] initiators in it, and
//! the one unheard of for longest makes room for another.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use aoede_wire::{Checksum, MacAddr, Tag};

use crate::Arrival;
use crate::congestion::{Measurement, Probe, probe};
use crate::extension::Wanted;
use crate::tag_window::{Judgement, Life, Lives, TagWindow};

/// Most initiators with extensions. Each takes some 300 bytes, and 8 KiB more for its tags if it
/// has them tracked: an export takes 8.3 MiB at most.
pub(crate) const MAX_PEERS: usize = 1024;
const BUCKET_BITS: u32 = 10;
/// The end of a bucket's chain.
const NONE: u16 = u16::MAX;

/// One initiator.
#[derive(Debug)]
struct Peer {
    mac: MacAddr,
    features: Features,
    window: Option<TagWindow>,
    measurement: Option<Measurement>,
    /// When it was last heard of, by [`Peers::clock`].
    used: u64,
    /// The next in the same bucket.
    next: u16,
}

/// What an initiator has switched on. Nothing, for most.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Features {
    pub(crate) coalesced_read: bool,
    pub(crate) coalesced_write_reply: bool,
    pub(crate) checksum: Option<Checksum>,
    tags: Option<TagOrder>,
}

/// What an initiator promises about its tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TagOrder {
    /// They count upwards, little-endian.
    LittleEndian,
    /// They count upwards, big-endian.
    BigEndian,
    /// They are unique.
    Random,
}

impl TagOrder {
    fn number(self, tag: Tag) -> u32 {
        match self {
            Self::LittleEndian => tag.little_endian(),
            Self::BigEndian | Self::Random => tag.big_endian(),
        }
    }
}

/// How a tracked command must be told when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// To the window, in this life of it.
    Window(Life),
    /// To the list of those in progress.
    List,
}

/// What the tag of a command says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracked {
    /// Nothing against it.
    Execute(Option<Tracking>),
    /// See [`Judgement`].
    InProgress,
    Done,
    Stale,
}

/// All initiators of an export that have negotiated anything.
#[derive(Debug)]
pub(crate) struct Peers {
    entries: Vec<Peer>,
    /// The first of each bucket; no buckets while there never was a peer.
    buckets: Vec<u16>,
    /// Goes on with every frame for which the table is asked.
    clock: u64,
    lives: Lives,
    /// Tracked commands in progress of initiators whose tags are only unique.
    in_progress: Vec<(MacAddr, Tag)>,
    /// Most of those: what the worker can hold.
    most_in_progress: usize,
}

impl Peers {
    /// None yet. The worker has at most `most_in_progress` requests under way.
    pub(crate) fn new(most_in_progress: usize) -> Self {
        Self {
            entries: Vec::new(),
            buckets: Vec::new(),
            clock: 0,
            lives: Lives::default(),
            in_progress: Vec::new(),
            most_in_progress,
        }
    }

    /// What `mac` has switched on; it was heard of.
    pub(crate) fn features(&mut self, mac: MacAddr) -> Features {
        self.clock += 1;
        let clock = self.clock;
        self.get_mut(mac).map_or_else(Features::default, |peer| {
            peer.used = clock;
            peer.features
        })
    }

    /// The checksum that `mac` wants behind data.
    pub(crate) fn checksum(&self, mac: MacAddr) -> Option<Checksum> {
        let place = self.find(mac)?;
        self.entries.get(usize::from(place))?.features.checksum
    }

    /// Does what an extension table of `mac` wants; what becomes of the frame that brought it.
    pub(crate) fn negotiate(&mut self, arrival: &Arrival, mac: MacAddr, wanted: &Wanted) -> Probe {
        if wanted.reset {
            self.forget(mac);
        }
        if !wanted.needs_state() {
            return Probe::Answer;
        }
        self.clock += 1;
        if let Some(order) = wanted.tags {
            self.track(mac, order);
        }
        let Some(peer) = self.entry(mac) else {
            return Probe::Answer;
        };
        let features = &mut peer.features;
        features.coalesced_read |= wanted.coalesced_read;
        features.coalesced_write_reply |= wanted.coalesced_write_reply;
        features.checksum = wanted.checksum.or(features.checksum);
        match wanted.congestion {
            Some(id) => probe(&mut peer.measurement, arrival, id),
            None => Probe::Answer,
        }
    }

    /// The state of `mac`, made if there is none; the oldest of others makes room for it.
    fn entry(&mut self, mac: MacAddr) -> Option<&mut Peer> {
        if self.find(mac).is_none() {
            if self.buckets.is_empty() {
                self.buckets = vec![NONE; 1 << BUCKET_BITS];
            }
            if self.entries.len() >= MAX_PEERS {
                let oldest = self.entries.iter().min_by_key(|peer| peer.used)?.mac;
                self.forget(oldest);
            }
            let place = u16::try_from(self.entries.len()).ok()?;
            let first = self.buckets.get_mut(bucket(mac))?;
            self.entries.push(Peer {
                mac,
                features: Features::default(),
                window: None,
                measurement: None,
                used: self.clock,
                next: core::mem::replace(first, place),
            });
        }
        let clock = self.clock;
        let peer = self.get_mut(mac)?;
        peer.used = clock;
        Some(peer)
    }

    /// Tracks the tags of `mac` from now on, without any memory of earlier ones.
    fn track(&mut self, mac: MacAddr, order: TagOrder) {
        if order == TagOrder::Random {
            let missing = self.most_in_progress.saturating_sub(self.in_progress.len());
            self.in_progress.reserve_exact(missing);
        }
        let Some(peer) = self.entry(mac) else {
            return;
        };
        peer.features.tags = Some(order);
        match order {
            TagOrder::Random => peer.window = None,
            _ => peer.window.get_or_insert_with(TagWindow::new).clear(),
        }
    }

    /// Judges the tag of a command of `mac` that changes data and is in order otherwise.
    pub(crate) fn judge(&mut self, now: Duration, mac: MacAddr, tag: Tag) -> Tracked {
        let Some(place) = self.find(mac) else {
            return Tracked::Execute(None);
        };
        let Some(peer) = self.entries.get_mut(usize::from(place)) else {
            return Tracked::Execute(None);
        };
        match (peer.features.tags, &mut peer.window) {
            (Some(order), Some(window)) => {
                match window.judge(now, order.number(tag), &mut self.lives) {
                    Judgement::New(life) => Tracked::Execute(Some(Tracking::Window(life))),
                    Judgement::InProgress => Tracked::InProgress,
                    Judgement::Done => Tracked::Done,
                    Judgement::Stale => Tracked::Stale,
                }
            }
            (Some(_), None) if self.in_progress.contains(&(mac, tag)) => Tracked::InProgress,
            (Some(_), None) if self.in_progress.len() < self.most_in_progress => {
                self.in_progress.push((mac, tag));
                Tracked::Execute(Some(Tracking::List))
            }
            _ => Tracked::Execute(None),
        }
    }

    /// Notes how a tracked command ended.
    pub(crate) fn finish(&mut self, tracking: Tracking, mac: MacAddr, tag: Tag, success: bool) {
        match tracking {
            Tracking::List => {
                let known = self.in_progress.iter();
                if let Some(place) = known.copied().position(|other| other == (mac, tag)) {
                    self.in_progress.swap_remove(place);
                }
            }
            Tracking::Window(life) => {
                let Some(peer) = self.get_mut(mac) else {
                    return;
                };
                if let (Some(order), Some(window)) = (peer.features.tags, &mut peer.window) {
                    window.finish(life, order.number(tag), success);
                }
            }
        }
    }

    /// Ends everything that `mac` has switched on.
    pub(crate) fn forget(&mut self, mac: MacAddr) {
        let Some(place) = self.find(mac) else {
            return;
        };
        let next = self
            .entries
            .get(usize::from(place))
            .map_or(NONE, |p| p.next);
        self.relink(mac, place, next);
        // The last moves into its place.
        let last = self.entries.len() - 1;
        if let (Some(moved), Ok(last)) = (self.entries.get(last), u16::try_from(last)) {
            let mac = moved.mac;
            self.relink(mac, last, place);
        }
        self.entries.swap_remove(usize::from(place));
    }

    /// Ends everything that anybody has switched on.
    pub(crate) fn forget_all(&mut self) {
        self.entries.clear();
        self.buckets.fill(NONE);
    }

    fn get_mut(&mut self, mac: MacAddr) -> Option<&mut Peer> {
        let place = self.find(mac)?;
        self.entries.get_mut(usize::from(place))
    }

    fn find(&self, mac: MacAddr) -> Option<u16> {
        let mut place = *self.buckets.get(bucket(mac))?;
        loop {
            let peer = self.entries.get(usize::from(place))?;
            if peer.mac == mac {
                return Some(place);
            }
            place = peer.next;
        }
    }

    /// Whatever leads to `from` in the bucket of `mac` leads to `to` afterwards.
    fn relink(&mut self, mac: MacAddr, from: u16, to: u16) {
        let Some(first) = self.buckets.get_mut(bucket(mac)) else {
            return;
        };
        if *first == from {
            *first = to;
            return;
        }
        let mut place = *first;
        while let Some(peer) = self.entries.get_mut(usize::from(place)) {
            if peer.next == from {
                peer.next = to;
                return;
            }
            place = peer.next;
        }
    }
}

/// Fibonacci hashing: addresses of one maker differ in their low bits.
fn bucket(mac: MacAddr) -> usize {
    let [a, b, c, d, e, f] = mac.0;
    let number = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - BUCKET_BITS);
    usize::try_from(hash).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Negotiate(u16, Checksum),
        Hear(u16),
        Forget(u16),
        ForgetAll,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Some more than there is room for.
        let who = 0..1100_u16;
        let checksum = prop_oneof![Just(Checksum::Crc8x4), Just(Checksum::Crc32c)];
        prop_oneof![
            3000 => (who.clone(), checksum).prop_map(|(who, sum)| Step::Negotiate(who, sum)),
            500 => who.clone().prop_map(Step::Hear),
            300 => who.prop_map(Step::Forget),
            1 => Just(Step::ForgetAll),
        ]
    }

    fn arrival() -> Arrival {
        let port = crate::PortFacts {
            mac: MacAddr([2; 6]),
            mtu: 1500,
            max_sectors: 2,
        };
        Arrival::new(Duration::ZERO, port)
    }

    fn mac(n: u16) -> MacAddr {
        let [high, low] = n.to_be_bytes();
        MacAddr([2, 0, 0, 0, high, low])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        /// The same as a plain list, the one heard of last at its end.
        #[test]
        fn a_table_of_peers_is_a_map_with_an_end(steps in vec(step(), 0..3000)) {
            let mut peers = Peers::new(1);
            let mut list: Vec<(u16, Checksum)> = Vec::new();
            for step in steps {
                match step {
                    Step::Negotiate(n, checksum) => {
                        let wanted = Wanted { checksum: Some(checksum), ..Wanted::default() };
                        let probe = peers.negotiate(&arrival(), mac(n), &wanted);
                        prop_assert_eq!(probe, Probe::Answer);
                        list.retain(|&(other, _)| other != n);
                        if list.len() == 1024 {
                            list.remove(0);
                        }
                        list.push((n, checksum));
                    }
                    Step::Hear(n) => {
                        let place = list.iter().position(|&(other, _)| other == n);
                        let known = place.map(|place| list.remove(place));
                        list.extend(known);
                        let expected = known.map(|(_, checksum)| checksum);
                        prop_assert_eq!(peers.features(mac(n)).checksum, expected);
                    }
                    Step::Forget(n) => {
                        peers.forget(mac(n));
                        list.retain(|&(other, _)| other != n);
                    }
                    Step::ForgetAll => {
                        peers.forget_all();
                        list.clear();
                    }
                }
            }
            let known: std::collections::BTreeMap<_, _> = list.into_iter().collect();
            for n in 0..1100 {
                prop_assert_eq!(peers.checksum(mac(n)), known.get(&n).copied(), "{}", n);
            }
        }
    }

    /// Addresses that share a bucket are found, and found again when one of them is gone.
    #[test]
    fn addresses_in_one_bucket_are_told_apart() {
        let same: Vec<u16> = (0..=u16::MAX)
            .filter(|&n| bucket(mac(n)) == 0)
            .take(8)
            .collect();
        assert_eq!(same.len(), 8);
        let mut peers = Peers::new(1);
        let wanted = Wanted {
            coalesced_read: true,
            ..Wanted::default()
        };
        for &n in &same {
            peers.negotiate(&arrival(), mac(n), &wanted);
        }
        for (gone, &n) in same.iter().enumerate() {
            peers.forget(mac(n));
            for (place, &other) in same.iter().enumerate() {
                assert_eq!(peers.features(mac(other)).coalesced_read, place > gone);
            }
        }
    }

    #[test]
    fn buckets_are_used_evenly() {
        // Addresses of one maker, and of one bridge's virtual machines.
        let mut used = [0; 1 << BUCKET_BITS];
        for n in 0..1024 {
            used[bucket(mac(n))] += 1;
        }
        assert!(used.iter().all(|&count| count <= 4), "{used:?}");
    }

    #[test]
    fn a_peer_is_small() {
        assert!(size_of::<Peer>() <= 320, "{}", size_of::<Peer>());
    }
}
