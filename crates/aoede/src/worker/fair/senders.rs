//! The initiators that are there now, each with its waiting frames.

use std::time::Duration;

use aoede_wire::MacAddr;

/// Whoever has not been seen for so long is not there any more.
pub const ABSENCE: Duration = Duration::from_millis(100);
/// Most initiators that are told apart, each at each export. Those beyond share one place.
pub const MOST_SENDERS: usize = 1024;
/// The place that they share.
const CROWD: SenderId = SenderId(0);

/// An initiator at an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderId(u16);

impl SenderId {
    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Export and MAC in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

impl Key {
    /// `export` is the number of one, or [`ALL`](super::ALL).
    pub(super) fn new(export: u16, mac: MacAddr) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        let [high, low] = export.to_be_bytes();
        Self(u64::from_be_bytes([high, low, a, b, c, d, e, f]))
    }

    pub(super) fn export(self) -> u16 {
        let [high, low, ..] = self.0.to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    pub(super) fn is_same_mac(self, other: Self) -> bool {
        (self.0 ^ other.0) << 16 == 0
    }
}

/// What is known of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sender {
    pub(super) key: Key,
    /// First and last waiting frame, if there is any.
    pub(super) ends: Option<(u32, u32)>,
    /// Frames that wait.
    pub(super) waiting: usize,
    /// What it may still send in this round, in units of cost; below zero what it has had in
    /// advance.
    pub(super) credit: i64,
    /// Requests with the disk.
    pub(super) held: usize,
    /// It uses the disk.
    pub(super) is_active: bool,
    pub(super) seen: Duration,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Senders {
    all: Vec<Sender>,
    free: Vec<u16>,
    /// Sorted. The crowd is not in it.
    by_key: Vec<(Key, SenderId)>,
    /// The one that was looked for last: mostly the next, too.
    latest: Option<(Key, SenderId)>,
}

impl Senders {
    pub(super) fn new() -> Self {
        let crowd = Sender::new(Key(u64::MAX), Duration::ZERO);
        let count = u16::try_from(MOST_SENDERS).unwrap_or(u16::MAX);
        let mut all = Vec::with_capacity(MOST_SENDERS + 1);
        all.push(crowd);
        Self {
            all,
            free: (1..=count).rev().collect(),
            by_key: Vec::with_capacity(MOST_SENDERS),
            latest: None,
        }
    }

    /// Who that is; from now on known.
    pub(super) fn find(&mut self, key: Key, now: Duration) -> SenderId {
        let id = match self.latest {
            Some((latest, id)) if latest == key => id,
            _ => self.look_up(key, now),
        };
        if let Some(sender) = self.get_mut(id) {
            sender.seen = now;
        }
        id
    }

    fn look_up(&mut self, key: Key, now: Duration) -> SenderId {
        let id = match self.by_key.binary_search_by_key(&key, |&(key, _)| key) {
            Ok(place) => self.by_key.get(place).map_or(CROWD, |&(_, id)| id),
            Err(place) => {
                let Some(index) = self.free.pop() else {
                    return CROWD;
                };
                let id = SenderId(index);
                let sender = Sender::new(key, now);
                match self.all.get_mut(id.index()) {
                    Some(old) => *old = sender,
                    // Places are first given out in order.
                    None => self.all.push(sender),
                }
                self.by_key.insert(place, (key, id));
                id
            }
        };
        self.latest = Some((key, id));
        id
    }

    pub(super) fn get(&self, id: SenderId) -> Option<&Sender> {
        self.all.get(id.index())
    }

    pub(super) fn get_mut(&mut self, id: SenderId) -> Option<&mut Sender> {
        self.all.get_mut(id.index())
    }

    /// All that are told apart.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Sender> + '_ {
        self.by_key.iter().filter_map(|&(_, id)| self.get(id))
    }

    /// How many are told apart.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Forgets those that have nothing here and have not been seen for a while; tells of each.
    pub(super) fn forget_absent(&mut self, now: Duration, mut left: impl FnMut(&Sender)) {
        let (all, free) = (&self.all, &mut self.free);
        self.by_key.retain(|&(_, id)| {
            let Some(sender) = all.get(id.index()) else {
                return false;
            };
            let is_gone = sender.waiting == 0
                && sender.held == 0
                && now > sender.seen.saturating_add(ABSENCE);
            if is_gone {
                left(sender);
                free.push(id.0);
            }
            !is_gone
        });
        self.latest = None;
    }
}

impl Sender {
    fn new(key: Key, now: Duration) -> Self {
        Self {
            key,
            ends: None,
            waiting: 0,
            credit: 0,
            held: 0,
            is_active: false,
            seen: now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: usize) -> MacAddr {
        let [a, b] = u16::try_from(n).unwrap().to_be_bytes();
        MacAddr([2, 0, 0, 0, a, b])
    }

    #[test]
    fn a_key_is_export_and_mac() {
        let key = Key::new(0x1234, mac(7));
        assert_eq!(key.export(), 0x1234);
        assert!(key.is_same_mac(Key::new(1, mac(7))));
        assert!(!key.is_same_mac(Key::new(0x1234, mac(8))));
        assert!(!key.is_same_mac(Key::new(1, MacAddr([3, 0, 0, 0, 0, 7]))));
    }

    #[test]
    fn each_initiator_at_each_export_is_told_apart() {
        let mut senders = Senders::new();
        let mut ids = Vec::new();
        for export in [3, 1, 2] {
            for n in 0..10 {
                ids.push(senders.find(Key::new(export, mac(n)), ABSENCE));
            }
        }
        let again = [3, 1, 2].iter().flat_map(|&e| (0..10).map(move |n| (e, n)));
        for (id, (export, n)) in ids.iter().zip(again) {
            assert_eq!(senders.find(Key::new(export, mac(n)), ABSENCE), *id);
        }
        let distinct = |id: &SenderId| ids.iter().filter(|other| *other == id).count() == 1;
        assert!(ids.iter().all(distinct));
        assert_eq!(senders.len(), 30);
    }

    #[test]
    fn those_that_are_too_many_share_a_place() {
        let mut senders = Senders::new();
        for n in 0..MOST_SENDERS {
            assert_ne!(senders.find(Key::new(0, mac(n)), ABSENCE), CROWD);
        }
        assert_eq!(senders.find(Key::new(0, mac(MOST_SENDERS)), ABSENCE), CROWD);
        assert_eq!(senders.find(Key::new(9, mac(0)), ABSENCE), CROWD);
        assert_ne!(senders.find(Key::new(0, mac(5)), ABSENCE), CROWD);
        assert_eq!(senders.len(), MOST_SENDERS);
    }

    #[test]
    fn whoever_is_away_is_forgotten_and_makes_room() {
        let mut senders = Senders::new();
        let start = Duration::from_secs(1);
        let keys: Vec<Key> = (0..MOST_SENDERS).map(|n| Key::new(0, mac(n))).collect();
        for &key in &keys {
            senders.find(key, start);
        }
        let (waits, works) = (senders.find(keys[1], start), senders.find(keys[2], start));
        senders.get_mut(waits).unwrap().waiting = 1;
        senders.get_mut(works).unwrap().held = 1;
        senders.find(keys[3], start + ABSENCE);
        let mut left = 0;
        senders.forget_absent(start + ABSENCE, |_| left += 1);
        assert_eq!(left, 0, "not yet");
        senders.forget_absent(start + ABSENCE + Duration::from_millis(1), |_| left += 1);
        assert_eq!((left, senders.len()), (MOST_SENDERS - 3, 3));
        assert_ne!(senders.find(Key::new(5, mac(1)), start), CROWD);
        assert_eq!(senders.find(keys[1], start), waits);
    }
}
