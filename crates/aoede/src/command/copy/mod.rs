//! `aoede copy`: between an AoE disk and a file, a block device or another AoE disk.
//!
//! `ends.rs` says what may be copied where; `pump.rs` is the loop between a source and a sink, which
//! are in `file.rs` and `disk.rs`; `ledger.rs` and `state.rs` let an interrupted copy go on;
//! `lock.rs` keeps two copies apart. Pure are `ledger.rs`, `plan.rs`, `pump.rs` and `zeros.rs`.

mod disk;
mod ends;
mod file;
mod ledger;
mod lock;
mod plan;
mod pump;
mod state;
mod watch;
mod zeros;

use std::convert::Infallible;
use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use aoede_wire::SECTOR_BYTES;
use clap::Args;
use serde::Serialize;

use super::usage;
use crate::output::{Facts, OutputArgs};
use crate::reach::{self, Network, ReachArgs};
use crate::size::Size;
use crate::stop::Stop;
use ends::{Place, ReadEnd, WriteEnd};
use ledger::Ledger;
use lock::Lock;
use pump::End;
use state::{State, StateFile, sync_folder_of};
use watch::{Record, Watch};

const EXAMPLES: &str = "\
Examples:
  aoede copy e1.1 backup.img -i eth0
      Copy the disk to a file; zeros become holes.
  aoede copy disk.img e1.1 -i eth0 --verify
      Copy a file to the disk, then read both again and compare.
  aoede copy disk.img e1.1 -i eth0 --resume
      Go on with a copy that was interrupted.
  aoede copy e1.1 e2.1 -i eth0,eth1

A disk or file that holds something is overwritten with --force only. Ctrl-C stops at a point from
which --resume goes on. It needs the capability CAP_NET_RAW.";

/// Copy an AoE disk to a file or device, or the other way round.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CopyArgs {
    /// What to copy: an AoE disk such as e1.1, a file or a block device (./1.1 for a file of that
    /// name).
    #[arg(value_name = "SOURCE", value_parser = place)]
    source: Place,

    /// Where to: the same. A file is made if there is none; a disk must be large enough.
    #[arg(value_name = "DESTINATION", value_parser = place)]
    destination: Place,

    #[command(flatten)]
    reach: ReachArgs,

    /// Read both again at the end and compare.
    #[arg(long)]
    verify: bool,

    /// Go on where an earlier copy was interrupted.
    #[arg(long)]
    resume: bool,

    /// Overwrite what the destination holds.
    #[arg(long, conflicts_with = "resume")]
    force: bool,

    /// Where to record how far the copy is [default: beside a file, DESTINATION.aoede-copy; for a
    /// disk in ~/.local/state/aoede].
    #[arg(long, value_name = "PATH")]
    state: Option<PathBuf>,

    /// How often the destination is brought to stable storage and the record renewed.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    sync_every: Duration,

    /// Requests of 256 KiB under way at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    queue_depth: u16,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &CopyArgs) -> anyhow::Result<()> {
    match (&args.source, &args.destination) {
        (Place::Path(_), Place::Path(_)) => {
            return Err(usage(
                "neither is an AoE disk; between files and devices cp and dd will do",
            ));
        }
        (source, destination) if source == destination => {
            return Err(usage("source and destination are the same disk"));
        }
        _ => {}
    }
    let network = args.reach.interfaces.open()?;
    let source = match &args.source {
        Place::Disk(address) => ReadEnd::disk(attach(args, &network, *address)?)?,
        Place::Path(path) => ReadEnd::path(path)?,
    };
    if source.bytes() == 0 {
        bail!("{} is empty", source.side().name());
    }
    // A signal that comes before ends the process at once, as nothing is to be finished. A disk that
    // is attached is to be taken leave of.
    let early = match &source {
        ReadEnd::Disk { .. } => Some(stop_on_signals()?),
        ReadEnd::Local(_) => None,
    };
    let destination = match &args.destination {
        Place::Disk(address) => WriteEnd::disk(attach(args, &network, *address)?)?,
        Place::Path(path) => WriteEnd::path(path, &source)?,
    };
    let stop = match early {
        Some(stop) => stop,
        None => stop_on_signals()?,
    };
    let mut copy = Copy::begin(args, &stop, source, destination)?;
    let facts = copy.run()?;
    args.output.print(&facts)
}

fn stop_on_signals() -> anyhow::Result<Stop> {
    Stop::on_signals().context("cannot prepare for signals")
}

fn attach(
    args: &CopyArgs,
    network: &Network,
    address: aoede_wire::Address,
) -> anyhow::Result<aoede_initiator::Disk> {
    network.attach(
        address,
        args.reach.settings_without_measuring(),
        args.reach.timeout,
    )
}

/// A copy whose ends are open and may be used.
struct Copy<'a> {
    args: &'a CopyArgs,
    stop: &'a Stop,
    source: ReadEnd,
    destination: WriteEnd,
    bytes: u64,
    /// What an earlier run has done.
    from: u64,
    /// None if it cannot be known what is on stable storage.
    record: Option<Record>,
    _lock: Lock,
}

impl<'a> Copy<'a> {
    /// Looks whether it can and may be done, and where it begins.
    fn begin(
        args: &'a CopyArgs,
        stop: &'a Stop,
        source: ReadEnd,
        destination: WriteEnd,
    ) -> anyhow::Result<Self> {
        let bytes = source.bytes();
        let state = State::new(source.side(), destination.side(bytes), bytes);
        let (from_name, to_name) = (state.source.name(), state.destination.name());
        if let Some(room) = destination.room() {
            if room < bytes {
                bail!(
                    "{from_name} has {bytes} bytes ({}), and {to_name} only {room} ({})",
                    Size(bytes),
                    Size(room)
                );
            }
            if room > bytes {
                let (room, bytes) = (Size(room), Size(bytes));
                eprintln!(
                    "aoede: {to_name} has {room}, {from_name} {bytes}: what is behind stays as it is"
                );
            }
        }
        let file = StateFile::new(state_path(args, &destination, to_name)?);
        if let Some(folder) = file.path().parent() {
            let made = std::fs::create_dir_all(folder);
            made.with_context(|| folder.display().to_string())
                .map_err(|error| advise(&error, "give another --state"))?;
        }
        let lock = Lock::of(file.path())?;
        file.is_ours()?;
        let from = if args.resume {
            earlier(&file, &state, &destination)?
        } else {
            None
        };
        if let Some(from) = from.filter(|&from| from > 0) {
            still_there(from, &source, &destination, (from_name, to_name), stop)?;
        }
        if from.is_none() && !args.force {
            may_overwrite(&file, to_name, &destination, args.resume, stop)?;
        }
        let mut copy = Self {
            args,
            stop,
            source,
            destination,
            bytes,
            from: from.unwrap_or(0),
            record: None,
            _lock: lock,
        };
        copy.prepare(file, state)?;
        Ok(copy)
    }

    /// The first change: a record, and a file of the right size.
    fn prepare(&mut self, file: StateFile, mut state: State) -> anyhow::Result<()> {
        state.stable_bytes = self.from;
        if self.destination.can_sync() {
            let path = file.path();
            let saved = file.save(&state);
            saved
                .with_context(|| format!("the record {}", path.display()))
                .map_err(|error| advise(&error, "give another --state"))?;
            self.record = Some(Record { file, state });
        } else {
            // What an earlier copy recorded will not be true any more.
            let removed = file.remove();
            removed.with_context(|| format!("removing {}", file.path().display()))?;
            eprintln!(
                "aoede: {} has no flush that proves anything: a power cut of the target may take \
                 what was copied, and a copy that is interrupted begins anew",
                state.destination.name()
            );
        }
        self.destination.prepare(self.from, self.bytes)?;
        if let Some(path) = self.destination.file_path() {
            sync_folder_of(path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn run(&mut self) -> anyhow::Result<Report> {
        let start = Instant::now();
        let zero_bytes = self.copy()?;
        let seconds = start.elapsed().as_secs_f64();
        if let Err(error) = self.source.check_unchanged() {
            self.forget()?;
            bail!("{error:#}: the copy is half old and half new");
        }
        let mut verified = None;
        if self.args.verify {
            self.verify()?;
            verified = Some(true);
        }
        self.forget()?;
        let bytes = self.bytes - self.from;
        #[expect(clippy::cast_precision_loss, reason = "for people to read")]
        let bytes_per_second = bytes as f64 / seconds.max(1e-9);
        Ok(Report {
            source: self.source.side().name().to_owned(),
            destination: self.destination.side(self.bytes).name().to_owned(),
            size_bytes: self.bytes,
            resumed_at_bytes: self.from,
            copied_bytes: bytes,
            zero_bytes,
            seconds,
            bytes_per_second,
            verified,
        })
    }

    /// Copies, and brings all to stable storage. Returns the bytes that were zeros.
    fn copy(&mut self) -> anyhow::Result<u64> {
        let depth = usize::from(self.args.queue_depth);
        let mut source = self.source.source(self.from, depth);
        let mut sink = self.destination.sink(depth)?;
        let mut ledger = Ledger::new(self.from);
        let record = self.record.as_mut();
        let every = self.args.sync_every;
        let mut watch = Watch::new(self.stop, "copying", self.from, self.bytes, record, every);
        let end = pump::run(&mut *source, &mut *sink, &mut ledger, &mut watch);
        // What was begun is finished; if it cannot be made stable, that is the second trouble.
        let settled = match &end {
            Ok(_) => pump::settle(&mut *source, &mut *sink, &mut ledger, &mut watch),
            Err(_) => Ok(()),
        };
        let zero_bytes = watch.zero_bytes();
        drop(watch);
        let why = match end {
            Ok(End::All) => match settled {
                Ok(()) if ledger.is_complete(self.bytes) => return Ok(zero_bytes),
                Ok(()) => anyhow!("not everything has arrived"),
                Err(error) => error,
            },
            Ok(End::Stopped) => anyhow!("interrupted"),
            Ok(End::Failed(error)) | Err(error) => error,
        };
        Err(if let Some(record) = &self.record {
            let stable = Size(record.state.stable_bytes);
            let bytes = Size(self.bytes);
            advise(
                &why,
                &format!("{stable} of {bytes} are copied, and --resume goes on from there"),
            )
        } else {
            advise(&why, "the copy is not complete")
        })
    }

    /// Compares everything, what an earlier run has copied too.
    fn verify(&mut self) -> anyhow::Result<()> {
        let depth = usize::from(self.args.queue_depth);
        let mut source = self.source.source(0, depth);
        let mut comparer = self.destination.comparer(depth);
        let mut ledger = Ledger::new(0);
        let every = self.args.sync_every;
        let mut watch = Watch::new(self.stop, "comparing", 0, self.bytes, None, every);
        let end = pump::run(&mut *source, comparer.sink(), &mut ledger, &mut watch);
        drop(watch);
        if let Some(byte) = comparer.difference() {
            self.forget()?;
            bail!(
                "{} differs from {} at sector {}: copy again",
                self.destination.side(self.bytes).name(),
                self.source.side().name(),
                byte / SECTOR_BYTES as u64
            );
        }
        let why = match end {
            Ok(End::All) if ledger.written_to() == self.bytes => return Ok(()),
            Ok(End::All) => anyhow!("not everything was read"),
            Ok(End::Stopped) => anyhow!("interrupted"),
            Ok(End::Failed(error)) | Err(error) => error,
        };
        Err(advise(
            &why,
            if self.record.is_some() {
                "all is copied, but not compared; --resume --verify compares again"
            } else {
                "all is copied, but not compared"
            },
        ))
    }

    /// Removes the record: there is nothing to go on with.
    fn forget(&mut self) -> anyhow::Result<()> {
        let Some(record) = self.record.take() else {
            return Ok(());
        };
        let path = record.file.path();
        record
            .file
            .remove()
            .with_context(|| format!("removing {}", path.display()))
    }
}

/// The cause, and behind it what can be done or what it means.
fn advise(cause: &anyhow::Error, advice: &str) -> anyhow::Error {
    anyhow!("{cause:#}; {advice}")
}

/// What helps where `--resume` does not. The two exclude each other.
const ANEW: &str = "begin anew with --force instead of --resume";

/// How far an earlier run came, if there was one.
fn earlier(file: &StateFile, now: &State, destination: &WriteEnd) -> anyhow::Result<Option<u64>> {
    let before = file.load().map_err(|error| advise(&error, ANEW))?;
    let Some(before) = before else {
        return Ok(None);
    };
    before.check(now).map_err(|error| {
        let path = file.path().display();
        advise(
            &error,
            &format!("the copy recorded in {path} cannot go on: {ANEW}"),
        )
    })?;
    let there = destination.file_bytes();
    if let Some(there) = there.filter(|&there| there < before.stable_bytes) {
        bail!(
            "{} has only {there} bytes, and {} were copied; {ANEW}",
            now.destination.name(),
            before.stable_bytes
        );
    }
    Ok(Some(before.stable_bytes))
}

/// Compares samples of what an earlier run has copied: another disk may have come to the same
/// address, with the same serial number.
fn still_there(
    end: u64,
    source: &ReadEnd,
    destination: &WriteEnd,
    (from_name, to_name): (&str, &str),
    stop: &Stop,
) -> anyhow::Result<()> {
    for (from, bytes) in plan::samples(end) {
        let doing = "looking whether what was copied is still there";
        let expected = source.read(from, bytes, stop).context(doing)?;
        let found = destination.read(from, bytes, stop).context(doing)?;
        if let Some(differs) = file::differs_at(&expected, &found) {
            bail!(
                "{to_name} differs from {from_name} at sector {}, where it was copied: one of them \
                 is not what it was; {ANEW}",
                (from + differs as u64) / SECTOR_BYTES as u64
            );
        }
    }
    Ok(())
}

/// Whether nothing would be lost.
fn may_overwrite(
    file: &StateFile,
    name: &str,
    destination: &WriteEnd,
    resumes: bool,
    stop: &Stop,
) -> anyhow::Result<()> {
    let path = file.path();
    if path.exists() {
        bail!(
            "a copy to {name} was interrupted ({} says so): go on with --resume, or begin anew \
             with --force",
            path.display()
        );
    }
    if !destination.is_blank(stop)? {
        if resumes {
            bail!(
                "{name} is not empty, and there is no record {} of a copy to it; --force instead of \
                 --resume overwrites it",
                path.display()
            );
        }
        bail!("{name} is not empty; --force overwrites it");
    }
    Ok(())
}

fn state_path(args: &CopyArgs, destination: &WriteEnd, name: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.state {
        return Ok(path.clone());
    }
    if let Some(path) = destination.file_path() {
        let mut path = path.as_os_str().to_owned();
        path.push(".aoede-copy");
        return Ok(path.into());
    }
    let folder = state_folder(
        env::var_os("XDG_STATE_HOME").as_deref().map(Path::new),
        env::var_os("HOME").as_deref().map(Path::new),
    );
    let folder =
        folder.context("there is no home folder for the record of this copy: give --state")?;
    let name = name.trim_start_matches('/').replace('/', "-");
    Ok(folder.join(format!("copy-to-{name}")))
}

/// Where programs keep what should outlive a restart (XDG base directory specification).
fn state_folder(state_home: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let usable = |path: &&Path| path.is_absolute();
    let folder = state_home.filter(usable).map(Path::to_owned);
    let folder = folder.or_else(|| home.filter(usable).map(|home| home.join(".local/state")));
    Some(folder?.join("aoede"))
}

/// What came of a copy.
#[derive(Debug, Serialize)]
struct Report {
    source: String,
    destination: String,
    size_bytes: u64,
    /// Where this run began.
    resumed_at_bytes: u64,
    copied_bytes: u64,
    /// Of these, what was left out or cleared as whole requests of zeros.
    zero_bytes: u64,
    /// Without the comparison.
    seconds: f64,
    bytes_per_second: f64,
    /// Whether both were compared, and are equal.
    verified: Option<bool>,
}

impl Facts for Report {
    fn text(&self) -> String {
        let before = match self.resumed_at_bytes {
            0 => String::new(),
            before => format!("; {} were there from before", Size(before)),
        };
        let compared = match self.verified {
            Some(true) => "; compared, and equal",
            _ => "",
        };
        format!(
            "copied {} from {} to {} in {:.1} s, {:.0} MB/s; {} of zeros{before}{compared}",
            Size(self.copied_bytes),
            self.source,
            self.destination,
            self.seconds,
            self.bytes_per_second / 1e6,
            Size(self.zero_bytes),
        )
    }
}

fn place(text: &str) -> Result<Place, Infallible> {
    text.parse()
}

const MIN_INTERVAL: Duration = Duration::from_millis(10);
const MAX_INTERVAL: Duration = Duration::from_secs(3600);

fn interval(text: &str) -> Result<Duration, String> {
    reach::time_within(text, MIN_INTERVAL..=MAX_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_comes_before_the_advice() {
        let cause = anyhow!("no space").context("/srv/record");
        let error = advise(&cause, "give another --state");
        assert_eq!(
            format!("{error:#}"),
            "/srv/record: no space; give another --state"
        );
    }
}
