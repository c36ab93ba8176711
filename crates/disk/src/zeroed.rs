//! Memory that is all zero, takes no room before it is used, and may be more than there is.

use std::alloc::{Layout, alloc_zeroed};

/// So many words of zeros, of which the kernel gives each page when it is first written to; `None`
/// if it will not give them at all.
pub(crate) fn words(count: usize) -> Option<Vec<u64>> {
    let layout = Layout::array::<u64>(count).ok()?;
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the size is not zero.
    let start = unsafe { alloc_zeroed(layout) }.cast::<u64>();
    if start.is_null() {
        return None;
    }
    // SAFETY: from the global allocator with the layout of so many words, each of which is one that
    // was written: zeros are a number.
    Some(unsafe { Vec::from_raw_parts(start, count, count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_zero_and_may_be_too_many() {
        assert_eq!(words(0), Some(Vec::new()));
        let mut some = words(1000).unwrap();
        assert_eq!(some, [0; 1000]);
        some.fill(u64::MAX);
        // More than addresses, then more than a process can have.
        assert_eq!(words(usize::MAX), None);
        assert_eq!(words(isize::MAX as usize / 8), None);
    }
}
