//! Which interfaces the exports of a worker are served on, and what becomes of them.
//!
//! A port is opened, closed and opened again as its interface comes, goes and changes, and as
//! exports want it. With `aoede export` an interface that cannot be used at start is an error;
//! later, and for a daemon, nothing is.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context as _, bail};
use aoede_link::{Change, Interface, Monitor, PacketPort, Port as _, PortOptions, PortStats};
use aoede_target::PortFacts;
use aoede_wire::{Address, ETHERNET_BYTES, SECTOR_BYTES, sectors_per_frame};
use tracing::{debug, error, info, warn};

use super::Losses;
use super::engines::Engines;
use super::wait::Waiter;
use crate::control::config::Pattern;
use crate::reach::no_such;
use crate::worker::{SeatSet, Worker};

/// A config string of 1024 bytes needs this (§1 of the protocol).
pub(crate) const LEAST_MTU: u32 = 1042;

/// The worker of a service.
pub(super) type PortWorker = Worker<PacketPort, Engines>;

/// Some interfaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    /// By a name, or another name, that the kernel knows it by.
    Named(String),
    /// Every Ethernet interface that matches.
    Matching(Pattern),
}

impl From<&Pattern> for Wanted {
    fn from(pattern: &Pattern) -> Self {
        if pattern.is_name() {
            Self::Named(pattern.as_str().to_owned())
        } else {
            Self::Matching(pattern.clone())
        }
    }
}

/// An export, by the worker's number, and where it shall be served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) export: usize,
    pub(super) address: Address,
    pub(super) interfaces: &'a [Wanted],
}

/// The interfaces of a worker, one for each of its seats.
#[derive(Debug)]
pub(super) struct Seats {
    monitor: Monitor,
    list: Vec<Seat>,
    /// Largest payload that the worker's buffers hold, in bytes.
    data_bytes: usize,
    /// Losses of ports that are closed by now.
    lost_before: Losses,
    /// It has been said that there are too many interfaces.
    told_of_too_many: bool,
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
    /// Of the exports that are served here, for the kernel's filter; in order.
    addresses: Vec<Address>,
}

/// An interface and the exports that are to be served there.
struct Found {
    interface: Interface,
    exports: BTreeMap<usize, Address>,
}

impl Seats {
    /// No interface yet.
    pub(super) fn new(monitor: Monitor) -> Self {
        Self {
            monitor,
            list: Vec::new(),
            data_bytes: 0,
            lost_before: Losses::default(),
            told_of_too_many: false,
        }
    }

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
            if let Some(seat) = seats.iter().find(|seat| seat.is_opened_on(&interface)) {
                bail!(
                    "{name} and {} are the same interface; name it once",
                    seat.name
                );
            }
            if !interface.up {
                warn!("{name} is down: serving there when it comes up");
            }
            seats.push(Seat {
                opened: Some(open(&interface, &addresses)?),
                addresses: addresses.clone(),
                ..Seat::new(name)
            });
        }
        Ok(Self {
            list: seats,
            ..Self::new(monitor)
        })
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self.list.iter().map(|seat| seat.name.as_str()).collect();
        names.join(",")
    }

    /// The interfaces as last seen, with the number of their seats.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = (usize, &str, Option<&Interface>)> {
        let seats = self.list.iter().enumerate();
        seats.map(|(number, seat)| (number, seat.name.as_str(), seat.interface.as_ref()))
    }

    /// The names of those that an export is served on.
    pub(super) fn names_at(&self, export: usize, worker: &PortWorker) -> Vec<String> {
        let seats = worker.export_seats(export);
        let served = self
            .interfaces()
            .filter(|&(seat, _, interface)| interface.is_some() && seats.contains(seat));
        served.map(|(_, name, _)| name.to_owned()).collect()
    }

    pub(super) fn largest_mtu(&self) -> u32 {
        let ports = self.list.iter().filter_map(|seat| seat.opened.as_ref());
        ports.map(|port| port.interface().mtu).max().unwrap_or(0)
    }

    /// What the worker's buffers hold. To be told before anything is served.
    pub(super) fn set_data_bytes(&mut self, data_bytes: usize) {
        self.data_bytes = data_bytes;
    }

    /// Reads what has changed about the interfaces, and has every export served where it shall be.
    pub(super) fn follow(
        &mut self,
        places: &[Place<'_>],
        worker: &mut PortWorker,
        waiter: &mut Waiter,
    ) {
        if let Err(error) = self.serve(places, worker, waiter) {
            error!("{error:#}");
        }
    }

    /// The same; tells the first thing that went wrong, and logs the others.
    ///
    /// # Errors
    /// A port cannot be opened. It is tried again once a second.
    pub(super) fn serve(
        &mut self,
        places: &[Place<'_>],
        worker: &mut PortWorker,
        waiter: &mut Waiter,
    ) -> anyhow::Result<()> {
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
        let Some(found) = self.look(places) else {
            return Ok(());
        };
        for index in 0..self.list.len() {
            let current = self.list.get(index).and_then(Seat::index);
            if current.is_some_and(|current| !found.contains_key(&current)) {
                self.leave(index, places, worker);
            }
        }
        let mut seated = Vec::new();
        let mut taken = SeatSet::NONE;
        let mut sets: BTreeMap<usize, SeatSet> = BTreeMap::new();
        for found in found.values() {
            let Some(seat) = self.seat_for(&found.interface, taken, worker) else {
                continue;
            };
            taken = taken.with(seat);
            seated.push((seat, found));
            for &export in found.exports.keys() {
                let set = sets.entry(export).or_default();
                *set = set.with(seat);
            }
        }
        // Before the interfaces themselves: what is announced there is answered.
        for place in places {
            let set = sets.get(&place.export).copied().unwrap_or_default();
            worker.set_export_seats(place.export, set);
        }
        let mut first = Ok(());
        for (seat, found) in seated {
            if let Err(problem) = self.place(seat, found, worker, waiter) {
                if first.is_ok() {
                    first = Err(problem);
                } else {
                    error!("{problem:#}");
                }
            }
        }
        first
    }

    /// The interfaces that are wanted and there, by their kernel index. None: the kernel does not
    /// tell, so nothing should change.
    fn look(&mut self, places: &[Place<'_>]) -> Option<BTreeMap<u32, Found>> {
        let wanted: BTreeSet<&Wanted> = places.iter().flat_map(|place| place.interfaces).collect();
        let mut all = None;
        let mut matched: BTreeMap<&Wanted, Vec<Interface>> = BTreeMap::new();
        for wanted in wanted {
            let interfaces = match wanted {
                Wanted::Named(name) => match self.monitor.interface(name) {
                    Ok(found) => found.into_iter().collect(),
                    Err(error) => {
                        warn!("cannot ask the kernel about interface {name}: {error}");
                        return None;
                    }
                },
                Wanted::Matching(pattern) => {
                    if all.is_none() {
                        match self.monitor.interfaces() {
                            Ok(interfaces) => all = Some(interfaces),
                            Err(error) => {
                                warn!("cannot ask the kernel about interfaces: {error}");
                                return None;
                            }
                        }
                    }
                    let all = all.iter().flatten();
                    let fits = |one: &&Interface| one.ethernet && pattern.matches(&one.name);
                    all.filter(fits).cloned().collect()
                }
            };
            matched.insert(wanted, interfaces);
        }
        let mut found: BTreeMap<u32, Found> = BTreeMap::new();
        for place in places {
            let interfaces = place.interfaces.iter().filter_map(|one| matched.get(one));
            for interface in interfaces.flatten() {
                let entry = found.entry(interface.index).or_insert_with(|| Found {
                    interface: interface.clone(),
                    exports: BTreeMap::new(),
                });
                entry.exports.insert(place.export, place.address);
            }
        }
        Some(found)
    }

    /// The seat that an interface has, had, or gets; none of `taken`.
    fn seat_for(
        &mut self,
        interface: &Interface,
        taken: SeatSet,
        worker: &mut PortWorker,
    ) -> Option<usize> {
        let position = |is_it: &dyn Fn(&Seat) -> bool| self.list.iter().position(is_it);
        let free = |seat: &Seat| seat.interface.is_none() && seat.opened.is_none();
        let seat = position(&|seat| seat.index() == Some(interface.index))
            .or_else(|| position(&|seat| free(seat) && seat.name == interface.name));
        if seat.is_some() {
            return seat;
        }
        if let Some(added) = worker.add_seat() {
            debug_assert_eq!(added, self.list.len());
            self.list.push(Seat::new(&interface.name));
            return Some(added);
        }
        // Responses that are under way to an interface that is gone may leave by this one: nobody
        // there waits for them.
        let mut seats = self.list.iter().enumerate();
        let seat = seats.find(|&(number, seat)| !taken.contains(number) && free(seat));
        let seat = seat.map(|(number, _)| number);
        match seat.and_then(|seat| self.list.get_mut(seat)) {
            Some(seat) => interface.name.clone_into(&mut seat.name),
            None if !self.told_of_too_many => {
                self.told_of_too_many = true;
                error!(
                    "{}: not served there: a worker serves on {} interfaces at most",
                    interface.name,
                    self.list.len()
                );
            }
            None => {}
        }
        seat
    }

    /// Makes the seat serve the exports on the interface as it is now.
    fn place(
        &mut self,
        index: usize,
        found: &Found,
        worker: &mut PortWorker,
        waiter: &mut Waiter,
    ) -> anyhow::Result<()> {
        let interface = &found.interface;
        let addresses: Vec<Address> = found.exports.values().copied().collect();
        let Some(seat) = self.list.get_mut(index) else {
            return Ok(());
        };
        if seat.interface.as_ref() == Some(interface) && !seat.incomplete {
            if seat.addresses == addresses {
                return Ok(());
            }
            // Until that is done, it is tried again.
            seat.incomplete = true;
            seat.set_filter(addresses, worker.port_mut(index))?;
            seat.incomplete = false;
            return Ok(());
        }
        if let Err(problem) = check(interface) {
            seat.interface = Some(interface.clone());
            self.close(index, worker);
            error!(
                "{:#}",
                problem.context("not served there until that has changed")
            );
            return Ok(());
        }
        // Until all of the below has been done, it is tried again.
        let tried_before = std::mem::replace(&mut seat.incomplete, true);
        let largest = interface.mtu as usize + ETHERNET_BYTES;
        let fits = |port: &PacketPort| {
            port.interface().index == interface.index && port.max_frame() >= largest
        };
        let opened = seat.opened.take().filter(fits);
        let same_filter = seat.addresses == addresses;
        if worker.port(index).is_some_and(fits) {
            let mut port = worker.port_mut(index);
            if let Some(port) = &mut port {
                port.set_interface(interface.clone());
            }
            match seat.set_filter(addresses, port.filter(|_| !same_filter)) {
                Err(error) if tried_before => {
                    debug!("{error:#}");
                    return Ok(());
                }
                set => set?,
            }
        } else {
            let port = match opened.filter(|_| same_filter) {
                Some(port) => port,
                // The old port, if there is one, goes on meanwhile.
                None => match open(interface, &addresses) {
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
            if let Some(seat) = self.list.get_mut(index) {
                seat.addresses = addresses;
            }
        }
        worker.set_facts(index, facts(interface, self.data_bytes));
        if interface.up {
            worker.announce(index);
        }
        let before = self.list.get_mut(index).and_then(|seat| {
            seat.incomplete = false;
            let before = seat.interface.replace(interface.clone());
            if before
                .as_ref()
                .is_some_and(|before| before.name == seat.name)
            {
                interface.name.clone_into(&mut seat.name);
            }
            before
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
    fn remove(&mut self, gone: u32, worker: &mut PortWorker) {
        for index in 0..self.list.len() {
            let seat = self.list.get(index);
            if seat.and_then(Seat::index) == Some(gone) {
                self.lose(index, worker);
            }
        }
    }

    /// The interface of a seat is gone, or nothing is served there any more.
    fn leave(&mut self, index: usize, places: &[Place<'_>], worker: &mut PortWorker) {
        let Some(seat) = self.list.get_mut(index) else {
            return;
        };
        let wants = |wanted: &Wanted| match wanted {
            Wanted::Named(name) => *name == seat.name,
            Wanted::Matching(pattern) => pattern.matches(&seat.name),
        };
        if places
            .iter()
            .any(|place| place.interfaces.iter().any(wants))
        {
            return self.lose(index, worker);
        }
        info!("{}: nothing is served there any more", seat.name);
        seat.incomplete = false;
        seat.interface = None;
        self.close(index, worker);
    }

    fn lose(&mut self, index: usize, worker: &mut PortWorker) {
        let Some(seat) = self.list.get_mut(index) else {
            return;
        };
        seat.incomplete = false;
        seat.opened = None;
        if seat.interface.take().is_some() {
            warn!(
                "{} is gone: serving there again when it comes back",
                seat.name
            );
            self.close(index, worker);
        }
    }

    fn close(&mut self, index: usize, worker: &mut PortWorker) {
        if let Some(port) = worker.port_mut(index) {
            self.lost_before = self.lost_before.plus(&port.stats());
            worker.set_port(index, None);
        }
    }

    /// Takes the errors that keep ports from being waited for, such as "network is down".
    pub(super) fn take_errors(&self, worker: &mut PortWorker) {
        for (index, seat) in self.list.iter().enumerate() {
            if let Some(error) = worker.port_mut(index).and_then(PacketPort::take_error) {
                debug!("{}: {error}", seat.name);
            }
        }
    }

    /// Frames lost so far on all interfaces.
    pub(super) fn losses(&self, worker: &mut PortWorker) -> Losses {
        (0..self.list.len()).fold(self.lost_before, |losses, index| {
            match worker.port_mut(index) {
                Some(port) => losses.plus(&port.stats()),
                None => losses,
            }
        })
    }
}

impl Seat {
    /// Has the kernel let frames for these exports through, and remembers which.
    ///
    /// # Errors
    /// What the kernel said; then everything is as it was.
    fn set_filter(
        &mut self,
        addresses: Vec<Address>,
        port: Option<&mut PacketPort>,
    ) -> anyhow::Result<()> {
        if let Some(port) = port {
            port.set_exports(&addresses)
                .with_context(|| format!("{}: cannot set the filter", self.name))?;
        }
        self.addresses = addresses;
        Ok(())
    }

    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            interface: None,
            incomplete: false,
            opened: None,
            addresses: Vec::new(),
        }
    }

    fn is_opened_on(&self, interface: &Interface) -> bool {
        self.index() == Some(interface.index)
    }

    /// The kernel's number of its interface.
    fn index(&self) -> Option<u32> {
        let opened = self.opened.as_ref();
        let opened = opened.map(|port| port.interface().index);
        let seen = self.interface.as_ref();
        seen.map(|interface| interface.index).or(opened)
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
    if before.name != now.name {
        info!("{} is now {name}", before.name);
    }
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

impl Losses {
    /// These and what a port has lost.
    fn plus(self, stats: &PortStats) -> Self {
        Self {
            ring_full: self.ring_full + stats.ring_drops,
            not_sent: self.not_sent + stats.send_lost(),
            ..self
        }
    }
}
