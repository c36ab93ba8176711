//! AoE disks as the two ends of a copy. Each keeps a number of requests under way; the session
//! below cuts them into frames.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::Context as _;
use aoede_initiator::{Completion, Disk, Queue, Request};
use aoede_wire::SECTOR_BYTES;

use super::file::differs_at;
use super::plan::{HOLE_BYTES, Plan, REQUEST, REQUEST_BYTES, Segment};
use super::pump::{Chunk, Content, Event, Next, Sink, Source};
use super::zeros;

const SECTOR: u64 = SECTOR_BYTES as u64;
/// Zeros in a row from which on a trim costs less than writing them: as much as several frames.
const LEAST_TRIM: usize = 64 << 10;

/// A disk that is read.
#[derive(Debug)]
pub(super) struct DiskSource {
    queue: Queue,
    name: String,
    depth: usize,
    plan: Plan,
    spare: Vec<Vec<u8>>,
    unmade: usize,
}

impl DiskSource {
    /// From byte `from` to byte `end`, with so many requests under way, and as many buffers more
    /// for the sink.
    pub(super) fn new(disk: &Disk, from: u64, end: u64, depth: usize) -> Self {
        Self {
            queue: disk.queue(depth),
            name: disk.address().to_string(),
            depth,
            plan: Plan::new(from, end),
            spare: Vec::with_capacity(2 * depth),
            unmade: 2 * depth,
        }
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        while self.queue.under_way() < self.depth {
            if self.spare.is_empty() && self.unmade == 0 {
                return Ok(());
            }
            // A disk does not tell where its holes are.
            let all_data = Segment {
                to: u64::MAX,
                hole: false,
            };
            let part = self
                .plan
                .next(|_| Ok::<_, std::convert::Infallible>(all_data));
            let Ok(Some(part)) = part else {
                return Ok(());
            };
            let mut buffer = self.spare.pop().unwrap_or_else(|| {
                self.unmade -= 1;
                Vec::with_capacity(REQUEST)
            });
            buffer.resize(usize::try_from(part.to - part.from).unwrap_or(REQUEST), 0);
            let lba = part.from / SECTOR;
            let request = Request::Read { lba, buffer };
            let taken = self.queue.submit(part.from, request);
            taken.with_context(|| reading(&self.name, part.from))?;
        }
        Ok(())
    }
}

impl Source for DiskSource {
    fn next(&mut self, patience: Duration) -> anyhow::Result<Next> {
        self.fill()?;
        if self.queue.under_way() == 0 {
            let starved = self.spare.is_empty() && self.unmade == 0;
            return Ok(if starved { Next::Starved } else { Next::End });
        }
        let Some(done) = self.queue.wait_for(patience) else {
            return Ok(Next::Later);
        };
        // The next request is to be on its way before this one's data is looked at.
        self.fill()?;
        let from = done.token;
        if let Err(error) = done.result {
            self.spare.extend(done.buffer);
            return Err(error).with_context(|| reading(&self.name, from));
        }
        let buffer = done.buffer.context("the data of a read is missing");
        let buffer = buffer.with_context(|| reading(&self.name, from))?;
        let content = if zeros::is_zero(&buffer) {
            let bytes = buffer.len() as u64;
            self.spare.push(buffer);
            Content::Zeros(bytes)
        } else {
            Content::Data(buffer)
        };
        Ok(Next::Chunk(Chunk { from, content }))
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }

    fn stop(&mut self) {
        self.plan.stop();
    }
}

fn reading(name: &str, from: u64) -> String {
    format!("{name}: reading at sector {}", from / SECTOR)
}

/// A disk that is written.
#[derive(Debug)]
pub(super) struct DiskSink {
    queue: Queue,
    name: String,
    depth: usize,
    abilities: Abilities,
    /// Unfinished chunks by where they begin.
    chunks: BTreeMap<u64, Unfinished>,
    /// What waits to be sent: of one chunk at most, and of trims that were refused.
    backlog: VecDeque<Part>,
    flights: BTreeMap<u64, Flight>,
    next_flight: u64,
    /// Buffers full of zeros, and buffers for parts of chunks.
    zeros: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    syncing: bool,
    events: VecDeque<Event>,
}

/// What a disk can do beside writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Trimmed sectors read as zeros: so zeros need not be sent.
    pub(super) trim_zeroes: bool,
    /// It knows FLUSH.
    pub(super) flush: bool,
}

#[derive(Debug)]
struct Unfinished {
    to: u64,
    /// Bytes that are not written yet.
    left: u64,
    buffer: Option<Vec<u8>>,
}

/// A part of a chunk on its way to the queue.
#[derive(Debug)]
struct Part {
    chunk: u64,
    from: u64,
    content: Content,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    chunk: u64,
    from: u64,
    bytes: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The buffer is the chunk's own.
    Whole,
    /// It is one of ours.
    Piece,
    Zeros,
    Trim,
    Flush,
}

impl DiskSink {
    /// With so many requests under way.
    pub(super) fn new(disk: &Disk, abilities: Abilities, depth: usize) -> Self {
        Self {
            queue: disk.queue(depth),
            name: disk.address().to_string(),
            depth,
            abilities,
            chunks: BTreeMap::new(),
            backlog: VecDeque::new(),
            flights: BTreeMap::new(),
            next_flight: 0,
            zeros: Vec::new(),
            spare: Vec::new(),
            syncing: false,
            events: VecDeque::new(),
        }
    }

    /// Cuts data where a trim saves sending zeros.
    fn cut(&mut self, from: u64, data: Vec<u8>) -> Option<Vec<u8>> {
        let runs = zeros::runs(&data, LEAST_TRIM);
        if !self.abilities.trim_zeroes || runs.iter().all(|run| !run.zero) {
            self.backlog.push_back(Part {
                chunk: from,
                from,
                content: Content::Data(data),
            });
            return None;
        }
        for run in runs {
            let Some(bytes) = data.get(run.range.clone()) else {
                continue;
            };
            let content = if run.zero {
                Content::Zeros(bytes.len() as u64)
            } else {
                let mut piece = self.spare.pop().unwrap_or_default();
                piece.clear();
                piece.extend_from_slice(bytes);
                Content::Data(piece)
            };
            self.backlog.push_back(Part {
                chunk: from,
                from: from + run.range.start as u64,
                content,
            });
        }
        Some(data)
    }

    /// Sends of the backlog what the queue has room for.
    fn send(&mut self) -> anyhow::Result<()> {
        while self.queue.under_way() < self.depth {
            let Some(part) = self.backlog.pop_front() else {
                return Ok(());
            };
            let lba = part.from / SECTOR;
            let (kind, bytes, request) = match part.content {
                Content::Data(buffer) => {
                    let whole = self.chunks.get(&part.chunk);
                    let bytes = buffer.len() as u64;
                    let kind = match whole {
                        Some(chunk) if chunk.to - part.chunk == bytes => Kind::Whole,
                        _ => Kind::Piece,
                    };
                    (kind, bytes, Request::Write { lba, buffer })
                }
                Content::Zeros(left) => {
                    let trims = self.abilities.trim_zeroes;
                    let most = if trims { HOLE_BYTES } else { REQUEST_BYTES };
                    let bytes = left.min(most);
                    if left > bytes {
                        self.backlog.push_front(Part {
                            chunk: part.chunk,
                            from: part.from + bytes,
                            content: Content::Zeros(left - bytes),
                        });
                    }
                    if trims {
                        let sectors = bytes / SECTOR;
                        (Kind::Trim, bytes, Request::Trim { lba, sectors })
                    } else {
                        // It has been zeros ever since it was made.
                        let mut buffer = self.zeros.pop().unwrap_or_default();
                        buffer.resize(usize::try_from(bytes).unwrap_or(REQUEST), 0);
                        (Kind::Zeros, bytes, Request::Write { lba, buffer })
                    }
                }
            };
            self.launch(
                Flight {
                    chunk: part.chunk,
                    from: part.from,
                    bytes,
                    kind,
                },
                request,
            )?;
        }
        Ok(())
    }

    fn launch(&mut self, flight: Flight, request: Request<Vec<u8>>) -> anyhow::Result<()> {
        let token = self.next_flight;
        self.next_flight += 1;
        self.flights.insert(token, flight);
        let taken = self.queue.submit(token, request);
        taken.with_context(|| self.name.clone())
    }

    fn land(&mut self, done: Completion) -> anyhow::Result<()> {
        let Some(flight) = self.flights.remove(&done.token) else {
            return Ok(());
        };
        match (flight.kind, done.buffer) {
            (Kind::Whole, buffer) => {
                if let Some(chunk) = self.chunks.get_mut(&flight.chunk) {
                    chunk.buffer = buffer;
                }
            }
            (Kind::Piece, Some(buffer)) => self.spare.push(buffer),
            (Kind::Zeros, Some(buffer)) => self.zeros.push(buffer),
            _ => {}
        }
        match (flight.kind, done.result) {
            (Kind::Flush, Ok(_)) => {
                self.syncing = false;
                self.events.push_back(Event::Synced);
            }
            (Kind::Flush, Err(error)) => {
                return Err(error).with_context(|| {
                    format!(
                        "{}: what was written cannot be brought to stable storage",
                        self.name
                    )
                });
            }
            (_, Ok(_)) => self.written(flight),
            // Zeros can be written, too; and if they cannot, that will tell.
            (Kind::Trim, Err(_)) => {
                self.abilities.trim_zeroes = false;
                self.backlog.push_front(Part {
                    chunk: flight.chunk,
                    from: flight.from,
                    content: Content::Zeros(flight.bytes),
                });
            }
            (_, Err(error)) => {
                return Err(error).with_context(|| {
                    let sector = flight.from / SECTOR;
                    format!("{}: writing at sector {sector}", self.name)
                });
            }
        }
        Ok(())
    }

    fn written(&mut self, flight: Flight) {
        let Some(chunk) = self.chunks.get_mut(&flight.chunk) else {
            return;
        };
        chunk.left = chunk.left.saturating_sub(flight.bytes);
        if chunk.left > 0 {
            return;
        }
        if let Some(chunk) = self.chunks.remove(&flight.chunk) {
            self.events.push_back(Event::Finished {
                from: flight.chunk,
                to: chunk.to,
                buffer: chunk.buffer,
            });
        }
    }
}

impl Sink for DiskSink {
    fn has_room(&self) -> bool {
        self.backlog.is_empty() && self.queue.under_way() < self.depth
    }

    fn put(&mut self, chunk: Chunk) -> anyhow::Result<()> {
        let (from, to) = (chunk.from, chunk.to());
        let mut unfinished = Unfinished {
            to,
            left: to - from,
            buffer: None,
        };
        match chunk.content {
            Content::Data(data) => unfinished.buffer = self.cut(from, data),
            Content::Zeros(bytes) => self.backlog.push_back(Part {
                chunk: from,
                from,
                content: Content::Zeros(bytes),
            }),
        }
        self.chunks.insert(from, unfinished);
        self.send()
    }

    fn begin_sync(&mut self) -> anyhow::Result<()> {
        if !self.abilities.flush {
            self.events.push_back(Event::Synced);
            return Ok(());
        }
        self.syncing = true;
        Ok(())
    }

    fn poll(&mut self, patience: Duration) -> anyhow::Result<Option<Event>> {
        if self.events.is_empty() {
            let flush_waits = self.syncing
                && self
                    .flights
                    .values()
                    .all(|flight| flight.kind != Kind::Flush);
            if flush_waits && self.queue.under_way() < self.depth {
                let flight = Flight {
                    chunk: 0,
                    from: 0,
                    bytes: 0,
                    kind: Kind::Flush,
                };
                self.launch(flight, Request::Flush)?;
            }
            if let Some(done) = self.queue.wait_for(patience) {
                self.land(done)?;
            }
            self.send()?;
        }
        Ok(self.events.pop_front())
    }

    fn is_idle(&self) -> bool {
        self.chunks.is_empty() && self.events.is_empty() && !self.syncing
    }
}

/// A disk that is compared with chunks.
#[derive(Debug)]
pub(super) struct DiskComparer {
    queue: Queue,
    name: String,
    depth: usize,
    chunks: BTreeMap<u64, Compared>,
    /// Of one chunk at most: from, and what is left of it.
    backlog: Option<(u64, u64, u64)>,
    /// What each request is about: its chunk, and where it begins.
    flights: BTreeMap<u64, (u64, u64)>,
    next_flight: u64,
    spare: Vec<Vec<u8>>,
    events: VecDeque<Event>,
    difference: Option<u64>,
}

#[derive(Debug)]
struct Compared {
    to: u64,
    left: u64,
    expected: Content,
}

impl DiskComparer {
    /// With so many requests under way.
    pub(super) fn new(disk: &Disk, depth: usize) -> Self {
        Self {
            queue: disk.queue(depth),
            name: disk.address().to_string(),
            depth,
            chunks: BTreeMap::new(),
            backlog: None,
            flights: BTreeMap::new(),
            next_flight: 0,
            spare: Vec::new(),
            events: VecDeque::new(),
            difference: None,
        }
    }

    /// The first byte that was found to differ.
    pub(super) fn difference(&self) -> Option<u64> {
        self.difference
    }

    fn send(&mut self) -> anyhow::Result<()> {
        while self.queue.under_way() < self.depth {
            let Some((chunk, from, to)) = self.backlog else {
                return Ok(());
            };
            let bytes = (to - from).min(REQUEST_BYTES);
            self.backlog = (from + bytes < to).then_some((chunk, from + bytes, to));
            let mut buffer = self.spare.pop().unwrap_or_default();
            buffer.resize(usize::try_from(bytes).unwrap_or(REQUEST), 0);
            let token = self.next_flight;
            self.next_flight += 1;
            self.flights.insert(token, (chunk, from));
            let lba = from / SECTOR;
            let taken = self.queue.submit(token, Request::Read { lba, buffer });
            taken.with_context(|| reading(&self.name, from))?;
        }
        Ok(())
    }

    fn land(&mut self, done: Completion) -> anyhow::Result<()> {
        let Some((at, from)) = self.flights.remove(&done.token) else {
            return Ok(());
        };
        done.result.with_context(|| reading(&self.name, from))?;
        let found = done.buffer.context("the data of a read is missing");
        let found = found.with_context(|| reading(&self.name, from))?;
        let Some(chunk) = self.chunks.get_mut(&at) else {
            return Ok(());
        };
        let differs = match &chunk.expected {
            Content::Data(data) => differs_at(data, &found),
            Content::Zeros(_) => found.iter().position(|&byte| byte != 0),
        };
        if let Some(differs) = differs {
            let place = from + differs as u64;
            self.difference = Some(self.difference.map_or(place, |first| first.min(place)));
        }
        chunk.left = chunk.left.saturating_sub(found.len() as u64);
        self.spare.push(found);
        if chunk.left == 0
            && let Some(chunk) = self.chunks.remove(&at)
        {
            self.events.push_back(Event::Finished {
                from: at,
                to: chunk.to,
                buffer: match chunk.expected {
                    Content::Data(data) => Some(data),
                    Content::Zeros(_) => None,
                },
            });
        }
        Ok(())
    }
}

impl Sink for DiskComparer {
    fn has_room(&self) -> bool {
        self.backlog.is_none() && self.queue.under_way() < self.depth
    }

    fn put(&mut self, chunk: Chunk) -> anyhow::Result<()> {
        let (from, to) = (chunk.from, chunk.to());
        self.backlog = Some((from, from, to));
        self.chunks.insert(
            from,
            Compared {
                to,
                left: to - from,
                expected: chunk.content,
            },
        );
        self.send()
    }

    fn begin_sync(&mut self) -> anyhow::Result<()> {
        self.events.push_back(Event::Synced);
        Ok(())
    }

    fn poll(&mut self, patience: Duration) -> anyhow::Result<Option<Event>> {
        if self.events.is_empty() {
            if let Some(done) = self.queue.wait_for(patience) {
                self.land(done)?;
            }
            self.send()?;
        }
        Ok(self.events.pop_front())
    }

    fn is_idle(&self) -> bool {
        self.chunks.is_empty() && self.events.is_empty()
    }

    fn has_enough(&self) -> bool {
        self.difference.is_some()
    }
}
