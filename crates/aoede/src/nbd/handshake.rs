//! Fixed newstyle negotiation, as a pure state machine: what the client sent goes in, what it is
//! answered comes out.
//!
//! Whoever drives it reads as many bytes as [`Handshake::wants`] says, calls
//! [`Handshake::handle`], and sends what that has appended. Options that are not known here, TLS,
//! metadata contexts and extended headers among them, are answered as unsupported, as the document
//! wants it; clients go on without.
//!
//! Limits: an option has at most [`MAX_OPTION`] bytes of data, more are skipped and refused up to
//! [`MAX_SKIPPED`]; a client has [`MAX_OPTIONS`] options to make up its mind.

use super::protocol::{
    Export, FIXED_NEWSTYLE, GREETING_MAGIC, MAX_PAYLOAD, NO_ZEROES, OPTION_MAGIC,
    OPTION_REPLY_MAGIC, PREFERRED_BLOCK, SECTOR, info, option, reply,
};

/// Most bytes of an option that are looked at: a name of 4096 bytes, and wishes for information.
pub const MAX_OPTION: usize = 8192;
/// Most bytes of an option that are read to refuse it; one that announces more ends the connection.
pub const MAX_SKIPPED: usize = 1 << 20;
/// Most options of one client.
pub const MAX_OPTIONS: u32 = 256;

/// Bytes of an option before its data: magic 8, option 4, length 4.
const OPTION_HEADER: usize = 16;
/// Bytes of zeros behind the answer to `EXPORT_NAME`, unless both sides agreed to leave them out.
const ZEROES: usize = 124;

/// What the server says first.
pub fn greeting() -> [u8; 18] {
    let mut greeting = [0; 18];
    let (magic, rest) = greeting.split_at_mut(8);
    magic.copy_from_slice(&GREETING_MAGIC.to_be_bytes());
    let (magic, flags) = rest.split_at_mut(8);
    magic.copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    flags.copy_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    greeting
}

/// Where a negotiation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    More,
    /// Requests come next.
    Transmission {
        /// Replies to reads are structured.
        structured: bool,
    },
    /// The client has left in peace.
    Ended,
}

/// Bytes that cannot be answered: the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Flags that were not offered.
    #[error("the client sets flags that were not offered ({0:#x})")]
    Flags(u32),
    /// No option begins here.
    #[error("the client does not speak NBD")]
    Magic,
    /// It wants an export that is not here, in the way that has no answer for it.
    #[error("the client asks for an export that is not here")]
    Unknown,
    /// An option over [`MAX_SKIPPED`], or more than [`MAX_OPTIONS`].
    #[error("the client sends more options than anybody needs")]
    TooMuch,
}

/// A negotiation with one client.
#[derive(Debug)]
pub struct Handshake<'a> {
    export: &'a Export,
    state: State,
    zeroes: bool,
    structured: bool,
    options: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Flags,
    Header,
    Data { option: u32, len: usize },
    Skip { option: u32, left: usize },
}

impl<'a> Handshake<'a> {
    /// About `export`, after [`greeting`] was sent.
    pub fn new(export: &'a Export) -> Self {
        Self {
            export,
            state: State::Flags,
            zeroes: true,
            structured: false,
            options: 0,
        }
    }

    /// How many bytes the next call of [`handle`](Self::handle) needs: 0 to [`MAX_OPTION`].
    pub fn wants(&self) -> usize {
        match self.state {
            State::Flags => 4,
            State::Header => OPTION_HEADER,
            State::Data { len, .. } => len,
            State::Skip { left, .. } => left.min(MAX_OPTION),
        }
    }

    /// Takes as many bytes as were [wanted](Self::wants), and appends the answer to `out`.
    ///
    /// # Errors
    /// [`HandshakeError`]: close the connection.
    pub fn handle(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        match self.state {
            State::Flags => self.handle_flags(bytes),
            State::Header => self.handle_header(bytes),
            State::Data { option, .. } => {
                self.state = State::Header;
                self.handle_option(option, bytes, out)
            }
            State::Skip { option, left } => {
                self.skip(option, left.saturating_sub(bytes.len()), out);
                Ok(Progress::More)
            }
        }
    }

    fn handle_flags(&mut self, bytes: &[u8]) -> Result<Progress, HandshakeError> {
        let mut bytes = Reader(bytes);
        let flags = bytes.u32().ok_or(HandshakeError::Magic)?;
        let offered = u32::from(FIXED_NEWSTYLE | NO_ZEROES);
        if flags & !offered != 0 {
            return Err(HandshakeError::Flags(flags));
        }
        self.zeroes = flags & u32::from(NO_ZEROES) == 0;
        self.state = State::Header;
        Ok(Progress::More)
    }

    fn handle_header(&mut self, bytes: &[u8]) -> Result<Progress, HandshakeError> {
        let mut bytes = Reader(bytes);
        if bytes.u64() != Some(OPTION_MAGIC) {
            return Err(HandshakeError::Magic);
        }
        let (option, len) = bytes.u32().zip(bytes.u32()).ok_or(HandshakeError::Magic)?;
        let len = usize::try_from(len).map_err(|_| HandshakeError::TooMuch)?;
        self.options += 1;
        if self.options > MAX_OPTIONS || len > MAX_SKIPPED {
            return Err(HandshakeError::TooMuch);
        }
        self.state = if len > MAX_OPTION {
            State::Skip { option, left: len }
        } else {
            State::Data { option, len }
        };
        Ok(Progress::More)
    }

    fn skip(&mut self, option: u32, left: usize, out: &mut Vec<u8>) {
        if left > 0 {
            self.state = State::Skip { option, left };
        } else {
            self.state = State::Header;
            answer(out, option, reply::TOO_BIG, b"the option is too long");
        }
    }

    fn handle_option(
        &mut self,
        option: u32,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress, HandshakeError> {
        match option {
            option::EXPORT_NAME => return self.export_name(data, out),
            option::ABORT => {
                answer(out, option, reply::ACK, b"");
                return Ok(Progress::Ended);
            }
            option::LIST if data.is_empty() => {
                let name = self.export.name.as_bytes();
                let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
                answer(
                    out,
                    option,
                    reply::SERVER,
                    &[&len.to_be_bytes(), name].concat(),
                );
                answer(out, option, reply::ACK, b"");
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                answer(out, option, reply::ACK, b"");
            }
            option::LIST | option::STRUCTURED_REPLY => {
                answer(out, option, reply::INVALID, b"the option has no data");
            }
            option::INFO | option::GO => {
                let told = self.tell(option, data, out);
                if told && option == option::GO {
                    let structured = self.structured;
                    return Ok(Progress::Transmission { structured });
                }
            }
            _ => answer(
                out,
                option,
                reply::UNSUPPORTED,
                b"the option is not supported",
            ),
        }
        Ok(Progress::More)
    }

    /// The old way to begin, which has no room for an error.
    fn export_name(&self, name: &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        if !self.export.is_called(name) {
            return Err(HandshakeError::Unknown);
        }
        out.extend_from_slice(&self.export.bytes.to_be_bytes());
        out.extend_from_slice(&self.export.flags(self.structured).to_be_bytes());
        if self.zeroes {
            out.extend_from_slice(&[0; ZEROES]);
        }
        let structured = self.structured;
        Ok(Progress::Transmission { structured })
    }

    /// Answers INFO and GO. Whether the export is this one.
    fn tell(&self, option: u32, data: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((name, wishes)) = read_info(data) else {
            answer(out, option, reply::INVALID, b"the lengths do not fit");
            return false;
        };
        if !self.export.is_called(name) {
            answer(
                out,
                option,
                reply::UNKNOWN_EXPORT,
                b"there is no such export",
            );
            return false;
        }
        let mut about = info::EXPORT.to_be_bytes().to_vec();
        about.extend_from_slice(&self.export.bytes.to_be_bytes());
        about.extend_from_slice(&self.export.flags(self.structured).to_be_bytes());
        answer(out, option, reply::INFO, &about);

        let wish = info::NAME.to_be_bytes();
        if wishes.chunks_exact(2).any(|asked| asked == wish) {
            let name = self.export.name.as_bytes();
            answer(out, option, reply::INFO, &[&wish, name].concat());
        }

        // Also to clients that did not ask: they may not know how, and profit.
        let smallest = u32::try_from(SECTOR).unwrap_or(u32::MAX);
        let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [smallest, PREFERRED_BLOCK, MAX_PAYLOAD] {
            sizes.extend_from_slice(&size.to_be_bytes());
        }
        answer(out, option, reply::INFO, &sizes);
        answer(out, option, reply::ACK, b"");
        true
    }
}

/// The data of INFO and GO: the name, and the numbers of what the client wants to know, 2 bytes
/// each. `None` if the lengths contradict each other.
fn read_info(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut data = Reader(data);
    let len = usize::try_from(data.u32()?).ok()?;
    let name = data.take(len)?;
    let count = usize::from(data.u16()?);
    (data.0.len() == 2 * count).then_some((name, data.0))
}

fn answer(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(data);
}

/// Takes numbers from the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPT: [u8; 8] = *b"IHAVEOPT";
    /// Size of the export: 1 GiB.
    const SIZE: [u8; 8] = [0, 0, 0, 0, 0x40, 0, 0, 0];

    fn export() -> Export {
        Export {
            name: "disk".to_owned(),
            bytes: 1 << 30,
            read_only: false,
            flush: true,
            trim: true,
            trim_zeroes: false,
        }
    }

    /// Sends all of it, in the portions that are wanted, and returns the answer and how it ended.
    fn send(bytes: &[u8]) -> (Vec<u8>, Result<Progress, HandshakeError>) {
        let export = export();
        let mut handshake = Handshake::new(&export);
        let (mut rest, mut out) = (bytes, Vec::new());
        loop {
            let Some((wanted, left)) = rest.split_at_checked(handshake.wants()) else {
                assert!(rest.is_empty(), "{} bytes are left", rest.len());
                return (out, Ok(Progress::More));
            };
            rest = left;
            match handshake.handle(wanted, &mut out) {
                Ok(Progress::More) => {}
                end => return (out, end),
            }
        }
    }

    fn option(number: u8, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&OPT[..], &[0, 0, 0, number], &len, data].concat()
    }

    fn answered(number: u8, kind: [u8; 4], data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap().to_be_bytes();
        let magic = [0, 3, 0xE8, 0x89, 4, 0x55, 0x65, 0xA9];
        [&magic[..], &[0, 0, 0, number], &kind, &len, data].concat()
    }

    /// The kind of the only answer, which is an error with some text.
    fn error_of(number: u8, answer: &[u8]) -> [u8; 4] {
        let kind = answer[12..16].try_into().unwrap();
        assert_eq!(answer, answered(number, kind, &answer[20..]));
        assert!(answer.len() > 20 && kind[0] == 0x80);
        kind
    }

    const ACK: [u8; 4] = [0, 0, 0, 1];
    const SERVER: [u8; 4] = [0, 0, 0, 2];
    const INFO: [u8; 4] = [0, 0, 0, 3];
    const FLAGS: [u8; 4] = [0, 0, 0, 3];

    #[test]
    fn the_greeting_offers_fixed_newstyle_without_zeroes() {
        assert_eq!(greeting(), *b"NBDMAGICIHAVEOPT\0\x03");
    }

    #[test]
    fn structured_replies_and_go_lead_to_transmission() {
        let wishes = [0, 0, 0, 0, 0, 2, 0, 3, 0, 1];
        let sent = [&FLAGS[..], &option(8, b""), &option(7, &wishes)].concat();
        let (out, end) = send(&sent);
        assert_eq!(end, Ok(Progress::Transmission { structured: true }));
        let sizes = [0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0];
        let expected = [
            answered(8, ACK, b""),
            // Flags, FLUSH, FUA, TRIM, WRITE_ZEROES, DF, MULTI_CONN.
            answered(7, INFO, &[&[0, 0][..], &SIZE, &[0x01, 0xED]].concat()),
            answered(7, INFO, b"\0\x01disk"),
            answered(7, INFO, &sizes),
            answered(7, ACK, b""),
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn info_tells_the_same_and_goes_on() {
        let wishes = *b"\0\0\0\x04disk\0\0";
        let sent = [&FLAGS[..], &option(6, &wishes), &option(2, b"")].concat();
        let (out, end) = send(&sent);
        assert_eq!(end, Ok(Progress::Ended));
        let sizes = [0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0];
        let expected = [
            answered(6, INFO, &[&[0, 0][..], &SIZE, &[0x01, 0x6D]].concat()),
            answered(6, INFO, &sizes),
            answered(6, ACK, b""),
            answered(2, ACK, b""),
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn the_old_way_gets_124_zeros_unless_both_leave_them_out() {
        let told = [&SIZE[..], &[0x01, 0x6D]].concat();
        let (out, end) = send(&[&FLAGS[..], &option(1, b"disk")].concat());
        assert_eq!(end, Ok(Progress::Transmission { structured: false }));
        assert_eq!(out, told);
        let (out, _) = send(&[&[0, 0, 0, 1][..], &option(1, b"")].concat());
        assert_eq!(out, [&told[..], &[0; 124]].concat());
        let (out, end) = send(&[&FLAGS[..], &option(1, b"other")].concat());
        assert_eq!((out, end), (vec![], Err(HandshakeError::Unknown)));
    }

    #[test]
    fn the_list_has_one_name() {
        let (out, end) = send(&[&FLAGS[..], &option(3, b"")].concat());
        assert_eq!(end, Ok(Progress::More));
        let expected = [
            answered(3, SERVER, b"\0\0\0\x04disk"),
            answered(3, ACK, b""),
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn what_is_not_known_or_malformed_gets_its_error() {
        for (number, data, kind) in [
            // STARTTLS, LIST_META_CONTEXT, SET_META_CONTEXT, EXTENDED_HEADERS, PEEK_EXPORT, none.
            (5, &b""[..], 1),
            (9, b"\0\0\0\0\0\0\0\0", 1),
            (10, b"\0\0\0\0\0\0\0\0", 1),
            (11, b"", 1),
            (4, b"x", 1),
            (99, b"", 1),
            (3, b"x", 3),
            (8, b"x", 3),
            // GO and INFO: without room for the lengths; a name that ends behind the data; fewer
            // and more wishes than announced; another name.
            (7, b"", 3),
            (7, b"\0\0\0\0\0", 3),
            (7, b"\0\0\0\x05disk\0\0", 3),
            (7, b"\xFF\xFF\xFF\xFFdisk\0\0", 3),
            (6, b"\0\0\0\x04disk\0\x01", 3),
            (6, b"\0\0\0\x04disk\0\0\0", 3),
            (7, b"\0\0\0\x05disk2\0\0", 6),
        ] {
            let (out, end) = send(&[&FLAGS[..], &option(number, data)].concat());
            assert_eq!(end, Ok(Progress::More), "option {number}, {data:?}");
            assert_eq!(error_of(number, &out), [0x80, 0, 0, kind]);
        }
    }

    #[test]
    fn a_long_option_is_read_over_and_refused() {
        let long = vec![b'x'; (1 << 20) - 3];
        let sent = [&FLAGS[..], &option(7, &long), &option(3, b"x")].concat();
        let (out, end) = send(&sent);
        assert_eq!(end, Ok(Progress::More));
        let next = 20 + usize::from(out[19]);
        assert_eq!(error_of(7, &out[..next]), [0x80, 0, 0, 9]);
        assert_eq!(error_of(3, &out[next..]), [0x80, 0, 0, 3]);
        let header = [&FLAGS[..], &OPT, &[0, 0, 0, 7, 0, 0x10, 0, 1]].concat();
        assert_eq!(send(&header).1, Err(HandshakeError::TooMuch));
    }

    #[test]
    fn a_client_cannot_go_on_forever() {
        let mut sent = FLAGS.to_vec();
        sent.extend(option(3, b"").repeat(256));
        assert_eq!(send(&sent).1, Ok(Progress::More));
        sent.extend(option(3, b""));
        assert_eq!(send(&sent).1, Err(HandshakeError::TooMuch));
    }

    #[test]
    fn who_does_not_speak_the_protocol_is_left() {
        assert_eq!(send(&[0, 0, 0, 7]).1, Err(HandshakeError::Flags(7)));
        assert_eq!(
            send(&[0x80, 0, 0, 3]).1,
            Err(HandshakeError::Flags(0x8000_0003))
        );
        let sent = [&FLAGS[..], b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(send(&sent).1, Err(HandshakeError::Magic));
    }

    proptest! {
        /// Whatever is sent, what is wanted next and what is answered stay small.
        #[test]
        fn any_bytes_are_harmless(bytes in proptest::collection::vec(any::<u8>(), 0..2000), from in 0_usize..3) {
            let starts = [&b""[..], &FLAGS, &[&FLAGS[..], &OPT].concat()];
            let bytes = [starts[from], &bytes].concat();
            let export = export();
            let mut handshake = Handshake::new(&export);
            let mut rest = &bytes[..];
            while let Some((wanted, left)) = rest.split_at_checked(handshake.wants()) {
                let mut out = Vec::new();
                let end = handshake.handle(wanted, &mut out);
                prop_assert!(handshake.wants() <= MAX_OPTION);
                prop_assert!(out.len() <= 256);
                if end != Ok(Progress::More) {
                    break;
                }
                rest = left;
            }
        }
    }
}
