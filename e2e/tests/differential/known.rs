//! Where the two targets are known to differ, and why.
//!
//! Each entry turns what vblade answers into what we answer, and says by which rule. Applied one
//! after the other to all that vblade said, the entries must give what ours said, to the byte. An
//! entry that changes nothing in the whole run is out of date and fails the test.

use aoede_e2e::corpus::{INITIATOR, TARGET, pattern};

use crate::{
    exchange::{Exchange, SILENCE, each, one},
    mask,
    side::Answer,
};

/// One known difference.
pub(crate) struct Known {
    /// A name for messages.
    pub(crate) name: &'static str,
    /// What vblade does, what we do, and by which rule.
    pub(crate) reason: &'static str,
    /// Turns vblade's answer into ours; nothing where the entry does not apply.
    pub(crate) rewrite: fn(&Exchange<'_>, &Answer) -> Option<Answer>,
}

/// A request that vblade carries out and we drop leaves different data behind.
pub(crate) const WILDCARD: &str = "wildcard";

/// Every known difference, first those about who is answered at all.
pub(crate) const KNOWN: &[Known] = &[
    Known {
        name: "destination",
        reason: "vblade answers frames that are for other stations. We answer what is for our own \
                 MAC address or for everybody: a switch that floods must not make two targets \
                 carry out one request.",
        rewrite: |x, _| (!x.is_for_the_target()).then_some(SILENCE),
    },
    Known {
        name: "source",
        reason: "vblade answers to group addresses, to no address and to its own. A requester is a \
                 single other station: anything else is a forgery, and the answer a storm.",
        rewrite: |x, _| {
            let group = x.byte(6) & 1 == 1;
            let nobody = x.source() == [0; 6] || x.source() == TARGET;
            (group || nobody).then_some(SILENCE)
        },
    },
    Known {
        name: "version",
        reason: "vblade serves every version and echoes the number. The specification names error \
                 5 for a version that is not spoken, in a frame of version 1 that otherwise \
                 repeats the request; to a wildcard address silence, or a segment would answer in \
                 chorus.",
        rewrite: |x, answer| match answer {
            Answer::Frames(frames) if x.version() != 1 && !frames.is_empty() => {
                Some(if x.is_wildcard() {
                    SILENCE
                } else {
                    one(x.echo(0x0C, 5))
                })
            }
            _ => None,
        },
    },
    Known {
        name: WILDCARD,
        reason: "vblade carries out whatever is sent to a wildcard address: one broadcast frame \
                 writes to every disk of the segment. To a wildcard we answer Query/Config, \
                 IDENTIFY, CHECK POWER MODE and the reading of the two lists, and drop the rest.",
        rewrite: |x, _| {
            let allowed = match x.command() {
                0 => matches!(x.opcode(), Some(0xEC | 0xE5)),
                2 => x.byte(25) == 0,
                3 => x.byte(24) == 0,
                _ => true,
            };
            (x.is_wildcard() && !allowed).then_some(SILENCE)
        },
    },
    Known {
        name: "wildcard-reserved",
        reason: "What a reservation by wildcard left behind in vblade: see above. The list is \
                 still empty in ours.",
        rewrite: |x, answer| {
            let after = x.step == 1 && x.case.name.starts_with("wildcard/") && x.command() == 3;
            after.then(|| {
                each(answer, |frame| {
                    if frame.get(25..) == Some(&[&[1][..], &INITIATOR].concat()) {
                        frame.truncate(26);
                        frame.splice(25.., [0]);
                    }
                })
            })
        },
    },
    Known {
        name: "extensions",
        reason: "vblade does not know the command Extensions. We answer with the request, what we \
                 know in upper case, also to a wildcard address; a malformed table is silence.",
        rewrite: |x, answer| match answer {
            Answer::Frames(frames)
                if x.command() == EXTENSIONS && x.version() == 1 && !frames.is_empty() =>
            {
                Some(extended(x))
            }
            _ => None,
        },
    },
    Known {
        name: "wildcard-unknown",
        reason: "vblade answers a command it does not know with error 1 also when it came to a \
                 wildcard address. We stay silent there: a command that is broadcast would earn an \
                 error from every old target of the segment.",
        rewrite: |x, answer| match answer {
            Answer::Frames(frames)
                if x.is_wildcard()
                    && x.command() > 3
                    && x.command() != EXTENSIONS
                    && !frames.is_empty() =>
            {
                Some(SILENCE)
            }
            _ => None,
        },
    },
    Known {
        name: "flags-echo",
        reason: "vblade returns the request's E flag, its two reserved flag bits and its error \
                 byte, so that a success can look like a failure. Responses start from zeroed \
                 fields.",
        rewrite: |x, answer| {
            Some(each(answer, |frame| {
                if let &[flags, error] = frame.get(14..16).unwrap_or(&[]) {
                    let asked = (x.byte(14) & 0x04 != 0).then(|| x.byte(15));
                    let failed = flags & 0x04 != 0 && asked != Some(error);
                    let (flags, error) = if failed {
                        (flags & !0x03, error)
                    } else {
                        (flags & !0x07, 0)
                    };
                    frame.splice(14..16, [flags, error]);
                }
            }))
        },
    },
    Known {
        name: "read-only",
        reason: "On an export that cannot be written vblade judges a write's length and address \
                 first, and acknowledges one of no sectors. For us such a device does not know the \
                 command, whatever it asks for: ABRT.",
        rewrite: |x, _| {
            (x.scene.read_only && x.is_write()).then(|| one(x.ata(0x04, x.byte(26), 0x41)))
        },
    },
    Known {
        name: "ata-refusal",
        reason: "With AoE error 2 or 6 vblade echoes the task file: feature and opcode stand where \
                 error and status belong. We set error 0 and status 1, the one bit that every \
                 initiator tests.",
        rewrite: |x, answer| {
            (x.command() == 0).then(|| {
                each(answer, |frame| {
                    if matches!(frame.get(14..16), Some([0x1C, 2 | 6])) {
                        frame.splice(25..26, [0]);
                        frame.splice(27..28, [0x01]);
                    }
                })
            })
        },
    },
    Known {
        name: "flush-status",
        reason: "vblade answers FLUSH CACHE with status 0 and the registers of the request. A \
                 device that did it says DRDY, no error, nothing left to do.",
        rewrite: |x, answer| {
            (x.opcode() == Some(0xE7)).then(|| {
                each(answer, |frame| {
                    if frame.get(14..16) == Some(&[0x18, 0]) && frame.get(27) == Some(&0) {
                        frame.splice(25..28, [0, 0, 0x40]);
                    }
                })
            })
        },
    },
    Known {
        name: "flush-ext",
        reason: "vblade aborts FLUSH CACHE EXT. IDENTIFY of ours announces it, and it does what \
                 FLUSH CACHE does.",
        rewrite: |x, answer| instead_of_abort(x, answer, x.opcode() == Some(0xEA)),
    },
    Known {
        name: "trim",
        reason: "vblade aborts DATA SET MANAGEMENT. Ours carries out TRIM of one or two blocks, \
                 here of unused entries only.",
        rewrite: |x, answer| {
            let trim = x.opcode() == Some(0x06) && x.byte(25) == 1;
            let counted = (1..=2).contains(&x.byte(26)) && !x.scene.read_only;
            instead_of_abort(x, answer, trim && counted)
        },
    },
    Known {
        name: "cache-off",
        reason: "vblade aborts SET FEATURES. Switching the volatile write cache off succeeds where \
                 it is off already, as with any ATA device.",
        rewrite: |x, answer| {
            let off = x.opcode() == Some(0xEF) && x.byte(25) == 0x82;
            instead_of_abort(x, answer, off)
        },
    },
    Known {
        name: "check-power",
        reason: "vblade takes the count of CHECK POWER MODE for an amount of data and sends \
                 nothing. The count means nothing in that request; the answer is FF, active.",
        rewrite: |x, answer| {
            let silent = x.opcode() == Some(0xE5) && x.is_for_the_target() && *answer == SILENCE;
            let served = x.byte(26) != 0 && x.version() == 1;
            (silent && served).then(|| one(x.ata(0, 0xFF, 0x40)))
        },
    },
    Known {
        name: "read-with-w",
        reason: "vblade lets the W flag decide whether a response carries data: a read that has it \
                 set succeeds without any. The opcode decides with us, because initiators set the \
                 flags wrong.",
        rewrite: |x, answer| {
            let data = match x.opcode() {
                Some(0x20 | 0x24) => x.sectors().flat_map(pattern).collect(),
                Some(0xEC) => x.identity.to_vec(),
                _ => return None,
            };
            (x.byte(24) & 1 == 1).then(|| {
                each(answer, |frame| {
                    if frame.get(27) == Some(&0x40) && frame.len() <= 60 {
                        frame.truncate(36);
                        frame.extend(&data);
                    }
                })
            })
        },
    },
    Known {
        name: "write-without-w",
        reason: "The same the other way round: vblade returns the data of a write that has the W \
                 flag clear. The response to a write has no data.",
        rewrite: |x, answer| {
            x.is_write().then(|| {
                each(answer, |frame| {
                    if frame.len() > 60 {
                        frame.truncate(36);
                    }
                })
            })
        },
    },
    Known {
        name: "identify",
        reason: "Ours describes more of an ATA device: a geometry, a version of the standard that \
                 hosts ask for before they flush or trim, a write cache, FLUSH CACHE EXT. What \
                 initiators get the size from is the same.",
        rewrite: |x, answer| {
            let identify = x.opcode() == Some(0xEC);
            identify.then(|| each(answer, |frame| describe_disk(x.scene.sectors, frame)))
        },
    },
    Known {
        name: "config-numbers",
        reason: "vblade announces 16 buffers and firmware version 0x4019, ours 64 and 0x5001.",
        rewrite: |x, answer| {
            (x.command() == 1).then(|| {
                each(answer, |frame| {
                    if frame.get(24..28) == Some(&[0x00, 0x10, 0x40, 0x19]) {
                        frame.splice(24..28, [0x00, 0x40, 0x50, 0x01]);
                    }
                })
            })
        },
    },
    Known {
        name: "config-beyond-frame",
        reason: "vblade compares the length of a config string with the whole frame and stores up \
                 to 32 bytes that were never sent. What lies beyond the frame is no string: no \
                 answer, nothing stored.",
        rewrite: |x, _| is_beyond_frame(x).then_some(SILENCE),
    },
    Known {
        name: "config-never-sent",
        reason: "What such a string left behind in vblade: see above. The string is still empty in \
                 ours.",
        rewrite: |x, answer| {
            let first = Exchange { step: 0, ..*x };
            let after = x.step == 1 && x.case.name.starts_with("config-length/");
            (after && is_beyond_frame(&first)).then(|| {
                each(answer, |frame| {
                    frame.truncate(32);
                    frame.splice(30.., [0, 0]);
                })
            })
        },
    },
    Known {
        name: "config-unknown",
        reason: "vblade looks at the length of the string before the sub-command. A sub-command \
                 that does not exist has no string that could be too long: error 2.",
        rewrite: |x, answer| {
            let unknown = x.command() == 1 && x.byte(29) & 0x0F > 4 && *answer == SILENCE;
            unknown.then(|| {
                // The string that the case began with.
                let before = x.step.checked_sub(1).map(|step| x.request_of(step));
                let string = before.and_then(|frame| frame.get(32..)).unwrap_or(&[]);
                let mut frame = x.echo(0x0C, 2);
                let [high, low] = u16::try_from(string.len()).unwrap_or(0).to_be_bytes();
                let sub_command = 0x10 | x.byte(29);
                frame.splice(24.., [0, 64, 0x50, 1, 2, sub_command, high, low]);
                frame.extend(string);
                one(frame)
            })
        },
    },
    Known {
        name: "mask-list",
        reason: "vblade mistakes the end of its list: beyond the first entry it finds none, so it \
                 adds what is there, overwrites what should stay and cannot delete; deleting the \
                 first ends the process. It takes 32 entries, ours as many as a response holds.",
        rewrite: |x, _| {
            let cases = ["add-", "delete-", "many/"];
            let other = ["add-then-bad", "add-broadcast", "add-zero", "add-multicast"];
            (mask_case(x, &cases) && !mask_case(x, &other)).then(|| mask::answer(x))
        },
    },
    Known {
        name: "mask-rollback",
        reason: "vblade keeps what a failing edit did before it failed. A half-done access list is \
                 worse than none: all of an edit, or nothing.",
        rewrite: |x, _| mask_case(x, &["add-then-bad"]).then(|| mask::answer(x)),
    },
    Known {
        name: "mask-station",
        reason: "vblade lists any six bytes. Only single stations can ask, so adding a group \
                 address or none at all is a bad directive.",
        rewrite: |x, _| {
            let cases = ["add-broadcast", "add-zero", "add-multicast"];
            mask_case(x, &cases).then(|| mask::answer(x))
        },
    },
    Known {
        name: "mask-short",
        reason: "vblade carries out directives behind the end of the frame, which earlier frames \
                 left there. A list that the frame does not hold is a bad argument, and nothing is \
                 done.",
        rewrite: |x, _| mask_case(x, &["short"]).then(|| mask::answer(x)),
    },
    Known {
        name: "mask-by-wildcard",
        reason: "vblade edits its list for a wildcard request; ours drops it (see wildcard), so \
                 that everybody is still served afterwards.",
        rewrite: |x, _| mask_case(x, &["by-wildcard"]).then(|| mask::answer(x)),
    },
    Known {
        name: "mask-echo",
        reason: "vblade returns the request's reserved byte, and with error 2 its count although \
                 no list follows. Both are zero in ours.",
        rewrite: |x, answer| {
            (x.command() == 2 && x.case.name.starts_with("mask/idle/")).then(|| {
                each(answer, |frame| {
                    frame.splice(24..25, [0]);
                    if frame.get(14..16) == Some(&[0x1C, 2]) {
                        frame.splice(27..28, [0]);
                    }
                })
            })
        },
    },
    Known {
        name: "leftovers",
        reason: "Behind the registers of an ATA response without data vblade sends what its buffer \
                 held. That may be another initiator's data: ours sends zeros.",
        rewrite: |x, answer| {
            (x.command() == 0).then(|| {
                each(answer, |frame| {
                    if (37..=60).contains(&frame.len()) && frame.get(14..16) != Some(&[0x1C, 5]) {
                        frame.truncate(36);
                    }
                })
            })
        },
    },
    Known {
        name: "padding",
        reason: "vblade sends frames of 24 to 59 bytes, which common tools take for no answer. \
                 Ours are padded with zeros to 60, the least that Ethernet carries.",
        rewrite: |_, answer| {
            Some(each(answer, |frame| {
                let len = frame.len().max(60);
                frame.resize(len, 0);
            }))
        },
    },
];

const EXTENSIONS: u8 = 0x23;
/// Those that the corpus asks for and we know; `congestion` without an id does nothing.
const FEATURES: [&[u8]; 7] = [
    b"reset",
    b"coalesced_read",
    b"tag_inc_le",
    b"tag_inc_be",
    b"tag_random",
    b"congestion",
    b"crc8x4",
];

/// What we answer to an extension table.
fn extended(x: &Exchange<'_>) -> Answer {
    let Some(table) = x.request().get(26..) else {
        return SILENCE;
    };
    let (low, high) = (usize::from(x.byte(24)), usize::from(x.byte(25)));
    let closed = |len: usize| table.get(..len).is_some_and(|t| t.ends_with(&[0, 0]));
    if !closed(low + 256 * high) && !closed(high + 256 * low) {
        return SILENCE;
    }
    let mut frame = x.echo(0x08, 0);
    let mut start = 26;
    for entry in table.split(|&byte| byte == 0) {
        if entry.is_empty() {
            break;
        }
        let end = start + entry.len();
        if FEATURES.contains(&entry) {
            let name = frame.get_mut(start..end);
            name.unwrap_or_default().make_ascii_uppercase();
        }
        start = end + 1;
    }
    one(frame)
}

/// Success without data where vblade aborted.
fn instead_of_abort(x: &Exchange<'_>, answer: &Answer, applies: bool) -> Option<Answer> {
    let aborted = |frame: &Vec<u8>| {
        frame.get(14..16) == Some(&[0x18, 0])
            && frame.get(25) == Some(&0x04)
            && frame.get(27) == Some(&0x41)
    };
    match answer {
        Answer::Frames(frames) if applies && frames.iter().any(aborted) => {
            Some(one(x.ata(0, 0, 0x40)))
        }
        _ => None,
    }
}

/// Whether a Query/Config request would store or compare more than it brought.
fn is_beyond_frame(x: &Exchange<'_>) -> bool {
    let len = x.string_len();
    let string = matches!(x.byte(29) & 0x0F, 1..=4);
    x.command() == 1 && string && len <= 1024 && 32 + len > x.request().len()
}

/// Whether the request is about a mask list in one of these cases.
fn mask_case(x: &Exchange<'_>, names: &[&str]) -> bool {
    let name = x.case.name.strip_prefix("mask/").unwrap_or("");
    x.command() == 2 && names.iter().any(|start| name.starts_with(start))
}

/// Words of IDENTIFY that describe the file below and the program, not the protocol: serial,
/// firmware, model; trimming; physical sectors; rotation; checksum. Bytes of the response.
pub(crate) const DESCRIPTION: &[std::ops::RangeInclusive<usize>] = &[
    10..=19,
    23..=26,
    27..=46,
    69..=69,
    105..=106,
    169..=169,
    209..=209,
    217..=217,
    255..=255,
];

fn describe_disk(sectors: u64, frame: &mut [u8]) {
    let cylinders = (sectors / (16 * 63)).clamp(1, 16383);
    let mut set = |word: usize, value: u64| {
        let at = 36 + 2 * word;
        if let (Some(bytes), [low, high, ..]) = (frame.get_mut(at..at + 2), value.to_le_bytes()) {
            bytes.copy_from_slice(&[low, high]);
        }
    };
    set(0, 0x0040);
    for (word, value) in [(1, cylinders), (3, 16), (6, 63)] {
        set(word, value);
    }
    set(53, 1);
    for (word, value) in [(54, cylinders), (55, 16), (56, 63)] {
        set(word, value);
    }
    let capacity = cylinders * 16 * 63;
    set(57, capacity & 0xFFFF);
    set(58, capacity >> 16);
    set(80, 0x01F0);
    set(82, 0x0020);
    set(83, 0x7400);
    set(86, 0x3400);
}

#[test]
fn names_are_unique_and_reasons_are_given() {
    for (at, entry) in KNOWN.iter().enumerate() {
        assert!(entry.reason.len() > 40, "{}", entry.name);
        let again = KNOWN
            .iter()
            .skip(at + 1)
            .any(|other| other.name == entry.name);
        assert!(!again, "{}", entry.name);
    }
}
