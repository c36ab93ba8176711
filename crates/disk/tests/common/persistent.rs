//! Operations that are resubmitted until they are done, as a volume does it.

use std::io;

use aoede_disk::{Backing, Buffer, Completion, DeviceOp, Engine, Errno, FileId, OpId, OpKind};

use super::AnyEngine;

/// A box of an engine, as an engine.
pub(crate) struct Any(pub(crate) AnyEngine);

impl Engine<Buffer> for Any {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        self.0.attach(backing)
    }

    fn detach(&mut self, file: FileId) {
        self.0.detach(file);
    }

    fn submit(&mut self, file: FileId, op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        self.0.submit(file, op)
    }

    fn kick(&mut self) -> io::Result<()> {
        self.0.kick()
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        self.0.poll()
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }
}

/// Goes on where a short transfer ended, and tries again what was interrupted.
pub(crate) struct Persistent<E> {
    engine: E,
    /// By the id that the engine knows.
    orders: Vec<Option<Order>>,
}

struct Order {
    id: OpId,
    kind: OpKind,
    offset_bytes: u64,
    len_bytes: u64,
    memory_start: usize,
    done_bytes: u32,
}

impl<E> Persistent<E> {
    pub(crate) fn new(engine: E) -> Self {
        Self {
            engine,
            orders: Vec::new(),
        }
    }
}

impl<E: Engine<Buffer>> Engine<Buffer> for Persistent<E> {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        self.engine.attach(backing)
    }

    fn detach(&mut self, file: FileId) {
        self.engine.detach(file);
    }

    fn submit(&mut self, file: FileId, mut op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        let free = self.orders.iter().position(Option::is_none);
        let index = free.unwrap_or(self.orders.len());
        let order = Order {
            id: op.id,
            kind: op.kind,
            offset_bytes: op.offset_bytes,
            len_bytes: op.len_bytes,
            memory_start: op.memory_start,
            done_bytes: 0,
        };
        op.id = OpId(u32::try_from(index).unwrap());
        if let Err(mut op) = self.engine.submit(file, op) {
            op.id = order.id;
            return Err(op);
        }
        self.orders
            .resize_with(self.orders.len().max(index + 1), || None);
        self.orders[index] = Some(order);
        Ok(())
    }

    fn kick(&mut self) -> io::Result<()> {
        self.engine.kick()
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        loop {
            let (file, mut done) = self.engine.poll()?;
            let place = &mut self.orders[done.id.0 as usize];
            let order = place.as_mut().expect("nobody asked for that");
            let goes_on = match done.result {
                Ok(bytes) => {
                    order.done_bytes += bytes;
                    bytes > 0 && u64::from(order.done_bytes) < order.len_bytes
                }
                Err(errno) => errno == Errno::INTR || errno == Errno::AGAIN,
            };
            if !goes_on {
                done.id = order.id;
                done.result = done.result.map(|_| order.done_bytes);
                *place = None;
                return Some((file, done));
            }
            let op = DeviceOp {
                id: done.id,
                kind: order.kind,
                offset_bytes: order.offset_bytes + u64::from(order.done_bytes),
                len_bytes: order.len_bytes - u64::from(order.done_bytes),
                memory: done.memory,
                memory_start: order.memory_start + order.done_bytes as usize,
            };
            assert!(self.engine.submit(file, op).is_ok(), "its place is free");
            self.engine.kick().unwrap();
        }
    }

    fn in_flight(&self) -> usize {
        self.engine.in_flight()
    }
}
