//! The target is killed: what reached the kernel survives, what only the target had is lost.
//!
//! One thread sends requests without a pause, another freezes, thaws and kills the target at times
//! of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{
    Campaign, Phase, Round, Summary, Way, judge, load::Load, promises::Promises, stage::Stage,
};
use crate::{Export, Log, Namespace, Random, TargetProcess, wait_until};

/// How long the load runs before the kill, at most. Most rounds take far less: see
/// [`short_or_long`].
const LONGEST: Duration = Duration::from_millis(800);
/// The same from when the disk was frozen, or the shadow merged.
const LONGEST_FROZEN: Duration = Duration::from_millis(100);
/// And from the order to freeze or to thaw: it takes no longer on so small a disk.
const LONGEST_ORDERED: Duration = Duration::from_millis(4);
/// How long a target that was asked to stop has for it before it is killed, at most.
const LONGEST_STOPPING: Duration = Duration::from_millis(20);
/// Kinds of moments, as likely: each goes half as far as the one before it.
const KINDS_OF_MOMENTS: usize = 6;

/// How long a freeze, or its end, may take.
pub(super) const FREEZE: Duration = Duration::from_secs(30);

/// How long the file of a killed process may stay locked.
const LOCKED: Duration = Duration::from_secs(5);

/// Kills a target under load, starts it again, and compares what it then serves, and what is in
/// the file after a clean stop, with what was promised. In some rounds it is asked to stop, and
/// killed soon or not at all. Returns what happened, way by way.
///
/// # Errors
/// [`super::BrokenPromises`], a request that fails, a read that returns what it must not, or a
/// target that does not start again.
pub fn kills(campaign: &Campaign) -> Result<Vec<Summary>> {
    campaign.run("kills", |stage, promises, way, turn, mut random| {
        let target = start(&stage.host, &stage.image, stage, way)?;
        let log = target.log()?.clone();
        let plan = Plan::new(way, turn, &mut random);
        let mut round = load_and_kill(stage, promises, way, target, &plan, &mut random)
            .with_context(|| format!("{plan:?}; {}", told(&log)))?;
        let target = start_again(stage, way).context("after the crash")?;
        let again = target.log()?.clone();
        let found = plan.found(round.stopped, &log, &again);
        round.freeze = found.with_context(|| format!("{}; then {}", told(&log), told(&again)))?;
        round.lost = look(stage, promises, target).with_context(|| told(&again))?;
        Ok(round)
    })
}

/// Runs the load on this thread, and on another what is to happen to the target meanwhile.
fn load_and_kill(
    stage: &Stage,
    promises: &mut Promises,
    way: &Way,
    target: TargetProcess,
    plan: &Plan,
    random: &mut Random,
) -> Result<Round> {
    let load_random = Random::new(random.number());
    let mut load = Load::new(&stage.nic, stage.target, promises, way, load_random);
    let over = AtomicBool::new(false);
    let (loaded, end) = thread::scope(|scope| {
        let end = scope.spawn(|| {
            let end = plan.play(target);
            over.store(true, Ordering::Release);
            end
        });
        (load.run_until(&over), end.join())
    });
    loaded?;
    let End { at, stopped } = end.map_err(|_| anyhow!("the thread died"))??;
    load.take_last_words()?;
    let mut round = Round {
        tally: load.tally(),
        stopped,
        under_way: load.under_way(at),
        unpromised: load.unpromised(),
        ..Round::default()
    };
    if stopped {
        // It flushes before it ends.
        load.stopped();
    } else if let Some(old) = way.kept_after.and_then(|age| at.checked_sub(age)) {
        round.aged = load.keep_older(old);
    }
    Ok(round)
}

/// What happens to a target under load.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// The load runs for so long first.
    before: Duration,
    /// The disk is frozen then, and thawed, until it is in this phase.
    freeze: Option<Phase>,
    /// So long after that comes the end.
    moment: Duration,
    end: Wish,
}

/// How it is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Kill,
    /// With a SIGTERM first.
    KillWhileStopping(Duration),
    Stop,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
struct End {
    /// Just before the kill: what was acknowledged by then was acknowledged to us.
    at: Instant,
    stopped: bool,
}

impl Plan {
    /// The plan of a way's round with the number `turn`: phases and ages come in turn, moments and
    /// ends by chance.
    fn new(way: &Way, turn: usize, random: &mut Random) -> Self {
        let grace = short_or_long(random, LONGEST_STOPPING);
        let end = match random.below(10) {
            0 => Wish::Stop,
            1 | 2 => Wish::KillWhileStopping(grace),
            _ => Wish::Kill,
        };
        if way.freezes {
            let (freeze, longest) = match turn % 4 {
                0 => (Phase::Merging, LONGEST_ORDERED),
                1 => (Phase::Frozen, LONGEST_FROZEN),
                2 => (Phase::Ordered, LONGEST_ORDERED),
                _ => (Phase::Merged, LONGEST_FROZEN),
            };
            return Self {
                before: short_or_long(random, LONGEST_FROZEN),
                freeze: Some(freeze),
                moment: short_or_long(random, longest),
                end: if freeze == Phase::Merged {
                    end
                } else {
                    Wish::Kill
                },
            };
        }
        let moment = short_or_long(random, LONGEST);
        let (moment, end) = match way.kept_after {
            // Late enough for some data to be old.
            Some(age) if turn % 2 == 0 => (age + moment, Wish::Kill),
            _ => (moment, end),
        };
        Self {
            before: Duration::ZERO,
            freeze: None,
            moment,
            end,
        }
    }

    fn play(self, mut target: TargetProcess) -> Result<End> {
        thread::sleep(self.before);
        if let Some(phase) = self.freeze {
            Self::freeze_until(phase, &mut target)?;
        }
        thread::sleep(self.moment);
        let at = Instant::now();
        match self.end {
            Wish::Kill => target.kill().map(|()| End { at, stopped: false }),
            Wish::KillWhileStopping(grace) => {
                let stopped = target.stop_or_kill(grace)?;
                Ok(End { at, stopped })
            }
            Wish::Stop => target.stop().map(|_| End { at, stopped: true }),
        }
    }

    fn freeze_until(phase: Phase, target: &mut TargetProcess) -> Result<()> {
        target.freeze()?;
        if phase == Phase::Ordered {
            return Ok(());
        }
        target.log()?.wait_for(FROZEN, FREEZE)?;
        if phase == Phase::Frozen {
            return Ok(());
        }
        // What is to be merged.
        thread::sleep(LONGEST_FROZEN);
        target.thaw()?;
        target.log()?.wait_for("thawing", FREEZE)?;
        if phase == Phase::Merged {
            target.log()?.wait_for("the shadow is merged", FREEZE)?;
        }
        Ok(())
    }

    /// The phase in which a freeze was interrupted, from what the target has said before the crash
    /// and what is said by the one after it.
    ///
    /// # Errors
    /// A freeze that was told is not found again.
    fn found(self, stopped: bool, log: &Log, again: &Log) -> Result<Option<Phase>> {
        if self.freeze.is_none() {
            return Ok(None);
        }
        let unfinished = again.text().contains("found an unfinished freeze");
        let merging = again.text().contains("merging it goes on");
        let told = log.text().contains(FROZEN);
        ensure!(
            unfinished || stopped || self.freeze != Some(Phase::Frozen),
            "the disk was frozen and is not any more"
        );
        Ok(Some(match (unfinished, told) {
            (true, _) if merging => Phase::Merging,
            (true, true) => Phase::Frozen,
            (false, true) => Phase::Merged,
            (_, false) => Phase::Ordered,
        }))
    }
}

/// What a target says when the disk is frozen.
pub(super) const FROZEN: &str = "frozen: the image";

/// A random time up to `longest`, of any order of magnitude, so that short and long ones are
/// common.
fn short_or_long(random: &mut Random, longest: Duration) -> Duration {
    let longest = usize::try_from(longest.as_micros()).unwrap_or(usize::MAX);
    let longest = longest >> random.below(KINDS_OF_MOMENTS);
    let micros = random.below(longest.max(1));
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// What the target serves and what it leaves in the file; the promises are compared with both.
pub(super) fn look(stage: &Stage, promises: &mut Promises, target: TargetProcess) -> Result<usize> {
    let served = stage.read_over_the_wire()?;
    let lost = judge(promises, &served)?;
    // A freeze that was found unfinished is merged while the disk is served.
    let shadow = shadow(stage);
    wait_until("the shadow is merged", FREEZE, || Ok(!shadow.exists()))?;
    target.stop()?;
    ensure!(
        fs::read(&stage.image)? == served,
        "the file holds something else than what was served from it"
    );
    Ok(lost)
}

/// Starts a target on a host for a file, the shadow of which is where the image is.
pub(super) fn start(
    host: &Namespace,
    file: &Path,
    stage: &Stage,
    way: &Way,
) -> Result<TargetProcess> {
    let mut export = Export::new(file, "tgt0").with(way.arguments);
    if way.freezes {
        let path = shadow(stage);
        let path = path.to_str().context("a path of text")?;
        export = export.with(&["--shadow", path, "--unfinished-freeze", "merge"]);
    }
    let mut target = export.start(host, way.maker)?;
    target.keep_quiet();
    Ok(target)
}

fn shadow(stage: &Stage) -> PathBuf {
    stage.image.with_file_name("shadow")
}

/// Starts it after a crash, again and again as a service manager does: what a killed process has
/// left with the kernel, io_uring or the disk, keeps its file open and locked until it is done.
fn start_again(stage: &Stage, way: &Way) -> Result<TargetProcess> {
    let mut started = None;
    let took = wait_until("the lock of the killed process ends", LOCKED, || {
        match start(&stage.host, &stage.image, stage, way) {
            Ok(target) => started = Some(target),
            Err(error) if format!("{error:#}").contains("lock held") => {}
            Err(error) => return Err(error),
        }
        Ok(started.is_some())
    })?;
    if took > Duration::from_secs(1) {
        eprintln!("the file of a killed process could be served after {took:.1?}");
    }
    started.context("not started")
}

/// What a target has said, for a failure's message.
pub(super) fn told(log: &Log) -> String {
    format!("the target's log:\n{}", log.text())
}
