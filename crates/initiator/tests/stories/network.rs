//! The whole over a virtual cable: packet sockets, the kernel's news about interfaces, real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use aoede_initiator::{Client, Settings};
use aoede_link::{Interface, Monitor, PacketPort, Port as _, PortOptions, namespace, veth};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bench::{E1_1, SECTORS, facts};
use crate::target::{ALL, Model, settings};

/// A target on an interface, until it is told to stop.
fn serve(interface: &Interface, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    let mut port = PacketPort::open(interface, &PortOptions::default()).unwrap();
    let mut model = Model::new(settings(E1_1, SECTORS), ALL);
    let facts = facts(interface.mac, interface.mtu);
    spawn(move || {
        let start = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let now = aoede_initiator::Instant::START + start.elapsed();
            while let Some(frame) = port.receive() {
                model.take(now, 0, &facts, frame);
            }
            port.release();
            let answers = model.responses(now).into_iter();
            let answers: Vec<_> = answers.map(|(_, answer)| answer).collect();
            let mut sent = 0;
            while sent < answers.len() {
                sent += port.send(&answers[sent..]);
            }
            let step = Timespec::try_from(Duration::from_millis(20)).unwrap();
            poll(&mut [PollFd::new(&port, PollFlags::IN)], Some(&step)).unwrap();
            let _down = port.take_error();
        }
    })
}

/// Waits until an interface passes frames.
fn interface(monitor: &mut Monitor, name: &str) -> Interface {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let found = monitor.interface(name).unwrap().unwrap();
        if found.up {
            return found;
        }
        assert!(Instant::now() < end, "{name} does not come up");
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_disk_over_a_virtual_cable_outlives_its_failures() {
    namespace::enter_private().unwrap();
    veth::create_pair("i0", "t0", 9000).unwrap();
    for name in ["i0", "t0"] {
        veth::set_up(name, true).unwrap();
    }
    let mut monitor = Monitor::open().unwrap();
    let ours = interface(&mut monitor, "i0");
    let stop = Arc::new(AtomicBool::new(false));
    let target = serve(&interface(&mut monitor, "t0"), Arc::clone(&stop));

    let client = Client::open(&[ours]).unwrap();
    let found = client.discover(Duration::from_millis(200)).unwrap();
    assert_eq!((found.len(), found[0].sector_count), (1, 17));
    let patience = Duration::from_secs(10);
    let disk = client.attach(E1_1, Settings::default(), patience).unwrap();

    let data: Vec<u8> = (0..200 * 512_u32).map(|i| (i / 11) as u8).collect();
    disk.write_at(3, &data).unwrap();
    let mut back = vec![0; data.len()];
    disk.read_at(3, &mut back).unwrap();
    assert_eq!(back, data);
    let path = &disk.info().unwrap().paths[0];
    assert_eq!(path.sectors_per_frame, 17);
    assert!(path.features.tags && path.features.coalesced_read);

    // The cable is out for a while; what is asked meanwhile waits.
    veth::set_up("i0", false).unwrap();
    let writer = {
        let disk = disk.clone();
        spawn(move || disk.write_at(300, &[7; 512]))
    };
    let end = Instant::now() + patience;
    while disk.info().unwrap().paths[0].ready {
        assert!(Instant::now() < end, "the port's end is not noticed");
    }
    veth::set_up("i0", true).unwrap();
    writer.join().unwrap().unwrap();
    let mut sector = [0; 512];
    disk.read_at(300, &mut sector).unwrap();
    assert_eq!(sector, [7; 512]);

    // Long frames stop passing, at the far end.
    veth::set_mtu("t0", 1500).unwrap();
    disk.write_at(3, &data).unwrap();
    disk.read_at(3, &mut back).unwrap();
    assert_eq!(back, data);
    disk.flush().unwrap();

    stop.store(true, Ordering::Relaxed);
    target.join().unwrap();
}
