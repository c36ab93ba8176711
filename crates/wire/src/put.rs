//! Writing into a caller's buffer without ever running over its end.

use crate::NoRoom;

/// The unwritten rest of an output buffer.
#[derive(Debug)]
pub(crate) struct Put<'a> {
    rest: &'a mut [u8],
    written: usize,
}

impl<'a> Put<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Self {
            rest: out,
            written: 0,
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        let (out, rest) = core::mem::take(&mut self.rest)
            .split_at_mut_checked(bytes.len())
            .ok_or(NoRoom)?;
        out.copy_from_slice(bytes);
        self.rest = rest;
        self.written += bytes.len();
        Ok(())
    }

    /// Zeros up to `len` bytes in all; nothing if more than that is written already.
    pub(crate) fn zeros_up_to(&mut self, len: usize) -> Result<(), NoRoom> {
        let missing = len.saturating_sub(self.written);
        let (out, rest) = core::mem::take(&mut self.rest)
            .split_at_mut_checked(missing)
            .ok_or(NoRoom)?;
        out.fill(0);
        self.rest = rest;
        self.written += missing;
        Ok(())
    }

    pub(crate) fn written(&self) -> usize {
        self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_padding_stay_within_the_buffer() {
        let mut out = [0xA5; 8];
        let mut put = Put::new(&mut out);
        assert_eq!(put.bytes(&[1, 2]), Ok(()));
        assert_eq!(put.zeros_up_to(1), Ok(()));
        assert_eq!(put.written(), 2);
        assert_eq!(put.zeros_up_to(5), Ok(()));
        assert_eq!(put.bytes(&[3]), Ok(()));
        assert_eq!(put.written(), 6);
        assert_eq!(out, [1, 2, 0, 0, 0, 3, 0xA5, 0xA5]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut out = [0xA5; 2];
        assert_eq!(Put::new(&mut out).bytes(&[0; 3]), Err(NoRoom));
        assert_eq!(Put::new(&mut out).zeros_up_to(3), Err(NoRoom));
        assert_eq!(out, [0xA5; 2]);
        assert_eq!(Put::new(&mut []).bytes(&[]), Ok(()));
    }
}
