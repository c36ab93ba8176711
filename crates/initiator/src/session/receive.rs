//! Frames in: what each response means, and whether it is believed.

use aoede_wire::{
    ATA_ARGUMENT_BYTES, Ata, AtaFlags, Command, Config, ConfigCommand, ErrorCode, ExtensionTable,
    Flags, Frame, HEADER_BYTES, MIN_FRAME_BYTES, MacAddr, SECTOR_BYTES,
};
use core::time::Duration;

use super::op::{Kind, Op, Piece, Place};
use super::response::{Response, Responses, error_of, registers};
use super::send::transfer;
use super::{Notice, Session, bit};
use crate::checksum::Verdict;
use crate::discover::is_version_spoken;
use crate::features::{Features, accepted};
use crate::identity::Identity;
use crate::paths::{BASE_SECTORS, Chore, Path, PortId, State, TRIES, Task};
use crate::{Answer, Error, Instant, Registers};

/// After "device unavailable" a request waits so long, doubling each time, at most
/// [`HOLD_AT_MOST`] (§15, 6).
const HOLD_FIRST: Duration = Duration::from_millis(100);
const HOLD_AT_MOST: Duration = Duration::from_secs(10);

/// What a response does to the request it answers.
enum Effect {
    /// The request stays as it is, as if nothing had come.
    Lost,
    /// The piece is done.
    Done(Option<Answer>),
    /// The request fails.
    Failed(Error),
    /// To be sent again, later.
    Later,
    /// To be sent again, at once.
    Again,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Session<B> {
    /// Takes a frame that a port has received, from the destination MAC on. Any bytes are harmless;
    /// what is no response for this session is counted and left alone.
    pub fn handle_frame(&mut self, now: Instant, port: PortId, bytes: &[u8]) {
        if self.handle(now, port, bytes).is_none() {
            self.stats.ignored += 1;
        }
    }

    /// `None` if the frame is not for this session.
    fn handle(&mut self, now: Instant, port: PortId, bytes: &[u8]) -> Option<()> {
        let frame = Frame::decode(bytes).ok()?;
        let header = &frame.header;
        let local = self.port(port)?;
        let for_us = header.destination == local.mac || header.destination.0[0] & 1 != 0;
        let good = for_us
            && header.flags.contains(Flags::RESPONSE)
            && is_version_spoken(header)
            && header.address == self.address
            && header.source.is_unicast()
            && header.source != local.mac
            && !self.is_over();
        good.then_some(())?;
        let is_error = header.flags.contains(Flags::ERROR);
        if header.command == Command::Config && !is_error {
            self.learn(now, port, &frame);
        }
        let mut paths = self.paths.iter();
        let known = paths.position(|path| path.port == port && path.mac == header.source);
        let Some(index) = known else {
            self.stats.unmatched += 1;
            return Some(());
        };
        if self.answers_chore(now, index, &frame) {
            return Some(());
        }
        let features = self.paths.get(index).map(|path| path.features);
        match Responses::of(&frame, features.unwrap_or_default()) {
            Responses::One(response) => self.take_response(now, index, &response),
            Responses::Damaged => self.stats.damaged += 1,
            Responses::Writes { first, further } => {
                self.take_response(now, index, &first);
                for write in further.writes() {
                    self.stats.coalesced_replies += 1;
                    let registers = registers(&write);
                    self.take_response(now, index, &Response::shared(write.tag, &registers));
                }
            }
        }
        Some(())
    }

    /// A target says who and how large it is (§4), asked or not.
    fn learn(&mut self, now: Instant, port: PortId, frame: &Frame<'_>) {
        let Ok(config) = Config::decode(frame.argument) else {
            return;
        };
        let mac = frame.header.source;
        let mtu = self.port(port).map_or(0, |port| port.mtu);
        let mut paths = self.paths.iter();
        let known = paths.position(|path| path.port == port && path.mac == mac);
        let Some(index) = known.or_else(|| self.add_path(port, mac)) else {
            return;
        };
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        let changed = known.is_none() || path.sector_count != config.sector_count;
        path.sector_count = config.sector_count;
        path.firmware = config.firmware;
        path.set_buffer_count(config.buffer_count.max(1), &self.settings);
        if changed {
            path.prove_anew(mtu);
        }
        path.heard();
        // Not asked for: something has happened to the target (§4.4).
        let announced = frame.header.tag.big_endian() == 0;
        if known.is_some() && announced && config.command == ConfigCommand::Read {
            if path.state == State::Foreign {
                path.state = State::New;
            }
            path.look_again = true;
            path.in_doubt = true;
            self.cache.doubt();
            self.negotiate_anew(now, index);
        }
        self.next_chores(now);
    }

    /// Makes a path, if there is room for one.
    fn add_path(&mut self, port: PortId, mac: MacAddr) -> Option<usize> {
        let path = Path::new(port, mac);
        if self.paths.len() < crate::MAX_PATHS {
            self.paths.push(path);
            return Some(self.paths.len() - 1);
        }
        let index = self.least_useful_path()?;
        // What was sent on the old one is answered there, if at all.
        self.forget_sent_on(index);
        *self.paths.get_mut(index)? = path;
        Some(index)
    }

    /// The path whose place a new one may take: one that never answered, or leads to another disk,
    /// or that has been silent longest of those on which nothing is under way.
    fn least_useful_path(&self) -> Option<usize> {
        let replaceable = |(_, path): &(usize, &Path)| path.is_replaceable();
        let paths = self.paths.iter().enumerate().filter(replaceable);
        let rank = |path: &Path| (path.state == State::Silent, path.answered_at);
        paths
            .min_by_key(|(_, path)| rank(path))
            .map(|(index, _)| index)
    }

    /// Whether the frame answers what its path has to find out.
    fn answers_chore(&mut self, now: Instant, index: usize, frame: &Frame<'_>) -> bool {
        let tag = frame.header.tag.big_endian();
        let Some(path) = self.paths.get_mut(index) else {
            return false;
        };
        if let Some(measurement) = &mut path.measurement {
            if frame.header.command == Command::Extension && measurement.answer(now, tag) {
                return true;
            }
        }
        let Some(chore) = path.chore.filter(|chore| chore.tag == Some(tag)) else {
            return false;
        };
        let command = match chore.task {
            Task::Negotiate => Command::Extension,
            Task::Identify | Task::ProveOut(_) | Task::ProveIn(_) => Command::Ata,
        };
        if frame.header.command != command {
            return false;
        }
        if chore.tries == 1 {
            path.trips.sample(now.since(chore.sent));
        }
        path.misses = 0;
        path.answered_at = now;
        self.stats.answered += 1;
        self.last_heard = now;
        self.conclude(now, index, chore, frame);
        true
    }

    fn conclude(&mut self, now: Instant, index: usize, chore: Chore, frame: &Frame<'_>) {
        if let Some(code) = error_of(&frame.header) {
            return self.chore_refused(now, index, chore, code);
        }
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        path.version_refusals = 0;
        let checksum = path.features.checksum();
        // Without a checksum it may be from before it was agreed on.
        let damaged = |sectors: u8| {
            let len = ATA_ARGUMENT_BYTES + usize::from(sectors) * SECTOR_BYTES;
            checksum.judge(frame.argument, len) == Verdict::Damaged
        };
        match chore.task {
            Task::Negotiate => {
                let wanted = Self::wanted_of(&self.settings, path);
                let Ok(table) = ExtensionTable::decode(frame.argument) else {
                    return;
                };
                if let Some(features) = accepted(wanted, &table) {
                    path.may_be_in_force = features.stays_in_force();
                    self.stats.negotiations += 1;
                    self.agree(now, index, features);
                }
            }
            Task::Identify | Task::ProveOut(_) => {
                let Ok(ata) = Ata::decode(frame.argument) else {
                    return;
                };
                let is_other = checksum.is_some() && !echoes_identify(&ata);
                let identity = Identity::decode(ata.data);
                let identity = identity.filter(|_| !damaged(1) && !is_other);
                match identity.filter(|_| !ata.status().is_failure()) {
                    None => self.stats.damaged += 1,
                    Some(identity) if chore.task == Task::Identify => {
                        self.identified(now, index, identity);
                    }
                    Some(_) => self.proven(now, index, chore.task),
                }
            }
            Task::ProveIn(sectors) => {
                let Ok(ata) = Ata::decode(frame.argument) else {
                    return;
                };
                if ata.data.len() >= usize::from(sectors) * SECTOR_BYTES && !damaged(sectors) {
                    self.proven(now, index, chore.task);
                } else if ata.status().is_failure() && chore.tries >= TRIES {
                    // Unreadable at both ends of the disk: nothing is proven.
                    self.too_large(now, index, sectors);
                }
            }
        }
    }

    /// A question of a path's own was answered with an AoE error.
    fn chore_refused(&mut self, now: Instant, index: usize, chore: Chore, code: ErrorCode) {
        match (chore.task, code) {
            (_, ErrorCode::UnsupportedVersion) => {
                let path = self.paths.get_mut(index);
                if path.is_some_and(Path::refuses_version) {
                    self.refuse_version(now);
                }
            }
            // "No such command": plain AoE (§7.5; §15, 6).
            (Task::Negotiate, ErrorCode::UnrecognizedCommand) => {
                if let Some(path) = self.paths.get_mut(index) {
                    path.may_be_in_force = false;
                }
                self.agree(now, index, Features::default());
            }
            (Task::ProveOut(sectors) | Task::ProveIn(sectors), ErrorCode::BadArgument) => {
                self.too_large(now, index, sectors);
            }
            // Later, like a lost frame.
            _ => {}
        }
    }

    /// Does what a response says, if it answers a request.
    fn take_response(&mut self, now: Instant, index: usize, response: &Response<'_>) {
        if !self.answers_piece(now, index, response) {
            self.count_unmatched(response.command, response.tag);
        }
    }

    /// Whether the response answers a request: by tag, MAC and command (§15, 4).
    fn answers_piece(&mut self, now: Instant, index: usize, response: &Response<'_>) -> bool {
        let tag = response.tag;
        let bit = bit(index);
        let sent_here = |piece: &Piece| piece.tag == Some(tag) && piece.sent_on & bit != 0;
        let Some(place) = self.pieces.find(|_, piece| sent_here(piece)) else {
            return false;
        };
        let Some(piece) = self.pieces.get(place) else {
            return false;
        };
        let Some(op) = self.ops.get(piece.op) else {
            return false;
        };
        if op.command() != response.command {
            return false;
        }
        let (slot, first_copy) = (piece.op, piece.transmissions == 1);
        let (entry, waits) = (piece.entry, piece.place);
        let full = piece.sectors > u64::from(BASE_SECTORS);
        let effect = match response.error {
            Some(code) => self.refused(place, index, code, response),
            None => self.understand(now, place, index, response),
        };
        if matches!(effect, Effect::Lost) {
            return true;
        }
        self.stats.answered += 1;
        self.last_heard = now;
        if let Some(path) = self.paths.get_mut(index) {
            if let (Place::Flying { sent, .. }, true) = (waits, first_copy) {
                path.trips.sample(now.since(sent));
            }
            path.heard();
            path.answered_at = now;
            if response.error.is_none() {
                path.version_refusals = 0;
            }
            path.window.answered();
            if full {
                path.heard_full();
            }
            if entry {
                path.entry_misses = 0;
                path.answered_others = 0;
                path.entries_suspected = false;
            } else if path.entry_misses > 0 {
                path.answered_others += 1;
            }
        }
        self.apply(now, place, slot, effect);
        true
    }

    fn apply(&mut self, now: Instant, place: u32, slot: u32, effect: Effect) {
        match effect {
            Effect::Lost => {}
            Effect::Done(answer) => {
                let op = self.ops.get(slot);
                if op.is_some_and(|op| matches!(op.kind, Kind::Flush | Kind::FlushCheck)) {
                    return self.flush_answered(now, place, slot, answer);
                }
                if let (Some(op), Some(answer)) = (self.ops.get_mut(slot), answer) {
                    op.answer = Some(answer);
                }
                self.finish_piece(now, place);
            }
            Effect::Failed(error) => {
                // Its own piece comes last, and once: when the request ends, that place is
                // another's.
                self.fail_but(now, slot, error, place);
                self.finish_piece(now, place);
            }
            Effect::Later => {
                self.land(place);
                let slow = self.ops.get(slot).is_some_and(Op::is_slow);
                if let Some(piece) = self.pieces.get_mut(place) {
                    let wait = HOLD_FIRST.saturating_mul(1 << piece.refusals.min(7));
                    piece.refusals += 1;
                    let until = now + wait.min(HOLD_AT_MOST);
                    piece.place = Place::Held { until };
                    self.in_flight += u32::from(!slow);
                }
            }
            Effect::Again => {
                if let Some(piece) = self.pieces.get_mut(place) {
                    piece.refusals += 1;
                }
                self.send_again(now, place);
            }
        }
        if self.refused_version {
            self.fail_all(now, &Error::Version);
        }
    }

    /// A flush was answered, or the question after it: who has answered the flush? (§15, 7).
    fn flush_answered(&mut self, now: Instant, place: u32, slot: u32, answer: Option<Answer>) {
        if let Some(Answer::Identity(identity)) = answer {
            self.cache_told(identity.cache_number);
        } else if let Some(op) = self.ops.get_mut(slot) {
            if self.cache.must_ask(&mut op.covers) {
                return self.ask_who_has_flushed(now, place, slot);
            }
        }
        if let Some(op) = self.ops.get_mut(slot) {
            if !self.cache.flushed(op.covers) {
                op.error.get_or_insert(Error::CacheLost);
            }
        }
        self.finish_piece(now, place);
    }

    /// Makes of a flush that was answered the question for the number of the cache: after the
    /// answer, so that a target that has come since is noticed.
    fn ask_who_has_flushed(&mut self, now: Instant, place: u32, slot: u32) {
        self.land(place);
        if let Some(op) = self.ops.get_mut(slot) {
            op.kind = Kind::FlushCheck;
            op.progress = Some(now);
        }
        if let Some(piece) = self.pieces.get_mut(place) {
            *piece = Piece::new(slot, piece.offset, piece.sectors);
            self.again.push_back(place);
        }
    }

    /// What an AoE error means for a request (§15, 6).
    fn refused(
        &mut self,
        place: u32,
        index: usize,
        code: ErrorCode,
        response: &Response<'_>,
    ) -> Effect {
        let Some(piece) = self.pieces.get(place) else {
            return Effect::Lost;
        };
        let large = piece.sectors > u64::from(BASE_SECTORS);
        let Some(op) = self.ops.get(piece.op) else {
            return Effect::Lost;
        };
        match code {
            ErrorCode::UnrecognizedCommand => Effect::Failed(Error::UnknownCommand),
            // The target's frames may have become shorter since it announced them.
            ErrorCode::BadArgument
                if large && matches!(op.kind, Kind::Read(_) | Kind::Write(_)) =>
            {
                self.go_short(index);
                if let Some(path) = self.paths.get(index) {
                    self.ask |= 1_u32.checked_shl(path.port.0.into()).unwrap_or(0);
                }
                Effect::Again
            }
            ErrorCode::BadArgument => Effect::Failed(Error::BadArgument),
            ErrorCode::DeviceUnavailable => Effect::Later,
            ErrorCode::ConfigPresent => {
                let config = Config::decode(response.argument).ok();
                let string = config.and_then(|config| config.string().ok());
                Effect::Failed(Error::ConfigPresent {
                    string: string.unwrap_or_default().to_vec(),
                })
            }
            ErrorCode::UnsupportedVersion
                if !self.paths.get_mut(index).is_some_and(Path::refuses_version) =>
            {
                Effect::Again
            }
            ErrorCode::UnsupportedVersion => {
                self.refused_version = true;
                self.notify(Notice::VersionRefused);
                Effect::Failed(Error::Version)
            }
            ErrorCode::Reserved => Effect::Failed(Error::Reserved),
            // E without a code: damaged.
            ErrorCode::Unknown(0) => {
                self.stats.damaged += 1;
                Effect::Lost
            }
            code @ ErrorCode::Unknown(_) => Effect::Failed(Error::Aoe { code }),
        }
    }

    /// What a response without an AoE error means for a request.
    fn understand(
        &mut self,
        now: Instant,
        place: u32,
        index: usize,
        response: &Response<'_>,
    ) -> Effect {
        let effect = self.read_response(place, index, response);
        match effect {
            Ok(effect) => effect,
            Err(Distrust::Short) => {
                self.stats.short += 1;
                Effect::Lost
            }
            Err(Distrust::Damaged) => {
                self.stats.damaged += 1;
                Effect::Lost
            }
            Err(Distrust::NoChecksum) => {
                self.negotiate_anew(now, index);
                Effect::Lost
            }
        }
    }

    fn read_response(
        &mut self,
        place: u32,
        index: usize,
        response: &Response<'_>,
    ) -> Result<Effect, Distrust> {
        let (Some(piece), Some(path)) = (self.pieces.get(place), self.paths.get(index)) else {
            return Err(Distrust::Damaged);
        };
        let (Some(op), Some(identity)) = (self.ops.get_mut(piece.op), &self.identity) else {
            return Err(Distrust::Damaged);
        };
        if let Kind::Control(control) = &op.kind {
            let answer = control.answer(response.argument).ok_or(Distrust::Damaged)?;
            return Ok(Effect::Done(Some(answer)));
        }
        let ata = Ata::decode(response.argument).map_err(|_| Distrust::Short)?;
        let lba = op.lba.saturating_add(piece.offset);
        let sectors = u8::try_from(piece.sectors).unwrap_or(u8::MAX);
        if response.shared && !matches!(op.kind, Kind::Write(_)) {
            return Err(Distrust::Damaged);
        }
        // Who agreed on a checksum, or shares frames, returns the address unchanged (§3.3), so it
        // tells a response to a damaged request. Plan 9 targets return another (§3.4).
        let strict = response.shared || path.features.checksum().is_some();
        let sent_lba = match op.kind {
            Kind::Read(_) | Kind::Write(_) => transfer(identity, false, lba, sectors).lba,
            _ => [0; 6],
        };
        if strict && ata.lba != sent_lba {
            return Err(Distrust::Damaged);
        }
        let no_data = HEADER_BYTES + response.argument.len() <= MIN_FRAME_BYTES;
        if ata.status().is_failure() {
            let too_many = response.shared && ata.count > sectors;
            if strict && (ata.feature_or_error == 0 || !no_data || too_many) {
                return Err(Distrust::Damaged);
            }
            let registers = Registers {
                status: ata.status(),
                error: ata.feature_or_error,
                not_done: ata.count,
                lba,
            };
            return Ok(Effect::Failed(Error::Device { registers }));
        }
        if strict && (ata.feature_or_error, ata.count) != (0, 0) {
            return Err(Distrust::Damaged);
        }
        let data_bytes = match op.kind {
            Kind::Read(_) => usize::from(sectors) * SECTOR_BYTES,
            Kind::Identify | Kind::FlushCheck => SECTOR_BYTES,
            // A response with data is one to a request that was damaged into a READ.
            _ if strict && !no_data => return Err(Distrust::Damaged),
            _ => return Ok(Effect::Done(None)),
        };
        let data = ata.data.get(..data_bytes).ok_or(Distrust::Short)?;
        match path
            .features
            .checksum()
            .judge(response.argument, ATA_ARGUMENT_BYTES + data_bytes)
        {
            Verdict::Good => {}
            Verdict::Damaged => return Err(Distrust::Damaged),
            Verdict::Missing => return Err(Distrust::NoChecksum),
        }
        if let Kind::Read(buffer) = &mut op.kind {
            let from = usize::try_from(piece.offset).unwrap_or(usize::MAX);
            let from = from.saturating_mul(SECTOR_BYTES);
            let room = buffer.as_mut().get_mut(from..).unwrap_or_default();
            let room = room.get_mut(..data_bytes).ok_or(Distrust::Damaged)?;
            room.copy_from_slice(data);
            return Ok(Effect::Done(None));
        }
        if path.features.checksum().is_some() && !echoes_identify(&ata) {
            return Err(Distrust::Damaged);
        }
        let known = identity;
        let identity = Identity::decode(data).ok_or(Distrust::Damaged)?;
        // Another disk's has nothing to say about a flush.
        if matches!(op.kind, Kind::FlushCheck) && !known.is_same_apart_from_size(&identity) {
            return Err(Distrust::Damaged);
        }
        Ok(Effect::Done(Some(Answer::Identity(Box::new(identity)))))
    }

    fn refuse_version(&mut self, now: Instant) {
        self.refused_version = true;
        self.notify(Notice::VersionRefused);
        self.fail_all(now, &Error::Version);
    }

    /// Late and double responses are counted, not trusted (§15, 4).
    fn count_unmatched(&mut self, command: Command, tag: u32) {
        if command == Command::Config {
            // An announcement, or an answer to our question: taken already.
        } else if self.tags.is_recent(tag) {
            self.stats.late += 1;
        } else {
            self.stats.unmatched += 1;
        }
    }
}

/// Whether the registers are as they were sent with IDENTIFY. No checksum covers the tag, which may
/// be damaged into that of an IDENTIFY; but a checksum covers these. Without one, and with targets
/// that have none, they prove nothing.
fn echoes_identify(response: &Ata<'_>) -> bool {
    response.lba == [0; 6] && !response.flags.contains(AtaFlags::EXTENDED)
}

/// Why a response is taken for none.
enum Distrust {
    Short,
    Damaged,
    NoChecksum,
}
