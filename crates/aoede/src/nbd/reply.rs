//! Replies: what stands in front of data, or alone.

use super::protocol::{CHUNK_MAGIC, Errno, SIMPLE_REPLY_MAGIC, chunk};

/// Most bytes of a [`head`].
const MAX_HEAD: usize = 28;

/// The bytes of a reply without its data.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; MAX_HEAD],
    len: usize,
}

impl Head {
    const EMPTY: Self = Self {
        bytes: [0; MAX_HEAD],
        len: 0,
    };

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn with<const N: usize>(mut self, bytes: [u8; N]) -> Self {
        let end = self.len + N;
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(&bytes);
            self.len = end;
        }
        self
    }
}

/// A simple reply: magic 4, error 4, cookie 8. The data of a read that succeeded follows.
pub fn simple(cookie: u64, result: Result<(), Errno>) -> Head {
    let error = result.err().map_or(0, Errno::code);
    Head::EMPTY
        .with(SIMPLE_REPLY_MAGIC.to_be_bytes())
        .with(error.to_be_bytes())
        .with(cookie.to_be_bytes())
}

/// The one chunk of a structured reply to a read that succeeded: magic 4, flags 2, kind 2, cookie 8,
/// length 4, then the offset and `data_bytes` of data, which follow the head.
pub fn data_chunk(cookie: u64, offset: u64, data_bytes: u32) -> Head {
    let len = data_bytes.saturating_add(8);
    chunk_head(cookie, chunk::OFFSET_DATA, len).with(offset.to_be_bytes())
}

/// The one chunk of a structured reply to a read that failed: the same, with the error and a
/// message of no bytes.
pub fn error_chunk(cookie: u64, error: Errno) -> Head {
    chunk_head(cookie, chunk::ERROR, 6)
        .with(error.code().to_be_bytes())
        .with([0; 2])
}

fn chunk_head(cookie: u64, kind: u16, len: u32) -> Head {
    Head::EMPTY
        .with(CHUNK_MAGIC.to_be_bytes())
        .with(chunk::DONE.to_be_bytes())
        .with(kind.to_be_bytes())
        .with(cookie.to_be_bytes())
        .with(len.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: u64 = 0x0102_0304_0506_0708;

    #[test]
    fn the_bytes_of_replies_are_those_of_the_document() {
        let cookie = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(
            simple(COOKIE, Ok(())).bytes(),
            [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0][..], &cookie].concat()
        );
        assert_eq!(
            simple(COOKIE, Err(Errno::NoSpace)).bytes(),
            [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28][..], &cookie].concat()
        );
        assert_eq!(
            data_chunk(COOKIE, 0x10_0000, 512).bytes(),
            [
                &[0x66, 0x8E, 0x33, 0xEF, 0, 1, 0, 1][..],
                &cookie,
                &[0, 0, 2, 8, 0, 0, 0, 0, 0, 0x10, 0, 0]
            ]
            .concat()
        );
        assert_eq!(
            error_chunk(COOKIE, Errno::Io).bytes(),
            [
                &[0x66, 0x8E, 0x33, 0xEF, 0, 1, 0x80, 1][..],
                &cookie,
                &[0, 0, 0, 6, 0, 0, 0, 5, 0, 0]
            ]
            .concat()
        );
    }
}
