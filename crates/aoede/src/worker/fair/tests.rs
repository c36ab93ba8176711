//! Stories and properties of who is served next.

use std::collections::VecDeque;
use std::num::NonZeroU64;

use aoede_wire::{Address, Ata, Body, Config, ExtensionTable, Header, Opcode};
use proptest::prelude::*;

use super::*;
use crate::size::Size;

const START: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const PLACES: usize = 256;
const BUFFERS: usize = 64;
/// What the tests say of free buffers when there are enough.
const ENOUGH: usize = BUFFERS;

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn frame(body: Body<'_>) -> Vec<u8> {
    let header = Header::request(mac(1), mac(99), Address { shelf: 1, slot: 1 });
    let mut bytes = vec![0; 9014];
    let len = body.encode(header, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

fn read() -> Vec<u8> {
    frame(Body::Ata(Ata::request(Opcode::ReadExt, 0, 16)))
}

fn extension() -> Vec<u8> {
    frame(Body::Extension(ExtensionTable::new(b"reset\0\0").unwrap()))
}

fn fair() -> Fair {
    let mut fair = Fair::new(PLACES, BUFFERS);
    for export in 0..2 {
        fair.set_export(export, 64);
    }
    fair.handle_time(START);
    fair
}

impl Fair {
    /// A read by this initiator has come for this export.
    fn read(&mut self, export: usize, n: u8) -> Head {
        self.look(Some(export), mac(n), &read())
    }

    fn wait(&mut self, head: Head, cost: u64) -> Option<usize> {
        let kept = self.keep(head, 0, Queue::default(), cost)?;
        Some(kept.place)
    }

    fn serve(&mut self) -> Option<(SenderId, usize)> {
        self.serve_if(|_| true)
    }

    fn serve_if(&mut self, has_room: impl Fn(&Head) -> bool) -> Option<(SenderId, usize)> {
        let turn = self.next(ENOUGH, has_room, |_| true)?;
        self.release(&turn);
        Some((turn.head.sender, turn.place))
    }

    fn limit(&mut self, export: usize, operations: u32) {
        let limits = Limits {
            operations_per_second: Some(operations),
            bytes_per_second: None,
        };
        self.set_limits(export, limits);
    }
}

#[test]
fn who_is_alone_never_waits() {
    let mut fair = fair();
    for _ in 0..10_000 {
        let head = fair.read(0, 1);
        assert!(fair.admits(&head, 1));
        fair.begin(head.sender, 0, 8192);
    }
    assert_eq!(fair.poll_timeout(), None);
    assert!(!fair.is_shared() && fair.takes_frames(0));
    assert_eq!(fair.stats(), FairStats::default());
}

#[test]
fn without_a_buffer_everybody_waits() {
    let mut fair = fair();
    let head = fair.read(0, 1);
    assert!(!fair.admits(&head, 0));
    let query = fair.look(None, mac(1), &frame(Body::Config(Config::default())));
    assert!(!fair.admits(&query, 0));
    fair.wait(head, 1).unwrap();
    assert!(fair.next(0, |_| true, |_| true).is_none());
    assert!(fair.next(1, |_| true, |_| true).is_some());
}

#[test]
fn frames_of_one_initiator_keep_their_order() {
    let mut fair = fair();
    let head = fair.read(0, 1);
    let places: Vec<usize> = (0..5).map(|_| fair.wait(head, 100).unwrap()).collect();
    assert!(!fair.admits(&head, ENOUGH), "others of its own wait");
    let query = fair.look(Some(0), mac(1), &frame(Body::Config(Config::default())));
    assert!(fair.admits(&query, ENOUGH), "discovery does not wait");
    let other = fair.read(0, 2);
    assert!(fair.admits(&other, ENOUGH));
    let served: Vec<usize> = (0..5).map(|_| fair.serve().unwrap().1).collect();
    assert_eq!(served, places);
    assert!(fair.admits(&head, ENOUGH));
}

#[test]
fn a_queue_that_empties_is_forgotten() {
    let mut fair = fair();
    let greedy = fair.read(0, 1);
    // It has had very much in advance, but nobody is left who could mind.
    fair.wait(greedy, 1 << 40).unwrap();
    fair.wait(greedy, 1).unwrap();
    fair.serve().unwrap();
    fair.serve().unwrap();
    assert!(fair.order.is_empty());
    let other = fair.read(0, 2);
    for _ in 0..4 {
        fair.wait(greedy, 4096).unwrap();
        fair.wait(other, 4096).unwrap();
    }
    let served: Vec<SenderId> = (0..8).map(|_| fair.serve().unwrap().0).collect();
    assert_eq!(served[..4], [greedy.sender; 4], "a quantum of 16 KiB each");
    assert_eq!(served[4..], [other.sender; 4]);
    assert_eq!(fair.stats().waiting, 0);

    fair.handle_time(START + ABSENCE + 2 * MS);
    assert_eq!(fair.senders.len(), 0);
}

#[test]
fn what_somebody_has_had_in_advance_is_made_up_for() {
    let mut fair = fair();
    let (greedy, other) = (fair.read(0, 1), fair.read(0, 2));
    fair.wait(greedy, 10 * u64::from(QUANTUM)).unwrap();
    fair.wait(greedy, 1).unwrap();
    for _ in 0..20 {
        fair.wait(other, u64::from(QUANTUM)).unwrap();
    }
    let served: Vec<SenderId> = (0..22).map(|_| fair.serve().unwrap().0).collect();
    assert_eq!(served[0], greedy.sender);
    let again = served[1..].iter().position(|&id| id == greedy.sender);
    // It was given one quantum, and owes nine.
    assert!((9..=11).contains(&again.unwrap()), "{again:?}");
}

#[test]
fn an_initiator_has_as_many_places_as_its_export_has_buffers() {
    let mut fair = fair();
    fair.set_export(1, 10);
    let (many, few) = (fair.read(0, 1), fair.read(1, 1));
    assert_eq!((0..100).filter_map(|_| fair.wait(many, 1)).count(), 64);
    assert_eq!((0..100).filter_map(|_| fair.wait(few, 1)).count(), 10);
    let stats = fair.stats();
    assert_eq!((stats.queue_full, stats.waiting), (36 + 90, 74));
    assert_eq!((stats.waited, stats.room_full), (74, 0));
}

#[test]
fn no_more_places_are_used_than_may_wait() {
    let mut fair = fair();
    fair.set_most_waiting(20);
    let (one, other) = (fair.read(0, 1), fair.read(1, 2));
    let mut places = Vec::new();
    for _ in 0..3 {
        places.extend((0..64).filter_map(|_| fair.wait(one, 1)));
        places.extend((0..64).filter_map(|_| fair.wait(other, 1)));
        assert_eq!(fair.stats().waiting, 20);
        fair.serve().unwrap();
    }
    // Memory that was not touched before costs nothing.
    assert!(places.iter().all(|&place| place < 20), "{places:?}");
}

#[test]
fn the_longest_queue_makes_room() {
    let mut fair = fair();
    let mut kept: Vec<(SenderId, Vec<usize>)> = Vec::new();
    for n in 0..4 {
        let head = fair.read(0, n);
        let places: Vec<usize> = (0..64).filter_map(|_| fair.wait(head, 1)).collect();
        assert_eq!(places.len(), 64);
        kept.push((head.sender, places));
    }
    let late = fair.read(0, 9);
    let mut places: Vec<usize> = (0..63).filter_map(|_| fair.wait(late, 1)).collect();
    // 256 places for five.
    assert_eq!(places.len(), 51);
    assert_eq!(fair.stats().waiting, PLACES);
    assert_eq!(fair.stats().room_full, 63);
    for n in 0..4 {
        let sender = fair.read(0, n).sender;
        let waiting = fair.senders.get(sender).unwrap().waiting;
        assert!((51..=52).contains(&waiting), "{waiting}");
    }
    // The oldest of each are left, in order.
    places.reverse();
    while let Some((sender, place)) = fair.serve() {
        if sender == late.sender {
            assert_eq!(Some(place), places.pop());
        } else {
            let mut others = kept.iter_mut().filter(|(id, _)| *id == sender);
            assert_eq!(place, others.next().unwrap().1.remove(0));
        }
    }
    assert_eq!(fair.stats().waiting, 0);
}

#[test]
fn a_limit_lets_no_more_begin_and_says_when() {
    let mut fair = fair();
    fair.limit(0, 100);
    let (head, other) = (fair.read(0, 1), fair.read(1, 1));
    // 20 ms are worth two.
    for _ in 0..3 {
        assert!(fair.admits(&head, ENOUGH));
        fair.begin(head.sender, 0, 0);
    }
    assert!(!fair.admits(&head, ENOUGH));
    assert_eq!(fair.poll_timeout(), None, "nothing waits");
    fair.wait(head, 1).unwrap();
    assert_eq!(fair.poll_timeout(), Some(START + 10 * MS));
    assert!(fair.serve().is_none());
    assert!(fair.admits(&other, ENOUGH), "another export");
    let query = fair.look(Some(0), mac(2), &frame(Body::Config(Config::default())));
    assert!(fair.admits(&query, ENOUGH), "no request for the disk");

    fair.handle_time(START + 10 * MS);
    assert_eq!(fair.poll_timeout(), None, "it is due");
    assert!(fair.serve().is_some());
    fair.set_limits(0, Limits::default());
    assert!(fair.admits(&head, ENOUGH));
}

#[test]
fn initiators_share_a_limit() {
    let mut fair = fair();
    fair.set_limits(
        0,
        Limits {
            bytes_per_second: Some(Size(1 << 20)),
            operations_per_second: None,
        },
    );
    let heads: Vec<Head> = (0..3).map(|n| fair.read(0, n)).collect();
    let mut served = [0; 3];
    for ms in 0..3000 {
        fair.handle_time(START + ms * MS);
        for &head in &heads {
            while fair.wait(head, cost(&read())).is_some() {}
        }
        while let Some((sender, _)) = fair.serve() {
            let ticket = fair.begin(sender, 0, 8192);
            fair.handle_done(ticket, 0, Some(true));
            let n = heads.iter().position(|head| head.sender == sender);
            served[n.unwrap()] += 1;
        }
    }
    // 1 MiB a second, for three seconds, in requests of 8 KiB.
    assert!((380..=390).contains(&served.iter().sum()), "{served:?}");
    assert!(served.iter().all(|n| (126..=132).contains(n)), "{served:?}");
}

#[test]
fn beside_others_an_initiator_has_few_requests_with_the_disk() {
    let mut fair = fair();
    let greedy = fair.read(0, 1);
    let mut tickets: Vec<Ticket> = (0..20).map(|_| fair.begin(greedy.sender, 0, 0)).collect();
    assert!(fair.admits(&greedy, ENOUGH), "alone");
    let elsewhere = fair.read(1, 2);
    fair.begin(elsewhere.sender, 1, 0);
    assert!(fair.admits(&greedy, ENOUGH), "another disk");
    let guest = fair.read(0, 2);
    assert!(fair.admits(&guest, ENOUGH));
    let ticket = fair.begin(guest.sender, 0, 0);
    assert!(!fair.admits(&greedy, ENOUGH));
    while tickets.len() > LEAST {
        fair.handle_done(tickets.pop().unwrap(), 0, Some(false));
        assert!(tickets.len() < LEAST || !fair.admits(&greedy, ENOUGH));
    }
    fair.handle_done(tickets.pop().unwrap(), 0, Some(false));
    assert!(fair.admits(&greedy, ENOUGH));
    // The guest goes away.
    fair.begin(greedy.sender, 0, 0);
    fair.handle_done(ticket, 0, Some(true));
    assert!(!fair.admits(&greedy, ENOUGH));
    fair.handle_time(START + ABSENCE + SWEEP);
    assert!(fair.admits(&greedy, ENOUGH));
}

#[test]
fn the_last_buffers_are_for_those_who_have_few() {
    let mut fair = fair();
    let (greedy, guest) = (fair.read(0, 1), fair.read(1, 2));
    for _ in 0..56 {
        fair.begin(greedy.sender, 0, 0);
    }
    assert!(fair.admits(&greedy, 8), "alone");
    fair.begin(guest.sender, 1, 0);
    assert!(!fair.admits(&greedy, 8));
    assert!(fair.admits(&greedy, 9));
    assert!(fair.admits(&guest, 1));
}

#[test]
fn who_is_alone_and_sends_too_much_is_left_in_the_ring() {
    let mut fair = fair();
    let head = fair.read(0, 1);
    for _ in 0..64 {
        assert!(fair.takes_frames(0));
        fair.wait(head, 1).unwrap();
    }
    assert!(!fair.takes_frames(0));
    // It is alone at another export, too.
    let also = fair.read(1, 1);
    fair.begin(also.sender, 1, 0);
    fair.wait(also, 1).unwrap();
    assert!(!fair.takes_frames(0));
    // With a limit, others in the ring would wait for it.
    fair.limit(0, 100);
    assert!(fair.takes_frames(0));
    fair.set_limits(0, Limits::default());
    let other = fair.read(1, 2);
    fair.wait(other, 1).unwrap();
    assert!(fair.takes_frames(0));
}

/// One initiator, two interfaces of ours, one of which cannot send.
#[test]
fn a_seat_that_cannot_answer_holds_up_nobody_elses_frames() {
    let mut fair = fair();
    fair.set_export(1, 3);
    let head = fair.read(1, 1);
    for seat in [0, 0, 1, 0, 1, 1] {
        fair.keep(head, seat, Queue::default(), 1).unwrap();
    }
    for seat in [0, 1] {
        assert_eq!(fair.keep(head, seat, Queue::default(), 1), None);
        assert!(!fair.takes_frames(seat));
    }
    assert!(fair.takes_frames(2));
    for _ in 0..3 {
        let turn = fair.next(ENOUGH, |_| true, |seat| seat == 1).unwrap();
        assert_eq!(turn.seat, 1);
        fair.release(&turn);
    }
    assert!(fair.next(ENOUGH, |_| true, |seat| seat == 1).is_none());
    assert!(fair.takes_frames(1) && !fair.takes_frames(0));
    assert_eq!(fair.serve().unwrap().0, head.sender);
}

#[test]
fn wildcards_and_single_addresses_do_not_overtake_each_other() {
    let mut fair = fair();
    let read = fair.read(0, 1);
    let older = fair.wait(read, 1).unwrap();
    let reset = fair.look(None, mac(1), &extension());
    assert!(!fair.admits(&reset, ENOUGH));
    let query = fair.look(None, mac(1), &frame(Body::Config(Config::default())));
    assert!(fair.admits(&query, ENOUGH), "discovery does not wait");
    let strangers = fair.look(None, mac(2), &extension());
    assert!(fair.admits(&strangers, ENOUGH));
    let wildcard = fair.wait(reset, 1).unwrap();
    let newer = fair.wait(read, 1).unwrap();
    let elsewhere = fair.read(1, 1);
    assert!(!fair.admits(&elsewhere, ENOUGH));
    let other = fair.read(1, 2);
    assert!(fair.admits(&other, ENOUGH));
    let served: Vec<usize> = (0..3).map(|_| fair.serve().unwrap().1).collect();
    assert_eq!(served, [older, wildcard, newer]);
    assert!(fair.admits(&elsewhere, ENOUGH));
}

#[test]
fn what_waits_for_what_has_gone_is_dropped() {
    let mut fair = fair();
    let (one, two) = (fair.read(0, 1), fair.read(1, 1));
    for seat in [0, 1, 0] {
        fair.keep(one, seat, Queue::default(), 1).unwrap();
        fair.keep(two, seat, Queue::default(), 1).unwrap();
    }
    fair.forget_export(0);
    assert_eq!((fair.stats().gone, fair.stats().waiting), (3, 3));
    fair.forget_seat(0);
    assert_eq!((fair.stats().gone, fair.stats().waiting), (5, 1));
    let last = fair.next(ENOUGH, |_| true, |_| true).unwrap();
    assert_eq!((last.seat, last.head.export()), (1, Some(1)));
    fair.release(&last);
    assert!(fair.serve().is_none());
    assert!(fair.admits(&one, ENOUGH));
}

#[test]
fn who_is_not_ready_does_not_hold_up_others() {
    let mut fair = fair();
    let (stuck, other) = (fair.read(0, 1), fair.read(1, 2));
    for _ in 0..10 {
        fair.wait(stuck, 1).unwrap();
        fair.wait(other, 1).unwrap();
    }
    for _ in 0..10 {
        let served = fair.serve_if(|head| head.export() == Some(1));
        assert_eq!(served.unwrap().0, other.sender);
    }
    assert!(fair.serve_if(|head| head.export() == Some(1)).is_none());
    assert_eq!(fair.serve().unwrap().0, stuck.sender);
}

/// Those beyond share one place.
#[test]
fn more_initiators_than_are_told_apart_are_served_all_the_same() {
    let mut fair = fair();
    let known = fair.read(0, 1);
    for n in 0..3000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let stranger = fair.look(Some(0), MacAddr([4, 0, 0, a, b, c]), &read());
        let ticket = fair.begin(stranger.sender, 0, 0);
        fair.handle_done(ticket, 0, Some(true));
    }
    assert!(fair.admits(&known, ENOUGH));
    fair.handle_time(START + Duration::from_secs(1));
    assert_eq!((fair.senders.len(), fair.active), (0, 0));
    assert_eq!(fair.exports[0].active, 0);
}

proptest! {
    /// Of those who always have something waiting, each gets the same but for one quantum and what
    /// its last frame was longer.
    #[test]
    fn shares_are_equal_within_a_quantum(
        sizes in prop::collection::vec(prop::collection::vec(1_u64..13_000, 1..5), 2..6),
        rounds in 1_usize..1500,
    ) {
        let mut fair = fair();
        let heads: Vec<Head> = (0..).zip(&sizes).map(|(n, _)| fair.read(0, n)).collect();
        let mut costs: Vec<VecDeque<u64>> = vec![VecDeque::new(); sizes.len()];
        let mut next: Vec<_> = sizes.iter().map(|s| s.iter().copied().cycle()).collect();
        let mut had = vec![0; sizes.len()];
        for _ in 0..rounds {
            for n in 0..sizes.len() {
                while costs[n].len() < 3 {
                    let cost = next[n].next().unwrap();
                    fair.wait(heads[n], cost).unwrap();
                    costs[n].push_back(cost);
                }
            }
            let (sender, _) = fair.serve().unwrap();
            let n = heads.iter().position(|head| head.sender == sender).unwrap();
            had[n] += costs[n].pop_front().unwrap();
        }
        let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
        prop_assert!(most - least <= u64::from(QUANTUM) + 13_000, "{:?}", had);
    }

    /// However others fill their queues, a frame is served before each of them has had more than
    /// a quantum and a frame.
    #[test]
    fn nobody_starves(others in 1_u8..20, cost in 1_u64..4_000_000, small in 1_u64..13_000) {
        let mut fair = Fair::new(1024, BUFFERS);
        fair.set_export(0, 64);
        fair.handle_time(START);
        let mut heads: Vec<Head> = (1..=others).map(|n| fair.read(0, n)).collect();
        let polite = fair.read(0, 0);
        for _ in 0..20 {
            for head in &mut heads {
                fair.wait(*head, cost);
            }
        }
        fair.wait(polite, small).unwrap();
        let most = usize::from(others) * (1 + usize::try_from(u64::from(QUANTUM) / cost).unwrap());
        let mut served = 0;
        while fair.serve().unwrap().0 != polite.sender {
            served += 1;
            prop_assert!(served <= most, "{} of {}", served, most);
        }
    }

    /// Against a model: what waits is in one place, comes out once and in order, and is counted.
    #[test]
    fn every_frame_is_served_or_counted(
        actions in prop::collection::vec((0_u8..10, 0_u8..6, 0_usize..3), 1..400),
    ) {
        let mut fair = Fair::new(20, BUFFERS);
        fair.set_export(0, 8);
        fair.set_export(1, 5);
        fair.handle_time(START);
        let mut now = START;
        let mut queues: Vec<(SenderId, VecDeque<usize>)> = Vec::new();
        let (mut came, mut served) = (0, 0);
        for (action, n, export) in actions {
            match action {
                0..=5 => {
                    let wildcard = export == 2;
                    let bytes = if wildcard { extension() } else { read() };
                    let export = (!wildcard).then_some(export);
                    let head = fair.look(export, mac(n), &bytes);
                    came += 1;
                    let seat = usize::from(n);
                    if let Some(kept) = fair.keep(head, seat, Queue::default(), 5000) {
                        let place = kept.place;
                        // It may be one that another had.
                        for (_, queue) in &mut queues {
                            queue.retain(|&other| other != place);
                        }
                        match queues.iter_mut().find(|(id, _)| *id == head.sender) {
                            Some((_, queue)) => queue.push_back(place),
                            None => queues.push((head.sender, VecDeque::from([place]))),
                        }
                    }
                }
                6 | 7 => {
                    if let Some(turn) = fair.next(ENOUGH, |_| true, |_| true) {
                        let queue = queues.iter_mut().find(|(id, _)| *id == turn.head.sender);
                        prop_assert_eq!(queue.unwrap().1.pop_front(), Some(turn.place));
                        fair.release(&turn);
                        served += 1;
                    } else {
                        prop_assert_eq!(fair.stats().waiting, 0);
                    }
                }
                8 => {
                    now += 60 * MS;
                    fair.handle_time(now);
                }
                _ => {
                    if n == 0 {
                        fair.forget_export(export);
                        queues.clear();
                        // What is left is compared by numbers alone.
                        while let Some(turn) = fair.next(ENOUGH, |_| true, |_| true) {
                            fair.release(&turn);
                            served += 1;
                        }
                    }
                }
            }
            let stats = fair.stats();
            prop_assert!(stats.waiting <= 20);
            let dropped = stats.queue_full + stats.room_full + stats.gone;
            prop_assert_eq!(came, served + dropped + stats.waiting as u64);
            let waiting: usize = queues.iter().map(|(_, queue)| queue.len()).sum();
            prop_assert_eq!(waiting, stats.waiting);
            queues.retain(|(_, queue)| !queue.is_empty());
        }
    }
}

#[test]
fn a_bucket_is_only_charged_for_what_begins() {
    let mut fair = fair();
    fair.limit(0, 8);
    let head = fair.read(0, 1);
    for _ in 0..100 {
        assert!(fair.admits(&head, ENOUGH));
    }
    fair.begin(head.sender, 0, 0);
    let mut bucket = Bucket::new(NonZeroU64::new(8).unwrap());
    bucket.take(START, 1);
    assert_eq!(fair.exports[0].throttle.due(), bucket.due());
}

/// What came before its like was answered goes with it, by whatever path; another request stays.
#[test]
fn repetitions_of_what_is_done_do_not_wait_any_longer() {
    let write = |n, tag, lba| {
        let mut header = Header::request(mac(n), mac(99), Address { shelf: 1, slot: 1 });
        header.tag = Tag([0, 0, 0, tag]);
        let mut bytes = vec![0; 9014];
        let body = Body::Ata(Ata::request(Opcode::WriteExt, lba, 1).with_data(&[0; 512]));
        let len = body.encode(header, &mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    };
    let mut fair = fair();
    let first = write(1, 7, 0x0102_0304_0506);
    for (export, n, tag, lba) in [
        (0, 1, 7, 0x0102_0304_0506),
        (0, 1, 8, 0x0102_0304_0506),
        (0, 2, 7, 0x0102_0304_0506),
        (1, 1, 7, 0x0102_0304_0506),
        (0, 2, 7, 0x0102_0304_0505),
        (0, 1, 7, 0x0102_0304_0506),
    ] {
        let head = fair.look(Some(export), mac(n), &write(n, tag, lba));
        fair.wait(head, 512).unwrap();
    }
    let name = Name::of_frame(&first).unwrap();
    assert_eq!(fair.drop_repetitions(0, name), 3);
    assert_eq!(fair.stats().waiting, 3);
    assert_eq!(fair.drop_repetitions(0, name), 0);
    assert_eq!(std::iter::from_fn(|| fair.serve()).count(), 3);
    assert_eq!(fair.stats().waiting, 0);
    // One that was on its way meanwhile must not wait until there is newer data.
    let head = fair.look(Some(0), mac(2), &first);
    assert_eq!(fair.wait(head, 512), None);
    fair.handle_time(START + 101 * MS);
    let head = fair.look(Some(0), mac(2), &first);
    assert!(fair.wait(head, 512).is_some());
}
