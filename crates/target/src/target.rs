//! One export: may this initiator ask, and what does its frame mean?
//!
//! Read next: `target/task_file.rs` and `ata/mod.rs` for task files, `access.rs` and
//! `config_string.rs` for the lists and the string that initiators may change, `rights.rs` for what
//! its operator lets them do, `request.rs` for responses, `extension.rs` and `peers.rs` for what
//! initiators negotiate.

mod task_file;

use aoede_wire::{
    Address, Ata, Body, Command, Config, ConfigCommand, Crc32cAppend, DecodeError, ErrorCode,
    ExtensionTable, Flags, Frame, HEADER_BYTES, Header, MacAddr, Mask, MaskCommand, NoRoom,
    Reserve, ReserveCommand, VERSION, crc32c_append,
};

use crate::access::{MaskList, Reservation};
use crate::ata::Action;
use crate::ata::identify::Identify;
use crate::config_string::ConfigString;
use crate::congestion::{Hold, Probe};
use crate::peers::Peers;
use crate::reads::Reads;
use crate::request::{Ending, Request};
use crate::settings::MAX_SECTORS;
use crate::{
    Access, Arrival, ExtensionReset, ExtensionSet, IgnoreReason, Initiator, PortFacts,
    SettingsError, TargetSettings, TargetStats, Trim, WriteCache, extension,
};

/// The firmware version in Query/Config responses. It has no defined meaning, but must not be the
/// `0x4015` by which the 2014 program is recognised (§4.3).
pub const FIRMWARE_VERSION: u16 = 0x5001;

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame ends as a response, a disk request or a counted silence"]
pub enum Outcome<'f> {
    /// Send this many bytes of the output buffer.
    Respond(usize),
    /// Carry this out, then call [`Target::handle_done`].
    Disk(Admitted<'f>),
    /// Several reads: [`Target::next_read`] makes an outcome of each.
    Reads(Reads<'f>),
    /// Send the response that was encoded later: give it to [`Exports::hold`](crate::Exports::hold).
    Hold(Hold),
    /// Stay silent. Counted already.
    Ignore(IgnoreReason),
}

/// A request that is in order and needs the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted<'f> {
    /// To be given back when the disk is done.
    pub request: Request,
    /// What the disk shall do.
    pub action: Action,
    /// For a write its sectors, for a TRIM its blocks of ranges; exactly as long as those, and
    /// empty for everything else.
    pub data: &'f [u8],
}

/// How the disk failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceFailure {
    /// A sector cannot be read.
    Unreadable,
    /// A write or flush failed, or an earlier failure has not been cleared by the operator.
    Fault,
}

/// One export. The crate's own documentation has the order of calls.
#[derive(Debug)]
pub struct Target {
    address: Address,
    sectors: u64,
    read_only: bool,
    trim: Trim,
    buffer_count: u16,
    write_cache: WriteCache,
    /// Writes may be acknowledged before they are stable.
    cache_on: bool,
    /// Requests to turn the cache off whose flush is still running.
    turning_cache_off: u32,
    identify: Identify,
    mask: MaskList,
    access: Access,
    reservation: Reservation,
    config_string: ConfigString,
    extensions: ExtensionSet,
    extension_reset: ExtensionReset,
    /// What is known of initiators.
    peers: Peers,
    crc32c: Crc32cAppend,
    stats: TargetStats,
}

impl Target {
    /// An export in its state after start: nobody holds it, the write cache is as configured.
    ///
    /// # Errors
    /// [`SettingsError`]: what the wire cannot express.
    pub fn new(settings: TargetSettings) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self {
            address: settings.address,
            sectors: settings.sectors.min(MAX_SECTORS),
            read_only: settings.read_only,
            trim: settings.trim,
            buffer_count: settings.buffer_count,
            write_cache: settings.write_cache,
            cache_on: settings.write_cache == WriteCache::Back,
            turning_cache_off: 0,
            identify: Identify::new(&settings),
            mask: MaskList::new(&settings.mask)?,
            access: settings.access,
            reservation: Reservation::new(),
            config_string: ConfigString::new(settings.config_string)?,
            extensions: settings.extensions,
            extension_reset: settings.extension_reset,
            peers: Peers::new(settings.buffer_count.into()),
            crc32c: crc32c_append,
            stats: TargetStats::default(),
        })
    }

    /// Decides what becomes of a frame that [`Exports`](crate::Exports) has screened and selected
    /// this target for.
    ///
    /// `out` is where a whole response can be written, at least
    /// [`port.frame_bytes()`](PortFacts::frame_bytes); what was in it before is never sent.
    pub fn handle_frame<'f>(
        &mut self,
        arrival: &Arrival,
        frame: &Frame<'f>,
        out: &mut [u8],
    ) -> Outcome<'f> {
        debug_assert!(frame.header.address.selects(self.address));
        let outcome = self.judge(arrival, frame, within(&arrival.port, out));
        self.counted(outcome)
    }

    /// Decides what becomes of the next of several reads, as
    /// [`handle_frame`](Self::handle_frame) does of a frame; `None` if there is none. `arrival` is
    /// the frame's, `out` another buffer for each.
    pub fn next_read<'f>(
        &mut self,
        arrival: &Arrival,
        reads: &mut Reads<'f>,
        out: &mut [u8],
    ) -> Option<Outcome<'f>> {
        let (response, ata) = reads.take_first()?;
        let out = within(&arrival.port, out);
        let features = self.peers.features(response.destination);
        let outcome = self.handle_task_file(arrival, features, response, &ata, out);
        Some(self.counted(outcome))
    }

    /// Ends a request that the disk has carried out, or failed to. Encodes the response into
    /// `frame` and returns its length.
    ///
    /// For a successful read the data stands in `frame` from [`DATA_OFFSET`](crate::DATA_OFFSET)
    /// on already; every other response is zero-padded and takes nothing from `frame`. The length
    /// is 0, nothing to send, only if `frame` is shorter than
    /// [`Request::response_bytes`].
    pub fn handle_done(
        &mut self,
        request: Request,
        result: Result<(), DeviceFailure>,
        frame: &mut [u8],
    ) -> usize {
        if request.turns_cache_off() {
            self.turning_cache_off = self.turning_cache_off.saturating_sub(1);
            // A command that failed has changed nothing.
            self.cache_on |= result.is_err();
        }
        let ending = match result {
            Ok(()) => Ending::Done,
            Err(DeviceFailure::Unreadable) => Ending::UNREADABLE,
            Err(DeviceFailure::Fault) => Ending::FAULT,
        };
        self.stats.device_failures += u64::from(result.is_err());
        let (initiator, tag) = (request.initiator(), request.tag());
        if let Some(born) = request.birth() {
            self.peers.end(initiator, born);
        }
        if let Some(tracking) = request.tracking() {
            // Before the response leaves: what it makes the initiator send finds it noted.
            self.peers.finish(tracking, initiator, tag, result.is_ok());
        }
        request.end(ending, frame, self.crc32c).unwrap_or(0)
    }

    /// How many announcements tell everyone who may know: one broadcast, or one frame for each
    /// entry of the mask list (§4.4).
    ///
    /// They are due at start, when a port comes up, and when size, MTU or config string change.
    pub fn announcement_count(&self) -> usize {
        self.mask.entries().len().max(1)
    }

    /// Encodes announcement `index`, below [`announcement_count`](Self::announcement_count), and
    /// returns its length; 0 if there is no such announcement or `out` is too short. `out` is like
    /// that of [`handle_frame`](Self::handle_frame).
    pub fn announcement(&self, port: &PortFacts, index: usize, out: &mut [u8]) -> usize {
        let destination = match (self.mask.entries(), index) {
            ([], 0) => MacAddr::BROADCAST,
            (macs, index) => match macs.get(index) {
                Some(&mac) => mac,
                None => return 0,
            },
        };
        let header = Header {
            flags: Flags::RESPONSE,
            ..Header::request(port.mac, destination, self.address)
        };
        self.encode_config(port, header, ConfigCommand::Read, out)
            .unwrap_or(0)
    }

    /// Goes on where a target of the same disk has stopped, with its own settings: who holds the
    /// disk, what initiators have negotiated of what is allowed now, which of their writes are done,
    /// and the counters. No request of that one may be under way.
    pub fn take_over(&mut self, before: Self) {
        let mask = &self.mask;
        self.peers.take_over(before.peers);
        self.peers.limit_to(self.extensions);
        self.peers.forget_unless(|mac| mask.admits(mac));
        self.reservation = before.reservation;
        self.stats = before.stats;
        if before.write_cache == self.write_cache {
            self.cache_on = before.cache_on;
        }
    }

    /// Computes CRC-32C by this function from now on, which has the processor's instructions for it.
    pub fn set_crc32c(&mut self, append: Crc32cAppend) {
        self.crc32c = append;
    }

    /// Tells the target its new size; whether it is a change, to be announced.
    pub fn set_sectors(&mut self, sectors: u64) -> bool {
        let sectors = sectors.min(MAX_SECTORS);
        core::mem::replace(&mut self.sectors, sectors) != sectors
    }

    /// Lets initiators do this from now on. Takes the place of what they have made of the mask list.
    ///
    /// # Errors
    /// There are too many of them for a mask list, or one is no single station; nothing has changed.
    pub fn set_access(&mut self, access: &Access) -> Result<(), SettingsError> {
        self.mask.replace(&access.mask())?;
        self.access.clone_from(access);
        let mask = &self.mask;
        self.peers.forget_unless(|mac| mask.admits(mac));
        Ok(())
    }

    /// Lets initiators negotiate these extensions from now on. What has been negotiated and is not
    /// among them ends, as by a restart (§7.4).
    pub fn set_extensions(&mut self, extensions: ExtensionSet) {
        self.extensions = extensions;
        self.peers.limit_to(extensions);
    }

    /// Lets other commands end what was negotiated, from now on.
    pub fn set_extension_reset(&mut self, reset: ExtensionReset) {
        self.extension_reset = reset;
    }

    /// Refuses everything that changes data from now on, or no longer. What has been admitted goes
    /// on.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// Whether an initiator changed the mask list since the last call: to be kept over a restart.
    pub fn take_mask_changed(&mut self) -> bool {
        self.mask.take_changed()
    }

    /// Whether an initiator changed the config string since the last call: to be announced and
    /// kept over a restart.
    pub fn take_config_changed(&mut self) -> bool {
        self.config_string.take_changed()
    }

    /// Shelf and slot.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether everything that changes data is refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether writes may be acknowledged before they are stable. Ask for each write: SET FEATURES
    /// turns the cache off and on.
    pub fn is_write_cache_on(&self) -> bool {
        self.cache_on
    }

    /// Who may talk to the export; empty for everyone.
    pub fn mask(&self) -> &[MacAddr] {
        self.mask.entries()
    }

    /// Whether an initiator may talk to the export.
    pub fn admits(&self, mac: MacAddr) -> bool {
        self.mask.admits(mac)
    }

    /// What initiators may do.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// What they may negotiate.
    pub fn extensions(&self) -> ExtensionSet {
        self.extensions
    }

    /// What is known of those that were heard of, in no particular order; 1024 at most.
    pub fn initiators(&self) -> impl Iterator<Item = Initiator> + '_ {
        self.peers.iter()
    }

    /// Who holds the export; empty for nobody.
    pub fn reservation(&self) -> &[MacAddr] {
        self.reservation.holders()
    }

    /// The config string.
    pub fn config_string(&self) -> &[u8] {
        self.config_string.bytes()
    }

    /// Counters since start.
    pub fn stats(&self) -> &TargetStats {
        &self.stats
    }

    /// Counts a response that left after it was held.
    pub(crate) fn count_response(&mut self) {
        self.stats.responses += 1;
    }

    /// Counts a frame for this export that its owner leaves unanswered, without asking it or after
    /// all.
    pub fn count_ignored(&mut self, reason: IgnoreReason) {
        self.stats.ignored.count(reason);
    }

    /// The same of several, such as reads of one frame.
    pub fn count_ignored_times(&mut self, reason: IgnoreReason, times: u64) {
        self.stats.ignored.count_times(reason, times);
    }

    fn counted<'f>(&mut self, outcome: Result<Outcome<'f>, Silence>) -> Outcome<'f> {
        match &outcome {
            Ok(Outcome::Disk(admitted)) => self.stats.count(admitted.action),
            Ok(Outcome::Reads(_)) => self.stats.coalesced_reads += 1,
            // Counted when it leaves, or finds no room.
            Ok(Outcome::Hold(_)) => {}
            Ok(_) => self.stats.responses += 1,
            Err(Silence(reason)) => self.stats.ignored.count(*reason),
        }
        outcome.unwrap_or_else(|Silence(reason)| Outcome::Ignore(reason))
    }

    /// Checks 5 to 12 of §2, in order.
    fn judge<'f>(
        &mut self,
        arrival: &Arrival,
        frame: &Frame<'f>,
        out: &mut [u8],
    ) -> Result<Outcome<'f>, Silence> {
        let (header, port) = (&frame.header, &arrival.port);
        if !self.mask.admits(header.source) {
            return Err(Silence(IgnoreReason::Masked));
        }
        self.peers.hear(arrival.now, header.source);
        let wildcard = header.address.is_wildcard();
        let response = header.response(port.mac, self.address);
        if header.version != VERSION {
            if wildcard {
                return Err(Silence(IgnoreReason::Version));
            }
            return echo(
                response.with_error(ErrorCode::UnsupportedVersion),
                frame,
                out,
            );
        }
        let len = match header.command {
            Command::Ata => {
                let ata = Ata::decode(frame.argument)?;
                return self.handle_ata(arrival, frame, response, &ata, out);
            }
            Command::Config => {
                let request = Config::decode(frame.argument)?;
                if self.extension_reset == ExtensionReset::AnyConfig {
                    self.peers.forget(header.source);
                }
                self.handle_config(port, response, &request, out)?
            }
            Command::Mask => {
                let request = Mask::decode(frame.argument)?;
                if wildcard && request.command != MaskCommand::Read {
                    return Err(Silence(IgnoreReason::Wildcard));
                }
                let peers = &mut self.peers;
                let deleted = |mac| peers.forget(mac);
                let may_edit = self.access.configure.includes(header.source);
                self.mask
                    .answer(&request, may_edit, port, response, out, deleted)?
            }
            Command::Reserve => {
                let request = Reserve::decode(frame.argument)?;
                if wildcard && request.command != ReserveCommand::Read {
                    return Err(Silence(IgnoreReason::Wildcard));
                }
                let may_change = self.access.configure.includes(header.source);
                self.reservation
                    .answer(&request, may_change, port, response, out)?
            }
            Command::Extension => return self.handle_extension(arrival, frame, response, out),
            Command::Unknown(_) => {
                if wildcard {
                    return Err(Silence(IgnoreReason::UnknownCommand));
                }
                return echo(
                    response.with_error(ErrorCode::UnrecognizedCommand),
                    frame,
                    out,
                );
            }
        };
        Ok(Outcome::Respond(len))
    }

    /// Notes what an initiator wants and answers with its own frame, accepted names in upper case.
    fn handle_extension<'f>(
        &mut self,
        arrival: &Arrival,
        frame: &Frame<'f>,
        response: Header,
        out: &mut [u8],
    ) -> Result<Outcome<'f>, Silence> {
        let table = ExtensionTable::decode(frame.argument)?;
        let malformed = |_| Silence(IgnoreReason::ExtensionTable);
        let entries = table.entries().map_err(malformed)?;
        // Before anything is changed: now there is room for the answer.
        let len = encode_echo(response, frame, out)?;
        let wanted = extension::read(entries, self.extensions, |entry| {
            let start = ExtensionTable::OFFSET + entry.start;
            let name = out.get_mut(start..start + entry.bytes.len());
            name.unwrap_or_default().make_ascii_uppercase();
        });
        let initiator = response.destination;
        match self.peers.negotiate(arrival, initiator, &wanted) {
            Probe::Answer => Ok(Outcome::Respond(len)),
            Probe::Hold { until, place } => Ok(Outcome::Hold(Hold {
                len,
                seat: arrival.seat,
                until,
                place,
            })),
            Probe::Drop => Err(Silence(IgnoreReason::CongestionPause)),
        }
    }

    fn handle_config(
        &mut self,
        port: &PortFacts,
        response: Header,
        request: &Config<'_>,
        out: &mut [u8],
    ) -> Result<usize, Silence> {
        let changes = matches!(
            request.command,
            ConfigCommand::Set | ConfigCommand::ForceSet
        );
        if changes && !self.access.configure.includes(response.destination) {
            let header = response.with_error(ErrorCode::Reserved);
            return Ok(self.encode_config(port, header, request.command, out)?);
        }
        let header = match self.config_string.handle(request).map_err(Silence)? {
            Ok(()) => {
                if changes {
                    self.peers.forget_all();
                }
                response
            }
            Err(code) => response.with_error(code),
        };
        Ok(self.encode_config(port, header, request.command, out)?)
    }

    fn encode_config(
        &self,
        port: &PortFacts,
        header: Header,
        command: ConfigCommand,
        out: &mut [u8],
    ) -> Result<usize, NoRoom> {
        let checksum = self.peers.checksum(header.destination);
        let fixed = Config {
            buffer_count: self.buffer_count,
            firmware: FIRMWARE_VERSION,
            sector_count: port.sectors_with(checksum, out.len()),
            version: VERSION,
            command,
            ..Config::default()
        };
        let config = fixed
            .with_string(self.config_string.bytes())
            .map_err(|_| NoRoom)?;
        Body::Config(config).encode(header, out)
    }
}

/// The part of `out` that a frame of this port may fill.
fn within<'o>(port: &PortFacts, out: &'o mut [u8]) -> &'o mut [u8] {
    let len = out.len().min(port.frame_bytes());
    out.split_at_mut(len).0
}

/// Answers with all that came behind the header.
fn echo<'f>(header: Header, frame: &Frame<'_>, out: &mut [u8]) -> Result<Outcome<'f>, Silence> {
    Ok(Outcome::Respond(encode_echo(header, frame, out)?))
}

/// A frame longer than the port can send has not come over this port's network: its end is left
/// out.
fn encode_echo(header: Header, frame: &Frame<'_>, out: &mut [u8]) -> Result<usize, NoRoom> {
    let most = out.len().saturating_sub(HEADER_BYTES);
    let argument = frame.argument.get(..most).unwrap_or(frame.argument);
    Body::Unknown(header.command.into(), argument).encode(header, out)
}

/// The reason of an ignored frame, on its way out of the checks.
#[derive(Debug)]
struct Silence(IgnoreReason);

impl From<DecodeError> for Silence {
    fn from(_: DecodeError) -> Self {
        Self(IgnoreReason::CutShort)
    }
}

impl From<NoRoom> for Silence {
    fn from(_: NoRoom) -> Self {
        Self(IgnoreReason::NoRoom)
    }
}
