//! Ports, sessions and discovery, put together: frames in, frames out, without waiting.
//!
//! [`Driver::turn`] is the whole loop. The shell around it (`client.rs`) waits and talks to other
//! threads; a program with a loop of its own can do without the shell.

use std::mem;

use aoede_link::{BATCH, Port};
use aoede_wire::{Address, Frame};

use crate::settings::{MAX_PORTS, Settings};
use crate::{Discovery, Event, Found, Instant, LocalPort, PortId, Session};

/// Frames that one turn takes from each port, so that timeouts get their turn too.
const FRAMES_A_TURN: usize = 256;

/// Names a session of a [`Driver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// Ports with their sessions. `P` is any [`Port`]; [`PortId`] is a port's place in the list it was
/// made with.
///
/// ```
/// use aoede_initiator::{Driver, Instant, Settings};
/// use aoede_link::{Port, sim::SimNet};
///
/// let net = SimNet::new(1);
/// let mut other = net.attach("other", 1500);
/// let mut driver = Driver::new(vec![net.attach("eth0", 1500)]);
/// driver.attach("e1.1".parse()?, Settings::default(), 1);
/// driver.turn(Instant::START);
/// assert!(other.receive().is_some(), "who is e1.1?");
/// # Ok::<(), aoede_wire::AddressError>(())
/// ```
#[derive(Debug)]
pub struct Driver<P> {
    ports: Vec<P>,
    /// What sessions were told of each.
    known: Vec<Option<LocalPort>>,
    outboxes: Vec<Outbox>,
    discovery: Option<Discovery>,
    sessions: Vec<(SessionId, Session<Vec<u8>>)>,
    next_session: u64,
    /// Where the next frame is encoded before it is known which port sends it.
    scratch: Vec<u8>,
}

impl<P: Port> Driver<P> {
    /// Without sessions. Ports from [`MAX_PORTS`] on are not used.
    pub fn new(mut ports: Vec<P>) -> Self {
        ports.truncate(MAX_PORTS);
        Self {
            known: ports.iter().map(|_| None).collect(),
            outboxes: ports.iter().map(|_| Outbox::default()).collect(),
            ports,
            discovery: None,
            sessions: Vec::new(),
            next_session: 0,
            scratch: Vec::new(),
        }
    }

    /// The ports, for waiting on them.
    pub fn ports_mut(&mut self) -> &mut [P] {
        &mut self.ports
    }

    /// Starts a session with the target at `address`; see [`Session::new`] for `seed`.
    pub fn attach(&mut self, address: Address, settings: Settings, seed: u64) -> SessionId {
        let id = SessionId(self.next_session);
        self.next_session += 1;
        let mut session = Session::new(address, settings, seed);
        for (port, known) in (0..).zip(&self.known) {
            if let Some(known) = known {
                session.handle_port(Instant::START, PortId(port), *known);
            }
        }
        self.sessions.push((id, session));
        id
    }

    /// Ends a session; requests that are under way get no event any more. What it takes back from
    /// its target ([`Session::poll_farewell`]) is sent with the next turn. Whether there was one.
    pub fn detach(&mut self, now: Instant, id: SessionId) -> bool {
        let place = self.sessions.iter().position(|(other, _)| *other == id);
        let Some((_, mut session)) = place.map(|place| self.sessions.remove(place)) else {
            return false;
        };
        loop {
            let out = room(&mut self.scratch, session.frame_bytes());
            let Some(transmit) = session.poll_farewell(now, out) else {
                return true;
            };
            post(&mut self.outboxes, &mut self.scratch, transmit);
        }
    }

    /// Ends all sessions, and sends what they take back as far as there is room for it now.
    pub fn close(&mut self, now: Instant) {
        while let Some((id, _)) = self.sessions.first() {
            self.detach(now, *id);
        }
        for (outbox, port) in self.outboxes.iter_mut().zip(&mut self.ports) {
            outbox.send(port);
        }
    }

    /// A session, for requests and questions.
    pub fn session_mut(&mut self, id: SessionId) -> Option<&mut Session<Vec<u8>>> {
        let mut sessions = self.sessions.iter_mut();
        let found = sessions.find(|(other, _)| *other == id);
        found.map(|(_, session)| session)
    }

    /// Begins to look for all targets, or asks again.
    pub fn discover(&mut self) {
        let discovery = self.discovery.get_or_insert_default();
        for (port, known) in (0..).zip(&self.known) {
            if let Some(known) = known {
                discovery.handle_port(PortId(port), *known);
            }
        }
        discovery.ask();
    }

    /// The targets that were found since [`discover`](Self::discover) was first called.
    pub fn found(&self) -> &[Found] {
        self.discovery.as_ref().map_or(&[], Discovery::found)
    }

    /// Takes what has been received, does what is due, sends what there is to send. Whether there
    /// may be more to do at once; otherwise wait for a frame, or until
    /// [`poll_timeout`](Self::poll_timeout).
    pub fn turn(&mut self, now: Instant) -> bool {
        self.look_at_ports(now);
        let more = self.receive(now);
        self.handle_timeouts(now);
        self.transmit(now);
        more
    }

    /// The next event of a session.
    pub fn poll_event(&mut self) -> Option<(SessionId, Event<Vec<u8>>)> {
        let mut sessions = self.sessions.iter_mut();
        sessions.find_map(|(id, session)| Some((*id, session.poll_event()?)))
    }

    /// When to call [`turn`](Self::turn) at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.iter();
        let timeouts = sessions.filter_map(|(_, session)| session.poll_timeout());
        timeouts
            .chain(self.discovery.as_ref().map(Discovery::poll_timeout))
            .min()
    }

    /// Whether frames wait for room to send them: then wait for that too.
    pub fn wants_room(&self, port: PortId) -> bool {
        let outbox = self.outboxes.get(usize::from(port.0));
        outbox.is_some_and(|outbox| !outbox.frames.is_empty())
    }

    /// Tells sessions what is new about the interfaces.
    fn look_at_ports(&mut self, now: Instant) {
        for (id, (port, known)) in (0..).zip(self.ports.iter().zip(&mut self.known)) {
            let interface = port.interface();
            let longest = port.max_frame().saturating_sub(aoede_wire::ETHERNET_BYTES);
            let local = LocalPort {
                mac: interface.mac,
                // A ring made for less does not take longer frames.
                mtu: interface
                    .mtu
                    .min(u32::try_from(longest).unwrap_or(u32::MAX)),
                up: interface.up,
            };
            if *known == Some(local) {
                continue;
            }
            *known = Some(local);
            for (_, session) in &mut self.sessions {
                session.handle_port(now, PortId(id), local);
            }
            if let Some(discovery) = &mut self.discovery {
                discovery.handle_port(PortId(id), local);
            }
        }
    }

    /// Whether there may be more.
    fn receive(&mut self, now: Instant) -> bool {
        let mut more = false;
        for (id, port) in (0..).zip(&mut self.ports) {
            let id = PortId(id);
            let mut taken = 0;
            while taken < FRAMES_A_TURN {
                let Some(bytes) = port.receive() else {
                    break;
                };
                taken += 1;
                let Ok(frame) = Frame::decode(bytes) else {
                    continue;
                };
                for (_, session) in &mut self.sessions {
                    if session.address() == frame.header.address {
                        session.handle_frame(now, id, bytes);
                    }
                }
                if let Some(discovery) = &mut self.discovery {
                    discovery.handle_frame(id, bytes);
                }
            }
            port.release();
            more |= taken == FRAMES_A_TURN;
        }
        more
    }

    fn handle_timeouts(&mut self, now: Instant) {
        for (_, session) in &mut self.sessions {
            if session.poll_timeout().is_some_and(|at| at <= now) {
                session.handle_timeout(now);
            }
        }
        if let Some(discovery) = &mut self.discovery {
            discovery.handle_timeout(now);
        }
    }

    /// Sends until there is nothing more, or no room for it.
    fn transmit(&mut self, now: Instant) {
        loop {
            for (outbox, port) in self.outboxes.iter_mut().zip(&mut self.ports) {
                outbox.send(port);
            }
            if self.outboxes.iter().any(|outbox| !outbox.frames.is_empty()) {
                // A send buffer is full. Sessions choose the port, so all have to wait.
                return;
            }
            if !self.encode(now) {
                return;
            }
        }
    }

    /// Encodes until there is nothing more, or a port has a whole batch. Whether it was anything.
    fn encode(&mut self, now: Instant) -> bool {
        let mut any = false;
        if let Some(discovery) = &mut self.discovery {
            let bytes = aoede_wire::MIN_FRAME_BYTES;
            while let Some(transmit) = discovery.poll_transmit(room(&mut self.scratch, bytes)) {
                any = true;
                post(&mut self.outboxes, &mut self.scratch, transmit);
            }
        }
        for (_, session) in &mut self.sessions {
            loop {
                let out = room(&mut self.scratch, session.frame_bytes());
                let Some(transmit) = session.poll_transmit(now, out) else {
                    break;
                };
                any = true;
                if post(&mut self.outboxes, &mut self.scratch, transmit) {
                    return true;
                }
            }
        }
        any
    }
}

/// So many bytes of a buffer, which grows if it is shorter. A longer one keeps its length: to make
/// it longer again would clear the rest each time.
fn room(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    buffer.get_mut(..bytes).unwrap_or_default()
}

/// Puts the frame in `scratch` into its port's outbox; whether that is full now.
fn post(outboxes: &mut [Outbox], scratch: &mut Vec<u8>, transmit: crate::Transmit) -> bool {
    match outboxes.get_mut(usize::from(transmit.port.0)) {
        Some(outbox) => outbox.post(scratch, transmit.len),
        None => false,
    }
}

/// Frames that wait to be sent on one port, and buffers for more.
#[derive(Debug, Default)]
struct Outbox {
    frames: Vec<Encoded>,
    spare: Vec<Vec<u8>>,
}

/// A frame, at the start of a buffer for any.
#[derive(Debug)]
struct Encoded {
    buffer: Vec<u8>,
    len: usize,
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or(&self.buffer)
    }
}

impl Outbox {
    fn post(&mut self, scratch: &mut Vec<u8>, len: usize) -> bool {
        let buffer = mem::replace(scratch, self.spare.pop().unwrap_or_default());
        self.frames.push(Encoded { buffer, len });
        self.frames.len() >= BATCH
    }

    fn send<P: Port>(&mut self, port: &mut P) {
        if !self.frames.is_empty() {
            let done = port.send(&self.frames).min(self.frames.len());
            let sent = self.frames.drain(..done);
            self.spare.extend(sent.map(|frame| frame.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoede_link::sim::SimNet;

    /// A short frame does not clear the buffer behind it, and nothing of what is there is sent.
    #[test]
    fn a_short_frame_leaves_the_rest_of_its_buffer_alone() {
        let net = SimNet::new(1);
        let mut other = net.attach("other", 1500);
        let mut driver = Driver::new(vec![net.attach("eth0", 1500)]);
        driver.scratch = vec![0xA5; 1514];
        driver.attach("e1.1".parse().unwrap(), Settings::default(), 1);
        driver.turn(Instant::START);
        let question = other.receive().unwrap();
        assert_eq!(question.len(), 60);
        // §4: no string, so its length and all behind it are zero.
        assert_eq!(question[24..], [0; 36]);
        let [buffer] = driver.outboxes[0].spare.as_slice() else {
            panic!("one buffer was used");
        };
        assert_eq!(buffer.len(), 1514);
        assert_eq!(buffer[60..], [0xA5; 1454]);
        driver.discover();
        driver.turn(Instant::START);
        assert_eq!(other.receive().unwrap().len(), 60);
        assert_eq!(driver.scratch.len(), 1514, "discovery needs less");
    }
}
