//! One export: may this initiator ask, and what does its frame mean?
//!
//! Read next: `ata/mod.rs` for task files, `access.rs` and `config_string.rs` for the lists and
//! the string that initiators may change, `request.rs` for responses.

use aoede_wire::{
    Address, Ata, Body, Command, Config, ConfigCommand, DecodeError, ErrorCode, Flags, Frame,
    HEADER_BYTES, Header, MacAddr, Mask, MaskCommand, NoRoom, Opcode, Reserve, ReserveCommand,
    VERSION,
};

use crate::access::{MaskList, Reservation};
use crate::ata::identify::{Changing, Identify};
use crate::ata::{self, Action, Device, Verdict};
use crate::config_string::ConfigString;
use crate::request::{DATA_OFFSET, Ending, Request};
use crate::settings::MAX_SECTORS;
use crate::{IgnoreReason, PortFacts, SettingsError, TargetSettings, TargetStats, WriteCache};

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
    trim: bool,
    buffer_count: u16,
    write_cache: WriteCache,
    /// Writes may be acknowledged before they are stable.
    cache_on: bool,
    /// Requests to turn the cache off whose flush is still running.
    turning_cache_off: u32,
    identify: Identify,
    mask: MaskList,
    reservation: Reservation,
    config_string: ConfigString,
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
            trim: settings.offers_trim(),
            buffer_count: settings.buffer_count,
            write_cache: settings.write_cache,
            cache_on: settings.write_cache == WriteCache::Back,
            turning_cache_off: 0,
            identify: Identify::new(&settings),
            mask: MaskList::new(&settings.mask)?,
            reservation: Reservation::new(),
            config_string: ConfigString::new(settings.config_string)?,
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
        port: &PortFacts,
        frame: &Frame<'f>,
        out: &mut [u8],
    ) -> Outcome<'f> {
        debug_assert!(frame.header.address.selects(self.address));
        let len = out.len().min(port.frame_bytes());
        let (out, _) = out.split_at_mut(len);
        let outcome = self.judge(port, frame, out);
        match &outcome {
            Ok(Outcome::Disk(admitted)) => self.stats.count(admitted.action),
            Ok(_) => self.stats.responses += 1,
            Err(Silence(reason)) => self.stats.ignored.count(*reason),
        }
        outcome.unwrap_or_else(|Silence(reason)| Outcome::Ignore(reason))
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
        request.end(ending, frame).unwrap_or(0)
    }

    /// How many announcements tell everyone who may know: one broadcast, or one frame for each
    /// entry of the mask list (§4.4).
    ///
    /// They are due at start, when a port comes up, and when size, MTU or config string change.
    pub fn announcement_count(&self) -> usize {
        self.mask.entries().len().max(1)
    }

    /// Encodes announcement `index`, below [`announcement_count`](Self::announcement_count), and
    /// returns its length; 0 if there is no such announcement or `out` is too short.
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

    /// Tells the target its new size; whether it is a change, to be announced.
    pub fn set_sectors(&mut self, sectors: u64) -> bool {
        let sectors = sectors.min(MAX_SECTORS);
        core::mem::replace(&mut self.sectors, sectors) != sectors
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

    /// Checks 5 to 11 of §2, in order.
    fn judge<'f>(
        &mut self,
        port: &PortFacts,
        frame: &Frame<'f>,
        out: &mut [u8],
    ) -> Result<Outcome<'f>, Silence> {
        let header = &frame.header;
        if !self.mask.admits(header.source) {
            return Err(Silence(IgnoreReason::Masked));
        }
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
                return self.handle_ata(port, frame, response, &ata, out);
            }
            Command::Config => {
                let request = Config::decode(frame.argument)?;
                self.handle_config(port, response, &request, out)?
            }
            Command::Mask => {
                let request = Mask::decode(frame.argument)?;
                if wildcard && request.command != MaskCommand::Read {
                    return Err(Silence(IgnoreReason::Wildcard));
                }
                self.mask.answer(&request, port, response, out)?
            }
            Command::Reserve => {
                let request = Reserve::decode(frame.argument)?;
                if wildcard && request.command != ReserveCommand::Read {
                    return Err(Silence(IgnoreReason::Wildcard));
                }
                self.reservation.answer(&request, port, response, out)?
            }
            // No extension is spoken yet. What one initiator negotiates will belong to the pair of
            // export and source MAC: kept beside `mask`, looked up here.
            Command::Extension | Command::Unknown(_) => {
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

    fn handle_ata<'f>(
        &mut self,
        port: &PortFacts,
        frame: &Frame<'f>,
        response: Header,
        ata: &Ata<'f>,
        out: &mut [u8],
    ) -> Result<Outcome<'f>, Silence> {
        let opcode = ata.opcode();
        if frame.header.address.is_wildcard() && !ata::allowed_to_wildcard(opcode) {
            return Err(Silence(IgnoreReason::Wildcard));
        }
        let request = Request::new(response, ata);
        let device = self.device(port);
        let verdict = if opcode == Opcode::Identify || self.reservation.admits(frame.header.source)
        {
            ata::judge(ata, &device)
        } else {
            Err(Ending::Refused(ErrorCode::Reserved))
        };
        let (request, ending) = match verdict {
            Ok(Verdict::Disk(action, data)) => {
                let request = match action {
                    Action::Read { .. } => request.with_data(ata.count),
                    _ => request,
                };
                return Ok(Outcome::Disk(Admitted {
                    request,
                    action,
                    data,
                }));
            }
            Ok(Verdict::CacheOff) if self.write_cache_may_hold_data() => {
                // Off at once for new writes, so that the flush covers every early acknowledgement.
                self.cache_on = false;
                self.turning_cache_off = self.turning_cache_off.saturating_add(1);
                return Ok(Outcome::Disk(Admitted {
                    request: request.turning_cache_off(),
                    action: Action::Flush,
                    data: &[],
                }));
            }
            Ok(Verdict::CacheOff) => (request, Ending::Done),
            Ok(Verdict::CacheOn) => {
                self.cache_on = true;
                (request, Ending::Done)
            }
            Ok(Verdict::Identify) => {
                let identity = self.identify.to_bytes(Changing {
                    sectors: self.sectors,
                    write_cache_on: self.write_cache_may_hold_data(),
                    trim_blocks: device.trim_blocks(),
                });
                out.get_mut(DATA_OFFSET..DATA_OFFSET + identity.len())
                    .ok_or(NoRoom)?
                    .copy_from_slice(&identity);
                (request.with_data(1), Ending::Done)
            }
            Ok(Verdict::Nothing(ending)) | Err(ending) => (request, ending),
        };
        Ok(Outcome::Respond(request.end(ending, out).ok_or(NoRoom)?))
    }

    fn device(&self, port: &PortFacts) -> Device {
        Device {
            sectors: self.sectors,
            max_sectors: port.sectors_per_frame(),
            read_only: self.read_only,
            trim: self.trim,
            write_back: self.write_cache == WriteCache::Back,
        }
    }

    /// Whether word 85 has to admit to a write cache: it does until the last flush for turning it
    /// off is through.
    fn write_cache_may_hold_data(&self) -> bool {
        self.cache_on || self.turning_cache_off > 0
    }

    fn handle_config(
        &mut self,
        port: &PortFacts,
        response: Header,
        request: &Config<'_>,
        out: &mut [u8],
    ) -> Result<usize, Silence> {
        let header = match self.config_string.handle(request).map_err(Silence)? {
            Ok(()) => response,
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
        let fixed = Config {
            buffer_count: self.buffer_count,
            firmware: FIRMWARE_VERSION,
            sector_count: port.sectors_per_frame(),
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

/// Answers with all that came behind the header. A frame longer than the port can send has not
/// come over this port's network: its end is left out.
fn echo<'f>(header: Header, frame: &Frame<'_>, out: &mut [u8]) -> Result<Outcome<'f>, Silence> {
    let most = out.len().saturating_sub(HEADER_BYTES);
    let argument = frame.argument.get(..most).unwrap_or(frame.argument);
    let body = Body::Unknown(header.command.into(), argument);
    Ok(Outcome::Respond(body.encode(header, out)?))
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
