//! Files and block devices as the two ends of a copy.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::plan::{Part, Plan, REQUEST, REQUEST_BYTES, Segment};
use super::pump::{Chunk, Content, Event, Next, Sink, Source};
use super::zeros::{self, BLOCK};

static NOTHING: [u8; REQUEST] = [0; REQUEST];

/// A file or device that is read.
#[derive(Debug)]
pub(super) struct FileSource {
    file: Arc<File>,
    path: PathBuf,
    /// What it had when the copy began. The last sector is filled with zeros.
    len: u64,
    plan: Plan,
    spare: Vec<Vec<u8>>,
    /// Buffers that may still be made.
    unmade: usize,
}

impl FileSource {
    /// From byte `from` to the end of the sector that the last of `len` bytes lies in, with so many
    /// buffers.
    pub(super) fn new(file: Arc<File>, path: PathBuf, from: u64, len: u64, buffers: usize) -> Self {
        // It only helps.
        let _unknown = rustix::fs::fadvise(&*file, 0, None, rustix::fs::Advice::Sequential);
        Self {
            file,
            path,
            len,
            plan: Plan::new(from, len.next_multiple_of(512)),
            spare: Vec::with_capacity(buffers),
            unmade: buffers,
        }
    }

    fn buffer(&mut self) -> Option<Vec<u8>> {
        if let Some(buffer) = self.spare.pop() {
            return Some(buffer);
        }
        self.unmade = self.unmade.checked_sub(1)?;
        Some(Vec::with_capacity(REQUEST))
    }

    fn read(&self, part: Part, data: &mut [u8]) -> io::Result<()> {
        let there = self.len.saturating_sub(part.from);
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(data.len());
        let (content, padding) = data.split_at_mut(there);
        padding.fill(0);
        self.file.read_exact_at(content, part.from)
    }
}

/// What a file has from a place on.
fn look(file: &File, from: u64) -> io::Result<Segment> {
    let all_data = Segment {
        to: u64::MAX,
        hole: false,
    };
    match seek(file, SeekFrom::Data(from)) {
        Ok(data) if data > from => Ok(Segment {
            to: data,
            hole: true,
        }),
        Ok(_) => match seek(file, SeekFrom::Hole(from)) {
            Ok(to) if to > from => Ok(Segment { to, hole: false }),
            Ok(_) => Ok(all_data),
            Err(error) => Err(error.into()),
        },
        // No data any more.
        Err(Errno::NXIO) => Ok(Segment {
            to: u64::MAX,
            hole: true,
        }),
        // A device, or a file system that does not tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(all_data),
        Err(error) => Err(error.into()),
    }
}

impl Source for FileSource {
    fn next(&mut self, _patience: Duration) -> anyhow::Result<Next> {
        if self.spare.is_empty() && self.unmade == 0 {
            return Ok(Next::Starved);
        }
        let file = &self.file;
        let part = self.plan.next(|from| look(file, from));
        let part = part.with_context(|| format!("{}: looking for data", self.path.display()))?;
        let Some(part) = part else {
            return Ok(Next::End);
        };
        let (from, bytes) = (part.from, part.to - part.from);
        let zeros = Ok(Next::Chunk(Chunk {
            from,
            content: Content::Zeros(bytes),
        }));
        if part.hole {
            return zeros;
        }
        let Some(mut buffer) = self.buffer() else {
            return Ok(Next::Starved);
        };
        buffer.resize(usize::try_from(bytes).unwrap_or(REQUEST), 0);
        let read = self.read(part, &mut buffer);
        if let Err(error) = read {
            let shorter = error.kind() == io::ErrorKind::UnexpectedEof;
            return Err(error).with_context(|| {
                let path = self.path.display();
                if shorter {
                    format!("{path} has become shorter while it was copied")
                } else {
                    format!("{path}: reading {bytes} bytes at byte {from}")
                }
            });
        }
        if zeros::is_zero(&buffer) {
            self.spare.push(buffer);
            return zeros;
        }
        Ok(Next::Chunk(Chunk {
            from,
            content: Content::Data(buffer),
        }))
    }

    fn give_back(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }

    fn stop(&mut self) {
        self.plan.stop();
    }
}

/// How a sink makes zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeros {
    /// They are there already: the file was empty and was made longer.
    Holes,
    /// The device unmaps or clears them, if it can.
    Punch,
    /// They are written.
    Write,
}

/// A file or device that is written. Writing is done at once, through the page cache; a thread
/// waits for syncs.
#[derive(Debug)]
pub(super) struct FileSink {
    file: Arc<File>,
    path: PathBuf,
    zeros: Zeros,
    events: VecDeque<Event>,
    orders: Sender<()>,
    synced: Receiver<io::Result<()>>,
    syncing: bool,
}

impl FileSink {
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn new(file: Arc<File>, path: PathBuf, zeros: Zeros) -> io::Result<Self> {
        let (orders, todo) = mpsc::channel::<()>();
        let (done, synced) = mpsc::channel();
        let to_sync = Arc::clone(&file);
        // It ends when its orders do.
        thread::Builder::new()
            .name("sync".to_owned())
            .spawn(move || {
                for () in todo {
                    if done.send(to_sync.sync_data()).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            file,
            path,
            zeros,
            events: VecDeque::new(),
            orders,
            synced,
            syncing: false,
        })
    }

    fn write(&mut self, from: u64, data: &[u8]) -> anyhow::Result<()> {
        for run in zeros::runs(data, BLOCK) {
            let Some(part) = data.get(run.range.clone()) else {
                continue;
            };
            let from = from + run.range.start as u64;
            if run.zero && self.zeros == Zeros::Holes {
                continue;
            }
            self.write_all(from, part)?;
        }
        Ok(())
    }

    fn clear(&mut self, from: u64, bytes: u64) -> anyhow::Result<()> {
        if self.zeros == Zeros::Punch {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&*self.file, flags, from, bytes) {
                Ok(()) => return Ok(()),
                // Whatever it is: writing works, or says what is wrong.
                Err(_) => self.zeros = Zeros::Write,
            }
        }
        if self.zeros == Zeros::Holes {
            return Ok(());
        }
        let mut at = from;
        while at < from + bytes {
            let step = (from + bytes - at).min(REQUEST_BYTES);
            let part = NOTHING.get(..usize::try_from(step).unwrap_or(REQUEST));
            self.write_all(at, part.unwrap_or_default())?;
            at += step;
        }
        Ok(())
    }

    fn write_all(&self, from: u64, data: &[u8]) -> anyhow::Result<()> {
        self.file
            .write_all_at(data, from)
            .with_context(|| format!("{}: writing at byte {from}", self.path.display()))
    }
}

impl Sink for FileSink {
    fn has_room(&self) -> bool {
        self.events.is_empty()
    }

    fn put(&mut self, chunk: Chunk) -> anyhow::Result<()> {
        let (from, to) = (chunk.from, chunk.to());
        let buffer = match chunk.content {
            Content::Data(data) => {
                self.write(from, &data)?;
                Some(data)
            }
            Content::Zeros(bytes) => {
                self.clear(from, bytes)?;
                None
            }
        };
        self.events.push_back(Event::Finished { from, to, buffer });
        Ok(())
    }

    fn begin_sync(&mut self) -> anyhow::Result<()> {
        self.syncing = true;
        self.orders.send(()).context("the syncing thread is gone")
    }

    fn poll(&mut self, patience: Duration) -> anyhow::Result<Option<Event>> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        if !self.syncing {
            return Ok(None);
        }
        match self.synced.recv_timeout(patience) {
            Ok(result) => {
                self.syncing = false;
                result.with_context(|| {
                    format!(
                        "{}: what was written cannot be brought to stable storage",
                        self.path.display()
                    )
                })?;
                Ok(Some(Event::Synced))
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
                    .context("the syncing thread is gone")
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.events.is_empty() && !self.syncing
    }
}

/// A file or device that is compared with chunks.
#[derive(Debug)]
pub(super) struct FileComparer {
    file: Arc<File>,
    path: PathBuf,
    scratch: Vec<u8>,
    events: VecDeque<Event>,
    difference: Option<u64>,
}

impl FileComparer {
    /// The file is read from its medium as far as the kernel allows: what was synced leaves the
    /// page cache.
    pub(super) fn new(file: Arc<File>, path: PathBuf) -> Self {
        let _unknown = rustix::fs::fadvise(&*file, 0, None, rustix::fs::Advice::DontNeed);
        Self {
            file,
            path,
            scratch: vec![0; REQUEST],
            events: VecDeque::new(),
            difference: None,
        }
    }

    /// The first byte that was found to differ.
    pub(super) fn difference(&self) -> Option<u64> {
        self.difference
    }

    /// Compares with data, or with zeros where there is none.
    fn compare(&mut self, from: u64, bytes: u64, data: Option<&[u8]>) -> anyhow::Result<()> {
        let mut at = from;
        while at < from + bytes {
            let step = (from + bytes - at).min(REQUEST_BYTES);
            let step = usize::try_from(step).unwrap_or(REQUEST);
            let found = self.scratch.get_mut(..step).unwrap_or_default();
            self.file
                .read_exact_at(found, at)
                .with_context(|| format!("{}: reading at byte {at}", self.path.display()))?;
            let differs = match data {
                Some(data) => differs_at(data, found),
                None => found.iter().position(|&byte| byte != 0),
            };
            if let Some(differs) = differs {
                let place = at + differs as u64;
                self.difference = Some(self.difference.map_or(place, |first| first.min(place)));
                return Ok(());
            }
            at += step as u64;
        }
        Ok(())
    }
}

/// The first place at which two pieces of the same length differ.
pub(super) fn differs_at(expected: &[u8], found: &[u8]) -> Option<usize> {
    if expected == found {
        return None;
    }
    let pairs = expected.iter().zip(found);
    let differs = pairs.into_iter().position(|(one, other)| one != other);
    Some(differs.unwrap_or_else(|| expected.len().min(found.len())))
}

impl Sink for FileComparer {
    fn has_room(&self) -> bool {
        self.events.is_empty()
    }

    fn put(&mut self, chunk: Chunk) -> anyhow::Result<()> {
        let (from, to) = (chunk.from, chunk.to());
        let buffer = match chunk.content {
            Content::Data(data) => {
                self.compare(from, to - from, Some(&data))?;
                Some(data)
            }
            Content::Zeros(bytes) => {
                let segment = look(&self.file, from)
                    .with_context(|| format!("{}: looking for data", self.path.display()))?;
                // A hole reads as zeros.
                if !segment.hole || segment.to < to {
                    self.compare(from, bytes, None)?;
                }
                None
            }
        };
        self.events.push_back(Event::Finished { from, to, buffer });
        Ok(())
    }

    fn begin_sync(&mut self) -> anyhow::Result<()> {
        self.events.push_back(Event::Synced);
        Ok(())
    }

    fn poll(&mut self, _patience: Duration) -> anyhow::Result<Option<Event>> {
        Ok(self.events.pop_front())
    }

    fn is_idle(&self) -> bool {
        self.events.is_empty()
    }

    fn has_enough(&self) -> bool {
        self.difference.is_some()
    }
}
