//! Our target and vblade, asked the same thousands of questions at the same time, each on a cable
//! and an image of its own. Every answer and every silence must be the same, but for the
//! differences that `differential/known.rs` lists with their reasons; so must the images.
//!
//! `AOEDE_DIFFERENTIAL_LOG=FILE` writes every request with both answers to a file.

#[path = "differential/exchange.rs"]
mod exchange;
#[path = "differential/image.rs"]
mod image;
#[path = "differential/known.rs"]
mod known;
#[path = "differential/mask.rs"]
mod mask;
#[path = "differential/side.rs"]
mod side;

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write as _,
    fs, thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aoede_e2e::{
    Maker,
    corpus::{Case, SCENES, Scene},
};
use exchange::{Exchange, describe, describe_frame, each, first_difference};
use known::{DESCRIPTION, KNOWN, WILDCARD};
use side::{Answer, Record, record};

/// Requests that both must have been asked, or the comparison has said too little.
const LEAST_COMPARED: usize = 2000;

/// Differences shown in full; the rest is counted.
const SHOWN: usize = 12;

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ours_answers_as_vblade_does_but_for_the_listed_differences() -> Result<()> {
    let mut judge = Judge::default();
    for scene in SCENES {
        let cases = scene.cases();
        let (ours, theirs) = thread::scope(|scope| {
            let other = scope.spawn(|| record(Maker::Vblade, &scene, &cases));
            let ours = record(Maker::Aoede, &scene, &cases);
            (ours, other.join())
        });
        let theirs = theirs.map_err(|_| anyhow!("the thread that asks vblade died"))??;
        judge.compare(&scene, &cases, &ours?, &theirs)?;
    }
    if let Some(path) = std::env::var_os("AOEDE_DIFFERENTIAL_LOG") {
        fs::write(path, &judge.log)?;
    }
    judge.verdict()
}

/// What the comparison has found so far.
#[derive(Default)]
struct Judge {
    requests: usize,
    /// Those that both were asked.
    compared: usize,
    /// Names of the differences that were seen.
    seen: HashSet<&'static str>,
    problems: Vec<String>,
    log: String,
}

impl Judge {
    fn compare(
        &mut self,
        scene: &Scene,
        cases: &[Case],
        ours: &Record,
        theirs: &Record,
    ) -> Result<()> {
        let identity = identity(cases, theirs).context("vblade does not identify itself")?;
        // Sectors that the requests which only one target carried out have changed.
        let mut disputed = BTreeSet::new();
        let answers = ours.answers.iter().zip(&theirs.answers);
        for (case, (ours, theirs)) in cases.iter().zip(answers) {
            for (step, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                let exchange = Exchange {
                    scene,
                    case,
                    step,
                    identity: &identity,
                };
                let names = self.compare_one(&exchange, ours, theirs)?;
                if names.contains(&WILDCARD) && exchange.is_write() {
                    disputed.extend(exchange.sectors());
                }
            }
        }
        for lba in image::differences(&ours.image, &theirs.image)? {
            if !disputed.contains(&lba) {
                let problem = format!("{}: the images differ in sector {lba}", scene.name);
                self.problems.push(problem);
            }
        }
        Ok(())
    }

    /// Compares two answers and returns the names of the differences between them.
    fn compare_one(
        &mut self,
        exchange: &Exchange<'_>,
        ours: &Answer,
        theirs: &Answer,
    ) -> Result<Vec<&'static str>> {
        self.requests += 1;
        let mut names = Vec::new();
        let mut expected = theirs.clone();
        for entry in KNOWN {
            if let Some(rewritten) = (entry.rewrite)(exchange, &expected) {
                if rewritten != expected {
                    names.push(entry.name);
                    expected = rewritten;
                }
            }
        }
        writeln!(
            self.log,
            "{}/{}, request {}: {names:?}\n  asked     {}\n  vblade    {}\n  ours      {}",
            exchange.scene.name,
            exchange.case.name,
            exchange.step + 1,
            describe_frame(exchange.request()),
            describe(theirs),
            describe(ours),
        )?;
        // Had it not ended, vblade would have been asked this too.
        if *theirs == Answer::NotAsked {
            return Ok(Vec::new());
        }
        self.compared += 1;
        self.seen.extend(&names);
        let (expected, found) = (comparable(exchange, &expected), comparable(exchange, ours));
        if expected != found {
            self.problems.push(format!(
                "{}/{}, request {}\n  asked     {}\n  vblade    {}\n  expected  {}\n  ours      {}\n  \
                 listed    {}\n  differ in {}",
                exchange.scene.name,
                exchange.case.name,
                exchange.step + 1,
                describe_frame(exchange.request()),
                describe(theirs),
                describe(&expected),
                describe(ours),
                names.join(", "),
                first_difference(&expected, &found),
            ));
        }
        Ok(names)
    }

    fn verdict(mut self) -> Result<()> {
        for entry in KNOWN {
            if !self.seen.contains(entry.name) {
                self.problems.push(format!(
                    "the listed difference `{}` was not seen; take it from the list or mend the \
                     corpus:\n  {}",
                    entry.name, entry.reason
                ));
            }
        }
        eprintln!(
            "{} requests, {} compared, {} listed differences, {} problems",
            self.requests,
            self.compared,
            KNOWN.len(),
            self.problems.len()
        );
        ensure!(
            self.problems.is_empty(),
            "{} differences that are not listed, or listed ones that are not there; the first:\n\n{}",
            self.problems.len(),
            self.problems
                .iter()
                .take(SHOWN)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join("\n\n")
        );
        ensure!(
            self.compared >= LEAST_COMPARED,
            "only {} requests were put to both",
            self.compared
        );
        Ok(())
    }
}

/// The answer without what describes the file and the program rather than the protocol.
fn comparable(exchange: &Exchange<'_>, answer: &Answer) -> Answer {
    if exchange.opcode() != Some(0xEC) {
        return answer.clone();
    }
    each(answer, |frame| {
        for byte in DESCRIPTION
            .iter()
            .cloned()
            .flatten()
            .flat_map(|word| [36 + 2 * word, 37 + 2 * word])
        {
            if let Some(byte) = frame.get_mut(byte) {
                *byte = 0;
            }
        }
    })
}

/// The first IDENTIFY data among a target's answers.
fn identity(cases: &[Case], record: &Record) -> Option<Vec<u8>> {
    let steps = cases.iter().flat_map(|case| &case.steps);
    let answers = record.answers.iter().flatten();
    steps.zip(answers).find_map(|(step, answer)| match answer {
        Answer::Frames(frames) if step.frame.get(27) == Some(&0xEC) => {
            let frame = frames.first()?;
            (frame.len() == 548).then(|| frame.get(36..).map(<[u8]>::to_vec))?
        }
        _ => None,
    })
}
