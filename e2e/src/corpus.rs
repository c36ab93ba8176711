//! Conversations with a target: thousands of frames, valid, borderline and malformed, the same
//! ones at every run. Each [`Case`] leaves a target as it found it (or says that it does not), so
//! that what is answered to the next does not depend on what was answered to this one.
//!
//! Nothing here knows the right answers: two targets that were made from the same specification
//! are asked the same, and `tests/differential.rs` looks at where they disagree.

mod ask;
mod ata;
mod control;
mod header;
mod jumbo;

use ask::Ask;

/// The target's MAC address: the same for every target, so that all get the same bytes.
pub const TARGET: [u8; 6] = [2, 0, 0, 0, 0, 0x0A];
/// The initiator that asks most.
pub const INITIATOR: [u8; 6] = [2, 0, 0, 0, 0, 0x0B];
/// Another initiator.
pub const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x0C];
/// Who sends the requests that only show that everything before them was seen.
pub const FENCE: [u8; 6] = [2, 0, 0, 0, 0, 0x0F];

/// Sectors from here on are written by requests that one of the targets may refuse, and are never
/// read: a difference there does not hide or cause another.
pub const DISPUTED: u64 = 2048;

/// What both targets serve, and so what the frames are about.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Its name, in messages.
    pub name: &'static str,
    /// MTU of the interface.
    pub mtu: u32,
    /// Size of the export.
    pub sectors: u64,
    /// Whether it may not be written.
    pub read_only: bool,
    cases: fn(&mut Writer),
}

/// All scenes.
pub const SCENES: [Scene; 4] = [
    Scene {
        name: "standard",
        mtu: 1500,
        sectors: 4096,
        read_only: false,
        cases: standard,
    },
    Scene {
        name: "jumbo",
        mtu: 9000,
        sectors: 4096,
        read_only: false,
        cases: jumbo::jumbo,
    },
    Scene {
        name: "large",
        mtu: 1500,
        sectors: (1 << 28) + 64,
        read_only: false,
        cases: ata::large,
    },
    Scene {
        name: "read-only",
        mtu: 1500,
        sectors: 4096,
        read_only: true,
        cases: ata::read_only,
    },
];

/// What a sector holds before anything is written to it.
pub fn pattern(lba: u64) -> [u8; 512] {
    let mut sector = [0; 512];
    // Beyond this a large export is a hole.
    if lba < PATTERN_SECTORS {
        let word = (lba * 0x9E37_79B9 + 7).to_be_bytes();
        for part in sector.chunks_exact_mut(word.len()) {
            part.copy_from_slice(&word);
        }
    }
    sector
}

/// Sectors at the beginning of an export that hold a [`pattern`]; all others are zero.
pub const PATTERN_SECTORS: u64 = 4096;

impl Scene {
    /// Every case of this scene, in order.
    pub fn cases(&self) -> Vec<Case> {
        let mut writer = Writer {
            scene: *self,
            tag: 0x0100_0000,
            cases: Vec::new(),
        };
        (self.cases)(&mut writer);
        writer.cases
    }
}

/// One conversation.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about: group and details, separated by `/`.
    pub name: String,
    /// The requests, one after the other.
    pub steps: Vec<Step>,
    /// Whether the targets must be started anew afterwards.
    pub leaves_traces: bool,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Step {
    /// The bytes sent.
    pub frame: Vec<u8>,
}

impl Step {
    /// Tag and command, by which a response is known.
    pub fn key(&self) -> Option<[u8; 5]> {
        self.frame.get(19..24)?.try_into().ok()
    }
}

/// Collects cases and numbers their frames.
struct Writer {
    scene: Scene,
    tag: u32,
    cases: Vec<Case>,
}

impl Writer {
    /// A case of one request.
    fn ask(&mut self, name: String, ask: Ask) {
        self.talk(name, [ask]);
    }

    /// A case of several requests, after which everything is as before.
    fn talk(&mut self, name: String, asks: impl IntoIterator<Item = Ask>) {
        let steps = asks.into_iter().map(|ask| self.numbered(ask).bytes());
        let steps = steps.map(|frame| Step { frame }).collect();
        self.push(name, steps, false);
    }

    /// A case of several requests after which only a fresh start helps.
    fn spoil(&mut self, name: String, asks: impl IntoIterator<Item = Ask>) {
        self.talk(name, asks);
        if let Some(case) = self.cases.last_mut() {
            case.leaves_traces = true;
        }
    }

    /// A request of a length that its content does not ask for.
    fn ask_with_len(&mut self, name: String, ask: Ask, len: usize) {
        let frame = self.numbered(ask).bytes_of_len(len);
        self.push(name, vec![Step { frame }], false);
    }

    fn push(&mut self, name: String, steps: Vec<Step>, leaves_traces: bool) {
        self.cases.push(Case {
            name,
            steps,
            leaves_traces,
        });
    }

    fn numbered(&mut self, ask: Ask) -> Ask {
        self.tag += 1;
        Ask {
            tag: if ask.tag == 0 { self.tag } else { ask.tag },
            ..ask
        }
    }

    /// A number that differs from request to request, for data.
    fn seed(&self) -> u8 {
        self.tag.to_le_bytes()[0]
    }
}

fn standard(writer: &mut Writer) {
    header::versions_and_flags(writer);
    header::addresses(writer);
    header::macs(writer);
    header::tags(writer);
    header::commands(writer);
    header::lengths(writer);
    ata::opcodes(writer);
    ata::reads(writer);
    ata::writes(writer);
    ata::ata_bytes(writer);
    ata::other_ata_commands(writer);
    ata::wildcards(writer);
    control::config_strings(writer);
    control::config_lengths(writer);
    control::reservations(writer);
    control::extensions(writer);
    control::masks(writer);
    control::mask_lists(writer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_corpus_is_large_and_every_frame_fits() {
        let mut frames = 0;
        for scene in SCENES {
            for case in scene.cases() {
                for step in &case.steps {
                    frames += 1;
                    let most = usize::try_from(scene.mtu).unwrap() + 14;
                    assert!(step.frame.len() >= 14, "{}", case.name);
                    assert!(step.frame.len() <= most, "{}", case.name);
                }
            }
        }
        assert!(frames > 2000, "{frames} frames");
    }

    #[test]
    fn names_and_keys_are_unique_within_a_scene() {
        for scene in SCENES {
            let (mut names, mut keys) = (HashSet::new(), HashSet::new());
            for case in scene.cases() {
                assert!(names.insert(case.name.clone()), "{}", case.name);
                for step in &case.steps {
                    let new = step.key().is_none_or(|key| keys.insert(key));
                    assert!(new, "{}", case.name);
                }
            }
        }
    }

    #[test]
    fn frames_are_the_same_at_every_run() {
        let frames = |scene: Scene| -> Vec<Vec<u8>> {
            let cases = scene.cases().into_iter();
            cases
                .flat_map(|case| case.steps)
                .map(|step| step.frame)
                .collect()
        };
        for scene in SCENES {
            assert_eq!(frames(scene), frames(scene));
        }
    }
}
