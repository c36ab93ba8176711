//! One run: who is there, what happens to them, and what is checked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use aoede::worker::{HEAD_BYTES, SeatSet, Serving, Worker};
use aoede_disk::engine::sim::{Faults as DiskFaults, SimDisk};
use aoede_disk::{Buffer, Pool, PoolShape, Volume};
use aoede_initiator::{
    Driver, Error, Event, Instant, Notice, Refusal, Request, RequestId, Session, SessionId,
};
use aoede_link::Port as _;
use aoede_link::sim::{SimNet, SimPort};
use aoede_target::{IgnoreReason, PortFacts, Target, TargetSettings, Trim, WriteCache};
use aoede_wire::{Address, Body, ConfigCommand, ExtensionTable, Header, MacAddr};

use crate::draw::{Class, SECTOR, Scenario};
use crate::middle::{Middle, Shared, Side, Tap};
use crate::model::{self, CopyRules, Model, UNANSWERED};
use crate::planted::{Medium, Mistake, Planted};
use crate::random::Random;
use crate::report::Report;
use crate::trace::Trace;

const E1_1: Address = Address { shelf: 1, slot: 1 };
/// Sectors that a buffer holds.
const MOST_SECTORS: u8 = 18;
/// More initiators than an export remembers.
const CROWD: u16 = 1100;
/// A round of everybody, at one moment; more are a loop.
const MOST_ROUNDS: u32 = 20_000;
/// No request takes longer, whatever happens.
const MOST_PATIENCE: Duration = Duration::from_secs(2000);
/// How long frames may be under way, at most.
const LONGEST_WAY: Duration = Duration::from_secs(110);

/// An initiator, from one start to the next.
struct Initiator {
    macs: Vec<MacAddr>,
    /// `None` while it is away.
    life: Option<Life>,
    back_at: Duration,
    /// It has begun so often.
    lives: u64,
    /// Requests it will still send.
    left: u32,
    next_at: Duration,
    /// Sectors that it writes.
    own: (u64, u64),
}

struct Life {
    driver: Driver<Middle>,
    session: SessionId,
    waits: BTreeMap<RequestId, Waiting>,
}

struct Waiting {
    asked: u64,
    at: Duration,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// First sector.
    Read(u64),
    /// Number, first sector, sectors.
    Change(u32, u64, u64),
    Flush,
    Config,
}

pub(crate) struct World {
    scenario: Scenario,
    planted: Option<Planted>,
    /// Targets that have begun so far.
    targets: u64,
    random: Random,
    net: SimNet,
    disk: SimDisk<Buffer>,
    shared: Shared,
    model: Model,
    target_macs: Vec<MacAddr>,
    worker: Option<Worker<Middle, Medium>>,
    target_back_at: Duration,
    initiators: Vec<Initiator>,
    /// A station that nobody serves: its frames come from many MACs.
    crowd: SimPort,
    /// Ways that are cut, until then.
    cuts: Vec<(Duration, MacAddr, MacAddr)>,
    /// When something was last out of order that may keep a request from its answer.
    trouble: Duration,
    disk_fails: bool,
    fresh_numbers: u32,
    now: Duration,
    pub(crate) step: u64,
    pub(crate) report: Report,
}

impl World {
    pub(crate) fn new(seed: u64, planted: Option<Planted>, trace: Trace) -> Self {
        let mut random = Random::new(seed);
        let scenario = Scenario::draw(&mut random, planted);
        let net = SimNet::new(random.next());
        net.set_faults(scenario.faults);
        let attach = |name: &str, count: usize| -> Vec<MacAddr> {
            let ports = (0..count).map(|_| net.attach(name, scenario.mtu));
            ports.map(|port| port.interface().mac).collect()
        };
        let target_macs = attach("target", scenario.target_ports);
        let crowd = net.attach("crowd", scenario.mtu);
        let disk = SimDisk::new(random.next(), scenario.shape);
        disk.set_latency(scenario.latency);
        disk.set_faults(DiskFaults {
            read_error_ppm: 0,
            write_error_ppm: 0,
            ..scenario.disk_faults
        });
        let chance = Random::new(random.next());
        let mistake = planted.map(|planted| Mistake::new(planted, scenario.settings.wanted));
        let mut tap = Tap::new(trace, mistake, chance);
        if scenario.class == Class::Flips {
            tap.flips_ppm = 30_000;
        }
        tap.looks_for_tears = scenario.class != Class::Flips
            && !scenario.trims
            && scenario.disk_faults.write_error_ppm == 0;
        let count = scenario.initiators as u64;
        let share = scenario.sectors / count;
        let initiators = (0..count).map(|index| Initiator {
            macs: attach("initiator", scenario.ports),
            life: None,
            back_at: Duration::ZERO,
            lives: 0,
            left: scenario.requests,
            next_at: Duration::ZERO,
            own: if scenario.shared {
                (0, scenario.sectors)
            } else {
                (index * share, share)
            },
        });
        let initiators: Vec<Initiator> = initiators.collect();
        tap.stations = initiators.iter().map(|one| one.macs.clone()).collect();
        let mut world = Self {
            model: Model::new(scenario.sectors),
            scenario,
            planted,
            targets: 0,
            random,
            net,
            disk,
            shared: Rc::new(RefCell::new(tap)),
            target_macs,
            worker: None,
            target_back_at: Duration::ZERO,
            initiators,
            crowd,
            cuts: Vec::new(),
            trouble: Duration::ZERO,
            disk_fails: false,
            fresh_numbers: 1,
            now: Duration::ZERO,
            step: 0,
            report: Report::default(),
        };
        world.start_target();
        for index in 0..world.initiators.len() {
            world.start_initiator(index);
        }
        world
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.shared.borrow().trace.hash()
    }

    pub(crate) fn story(&self) -> String {
        // A look at it may be what failed.
        let tap = self.shared.try_borrow();
        let text = tap.map_or_else(|_| String::new(), |tap| tap.trace.text());
        format!("{:?}\n{text}", self.scenario)
    }

    pub(crate) fn run(&mut self) {
        self.run_until(Self::all_is_done);
        self.heal();
        self.run_until(|world| world.all_is_done() && world.all_are_back());
        // Late frames come, and go.
        let end = self.now + LONGEST_WAY;
        self.run_until(|world| world.now >= end && world.net.next_due().is_none());
        self.check_rest();
        self.look_at_everything();
        let power_cut = self.random.coin();
        self.end_target(power_cut, Duration::ZERO);
        self.report.seconds += self.now.as_secs();
    }

    fn all_is_done(&self) -> bool {
        self.initiators.iter().all(|initiator| {
            let waits = |life: &Life| !life.waits.is_empty();
            initiator.left == 0 && !initiator.life.as_ref().is_some_and(waits)
        })
    }

    fn all_are_back(&self) -> bool {
        let back = |initiator: &Initiator| initiator.life.is_some();
        self.worker.is_some() && self.initiators.iter().all(back)
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            self.step += 1;
            self.work();
            if done(self) {
                return;
            }
            self.pass();
        }
    }

    /// Everything that can happen at this moment.
    fn work(&mut self) {
        self.come_back();
        for _ in 0..MOST_ROUNDS {
            let mut busy = self.serve();
            for index in 0..self.initiators.len() {
                busy |= self.turn(index);
                busy |= self.submit_if_due(index);
            }
            if !busy {
                self.check();
                return;
            }
        }
        panic!("round and round at {:?}", self.now);
    }

    /// Time passes until something happens.
    fn pass(&mut self) {
        let mut next = vec![self.disk.next_due()];
        next.push(self.net.next_due().map(Duration::from_micros));
        next.extend(self.cuts.iter().map(|(until, ..)| Some(*until)));
        match &self.worker {
            Some(worker) => next.push(worker.poll_timeout()),
            None => next.push(Some(self.target_back_at)),
        }
        for initiator in &self.initiators {
            let Some(life) = &initiator.life else {
                next.push(Some(initiator.back_at));
                continue;
            };
            let timeout = life.driver.poll_timeout();
            next.push(timeout.map(|at| at.since(Instant::START)));
            if initiator.left > 0 && life.waits.len() < self.scenario.depth {
                next.push(Some(initiator.next_at));
            }
        }
        let now = self.now;
        let next = next.into_iter().flatten().filter(|at| *at > now).min();
        // Whole steps of the network: rounded up, so that what is due is due.
        let next = next.expect("there is always something to come").as_nanos();
        self.now = Duration::from_micros(next.div_ceil(1000) as u64);
        self.shared.borrow_mut().trace.now = self.now;
        self.net.advance(self.now.as_micros() as u64);
        self.disk.advance(self.now);
    }

    fn come_back(&mut self) {
        if self.worker.is_none() && self.now >= self.target_back_at {
            self.start_target();
        }
        for index in 0..self.initiators.len() {
            let initiator = &self.initiators[index];
            if initiator.life.is_none() && self.now >= initiator.back_at {
                self.start_initiator(index);
            }
        }
        let now = self.now;
        for (_, from, to) in self.cuts.extract_if(.., |(until, ..)| *until <= now) {
            self.net.set_passes(from, to, true);
        }
    }

    /// The target's turn. Whether it did anything.
    fn serve(&mut self) -> bool {
        let Some(worker) = &mut self.worker else {
            return false;
        };
        let mut any = false;
        while worker.turn(self.now).unwrap() {
            any = true;
        }
        let quiet = worker.is_idle() && !worker.is_disk_busy();
        let mut tap = self.shared.borrow_mut();
        let taken = std::mem::take(&mut tap.taken);
        let (class, shared) = (self.scenario.class, self.scenario.shared);
        let protected = class != Class::Late && !shared;
        for copy in taken {
            let unknown = match class {
                Class::Prompt | Class::Flips => copy.withdrawn,
                Class::Lingering | Class::Late => copy.unknown_to_window,
            };
            let rules = CopyRules {
                excused: copy.of_former_life || unknown && !protected,
                excused_if_lost: copy.withdrawn,
                excused_if_failed: !protected,
            };
            for (number, lba) in copy.stamps {
                let is_late = self.model.copy_taken(copy.tick, number, lba, rules);
                self.report.copies_excused += u64::from(is_late);
            }
        }
        if quiet {
            let tick = tap.tick();
            self.model.quiet(tick);
        }
        any
    }

    /// An initiator's turn. Whether it did anything.
    fn turn(&mut self, index: usize) -> bool {
        let now = Instant::START + self.now;
        let initiator = &mut self.initiators[index];
        let Some(life) = &mut initiator.life else {
            return false;
        };
        let readable = life.driver.ports_mut().iter().any(Middle::is_readable);
        let due = life.driver.poll_timeout().is_some_and(|at| at <= now);
        if readable || due {
            while life.driver.turn(now) {}
        }
        let mut any = false;
        while let Some(life) = &mut self.initiators[index].life {
            let Some((_, event)) = life.driver.poll_event() else {
                break;
            };
            any = true;
            match event {
                Event::Done(done) => {
                    let waiting = life.waits.remove(&done.id);
                    let waiting = waiting.expect("a request ends once");
                    self.done(index, &waiting, done.buffer.as_deref(), done.result.err());
                }
                Event::Notice(Notice::VersionRefused) => self.begin_anew(index),
                Event::Notice(_) => {}
            }
        }
        // What waited for a place may be sent now.
        if any && let Some(life) = &mut self.initiators[index].life {
            while life.driver.turn(now) {}
        }
        any || readable
    }

    fn done(&mut self, index: usize, waiting: &Waiting, data: Option<&[u8]>, error: Option<Error>) {
        let owner = (index, self.initiators[index].lives);
        let tick = self.shared.borrow_mut().tick();
        let what = waiting.what;
        self.event(&[tick], || match &error {
            None => format!("{what:?} done, asked at {}", waiting.asked),
            Some(error) => format!("{what:?} fails: {error}"),
        });
        if let Some(error) = error {
            self.report.failed += 1;
            if error == Error::CacheLost {
                let told = self.model.loss_told(waiting.asked, owner);
                self.report.losses_told += u64::from(told);
            }
            self.judge(waiting, &error);
            if let What::Change(number, lba, sectors) = what {
                self.model.failed(tick, number, (lba, sectors));
            }
            return;
        }
        match what {
            What::Read(lba) => {
                let data = data.expect("a read brings its buffer back");
                self.model.read(tick, waiting.asked, lba, data);
            }
            What::Change(number, lba, sectors) => {
                let stable = !self.scenario.write_back;
                self.model
                    .acknowledged(tick, owner, number, (lba, sectors), stable);
            }
            What::Flush => self.model.flushed(tick, waiting.asked, owner),
            What::Config => {
                self.report.config_strings += 1;
                // As the service does when a string has changed (§4.4).
                self.announce();
            }
        }
    }

    /// Requests fail for reasons.
    fn judge(&mut self, waiting: &Waiting, error: &Error) {
        let what = waiting.what;
        match error {
            Error::Silent => {
                self.report.given_up += 1;
                // A flush or trim is asked every half minute only: all of its few frames may be lost.
                let is_slow = match what {
                    What::Flush => true,
                    What::Change(number, lba, _) => self.model.is_trim(number, lba),
                    _ => false,
                };
                let excused =
                    self.trouble + self.scenario.settings.give_up >= waiting.at || is_slow;
                assert!(
                    excused,
                    "{what:?} {UNANSWERED}, although the network has worked since {:?}",
                    self.trouble
                );
            }
            Error::Device { .. } if self.disk_fails => {}
            Error::CacheLost => assert!(
                self.scenario.write_back && self.targets > 1,
                "{what:?} tells of a loss, and none was"
            ),
            _ => assert!(
                self.scenario.class == Class::Flips,
                "{what:?} fails for no reason: {error}"
            ),
        }
    }

    fn submit_if_due(&mut self, index: usize) -> bool {
        let initiator = &mut self.initiators[index];
        let Some(life) = &mut initiator.life else {
            return false;
        };
        let due = initiator.left > 0
            && life.waits.len() < self.scenario.depth
            && self.now >= initiator.next_at;
        let session = life
            .driver
            .session_mut(life.session)
            .expect("it is attached");
        if !due || !session.is_attached() {
            return false;
        }
        let pause = self.scenario.pause.as_micros() as u64;
        // Mostly short ones: a burst, then a rest.
        let pause = if self.random.one_in(4) {
            pause
        } else {
            pause / 16
        };
        initiator.next_at = self.now + Duration::from_micros(self.random.within(0..=pause));
        initiator.left -= 1;
        self.submit(index);
        self.disturb(index);
        true
    }

    fn submit(&mut self, index: usize) {
        let (first, sectors) = self.initiators[index].own;
        let most = self.scenario.most_sectors;
        match self.random.below(20) {
            0 => self.send(index, What::Flush, Request::Flush),
            1 if self.scenario.trims => {
                let (lba, len) = self.span(first, sectors, most);
                self.change(index, true, lba, len);
            }
            2..=10 => {
                let (lba, len) = self.span(first, sectors, most);
                self.change(index, false, lba, len);
            }
            _ => {
                let (lba, len) = self.span(0, self.scenario.sectors, most);
                let buffer = vec![0xEE; len as usize * SECTOR];
                self.send(index, What::Read(lba), Request::Read { lba, buffer });
            }
        }
    }

    /// Some sectors; often the same few.
    fn span(&mut self, first: u64, sectors: u64, most: u64) -> (u64, u64) {
        let hot = sectors.min(12);
        let at = if self.random.coin() {
            self.random.below(hot)
        } else {
            self.random.below(sectors)
        };
        let len = self.random.within(1..=most).min(sectors - at);
        (first + at, len)
    }

    fn change(&mut self, index: usize, zeros: bool, lba: u64, sectors: u64) {
        let number = self.fresh_numbers;
        self.fresh_numbers += 1;
        let tick = self.shared.borrow_mut().tick();
        self.model.begin(tick, number, zeros, lba, sectors);
        let request = if zeros {
            Request::Trim { lba, sectors }
        } else {
            let mut buffer = vec![0; sectors as usize * SECTOR];
            model::fill(&mut buffer, number, lba);
            Request::Write { lba, buffer }
        };
        self.send(index, What::Change(number, lba, sectors), request);
    }

    fn send(&mut self, index: usize, what: What, request: Request<Vec<u8>>) {
        let now = Instant::START + self.now;
        let asked = self.shared.borrow_mut().tick();
        self.event(&[asked, index as u64], || {
            format!("initiator {index} asks for {what:?}")
        });
        let life = self.initiators[index].life.as_mut().unwrap();
        let session = life.driver.session_mut(life.session).unwrap();
        let at = self.now;
        match session.submit(now, request) {
            Ok(id) => {
                life.waits.insert(id, Waiting { asked, at, what });
                while life.driver.turn(now) {}
                self.report.requests += 1;
            }
            Err(refused) => {
                assert_eq!(refused.why, Refusal::Version, "there is room");
                if let What::Change(number, lba, sectors) = what {
                    self.model.abandoned(number, (lba, sectors));
                }
                self.begin_anew(index);
            }
        }
    }

    /// An initiator was told time and again that its version is not spoken, asks no more (§15, 6),
    /// and somebody starts it anew. Only damaged frames can do that here.
    fn begin_anew(&mut self, index: usize) {
        assert_eq!(self.scenario.class, Class::Flips, "no version was damaged");
        self.end_initiator(index);
    }

    /// What may happen after any request.
    fn disturb(&mut self, index: usize) {
        let scenario = &self.scenario;
        let rates = [
            scenario.target_ends_ppm,
            scenario.initiator_ends_ppm,
            scenario.partition_ppm,
            scenario.announcement_ppm,
            scenario.config_ppm,
            scenario.crowd_ppm,
        ];
        let drawn = rates.map(|rate| self.random.chance(rate));
        let [ends, dies, partition, announcement, config, crowd] = drawn;
        if ends && self.worker.is_some() {
            let power_cut = self.random.coin();
            let away = self.draw_time(&[1, 50_000, 2_000_000]);
            self.end_target(power_cut, away);
        }
        if partition {
            self.partition();
        }
        if announcement {
            self.announce();
        }
        if crowd {
            self.come_in_crowds();
        }
        let broken = self.scenario.disk_faults;
        if (broken.write_error_ppm > 0 || broken.read_error_ppm > 0) && self.random.one_in(20) {
            self.disk_fails = true;
            self.disk.set_faults(broken);
        }
        if config {
            let string = self.random.next().to_le_bytes().to_vec();
            let command = ConfigCommand::ForceSet;
            self.send(index, What::Config, Request::Config { command, string });
            self.initiators[index].next_at = self.now;
        }
        if dies {
            self.end_initiator(index);
        }
    }

    fn draw_time(&mut self, micros: &[u64]) -> Duration {
        let most = self.random.one_of(micros);
        Duration::from_micros(self.random.within(1..=most))
    }

    fn announce(&mut self) {
        self.event(&[], || "an announcement".to_owned());
        let seats = self.target_macs.len();
        if let Some(worker) = &mut self.worker {
            (0..seats).for_each(|seat| worker.announce(seat));
        }
    }

    fn partition(&mut self) {
        self.report.partitions += 1;
        let index = self.random.below(self.initiators.len() as u64) as usize;
        let macs = &self.initiators[index].macs;
        let ours = self.random.one_of(macs);
        let theirs = self.random.one_of(&self.target_macs.clone());
        let lasts = self.draw_time(&[10_000, 500_000, 20_000_000, 400_000_000]);
        let until = self.now + lasts;
        self.event(&[], || {
            format!("{ours} and {theirs} are parted until {until:?}")
        });
        let (there, back) = self
            .random
            .one_of(&[(true, true), (true, false), (false, true)]);
        for (from, to) in [(there, (ours, theirs)), (back, (theirs, ours))]
            .into_iter()
            .filter_map(|(cut, way)| cut.then_some(way))
        {
            self.cuts.retain(|(_, a, b)| (*a, *b) != (from, to));
            self.cuts.push((until, from, to));
            self.net.set_passes(from, to, false);
        }
        self.trouble = self.trouble.max(until);
    }

    /// Many others negotiate, so that the export forgets whom it knew.
    fn come_in_crowds(&mut self) {
        self.report.crowds += 1;
        self.event(&[], || "a crowd".to_owned());
        let table = ExtensionTable::new(b"coalesced_read\0\0").unwrap();
        for number in 0..CROWD {
            let [high, low] = number.to_be_bytes();
            let from = MacAddr([6, 0, 0, 0, high, low]);
            let mut frame = vec![0; 128];
            let header = Header::request(from, self.target_macs[0], E1_1);
            let len = Body::Extension(table).encode(header, &mut frame).unwrap();
            frame.truncate(len);
            self.crowd.send(&[frame]);
            if number % 64 == 63 {
                // The ring has an end.
                let due = self.now.as_micros() as u64 + u64::from(self.scenario.faults.delay_steps);
                self.now = Duration::from_micros(due);
                self.net.advance(due);
                self.disk.advance(self.now);
                self.serve();
            }
        }
        // Whoever was pushed out has no window any more, and does not know.
        self.shared.borrow_mut().forget_windows();
    }

    fn start_target(&mut self) {
        let scenario = &self.scenario;
        let pool = Pool::new(PoolShape {
            count: scenario.buffers,
            headroom_bytes: HEAD_BYTES,
            data_bytes: usize::from(MOST_SECTORS) * SECTOR,
            alignment: 512,
        });
        self.targets += 1;
        let settings = TargetSettings {
            cache_number: self.targets,
            buffer_count: scenario.buffers as u16,
            serial: "simulated".to_owned(),
            trim: if scenario.trims {
                Trim::Supported
            } else {
                Trim::Unsupported
            },
            write_cache: if scenario.write_back {
                WriteCache::Back
            } else {
                WriteCache::Through
            },
            ..TargetSettings::new(E1_1, scenario.sectors)
        };
        let pages = Pool::cache(scenario.pages as u64 * 4096).unwrap();
        let volume = Volume::new(scenario.volume, pages);
        let medium = Medium::new(self.disk.clone(), self.planted);
        let mut worker = Worker::new(medium, pool.unwrap(), self.target_macs.len());
        let target = Target::new(settings).unwrap();
        let serving = Serving {
            seats: SeatSet::ALL,
            requests: scenario.buffers as u16,
        };
        worker
            .add_export(target, SimDisk::<Buffer>::FILE, volume, serving)
            .unwrap();
        self.shared.borrow_mut().target_begins();
        for (seat, mac) in self.target_macs.iter().enumerate() {
            self.net.set_up(*mac, true);
            let port = self.net.reopen(*mac).unwrap();
            let facts = PortFacts {
                mac: *mac,
                mtu: scenario.mtu,
                max_sectors: MOST_SECTORS,
            };
            worker.set_facts(seat, facts);
            worker.set_port(seat, Some(Middle::new(port, Side::Target, &self.shared)));
        }
        self.worker = Some(worker);
        self.trouble = self.trouble.max(self.now);
        self.event(&[], || "the target starts".to_owned());
        self.announce();
    }

    /// The target dies, by itself or with its disk, and will be back.
    fn end_target(&mut self, power_cut: bool, away: Duration) {
        let Some(worker) = self.worker.take() else {
            return;
        };
        self.count(&worker);
        self.event(&[power_cut.into()], || {
            let how = if power_cut {
                "loses its power"
            } else {
                "is killed"
            };
            format!("the target {how}, for {away:?}")
        });
        if power_cut {
            self.report.power_cuts += 1;
            self.disk.cut_power();
        } else {
            self.report.kills += 1;
            self.disk.kill();
        }
        drop(worker);
        for mac in &self.target_macs {
            self.net.set_up(*mac, false);
        }
        self.target_back_at = self.now + away;
        self.trouble = self.trouble.max(self.target_back_at);
        let mut tap = self.shared.borrow_mut();
        let tick = tap.tick();
        tap.tick();
        tap.taken.clear();
        let disk = &self.disk;
        let content = |lba| (disk.sector(lba), disk.survivors(lba));
        self.model.ended(tick, power_cut, content);
    }

    fn count(&mut self, worker: &Worker<Middle, Medium>) {
        let Some(target) = worker.exports().get(0) else {
            return;
        };
        self.report.duplicates_told_by_their_tag += target.stats().duplicates;
        self.report.stale_tags += target.stats().ignored.get(IgnoreReason::TagStale);
        self.report.frames += worker.stats().frames_received;
    }

    fn start_initiator(&mut self, index: usize) {
        let macs = self.initiators[index].macs.clone();
        let mut ports = Vec::new();
        for mac in macs {
            let port = self.net.reopen(mac).unwrap();
            ports.push(Middle::new(port, Side::Initiator, &self.shared));
        }
        let mut driver = Driver::new(ports);
        let seed = self.seed(index);
        let session = driver.attach(E1_1, self.scenario.settings.clone(), seed);
        while driver.turn(Instant::START + self.now) {}
        self.initiators[index].life = Some(Life {
            driver,
            session,
            waits: BTreeMap::new(),
        });
        self.event(&[], || format!("initiator {index} starts"));
    }

    /// What tags begin with: in each life far from those of another life, as they would be by chance
    /// in all but one of a hundred thousand.
    fn seed(&mut self, index: usize) -> u64 {
        let lives = &mut self.initiators[index].lives;
        let start = (0x1234_5678 + *lives * 0x0765_4321) as u32;
        let first_wraps = self.scenario.wraps && *lives == 0;
        *lives += 1;
        let start = if first_wraps {
            u32::MAX - self.random.below(120) as u32
        } else {
            start.wrapping_add(self.random.below(0x0100_0000) as u32)
        };
        self.random.next() & !0xFFFF_FFFF | u64::from(start)
    }

    /// An initiator dies in the middle of what it does, and will be back.
    fn end_initiator(&mut self, index: usize) {
        let Some(mut life) = self.initiators[index].life.take() else {
            return;
        };
        self.report.initiators_killed += 1;
        self.event(&[], || format!("initiator {index} is killed"));
        self.count_session(&mut life);
        for mac in &self.initiators[index].macs {
            self.shared.borrow_mut().initiator_ends(*mac);
        }
        for waiting in life.waits.values() {
            if let What::Change(number, lba, sectors) = waiting.what {
                self.model.abandoned(number, (lba, sectors));
            }
        }
        let away = self.draw_time(&[1, 50_000, 2_000_000]);
        self.initiators[index].back_at = self.now + away;
    }

    fn count_session(&mut self, life: &mut Life) {
        if let Some(session) = life.driver.session_mut(life.session) {
            let stats = session.stats();
            self.report.repeated += stats.repeated;
            self.report.coalesced += stats.coalesced;
            self.report.damaged += stats.damaged;
            self.report.negotiations += stats.negotiations;
            self.report.paths_lost += stats.paths_lost;
        }
    }

    /// From now on nothing goes wrong any more, but for what is under way.
    fn heal(&mut self) {
        self.event(&[], || "all is well from now on".to_owned());
        self.net.set_faults(aoede_link::sim::Faults {
            delay_steps: self.scenario.faults.delay_steps,
            ..aoede_link::sim::Faults::default()
        });
        self.disk.set_faults(DiskFaults::default());
        self.shared.borrow_mut().flips_ppm = 0;
        for (_, from, to) in std::mem::take(&mut self.cuts) {
            self.net.set_passes(from, to, true);
        }
    }

    /// What has to be true between any two moments.
    fn check(&self) {
        for initiator in &self.initiators {
            let Some(life) = &initiator.life else {
                continue;
            };
            for waiting in life.waits.values() {
                assert!(
                    self.now <= waiting.at + MOST_PATIENCE,
                    "{:?} {UNANSWERED}, nor given up",
                    waiting.what
                );
            }
        }
        if let Some(volume) = self.worker.as_ref().and_then(|worker| worker.volume(0)) {
            let most = self
                .scenario
                .volume
                .dirty_bytes
                .max(u64::from(MOST_SECTORS) * SECTOR as u64);
            let at_risk = volume.bytes_at_risk();
            assert!(at_risk <= most, "{at_risk} bytes at risk");
        }
    }

    /// Nothing is under way: everything is back where it was.
    fn check_rest(&mut self) {
        let worker = self.worker.as_ref().expect("it is back");
        assert!(worker.is_idle(), "a buffer is missing: {worker:?}");
        assert_eq!(worker.operations(), 0);
        for initiator in &mut self.initiators {
            let life = initiator.life.as_mut().expect("it is back");
            let session: &mut Session<_> = life.driver.session_mut(life.session).unwrap();
            assert!(session.is_idle(), "a request is left: {session:?}");
        }
    }

    /// Everybody reads the whole disk, and one flushes it.
    fn look_at_everything(&mut self) {
        for index in 0..self.initiators.len() {
            let sectors = self.scenario.sectors;
            for lba in (0..sectors).step_by(40) {
                let len = 40.min(sectors - lba);
                let buffer = vec![0xEE; len as usize * SECTOR];
                self.send(index, What::Read(lba), Request::Read { lba, buffer });
                self.run_until(Self::all_is_done);
            }
        }
        self.send(0, What::Flush, Request::Flush);
        self.run_until(Self::all_is_done);
        for index in 0..self.initiators.len() {
            if let Some(mut life) = self.initiators[index].life.take() {
                self.count_session(&mut life);
            }
        }
        let tap = self.shared.borrow();
        self.report.copies_taken += tap.repetitions;
    }

    fn event(&mut self, numbers: &[u64], text: impl FnOnce() -> String) {
        self.shared.borrow_mut().trace.event(numbers, text);
    }
}
