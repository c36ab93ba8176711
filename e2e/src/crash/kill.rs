//! The target is killed: what reached the kernel survives, what only the target had is lost.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{Campaign, Round, Summary, Way, judge, load::Load, promises::Promises, stage::Stage};
use crate::{Export, Log, Random, TargetProcess, wait_until};

/// Most requests of a round, one of these at random: from a crash at the start to one after some
/// seconds.
const LENGTHS: [usize; 5] = [20, 100, 400, 1500, 3000];

/// How long a freeze, or its end, may take: its signals are looked at once a second.
const FREEZE: Duration = Duration::from_secs(30);

/// How long the file of a killed process may stay locked.
const LOCKED: Duration = Duration::from_secs(5);

/// Kills a target under load, starts it again, and compares what it then serves, and what is in
/// the file after a clean stop, with what was promised. In some rounds it is asked to stop, and
/// killed soon or not at all.
///
/// # Errors
/// [`super::BrokenPromises`], a request that fails, a read that returns what it must not, or a
/// target that does not start again.
pub fn kills(campaign: &Campaign) -> Result<Summary> {
    campaign.run("kills", |stage, promises, way, mut random| {
        let target = start(stage, way)?;
        let log = target.log()?.clone();
        let mut round =
            load_and_kill(stage, promises, way, target, &mut random).with_context(|| told(&log))?;
        let target = start_again(stage, way).context("after the crash")?;
        let log = target.log()?.clone();
        round.lost = look(stage, promises, target).with_context(|| told(&log))?;
        Ok(round)
    })
}

fn load_and_kill(
    stage: &Stage,
    promises: &mut Promises,
    way: &Way,
    mut target: TargetProcess,
    random: &mut Random,
) -> Result<Round> {
    let requests = requests(random, &LENGTHS);
    let moment = moment(random)?;
    let end = random.below(10);
    let load_random = Random::new(random.number());
    let mut load = Load::new(&stage.nic, stage.target, promises, way, load_random);
    load.run(requests)?;
    if way.freezes {
        freeze_and_load(&mut load, &mut target, requests, random)?;
    }
    let stopped = match end {
        0 => target.stop().map(|_| true)?,
        1 | 2 => target.stop_or_kill(moment)?,
        _ => {
            thread::sleep(moment);
            target.kill().map(|()| false)?
        }
    };
    load.take_last_words()?;
    let round = Round {
        tally: load.tally(),
        outstanding: load.outstanding(),
        lost: 0,
    };
    if stopped {
        // It flushes before it ends.
        promises.flushed(promises.covered());
    }
    Ok(round)
}

/// Freezes the disk, perhaps thaws it, and goes on with the load in each phase; or leaves off in
/// the middle, for the kill to come there.
fn freeze_and_load(
    load: &mut Load<'_>,
    target: &mut TargetProcess,
    requests: usize,
    random: &mut Random,
) -> Result<()> {
    let phases = random.below(4);
    target.freeze()?;
    load.run(requests)?;
    if phases == 0 {
        return Ok(());
    }
    target.log()?.wait_for("frozen: the image", FREEZE)?;
    load.run(requests)?;
    if phases == 1 {
        return Ok(());
    }
    target.thaw()?;
    load.run(requests)?;
    if phases == 3 {
        target.log()?.wait_for("thawing", FREEZE)?;
        load.run(requests)?;
    }
    Ok(())
}

/// What the target serves and what it leaves in the file; the promises are compared with both.
fn look(stage: &Stage, promises: &mut Promises, target: TargetProcess) -> Result<usize> {
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

fn start(stage: &Stage, way: &Way) -> Result<TargetProcess> {
    let mut export = Export::new(&stage.image, "tgt0").with(way.arguments);
    if way.freezes {
        let path = shadow(stage);
        let path = path.to_str().context("a path of text")?;
        export = export.with(&["--shadow", path, "--unfinished-freeze", "merge"]);
    }
    let mut target = export.start(&stage.host, way.maker)?;
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
        match start(stage, way) {
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

/// A number of requests, up to one of `lengths`.
pub(super) fn requests(random: &mut Random, lengths: &[usize]) -> usize {
    let most = lengths.get(random.below(lengths.len())).copied();
    1 + random.below(most.unwrap_or(1))
}

/// How long after the last request a crash comes: at once, or a little later.
pub(super) fn moment(random: &mut Random) -> Result<Duration> {
    let micros = [0, random.below(300), random.below(3000)];
    let micros = micros.get(random.below(3)).copied().unwrap_or(0);
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

/// What a target has said, for a failure's message.
pub(super) fn told(log: &Log) -> String {
    format!("the target's log:\n{}", log.text())
}
