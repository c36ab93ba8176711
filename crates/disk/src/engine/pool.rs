//! Buffers for a worker's whole life: one memory region, cut into slots at start.
//!
//! One region is one registered buffer for io_uring, and slots are aligned for direct I/O. Taking
//! and returning a buffer is a push and a pop; nothing is allocated after [`Pool::new`].

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::AtomicU8;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::mapping::Lent;
use crate::volume::PAGE_BYTES;

/// How many buffers a pool has and what each looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Number of buffers.
    pub count: usize,
    /// Room in front of the data, for a frame header that is sent with it as one slice.
    pub headroom_bytes: usize,
    /// Size of each data area.
    pub data_bytes: usize,
    /// Every data area starts at a multiple of this; a power of two, at most a page.
    pub alignment: usize,
}

/// A fixed set of aligned buffers. A clone is another handle on the same set.
#[derive(Clone)]
pub struct Pool {
    shared: Rc<Shared>,
}

struct Shared {
    /// Start of the mapping.
    base: NonNull<u8>,
    region_bytes: usize,
    /// Of the region, from its start: what the kernel may keep at hand.
    pinned_bytes: usize,
    shape: PoolShape,
    /// From a slot's start to its data: the headroom, rounded up.
    data_offset: usize,
    slot_bytes: usize,
    free: RefCell<Vec<u32>>,
}

impl Pool {
    /// Maps the region and touches every page of it, so that no later access waits for memory.
    ///
    /// # Errors
    /// A shape that makes no sense (`InvalidInput`), or no memory.
    pub fn new(shape: PoolShape) -> io::Result<Self> {
        Self::map(shape, MapFlags::POPULATE, shape.count)
    }

    /// The same, but memory comes with the first use of each buffer, and the kernel is given only
    /// the first `pinned` of them to keep at hand. Buffers that were used are used again before
    /// others.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_reserve(shape: PoolShape, pinned: usize) -> io::Result<Self> {
        Self::map(shape, MapFlags::empty(), pinned)
    }

    /// Buffers for the cache of a [`Volume`](crate::Volume): `bytes` in pages of
    /// [`PAGE_BYTES`]. Memory that has never been used costs none: it
    /// comes with the first use of each page.
    ///
    /// # Errors
    /// No room in the address space.
    pub fn cache(bytes: u64) -> io::Result<Vec<Buffer>> {
        Ok(Self::cache_pages(bytes)?.collect())
    }

    /// The same, each made when it is asked for: so a large cache that nobody uses costs nothing.
    ///
    /// # Errors
    /// As for [`Self::cache`].
    pub fn cache_pages(bytes: u64) -> io::Result<CachePages> {
        let count = usize::try_from(bytes).map_err(io::Error::other)? / PAGE_BYTES;
        if count == 0 {
            return Ok(CachePages(None));
        }
        let shape = PoolShape {
            count,
            headroom_bytes: 0,
            data_bytes: PAGE_BYTES,
            alignment: PAGE_BYTES,
        };
        let pool = Self::map(shape, MapFlags::empty(), 0)?;
        Ok(CachePages(Some(pool)))
    }

    fn map(shape: PoolShape, flags: MapFlags, pinned: usize) -> io::Result<Self> {
        let (data_offset, slot_bytes, region_bytes) = layout(shape).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("impossible buffer pool: {shape:?}"),
            )
        })?;
        let count = u32::try_from(shape.count).map_err(io::Error::other)?;
        // SAFETY: without a wanted address the kernel picks a range that nobody uses.
        let region = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                region_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | flags,
            )
        }?;
        let base = NonNull::new(region.cast())
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self {
            shared: Rc::new(Shared {
                base,
                region_bytes,
                pinned_bytes: pinned.min(shape.count) * slot_bytes,
                shape,
                data_offset,
                slot_bytes,
                free: RefCell::new((0..count).rev().collect()),
            }),
        })
    }

    /// A free buffer, or `None` until one comes home. Its contents are whatever was left in it.
    pub fn take(&self) -> Option<Buffer> {
        let slot = self.shared.free.borrow_mut().pop()?;
        let start = slot as usize * self.shared.slot_bytes + self.shared.data_offset;
        // SAFETY: `layout` made the region hold `count` slots and `slot` is below `count`, so the
        // data area starts inside the mapping.
        let data = unsafe { self.shared.base.add(start) };
        Some(Buffer {
            data,
            slot,
            lent: None,
            shared: Rc::clone(&self.shared),
        })
    }

    /// Buffers that [`Self::take`] would give now.
    pub fn free(&self) -> usize {
        self.shared.free.borrow().len()
    }

    /// What was asked for at start.
    pub fn shape(&self) -> PoolShape {
        self.shared.shape
    }

    /// Address and length of what is to be registered with the kernel.
    #[cfg_attr(
        not(uring),
        expect(dead_code, reason = "only io_uring registers memory")
    )]
    pub(super) fn region(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.shared.base, self.shared.pinned_bytes)
    }
}

/// Pages for a cache, made by [`Pool::cache_pages`].
#[derive(Debug)]
pub struct CachePages(Option<Pool>);

impl Iterator for CachePages {
    type Item = Buffer;

    fn next(&mut self) -> Option<Buffer> {
        self.0.as_ref()?.take()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.0.as_ref().map_or(0, Pool::free);
        (left, Some(left))
    }
}

impl ExactSizeIterator for CachePages {}

/// Data offset, slot size and region size; `None` when the shape is impossible.
fn layout(shape: PoolShape) -> Option<(usize, usize, usize)> {
    let PoolShape {
        count,
        headroom_bytes,
        data_bytes,
        alignment,
    } = shape;
    // Mappings start at a page, and no kernel we run on has pages below 4096 bytes.
    if !alignment.is_power_of_two() || alignment > 4096 || count == 0 || data_bytes == 0 {
        return None;
    }
    let data_offset = headroom_bytes.checked_next_multiple_of(alignment)?;
    let slot = data_offset
        .checked_add(data_bytes)?
        .checked_next_multiple_of(alignment)?;
    let region = slot.checked_mul(count)?;
    (isize::try_from(region).is_ok()).then_some((data_offset, slot, region))
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and every `Buffer` holds an `Rc` of this value, so none is
        // left that points into it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.region_bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("shape", &self.shared.shape)
            .field("free", &self.free())
            .finish()
    }
}

/// One buffer of a [`Pool`], back in it when dropped.
pub struct Buffer {
    /// Start of the data area; `headroom_bytes` in front of it belong to this buffer too.
    data: NonNull<u8>,
    slot: u32,
    /// What a read was answered with in the place of data.
    lent: Option<Lent>,
    shared: Rc<Shared>,
}

impl Buffer {
    /// The whole data area.
    pub fn data(&self) -> &[u8] {
        self.with_head(0)
    }

    /// The whole data area, which is not in use while data is lent: see [`Self::settle`].
    pub fn data_mut(&mut self) -> &mut [u8] {
        debug_assert!(
            self.lent.is_none(),
            "what is written here would not be sent"
        );
        self.with_head_mut(0)
    }

    /// The last `head_bytes` of the headroom, directly followed by the data area: a response's
    /// header and payload as one slice, while the payload stays aligned.
    ///
    /// # Panics
    /// When the pool has less headroom than that.
    pub fn with_head(&self, head_bytes: usize) -> &[u8] {
        let (start, len) = self.span(head_bytes);
        // SAFETY: `span` checked that the range lies in this buffer's slot, which is mapped and
        // initialised; only this value gives access to the slot, and it is borrowed.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// As [`Self::with_head`], to write to.
    ///
    /// # Panics
    /// When the pool has less headroom than that.
    pub fn with_head_mut(&mut self, head_bytes: usize) -> &mut [u8] {
        let (start, len) = self.span(head_bytes);
        // SAFETY: `span` checked that the range lies in this buffer's slot, which is mapped and
        // initialised; only this value gives access to the slot, and it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// The data of a read that the engine has left where it is, in a mapped file: then the data
    /// area holds nothing. It may change at any time and is for the kernel's eyes only.
    pub fn lent(&self) -> Option<&[AtomicU8]> {
        self.lent.as_ref().map(Lent::bytes)
    }

    /// Brings lent data into the data area, as it is now: when it cannot be sent from where it is,
    /// or not before something may change it.
    ///
    /// # Errors
    /// The file has become shorter. The data is gone.
    pub fn settle(&mut self) -> io::Result<()> {
        match self.lent.take() {
            Some(lent) => lent.copy_to(self.data_mut()),
            None => Ok(()),
        }
    }

    /// Answers a read with a part of a mapped file.
    pub(super) fn lend(&mut self, lent: Lent) {
        self.lent = Some(lent);
    }

    fn span(&self, head_bytes: usize) -> (NonNull<u8>, usize) {
        let shape = self.shared.shape;
        assert!(
            head_bytes <= shape.headroom_bytes,
            "{head_bytes} bytes of head, {} of headroom",
            shape.headroom_bytes
        );
        // SAFETY: the slot begins at least `headroom_bytes` before its data area.
        let start = unsafe { self.data.sub(head_bytes) };
        (start, head_bytes + shape.data_bytes)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.data()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.data_mut()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Never grows: the list was made with every slot in it.
        self.shared.free.borrow_mut().push(self.slot);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("slot", &self.slot)
            .field("data_bytes", &self.shared.shape.data_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: usize) -> Pool {
        Pool::new(PoolShape {
            count,
            headroom_bytes: 40,
            data_bytes: 8704,
            alignment: 512,
        })
        .unwrap()
    }

    #[test]
    fn buffers_are_aligned_apart_and_come_home() {
        let pool = pool(3);
        let mut buffers: Vec<Buffer> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((buffers.len(), pool.free()), (3, 0));
        for (number, buffer) in (1..).zip(&mut buffers) {
            assert_eq!(buffer.data().as_ptr() as usize % 512, 0);
            buffer.with_head_mut(40).fill(number);
        }
        for (number, buffer) in (1..).zip(&buffers) {
            assert_eq!(buffer.with_head(40).len(), 40 + 8704);
            assert!(buffer.with_head(40).iter().all(|&byte| byte == number));
        }
        drop(pool.clone());
        buffers.pop();
        assert_eq!(pool.free(), 1);
        drop(pool);
        for buffer in &mut buffers {
            buffer.data_mut().fill(9); // the region is still there
        }
    }

    #[test]
    fn head_and_data_are_contiguous() {
        let pool = pool(1);
        let mut buffer = pool.take().unwrap();
        buffer.data_mut().fill(2);
        buffer.with_head_mut(36)[..36].fill(1);
        assert_eq!(buffer.with_head(36)[35..37], [1, 2]);
        assert!(buffer.data().iter().all(|&byte| byte == 2));
    }

    #[test]
    #[should_panic(expected = "41 bytes of head, 40 of headroom")]
    fn there_is_no_more_head_than_headroom() {
        let pool = pool(1);
        let buffer = pool.take().unwrap();
        let _ = buffer.with_head(41);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let good = PoolShape {
            count: 1,
            headroom_bytes: 0,
            data_bytes: 512,
            alignment: 512,
        };
        assert!(Pool::new(good).is_ok());
        for shape in [
            PoolShape { count: 0, ..good },
            PoolShape {
                data_bytes: 0,
                ..good
            },
            PoolShape {
                alignment: 0,
                ..good
            },
            PoolShape {
                alignment: 24,
                ..good
            },
            PoolShape {
                alignment: 8192,
                ..good
            },
            PoolShape {
                count: usize::MAX,
                ..good
            },
            PoolShape {
                headroom_bytes: usize::MAX,
                ..good
            },
        ] {
            let error = Pool::new(shape).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{shape:?}");
        }
    }
}
