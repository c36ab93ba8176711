//! Ports and monitor on real interfaces: a veth pair in a network namespace of its own, which goes
//! away with the thread of the test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may fail this way"
)]

use aoede_link::{
    Change, Interface, Monitor, OpenError, PacketPort, Port, PortOptions, RingUse, veth,
};
use aoede_wire::{Address, MacAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

/// Runs a test in a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        // SAFETY: only the network namespace of this thread changes; no descriptor is shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("tests of ports need root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn interface(name: &str) -> Interface {
    Monitor::open().unwrap().interface(name).unwrap().unwrap()
}

/// Two ends of a wire, `va` and `vb`, with carrier.
fn wire(mtu: u32) -> (Interface, Interface) {
    veth::create_pair("va", "vb", mtu).unwrap();
    (wait_until_up("va"), wait_until_up("vb"))
}

/// An end is told of its carrier only when the other is up, and takes some time over it.
fn wait_until_up(name: &str) -> Interface {
    let mut monitor = Monitor::open().unwrap();
    for _ in 0..500 {
        match monitor.interface(name).unwrap() {
            Some(interface) if interface.up => return interface,
            _ => thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("{name} has no carrier");
}

/// Switches `va` on again; `vb` then gets its carrier back.
fn switch_on() {
    veth::set_up("va", true).unwrap();
    wait_until_up("va");
    wait_until_up("vb");
}

fn ports(mtu: u32) -> (PacketPort, PacketPort) {
    let (a, b) = wire(mtu);
    (open(&a), open(&b))
}

fn open(interface: &Interface) -> PacketPort {
    PacketPort::open(interface, &PortOptions::default()).unwrap()
}

/// A request to `address`, numbered in its tag, with a payload that depends on the number.
fn frame(from: &PacketPort, to: MacAddr, address: Address, number: u32, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at as u32 ^ number) as u8).collect();
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.interface().mac.0);
    frame[12..14].copy_from_slice(&[0x88, 0xA2]);
    frame[14..16].copy_from_slice(&[0x10, 0]);
    frame[16..18].copy_from_slice(&address.shelf.to_be_bytes());
    frame[18] = address.slot;
    frame[19] = 0;
    frame[20..24].copy_from_slice(&number.to_be_bytes());
    frame
}

fn address(shelf: u16, slot: u8) -> Address {
    Address { shelf, slot }
}

fn frames(from: &PacketPort, to: &PacketPort, count: u32, len: usize) -> Vec<Vec<u8>> {
    let to = to.interface().mac;
    (0..count)
        .map(|number| frame(from, to, address(1, 1), number, len))
        .collect()
}

/// What a poll tells within the time.
fn events(port: &impl AsFd, ms: u64) -> PollFlags {
    let timeout = Timespec::try_from(Duration::from_millis(ms)).unwrap();
    let mut fds = [PollFd::new(port, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).unwrap();
    fds[0].revents()
}

/// Everything that arrives until nothing comes for a while.
fn receive_all(port: &mut PacketPort) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        while let Some(frame) = port.receive() {
            all.push(frame.to_vec());
        }
        if !events(port, 100).contains(PollFlags::IN) {
            return all;
        }
    }
}

fn numbers(frames: &[Vec<u8>]) -> Vec<u32> {
    let tag = |frame: &Vec<u8>| u32::from_be_bytes(frame[20..24].try_into().unwrap());
    frames.iter().map(tag).collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn frames_pass_both_ways_in_order_and_whole() {
    for mtu in [1500, 9000] {
        in_namespace(move || {
            let (mut a, mut b) = ports(mtu);
            assert!(a.max_frame() >= mtu as usize + 14);
            for len in [60, 61, 1042, mtu as usize + 14] {
                // More than one batch, fewer than fit into the ring.
                let sent = frames(&a, &b, 200, len);
                assert_eq!(a.send(&sent), 200);
                assert!(receive_all(&mut b) == sent, "{len} of {mtu}");

                let back = frames(&b, &a, 5, len);
                assert_eq!(b.send(&back), 5);
                assert!(receive_all(&mut a) == back, "{len} of {mtu}, back");
            }
            let stats = b.stats();
            assert_eq!((stats.received, stats.sent), (800, 20));
            assert_eq!((stats.ring_drops, stats.send_lost()), (0, 0));
            assert_eq!((stats.malformed, stats.truncated), (0, 0));
        });
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_frame_not_released_keeps_the_port_readable() {
    in_namespace(|| {
        let (mut a, mut b) = ports(1500);
        a.send(&frames(&a, &b, 1, 60));
        assert!(events(&b, 1000).contains(PollFlags::IN));
        assert!(b.receive().is_some());
        assert!(events(&b, 0).contains(PollFlags::IN));
        b.release();
        assert!(events(&b, 0).is_empty());
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_does_not_fit_into_the_ring_is_counted() {
    in_namespace(|| {
        let (mut a, mut b) = ports(1500);
        let sent = frames(&a, &b, 1000, 60);
        assert_eq!(a.send(&sent), 1000);
        thread::sleep(Duration::from_millis(200));
        let full = b.ring_use();
        let received = receive_all(&mut b);
        assert!((256..1000).contains(&received.len()), "{}", received.len());
        assert_eq!((full.waiting, full.free), (received.len(), 0));
        let empty = b.ring_use();
        assert_eq!((empty.waiting, empty.free), (0, received.len()));
        assert!(sent.starts_with(&received), "the first ones, in order");
        let stats = b.stats();
        assert_eq!(stats.received + stats.ring_drops, 1000);
        // The kernel forgets what it has told; the port does not.
        assert_eq!(b.stats().ring_drops, stats.ring_drops);

        // And the ring is as good as new, at any place in the circle.
        for _ in 0..7 {
            a.send(&sent[..100]);
            assert!(b.receive().is_some_and(|frame| frame == sent[0]));
            let (waiting, free) = (99, received.len() - 100);
            assert_eq!(b.ring_use(), RingUse { waiting, free });
            assert!(receive_all(&mut b) == sent[1..100]);
        }
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_kernel_delivers_what_the_filter_selects() {
    in_namespace(|| {
        let (a, b) = wire(1500);
        let mut a = open(&a);
        let options = PortOptions {
            exports: vec![address(7, 1), address(7, 2), address(9, 1)],
            ..PortOptions::default()
        };
        let mut b = PacketPort::open(&b, &options).unwrap();
        let to = b.interface().mac;
        let mut sent = Vec::new();
        for shelf in [0, 7, 8, 9, 0x0700, 0xFFFF] {
            for slot in [0, 1, 2, 3, 0xFF] {
                sent.push(address(shelf, slot));
            }
        }
        let all: Vec<_> = (0_u32..)
            .zip(&sent)
            .map(|(number, &address)| frame(&a, to, address, number, 60))
            .collect();
        let selected = |exports: &[Address]| -> Vec<u32> {
            let by = |request: Address| exports.iter().any(|&export| request.selects(export));
            (0_u32..)
                .zip(&sent)
                .filter(|&(_, &request)| by(request))
                .map(|(number, _)| number)
                .collect()
        };
        a.send(&all);
        assert_eq!(numbers(&receive_all(&mut b)), selected(&options.exports));
        assert_eq!(selected(&options.exports).len(), 8);

        let others = [address(8, 3)];
        b.set_exports(&others).unwrap();
        a.send(&all);
        assert_eq!(numbers(&receive_all(&mut b)), selected(&others));

        let many: Vec<_> = (0..400).map(|shelf| address(shelf, 0)).collect();
        b.set_exports(&many).unwrap();
        a.send(&all);
        assert_eq!(numbers(&receive_all(&mut b)), selected(&many));

        b.set_exports(&[]).unwrap();
        a.send(&all);
        assert_eq!(receive_all(&mut b), all);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn other_protocols_other_interfaces_and_own_frames_are_not_seen() {
    in_namespace(|| {
        let (mut a, mut b) = ports(1500);
        let mut same_side = open(a.interface());
        veth::create_pair("vc", "vd", 1500).unwrap();
        let mut elsewhere = open(&interface("vd"));

        let mut sent = frames(&a, &b, 3, 60);
        sent[1][12..14].copy_from_slice(&[0x08, 0x00]);
        a.send(&sent);
        assert_eq!(numbers(&receive_all(&mut b)), [0, 2]);
        for port in [&mut a, &mut same_side, &mut elsewhere] {
            assert!(receive_all(port).is_empty());
            assert_eq!(port.stats().outgoing_ignored, 0, "not even by the ring");
        }
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn frames_of_a_vlan_or_for_another_station_are_skipped() {
    in_namespace(|| {
        let (mut a, mut b) = ports(1500);
        let tag = |frame: &[u8], tci: u16| {
            let tag = [&[0x81, 0x00], &tci.to_be_bytes()[..]].concat();
            [&frame[..12], &tag, &frame[12..]].concat()
        };
        let mut plain = frames(&a, &b, 4, 60);
        plain[3][..6].fill(0xFF);
        let sent = [
            tag(&plain[0], 5),
            tag(&plain[1], 0xE000),
            plain[2].clone(),
            tag(&plain[3], 5),
        ];
        a.send(&sent);
        let received = receive_all(&mut b);
        assert_eq!(numbers(&received), [1, 2], "a priority is no VLAN");
        assert_eq!(received[0], plain[1]);
        assert_eq!(b.stats().foreign_ignored, 2);

        // A veth takes every frame, as an interface in promiscuous mode does.
        let stranger = frame(&a, MacAddr([2, 9, 9, 9, 9, 9]), address(1, 1), 0, 60);
        a.send(&[stranger]);
        assert_eq!(receive_all(&mut b).len(), 0);
        assert_eq!(b.stats().foreign_ignored, 3);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_port_survives_its_interface_going_down_and_up() {
    in_namespace(|| {
        let (mut a, mut b) = ports(1500);
        veth::set_up("va", false).unwrap();
        assert!(events(&a, 1000).contains(PollFlags::ERR));
        let error = a.take_error().expect("the interface is down");
        assert_eq!(error.raw_os_error(), Some(100), "ENETDOWN");
        assert!(a.take_error().is_none());
        assert!(events(&a, 0).is_empty(), "poll does not spin");

        let sent = frames(&a, &b, 100, 60);
        assert_eq!(a.send(&sent), 100, "dealt with");
        assert_eq!(a.stats().send_lost_down, 100);
        assert!(events(&a, 0).is_empty(), "and again poll does not spin");
        assert!(!interface("va").up);

        switch_on();
        b.take_error();
        assert_eq!(a.send(&sent), 100);
        assert!(receive_all(&mut b) == sent);

        // Not taken this time: what is remembered must cost no frame.
        veth::set_up("va", false).unwrap();
        switch_on();
        assert_eq!(a.send(&sent), 100);
        assert_eq!(a.stats().send_lost(), 100, "those from before");
        assert!(receive_all(&mut b) == sent);
        b.send(&frames(&b, &a, 1, 60));
        assert_eq!(receive_all(&mut a).len(), 1);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_port_opened_while_down_works_when_up() {
    in_namespace(|| {
        let (a, b) = wire(1500);
        let mut b = open(&b);
        veth::set_up("va", false).unwrap();
        let mut a = open(&a);
        assert!(events(&a, 0).is_empty());
        switch_on();
        let sent = frames(&b, &a, 3, 60);
        b.send(&sent);
        assert_eq!(receive_all(&mut a), sent);
        a.send(&frames(&a, &b, 3, 60));
        assert_eq!(receive_all(&mut b).len(), 3);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn frames_too_long_are_counted_at_both_ends() {
    in_namespace(|| {
        let (mut a, mut b) = ports(1500);
        let mut sent = frames(&a, &b, 3, 60);
        sent[1].resize(4000, 0);
        assert_eq!(a.send(&sent), 3);
        assert_eq!(a.stats().send_lost_too_long, 1);
        assert_eq!(numbers(&receive_all(&mut b)), [0, 2]);

        for name in ["va", "vb"] {
            veth::set_mtu(name, 9000).unwrap();
        }
        assert_eq!(a.send(&sent), 3);
        assert_eq!(numbers(&receive_all(&mut b)), [0, 2]);
        assert_eq!(b.stats().truncated, 1);
        b = open(&interface("vb"));
        assert!(b.max_frame() >= 9014);
        assert_eq!(a.send(&sent), 3);
        assert_eq!(receive_all(&mut b), sent);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_port_survives_its_interface_being_removed() {
    in_namespace(|| {
        let (mut a, b) = ports(1500);
        let gone = a.interface().clone();
        let sent = frames(&a, &b, 3, 60);
        veth::delete("va").unwrap();
        assert_eq!(a.send(&sent), 3);
        assert_eq!(a.stats().send_lost_down, 3);
        assert!(a.receive().is_none());
        a.take_error();
        assert!(events(&a, 0).is_empty());
        let error = PacketPort::open(&gone, &PortOptions::default()).unwrap_err();
        assert!(
            matches!(error, OpenError::NoSuchInterface { .. }),
            "{error}"
        );
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ports_that_cannot_be_opened_say_why() {
    in_namespace(|| {
        let (a, _) = wire(1500);
        let lo = interface("lo");
        assert!(!lo.ethernet);
        let error = PacketPort::open(&lo, &PortOptions::default()).unwrap_err();
        assert!(matches!(error, OpenError::NotEthernet { .. }), "{error}");

        let huge = Interface {
            mtu: u32::MAX,
            ..a.clone()
        };
        let error = PacketPort::open(&huge, &PortOptions::default()).unwrap_err();
        assert!(matches!(error, OpenError::Io { .. }), "{error}");

        // SAFETY: the system call itself, unlike the C function, changes this thread only.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0);
        let error = PacketPort::open(&a, &PortOptions::default()).unwrap_err();
        assert!(matches!(error, OpenError::Permission { .. }), "{error}");
        assert!(error.to_string().contains("cap_net_raw"));
        assert_eq!(interface("va"), a, "asking needs no privilege");
    });
}

/// All changes until nothing comes for a while, of one interface.
fn changes(monitor: &mut Monitor, index: u32) -> Vec<Change> {
    let mut all = Vec::new();
    loop {
        while let Some(change) = monitor.poll().unwrap() {
            match &change {
                Change::Updated(interface) if interface.index != index => {}
                Change::Removed { index: other, .. } if *other != index => {}
                _ => all.push(change),
            }
        }
        if events(monitor, 100).is_empty() {
            return all;
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_monitor_tells_what_happens_to_an_interface() {
    in_namespace(|| {
        let mut monitor = Monitor::open().unwrap();
        assert_eq!(monitor.interface("va").unwrap(), None);
        for name in ["", "a-name-of-more-than-15-bytes", "v\0a", "é"] {
            assert_eq!(monitor.interface(name).unwrap(), None, "{name}");
        }
        assert_eq!(monitor.poll().unwrap(), None);
        let (a, b) = wire(9000);
        assert_eq!((a.name.as_str(), a.mtu), ("va", 9000));
        assert_eq!((b.name.as_str(), b.mtu), ("vb", 9000));
        assert!(a.up && a.ethernet && a.mac.is_unicast() && a.mac != b.mac);
        let names: BTreeSet<_> = monitor
            .interfaces()
            .unwrap()
            .into_iter()
            .map(|i| i.name)
            .collect();
        assert!(["lo", "va", "vb"].iter().all(|&name| names.contains(name)));
        let last = changes(&mut monitor, a.index).pop();
        assert_eq!(last, Some(Change::Updated(a.clone())));

        let mut last = |act: &dyn Fn()| {
            act();
            match changes(&mut monitor, a.index).pop() {
                Some(Change::Updated(interface)) => interface,
                other => panic!("{other:?}"),
            }
        };
        let mtu = last(&|| veth::set_mtu("va", 1500).unwrap());
        assert_eq!(
            mtu,
            Interface {
                mtu: 1500,
                ..a.clone()
            }
        );

        let down = last(&|| veth::set_up("va", false).unwrap());
        assert!(!down.up);
        assert!(last(&switch_on).up);
        let no_carrier = last(&|| veth::set_up("vb", false).unwrap());
        assert!(!no_carrier.up, "the other end is down");
        let carrier = last(&|| {
            veth::set_up("vb", true).unwrap();
            wait_until_up("va");
        });
        assert!(carrier.up);

        let mac = MacAddr([2, 0, 0, 0, 0, 0x0A]);
        assert_eq!(last(&|| veth::set_mac("va", mac).unwrap()).mac, mac);

        veth::delete("vb").unwrap();
        let removed = Change::Removed {
            index: a.index,
            name: "va".to_owned(),
        };
        assert_eq!(changes(&mut monitor, a.index).pop(), Some(removed));
        assert_eq!(monitor.interface("va").unwrap(), None);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_monitor_survives_lost_events() {
    in_namespace(|| {
        let (a, _) = wire(1500);
        let mut monitor = Monitor::open().unwrap();
        for step in 0..1000 {
            veth::set_mtu("va", 1400 + step % 2).unwrap();
        }
        let all = changes(&mut monitor, a.index);
        assert!(all.contains(&Change::Resync));
        let interfaces = monitor.interfaces().unwrap();
        assert!(interfaces.iter().any(|i| i.name == "va" && i.mtu == 1401));
        // And it tells on.
        veth::set_mtu("va", 1300).unwrap();
        let last = changes(&mut monitor, a.index).pop();
        assert!(matches!(last, Some(Change::Updated(i)) if i.mtu == 1300));
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pairs_that_cannot_be_made_say_why() {
    in_namespace(|| {
        veth::create_pair("va", "vb", 1500).unwrap();
        let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
        let taken = kind(veth::create_pair("va", "vc", 1500));
        assert_eq!(taken, std::io::ErrorKind::AlreadyExists);
        assert!(veth::create_pair("a-name-of-more-than-15-bytes", "vc", 1500).is_err());
        assert!(veth::create_pair("vd", "ve", 1).is_err());
        assert!(veth::set_mtu("nosuch", 1500).is_err());
        assert!(veth::delete("nosuch").is_err());
        let names: Vec<_> = Monitor::open().unwrap().interfaces().unwrap();
        assert!(names.iter().all(|i| i.name != "vc" && i.name != "vd"));
    });
}
