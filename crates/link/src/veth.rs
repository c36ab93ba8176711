//! Pairs of virtual Ethernet interfaces: what goes into one end comes out of the other.
//!
//! For demonstrations and tests, without `iproute2`; needs `CAP_NET_ADMIN`. Real interfaces are
//! never changed by this crate unless their name is given here.
#![forbid(unsafe_code)]

use crate::netlink::Requests;
use aoede_wire::MacAddr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use std::io;

/// Makes a pair with these names and this MTU, and switches both ends on. The carrier follows a
/// moment later ([`Interface::up`](crate::Interface::up)); what is sent before it may be lost.
///
/// # Errors
/// What the kernel said: no permission, a name that is taken or too long, an impossible MTU.
pub fn create_pair(a: &str, b: &str, mtu: u32) -> io::Result<()> {
    let end = |name: &str| {
        let mut end = named(name);
        end.attributes.push(LinkAttribute::Mtu(mtu));
        end
    };
    let mut pair = end(a);
    pair.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(b)))),
    ]));
    let request = RouteNetlinkMessage::NewLink(pair);
    Requests::open()?.run(request, NLM_F_CREATE | NLM_F_EXCL)?;
    // Only now: an end cannot come up before the other is there.
    let up = set_up(a, true).and_then(|()| set_up(b, true));
    if up.is_err() {
        let _the_first_error_matters = delete(a);
    }
    up
}

/// Switches an interface on or off.
///
/// # Errors
/// What the kernel said: no permission, no such interface.
pub fn set_up(name: &str, up: bool) -> io::Result<()> {
    let mut change = named(name);
    change.header.flags = if up {
        LinkFlags::Up
    } else {
        LinkFlags::empty()
    };
    change.header.change_mask = LinkFlags::Up;
    Requests::open()?.run(RouteNetlinkMessage::SetLink(change), 0)
}

/// Changes the MTU of an interface.
///
/// # Errors
/// What the kernel said: no permission, no such interface, an impossible MTU.
pub fn set_mtu(name: &str, mtu: u32) -> io::Result<()> {
    let mut change = named(name);
    change.attributes.push(LinkAttribute::Mtu(mtu));
    Requests::open()?.run(RouteNetlinkMessage::SetLink(change), 0)
}

/// Changes the MAC address of an interface.
///
/// # Errors
/// What the kernel said: no permission, no such interface, an impossible address.
pub fn set_mac(name: &str, mac: MacAddr) -> io::Result<()> {
    let mut change = named(name);
    change
        .attributes
        .push(LinkAttribute::Address(mac.0.to_vec()));
    Requests::open()?.run(RouteNetlinkMessage::SetLink(change), 0)
}

/// Removes an interface, and with it the other end of its pair.
///
/// # Errors
/// What the kernel said: no permission, no such interface, or one that is not virtual.
pub fn delete(name: &str) -> io::Result<()> {
    Requests::open()?.run(RouteNetlinkMessage::DelLink(named(name)), 0)
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    message
}
