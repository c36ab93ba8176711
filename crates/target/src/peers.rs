//! What an export knows of single initiators: what they have done, and the extensions they
//! negotiated (§7.4).
//!
//! The state of an initiator is found by its MAC with a hash table of fixed size. An export that
//! nobody has asked has no table; none has more than [`MAX_PEERS`] initiators in it, and the one
//! unheard of for longest makes room for another.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use aoede_wire::{Checksum, Extension, MacAddr, SECTOR_BYTES, Tag};

use crate::congestion::{Measurement, Probe, probe};
use crate::extension::Wanted;
use crate::initiator::{Duplicates, Initiator};
use crate::tag_window::{Judgement, Life, Lives, TagWindow};
use crate::{Action, Arrival, ExtensionSet};

/// Most initiators. Each takes some 400 bytes, and 8 KiB more for its tags if it has them tracked:
/// an export takes 8.4 MiB at most.
pub(crate) const MAX_PEERS: usize = 1024;
const BUCKET_BITS: u32 = 10;
/// The end of a chain.
const NONE: u16 = u16::MAX;

/// One initiator.
#[derive(Debug)]
struct Peer {
    mac: MacAddr,
    features: Features,
    window: Option<TagWindow>,
    measurement: Option<Measurement>,
    seen: Initiator,
    /// Tells it from what had its place before.
    born: Birth,
    /// The next in the same bucket.
    next: u16,
    /// Heard of before and after it.
    older: u16,
    newer: u16,
}

/// Which of those that had a MAC in turn; each that comes back is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Birth(u32);

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

impl Features {
    /// Without those that are not allowed.
    fn limited_to(self, allowed: ExtensionSet) -> Self {
        let has = |extension| allowed.contains(extension);
        Self {
            coalesced_read: self.coalesced_read && has(Extension::CoalescedRead),
            coalesced_write_reply: self.coalesced_write_reply
                && has(Extension::CoalescedWriteReply),
            checksum: self.checksum.filter(|&sum| has(sum.extension())),
            tags: self.tags.filter(|&order| has(order.extension())),
        }
    }

    fn names(self) -> ExtensionSet {
        let flags = [
            (self.coalesced_read, Extension::CoalescedRead),
            (self.coalesced_write_reply, Extension::CoalescedWriteReply),
        ];
        let flags = flags.into_iter().filter(|&(on, _)| on);
        let checksum = self.checksum.map(Checksum::extension);
        let tags = self.tags.map(TagOrder::extension);
        let flags = flags.map(|(_, extension)| extension);
        flags.chain(checksum).chain(tags).collect()
    }
}

impl TagOrder {
    fn extension(self) -> Extension {
        match self {
            Self::LittleEndian => Extension::TagIncLe,
            Self::BigEndian => Extension::TagIncBe,
            Self::Random => Extension::TagRandom,
        }
    }

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

/// All initiators of an export.
#[derive(Debug)]
pub(crate) struct Peers {
    entries: Vec<Peer>,
    /// The first of each bucket; no buckets while there never was a peer.
    buckets: Vec<u16>,
    /// The one heard of last, and the one unheard of for longest.
    newest: u16,
    oldest: u16,
    births: u32,
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
            newest: NONE,
            oldest: NONE,
            births: 0,
            lives: Lives::default(),
            in_progress: Vec::new(),
            most_in_progress,
        }
    }

    /// Knows what `before` knew, of which nothing is under way.
    pub(crate) fn take_over(&mut self, before: Self) {
        debug_assert!(before.in_progress.is_empty());
        *self = Self {
            most_in_progress: self.most_in_progress,
            ..before
        };
    }

    /// `mac` was heard of.
    pub(crate) fn hear(&mut self, now: Duration, mac: MacAddr) {
        if let Some(peer) = self.entry(mac) {
            peer.seen.last_active = now;
            peer.seen.requests += 1;
        }
    }

    /// What `mac` has switched on.
    pub(crate) fn features(&self, mac: MacAddr) -> Features {
        self.get(mac)
            .map_or_else(Features::default, |peer| peer.features)
    }

    /// What is known of each, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Initiator> + '_ {
        self.entries.iter().map(|peer| Initiator {
            extensions: peer.features.names(),
            ..peer.seen
        })
    }

    /// Counts further requests in a frame of `mac`.
    pub(crate) fn count_further(&mut self, mac: MacAddr, requests: usize) {
        if let Some(peer) = self.get_mut(mac) {
            peer.seen.requests += requests as u64;
        }
    }

    /// Counts a request of `mac` that goes to the disk. To be [ended](Self::end) with what this
    /// returns.
    pub(crate) fn begin(&mut self, mac: MacAddr, action: Action) -> Option<Birth> {
        let peer = self.get_mut(mac)?;
        let seen = &mut peer.seen;
        seen.outstanding += 1;
        let (bytes, sectors) = match action {
            Action::Read { sectors, .. } => (&mut seen.bytes_read, sectors),
            Action::Write { sectors, .. } => (&mut seen.bytes_written, sectors),
            Action::Flush | Action::Trim { .. } => return Some(peer.born),
        };
        let payload_bytes = u64::from(sectors) * SECTOR_BYTES as u64;
        *bytes += payload_bytes;
        seen.largest_payload_bytes = seen.largest_payload_bytes.max(payload_bytes);
        Some(peer.born)
    }

    /// A request of `mac` came back from the disk.
    pub(crate) fn end(&mut self, mac: MacAddr, born: Birth) {
        // Whoever was forgotten and came back has requests of its own.
        if let Some(peer) = self.get_mut(mac).filter(|peer| peer.born == born) {
            peer.seen.outstanding -= 1;
        }
    }

    /// The checksum that `mac` wants behind data.
    pub(crate) fn checksum(&self, mac: MacAddr) -> Option<Checksum> {
        self.get(mac)?.features.checksum
    }

    /// Does what an extension table of `mac` wants; what becomes of the frame that brought it.
    pub(crate) fn negotiate(&mut self, arrival: &Arrival, mac: MacAddr, wanted: &Wanted) -> Probe {
        if wanted.reset {
            self.forget(mac);
        }
        if !wanted.needs_state() {
            return Probe::Answer;
        }
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

    /// The state of `mac`, made if there is none, as the one heard of last; the oldest of others
    /// makes room for it.
    fn entry(&mut self, mac: MacAddr) -> Option<&mut Peer> {
        let place = match self.find(mac) {
            Some(place) if place == self.newest => return self.entries.get_mut(usize::from(place)),
            Some(place) => {
                self.take_out(place);
                place
            }
            None => self.add(mac)?,
        };
        let before = core::mem::replace(&mut self.newest, place);
        if let Some(before) = self.entries.get_mut(usize::from(before)) {
            before.newer = place;
        } else {
            self.oldest = place;
        }
        let peer = self.entries.get_mut(usize::from(place))?;
        (peer.older, peer.newer) = (before, NONE);
        Some(peer)
    }

    /// A place for `mac`, in its bucket but in no order yet.
    fn add(&mut self, mac: MacAddr) -> Option<u16> {
        if self.buckets.is_empty() {
            self.buckets = vec![NONE; 1 << BUCKET_BITS];
        }
        let used = self.entries.len();
        let place = if used < MAX_PEERS {
            u16::try_from(used).ok()?
        } else {
            let oldest = self.oldest;
            self.take_out(oldest);
            self.unchain(oldest);
            oldest
        };
        self.births = self.births.wrapping_add(1);
        let first = self.buckets.get_mut(bucket(mac))?;
        let peer = Peer {
            mac,
            features: Features::default(),
            window: None,
            measurement: None,
            seen: Initiator::new(mac),
            born: Birth(self.births),
            next: core::mem::replace(first, place),
            older: NONE,
            newer: NONE,
        };
        match self.entries.get_mut(usize::from(place)) {
            Some(old) => *old = peer,
            None => self.entries.push(peer),
        }
        Some(place)
    }

    /// Takes a peer out of the order in which they were heard of.
    fn take_out(&mut self, place: u16) {
        let Some(&Peer { older, newer, .. }) = self.entries.get(usize::from(place)) else {
            return;
        };
        match self.entries.get_mut(usize::from(older)) {
            Some(peer) => peer.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(usize::from(newer)) {
            Some(peer) => peer.older = older,
            None => self.newest = older,
        }
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

    /// Ends what is not among these.
    pub(crate) fn limit_to(&mut self, allowed: ExtensionSet) {
        for peer in &mut self.entries {
            peer.features = peer.features.limited_to(allowed);
            if peer.features.tags.is_none() {
                peer.window = None;
            }
            if !allowed.contains(Extension::Congestion) {
                peer.measurement = None;
            }
        }
    }

    /// Judges the tag of a command of `mac` that changes data and is in order otherwise.
    pub(crate) fn judge(&mut self, now: Duration, mac: MacAddr, tag: Tag) -> Tracked {
        // Not by way of `self`: the window needs `lives` too.
        let place = self.find(mac).map(usize::from);
        let Some(peer) = place.and_then(|place| self.entries.get_mut(place)) else {
            return Tracked::Execute(None);
        };
        let Duplicates {
            done,
            in_progress,
            stale,
        } = &mut peer.seen.duplicates;
        match (peer.features.tags, &mut peer.window) {
            (Some(order), Some(window)) => {
                match window.judge(now, order.number(tag), &mut self.lives) {
                    Judgement::New(life) => Tracked::Execute(Some(Tracking::Window(life))),
                    Judgement::InProgress => {
                        *in_progress += 1;
                        Tracked::InProgress
                    }
                    Judgement::Done => {
                        *done += 1;
                        Tracked::Done
                    }
                    Judgement::Stale => {
                        *stale += 1;
                        Tracked::Stale
                    }
                }
            }
            (Some(_), None) if self.in_progress.contains(&(mac, tag)) => {
                *in_progress += 1;
                Tracked::InProgress
            }
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
        if let Some(peer) = self.get_mut(mac) {
            peer.forget();
        }
    }

    /// Ends everything that those have switched on who do not `stay`.
    pub(crate) fn forget_unless(&mut self, stay: impl Fn(MacAddr) -> bool) {
        for peer in self.entries.iter_mut().filter(|peer| !stay(peer.mac)) {
            peer.forget();
        }
    }

    /// Ends everything that anybody has switched on.
    pub(crate) fn forget_all(&mut self) {
        self.entries.iter_mut().for_each(Peer::forget);
    }

    fn get(&self, mac: MacAddr) -> Option<&Peer> {
        let place = self.find(mac)?;
        self.entries.get(usize::from(place))
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

    /// Takes a peer out of its bucket.
    fn unchain(&mut self, gone: u16) {
        let Some(&Peer { mac, next, .. }) = self.entries.get(usize::from(gone)) else {
            return;
        };
        let Some(first) = self.buckets.get_mut(bucket(mac)) else {
            return;
        };
        if *first == gone {
            *first = next;
            return;
        }
        let mut place = *first;
        while let Some(peer) = self.entries.get_mut(usize::from(place)) {
            if peer.next == gone {
                peer.next = next;
                return;
            }
            place = peer.next;
        }
    }
}

impl Peer {
    fn forget(&mut self) {
        self.features = Features::default();
        self.window = None;
        self.measurement = None;
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
            let mut list: Vec<(u16, Option<Checksum>)> = Vec::new();
            let hear = |list: &mut Vec<(u16, Option<Checksum>)>, n| {
                let place = list.iter().position(|&(other, _)| other == n);
                let known = place.map(|place| list.remove(place));
                if list.len() == 1024 {
                    list.remove(0);
                }
                list.push(known.unwrap_or((n, None)));
            };
            for step in steps {
                match step {
                    Step::Negotiate(n, checksum) => {
                        let wanted = Wanted { checksum: Some(checksum), ..Wanted::default() };
                        let probe = peers.negotiate(&arrival(), mac(n), &wanted);
                        prop_assert_eq!(probe, Probe::Answer);
                        hear(&mut list, n);
                        list.last_mut().unwrap().1 = Some(checksum);
                    }
                    Step::Hear(n) => {
                        peers.hear(Duration::ZERO, mac(n));
                        hear(&mut list, n);
                    }
                    Step::Forget(n) => {
                        peers.forget(mac(n));
                        if let Some(known) = list.iter_mut().find(|(other, _)| *other == n) {
                            known.1 = None;
                        }
                    }
                    Step::ForgetAll => {
                        peers.forget_all();
                        for known in &mut list {
                            known.1 = None;
                        }
                    }
                }
            }
            let known: std::collections::BTreeMap<_, _> = list.into_iter().collect();
            for n in 0..1100 {
                prop_assert_eq!(peers.find(mac(n)).is_some(), known.contains_key(&n), "{}", n);
                prop_assert_eq!(peers.checksum(mac(n)), known.get(&n).copied().flatten(), "{}", n);
            }
        }
    }

    /// Addresses that share a bucket are found, and found again when one of them makes room.
    #[test]
    fn addresses_in_one_bucket_are_told_apart() {
        let same: Vec<u16> = (0..=u16::MAX)
            .filter(|&n| bucket(mac(n)) == 0)
            .take(8)
            .collect();
        assert_eq!(same.len(), 8);
        let mut peers = Peers::new(1);
        // The latest is the first in its bucket, and the first to make room.
        for &n in same.iter().chain(same.iter().rev()) {
            peers.hear(Duration::ZERO, mac(n));
        }
        let others = (0..=u16::MAX).filter(|n| !same.contains(n));
        let mut others = others.map(mac);
        for other in others.by_ref().take(1024 - same.len()) {
            peers.hear(Duration::ZERO, other);
        }
        for (gone, other) in others.take(same.len()).enumerate() {
            peers.hear(Duration::ZERO, other);
            for (place, &n) in same.iter().enumerate() {
                assert_eq!(peers.find(mac(n)).is_some(), place + gone < 7, "{place}");
            }
        }
    }

    /// Requests of before it was forgotten are not taken off those it has now.
    #[test]
    fn whoever_comes_back_has_requests_of_its_own() {
        let mut peers = Peers::new(1);
        let outstanding = |peers: &Peers| {
            let mut all = peers.iter();
            all.find(|seen| seen.mac == mac(1))
                .map(|seen| seen.outstanding)
        };
        peers.hear(Duration::ZERO, mac(1));
        let before = peers.begin(mac(1), Action::Flush).unwrap();
        (2..1026).for_each(|n| peers.hear(Duration::ZERO, mac(n)));
        assert_eq!(outstanding(&peers), None);
        assert_eq!(peers.iter().count(), 1024);
        peers.hear(Duration::ZERO, mac(1));
        let now = peers.begin(mac(1), Action::Flush).unwrap();
        peers.end(mac(1), before);
        assert_eq!(outstanding(&peers), Some(1));
        peers.end(mac(1), now);
        assert_eq!(outstanding(&peers), Some(0));
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
        assert!(size_of::<Peer>() <= 432, "{}", size_of::<Peer>());
    }
}
