//! The kernel's interfaces for file I/O as one engine: each made when the first file wants it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::Context as _;
use aoede_disk::{
    AioEngine, Backing, BlockingEngine, Buffer, Completion, DeviceOp, Engine, FileId, Pool,
    UringEngine,
};
use tracing::warn;

use super::EngineChoice;

/// The engine of a file stands in the two highest bits of its id.
const KIND_SHIFT: u32 = 30;
const NUMBER_MASK: u32 = (1 << KIND_SHIFT) - 1;

/// One of the engines, as it stands in a [`FileId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Uring = 0,
    Aio = 1,
    Blocking = 2,
}

const KINDS: [Kind; 3] = [Kind::Uring, Kind::Aio, Kind::Blocking];

/// All engines that the files of a worker are attached to.
pub(super) struct Engines {
    pool: Pool,
    /// Operations that each takes at once.
    capacity: usize,
    uring: Option<UringEngine>,
    aio: Option<AioEngine>,
    blocking: Option<BlockingEngine<Buffer>>,
    /// What the next file is attached to.
    chosen: Kind,
    /// Who is polled first.
    first: usize,
    /// What automatic choice makes, once it is known.
    automatic: Option<Kind>,
}

impl Engines {
    /// None of them yet; each will take `capacity` operations at once, on buffers of `pool`.
    pub(super) fn new(capacity: usize, pool: &Pool) -> Self {
        Self {
            pool: pool.clone(),
            capacity,
            uring: None,
            aio: None,
            blocking: None,
            chosen: Kind::Blocking,
            first: 0,
            automatic: None,
        }
    }

    /// Files that are attached from now on are for this engine, which is made if there is none of
    /// its kind.
    ///
    /// # Errors
    /// The kernel has it not, and the remedy.
    pub(super) fn choose(&mut self, choice: EngineChoice) -> anyhow::Result<()> {
        self.chosen = match choice {
            EngineChoice::Auto => match self.automatic {
                Some(kind) => kind,
                None => self.find_best(),
            },
            EngineChoice::IoUring => self
                .make_uring()
                .context("io_uring is missing or forbidden here; use --engine auto or aio")?,
            EngineChoice::Aio => self.make_aio().context(
                "Linux AIO is missing or used up here (sysctl fs.aio-max-nr); \
                 use --engine auto or blocking",
            )?,
            EngineChoice::Blocking => self.make_blocking(),
        };
        Ok(())
    }

    /// Readable when there are completions: edge-triggered, as its counter is never read. Blocking
    /// calls complete at once: there is nothing to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = (Kind, BorrowedFd<'_>)> {
        let uring = self.uring.as_ref();
        let uring = uring.map(|engine| (Kind::Uring, engine.as_fd()));
        let aio = self.aio.as_ref();
        let aio = aio.map(|engine| (Kind::Aio, engine.as_fd()));
        uring.into_iter().chain(aio)
    }

    /// The name of a file's engine, as the configuration has it.
    pub(super) fn name_of(file: FileId) -> &'static str {
        match Kind::of(file).0 {
            Kind::Uring => "io_uring",
            Kind::Aio => "aio",
            Kind::Blocking => "blocking",
        }
    }

    fn find_best(&mut self) -> Kind {
        let best = self.make_best();
        self.automatic = Some(best);
        best
    }

    fn make_best(&mut self) -> Kind {
        match self.make_uring() {
            Ok(kind) => return kind,
            Err(error) => warn!("no io_uring ({error}): using Linux AIO"),
        }
        match self.make_aio() {
            Ok(kind) => return kind,
            Err(error) => warn!("no Linux AIO ({error}): using blocking calls, which are slower"),
        }
        self.make_blocking()
    }

    fn make_uring(&mut self) -> io::Result<Kind> {
        if self.uring.is_none() {
            self.uring = Some(UringEngine::new(self.capacity, &self.pool)?);
        }
        Ok(Kind::Uring)
    }

    fn make_aio(&mut self) -> io::Result<Kind> {
        if self.aio.is_none() {
            self.aio = Some(AioEngine::new(self.capacity)?);
        }
        Ok(Kind::Aio)
    }

    fn make_blocking(&mut self) -> Kind {
        let capacity = self.capacity;
        self.blocking
            .get_or_insert_with(|| BlockingEngine::new(capacity));
        Kind::Blocking
    }

    fn get_mut(&mut self, kind: Kind) -> Option<&mut dyn Engine<Buffer>> {
        match kind {
            Kind::Uring => self.uring.as_mut().map(|engine| engine as _),
            Kind::Aio => self.aio.as_mut().map(|engine| engine as _),
            Kind::Blocking => self.blocking.as_mut().map(|engine| engine as _),
        }
    }

    fn all(&self) -> impl Iterator<Item = &dyn Engine<Buffer>> {
        let uring = self.uring.iter().map(|engine| engine as &dyn Engine<_>);
        let aio = self.aio.iter().map(|engine| engine as &dyn Engine<_>);
        let blocking = self.blocking.iter().map(|engine| engine as &dyn Engine<_>);
        uring.chain(aio).chain(blocking)
    }
}

impl Kind {
    /// An id that tells the engine too.
    fn mark(self, file: FileId) -> FileId {
        FileId((self as u32) << KIND_SHIFT | file.0 & NUMBER_MASK)
    }

    /// Whose a file is, and what it is there.
    fn of(file: FileId) -> (Self, FileId) {
        let kind = match file.0 >> KIND_SHIFT {
            0 => Self::Uring,
            1 => Self::Aio,
            _ => Self::Blocking,
        };
        (kind, FileId(file.0 & NUMBER_MASK))
    }
}

impl Engine<Buffer> for Engines {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        let kind = self.chosen;
        let engine = self.get_mut(kind).ok_or(io::ErrorKind::Unsupported)?;
        Ok(kind.mark(engine.attach(backing)?))
    }

    fn detach(&mut self, file: FileId) {
        let (kind, file) = Kind::of(file);
        if let Some(engine) = self.get_mut(kind) {
            engine.detach(file);
        }
    }

    fn submit(&mut self, file: FileId, op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        let (kind, file) = Kind::of(file);
        match self.get_mut(kind) {
            Some(engine) => engine.submit(file, op),
            // No file is attached to an engine that there is not.
            None => Err(op),
        }
    }

    fn kick(&mut self) -> io::Result<()> {
        for kind in KINDS {
            if let Some(engine) = self.get_mut(kind) {
                engine.kick()?;
            }
        }
        Ok(())
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        // In turns, so that none keeps the others waiting.
        for step in 0..KINDS.len() {
            let number = (self.first + step) % KINDS.len();
            let Some(&kind) = KINDS.get(number) else {
                continue;
            };
            let polled = self.get_mut(kind).and_then(Engine::poll);
            if let Some((file, completion)) = polled {
                self.first = (number + 1) % KINDS.len();
                return Some((kind.mark(file), completion));
            }
        }
        None
    }

    fn in_flight(&self) -> usize {
        self.all().map(Engine::in_flight).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_engine_and_number() {
        for (kind, number, marked, name) in [
            (Kind::Uring, 0, 0, "io_uring"),
            (Kind::Aio, 5, 0x4000_0005, "aio"),
            (Kind::Blocking, 0x3FFF_FFFF, 0xBFFF_FFFF, "blocking"),
        ] {
            let file = kind.mark(FileId(number));
            assert_eq!(file, FileId(marked));
            assert_eq!(Kind::of(file), (kind, FileId(number)));
            assert_eq!(Engines::name_of(file), name);
        }
    }
}
