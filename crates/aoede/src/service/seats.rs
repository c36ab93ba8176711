//! Which interfaces an export is served on, and what becomes of them.
//!
//! At start an interface that cannot be used is an error. Later nothing is: a port is opened,
//! closed and opened again as its interface comes, goes and changes.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context as _, bail};
use aoede_disk::{Buffer, Engine};
use aoede_link::{Change, Interface, Monitor, PacketPort, Port as _, PortOptions};
use aoede_target::PortFacts;
use aoede_wire::{Address, ETHERNET_BYTES, SECTOR_BYTES, sectors_per_frame};
use tracing::{debug, error, info, warn};

use super::Losses;
use super::wait::Waiter;
use crate::reach::no_such;
use crate::worker::Worker;

/// A config string of 1024 bytes needs this (§1 of the protocol).
pub(crate) const LEAST_MTU: u32 = 1042;

/// The interfaces of a worker, one for each of its seats.
#[derive(Debug)]
pub(super) struct Seats {
    monitor: Monitor,
    list: Vec<Seat>,
    /// The addresses served, for the kernel's filter.
    addresses: Vec<Address>,
    /// Largest payload that the worker's buffers hold, in bytes.
    data_bytes: usize,
    /// Losses of ports that are closed by now.
    lost_before: Losses,
}

#[derive(Debug)]
struct Seat {
    name: String,
    /// As last seen; `None` while it is away.
    interface: Option<Interface>,
    /// The port is not as the interface would have it: to be tried again.
    incomplete: bool,
    /// Opened at the start, and not yet plugged in.
    opened: Option<PacketPort>,
}

impl Seats {
    /// Looks the interfaces up, checks that they can be used, and opens a port on each: so that
    /// whatever is wrong with them shows before a file is touched.
    pub(super) fn find(
        mut monitor: Monitor,
        names: &[String],
        address: Address,
    ) -> anyhow::Result<Self> {
        let addresses = vec![address];
        let mut seats: Vec<Seat> = Vec::new();
        for name in names {
            if seats.iter().any(|seat| seat.name == *name) {
                bail!("interface {name} is named twice");
            }
            let found = monitor
                .interface(name)
                .with_context(|| format!("cannot ask the kernel about interface {name}"))?;
            let Some(interface) = found else {
                let all = monitor.interfaces().unwrap_or_default();
                bail!("{}", no_such(name, &all));
            };
            check(&interface)?;
            let same = |seat: &&Seat| {
                let known = seat.interface.as_ref();
                known.is_some_and(|known| known.index == interface.index)
            };
            if let Some(seat) = seats.iter().find(same) {
                bail!(
                    "{name} and {} are the same interface; name it once",
                    seat.name
                );
            }
            if !interface.up {
                warn!("{name} is down: serving there when it comes up");
            }
            seats.push(Seat {
                name: name.clone(),
                incomplete: false,
                opened: Some(open(&interface, &addresses)?),
                interface: Some(interface),
            });
        }
        Ok(Self {
            monitor,
            list: seats,
            addresses,
            data_bytes: 0,
            lost_before: Losses::default(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self.list.iter().map(|seat| seat.name.as_str()).collect();
        names.join(",")
    }

    pub(super) fn largest_mtu(&self) -> u32 {
        let interfaces = self.list.iter().filter_map(|seat| seat.interface.as_ref());
        interfaces.map(|interface| interface.mtu).max().unwrap_or(0)
    }

    /// Plugs the ports into the worker and has the exports announced there.
    pub(super) fn plug_all<E: Engine<Buffer>>(
        &mut self,
        worker: &mut Worker<PacketPort, E>,
        waiter: &mut Waiter,
        data_bytes: usize,
    ) -> anyhow::Result<()> {
        self.data_bytes = data_bytes;
        for seat in 0..self.list.len() {
            let found = self
                .list
                .get_mut(seat)
                .and_then(|seat| seat.interface.take());
            if let Some(interface) = found {
                self.place(seat, &interface, worker, waiter)?;
            }
        }
        Ok(())
    }

    /// Reads what has changed about the interfaces and acts on it.
    pub(super) fn follow<E: Engine<Buffer>>(
        &mut self,
        worker: &mut Worker<PacketPort, E>,
        waiter: &mut Waiter,
    ) {
        // What changed does not matter: each interface is looked at as it is now, so that lost,
        // late and repeated news do no harm.
        loop {
            match self.monitor.poll() {
                // One that comes back, even with the same index, is another interface.
                Ok(Some(Change::Removed { index, .. })) => self.remove(index, worker),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    warn!("cannot read news about interfaces: {error}");
                    break;
                }
            }
        }
        for index in 0..self.list.len() {
            let Some(seat) = self.list.get(index) else {
                continue;
            };
            let name = seat.name.clone();
            match self.monitor.interface(&name) {
                Ok(Some(interface)) => {
                    if let Err(error) = self.place(index, &interface, worker, waiter) {
                        error!("{error:#}");
                    }
                }
                Ok(None) => self.leave(index, worker),
                Err(error) => warn!("cannot ask the kernel about interface {name}: {error}"),
            }
        }
    }

    /// Makes the seat serve on `interface` as it is now.
    fn place<E: Engine<Buffer>>(
        &mut self,
        index: usize,
        interface: &Interface,
        worker: &mut Worker<PacketPort, E>,
        waiter: &mut Waiter,
    ) -> anyhow::Result<()> {
        let Some(seat) = self.list.get_mut(index) else {
            return Ok(());
        };
        if seat.interface.as_ref() == Some(interface) && !seat.incomplete {
            return Ok(());
        }
        if let Err(problem) = check(interface) {
            seat.interface = Some(interface.clone());
            self.close(index, worker);
            return Err(problem.context("not served there until that has changed"));
        }
        // Until all of the below has been done, it is tried again.
        let tried_before = std::mem::replace(&mut seat.incomplete, true);
        let largest = interface.mtu as usize + ETHERNET_BYTES;
        let usable = worker.port(index).is_some_and(|port| {
            port.interface().index == interface.index && port.max_frame() >= largest
        });
        if usable {
            if let Some(port) = worker.port_mut(index) {
                port.set_interface(interface.clone());
            }
        } else {
            let opened = self.list.get_mut(index).and_then(|seat| seat.opened.take());
            let port = match opened {
                Some(port) => port,
                // The old port, if there is one, goes on meanwhile.
                None => match open(interface, &self.addresses) {
                    Err(error) if tried_before => {
                        debug!("{error:#}");
                        return Ok(());
                    }
                    port => port?,
                },
            };
            self.close(index, worker);
            waiter.plug(index, &port).context("waiting for a port")?;
            worker.set_port(index, Some(port));
        }
        worker.set_facts(index, facts(interface, self.data_bytes));
        if interface.up {
            worker.announce(index);
        }
        let before = self.list.get_mut(index).and_then(|seat| {
            seat.incomplete = false;
            seat.interface.replace(interface.clone())
        });
        if let Some(before) = before {
            log_change(&before, interface);
        } else {
            debug!(mtu = interface.mtu, mac = %interface.mac, "{}: open", interface.name);
        }
        Ok(())
    }

    /// Whether some interface could not be followed yet.
    pub(super) fn is_incomplete(&self) -> bool {
        self.list.iter().any(|seat| seat.incomplete)
    }

    /// The interface with this kernel index is gone.
    fn remove<E: Engine<Buffer>>(&mut self, gone: u32, worker: &mut Worker<PacketPort, E>) {
        for index in 0..self.list.len() {
            let interface = self
                .list
                .get(index)
                .and_then(|seat| seat.interface.as_ref());
            if interface.is_some_and(|interface| interface.index == gone) {
                self.leave(index, worker);
            }
        }
    }

    /// The interface of a seat is gone.
    fn leave<E: Engine<Buffer>>(&mut self, index: usize, worker: &mut Worker<PacketPort, E>) {
        let Some(seat) = self.list.get_mut(index) else {
            return;
        };
        seat.incomplete = false;
        if seat.interface.take().is_some() {
            warn!(
                "{} is gone: serving there again when it comes back",
                seat.name
            );
            self.close(index, worker);
        }
    }

    fn close<E: Engine<Buffer>>(&mut self, index: usize, worker: &mut Worker<PacketPort, E>) {
        if let Some(port) = worker.port_mut(index) {
            self.lost_before = self.lost_before.plus(port);
            worker.set_port(index, None);
        }
    }

    /// Takes the errors that keep ports from being waited for, such as "network is down".
    pub(super) fn take_errors<E: Engine<Buffer>>(&self, worker: &mut Worker<PacketPort, E>) {
        for (index, seat) in self.list.iter().enumerate() {
            if let Some(error) = worker.port_mut(index).and_then(PacketPort::take_error) {
                debug!("{}: {error}", seat.name);
            }
        }
    }

    /// Has every export announced on every interface.
    pub(super) fn announce_all<E: Engine<Buffer>>(&self, worker: &mut Worker<PacketPort, E>) {
        for seat in 0..self.list.len() {
            worker.announce(seat);
        }
    }

    /// Frames lost so far on all interfaces.
    pub(super) fn losses<E: Engine<Buffer>>(&self, worker: &mut Worker<PacketPort, E>) -> Losses {
        (0..self.list.len()).fold(self.lost_before, |losses, index| {
            match worker.port_mut(index) {
                Some(port) => losses.plus(port),
                None => losses,
            }
        })
    }
}

/// Readable when something may have changed about the interfaces.
impl AsFd for Seats {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

/// A port that receives what is meant for `addresses`.
fn open(interface: &Interface, addresses: &[Address]) -> anyhow::Result<PacketPort> {
    let options = PortOptions {
        exports: addresses.to_vec(),
        ..PortOptions::default()
    };
    Ok(PacketPort::open(interface, &options)?)
}

/// Whether AoE can be served on an interface.
fn check(interface: &Interface) -> anyhow::Result<()> {
    let Interface { name, mtu, .. } = interface;
    if !interface.ethernet {
        bail!(
            "{name} is not an Ethernet interface, and AoE needs one; `ip link` shows them as link/ether"
        );
    }
    if *mtu < LEAST_MTU {
        bail!(
            "{name} has an MTU of {mtu} bytes; AoE needs at least {LEAST_MTU}: ip link set {name} mtu 1500"
        );
    }
    Ok(())
}

fn facts(interface: &Interface, data_bytes: usize) -> PortFacts {
    let held = u8::try_from(data_bytes / SECTOR_BYTES).unwrap_or(u8::MAX);
    PortFacts {
        mac: interface.mac,
        mtu: interface.mtu,
        max_sectors: sectors_per_frame(interface.mtu, false).min(held),
    }
}

fn log_change(before: &Interface, now: &Interface) {
    let name = &now.name;
    match (before.up, now.up) {
        (true, false) => warn!("{name} is down"),
        (false, true) => info!("{name} is up"),
        _ => {}
    }
    if before.mtu != now.mtu {
        info!("{name}: the MTU is now {}", now.mtu);
    }
    if before.mac != now.mac {
        info!("{name}: the MAC address is now {}", now.mac);
    }
}
