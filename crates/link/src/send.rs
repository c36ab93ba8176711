//! Sending: many frames in one system call.
//!
//! A frame is handed to the kernel or counted as lost, in order; nothing waits here. What cannot
//! be taken now (the send buffer is full) stays with the caller.

use crate::{Outgoing, PortStats};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;
use std::{fmt, ptr};

/// Frames handed to the kernel by one system call at most. At 64 the system call itself is lost in
/// the noise, and a full batch of jumbo frames is about what a send buffer holds.
pub const BATCH: usize = 64;

/// The arrays `sendmmsg` wants, made once.
pub(crate) struct Sender {
    // Point to frames and to `pieces` only during a call; dangling between calls and never read
    // then.
    pieces: Box<[[libc::iovec; 2]]>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers in both arrays are written anew by every `call`, from what it is given,
// and are read only inside it; between calls the arrays are plain memory.
unsafe impl Send for Sender {}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    pub(crate) fn new() -> Self {
        let piece = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: `mmsghdr` is integers and pointers (and on musl integers as padding), for all of
        // which zero is a value: no address, no data, no flags.
        let message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Self {
            pieces: vec![[piece; 2]; BATCH].into_boxed_slice(),
            messages: vec![message; BATCH].into_boxed_slice(),
        }
    }

    /// See [`Port::send`](crate::Port::send).
    pub(crate) fn send<F: Outgoing>(
        &mut self,
        socket: BorrowedFd<'_>,
        frames: &[F],
        stats: &mut PortStats,
    ) -> usize {
        deal_with(frames, stats, |some| self.call(socket, some))
    }

    /// One system call for the first [`BATCH`] of `frames`; how many the kernel took.
    fn call<F: Outgoing>(&mut self, socket: BorrowedFd<'_>, frames: &[F]) -> Result<usize, Errno> {
        let mut count = 0;
        let slots = self.pieces.iter_mut().zip(self.messages.iter_mut());
        for (frame, (pieces, message)) in frames.iter().zip(slots) {
            let (head, shared) = (frame.head(), frame.shared());
            // The kernel only reads; the structure serves both directions.
            *pieces = [
                libc::iovec {
                    iov_base: head.as_ptr().cast_mut().cast(),
                    iov_len: head.len(),
                },
                libc::iovec {
                    iov_base: shared.as_ptr().cast_mut().cast(),
                    iov_len: shared.len(),
                },
            ];
            message.msg_hdr.msg_iov = pieces.as_mut_ptr();
            message.msg_hdr.msg_iovlen = if shared.is_empty() { 1 } else { 2 };
            count += 1;
        }
        #[allow(
            clippy::cast_sign_loss,
            clippy::unnecessary_cast,
            reason = "C libraries disagree on the sign of the flags"
        )]
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: the first `count` messages, at most all, were filled above; each has no address,
        // no control data and one or two pieces, which lie in what `frames` lends until this
        // returns. The second may change meanwhile; the kernel takes it as it finds it.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), count, flags) };
        usize::try_from(sent).map_err(|_| last_errno())
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Calls `call` with what is left until all is dealt with. It takes a number of frames from the
/// front, or fails because of the first.
fn deal_with<F>(
    frames: &[F],
    stats: &mut PortStats,
    mut call: impl FnMut(&[F]) -> Result<usize, Errno>,
) -> usize {
    let mut done = 0;
    let mut again_after_down = true;
    while let Some(left @ [_, ..]) = frames.get(done..) {
        match call(left) {
            // The shared part of a frame that cannot be read may be had elsewhere by the caller.
            Ok(0) | Err(Errno::FAULT) => break,
            Ok(count) => {
                done += count.min(left.len());
                stats.sent += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                stats.send_waits += 1;
                break;
            }
            // The socket remembers that its interface went down and tells the first who asks, even
            // when it is up again: no reason to lose a frame.
            Err(Errno::NETDOWN) if again_after_down => again_after_down = false,
            Err(error) => {
                *lost(stats, error) += 1;
                done += 1;
            }
        }
    }
    done
}

/// The counter for a frame that could not be sent.
fn lost(stats: &mut PortStats, error: Errno) -> &mut u64 {
    match error {
        Errno::NOBUFS | Errno::NOMEM => &mut stats.send_lost_no_buffer,
        Errno::NETDOWN | Errno::NXIO | Errno::NODEV => &mut stats.send_lost_down,
        Errno::MSGSIZE => &mut stats.send_lost_too_long,
        _ => &mut stats.send_lost_other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    /// Ten frames against a kernel that answers as told, then takes everything.
    fn send_ten(answers: &[Result<usize, Errno>]) -> (usize, Vec<usize>, PortStats) {
        let frames: Vec<usize> = (0..10).collect();
        let mut stats = PortStats::default();
        let mut answers = answers.iter();
        let mut sent = Vec::new();
        let done = deal_with(&frames, &mut stats, |left| {
            let answer = answers.next().copied().unwrap_or(Ok(left.len()));
            sent.extend(&left[..answer.unwrap_or(0)]);
            answer
        });
        (done, sent, stats)
    }

    #[test]
    fn all_in_order_in_several_calls() {
        let (done, sent, stats) = send_ten(&[Ok(3), Err(Errno::INTR), Ok(4)]);
        assert_eq!((done, stats.sent, stats.send_lost()), (10, 10, 0));
        assert_eq!(sent, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_send_buffer_leaves_the_rest() {
        let (done, sent, stats) = send_ten(&[Ok(3), Err(Errno::AGAIN)]);
        assert_eq!((done, stats.sent, stats.send_waits), (3, 3, 1));
        assert_eq!(sent, [0, 1, 2]);
    }

    #[test]
    fn an_error_costs_the_first_frame_only() {
        let (done, sent, stats) = send_ten(&[
            Ok(1),
            Err(Errno::NOBUFS),
            Ok(1),
            Err(Errno::MSGSIZE),
            Err(Errno::NXIO),
            Err(Errno::PERM),
        ]);
        assert_eq!(done, 10);
        assert_eq!(sent, [0, 2, 6, 7, 8, 9]);
        let expected = PortStats {
            sent: 6,
            send_lost_no_buffer: 1,
            send_lost_too_long: 1,
            send_lost_down: 1,
            send_lost_other: 1,
            ..PortStats::default()
        };
        assert_eq!(stats, expected);
    }

    #[test]
    fn a_remembered_down_costs_no_frame() {
        let (done, _, stats) = send_ten(&[Err(Errno::NETDOWN)]);
        assert_eq!((done, stats.sent, stats.send_lost()), (10, 10, 0));
    }

    #[test]
    fn a_lasting_down_costs_every_frame() {
        let (done, sent, stats) = send_ten(&[Err(Errno::NETDOWN); 11]);
        assert_eq!((done, stats.sent, stats.send_lost_down), (10, 0, 10));
        assert!(sent.is_empty());
    }

    #[test]
    fn nothing_to_send_is_no_call() {
        let mut stats = PortStats::default();
        let none: [&[u8]; 0] = [];
        assert_eq!(deal_with(&none, &mut stats, |_| panic!("called")), 0);
    }

    /// Datagrams of a socket pair stand for frames, and its small send buffer gets full.
    #[test]
    fn the_kernel_takes_what_was_meant() {
        let (near, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&near, 4096).unwrap();
        let frames: Vec<Vec<u8>> = (0..200).map(|n: u8| vec![n; 60 + usize::from(n)]).collect();
        let mut sender = Sender::new();
        let mut stats = PortStats::default();
        let mut received = Vec::new();
        let mut done = 0;
        while done < frames.len() {
            done += sender.send(near.as_fd(), &frames[done..], &mut stats);
            let mut buffer = [0; 300];
            while let Ok((_, len)) = recv(&far, &mut buffer, RecvFlags::empty()) {
                received.push(buffer[..len].to_vec());
            }
        }
        assert!(received == frames);
        assert_eq!((stats.sent, stats.send_lost()), (200, 0));
        assert!(stats.send_waits > 0);

        drop(far);
        assert_eq!(sender.send(near.as_fd(), &frames, &mut stats), 200);
        assert_eq!(stats.send_lost_other, 200);
    }
}
