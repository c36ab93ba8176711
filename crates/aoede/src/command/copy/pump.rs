//! From a source to a sink: the loop of a copy, and what both ends look like to it.
//!
//! Nothing here knows files, networks or clocks, so a test can be either end.

use std::time::Duration;

use anyhow::bail;

use super::ledger::Ledger;

/// How long to wait for something before signals are looked at again.
const PATIENCE: Duration = Duration::from_millis(100);

/// A part of what is copied, in whole sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Bytes of the copy before it.
    pub(super) from: u64,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Data(Vec<u8>),
    /// So many zeros.
    Zeros(u64),
}

impl Chunk {
    /// Where it ends.
    pub(super) fn to(&self) -> u64 {
        self.from
            + match &self.content {
                Content::Data(data) => data.len() as u64,
                Content::Zeros(bytes) => *bytes,
            }
    }
}

/// Where chunks come from: each part once, in any order.
pub(super) trait Source {
    /// The next chunk, waited for as long as `patience`.
    ///
    /// # Errors
    /// Something cannot be read. Chunks that are under way can still be had.
    fn next(&mut self, patience: Duration) -> anyhow::Result<Next>;

    /// A buffer that is not needed any more.
    fn give_back(&mut self, buffer: Vec<u8>);

    /// Begin no further chunk. What is under way still comes.
    fn stop(&mut self);
}

/// What a source says.
#[derive(Debug)]
pub(super) enum Next {
    Chunk(Chunk),
    /// None has come in time.
    Later,
    /// All buffers are with the sink.
    Starved,
    /// There is no more.
    End,
}

/// Where chunks go: to be written, or to be compared.
pub(super) trait Sink {
    /// Whether it takes a chunk now.
    fn has_room(&self) -> bool;

    /// Takes a chunk; an event tells when it is finished.
    ///
    /// # Errors
    /// It cannot be written.
    fn put(&mut self, chunk: Chunk) -> anyhow::Result<()>;

    /// Begins to bring to stable storage what is finished; an event tells the end.
    ///
    /// # Errors
    /// It cannot.
    fn begin_sync(&mut self) -> anyhow::Result<()>;

    /// What has happened, waited for as long as `patience`.
    ///
    /// # Errors
    /// A chunk could not be written, or a sync has failed.
    fn poll(&mut self, patience: Duration) -> anyhow::Result<Option<Event>>;

    /// Whether nothing is under way.
    fn is_idle(&self) -> bool;

    /// Whether further chunks are of no use.
    fn has_enough(&self) -> bool {
        false
    }
}

/// What happened in a sink.
#[derive(Debug)]
pub(super) enum Event {
    /// A chunk is finished.
    Finished {
        from: u64,
        to: u64,
        /// Its buffer, if it had one.
        buffer: Option<Vec<u8>>,
    },
    /// The sync has succeeded.
    Synced,
}

/// Who watches a copy.
pub(super) trait Overseer {
    /// Is told how far it has come, and says how to go on.
    fn look(&mut self, written_to: u64) -> Wish;

    /// So many bytes have arrived, all of them zeros or not.
    fn arrived(&mut self, bytes: u64, zeros: bool);

    /// Whether it is time for a sync.
    fn wants_sync(&mut self) -> bool;

    /// So much is on stable storage.
    fn stable(&mut self, stable_to: u64);
}

/// How to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    GoOn,
    /// Finish what has begun.
    Stop,
    /// At once.
    Leave,
}

/// How it ended. All that was begun is finished.
#[derive(Debug)]
pub(super) enum End {
    All,
    /// As the overseer or the sink wished.
    Stopped,
    /// The source failed.
    Failed(anyhow::Error),
}

/// Moves everything from the source to the sink.
///
/// # Errors
/// Those of the sink, or that the overseer wished to leave.
pub(super) fn run(
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    ledger: &mut Ledger,
    overseer: &mut dyn Overseer,
) -> anyhow::Result<End> {
    let mut end = End::All;
    let mut ended = false;
    loop {
        while let Some(event) = sink.poll(Duration::ZERO)? {
            handle(event, source, ledger, overseer);
        }
        let wish = overseer.look(ledger.written_to());
        if wish == Wish::Leave {
            bail!("interrupted");
        }
        if matches!(end, End::All) && (wish == Wish::Stop || sink.has_enough()) {
            end = End::Stopped;
            source.stop();
        }
        if !ledger.is_syncing() && overseer.wants_sync() {
            ledger.begin_sync();
            sink.begin_sync()?;
        }
        if !ended && sink.has_room() {
            match source.next(PATIENCE) {
                Ok(Next::Chunk(chunk)) => {
                    sink.put(chunk)?;
                    continue;
                }
                Ok(Next::Later) => continue,
                Ok(Next::Starved) => {}
                Ok(Next::End) => ended = true,
                Err(error) => {
                    if !matches!(end, End::Failed(_)) {
                        end = End::Failed(error);
                        source.stop();
                    }
                    continue;
                }
            }
        }
        if ended && sink.is_idle() {
            return Ok(end);
        }
        if let Some(event) = sink.poll(PATIENCE)? {
            handle(event, source, ledger, overseer);
        }
    }
}

/// Brings everything finished to stable storage.
///
/// # Errors
/// Those of the sink, or that the overseer wished to leave.
pub(super) fn settle(
    source: &mut dyn Source,
    sink: &mut dyn Sink,
    ledger: &mut Ledger,
    overseer: &mut dyn Overseer,
) -> anyhow::Result<()> {
    ledger.begin_sync();
    sink.begin_sync()?;
    while ledger.is_syncing() {
        if overseer.look(ledger.written_to()) == Wish::Leave {
            bail!("interrupted");
        }
        if let Some(event) = sink.poll(PATIENCE)? {
            handle(event, source, ledger, overseer);
        }
    }
    Ok(())
}

fn handle(event: Event, source: &mut dyn Source, ledger: &mut Ledger, overseer: &mut dyn Overseer) {
    match event {
        Event::Finished { from, to, buffer } => {
            ledger.finish(from, to);
            overseer.arrived(to - from, buffer.is_none());
            if let Some(buffer) = buffer {
                source.give_back(buffer);
            }
        }
        Event::Synced => {
            ledger.end_sync();
            overseer.stable(ledger.stable_to());
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// A generator for the order of things (`SplitMix64`).
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed ^= mixed >> 27;
            usize::try_from(mixed >> 33).unwrap() % limit
        }
    }

    const UNIT: u64 = 512;

    /// Chunk `i` holds the byte `i + 1`; every third is zeros. They come in any order.
    struct Memory {
        random: Random,
        chunks: Vec<u64>,
        begun: Vec<u64>,
        buffers: usize,
        fails_at: Option<u64>,
    }

    impl Source for Memory {
        fn next(&mut self, _: Duration) -> anyhow::Result<Next> {
            while self.begun.len() < 4 && !self.chunks.is_empty() {
                self.begun.push(self.chunks.remove(0));
            }
            if self.begun.is_empty() {
                return Ok(Next::End);
            }
            if self.buffers == 0 {
                return Ok(Next::Starved);
            }
            if self.random.below(4) == 0 {
                return Ok(Next::Later);
            }
            let chunk = self.begun.swap_remove(self.random.below(self.begun.len()));
            if Some(chunk) == self.fails_at {
                return Err(anyhow!("cannot read chunk {chunk}"));
            }
            let from = chunk * UNIT;
            if chunk.is_multiple_of(3) {
                let content = Content::Zeros(UNIT);
                return Ok(Next::Chunk(Chunk { from, content }));
            }
            self.buffers -= 1;
            let content = Content::Data(vec![chunk as u8 + 1; 512]);
            Ok(Next::Chunk(Chunk { from, content }))
        }

        fn give_back(&mut self, _: Vec<u8>) {
            self.buffers += 1;
        }

        fn stop(&mut self) {
            self.chunks.clear();
        }
    }

    /// Finishes chunks in any order, and loses what no sync has covered.
    struct Volatile {
        random: Random,
        under_way: Vec<Chunk>,
        cached: Vec<u8>,
        medium: Vec<u8>,
        syncing: Option<Vec<u8>>,
        events: VecDeque<Event>,
    }

    impl Sink for Volatile {
        fn has_room(&self) -> bool {
            self.under_way.len() < 5
        }

        fn put(&mut self, chunk: Chunk) -> anyhow::Result<()> {
            assert!(self.has_room());
            self.under_way.push(chunk);
            Ok(())
        }

        fn begin_sync(&mut self) -> anyhow::Result<()> {
            assert!(self.syncing.is_none());
            self.syncing = Some(self.cached.clone());
            Ok(())
        }

        fn poll(&mut self, patience: Duration) -> anyhow::Result<Option<Event>> {
            let idle = patience.is_zero() && self.random.below(3) == 0;
            if idle || self.is_idle() {
                return Ok(None);
            }
            if self.syncing.is_some() && (self.under_way.is_empty() || self.random.below(4) == 0) {
                self.medium = self.syncing.take().unwrap();
                return Ok(Some(Event::Synced));
            }
            if self.under_way.is_empty() {
                return Ok(None);
            }
            let which = self.random.below(self.under_way.len());
            let chunk = self.under_way.swap_remove(which);
            let (from, to) = (chunk.from, chunk.to());
            let place = &mut self.cached[from as usize..to as usize];
            let buffer = match chunk.content {
                Content::Data(data) => {
                    place.copy_from_slice(&data);
                    Some(data)
                }
                Content::Zeros(_) => {
                    place.fill(0);
                    None
                }
            };
            self.events.push_back(Event::Finished { from, to, buffer });
            Ok(self.events.pop_front())
        }

        fn is_idle(&self) -> bool {
            self.under_way.is_empty() && self.syncing.is_none()
        }
    }

    /// Stops, or leaves, after so many looks.
    struct Watcher {
        random: Random,
        looks: u32,
        stop_at: u32,
        leave_at: u32,
        recorded: u64,
    }

    impl Overseer for Watcher {
        fn look(&mut self, _: u64) -> Wish {
            self.looks += 1;
            if self.looks >= self.leave_at {
                Wish::Leave
            } else if self.looks >= self.stop_at {
                Wish::Stop
            } else {
                Wish::GoOn
            }
        }

        fn arrived(&mut self, _: u64, _: bool) {}

        fn wants_sync(&mut self) -> bool {
            self.random.below(3) == 0
        }

        fn stable(&mut self, stable_to: u64) {
            assert!(stable_to >= self.recorded);
            self.recorded = stable_to;
        }
    }

    fn expected(chunks: u64) -> Vec<u8> {
        let bytes = (0..chunks).flat_map(|chunk| {
            let byte = if chunk % 3 == 0 { 0 } else { chunk as u8 + 1 };
            [byte; UNIT as usize]
        });
        bytes.collect()
    }

    fn ends(seed: u64, from: u64, chunks: u64) -> (Memory, Volatile) {
        let memory = Memory {
            random: Random(seed),
            chunks: (from / UNIT..chunks).collect(),
            begun: Vec::new(),
            buffers: 3,
            fails_at: None,
        };
        // What is on the medium before is anything but zeros.
        let old = vec![0xA5; (chunks * UNIT) as usize];
        let volatile = Volatile {
            random: Random(seed ^ 1),
            under_way: Vec::new(),
            cached: old.clone(),
            medium: old,
            syncing: None,
            events: VecDeque::new(),
        };
        (memory, volatile)
    }

    fn watcher(seed: u64, stop_at: u32, leave_at: u32) -> Watcher {
        Watcher {
            random: Random(seed ^ 2),
            looks: 0,
            stop_at,
            leave_at,
            recorded: 0,
        }
    }

    proptest! {
        /// Whatever the order of completions and whenever the power goes: what was recorded is on
        /// the medium, and from there another run completes the copy.
        #[test]
        fn an_interrupted_copy_goes_on_where_the_medium_is_right(
            seed in any::<u64>(),
            chunks in 1_u64..40,
            leave_at in 1_u32..120,
        ) {
            let right = expected(chunks);
            let (mut source, mut sink) = ends(seed, 0, chunks);
            let mut ledger = Ledger::new(0);
            let mut overseer = watcher(seed, u32::MAX, leave_at);
            let cut = run(&mut source, &mut sink, &mut ledger, &mut overseer);
            let recorded = overseer.recorded;
            let medium = sink.medium.clone();
            prop_assert_eq!(&medium[..recorded as usize], &right[..recorded as usize]);
            prop_assert!(cut.is_err() || ledger.written_to() == chunks * UNIT);

            let (mut source, mut sink) = ends(seed ^ 7, recorded, chunks);
            (sink.cached, sink.medium) = (medium.clone(), medium);
            let mut ledger = Ledger::new(recorded);
            let mut overseer = watcher(seed, u32::MAX, u32::MAX);
            let end = run(&mut source, &mut sink, &mut ledger, &mut overseer).unwrap();
            prop_assert!(matches!(end, End::All));
            settle(&mut source, &mut sink, &mut ledger, &mut overseer).unwrap();
            prop_assert_eq!(overseer.recorded, chunks * UNIT);
            prop_assert_eq!(sink.medium, right);
            prop_assert_eq!(source.buffers, 3, "every buffer has come home");
        }

        /// Asked to stop, or after a failure, it finishes what has begun, and that is stable then.
        #[test]
        fn a_stop_finishes_what_has_begun(
            seed in any::<u64>(),
            stop_at in 1_u32..60,
            fails_at in proptest::option::of(0_u64..40),
        ) {
            let (mut source, mut sink) = ends(seed, 0, 40);
            source.fails_at = fails_at;
            let mut ledger = Ledger::new(0);
            let mut overseer = watcher(seed, stop_at, u32::MAX);
            let end = run(&mut source, &mut sink, &mut ledger, &mut overseer).unwrap();
            prop_assert!(sink.is_idle() && source.begun.is_empty());
            settle(&mut source, &mut sink, &mut ledger, &mut overseer).unwrap();
            let recorded = overseer.recorded;
            prop_assert_eq!(recorded, ledger.written_to());
            prop_assert_eq!(&sink.medium[..recorded as usize], &expected(40)[..recorded as usize]);
            match end {
                End::All => prop_assert_eq!(recorded, 40 * UNIT),
                End::Failed(error) => {
                    let chunk = fails_at.unwrap();
                    prop_assert_eq!(error.to_string(), format!("cannot read chunk {chunk}"));
                    prop_assert!(recorded <= chunk * UNIT);
                }
                End::Stopped => {}
            }
        }
    }
}
