//! Frames out: which request goes next, on which path, and how it is encoded.

use aoede_wire::{
    Address, Ata, Body, CoalescedRead, Command, Config, ENTRY_BYTES, ExtensionTable, Feature,
    HEADER_BYTES, Header, MIN_FRAME_BYTES, MacAddr, NoRoom, Opcode, SECTOR_BYTES, Tag,
};
use core::time::Duration;

use super::op::{Kind, Op, Piece, Place, trim_entries};
use super::{Session, Transmit, bit};
use crate::features::table;
use crate::paths::{Chore, Path, PortId, State, Task, Timer};
use crate::{Identity, Instant};

/// Patience for FLUSH and TRIM, which may take a disk long (§15, 5).
const LONG_PATIENCE: Duration = Duration::from_secs(30);
/// Where the data of an ATA frame begins, and the count byte of coalesced reads.
const DATA: usize = HEADER_BYTES + aoede_wire::ATA_ARGUMENT_BYTES;
/// Most reads behind the first in one frame: the count is a byte.
const MOST_ENTRIES: usize = 255;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Session<B> {
    /// Encodes the next frame to be sent, if there is one now, to the start of `out`, which must
    /// have [`frame_bytes`](Session::frame_bytes). Frames are padded with zeros to 60 bytes; all
    /// other padding is zero too (§15, 11).
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        if self.is_over() {
            return None;
        }
        let transmit = self
            .transmit_question(out)
            .or_else(|| self.transmit_chore(now, out))
            .or_else(|| self.transmit_probe(now, out))
            .or_else(|| self.transmit_piece(now, out))?;
        self.stats.sent += 1;
        Some(transmit)
    }

    /// "Who is there?", to everybody on one port (§15, 1).
    fn transmit_question(&mut self, out: &mut [u8]) -> Option<Transmit> {
        while self.ask != 0 {
            let id = PortId(u8::try_from(self.ask.trailing_zeros()).ok()?);
            let others = self.ask & (self.ask - 1);
            if let Some(port) = self.port(id).filter(|port| port.up) {
                let tag = self.tags.take(tags(&self.pieces))?;
                let header = header(port.mac, MacAddr::BROADCAST, self.address, tag);
                let len = Body::Config(Config::default()).encode(header, out).ok()?;
                self.ask = others;
                return Some(Transmit { port: id, len });
            }
            self.ask = others;
        }
        None
    }

    /// What a path has to find out.
    fn transmit_chore(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        if self.tracked {
            self.hold_negotiations(now);
        }
        let index = self.paths.iter().position(|path| {
            let due = path.chore.is_some_and(|chore| chore.timer == Timer::Due);
            due && self.port(path.port).is_some_and(|port| port.up)
        })?;
        let first = |chore: Chore| chore.task == Task::Negotiate && chore.tries == 0;
        if self.tracked && self.paths.get(index)?.chore.is_some_and(first) {
            self.leap(now);
        }
        let path = self.paths.get_mut(index)?;
        let port = self.ports.get(usize::from(path.port.0)).copied()??;
        let chore = path.chore.as_mut()?;
        let tag = match chore.tag {
            Some(tag) => tag,
            None => self.tags.take(tags(&self.pieces))?,
        };
        let tries = chore.tries + 1;
        let task = chore.task;
        *chore = Chore {
            task,
            tag: Some(tag),
            tries,
            timer: Timer::Due,
            sent: now,
        };
        let patience = path.chore_patience(tries);
        if let Some(chore) = &mut path.chore {
            chore.timer = Timer::Until(now + patience);
        }
        let header = header(port.mac, path.mac, self.address, tag);
        let len = match task {
            Task::Identify => identify(header, out),
            // A padded IDENTIFY goes one way with full length, a READ the other (§15, 3).
            Task::ProveOut(sectors) => identify(header, out).and_then(|len| {
                let full =
                    DATA + usize::from(sectors) * SECTOR_BYTES + path.features.checksum().bytes();
                out.get_mut(len..full).ok_or(NoRoom)?.fill(0);
                Ok(full)
            }),
            Task::ProveIn(sectors) => {
                let identity = self.identity.as_ref()?;
                // Other sectors at the second try: the first may be unreadable.
                let last = identity.sectors.saturating_sub(sectors.into());
                let lba = if tries > 1 { last } else { 0 };
                Body::Ata(transfer(identity, false, lba, sectors)).encode(header, out)
            }
            Task::Negotiate => {
                let wanted = Self::wanted_of(&self.settings, path);
                path.may_be_in_force |= wanted.stays_in_force();
                let entries = table(wanted);
                let table = ExtensionTable::new(&entries).ok()?;
                Body::Extension(table).encode(header, out)
            }
        };
        Some(Transmit {
            port: path.port,
            len: len.ok()?,
        })
    }

    /// A fresh window takes whatever comes first, so none is started while copies of writes may be
    /// under way that only the old one can tell.
    fn hold_negotiations(&mut self, now: Instant) {
        for index in 0..self.paths.len() {
            let Some(quiet_at) = self.quiet_at(index) else {
                continue;
            };
            if let Some(chore) = self
                .paths
                .get_mut(index)
                .and_then(|path| path.chore.as_mut())
            {
                let first = chore.task == Task::Negotiate && chore.tries == 0;
                if first && chore.timer == Timer::Due && now < quiet_at {
                    chore.timer = Timer::Until(quiet_at);
                }
            }
        }
    }

    /// When no copies of writes are under way any more that left by the port of a path and only
    /// the target's tag window can tell; `None` if there were none.
    pub(super) fn quiet_at(&self, index: usize) -> Option<Instant> {
        let path = self.paths.get(index)?;
        let same_mac = self.paths.iter().filter(|other| other.port == path.port);
        let last = same_mac.filter_map(|other| other.repeated_at).max();
        last.map(|last| last + self.settings.linger)
    }

    /// One of the frames that measure how many requests fit: as long as a full write (§10).
    fn transmit_probe(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        let (address, ports) = (self.address, &self.ports);
        self.paths.iter_mut().find_map(|path| {
            let measurement = path.measurement.as_mut()?;
            if path.in_flight > 0 || measurement.sent >= measurement.probes {
                return None;
            }
            let port = ports.get(usize::from(path.port.0)).copied()??;
            let tag = measurement.first_tag.wrapping_add(measurement.sent);
            measurement.sent += 1;
            if measurement.sent == measurement.probes {
                measurement.all_sent(now, path.trips.timeout());
            }
            let mut entries = [0; 40];
            let len = congestion(measurement.id, &mut entries);
            let table = ExtensionTable::new(entries.get(..len)?).ok()?;
            let header = header(port.mac, path.mac, address, tag);
            let len = Body::Extension(table).encode(header, out).ok()?;
            let full = DATA + usize::from(path.payload) * SECTOR_BYTES;
            out.get_mut(len..full)?.fill(0);
            Some(Transmit {
                port: path.port,
                len: full.max(len),
            })
        })
    }

    /// The next piece of a request, and reads that can travel with it.
    fn transmit_piece(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        let (place, index) = self.next_slow().or_else(|| self.next_piece())?;
        self.launch(now, place, index);
        let piece = self.pieces.get(place)?;
        let op = self.ops.get(piece.op)?;
        let path = self.paths.get(index)?;
        let port = self.port(path.port)?;
        let header = header(port.mac, path.mac, self.address, piece.tag?);
        let identity = self.identity.as_ref()?;
        let len = encode(op, piece, path, identity, header, out)?;
        let len = self.add_reads(now, place, index, out, len);
        Some(Transmit {
            port: self.paths.get(index)?.port,
            len,
        })
    }

    /// The next flush or trim, and its path. These have their own room.
    fn next_slow(&mut self) -> Option<(u32, usize)> {
        let front = *self.slow.front()?;
        let index = self.pick_path(true)?;
        Some((self.cut(front, index)?, index))
    }

    /// The next piece of another request, and its path.
    fn next_piece(&mut self) -> Option<(u32, usize)> {
        let front = *self.again.front().or_else(|| self.fresh.front())?;
        let index = self.pick_path(false)?;
        let place = self.cut(front, index).or_else(|| {
            // No place for its parts, or no tag: who needs none may pass.
            let next = self.first_whole(index)?;
            self.cut(next, index)
        })?;
        Some((place, index))
    }

    /// The path for the next frame: one that answers before one that does not, then the one with
    /// most room, then the one that has waited longest.
    fn pick_path(&self, slow: bool) -> Option<usize> {
        let up = |path: &Path| self.port(path.port).is_some_and(|port| port.up);
        let usable = |path: &&Path| path.is_usable() && up(path);
        let any_ready = self
            .paths
            .iter()
            .filter(usable)
            .any(|path| path.state == State::Ready);
        let counts = self
            .paths
            .iter()
            .filter(usable)
            .map(|path| path.buffer_count);
        let most = counts.max()?.min(self.settings.in_flight);
        if !slow && self.in_flight >= u32::from(most.max(1)) {
            return None;
        }
        let mut best = None;
        for (index, path) in self.paths.iter().enumerate() {
            if !usable(&path) || (any_ready && path.state != State::Ready) {
                continue;
            }
            if !path.has_room(slow) {
                continue;
            }
            let filled = path.in_flight * 64 / path.window.size();
            let rank = (path.misses, filled, path.last_used);
            if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, index));
            }
        }
        best.map(|(_, index)| index)
    }

    /// The first piece in the queues that this path can carry as it is, rather one with a tag.
    fn first_whole(&self, index: usize) -> Option<u32> {
        let payload = self.paths.get(index)?.payload.max(1);
        let whole = |tagged: bool| {
            let mut queued = self.again.iter().chain(&self.fresh).copied();
            queued.find(|&place| {
                self.pieces.get(place).is_some_and(|piece| {
                    let op = self.ops.get(piece.op);
                    let fits = op.is_some_and(|op| piece.sectors <= op.most_sectors(payload));
                    fits && (piece.tag.is_some() || !tagged)
                })
            })
        };
        whole(true).or_else(|| whole(false))
    }

    /// Cuts from a piece in a queue as much as one frame on this path holds, gives it a tag and
    /// returns its place.
    fn cut(&mut self, queued: u32, index: usize) -> Option<u32> {
        let payload = self.paths.get(index)?.payload.max(1);
        let piece = self.pieces.get(queued)?;
        let op = self.ops.get(piece.op)?;
        let most = op.most_sectors(payload);
        let (fits, tag) = (piece.sectors <= most, piece.tag);
        let slow = op.is_slow();
        if fits {
            if tag.is_none() {
                let tag = self.tags.take(tags(&self.pieces))?;
                self.pieces.get_mut(queued)?.tag = Some(tag);
            }
            for queue in [&mut self.slow, &mut self.again, &mut self.fresh] {
                if let Some(at) = queue.iter().position(|&place| place == queued) {
                    queue.remove(at);
                    break;
                }
            }
            return Some(queued);
        }
        // Other places are for the first pieces of requests.
        if *self.cut.of(slow) >= *self.most_cut.of(slow) {
            return None;
        }
        // The first part of a write keeps its tag: so a late copy of the whole is a duplicate to
        // the target's window, and its response is the answer for the first part too.
        let kept = tag.filter(|_| op.changes());
        let tag = match kept {
            Some(tag) => tag,
            None => self.tags.take(tags(&self.pieces))?,
        };
        let piece = self.pieces.get_mut(queued)?;
        let mut first = Piece::new(piece.op, piece.offset, most);
        first.tag = Some(tag);
        if kept.is_some() {
            first.sent_on = piece.sent_on;
        }
        first.transmissions = piece.transmissions;
        first.refusals = piece.refusals;
        piece.offset += most;
        piece.sectors -= most;
        let was_sent = piece.forget_tag();
        let op = self.ops.get_mut(piece.op)?;
        op.pieces += 1;
        // What was sent as one frame, and may still arrive, is sent as several now.
        op.copies_astray |= was_sent;
        *self.cut.of(slow) += 1;
        self.pieces.insert(first).ok()
    }

    /// Puts a piece into the air.
    fn launch(&mut self, now: Instant, place: u32, index: usize) {
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        let Some(piece) = self.pieces.get_mut(place) else {
            return;
        };
        let Some(op) = self.ops.get_mut(piece.op) else {
            return;
        };
        let bit = bit(index);
        let elsewhere = piece.sent_on & !bit != 0;
        if piece.transmissions > 0 {
            self.stats.repeated += 1;
            // The target drops late copies if it tracks tags, which it does for each of our MACs
            // on its own.
            op.copies_astray |= !path.features.tags || path.in_doubt || elsewhere;
            if op.changes() && path.features.tags {
                path.repeated_at = Some(now);
            }
        }
        self.tracked |= path.features.tags && op.changes();
        let patience = match piece.patience {
            Some(patience) => patience,
            None if op.is_slow() => LONG_PATIENCE,
            None => path.trips.timeout(),
        };
        piece.patience = Some(patience);
        piece.sent_on |= bit;
        piece.transmissions += 1;
        piece.entry = false;
        piece.place = Place::Flying {
            path: index,
            sent: now,
            deadline: now + patience,
        };
        op.progress.get_or_insert(now);
        self.in_flight += u32::from(!op.is_slow());
        *path.under_way(op.is_slow()) += 1;
        self.uses += 1;
        path.last_used = self.uses;
    }

    /// Lets further reads that were not sent yet travel behind the first (§8): as many as the
    /// window has room for, since each is a request of its own. Returns the frame's length.
    fn add_reads(
        &mut self,
        now: Instant,
        first: u32,
        index: usize,
        out: &mut [u8],
        len: usize,
    ) -> usize {
        let Some(most) = self.most_entries(first, index, out.len()) else {
            return len;
        };
        let mut entries = 0;
        while entries < most {
            let Some(entry) = self.next_entry(now, index) else {
                break;
            };
            let at = DATA + 1 + entries * ENTRY_BYTES;
            // There is room: see `most_entries`.
            if let Some(slot) = out.get_mut(at..at + ENTRY_BYTES) {
                slot.copy_from_slice(&entry);
            }
            entries += 1;
        }
        if entries == 0 {
            return len;
        }
        self.stats.coalesced += entries as u64;
        if let Some(count) = out.get_mut(DATA) {
            *count = u8::try_from(entries).unwrap_or(u8::MAX);
        }
        len.max(DATA + 1 + entries * ENTRY_BYTES)
    }

    /// How many reads may follow the first, if it is one that others can follow.
    fn most_entries(&self, first: u32, index: usize, room: usize) -> Option<usize> {
        let path = self.paths.get(index)?;
        let piece = self.pieces.get(first)?;
        let op = self.ops.get(piece.op)?;
        let is_read = matches!(op.kind, Kind::Read(_));
        // A repeated read goes alone, so that it is answered also by who forgot the extension.
        if !path.features.coalesced_read || !is_read || piece.transmissions > 1 {
            return None;
        }
        // A READ whose opcode is damaged on its way into a WRITE must not carry as many bytes as
        // it has sectors, or the entries would be written to the disk.
        let harmless = usize::try_from(piece.sectors).ok()? * SECTOR_BYTES - 1;
        let proven = usize::from(path.payload) * SECTOR_BYTES;
        let room = room.checked_sub(DATA)?.min(harmless).min(proven);
        let fit = room.checked_sub(1)? / ENTRY_BYTES;
        let wanted = usize::from(self.settings.coalesce) - 1;
        Some(fit.min(MOST_ENTRIES).min(wanted))
    }

    /// Sends the next read as an entry, if it is a read and the window has room for it.
    fn next_entry(&mut self, now: Instant, index: usize) -> Option<[u8; ENTRY_BYTES]> {
        let path = self.paths.get(index)?;
        let most = u32::from(path.buffer_count.min(self.settings.in_flight));
        if !path.has_room(false) || self.in_flight >= most {
            return None;
        }
        if !self.again.is_empty() {
            return None;
        }
        let front = *self.fresh.front()?;
        let op = self.ops.get(self.pieces.get(front)?.op)?;
        if !matches!(op.kind, Kind::Read(_)) {
            return None;
        }
        let place = self.cut(front, index)?;
        self.launch(now, place, index);
        let piece = self.pieces.get_mut(place)?;
        piece.entry = true;
        let op = self.ops.get(piece.op)?;
        let identity = self.identity.as_ref()?;
        let sectors = u8::try_from(piece.sectors).ok()?;
        let ata = transfer(identity, false, op.lba.checked_add(piece.offset)?, sectors);
        let read = CoalescedRead {
            tag: Tag(piece.tag?.to_be_bytes()),
            lba: ata.lba,
            reserved: [0; 5],
            count: sectors,
        };
        Some(read.to_bytes())
    }
}

/// The tags that are under way or will be sent again.
pub(super) fn tags(pieces: &crate::table::Table<Piece>) -> impl Iterator<Item = u32> + '_ {
    pieces.iter().filter_map(|(_, piece)| piece.tag)
}

pub(super) fn header(source: MacAddr, destination: MacAddr, address: Address, tag: u32) -> Header {
    Header {
        tag: Tag(tag.to_be_bytes()),
        ..Header::request(source, destination, address)
    }
}

fn identify(header: Header, out: &mut [u8]) -> Result<usize, NoRoom> {
    Body::Ata(Ata::request(Opcode::Identify, 0, 1)).encode(header, out)
}

/// A READ or WRITE as the disk wants its addresses. With 28 bits the high nibble holds the device
/// bits that ATA wants there.
pub(super) fn transfer<'a>(identity: &Identity, write: bool, lba: u64, sectors: u8) -> Ata<'a> {
    match (identity.lba48, write) {
        (true, false) => Ata::request(Opcode::ReadExt, lba, sectors),
        (true, true) => Ata::request(Opcode::WriteExt, lba, sectors),
        (false, false) => Ata::request(Opcode::Read, lba | 0xE000_0000, sectors),
        (false, true) => Ata::request(Opcode::Write, lba | 0xE000_0000, sectors),
    }
}

/// The table `congestion`, id; its length.
fn congestion(id: u64, out: &mut [u8; 40]) -> usize {
    use std::io::{Cursor, Write as _};
    let mut cursor = Cursor::new(out.as_mut_slice());
    // 11 bytes, 20 digits at most, 2 zeros: it fits.
    let fits = write!(cursor, "congestion\0{id}\0\0");
    debug_assert!(fits.is_ok());
    usize::try_from(cursor.position()).unwrap_or(0)
}

/// The frame of a piece. `None` if `out` is too short for it.
fn encode<B: AsRef<[u8]>>(
    op: &Op<B>,
    piece: &Piece,
    path: &Path,
    identity: &Identity,
    header: Header,
    out: &mut [u8],
) -> Option<usize> {
    let lba = op.lba.checked_add(piece.offset)?;
    let checksum = path.features.checksum();
    let body = match &op.kind {
        Kind::Read(_) => {
            let sectors = u8::try_from(piece.sectors).ok()?;
            Body::Ata(transfer(identity, false, lba, sectors))
        }
        Kind::Write(buffer) => {
            let sectors = u8::try_from(piece.sectors).ok()?;
            let from = usize::try_from(piece.offset).ok()? * SECTOR_BYTES;
            let data = buffer
                .as_ref()
                .get(from..)?
                .get(..usize::from(sectors) * SECTOR_BYTES)?;
            let ata = transfer(identity, true, lba, sectors).with_data(data);
            let len = Body::Ata(ata).encode(header, out).ok()?;
            return checksum.append(out, len);
        }
        Kind::Trim => {
            let mut block = [0; SECTOR_BYTES];
            for (entry, range) in block
                .chunks_exact_mut(8)
                .zip(trim_entries(lba, piece.sectors))
            {
                let number = range.lba | u64::from(range.sectors) << 48;
                entry.copy_from_slice(&number.to_le_bytes());
            }
            let ata = Ata {
                feature_or_error: Feature::TRIM,
                ..Ata::request(Opcode::DataSetManagement, 0, 1).with_data(&block)
            };
            let len = Body::Ata(ata).encode(header, out).ok()?;
            return checksum.append(out, len);
        }
        // FLUSH EXT if word 83 has bit 13, else FLUSH (§15, 7).
        Kind::Flush if identity.flush_ext => Body::Ata(Ata::request(Opcode::FlushCacheExt, 0, 0)),
        Kind::Flush => Body::Ata(Ata::request(Opcode::FlushCache, 0, 0)),
        Kind::Identify | Kind::FlushCheck => Body::Ata(Ata::request(Opcode::Identify, 0, 1)),
        Kind::Control(control) => Body::Unknown(control.command.into(), &control.argument),
    };
    debug_assert!(!matches!(op.command(), Command::Unknown(_)));
    let len = body.encode(header, out).ok()?;
    debug_assert!(len >= MIN_FRAME_BYTES);
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoede_wire::AtaFlags;

    fn identity(lba48: bool) -> Identity {
        Identity {
            serial: String::new(),
            model: String::new(),
            firmware: String::new(),
            sectors: 1 << 20,
            lba48,
            flush: true,
            flush_ext: true,
            flush_is_empty: false,
            trim_blocks: 1,
            trim_zeroes: false,
            write_cache: false,
            cache_number: None,
            physical_sector_exponent: 0,
        }
    }

    /// §3.1: E for 48 bits, W for data to the target; §14.1: device bits with 28.
    #[test]
    fn addresses_are_as_wide_as_the_disk_wants() {
        for (lba48, write, flags, opcode, lba3) in [
            (true, false, 0x40, 0x24, 0x00),
            (true, true, 0x41, 0x34, 0x00),
            (false, false, 0x00, 0x20, 0xE0),
            (false, true, 0x01, 0x30, 0xE0),
        ] {
            let ata = transfer(&identity(lba48), write, 8, 2);
            assert_eq!(ata.flags, AtaFlags(flags));
            assert_eq!((ata.command_or_status, ata.count), (opcode, 2));
            assert_eq!(ata.lba, [8, 0, 0, lba3, 0, 0]);
        }
    }

    #[test]
    fn a_measurement_names_its_id_in_decimal() {
        let mut out = [0xA5; 40];
        let len = congestion(1234, &mut out);
        assert_eq!(&out[..len], b"congestion\x001234\0\0");
        assert_eq!(congestion(u64::MAX, &mut out), 33);
    }
}
