//! An Ethernet segment in memory, with faults: same seed, same calls, same frames.
//!
//! A [`SimNet`] is the wire, a [`SimPort`] one station on it. Frames go where their destination MAC
//! says; group addresses go to all but the sender. Time passes in steps, when [`SimNet::step`] says
//! so; without faults and delay a frame arrives at once. Stations of one segment live in one thread.
//!
//! The fault model, for each frame and each receiver on its own: it may be lost, come twice, have
//! one bit flipped behind the Ethernet header, come later than the frames after it, or much later.
//! Receive rings have an end; interfaces go down, and what arrives there meanwhile is lost; the way
//! from one station to another may be cut ([`SimNet::set_passes`]). Frames never change in length,
//! and never come from nowhere.
//!
//! ```
//! use aoede_link::{Port, sim::SimNet};
//!
//! let net = SimNet::new(1);
//! let mut target = net.attach("target", 9000);
//! let mut initiator = net.attach("initiator", 9000);
//!
//! let mut frame = [0; 60];
//! frame[..6].copy_from_slice(&target.interface().mac.0);
//! assert_eq!(initiator.send(&[frame]), 1);
//! assert_eq!(target.receive(), Some(&frame[..]));
//! assert_eq!(target.receive(), None);
//! ```
#![forbid(unsafe_code)]

use crate::{Interface, Outgoing, Port, PortStats, RingUse};
use aoede_wire::{Address, MacAddr};
use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

const ETHERNET_HEADER: usize = 14;
/// As many frames as the default ring of a real port.
const RING_FRAMES: usize = 256;

/// What goes wrong on the segment. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Frames lost, of a million.
    pub loss_ppm: u32,
    /// Frames that come twice, of a million.
    pub duplicate_ppm: u32,
    /// Frames with one bit flipped, of a million.
    pub corrupt_ppm: u32,
    /// Frames held back for 1 to `reorder_steps` more steps, of a million.
    pub reorder_ppm: u32,
    /// See `reorder_ppm`; 0 counts as 1.
    pub reorder_steps: u32,
    /// Frames held back for 1 to `late_steps` more steps instead, of a million.
    pub late_ppm: u32,
    /// See `late_ppm`; 0 counts as 1.
    pub late_steps: u32,
    /// Frames that come twice come twice at one time, however late they are.
    pub twins_together: bool,
    /// Steps every frame takes.
    pub delay_steps: u32,
    /// Frames a port can send from one step to the next, if there is a limit: a full send buffer.
    pub send_limit: Option<u32>,
}

/// A segment. Clones are the same segment.
#[derive(Clone, Debug)]
pub struct SimNet(Rc<RefCell<Segment>>);

impl SimNet {
    /// A segment without stations and faults.
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Segment {
            random: Random(seed),
            faults: Faults::default(),
            now: 0,
            sequence: 0,
            under_way: BTreeMap::new(),
            stations: Vec::new(),
            cut: Vec::new(),
        })))
    }

    /// A new station, up, with a MAC of its own and room for 256 received frames.
    pub fn attach(&self, name: &str, mtu: u32) -> SimPort {
        let mut segment = self.segment_mut();
        let station = segment.stations.len();
        // Locally administered, and told apart by the index, which starts at 1 as in the kernel.
        let index = u32::try_from(station).unwrap_or(u32::MAX - 1) + 1;
        let [a, b, c, d] = index.to_be_bytes();
        let interface = Interface {
            index,
            name: name.to_owned(),
            mac: MacAddr([2, 0, a, b, c, d]),
            mtu,
            up: true,
            ethernet: true,
        };
        segment.stations.push(Station {
            interface: interface.clone(),
            max_frame: max_frame(mtu),
            exports: Vec::new(),
            ring: VecDeque::new(),
            held: false,
            sent_in_step: 0,
            stats: PortStats::default(),
        });
        SimPort {
            net: self.clone(),
            station,
            max_frame: max_frame(mtu),
            interface,
            current: Vec::new(),
        }
    }

    /// Another port of a station, as a process opens it that was started anew: with an empty ring.
    /// The one before must not be used any more.
    pub fn reopen(&self, mac: MacAddr) -> Option<SimPort> {
        let mut segment = self.segment_mut();
        let mut stations = segment.stations.iter_mut().enumerate();
        let found = stations.find(|(_, station)| station.interface.mac == mac);
        let (index, station) = found?;
        station.ring.clear();
        station.held = false;
        station.exports.clear();
        station.max_frame = max_frame(station.interface.mtu);
        Some(SimPort {
            net: self.clone(),
            station: index,
            max_frame: station.max_frame,
            interface: station.interface.clone(),
            current: Vec::new(),
        })
    }

    /// From now on these go wrong; frames under way stay as they are.
    pub fn set_faults(&self, faults: Faults) {
        self.segment_mut().faults = faults;
    }

    /// One step passes, and what is due arrives.
    pub fn step(&self) {
        self.advance(self.now() + 1);
    }

    /// Steps pass up to this one, and what is due by then arrives. Time never goes back.
    pub fn advance(&self, step: u64) {
        let mut segment = self.segment_mut();
        if step > segment.now {
            segment.now = step;
            for station in &mut segment.stations {
                station.sent_in_step = 0;
            }
            segment.arrive();
        }
    }

    /// The step in which the next frame under way arrives.
    pub fn next_due(&self) -> Option<u64> {
        let segment = self.segment();
        segment.under_way.keys().next().map(|(due, _)| *due)
    }

    /// Steps since the segment was made.
    pub fn now(&self) -> u64 {
        self.segment().now
    }

    /// Frames under way: sent, neither lost nor arrived.
    pub fn under_way(&self) -> usize {
        self.segment().under_way.len()
    }

    /// The interface of a station as it is; the port itself knows what it was told.
    pub fn interface(&self, mac: MacAddr) -> Option<Interface> {
        let segment = self.segment();
        let mut interfaces = segment.stations.iter().map(|station| &station.interface);
        interfaces.find(|interface| interface.mac == mac).cloned()
    }

    /// Switches the interface with this MAC on or off. Frames that wait in its ring stay there.
    pub fn set_up(&self, mac: MacAddr, up: bool) {
        self.change(mac, |interface| interface.up = up);
    }

    /// Whether frames pass from one interface to another; without a word they do. Those under way
    /// arrive.
    pub fn set_passes(&self, from: MacAddr, to: MacAddr, passes: bool) {
        let cut = &mut self.segment_mut().cut;
        cut.retain(|&way| way != (from, to));
        if !passes {
            cut.push((from, to));
        }
    }

    /// Changes the MTU of the interface with this MAC. Its receive ring stays as it is.
    pub fn set_mtu(&self, mac: MacAddr, mtu: u32) {
        self.change(mac, |interface| interface.mtu = mtu);
    }

    fn change(&self, mac: MacAddr, change: impl FnOnce(&mut Interface)) {
        let mut segment = self.segment_mut();
        let mut interfaces = segment.stations.iter_mut().map(|s| &mut s.interface);
        if let Some(interface) = interfaces.find(|interface| interface.mac == mac) {
            change(interface);
        }
    }

    fn segment(&self) -> Ref<'_, Segment> {
        self.0.borrow()
    }

    fn segment_mut(&self) -> RefMut<'_, Segment> {
        self.0.borrow_mut()
    }
}

/// A port of a station on a [`SimNet`].
#[derive(Debug)]
pub struct SimPort {
    net: SimNet,
    /// Number of the station in the segment.
    station: usize,
    /// As when attached.
    max_frame: usize,
    /// As last told.
    interface: Interface,
    /// The frame handed out last.
    current: Vec<u8>,
}

impl SimPort {
    /// Whether frames wait, or one is still held: what a poll of a real port tells.
    pub fn is_readable(&self) -> bool {
        let segment = self.net.segment();
        let station = segment.stations.get(self.station);
        station.is_some_and(|station| station.occupied() > 0)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Segment, usize) -> T) -> T {
        act(&mut self.net.segment_mut(), self.station)
    }
}

impl Port for SimPort {
    fn interface(&self) -> &Interface {
        &self.interface
    }

    fn set_interface(&mut self, interface: Interface) {
        self.interface = interface;
    }

    fn max_frame(&self) -> usize {
        self.max_frame
    }

    fn receive(&mut self) -> Option<&[u8]> {
        let next = self.with(|segment, station| segment.stations.get_mut(station)?.take());
        self.current = next?;
        Some(&self.current)
    }

    fn release(&mut self) {
        self.with(|segment, station| {
            if let Some(station) = segment.stations.get_mut(station) {
                station.held = false;
            }
        });
    }

    fn ring_use(&self) -> RingUse {
        self.with(|segment, station| {
            let station = segment.stations.get(station);
            station.map_or_else(RingUse::default, |station| RingUse {
                waiting: station.ring.len(),
                free: RING_FRAMES - station.occupied(),
            })
        })
    }

    fn send<F: Outgoing>(&mut self, frames: &[F]) -> usize {
        self.with(|segment, station| {
            let mut done = 0;
            for frame in frames {
                let shared = frame.shared().iter().map(|byte| byte.load(Relaxed));
                let bytes: Vec<u8> = frame.head().iter().copied().chain(shared).collect();
                if !segment.send(station, &bytes) {
                    break;
                }
                done += 1;
            }
            done
        })
    }

    fn set_exports(&mut self, exports: &[Address]) -> io::Result<()> {
        self.with(|segment, station| {
            if let Some(station) = segment.stations.get_mut(station) {
                station.exports = exports.to_vec();
            }
        });
        Ok(())
    }

    fn stats(&mut self) -> PortStats {
        self.with(|segment, station| {
            let station = segment.stations.get(station);
            station.map_or_else(PortStats::default, |station| station.stats)
        })
    }
}

/// What stations share.
#[derive(Debug)]
struct Segment {
    random: Random,
    faults: Faults,
    now: u64,
    /// Of frames under way, so that they arrive in the order they were sent.
    sequence: u64,
    /// By the step they are due in, then by sequence.
    under_way: BTreeMap<(u64, u64), UnderWay>,
    stations: Vec<Station>,
    /// From and to: no frame passes.
    cut: Vec<(MacAddr, MacAddr)>,
}

#[derive(Debug)]
struct UnderWay {
    receiver: usize,
    frame: Vec<u8>,
}

impl Segment {
    /// Whether the frame is dealt with; if not, the sender has to wait.
    fn send(&mut self, sender: usize, frame: &[u8]) -> bool {
        let limit = self.faults.send_limit.unwrap_or(u32::MAX);
        let Some(station) = self.stations.get_mut(sender) else {
            return true;
        };
        if !station.may_send(frame, limit) {
            return false;
        }
        if station.sends(frame) {
            let from = station.interface.mac;
            for receiver in 0..self.stations.len() {
                let heard = self.stations.get(receiver).is_some_and(|station| {
                    station.hears(frame) && !self.cut.contains(&(from, station.interface.mac))
                });
                if heard && receiver != sender {
                    self.transmit(receiver, frame);
                }
            }
            self.arrive();
        }
        true
    }

    /// Puts a frame under way to one receiver, as the faults will have it.
    fn transmit(&mut self, receiver: usize, frame: &[u8]) {
        let faults = self.faults;
        if self.random.chance(faults.loss_ppm) {
            return;
        }
        let copies = 1 + u32::from(self.random.chance(faults.duplicate_ppm));
        let mut first_due = None;
        for _ in 0..copies {
            let mut frame = frame.to_vec();
            if self.random.chance(faults.corrupt_ppm) {
                self.random.flip_a_bit(&mut frame);
            }
            let due = match first_due {
                Some(due) if faults.twins_together => due,
                _ => self.now + self.random.delay(&faults),
            };
            first_due = Some(due);
            self.under_way
                .insert((due, self.sequence), UnderWay { receiver, frame });
            self.sequence += 1;
        }
    }

    /// Puts what is due into the receivers' rings.
    fn arrive(&mut self) {
        while let Some(first) = self.under_way.first_entry() {
            if first.key().0 > self.now {
                break;
            }
            let UnderWay { receiver, frame } = first.remove();
            if let Some(station) = self.stations.get_mut(receiver) {
                station.arrives(frame);
            }
        }
    }
}

/// One end of the segment.
#[derive(Debug)]
struct Station {
    /// As it is.
    interface: Interface,
    /// What a slot of the ring takes.
    max_frame: usize,
    exports: Vec<Address>,
    ring: VecDeque<Vec<u8>>,
    /// Whether one more slot is taken, by the frame handed out last.
    held: bool,
    sent_in_step: u32,
    stats: PortStats,
}

impl Station {
    fn may_send(&mut self, frame: &[u8], limit: u32) -> bool {
        // As in the kernel: what cannot be sent at all is refused first.
        if self.can_send(frame) && self.sent_in_step >= limit {
            self.stats.send_waits += 1;
            return false;
        }
        true
    }

    fn can_send(&self, frame: &[u8]) -> bool {
        self.interface.up && frame.len() <= max_frame(self.interface.mtu)
    }

    /// Counts the frame; whether it goes out.
    fn sends(&mut self, frame: &[u8]) -> bool {
        if self.can_send(frame) {
            self.stats.sent += 1;
            self.sent_in_step += 1;
            return true;
        }
        if self.interface.up {
            self.stats.send_lost_too_long += 1;
        } else {
            self.stats.send_lost_down += 1;
        }
        false
    }

    /// Whether a frame is meant for this station, or for all.
    fn hears(&self, frame: &[u8]) -> bool {
        match frame.first_chunk() {
            Some(&to) => MacAddr(to) == self.interface.mac || to[0] & 0x01 != 0,
            None => false,
        }
    }

    fn arrives(&mut self, frame: Vec<u8>) {
        if !self.interface.up || frame.len() > max_frame(self.interface.mtu) {
            return;
        }
        if !self.filter_passes(&frame) {
            return;
        }
        if self.occupied() >= RING_FRAMES {
            self.stats.ring_drops += 1;
        } else {
            self.ring.push_back(frame);
        }
    }

    /// What the kernel's filter does, see `filter.rs`.
    fn filter_passes(&self, frame: &[u8]) -> bool {
        let Some(&[shelf_high, shelf_low, slot]) = frame.get(16..19) else {
            return self.exports.is_empty();
        };
        let shelf = u16::from_be_bytes([shelf_high, shelf_low]);
        let request = Address { shelf, slot };
        let mut exports = self.exports.iter();
        self.exports.is_empty() || exports.any(|&export| request.selects(export))
    }

    fn occupied(&self) -> usize {
        self.ring.len() + usize::from(self.held)
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        self.held = false;
        while let Some(frame) = self.ring.pop_front() {
            // The MTU may have grown since the port was opened.
            if frame.len() <= self.max_frame {
                self.held = true;
                self.stats.received += 1;
                return Some(frame);
            }
            self.stats.truncated += 1;
        }
        None
    }
}

fn max_frame(mtu: u32) -> usize {
    usize::try_from(mtu).map_or(usize::MAX, |mtu| mtu.saturating_add(ETHERNET_HEADER))
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): in-tree, so that a seed means the same for ever.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which counts as 1 when it is 0.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn chance(&mut self, ppm: u32) -> bool {
        // Without a look at the generator when it is certain: most faults are off most of the time.
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// How many steps a frame takes.
    fn delay(&mut self, faults: &Faults) -> u64 {
        let held_back = if self.chance(faults.late_ppm) {
            1 + self.below(u64::from(faults.late_steps))
        } else if self.chance(faults.reorder_ppm) {
            1 + self.below(u64::from(faults.reorder_steps))
        } else {
            0
        };
        u64::from(faults.delay_steps) + held_back
    }

    /// Behind the Ethernet header: a frame for another station would not be seen.
    fn flip_a_bit(&mut self, frame: &mut [u8]) {
        let payload = frame.get_mut(ETHERNET_HEADER..).unwrap_or_default();
        let at = self.below(payload.len() as u64);
        let bit = self.below(8);
        if let Some(byte) = usize::try_from(at).ok().and_then(|at| payload.get_mut(at)) {
            *byte ^= 1 << bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: MacAddr, number: u32) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[..6].copy_from_slice(&to.0);
        frame[20..24].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn received(port: &mut SimPort) -> Vec<u32> {
        let mut numbers = Vec::new();
        while let Some(frame) = port.receive() {
            numbers.push(u32::from_be_bytes(frame[20..24].try_into().unwrap()));
        }
        numbers
    }

    fn pair(seed: u64, faults: Faults) -> (SimNet, SimPort, SimPort) {
        let net = SimNet::new(seed);
        net.set_faults(faults);
        let (a, b) = (net.attach("a", 1500), net.attach("b", 1500));
        (net, a, b)
    }

    fn send_numbers(from: &mut SimPort, to: MacAddr, numbers: std::ops::Range<u32>) -> usize {
        let frames: Vec<_> = numbers.map(|number| frame(to, number)).collect();
        from.send(&frames)
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // Values of the authors' C code for this seed.
        let mut random = Random(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn frames_reach_whom_they_are_for() {
        let net = SimNet::new(0);
        let mut ports: Vec<_> = ["a", "b", "c"].map(|name| net.attach(name, 1500)).into();
        let to_b = ports[1].interface().mac;
        send_numbers(&mut ports[0], to_b, 0..2);
        send_numbers(&mut ports[0], MacAddr::BROADCAST, 2..3);
        assert_eq!(received(&mut ports[0]), [0; 0]);
        assert_eq!(received(&mut ports[1]), [0, 1, 2]);
        assert_eq!(received(&mut ports[2]), [2]);
    }

    #[test]
    fn delay_keeps_the_order() {
        let faults = Faults {
            delay_steps: 2,
            ..Faults::default()
        };
        let (net, mut a, mut b) = pair(0, faults);
        send_numbers(&mut a, b.interface().mac, 0..3);
        net.step();
        send_numbers(&mut a, b.interface().mac, 3..4);
        assert!(!b.is_readable());
        assert_eq!(net.under_way(), 4);
        net.step();
        assert_eq!(received(&mut b), [0, 1, 2]);
        net.step();
        assert_eq!(received(&mut b), [3]);
    }

    #[test]
    fn faults_happen_as_often_as_told_and_the_same_each_time() {
        let faults = Faults {
            loss_ppm: 100_000,
            duplicate_ppm: 50_000,
            corrupt_ppm: 10_000,
            reorder_ppm: 200_000,
            reorder_steps: 3,
            ..Faults::default()
        };
        let run = |seed| {
            let (net, mut a, mut b) = pair(seed, faults);
            let mut all = Vec::new();
            for number in 0..10_000 {
                send_numbers(&mut a, b.interface().mac, number..number + 1);
                net.step();
                all.extend(received(&mut b));
            }
            for _ in 0..4 {
                net.step();
            }
            all.extend(received(&mut b));
            all
        };
        let first = run(7);
        assert_eq!(first, run(7));
        assert_ne!(first, run(8));
        // 9000 arrive, 450 of them twice.
        assert!((9_250..9_650).contains(&first.len()), "{}", first.len());
        assert!(!first.is_sorted());
        let sorted = {
            let mut sorted = first.clone();
            sorted.sort_unstable();
            sorted.dedup();
            sorted
        };
        assert!((8_800..9_200).contains(&sorted.len()), "{}", sorted.len());
    }

    #[test]
    fn some_frames_come_much_later_and_twins_come_together() {
        let faults = Faults {
            duplicate_ppm: 1_000_000,
            late_ppm: 100_000,
            late_steps: 60_000_000,
            twins_together: true,
            delay_steps: 5,
            ..Faults::default()
        };
        let (net, mut a, mut b) = pair(0, faults);
        send_numbers(&mut a, b.interface().mac, 0..100);
        assert_eq!(net.next_due(), Some(5));
        net.advance(5);
        let early = received(&mut b).len();
        assert!((160..200).contains(&early), "{early}");
        let mut late = 0;
        while let Some(due) = net.next_due() {
            assert!(due <= 60_000_005);
            net.advance(due);
            let numbers = received(&mut b);
            assert_eq!(numbers.len(), 2, "{numbers:?} at {due}");
            assert_eq!(numbers[0], numbers[1]);
            late += 2;
        }
        assert_eq!(early + late, 200);
        assert!(net.now() > 1_000_000);
    }

    #[test]
    fn a_way_that_is_cut_lets_nothing_pass_in_its_direction() {
        let (net, mut a, mut b) = pair(0, Faults::default());
        let (mac_a, mac_b) = (a.interface().mac, b.interface().mac);
        net.set_passes(mac_a, mac_b, false);
        send_numbers(&mut a, mac_b, 0..1);
        send_numbers(&mut b, mac_a, 1..2);
        assert_eq!((received(&mut a), received(&mut b)), (vec![1], vec![]));
        net.set_passes(mac_a, mac_b, true);
        send_numbers(&mut a, mac_b, 2..3);
        assert_eq!(received(&mut b), [2]);
    }

    #[test]
    fn a_port_that_is_opened_anew_has_an_empty_ring() {
        let (net, mut a, mut b) = pair(0, Faults::default());
        let to = b.interface().mac;
        send_numbers(&mut a, to, 0..2);
        assert!(b.receive().is_some());
        let mut b = net.reopen(to).unwrap();
        assert!(!b.is_readable());
        send_numbers(&mut a, to, 2..3);
        assert_eq!(received(&mut b), [2]);
    }

    #[test]
    fn a_full_ring_drops_and_counts() {
        let (_net, mut a, mut b) = pair(0, Faults::default());
        assert_eq!(send_numbers(&mut a, b.interface().mac, 0..300), 300);
        assert_eq!(b.stats().ring_drops, 44);
        let full = RingUse {
            waiting: 256,
            free: 0,
        };
        assert_eq!(b.ring_use(), full);
        assert_eq!(received(&mut b).len(), 256);
        assert_eq!(b.stats().received, 256);
    }

    #[test]
    fn a_held_frame_keeps_the_port_readable() {
        let (_net, mut a, mut b) = pair(0, Faults::default());
        send_numbers(&mut a, b.interface().mac, 0..1);
        assert!(b.receive().is_some());
        assert!(b.is_readable());
        let (waiting, free) = (0, 255);
        assert_eq!(b.ring_use(), RingUse { waiting, free });
        b.release();
        assert!(!b.is_readable());
    }

    #[test]
    fn a_full_send_buffer_leaves_the_rest_with_the_caller() {
        let faults = Faults {
            send_limit: Some(3),
            ..Faults::default()
        };
        let (net, mut a, b) = pair(0, faults);
        assert_eq!(send_numbers(&mut a, b.interface().mac, 0..5), 3);
        assert_eq!(send_numbers(&mut a, b.interface().mac, 3..5), 0);
        net.step();
        assert_eq!(send_numbers(&mut a, b.interface().mac, 3..5), 2);
        assert_eq!((a.stats().sent, a.stats().send_waits), (5, 2));
    }

    #[test]
    fn nothing_passes_an_interface_that_is_down() {
        let (net, mut a, mut b) = pair(0, Faults::default());
        net.set_up(b.interface().mac, false);
        send_numbers(&mut a, b.interface().mac, 0..1);
        assert_eq!(send_numbers(&mut b, a.interface().mac, 0..1), 1);
        assert_eq!(b.stats().send_lost_down, 1);
        net.set_up(b.interface().mac, true);
        assert_eq!(received(&mut b), [0; 0]);
        assert_eq!(received(&mut a), [0; 0]);
    }

    #[test]
    fn the_mtu_limits_both_ends() {
        let (net, mut a, mut b) = pair(0, Faults::default());
        let mut long = frame(b.interface().mac, 0);
        long.resize(1515, 0);
        assert_eq!(a.send(&[&long]), 1);
        assert_eq!(a.stats().send_lost_too_long, 1);
        // Both grow; the ring of b was made for less.
        net.set_mtu(a.interface().mac, 9000);
        a.send(&[&long]);
        assert!(!b.is_readable(), "the receiver's interface refuses it");
        net.set_mtu(b.interface().mac, 9000);
        a.send(&[&long]);
        assert_eq!(b.receive(), None);
        assert_eq!(b.stats().truncated, 1);
    }

    #[test]
    fn the_filter_selects_as_the_kernel_does() {
        let (_net, mut a, mut b) = pair(0, Faults::default());
        b.set_exports(&[Address { shelf: 7, slot: 1 }]).unwrap();
        for (number, shelf, slot) in [(0, 7, 1), (1, 0xFFFF, 1), (2, 7, 2), (3, 0xFFFF, 0xFF)] {
            let mut frame = frame(b.interface().mac, number);
            frame[16..18].copy_from_slice(&u16::to_be_bytes(shelf));
            frame[18] = slot;
            a.send(&[frame]);
        }
        assert_eq!(received(&mut b), [0, 1, 3]);
    }
}
