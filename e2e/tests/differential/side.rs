//! One of the two targets: its own host, cable, image and process, and all that it answered.

use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Maker, Namespace, Nic, Scratch, TargetProcess,
    aoe::Addressing,
    corpus::{Case, FENCE, INITIATOR, OTHER, PATTERN_SECTORS, Scene, Step, TARGET, pattern},
};

/// How long a fence may take before the target is looked at, and how often that may happen.
const PATIENCE: Duration = Duration::from_millis(40);
const ATTEMPTS: u32 = 100;
/// Tags of fences begin here; the corpus uses none of them.
const FENCE_TAGS: u32 = 0x5E00_0000;
/// How long the cable must be silent before a target that has been asked everything, or has
/// stopped, has surely said everything.
const SETTLED: Duration = Duration::from_millis(100);

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// These frames; none: silence.
    Frames(Vec<Vec<u8>>),
    /// The process ended.
    Died,
    /// The process had ended before, within the same case.
    NotAsked,
}

/// Everything one target did in a scene, by case and step.
pub(crate) struct Record {
    pub(crate) answers: Vec<Vec<Answer>>,
    pub(crate) image: PathBuf,
    _folder: Scratch,
}

/// Asks a target of this make everything, and stops it.
///
/// # Errors
/// The bench fails, or the target cannot be reached any more though it runs.
pub(crate) fn record(maker: Maker, scene: &Scene, cases: &[Case]) -> Result<Record> {
    let mut side = Side::start(maker, scene)?;
    let mut asked = Vec::with_capacity(cases.len());
    for case in cases {
        let steps = side
            .converse(case)
            .with_context(|| format!("{maker:?}, {}/{}", scene.name, case.name))?;
        asked.push(steps);
    }
    // Before the end, so that answers do not pile up unread, and after it.
    side.settle()?;
    side.stop()?;
    side.settle()?;
    let heard = &mut side.heard;
    let answers = asked
        .into_iter()
        .map(|steps| {
            let answers = steps.into_iter().map(|asked| match asked {
                Asked::Yes(number) => {
                    let mut frames = heard.remove(&number).unwrap_or_default();
                    frames.sort();
                    Answer::Frames(frames)
                }
                Asked::Deadly => Answer::Died,
                Asked::No => Answer::NotAsked,
            });
            answers.collect()
        })
        .collect();
    Ok(Record {
        answers,
        image: side.image,
        _folder: side.folder,
    })
}

/// Whether a step was sent, and under which number its answers are kept.
enum Asked {
    Yes(usize),
    Deadly,
    No,
}

/// How a target stands after a request.
#[derive(PartialEq, Eq)]
enum Health {
    Serving,
    Ended,
}

struct Side {
    export: Export,
    maker: Maker,
    target: Namespace,
    nic: Nic,
    process: Option<TargetProcess>,
    folder: Scratch,
    image: PathBuf,
    /// Requests sent so far; the number of the last one.
    sent: usize,
    /// The request that a tag and command belong to.
    numbers: HashMap<[u8; 5], usize>,
    /// Answers by request.
    heard: HashMap<usize, Vec<Vec<u8>>>,
    fence: u32,
}

impl Side {
    fn start(maker: Maker, scene: &Scene) -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.join("disk.img");
        make_image(&image, scene.sectors)?;
        let (target, initiator) = Namespace::pair(scene.mtu)?;
        target.ip(&format!("link set tgt0 address {}", text(TARGET)))?;
        initiator.ip(&format!("link set ini0 address {}", text(INITIATOR)))?;
        let read_only = match (scene.read_only, maker) {
            (false, _) => None,
            (true, Maker::Aoede) => Some("--read-only"),
            (true, Maker::Vblade) => Some("-r"),
        };
        let mut side = Self {
            export: Export::new(&image, "tgt0").with(read_only.as_slice()),
            maker,
            nic: Nic::open(&initiator, "ini0")?,
            target,
            process: None,
            folder,
            image,
            sent: 0,
            numbers: HashMap::new(),
            heard: HashMap::new(),
            fence: FENCE_TAGS,
        };
        side.restart()?;
        Ok(side)
    }

    fn converse(&mut self, case: &Case) -> Result<Vec<Asked>> {
        let mut asked: Vec<Asked> = Vec::with_capacity(case.steps.len());
        let mut health = Health::Serving;
        for step in &case.steps {
            if health == Health::Ended {
                asked.push(Asked::No);
                continue;
            }
            let number = self.send(step)?;
            health = self.fence()?;
            asked.push(match health {
                Health::Serving => Asked::Yes(number),
                Health::Ended => Asked::Deadly,
            });
        }
        if case.leaves_traces || health == Health::Ended {
            self.restart()?;
        }
        Ok(asked)
    }

    fn send(&mut self, step: &Step) -> Result<usize> {
        self.sent += 1;
        if let Some(key) = step.key() {
            self.numbers.insert(key, self.sent);
        }
        self.nic.send(&step.frame)?;
        Ok(self.sent)
    }

    /// Sends a harmless request and waits for its answer: by then every request before it was
    /// seen. Where a mask list may be in force several senders try.
    fn fence(&mut self) -> Result<Health> {
        let first = self.fence;
        for attempt in 0..ATTEMPTS {
            let senders = [FENCE, INITIATOR, OTHER];
            let senders = if attempt == 0 {
                &senders[..1]
            } else {
                &senders
            };
            for &from in senders {
                let asking = Addressing {
                    to: TARGET,
                    from,
                    address: (1, 1),
                };
                self.nic.send(&asking.config(self.fence, 0, b""))?;
                self.fence += 1;
            }
            let end = Instant::now() + PATIENCE;
            loop {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                let Some(frame) = self.nic.receive(left)? else {
                    break;
                };
                if self.keep(frame).is_some_and(|tag| tag >= first) {
                    return Ok(Health::Serving);
                }
            }
            let alive = self.process.as_mut().is_some_and(TargetProcess::is_running);
            if !alive {
                return Ok(Health::Ended);
            }
        }
        anyhow::bail!("it runs and answers nobody")
    }

    /// Keeps a received frame with the request it answers. Returns the tag if that was a fence.
    fn keep(&mut self, frame: Vec<u8>) -> Option<u32> {
        let key: Option<[u8; 5]> = frame.get(19..24).and_then(|key| key.try_into().ok());
        if let Some([1, tag @ ..]) = key {
            let tag = u32::from_be_bytes(tag);
            if tag == 0 {
                // An announcement, which nobody asked for.
                return None;
            }
            if (FENCE_TAGS..self.fence).contains(&tag) {
                return Some(tag);
            }
        }
        // A frame that answers nothing belongs to the request it came after.
        let number = key.and_then(|key| self.numbers.get(&key).copied());
        let answers = self.heard.entry(number.unwrap_or(self.sent)).or_default();
        answers.push(frame);
        None
    }

    fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.process = Some(self.export.start(&self.target, self.maker)?);
        let health = self.fence()?;
        ensure!(health == Health::Serving, "it ended at once");
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            if process.is_running() {
                process.stop()?;
            }
        }
        Ok(())
    }

    /// Takes what a target says to requests that it had not finished.
    fn settle(&mut self) -> Result<()> {
        while let Some(frame) = self.nic.receive(SETTLED)? {
            self.keep(frame);
        }
        Ok(())
    }
}

fn make_image(path: &Path, sectors: u64) -> Result<()> {
    let mut file = File::create_new(path)?;
    for lba in 0..sectors.min(PATTERN_SECTORS) {
        file.write_all(&pattern(lba))?;
    }
    file.set_len(sectors * 512)?;
    Ok(())
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
