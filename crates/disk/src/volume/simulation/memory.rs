//! Buffers that say whose they are, and are counted.

use std::cell::Cell;
use std::rc::Rc;

/// A buffer of the simulation.
#[derive(Debug)]
pub(super) struct TestBuffer {
    pub(super) bytes: Vec<u8>,
    pub(super) owner: Owner,
    alive: Rc<Cell<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The volume's cache.
    Page,
    /// The request with this number.
    Request(u32),
}

/// How many buffers of one kind there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Alive(Rc<Cell<usize>>);

impl Alive {
    pub(super) fn count(&self) -> usize {
        self.0.get()
    }

    pub(super) fn buffer(&self, owner: Owner, bytes: Vec<u8>) -> TestBuffer {
        self.0.set(self.0.get() + 1);
        TestBuffer {
            bytes,
            owner,
            alive: Rc::clone(&self.0),
        }
    }
}

impl Drop for TestBuffer {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

impl AsRef<[u8]> for TestBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for TestBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
