//! Load that knows what every sector must hold, and measures how long it stood still.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aoede_e2e::Random;
use aoede_initiator::{Completion, Disk, Queue, Request};

const SECTOR: usize = 512;
/// Requests under way.
const DEPTH: usize = 16;
/// The disk is divided into places of this size, and each request is about one of them: so many
/// sectors are one frame at an MTU of 9000.
const PLACE_SECTORS: u64 = 16;
const PLACE_BYTES: usize = 16 * SECTOR;
/// Places, far more than requests under way: the sectors of a repeated write stay closed for a
/// while (protocol.md §15, 10), and requests should rarely meet them.
const PLACES: u64 = 2048;
/// Names a flush, where others are named by their place.
const FLUSH: u64 = u64::MAX;
/// How often it is looked whether the machine has time for its threads.
const PULSE: Duration = Duration::from_millis(5);
/// Sectors of a disk for this load.
pub(crate) const SECTORS: u64 = PLACES * PLACE_SECTORS;

/// Random reads and writes and now and then a flush, until it is told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    progress: Arc<(Mutex<Progress>, Condvar)>,
    thread: JoinHandle<Result<Report>>,
    pulse: JoinHandle<()>,
}

/// How far it is.
#[derive(Clone, Copy, Default)]
struct Progress {
    done: u64,
    /// Since it was last asked.
    worst: Worst,
    ended: bool,
}

/// The longest times.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Worst {
    /// Without any request that ended.
    pub(crate) stall: Duration,
    /// From a request to its end.
    pub(crate) request: Duration,
    /// That a thread with nothing to do came too late: how long the machine kept others waiting.
    pub(crate) late: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) done: u64,
    /// Requests that failed and were made again.
    pub(crate) failed: u64,
    /// What every place must hold.
    versions: BTreeMap<u64, u64>,
}

/// One place's history.
struct Worker {
    queue: Queue,
    random: Random,
    /// Newest write that was answered.
    versions: BTreeMap<u64, u64>,
    /// Requests under way, by place.
    under_way: BTreeMap<u64, UnderWay>,
    /// Whether a request that fails is made again.
    patient: bool,
    /// Those to be made again: the place, and the version if it is a write.
    again: Vec<(u64, Option<u64>)>,
    failed: u64,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    /// The version that is being written, if it is a write.
    writes: Option<u64>,
    since: Instant,
}

impl Load {
    pub(crate) fn start(disk: &Disk, seed: u64) -> Self {
        Self::begin(disk, seed, false)
    }

    /// The same for a cable that loses frames and flips bits. A request that fails is made again, as
    /// some come to what the target must refuse when they are damaged. And no flushes: one that is
    /// lost is waited for thirty seconds (§15, 5).
    pub(crate) fn start_amid_noise(disk: &Disk, seed: u64) -> Self {
        Self::begin(disk, seed, true)
    }

    fn begin(disk: &Disk, seed: u64, patient: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new((Mutex::new(Progress::default()), Condvar::new()));
        let worker = Worker {
            queue: disk.queue(DEPTH),
            random: Random::new(seed),
            versions: (0..PLACES).map(|place| (place, 0)).collect(),
            under_way: BTreeMap::new(),
            patient,
            again: Vec::new(),
            failed: 0,
        };
        let thread = {
            let (stop, progress) = (Arc::clone(&stop), Arc::clone(&progress));
            thread::spawn(move || {
                let result = worker.run(&stop, &progress);
                if let Err(error) = &result {
                    eprintln!("the load has failed: {error:#}");
                }
                lock(&progress).ended = true;
                progress.1.notify_all();
                result
            })
        };
        let pulse = {
            let (stop, progress) = (Arc::clone(&stop), Arc::clone(&progress));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    thread::sleep(PULSE);
                    let late = start.elapsed().saturating_sub(PULSE);
                    let mut known = lock(&progress);
                    known.worst.late = known.worst.late.max(late);
                }
            })
        };
        Self {
            stop,
            progress,
            thread,
            pulse,
        }
    }

    /// Waits until so many more requests have ended.
    pub(crate) fn go_on(&self, requests: u64, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        let mut progress = lock(&self.progress);
        let goal = progress.done + requests;
        while progress.done < goal && !progress.ended {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "{} of {requests} requests not done within {within:?}",
                goal - progress.done
            );
            let waited = self.progress.1.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        ensure!(!progress.ended, "the load has ended");
        Ok(())
    }

    /// The longest times, since the load began or this was last asked.
    pub(crate) fn worst(&self) -> Worst {
        std::mem::take(&mut lock(&self.progress).worst)
    }

    /// Ends it when all that is under way has been answered.
    pub(crate) fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.pulse.join().map_err(|_| anyhow!("the pulse died"))?;
        self.thread.join().map_err(|_| anyhow!("the load died"))?
    }
}

impl Report {
    /// Whether a disk, or its image, holds what was written to it.
    pub(crate) fn verify(&self, disk: &[u8]) -> Result<()> {
        for (&place, &version) in &self.versions {
            let from = usize::try_from(place)? * PLACE_BYTES;
            let data = disk.get(from..from + PLACE_BYTES).context("too short")?;
            check(place, version, data)?;
        }
        Ok(())
    }
}

impl Worker {
    fn run(mut self, stop: &AtomicBool, progress: &(Mutex<Progress>, Condvar)) -> Result<Report> {
        let mut done = 0;
        let mut last = Instant::now();
        loop {
            while let Some((place, writes)) = self.again.pop() {
                self.make(place, writes)?;
            }
            while !stop.load(Ordering::Relaxed) && self.queue.under_way() < DEPTH {
                self.submit()?;
            }
            let Some(completion) = self.queue.wait() else {
                return Ok(Report {
                    done,
                    failed: self.failed,
                    versions: self.versions,
                });
            };
            let since = self.complete(completion)?;
            done += 1;
            let now = Instant::now();
            let mut known = lock(progress);
            known.done = done;
            known.worst.stall = known.worst.stall.max(now - last);
            known.worst.request = known.worst.request.max(now - since);
            drop(known);
            progress.1.notify_all();
            last = now;
        }
    }

    /// Makes the next request.
    fn submit(&mut self) -> Result<()> {
        let flushes =
            !self.patient && self.random.below(100) == 0 && !self.under_way.contains_key(&FLUSH);
        if flushes {
            return self.make(FLUSH, None);
        }
        let place = self.idle_place();
        let writes = self.random.below(2) == 0;
        let version = self.versions.get(&place).map_or(1, |version| version + 1);
        self.make(place, writes.then_some(version))
    }

    fn make(&mut self, place: u64, writes: Option<u64>) -> Result<()> {
        let lba = place.wrapping_mul(PLACE_SECTORS);
        let request = match writes {
            _ if place == FLUSH => Request::Flush,
            Some(version) => Request::Write {
                lba,
                buffer: content(place, version),
            },
            None => Request::Read {
                lba,
                buffer: vec![0xa5; PLACE_BYTES],
            },
        };
        let since = Instant::now();
        self.under_way.insert(place, UnderWay { writes, since });
        self.queue
            .submit(place, request)
            .map_err(|refused| anyhow!("refused: {}", refused.why))
    }

    fn idle_place(&mut self) -> u64 {
        loop {
            let place = self.random.number() % PLACES;
            if !self.under_way.contains_key(&place) {
                return place;
            }
        }
    }

    /// Looks at what has ended; returns when it began.
    fn complete(&mut self, completion: Completion) -> Result<Instant> {
        let place = completion.token;
        let ended = self.under_way.remove(&place);
        let UnderWay { writes, since } = ended.context("it was not under way")?;
        if let Err(error) = completion.result {
            ensure!(self.patient, "place {place}, writing {writes:?}: {error}");
            eprintln!("place {place}, writing {writes:?}: {error}");
            self.failed += 1;
            self.again.push((place, writes));
        } else if place != FLUSH {
            let newest = self.versions.entry(place).or_default();
            match writes {
                Some(version) => *newest = version,
                None => check(place, *newest, &completion.buffer.context("no buffer")?)?,
            }
        }
        Ok(since)
    }
}

/// What a place holds after so many writes: every sector tells its number and the write's, and its
/// other bytes follow from these. Nothing before the first.
fn content(place: u64, version: u64) -> Vec<u8> {
    let mut data = vec![0; PLACE_BYTES];
    if version == 0 {
        return data;
    }
    for (lba, sector) in (place * PLACE_SECTORS..).zip(data.chunks_exact_mut(SECTOR)) {
        let mut random = Random::new(lba << 32 | version);
        sector.fill_with(|| random.byte());
        sector[..8].copy_from_slice(&lba.to_be_bytes());
        sector[8..16].copy_from_slice(&version.to_be_bytes());
    }
    data
}

fn check(place: u64, version: u64, data: &[u8]) -> Result<()> {
    let expected = content(place, version);
    if data == expected {
        return Ok(());
    }
    let sectors = data.chunks_exact(SECTOR).zip(expected.chunks_exact(SECTOR));
    let wrong = sectors
        .enumerate()
        .find(|(_, (held, wanted))| held != wanted);
    let (number, (held, _)) = wrong.context("another length")?;
    let lba = place * PLACE_SECTORS + number as u64;
    bail!(
        "sector {lba} must hold write {version}, but begins with {:02x?}",
        &held[..24]
    )
}

fn lock(progress: &(Mutex<Progress>, Condvar)) -> std::sync::MutexGuard<'_, Progress> {
    progress.0.lock().unwrap_or_else(PoisonError::into_inner)
}
