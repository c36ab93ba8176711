//! The 2014 AoEde, played: its answers are those that were captured from it (§16), with what differs
//! from request to request filled in, and it has its habits (§13), but for those that end the
//! process. Nothing of the project's own codec is used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use aoede_e2e::{Namespace, Nic, aoe::BROADCAST};

/// How long it looks for frames before it looks whether to stop.
const LOOK: Duration = Duration::from_millis(20);
/// How long it sleeps to measure congestion.
const MEASURE: Duration = Duration::from_millis(500);
const SECTOR: usize = 512;
/// Two sectors in a frame, as it was captured at an MTU of 1500.
const PAYLOAD: u8 = 2;
/// Where the task file, and the data of ATA frames, begin.
const TASK_FILE: usize = 24;
const DATA: usize = 36;
/// What it knows in its default build.
const EXTENSIONS: [&str; 6] = [
    "reset",
    "coalesced_read",
    "tag_inc_le",
    "tag_inc_be",
    "tag_random",
    "congestion",
];

/// The program, serving e1.1. Dropping it stops it.
pub(crate) struct Old {
    stop: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Old {
    /// Starts it on `interface` of a host.
    pub(crate) fn start(host: &Namespace, interface: &str, disk: Vec<u8>) -> Result<Self> {
        let nic = Nic::open(host, interface)?;
        let state = Arc::new(Mutex::new(State::new(nic.mac(), disk)?));
        let stop = Arc::new(AtomicBool::new(false));
        let (watched, shared) = (Arc::clone(&stop), Arc::clone(&state));
        let thread = spawn(move || {
            nic.send(&lock(&shared).announcement())?;
            while !watched.load(Ordering::Relaxed) {
                let Some(request) = nic.receive(LOOK)? else {
                    if lock(&shared).take_grown() {
                        nic.send(&lock(&shared).announcement())?;
                    }
                    continue;
                };
                let (answers, sleeps) = lock(&shared).answer(&request);
                if sleeps {
                    // All its initiators wait.
                    sleep(MEASURE);
                }
                for answer in answers {
                    nic.send(&answer)?;
                }
            }
            Ok(())
        });
        Ok(Self {
            stop,
            state,
            thread: Some(thread),
        })
    }

    /// What the disk holds.
    pub(crate) fn disk(&self) -> Vec<u8> {
        lock(&self.state).disk.clone()
    }

    /// Makes the disk larger, as after a start with a larger file.
    pub(crate) fn grow(&self, sectors: usize) {
        let mut state = lock(&self.state);
        state.disk.resize(sectors * SECTOR, 0);
        state.grown = true;
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(ended) => ended.map_err(|_| anyhow!("the old program panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the old program: {error:#}");
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct State {
    mac: [u8; 6],
    golden: BTreeMap<&'static str, Vec<u8>>,
    disk: Vec<u8>,
    grown: bool,
    config: Vec<u8>,
    mask: Vec<[u8; 6]>,
    holders: Vec<[u8; 6]>,
    /// Belongs to the process, not to an initiator (§13, 13).
    extensions: BTreeSet<&'static str>,
    measured: i64,
    /// Writes of the window that all initiators share (§13, 14).
    tags: BTreeSet<[u8; 4]>,
    /// The last frame it sent, from which its short answers are filled up (§13, 17).
    last: Vec<u8>,
}

impl State {
    fn new(mac: [u8; 6], disk: Vec<u8>) -> Result<Self> {
        let names = [
            "config-read",
            "config-force-set",
            "config-set-refused",
            "config-unknown",
            "identify",
            "write-ext",
            "read-ext",
            "read-beyond-end",
            "read-too-many",
            "mask-read",
            "reserve-set",
            "extension",
            "unknown-command",
        ];
        let golden = names.into_iter().map(|name| Ok((name, response(name)?)));
        Ok(Self {
            mac,
            golden: golden.collect::<Result<_>>()?,
            disk,
            grown: false,
            config: Vec::new(),
            mask: Vec::new(),
            holders: Vec::new(),
            extensions: BTreeSet::new(),
            measured: -1,
            tags: BTreeSet::new(),
            last: vec![0xA5; 1514],
        })
    }

    fn take_grown(&mut self) -> bool {
        std::mem::take(&mut self.grown)
    }

    /// The answer to a question for its config string, which nobody asked.
    fn announcement(&self) -> Vec<u8> {
        let mut frame = self.golden["config-read"].clone();
        frame[..6].copy_from_slice(&BROADCAST);
        frame[6..12].copy_from_slice(&self.mac);
        self.with_config(frame)
    }

    /// Its answers, and whether it sleeps before it sends them.
    fn answer(&mut self, request: &[u8]) -> (Vec<Vec<u8>>, bool) {
        let to = &request[..6];
        let shelf = &request[16..18];
        let mine = (to == self.mac || to == BROADCAST)
            && request[14] & 0x08 == 0
            && (shelf == [0, 1] || shelf == [0xFF; 2])
            && matches!(request[18], 1 | 0xFF);
        let source = array(&request[6..12]);
        let masked = !self.mask.is_empty() && !self.mask.contains(&source);
        if !mine || masked {
            return (Vec::new(), false);
        }
        let mut sleeps = false;
        let answers = match request[19] {
            0 => self.ata_and_what_follows(request),
            1 => self.query(request).into_iter().collect(),
            2 => vec![self.mask(request)],
            3 => vec![self.reserve(request)],
            0x23 => {
                let (answer, first) = self.extension(request);
                sleeps = first;
                answer.into_iter().collect()
            }
            _ => {
                let mut frame = self.reply("unknown-command", request);
                frame.truncate(TASK_FILE);
                frame.extend(&request[TASK_FILE..]);
                vec![frame]
            }
        };
        if let Some(last) = answers.last() {
            self.last
                .splice(..last.len().min(1514), last.iter().copied());
        }
        (answers, sleeps)
    }

    /// A captured answer, for this request.
    fn reply(&self, name: &str, request: &[u8]) -> Vec<u8> {
        let mut frame = self.golden[name].clone();
        frame[..6].copy_from_slice(&request[6..12]);
        frame[6..12].copy_from_slice(&self.mac);
        frame[19..24].copy_from_slice(&request[19..24]);
        frame
    }

    /// The same for ATA: flags, address and reserved bytes come back. Behind 36 bytes there is what
    /// was there before.
    fn reply_ata(&self, name: &str, request: &[u8]) -> Vec<u8> {
        let mut frame = self.reply(name, request);
        frame[24] = request[24];
        frame[28..36].copy_from_slice(&request[28..36]);
        if frame.len() <= 60 {
            frame.truncate(DATA);
            frame.extend(&self.last[DATA..60]);
        }
        frame
    }

    fn ata_and_what_follows(&mut self, request: &[u8]) -> Vec<Vec<u8>> {
        let is_read = matches!(request[27], 0x20 | 0x24);
        let coalesced = self.extensions.contains("coalesced_read") && request.len() >= 53;
        let mut answers = vec![self.ata(request)];
        if is_read && coalesced {
            let entries = request[37..].chunks_exact(16);
            for entry in entries.take(usize::from(request[36])) {
                let mut further = request[..DATA].to_vec();
                further[20..24].copy_from_slice(&entry[..4]);
                further[28..34].copy_from_slice(&entry[4..10]);
                further[26] = entry[15];
                answers.push(self.ata(&further));
            }
        }
        answers
    }

    fn ata(&mut self, request: &[u8]) -> Vec<u8> {
        let (count, opcode) = (request[26], request[27]);
        let held = !self.holders.is_empty() && !self.holders.contains(&array(&request[6..12]));
        if held && opcode != 0xEC {
            let mut frame = self.reply_ata("read-too-many", request);
            (frame[15], frame[26]) = (6, count);
            return frame;
        }
        let lba = match opcode {
            0x20 | 0x30 => request[28..32].to_vec(),
            _ => request[28..34].to_vec(),
        };
        let lba = lba
            .iter()
            .rev()
            .fold(0, |lba, &byte| lba << 8 | usize::from(byte));
        let lba = if matches!(opcode, 0x20 | 0x30) {
            lba & 0x0FFF_FFFF
        } else {
            lba
        };
        let range = lba * SECTOR..(lba + usize::from(count)) * SECTOR;
        let data = match opcode {
            0x20 | 0x24 | 0x30 | 0x34 if count > PAYLOAD => {
                let mut frame = self.reply_ata("read-too-many", request);
                frame[26] = count;
                return frame;
            }
            0x20 | 0x24 | 0x30 | 0x34 if range.end > self.disk.len() => {
                let mut frame = self.reply_ata("read-beyond-end", request);
                frame[26] = count;
                return frame;
            }
            0xEC => self.identity(),
            0x20 | 0x24 => self.disk[range].to_vec(),
            0x30 | 0x34 => {
                let tracked = self
                    .extensions
                    .iter()
                    .any(|name| name.starts_with("tag_inc"));
                let tag: [u8; 4] = array(&request[20..24]);
                if !tracked || self.tags.insert(tag) {
                    let bytes = range.len();
                    self.disk[range].copy_from_slice(&request[DATA..DATA + bytes]);
                }
                return self.reply_ata("write-ext", request);
            }
            // Acknowledged, and nothing done (§13, 1).
            0xE7 => return self.reply_ata("write-ext", request),
            _ => {
                let mut frame = self.reply_ata("read-beyond-end", request);
                (frame[25], frame[26]) = (4, count);
                return frame;
            }
        };
        let mut frame = self.reply_ata("read-ext", request);
        frame.truncate(DATA);
        frame.extend(data);
        frame
    }

    /// §3.6, the column of the 2014 AoEde.
    fn identity(&self) -> Vec<u8> {
        let mut words = [0_u16; 256];
        let mut text = |first: usize, count: usize, text: &str| {
            let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
            for word in &mut words[first..first + count] {
                let pair = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
                *word = u16::from_be_bytes(pair);
            }
        };
        text(10, 10, "1.1:old");
        text(23, 4, "V21");
        text(27, 20, "AoEde virtual blade");
        let sectors = (self.disk.len() / SECTOR) as u64;
        for (at, value) in [
            (47, 0x8000),
            (49, 0x0200),
            (50, 0x4000),
            (83, 0x5400),
            (84, 0x4000),
            (86, 0x1400),
            (87, 0x4000),
            (93, 0x400B),
        ] {
            words[at] = value;
        }
        for (at, shift) in [(60, 0), (61, 16), (100, 0), (101, 16), (102, 32), (103, 48)] {
            words[at] = u16::try_from(sectors >> shift & 0xFFFF).unwrap_or_default();
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn query(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let len = usize::from(u16::from_be_bytes(array(&request[30..32])));
        let string = request.get(32..32 + len)?;
        let name = match request[29] & 0x0F {
            0 => "config-read",
            1 if string == self.config => "config-read",
            2 if self.config.starts_with(string) => "config-read",
            1 | 2 => return None,
            3 if !self.config.is_empty() && string != self.config => "config-set-refused",
            3 | 4 => {
                // Its release forgets all extensions here.
                self.extensions.clear();
                self.config = string.to_vec();
                "config-force-set"
            }
            _ => "config-unknown",
        };
        let mut frame = self.with_config(self.reply(name, request));
        frame[29] = 0x10 | request[29] & 0x0F;
        Some(frame)
    }

    fn with_config(&self, mut frame: Vec<u8>) -> Vec<u8> {
        frame.truncate(30);
        frame.extend(
            u16::try_from(self.config.len())
                .unwrap_or_default()
                .to_be_bytes(),
        );
        frame.extend(&self.config);
        frame
    }

    fn mask(&mut self, request: &[u8]) -> Vec<u8> {
        let directives = request[28..].chunks_exact(8);
        if request[25] == 1 {
            for directive in directives.take(usize::from(request[27])) {
                let mac = array(&directive[2..]);
                self.mask.retain(|&other| other != mac);
                if directive[1] == 1 {
                    self.mask.push(mac);
                }
            }
        }
        let mut frame = self.reply("mask-read", request);
        frame.truncate(28);
        frame[25] = request[25];
        frame[27] = u8::try_from(self.mask.len()).unwrap_or_default();
        for mac in &self.mask {
            frame.extend([0, 0]);
            frame.extend(mac);
        }
        frame
    }

    /// Looks for its own MAC where it should look for the sender's (§13, 12).
    fn reserve(&mut self, request: &[u8]) -> Vec<u8> {
        let free = self.holders.is_empty() || self.holders.contains(&self.mac);
        let refused = request[24] == 1 && !free;
        if matches!(request[24], 1 | 2) && !refused {
            let macs = request[26..].chunks_exact(6);
            self.holders = macs.take(usize::from(request[25])).map(array).collect();
        }
        let mut frame = self.reply("reserve-set", request);
        frame.truncate(26);
        if refused {
            (frame[14], frame[15]) = (0x1C, 6);
        }
        frame[24] = request[24];
        frame[25] = u8::try_from(self.holders.len()).unwrap_or_default();
        frame.extend(self.holders.concat());
        frame
    }

    /// The answer, and whether it is the first of a measurement.
    fn extension(&mut self, request: &[u8]) -> (Option<Vec<u8>>, bool) {
        let len = usize::from(u16::from_le_bytes(array(&request[24..26])));
        let Some(table) = request.get(26..26 + len) else {
            return (None, false);
        };
        let mut frame = self.reply("extension", request);
        frame.truncate(TASK_FILE);
        frame.extend(&request[TASK_FILE..]);
        let (mut at, mut first, mut argument) = (26, false, false);
        for entry in table
            .split(|&byte| byte == 0)
            .take_while(|entry| !entry.is_empty())
        {
            let known = EXTENSIONS.into_iter().find(|name| name.as_bytes() == entry);
            if std::mem::take(&mut argument) {
                let id = std::str::from_utf8(entry)
                    .ok()
                    .and_then(|id| id.parse().ok());
                let id = id.unwrap_or_default();
                first = id != self.measured;
                self.measured = id;
            } else if let Some(name) = known {
                frame[at..at + entry.len()].make_ascii_uppercase();
                match name {
                    "reset" => self.extensions.clear(),
                    "congestion" => argument = true,
                    name => {
                        if name.starts_with("tag_inc") {
                            self.tags.clear();
                        }
                        self.extensions.insert(name);
                    }
                }
            }
            at += entry.len() + 1;
        }
        (Some(frame), first)
    }
}

/// The first response of a captured exchange.
fn response(name: &str) -> Result<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/wire/tests/golden");
    let text = fs::read_to_string(folder.join(format!("{name}.txt")))?;
    let frame = text.split("\n= ").skip(1).find(|frame| {
        frame
            .lines()
            .next()
            .is_some_and(|line| line.contains("response"))
    });
    let lines = frame
        .with_context(|| format!("no response in {name}"))?
        .lines()
        .skip(1);
    let tokens = lines
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace);
    let mut bytes = Vec::new();
    for token in tokens {
        let (digits, times) = token.split_once('*').unwrap_or((token, "1"));
        let mut once = Vec::new();
        for at in (0..digits.len()).step_by(2) {
            once.push(u8::from_str_radix(&digits[at..at + 2], 16)?);
        }
        bytes.extend(once.repeat(times.parse()?));
    }
    Ok(bytes)
}

/// Bytes of a length that is known.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}
