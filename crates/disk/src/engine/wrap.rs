//! Faults on purpose: [`Faults`] wraps any engine and is one.
//!
//! For tests of what stands above an engine. It is told what is to go wrong, by a script or by a
//! seed; what it is not told about reaches the engine as it came.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::open::Backing;
use super::{Engine, FileId};
use crate::device::{Completion, DeviceOp, Errno, OpKind};

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is carried out.
    None,
    /// Of a read or write this many bytes are carried out, if it has more. With direct I/O it
    /// should be whole blocks. Other operations are carried out.
    Short(u32),
    /// It fails so, and nothing is carried out.
    Fail(Errno),
}

/// An engine on which things go wrong.
#[derive(Debug)]
pub struct Faults<B, E> {
    engine: E,
    capacity: usize,
    plan: Plan,
    injected: u64,
    /// Completions that the engine knows nothing of.
    ready: VecDeque<(FileId, Completion<B>)>,
}

#[derive(Debug)]
enum Plan {
    Script(VecDeque<Fault>),
    Draw {
        state: u64,
        one_in: u64,
        faults: Vec<Fault>,
    },
}

impl<B, E: Engine<B>> Faults<B, E> {
    /// Each operation meets with the next of these, in the order of submission; none when they are
    /// used up. `capacity` is the engine's own.
    pub fn by_script(engine: E, capacity: usize, script: impl IntoIterator<Item = Fault>) -> Self {
        Self::new(engine, capacity, Plan::Script(script.into_iter().collect()))
    }

    /// About one operation in `one_in` meets with one of these. The same seed draws the same.
    /// `capacity` is the engine's own.
    pub fn by_seed(engine: E, capacity: usize, seed: u64, one_in: u32, faults: &[Fault]) -> Self {
        let plan = Plan::Draw {
            state: seed,
            one_in: u64::from(one_in.max(1)),
            faults: faults.to_vec(),
        };
        Self::new(engine, capacity, plan)
    }

    fn new(engine: E, capacity: usize, plan: Plan) -> Self {
        Self {
            engine,
            capacity,
            plan,
            injected: 0,
            ready: VecDeque::with_capacity(capacity),
        }
    }

    /// Operations that went wrong on purpose.
    pub fn injected(&self) -> u64 {
        self.injected
    }
}

impl Plan {
    fn next(&mut self) -> Fault {
        match self {
            Self::Script(faults) => faults.pop_front().unwrap_or(Fault::None),
            Self::Draw {
                state,
                one_in,
                faults,
            } => {
                let mut draw = |limit: u64| {
                    // An LCG with Knuth's numbers; its high bits are the good ones.
                    *state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    (*state >> 33) % limit.max(1)
                };
                if draw(*one_in) != 0 {
                    return Fault::None;
                }
                let which = draw(faults.len() as u64);
                let fault = usize::try_from(which).ok().and_then(|at| faults.get(at));
                fault.copied().unwrap_or(Fault::None)
            }
        }
    }
}

impl<B, E: Engine<B>> Engine<B> for Faults<B, E> {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        self.engine.attach(backing)
    }

    fn detach(&mut self, file: FileId) {
        self.engine.detach(file);
    }

    fn submit(&mut self, file: FileId, mut op: DeviceOp<B>) -> Result<(), DeviceOp<B>> {
        if self.in_flight() >= self.capacity {
            return Err(op);
        }
        let transfer = matches!(op.kind, OpKind::Read | OpKind::Write { .. });
        let result = match self.plan.next() {
            Fault::Short(bytes) if transfer && op.len_bytes > u64::from(bytes) => {
                self.injected += 1;
                op.len_bytes = bytes.into();
                if bytes > 0 {
                    return self.engine.submit(file, op);
                }
                Ok(0)
            }
            Fault::Fail(errno) => {
                self.injected += 1;
                Err(errno)
            }
            Fault::None | Fault::Short(_) => return self.engine.submit(file, op),
        };
        let completion = Completion {
            id: op.id,
            memory: op.memory,
            result,
        };
        self.ready.push_back((file, completion));
        Ok(())
    }

    fn kick(&mut self) -> io::Result<()> {
        self.engine.kick()
    }

    fn poll(&mut self) -> Option<(FileId, Completion<B>)> {
        self.ready.pop_front().or_else(|| self.engine.poll())
    }

    fn in_flight(&self) -> usize {
        self.ready.len() + self.engine.in_flight()
    }
}

impl<B, E: AsFd> AsFd for Faults<B, E> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.engine.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Memory, OpId};
    use crate::engine::blocking::BlockingEngine;
    use crate::engine::flight::tests::Bench;

    const DURABLE: OpKind = OpKind::Write { durable: true };

    #[test]
    fn a_script_is_followed_and_then_all_is_well() {
        let bench = Bench::new(7);
        let script = [
            Fault::None,
            Fault::Fail(Errno::NOSPC),
            Fault::Short(512),
            Fault::Short(0),
            Fault::Short(4096),
            Fault::Fail(Errno::IO),
        ];
        let mut engine = Faults::by_script(BlockingEngine::new(8), 8, script);
        let file = engine.attach(&bench.backing).unwrap();
        let kinds = [
            DURABLE,
            DURABLE,
            OpKind::Read,
            OpKind::Read,
            DURABLE,
            OpKind::Sync,
            OpKind::Sync,
            OpKind::Read,
        ];
        for (id, kind) in (0..).zip(kinds) {
            engine.submit(file, bench.op(id, kind)).unwrap();
        }
        let refused = engine.submit(file, bench.op(8, OpKind::Sync));
        assert_eq!(refused.map_err(|op| op.id), Err(OpId(8)));
        engine.kick().unwrap();
        let mut results = [None; 8];
        while let Some((from, done)) = engine.poll() {
            assert_eq!(from, file);
            let place = &mut results[done.id.0 as usize];
            assert_eq!(place.replace(done.result), None);
        }
        let expected = [
            Ok(4096),
            Err(Errno::NOSPC),
            Ok(512),
            Ok(0),
            Ok(4096),
            Err(Errno::IO),
            Ok(0),
            Ok(4096),
        ];
        assert_eq!(results, expected.map(Some));
        assert_eq!((engine.in_flight(), engine.injected()), (0, 4));
        assert_eq!(bench.pool.free(), 7);
    }

    #[test]
    fn what_fails_is_not_carried_out() {
        let bench = Bench::new(1);
        let script = [Fault::Fail(Errno::IO), Fault::None, Fault::Short(512)];
        let mut engine = Faults::by_script(BlockingEngine::new(1), 1, script);
        let file = engine.attach(&bench.backing).unwrap();
        for written in [0, 512] {
            let mut op = bench.op(0, DURABLE);
            if let Memory::One(buffer) = &mut op.memory {
                buffer.data_mut().fill(7);
            }
            engine.submit(file, op).unwrap();
            engine.kick().unwrap();
            engine.poll().unwrap();
            engine.submit(file, bench.op(0, OpKind::Read)).unwrap();
            engine.kick().unwrap();
            let (_, done) = engine.poll().unwrap();
            let buffer = done.memory.into_one().unwrap();
            let sevens = buffer.data().iter().filter(|&&byte| byte == 7);
            assert_eq!(sevens.count(), written);
        }
    }

    #[test]
    fn a_seed_draws_the_same_again_and_another_something_else() {
        let draw = |seed| {
            let faults = [Fault::Fail(Errno::INTR), Fault::Short(512)];
            let engine: BlockingEngine<Vec<u8>> = BlockingEngine::new(1);
            let mut engine = Faults::by_seed(engine, 1, seed, 4, &faults);
            (0..4000)
                .map(|_| engine.plan.next())
                .collect::<Vec<Fault>>()
        };
        let drawn = draw(1);
        assert_eq!(drawn, draw(1));
        assert_ne!(drawn, draw(2));
        let count = |wanted| drawn.iter().filter(|&&fault| fault == wanted).count();
        for (fault, about) in [
            (Fault::None, 3000),
            (Fault::Fail(Errno::INTR), 500),
            (Fault::Short(512), 500),
        ] {
            let found = count(fault);
            assert!(found.abs_diff(about) < 200, "{fault:?}: {found}");
        }
    }
}
