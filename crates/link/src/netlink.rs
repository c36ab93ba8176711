//! What interfaces there are, and what becomes of them: routing netlink, `rtnetlink(7)`.
//!
//! Two sockets, so that answers and events do not mix: one is asked, the other listens. Of a
//! message only the header and three attributes are read, by hand: a kernel that says something
//! else in a way the library does not know must not cost us the interface.
#![forbid(unsafe_code)]

use crate::Interface;
use aoede_wire::MacAddr;
use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator, parse_mac,
    parse_string, parse_u32,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    LinkAttribute, LinkFlags, LinkHeader, LinkLayerType, LinkMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, recv};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// The kernel's messages are at most this long, but for interfaces with virtual functions when
/// these are asked for, which we do not.
const MESSAGE_BYTES: usize = 32 * 1024;
/// Length of `struct nlmsghdr`; nothing shorter is a message.
const HEADER_BYTES: usize = 16;
/// Length of `struct ifinfomsg`, before the attributes.
const LINK_HEADER_BYTES: usize = 16;
/// The kernel answers at once; this only keeps a bug from hanging us.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often to list the interfaces again when they change meanwhile.
const DUMP_ATTEMPTS: usize = 8;

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;

/// Switched on, with carrier, and in service. The last comes a moment after the others; until then
/// the kernel silently drops what is sent.
const PASSES_FRAMES: LinkFlags = LinkFlags::Up
    .union(LinkFlags::LowerUp)
    .union(LinkFlags::Running);

/// What became of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// It is new, or something about it may have changed; this is how it was then. A name that
    /// changed shows as the same index with another name.
    Updated(Interface),
    /// It is gone.
    Removed {
        /// What its index was.
        index: u32,
        /// What its name was.
        name: String,
    },
    /// Events were lost, as too many came at once: compare [`Monitor::interfaces`] with what is
    /// known.
    Resync,
}

/// Tells about the interfaces of this network namespace.
///
/// The descriptor ([`AsFd`]) is readable when [`poll`](Self::poll) has something to tell; nothing
/// here waits for an event. Ask first and listen then, and nothing is missed: what changes after
/// `open` is also told by `poll`, though it may tell again what an answer contained already.
#[derive(Debug)]
pub struct Monitor {
    events: Socket,
    requests: Requests,
    /// Changes of one message that are not told yet.
    waiting: VecDeque<Change>,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Starts listening. Needs no privilege.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open() -> io::Result<Self> {
        let mut events = Socket::new(NETLINK_ROUTE)?;
        events.set_non_blocking(true)?;
        events.bind_auto()?;
        events.add_membership(libc::RTNLGRP_LINK)?;
        Ok(Self {
            events,
            requests: Requests::open()?,
            waiting: VecDeque::new(),
            buffer: vec![0; MESSAGE_BYTES],
        })
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// What the kernel said; that there is none is `None`.
    pub fn interface(&mut self, name: &str) -> io::Result<Option<Interface>> {
        // The kernel answers names that cannot be with other errors than ENODEV.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Ok(None);
        }
        let mut request = LinkMessage::default();
        request.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let request = RouteNetlinkMessage::GetLink(request);
        match self.requests.ask(request, NLM_F_ACK) {
            Ok(answers) => Ok(answers.into_iter().next()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All interfaces, of any kind.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        for _ in 0..DUMP_ATTEMPTS {
            let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
            match self.requests.ask(request, NLM_F_DUMP) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// The next change, if there was one.
    ///
    /// # Errors
    /// What the kernel said; the monitor can be used on.
    pub fn poll(&mut self) -> io::Result<Option<Change>> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Ok(Some(change));
            }
            match recv(&self.events, self.buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, len)) => match self.buffer.get(..len) {
                    Some(bytes) => {
                        let changes = Messages(bytes).filter_map(|message| change(message.payload));
                        self.waiting.extend(changes);
                    }
                    None => return Ok(Some(Change::Resync)),
                },
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Ok(Some(Change::Resync)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn change(payload: NetlinkPayload<Notice>) -> Option<Change> {
    match payload {
        NetlinkPayload::InnerMessage(Notice::Present(interface)) => {
            Some(Change::Updated(interface))
        }
        NetlinkPayload::InnerMessage(Notice::Gone { index, name }) => {
            Some(Change::Removed { index, name })
        }
        NetlinkPayload::Overrun(_) => Some(Change::Resync),
        _ => None,
    }
}

/// A socket for questions and orders, one at a time.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // To the kernel: no one else can answer then.
        socket.connect(&SocketAddr::new(0, 0))?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; MESSAGE_BYTES],
        })
    }

    /// Gives an order and waits until it is carried out or refused.
    pub(crate) fn run(&mut self, order: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.ask(order, flags | NLM_F_ACK).map(|_none| ())
    }

    /// Asks and collects the interfaces of the answer. Fails with `Interrupted` when a listing is
    /// not consistent.
    fn ask(&mut self, question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Interface>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(question),
        );
        message.header.flags = flags | NLM_F_REQUEST;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.collect()
    }

    fn collect(&mut self) -> io::Result<Vec<Interface>> {
        let mut found = Vec::new();
        let mut consistent = true;
        loop {
            let received = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC);
            let len = match received {
                Ok((_, len)) => len,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            };
            let bytes = self.buffer.get(..len).ok_or(io::ErrorKind::InvalidData)?;
            for message in Messages(bytes) {
                // The rest of an answer nobody waited for.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(Notice::Present(interface)) => {
                        found.push(interface);
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) if consistent => {
                        return Ok(found);
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => {
                        return Err(io::ErrorKind::Interrupted.into());
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The messages of one datagram; those that are none are skipped.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = NetlinkMessage<Notice>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let len = NetlinkBuffer::new_checked(self.0).ok()?.length();
            let len = usize::try_from(len)
                .ok()
                .filter(|&len| len >= HEADER_BYTES)?;
            let message = self.0.get(..len)?;
            let next = len.next_multiple_of(4);
            self.0 = self.0.get(next..).unwrap_or_default();
            if let Ok(message) = NetlinkMessage::deserialize(message) {
                return Some(message);
            }
        }
    }
}

/// What a message says about an interface.
#[derive(Debug, PartialEq, Eq)]
enum Notice {
    Present(Interface),
    Gone {
        index: u32,
        name: String,
    },
    /// About something else, such as the ports of a bridge.
    Other,
}

impl NetlinkDeserializable for Notice {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let present = match header.message_type {
            libc::RTM_NEWLINK => true,
            libc::RTM_DELLINK => false,
            _ => return Ok(Self::Other),
        };
        let link = LinkHeader::parse(payload)?;
        // With AF_BRIDGE the same messages tell that an interface joined or left a bridge.
        if link.interface_family != AddressFamily::Unspec {
            return Ok(Self::Other);
        }
        let (mut name, mut mtu, mut mac) = (None, None, MacAddr::ZERO);
        for attribute in NlasIterator::new(payload.get(LINK_HEADER_BYTES..).unwrap_or_default()) {
            let attribute = attribute?;
            match attribute.kind() {
                IFLA_IFNAME => name = Some(parse_string(attribute.value())?),
                IFLA_MTU => mtu = Some(parse_u32(attribute.value())?),
                // Of another length on links that are no Ethernet.
                IFLA_ADDRESS => mac = parse_mac(attribute.value()).map_or(MacAddr::ZERO, MacAddr),
                _ => {}
            }
        }
        Ok(match (present, name, mtu) {
            (true, Some(name), Some(mtu)) => Self::Present(Interface {
                index: link.index,
                name,
                mac,
                mtu,
                up: link.flags.contains(PASSES_FRAMES),
                ethernet: link.link_layer_type == LinkLayerType::Ether,
            }),
            (false, Some(name), _) => Self::Gone {
                index: link.index,
                name,
            },
            // Drivers of wireless interfaces tell news of theirs without the usual attributes.
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn eth0() -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = 7;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.header.flags = PASSES_FRAMES | LinkFlags::Broadcast;
        link.attributes = vec![
            LinkAttribute::IfName("eth0".to_owned()),
            LinkAttribute::TxQueueLen(1000),
            LinkAttribute::Mtu(9000),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 0x0A]),
        ];
        link
    }

    fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(message),
        );
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn changes(bytes: &[u8]) -> Vec<Change> {
        Messages(bytes)
            .filter_map(|message| change(message.payload))
            .collect()
    }

    fn updated(link: LinkMessage) -> Option<Interface> {
        match changes(&bytes(RouteNetlinkMessage::NewLink(link))).pop() {
            Some(Change::Updated(interface)) => Some(interface),
            _ => None,
        }
    }

    #[test]
    fn an_interface_is_read_from_its_message() {
        let expected = Interface {
            index: 7,
            name: "eth0".to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, 0x0A]),
            mtu: 9000,
            up: true,
            ethernet: true,
        };
        assert_eq!(updated(eth0()), Some(expected));
    }

    #[test]
    fn up_needs_switch_carrier_and_service() {
        for missing in [LinkFlags::Up, LinkFlags::LowerUp, LinkFlags::Running] {
            let mut link = eth0();
            link.header.flags.remove(missing);
            assert!(!updated(link).unwrap().up, "{missing:?}");
        }
    }

    #[test]
    fn addresses_of_other_lengths_are_no_mac() {
        let mut link = eth0();
        link.header.link_layer_type = LinkLayerType::Infiniband;
        link.attributes[3] = LinkAttribute::Address(vec![1; 20]);
        let interface = updated(link).unwrap();
        assert!(!interface.ethernet);
        assert_eq!(interface.mac, MacAddr::ZERO);
    }

    #[test]
    fn leaving_a_bridge_is_not_leaving_the_host() {
        let mut link = eth0();
        link.header.interface_family = AddressFamily::Bridge;
        let bytes = bytes(RouteNetlinkMessage::DelLink(link));
        assert_eq!(changes(&bytes), []);
    }

    #[test]
    fn news_without_the_usual_attributes_are_no_change() {
        let mut link = eth0();
        link.attributes
            .retain(|attribute| matches!(attribute, LinkAttribute::IfName(_)));
        assert_eq!(updated(link), None);
    }

    #[test]
    fn one_datagram_may_hold_several_messages() {
        let gone = Change::Removed {
            index: 7,
            name: "eth0".to_owned(),
        };
        let one = bytes(RouteNetlinkMessage::DelLink(eth0()));
        let two = [&one[..], &one[..]].concat();
        assert_eq!(changes(&two), [gone.clone(), gone.clone()]);
        // A message that cannot be read costs only itself: here the first attribute is too long.
        let mut broken = one.clone();
        broken[32..34].fill(0xFF);
        assert_eq!(changes(&[broken, one].concat()), [gone]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            changes(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic(
            damage in prop::collection::vec((0_usize..88, any::<u8>()), 1..4),
            len in 0_usize..=88,
        ) {
            let mut bytes = bytes(RouteNetlinkMessage::NewLink(eth0()));
            for (at, value) in damage {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            changes(&bytes[..len.min(bytes.len())]);
        }
    }
}
