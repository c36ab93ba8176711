//! Measures a volume on an engine, without a network: operations per second and CPU time each.
//!
//! `iops FILE [direct|buffered|uncached] [uring|aio|blocking] [PATTERN] [BYTES] [DEPTH] [SECONDS]`
//!
//! PATTERN: `randread`, `seqread`, `randwrite`, `seqwrite`, `randwrite-early`, `seqwrite-early`.
//! Writes destroy the file's contents; `early` ones are acknowledged in the cache, the others when
//! they are on stable storage.

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use aoede_disk::{
    AioEngine, BlockingEngine, Buffer, DiskRequest, Engine, IoMode, OpenOptions, Pool, PoolShape,
    RequestId, RequestKind, SECTOR_BYTES, TASKS, Volume, VolumeSettings, open,
};
use rustix::event::epoll;

struct Work {
    pattern: String,
    bytes: usize,
    depth: usize,
    length: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize, default: &str| {
        let given = arguments.get(at).map(String::as_str);
        given.unwrap_or(default).to_owned()
    };
    let path = arguments.first().ok_or("name a file")?;
    let work = Work {
        pattern: argument(3, "randread"),
        bytes: argument(4, "4096").parse()?,
        depth: argument(5, "16").parse()?,
        length: Duration::from_secs(argument(6, "2").parse()?),
    };
    let io = match argument(1, "direct").as_str() {
        "buffered" => IoMode::Buffered,
        "uncached" => IoMode::Uncached,
        _ => IoMode::Direct,
    };
    let read_only = work.pattern.contains("read");
    let options = OpenOptions {
        read_only,
        io,
        ..OpenOptions::default()
    };
    let backing = open(Path::new(path), &options)?;
    for warning in &backing.warnings {
        report(&format!("{path}: {warning}"));
    }
    let pool = Pool::new(PoolShape {
        count: work.depth,
        headroom_bytes: 64,
        data_bytes: work.bytes,
        alignment: 512,
    })?;
    let (depth, sectors) = (work.depth + TASKS + 1, backing.sectors);
    match argument(2, "uring").as_str() {
        "blocking" => {
            let mut engine = BlockingEngine::new(depth);
            let file = engine.attach(&backing)?;
            measure(&mut engine, file, &pool, sectors, &work, || Ok(()))
        }
        "aio" => {
            let mut engine = AioEngine::new(depth)?;
            let file = engine.attach(&backing)?;
            let waiter = Waiter::new(&engine)?;
            measure(&mut engine, file, &pool, sectors, &work, || waiter.wait())
        }
        #[cfg(uring)]
        "uring" => {
            let mut engine = aoede_disk::UringEngine::new(depth, &pool)?;
            let file = engine.attach(&backing)?;
            let waiter = Waiter::new(&engine)?;
            measure(&mut engine, file, &pool, sectors, &work, || waiter.wait())
        }
        other => Err(format!("no engine {other} here").into()),
    }
}

/// Waits for an engine's descriptor.
struct Waiter(OwnedFd);

impl Waiter {
    fn new(engine: &impl AsFd) -> rustix::io::Result<Self> {
        let waiter = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let interest = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&waiter, engine, epoll::EventData::new_u64(0), interest)?;
        Ok(Self(waiter))
    }

    fn wait(&self) -> Result<(), Box<dyn Error>> {
        let mut events = Vec::with_capacity(1);
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn measure<E: Engine<Buffer>>(
    engine: &mut E,
    file: aoede_disk::FileId,
    pool: &Pool,
    sectors: u64,
    work: &Work,
    wait: impl Fn() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let settings = VolumeSettings {
        capacity: work.depth,
        size_bytes: sectors * SECTOR_BYTES,
        ..VolumeSettings::default()
    };
    let mut volume = Volume::new(settings, Pool::cache(40 << 20)?);
    let each = u32::try_from(work.bytes as u64 / SECTOR_BYTES)?;
    let places = sectors / u64::from(each);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let (mut done, mut sleeps) = (0_u64, 0_u64);
    let (start, cpu) = (Instant::now(), cpu_time());
    while start.elapsed() < work.length {
        for _ in 0..64 {
            while let Some(buffer) = pool.take() {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let place = match work.pattern.as_str() {
                    "seqread" | "seqwrite" | "seqwrite-early" => {
                        (done + volume.outstanding() as u64) % places
                    }
                    _ => (state >> 20) % places,
                };
                let lba = place * u64::from(each);
                let kind = match work.pattern.as_str() {
                    "randread" | "seqread" => RequestKind::Read { lba, sectors: each },
                    pattern => RequestKind::Write {
                        lba,
                        sectors: each,
                        early: pattern.ends_with("early"),
                    },
                };
                let request = DiskRequest {
                    id: RequestId(0),
                    kind,
                    buffer,
                };
                volume
                    .handle_request(start.elapsed(), request)
                    .map_err(|_| "volume is full")?;
            }
            while let Some(op) = volume.poll_device() {
                engine.submit(file, op).map_err(|_| "engine is full")?;
            }
            engine.kick()?;
            let mut completed = false;
            while let Some((_, completion)) = engine.poll() {
                volume.handle_device(start.elapsed(), completion);
                completed = true;
            }
            while let Some(answer) = volume.poll_done() {
                answer.result?;
                done += 1;
                completed = true;
            }
            if !completed {
                sleeps += 1;
                wait()?;
            }
        }
    }
    let (seconds, cpu) = (
        start.elapsed().as_secs_f64(),
        cpu_time().saturating_sub(cpu),
    );
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let (count, sleeps) = (done as f64, sleeps as f64);
    report(&format!(
        "{:.1} k/s, {:.0} MB/s, {:.2} us CPU each, {:.2} sleeps each",
        count / seconds / 1e3,
        count * f64::from(each) * 512.0 / seconds / 1e6,
        cpu.as_secs_f64() * 1e6 / count,
        sleeps / count,
    ));
    volume.begin_flush(start.elapsed());
    while !volume.is_idle() {
        // Requests held back by others become operations now.
        while let Some(op) = volume.poll_device() {
            engine.submit(file, op).map_err(|_| "engine is full")?;
        }
        engine.kick()?;
        while let Some((_, completion)) = engine.poll() {
            volume.handle_device(start.elapsed(), completion);
        }
        while volume.poll_done().is_some() {}
    }
    Ok(())
}

/// Of all threads of this process, the kernel's workers for it included.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[expect(clippy::print_stdout, reason = "the result")]
fn report(line: &str) {
    println!("{line}");
}
