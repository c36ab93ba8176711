//! Several initiators, a target and a bad network, from a seed. Every sector has a shadow: no read
//! may see lost, stale or torn data.
//!
//! What the network may do to whom follows from what the protocol can bear. Without a tag window a
//! target executes a late duplicate of a write, and nobody can know of it (§9); so frames are
//! duplicated and reordered at once only where tags are tracked. Bits are flipped only where a
//! checksum was agreed on, and then a request may fail, but not lie.
//!
//! `AOEDE_SEEDS=1000 cargo test -p aoede-initiator simulation` runs more seeds; a failure names its
//! seed, and `AOEDE_SEED=7` runs that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use aoede_initiator::{
    Error, Event, Instant, LocalPort, PortId, Request, RequestId, Session, Settings, Wanted,
};
use aoede_link::Port as _;
use aoede_link::sim::{Faults, SimNet, SimPort};
use aoede_wire::{MAX_SECTORS_PER_FRAME, MacAddr};

use crate::bench::{E1_1, facts};
use crate::target::{ALL, Model, Speaks, settings};

const SECTOR: usize = 512;
/// Sectors that belong to one session alone.
const PRIVATE: u64 = 64;
/// Sectors at the end that all sessions write.
const SHARED: u64 = 16;
/// Frames are held back for this many steps at most: three times as long as the least patience of a
/// session, so that copies of what was answered arrive late.
const REORDER: u32 = 600;

/// What a run is like.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each goes with any other")]
struct Scenario {
    speaks: Speaks,
    wanted: Wanted,
    faults: Faults,
    sessions: u64,
    /// MTU of all ports.
    mtu: u32,
    /// Ports of each initiator, and MACs of the target.
    ports: usize,
    /// All sessions write the shared sectors too.
    shares: bool,
    /// The target restarts now and then.
    restarts: bool,
    /// Ports go down, and long frames stop passing.
    breaks: bool,
    /// Requests may fail.
    may_fail: bool,
    /// Requests of each session.
    requests: u32,
}

const PLAIN: Scenario = Scenario {
    speaks: Speaks::Nothing,
    wanted: Wanted::NOTHING,
    faults: Faults {
        loss_ppm: 30_000,
        duplicate_ppm: 0,
        corrupt_ppm: 0,
        reorder_ppm: 50_000,
        reorder_steps: REORDER,
        late_ppm: 0,
        late_steps: 0,
        twins_together: false,
        delay_steps: 1,
        send_limit: None,
    },
    sessions: 3,
    mtu: 9000,
    ports: 1,
    shares: false,
    restarts: false,
    breaks: false,
    may_fail: false,
    requests: 250,
};

const TAGS: Wanted = Wanted {
    coalesced_read: true,
    coalesced_write_reply: true,
    tags: true,
    ..Wanted::NOTHING
};

/// `SplitMix64`, so that a seed means the same for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a write leaves in a sector: its version and address, then bytes that follow from both.
/// Version 0 is all zeros.
fn content(version: u64, lba: u64) -> Vec<u8> {
    if version == 0 {
        return vec![0; SECTOR];
    }
    let mut random = Random(version ^ lba.rotate_left(40));
    let mut bytes = [version.to_le_bytes(), lba.to_le_bytes()].concat();
    while bytes.len() < SECTOR {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes
}

fn version_of(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[..8].try_into().unwrap())
}

/// A write of a shared sector, as long as it may be seen.
#[derive(Clone, Copy, Debug)]
struct Written {
    version: u64,
    submitted: u64,
    finished: Option<u64>,
}

/// What a session waits for.
enum Expects {
    /// A read: first sector, and the version of each, or when it was asked if others write too.
    Read(u64, Vec<u64>),
    SharedRead(u64, u64),
    /// A write or trim of these sectors.
    Write(u64, u64, u64),
    Flush,
}

struct Initiator {
    session: Session<Vec<u8>>,
    ports: Vec<SimPort>,
    first: u64,
    waits: BTreeMap<RequestId, Expects>,
    left: u32,
}

struct World {
    scenario: Scenario,
    random: Random,
    net: SimNet,
    step: u64,
    /// Frames were sent or received in this step.
    busy: bool,
    initiators: Vec<Initiator>,
    model: Model,
    target_ports: Vec<SimPort>,
    /// The version that every private sector has, or will have.
    shadow: Vec<u64>,
    failed: BTreeSet<u64>,
    shared: Vec<Vec<Written>>,
    next_version: u64,
    restart_at: u64,
    /// When what is broken is whole again.
    whole_at: Option<u64>,
    failures: u64,
    tried_to_fail: u64,
}

impl World {
    fn new(seed: u64, scenario: Scenario) -> Self {
        let net = SimNet::new(seed);
        let sectors = scenario.sessions * PRIVATE + SHARED;
        let attach = |name: &str| -> Vec<SimPort> {
            (0..scenario.ports)
                .map(|_| net.attach(name, scenario.mtu))
                .collect()
        };
        let target_ports = attach("target");
        let initiators = (0..scenario.sessions)
            .map(|index| {
                let settings = Settings {
                    requests: 16,
                    in_flight: 32,
                    wanted: scenario.wanted,
                    prove_again_after: Duration::from_secs(2),
                    ..Settings::default()
                };
                let mut session = Session::new(E1_1, settings, seed.wrapping_mul(31) + index);
                let ports = attach("initiator");
                for (id, port) in (0..).zip(&ports) {
                    let port = local(port.interface());
                    session.handle_port(Instant::START, PortId(id), port);
                }
                Initiator {
                    session,
                    ports,
                    first: index * PRIVATE,
                    waits: BTreeMap::new(),
                    left: scenario.requests,
                }
            })
            .collect();
        Self {
            scenario,
            random: Random(seed ^ 0x5EED),
            net,
            step: 0,
            busy: true,
            initiators,
            model: Model::new(settings(E1_1, sectors), scenario.speaks),
            target_ports,
            shadow: vec![0; sectors as usize],
            failed: BTreeSet::new(),
            shared: vec![Vec::new(); SHARED as usize],
            next_version: 1,
            restart_at: 4000,
            whole_at: None,
            failures: 0,
            tried_to_fail: 0,
        }
    }

    fn now(&self) -> Instant {
        Instant::START + Duration::from_micros(100 * self.step)
    }

    fn run(&mut self) {
        // Attaching does not see bits flipped, as nothing protects it.
        self.net.set_faults(Faults {
            corrupt_ppm: 0,
            ..self.scenario.faults
        });
        self.run_until(|world| world.initiators.iter().all(|i| i.session.is_attached()));
        self.net.set_faults(self.scenario.faults);
        self.run_until(|world| {
            world
                .initiators
                .iter()
                .all(|i| i.left == 0 && i.waits.is_empty())
        });
        // What is under way comes to its end; then the disk is what the shadow says.
        self.net.set_faults(Faults::default());
        let end = self.step + 3000;
        self.run_until(|world| world.step >= end && world.net.under_way() == 0);
        for (lba, &version) in (0..).zip(&self.shadow) {
            let private = lba < self.scenario.sessions * PRIVATE;
            if private && !self.failed.contains(&version) {
                let at = lba as usize * SECTOR;
                let sector = &self.model.disk[at..at + SECTOR];
                assert!(
                    sector == content(version, lba),
                    "sector {lba} is not version {version}"
                );
            }
        }
        if !self.scenario.may_fail {
            assert_eq!(self.failures, 0);
        }
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        // Half an hour.
        let end = self.step + 18_000_000;
        while !done(self) {
            assert!(
                self.step < end,
                "no progress: {:?}",
                self.initiators[0].session
            );
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.step += 1;
        if self.net.under_way() == 0 && !self.busy {
            self.skip();
        }
        self.busy = false;
        self.net.step();
        self.disturb();
        self.serve();
        for index in 0..self.initiators.len() {
            self.work(index);
        }
    }

    /// Nothing happens before the next timeout.
    fn skip(&mut self) {
        let timeouts = self
            .initiators
            .iter()
            .filter_map(|i| i.session.poll_timeout())
            .chain(self.model.poll_timeout());
        let Some(next) = timeouts.min() else { return };
        let micros = next.since(Instant::START).as_micros();
        let next = u64::try_from(micros).unwrap().div_ceil(100);
        let whole_at = self.whole_at.unwrap_or(u64::MAX);
        let restart_at = if self.scenario.restarts {
            self.restart_at
        } else {
            u64::MAX
        };
        self.step = self.step.max(next.min(whole_at).min(restart_at));
    }

    /// Restarts, and cables that break.
    fn disturb(&mut self) {
        if let Some(at) = self.whole_at {
            if self.step < at {
                return;
            }
            self.whole_at = None;
            let mut ports: Vec<_> = self.target_ports.iter().map(mac_of).collect();
            for initiator in &self.initiators {
                ports.extend(initiator.ports.iter().map(mac_of));
            }
            for mac in ports {
                self.net.set_up(mac, true);
                self.net.set_mtu(mac, self.scenario.mtu);
            }
            self.tell_ports();
            self.announce();
        }
        if self.scenario.restarts && self.step >= self.restart_at {
            // What is under way is lost with it: it takes longer than frames are held back.
            self.restart_at = self.step + 4000 + self.random.below(8000);
            self.model.restart();
            self.net.set_up(mac_of(&self.target_ports[0]), false);
            self.whole_at = Some(self.step + u64::from(REORDER) + 30);
            self.tried_to_fail += 1;
        }
        if self.scenario.breaks && self.random.one_in(3000) {
            self.tried_to_fail += 1;
            self.whole_at = Some(self.step + 200 + self.random.below(8000));
            match self.random.below(3) {
                0 => {
                    let port = self.random.below(self.target_ports.len() as u64) as usize;
                    self.net.set_up(mac_of(&self.target_ports[port]), false);
                }
                1 => {
                    let index = self.random.below(self.scenario.sessions) as usize;
                    let ports = &self.initiators[index].ports;
                    let port = self.random.below(ports.len() as u64) as usize;
                    self.net.set_up(mac_of(&ports[port]), false);
                    if self.random.one_in(2) {
                        self.tell_ports();
                    }
                }
                _ => {
                    let port = self.random.below(self.target_ports.len() as u64) as usize;
                    // The target goes on announcing long frames.
                    self.net.set_mtu(mac_of(&self.target_ports[port]), 3000);
                }
            }
        }
    }

    /// Lets the sessions know how their ports are.
    fn tell_ports(&mut self) {
        let now = self.now();
        for initiator in &mut self.initiators {
            for (id, port) in (0..).zip(&initiator.ports) {
                let interface = self.net.interface(mac_of(port)).unwrap();
                initiator
                    .session
                    .handle_port(now, PortId(id), local(&interface));
            }
        }
    }

    fn announce(&mut self) {
        for port in &mut self.target_ports {
            let facts = facts(port.interface().mac, self.scenario.mtu);
            let frame = self.model.announcement(&facts);
            port.send(&[frame]);
        }
    }

    fn serve(&mut self) {
        let now = self.now();
        for (seat, port) in self.target_ports.iter_mut().enumerate() {
            let facts = aoede_target::PortFacts {
                max_sectors: MAX_SECTORS_PER_FRAME,
                ..facts(port.interface().mac, self.scenario.mtu)
            };
            while let Some(frame) = port.receive() {
                self.busy = true;
                self.model.take(now, seat, &facts, frame);
            }
            port.release();
        }
        for (seat, answer) in self.model.responses(now) {
            self.target_ports[seat].send(&[answer]);
        }
    }

    fn work(&mut self, index: usize) {
        let now = self.now();
        let initiator = &mut self.initiators[index];
        for (id, port) in (0..).zip(&mut initiator.ports) {
            while let Some(frame) = port.receive() {
                self.busy = true;
                initiator.session.handle_frame(now, PortId(id), frame);
            }
            port.release();
        }
        if initiator.session.poll_timeout().is_some_and(|at| at <= now) {
            initiator.session.handle_timeout(now);
        }
        while let Some(event) = self.initiators[index].session.poll_event() {
            if let Event::Done(done) = event {
                self.check(index, &done);
            }
        }
        while self.initiators[index].left > 0
            && self.initiators[index].waits.len() < 12
            && self.initiators[index].session.is_attached()
        {
            self.submit(index);
        }
        let initiator = &mut self.initiators[index];
        let mut out = vec![0xA5; initiator.session.frame_bytes()];
        while let Some(transmit) = initiator.session.poll_transmit(now, &mut out) {
            assert!(transmit.len >= 60);
            self.busy = true;
            let frame = &out[..transmit.len];
            initiator.ports[usize::from(transmit.port.0)].send(&[frame]);
        }
    }

    fn submit(&mut self, index: usize) {
        let now = self.now();
        let shared = self.scenario.shares && self.random.one_in(3);
        let (first, sectors) = if shared {
            (self.scenario.sessions * PRIVATE, SHARED)
        } else {
            (self.initiators[index].first, PRIVATE)
        };
        let offset = self.random.below(sectors);
        let most = if self.random.one_in(4) { 40 } else { 4 };
        let len = 1 + self.random.below(most.min(sectors - offset));
        let lba = first + offset;
        let range = lba as usize..(lba + len) as usize;
        let version = self.next_version;
        let (request, expects) = match self.random.below(10) {
            0 => (Request::Flush, Expects::Flush),
            1 if !shared => {
                // A version of its own, whose content is that of version 0.
                self.shadow[range].fill(0);
                let trim = Request::Trim { lba, sectors: len };
                (trim, Expects::Write(lba, len, 0))
            }
            2..=5 => {
                self.next_version += 1;
                let buffer = (lba..lba + len)
                    .flat_map(|lba| content(version, lba))
                    .collect();
                if shared {
                    for lba in lba..lba + len {
                        self.shared[(lba - first) as usize].push(Written {
                            version,
                            submitted: self.step,
                            finished: None,
                        });
                    }
                } else {
                    self.shadow[range].fill(version);
                }
                let write = Request::Write { lba, buffer };
                (write, Expects::Write(lba, len, version))
            }
            _ => {
                let buffer = vec![0xEE; len as usize * SECTOR];
                let expects = if shared {
                    Expects::SharedRead(lba, self.step)
                } else {
                    Expects::Read(lba, self.shadow[range].to_vec())
                };
                (Request::Read { lba, buffer }, expects)
            }
        };
        let initiator = &mut self.initiators[index];
        let id = initiator.session.submit(now, request).unwrap();
        initiator.waits.insert(id, expects);
        initiator.left -= 1;
    }

    fn check(&mut self, index: usize, done: &aoede_initiator::Done<Vec<u8>>) {
        let expects = self.initiators[index].waits.remove(&done.id).unwrap();
        if let Err(error) = &done.result {
            assert_ne!(*error, Error::Silent);
            assert!(self.scenario.may_fail, "{error}");
            self.failures += 1;
            match expects {
                Expects::Write(lba, len, 0) => {
                    // A trim has no version that could be told apart: forget what is there.
                    for sector in &mut self.shadow[lba as usize..(lba + len) as usize] {
                        if *sector == 0 {
                            *sector = u64::MAX;
                        }
                    }
                    self.failed.insert(u64::MAX);
                    self.failed.insert(0);
                }
                Expects::Write(_, _, version) => {
                    self.failed.insert(version);
                }
                _ => {}
            }
            return;
        }
        let shared_from = self.scenario.sessions * PRIVATE;
        match expects {
            Expects::Write(lba, len, version) if lba >= shared_from => {
                for lba in lba..lba + len {
                    let history = &mut self.shared[(lba - shared_from) as usize];
                    let own = history.iter_mut().find(|w| w.version == version).unwrap();
                    own.finished = Some(self.step);
                }
            }
            Expects::Flush | Expects::Write(..) => {}
            Expects::Read(lba, versions) => {
                let data = done.buffer.as_ref().unwrap();
                for ((lba, sector), version) in (lba..).zip(data.chunks(SECTOR)).zip(versions) {
                    if !self.failed.contains(&version) {
                        assert!(
                            sector == content(version, lba),
                            "sector {lba}: version {}, not {version}",
                            version_of(sector)
                        );
                    }
                }
            }
            Expects::SharedRead(lba, asked) => {
                let data = done.buffer.as_ref().unwrap();
                for (lba, sector) in (lba..).zip(data.chunks(SECTOR)) {
                    let version = version_of(sector);
                    assert!(sector == content(version, lba), "sector {lba} is torn");
                    let history = &self.shared[(lba - shared_from) as usize];
                    self.check_shared(lba, history, version, asked);
                }
            }
        }
    }

    /// A version may be seen until another write that began after its end has ended before the
    /// reader asked.
    fn check_shared(&self, lba: u64, history: &[Written], version: u64, asked: u64) {
        let ended = match version {
            0 => Some(0),
            _ => {
                history
                    .iter()
                    .find(|w| w.version == version)
                    .unwrap()
                    .finished
            }
        };
        let Some(ended) = ended else {
            return;
        };
        let newer = history.iter().find(|other| {
            other.submitted > ended && other.finished.is_some_and(|finished| finished < asked)
        });
        assert!(
            newer.is_none(),
            "sector {lba}: stale version {version}, {newer:?} had replaced it at step {}",
            self.step
        );
    }
}

fn mac_of(port: &SimPort) -> MacAddr {
    port.interface().mac
}

fn local(interface: &aoede_link::Interface) -> LocalPort {
    LocalPort {
        mac: interface.mac,
        mtu: interface.mtu,
        up: interface.up,
    }
}

/// Runs a scenario with many seeds; every world is shown to `look` at the end. Whether there were
/// many: a single seed need not show everything.
fn simulate(name: &str, scenario: Scenario, mut look: impl FnMut(&mut World)) -> bool {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match (number("AOEDE_SEED"), number("AOEDE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, seeds) => 0..seeds.unwrap_or(6),
    };
    for seed in seeds {
        let mut world = World::new(seed, scenario);
        let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
        if let Err(panic) = outcome {
            println!("{name}: AOEDE_SEED={seed}, step {}", world.step);
            resume_unwind(panic);
        }
        look(&mut world);
    }
    number("AOEDE_SEED").is_none()
}

/// The sum of a counter over all sessions.
fn sum(world: &World, counter: impl Fn(&aoede_initiator::SessionStats) -> u64) -> u64 {
    world
        .initiators
        .iter()
        .map(|i| counter(i.session.stats()))
        .sum()
}

#[test]
fn simulation_of_a_plain_target_with_loss_and_reordering() {
    let mut repeated = 0;
    let many = simulate("plain", PLAIN, |world| {
        repeated += sum(world, |stats| stats.repeated);
        assert_eq!(sum(world, |stats| stats.coalesced), 0);
    });
    assert!(!many || repeated > 0);
}

#[test]
fn simulation_of_a_plain_target_with_duplicates_in_order() {
    let scenario = Scenario {
        faults: Faults {
            duplicate_ppm: 200_000,
            reorder_ppm: 0,
            ..PLAIN.faults
        },
        mtu: 1500,
        ..PLAIN
    };
    let mut late = 0;
    let many = simulate("duplicates", scenario, |world| {
        late += sum(world, |stats| stats.late);
    });
    assert!(!many || late > 0);
}

#[test]
fn simulation_of_all_extensions_with_loss_duplicates_and_reordering() {
    let scenario = Scenario {
        speaks: ALL,
        wanted: Wanted {
            congestion: true,
            ..TAGS
        },
        faults: Faults {
            duplicate_ppm: 100_000,
            ..PLAIN.faults
        },
        shares: true,
        ..PLAIN
    };
    let (mut coalesced, mut replies, mut repetitions) = (0, 0, 0);
    let many = simulate("tags", scenario, |world| {
        coalesced += sum(world, |stats| stats.coalesced);
        replies += sum(world, |stats| stats.coalesced_replies);
        repetitions += world.model.repetitions();
    });
    assert!(!many || (coalesced > 0 && replies > 0 && repetitions > 0));
}

#[test]
fn simulation_of_a_target_that_restarts() {
    let scenario = Scenario {
        speaks: ALL,
        wanted: TAGS,
        // A target that has forgotten its window cannot tell a late copy from a new write, and
        // before it announces itself nobody knows. So no copy is late here.
        faults: Faults {
            reorder_steps: 20,
            ..PLAIN.faults
        },
        restarts: true,
        requests: 600,
        ..PLAIN
    };
    let mut negotiations = 0;
    let mut restarts = 0;
    let many = simulate("restarts", scenario, |world| {
        negotiations += sum(world, |stats| stats.negotiations);
        restarts += world.tried_to_fail;
    });
    assert!(
        !many || (restarts > 0 && negotiations > restarts),
        "{restarts} {negotiations}"
    );
}

#[test]
fn simulation_of_flipped_bits_where_a_checksum_was_agreed_on() {
    for crc32c in [false, true] {
        let scenario = Scenario {
            speaks: ALL,
            wanted: Wanted {
                coalesced_read: true,
                coalesced_write_reply: crc32c,
                crc8x4: !crc32c,
                crc32c,
                ..Wanted::NOTHING
            },
            faults: Faults {
                corrupt_ppm: 100_000,
                loss_ppm: 5_000,
                ..PLAIN.faults
            },
            may_fail: true,
            ..PLAIN
        };
        let mut damaged = 0;
        let many = simulate("flips", scenario, |world| {
            damaged += sum(world, |stats| stats.damaged);
        });
        assert!(!many || damaged > 0);
    }
}

#[test]
fn simulation_of_two_paths_that_break() {
    let scenario = Scenario {
        speaks: ALL,
        wanted: TAGS,
        ports: 2,
        breaks: true,
        requests: 600,
        ..PLAIN
    };
    let (mut lost, mut fallbacks, mut broken) = (0, 0, 0);
    let many = simulate("breaks", scenario, |world| {
        lost += sum(world, |stats| stats.paths_lost);
        fallbacks += sum(world, |stats| stats.fallbacks);
        broken += world.tried_to_fail;
    });
    assert!(
        !many || (broken > 0 && lost > 0 && fallbacks > 0),
        "{broken} {lost} {fallbacks}"
    );
}
