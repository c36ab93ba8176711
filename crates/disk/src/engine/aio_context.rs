//! The kernel's side of Linux AIO: its calls, its structures, and the ring of completions.
//!
//! Layouts are those of `linux/aio_abi.h`; everything is in the machine's own byte order.

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::c_long;
use rustix::mm::{MsyncFlags, msync};

use super::flight::{Action, Route, Span, Step};
use crate::device::Errno;

/// A context (`aio_context_t`) and where its completions are found. Its owner destroys it.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) id: usize,
    pub(super) events: Events,
    /// Addresses of a batch's entries, for one call.
    pointers: Vec<*mut Iocb>,
    /// What the next calls are to meet with instead of the kernel.
    #[cfg(test)]
    pub(super) faults: std::collections::VecDeque<Fault>,
}

#[derive(Debug)]
pub(super) enum Events {
    /// In shared memory.
    Ring(EventRing),
    /// Some fetched by a call, with those still to be looked at.
    Fetched(Box<[IoEvent; 32]>, Range<usize>),
}

impl Context {
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        let entries = c_long::try_from(capacity).map_err(io::Error::other)?;
        let mut id = 0_usize;
        // SAFETY: io_setup writes one `aio_context_t`, which is as wide as `usize`.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, entries, &raw mut id) };
        check(result)?;
        let context = Self {
            id,
            events: EventRing::open(id).map_or_else(Events::by_call, Events::Ring),
            pointers: Vec::with_capacity(capacity),
            #[cfg(test)]
            faults: std::collections::VecDeque::new(),
        };
        if let Err(errno) = context.submit_pointers() {
            // Contexts may be made here but not used; nothing is in it.
            let _ = context.destroy();
            return Err(errno.into());
        }
        Ok(context)
    }

    /// How many entries the kernel took, from the first on; an error is the first one's.
    ///
    /// # Safety
    /// Memory and descriptors that the entries name stay valid until the event of each is seen, or
    /// until [`Self::destroy`] succeeded.
    pub(super) unsafe fn submit(&mut self, batch: &mut [Iocb]) -> Result<usize, Errno> {
        #[cfg(test)]
        let batch = match self.faults.pop_front() {
            Some(Fault::Error(errno)) => return Err(errno),
            Some(Fault::TakeOnly(count)) => batch.get_mut(..count).unwrap(),
            None => batch,
        };
        self.pointers.clear();
        self.pointers
            .extend(batch.iter_mut().map(std::ptr::from_mut));
        self.submit_pointers()
    }

    fn submit_pointers(&self) -> Result<usize, Errno> {
        let count = c_long::try_from(self.pointers.len()).map_err(|_| Errno::INVAL)?;
        let pointers = self.pointers.as_ptr();
        // SAFETY: the kernel reads `count` pointers and, during the call, the entries behind them,
        // which `submit` borrows; what those entries name is its caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_io_submit, self.id, count, pointers) };
        check(result)
    }

    /// An event that the kernel has put down, without waiting.
    pub(super) fn next_event(&mut self) -> Option<IoEvent> {
        let (events, left) = match &mut self.events {
            Events::Ring(ring) => return ring.next(),
            Events::Fetched(events, left) => (events, left),
        };
        if Range::is_empty(left) {
            *left = 0..fetch(self.id, events);
        }
        events.get(left.next()?).copied()
    }

    /// Waits for all that is in flight and gives the context up.
    pub(super) fn destroy(&self) -> Result<(), Errno> {
        // SAFETY: io_destroy takes away no memory but the event ring, which is not looked at after:
        // our callers are at the context's end.
        let result = unsafe { libc::syscall(libc::SYS_io_destroy, self.id) };
        check(result).map(|_| ())
    }
}

/// Gets as many events as there are, without waiting; none when that fails.
fn fetch(context: usize, events: &mut [IoEvent; 32]) -> usize {
    // As long as the longest `timespec` there is.
    let no_time = [0_u64; 2];
    loop {
        // SAFETY: the kernel writes at most 32 events to an array of 32, and reads a `timespec`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                context,
                0 as c_long,
                32 as c_long,
                events.as_mut_ptr(),
                no_time.as_ptr(),
            )
        };
        match check(result) {
            Ok(count) => return count.min(events.len()),
            Err(Errno::INTR) => {}
            Err(_) => return 0,
        }
    }
}

fn check(result: c_long) -> Result<usize, Errno> {
    let errno = || io::Error::last_os_error().raw_os_error();
    usize::try_from(result).map_err(|_| errno().map_or(Errno::IO, Errno))
}

impl Events {
    pub(super) fn by_call() -> Self {
        Self::Fetched(Box::new([IoEvent::ZERO; 32]), 0..0)
    }
}

/// Completions in memory that the kernel maps at the context's address, read by us alone.
///
/// The kernel writes an event and then moves `tail` past it; it uses the place again only after we
/// moved `head` past it.
#[derive(Debug)]
pub(super) struct EventRing {
    header: NonNull<RingHeader>,
    events: NonNull<IoEvent>,
    count: u32,
    head: u32,
}

/// `struct aio_ring`, in the kernel's `fs/aio.c`; the events follow it.
#[repr(C)]
struct RingHeader {
    id: u32,
    count: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compat_features: u32,
    incompat_features: u32,
    header_bytes: u32,
}

const RING_MAGIC: u32 = 0xA10A_10A1;

impl EventRing {
    /// The context's ring, if there is one and it looks as we know it.
    fn open(context: usize) -> Option<Self> {
        let address = std::ptr::with_exposed_provenance_mut::<RingHeader>(context);
        let header = NonNull::new(address)?;
        if !is_mapped(header, size_of::<RingHeader>()) {
            return None;
        }
        // SAFETY: something is mapped there, at the start of a page, and any bits are a header.
        let known = unsafe { header.as_ref() };
        let count = known.count;
        let header_bytes = u32::try_from(size_of::<RingHeader>());
        let bytes = (count as usize)
            .checked_mul(size_of::<IoEvent>())?
            .checked_add(size_of::<RingHeader>())?;
        let good = known.magic == RING_MAGIC
            && known.incompat_features == 0
            && Ok(known.header_bytes) == header_bytes
            && known.head.load(Ordering::Relaxed) == 0
            && count > 1
            && is_mapped(header, bytes);
        if !good {
            return None;
        }
        // SAFETY: the mapping holds the header and `count` events.
        let events = unsafe { header.add(1) }.cast::<IoEvent>();
        Some(Self {
            header,
            events,
            count,
            head: 0,
        })
    }

    fn next(&mut self) -> Option<IoEvent> {
        // SAFETY: `open` found the header there, and it stays until the context is destroyed.
        let header = unsafe { self.header.as_ref() };
        let tail = header.tail.load(Ordering::Acquire);
        if tail == self.head || tail >= self.count {
            return None;
        }
        // SAFETY: `head` is below `count`, and `open` found that many events mapped.
        let place = unsafe { self.events.add(self.head as usize) };
        // SAFETY: the tail has passed this place, so it is written, and the kernel leaves it alone
        // until the head has passed it too.
        let event = unsafe { place.read() };
        let next = self.head + 1;
        self.head = if next < self.count { next } else { 0 };
        header.head.store(self.head, Ordering::Release);
        Some(event)
    }
}

/// Whether there is memory at all of these addresses.
fn is_mapped(start: NonNull<RingHeader>, bytes: usize) -> bool {
    // SAFETY: this asks for something that needs no doing; all that comes of it is the kernel's
    // look at the range, with an error where it is not mapped or starts inside a page.
    unsafe { msync(start.as_ptr().cast(), bytes, MsyncFlags::ASYNC) }.is_ok()
}

/// `struct iocb` of `linux/aio_abi.h`: one operation.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Iocb {
    data: u64,
    #[cfg(target_endian = "little")]
    key: u32,
    rw_flags: i32,
    #[cfg(target_endian = "big")]
    key: u32,
    opcode: u16,
    priority: i16,
    fd: RawFd,
    memory: u64,
    /// Bytes, or pieces of a list.
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: RawFd,
}

/// `struct io_event` of `linux/aio_abi.h`: how one operation ended.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct IoEvent {
    /// The operation's number.
    pub(super) data: u64,
    iocb: u64,
    result: i64,
    result2: i64,
}

/// `IOCB_CMD_PREAD`.
const READ: u16 = 0;
/// `IOCB_CMD_PWRITE`.
const WRITE: u16 = 1;
/// `IOCB_CMD_FDSYNC`.
const FDSYNC: u16 = 3;
/// `IOCB_CMD_PREADV`.
const READ_LIST: u16 = 7;
/// `IOCB_CMD_PWRITEV`.
const WRITE_LIST: u16 = 8;
/// `IOCB_FLAG_RESFD`.
const SIGNAL: u32 = 1;

impl Iocb {
    /// The entry for a step; `None` where the kernel has no such operation.
    pub(super) fn new(step: &Step, index: u32, wake: RawFd) -> Option<Self> {
        let (one, list, memory) = match step.action {
            Action::Read(memory) => (READ, READ_LIST, Some(memory)),
            Action::Write(memory) => (WRITE, WRITE_LIST, Some(memory)),
            Action::Sync => (FDSYNC, FDSYNC, None),
            Action::Discard { .. } => return None,
        };
        let (opcode, start, len) = match memory {
            Some(Span::One { start, len_bytes }) => (one, start.expose_provenance(), len_bytes),
            Some(Span::List { first, count }) => (list, first.expose_provenance(), count),
            None => (one, 0, 0),
        };
        // Already complete when the call returns: nobody waits for it.
        let silent = step.route == Route::Immediate && memory.is_some();
        Some(Self {
            data: index.into(),
            key: 0,
            // Of a sync the kernel wants nothing but zeros.
            rw_flags: memory.map_or(0, |_| step.flags),
            opcode,
            priority: 0,
            fd: step.fd,
            memory: start as u64,
            len: len.into(),
            offset: memory.map_or(Some(0), |_| i64::try_from(step.offset).ok())?,
            reserved: 0,
            flags: if silent { 0 } else { SIGNAL },
            event_fd: if silent { 0 } else { wake },
        })
    }

    pub(super) fn index(&self) -> u32 {
        // It came from one.
        u32::try_from(self.data).unwrap_or(u32::MAX)
    }
}

impl IoEvent {
    const ZERO: Self = Self {
        data: 0,
        iocb: 0,
        result: 0,
        result2: 0,
    };

    pub(super) fn result(&self) -> Result<u32, Errno> {
        u32::try_from(self.result).map_err(|_| {
            let errno = self.result.checked_neg().map(i32::try_from);
            errno.and_then(Result::ok).map_or(Errno::IO, Errno)
        })
    }
}

/// What a call to `io_submit` meets with, in a test.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Error(Errno),
    TakeOnly(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offsets are those of the C structures.
    #[test]
    fn entries_look_as_the_kernel_wants() {
        assert_eq!((size_of::<Iocb>(), size_of::<IoEvent>()), (64, 32));
        let (key, rw_flags) = if cfg!(target_endian = "little") {
            (8, 12)
        } else {
            (12, 8)
        };
        assert_eq!(std::mem::offset_of!(Iocb, key), key);
        assert_eq!(std::mem::offset_of!(Iocb, rw_flags), rw_flags);
        assert_eq!(std::mem::offset_of!(Iocb, opcode), 16);
        assert_eq!(std::mem::offset_of!(Iocb, fd), 20);
        assert_eq!(std::mem::offset_of!(Iocb, memory), 24);
        assert_eq!(std::mem::offset_of!(Iocb, offset), 40);
        assert_eq!(std::mem::offset_of!(Iocb, flags), 56);
        assert_eq!(std::mem::offset_of!(Iocb, event_fd), 60);
        assert_eq!(std::mem::offset_of!(IoEvent, result), 16);
        assert_eq!(size_of::<RingHeader>(), 32);
    }
}
