//! A target without a disk: every read is answered with zeros, every write with success. It takes
//! and sends frames the way our target does, a batch at a time, so its speed is the limit of the
//! packet path, and what a target adds to its processor time is the price of being a disk.

use std::time::Duration;

use anyhow::Context as _;
use aoede_link::{BATCH, Interface, PacketPort, Port as _, PortOptions};
use aoede_wire::{
    Address, Ata, Body, Config, ErrorCode, Flags, Frame, MacAddr, Opcode, SECTOR_BYTES, Status,
    VERSION, ata_error, sectors_per_frame,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Requests held at once, as announced.
const BUFFERS: u16 = 64;

/// What it pretends to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its shelf and slot.
    pub address: Address,
    /// Where it answers.
    pub interface: String,
    /// The size of its disk.
    pub sectors: u64,
}

/// Answers until the process is ended. `ready` is called when it begins to.
///
/// # Errors
/// There is no such interface, or it goes away.
pub fn run(settings: &Settings, ready: impl FnOnce()) -> anyhow::Result<()> {
    let interface = crate::interface(&settings.interface)?;
    let mut port = PacketPort::open(&interface, &PortOptions::default())?;
    let disk = Disk::new(settings, &interface);
    let mut responses: Vec<Response> = (0..BATCH).map(|_| Response::new(&interface)).collect();
    ready();
    loop {
        let mut count = 0;
        for response in &mut responses {
            let Some(bytes) = port.receive() else { break };
            disk.answer(bytes, response);
            count += 1;
        }
        port.release();
        if count == 0 {
            sleep(&port)?;
            continue;
        }
        let batch = responses.get_mut(..count).unwrap_or_default();
        batch.sort_by_key(|response| response.len == 0);
        let silent = batch.iter().position(|response| response.len == 0);
        let batch = batch.get(..silent.unwrap_or(count)).unwrap_or(&[]);
        // What finds no room in the send buffer is asked for again.
        port.send(batch);
    }
}

/// A frame, and how much of its memory is used: none for silence.
struct Response {
    /// Zeros behind the header, unless there are `leftovers`.
    bytes: Vec<u8>,
    len: usize,
    leftovers: bool,
}

impl Response {
    fn new(interface: &Interface) -> Self {
        Self {
            bytes: vec![0; interface.mtu as usize + 64],
            len: 0,
            leftovers: false,
        }
    }
}

impl AsRef<[u8]> for Response {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

fn sleep(port: &PacketPort) -> anyhow::Result<()> {
    let long = Timespec::try_from(Duration::from_secs(3600))?;
    let mut descriptors = [PollFd::new(port, PollFlags::IN)];
    match poll(&mut descriptors, Some(&long)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("cannot wait for frames"),
    }
}

/// The disk that is not there.
#[derive(Clone, Debug)]
struct Disk {
    address: Address,
    mac: MacAddr,
    sectors: u64,
    max_sectors: u8,
}

/// Where the data of a read begins in its response.
const DATA_AT: usize = 36;

impl Disk {
    fn new(settings: &Settings, interface: &Interface) -> Self {
        Self {
            address: settings.address,
            mac: interface.mac,
            sectors: settings.sectors,
            max_sectors: sectors_per_frame(interface.mtu, false),
        }
    }

    /// Makes the response to a frame.
    fn answer(&self, request: &[u8], response: &mut Response) {
        if std::mem::take(&mut response.leftovers) {
            response.bytes.fill(0);
        }
        // A frame that does not fit is no request we announced to take.
        response.len = self.encode(request, response).unwrap_or(0);
    }

    fn encode(&self, request: &[u8], response: &mut Response) -> Option<usize> {
        let frame = Frame::decode(request).ok()?;
        let asked = !frame.header.flags.contains(Flags::RESPONSE)
            && frame.header.address.selects(self.address);
        if !asked {
            return None;
        }
        let header = frame.header.response(self.mac, self.address);
        let out = &mut response.bytes;
        match frame.body().ok()? {
            Body::Ata(request) => match request.opcode() {
                Opcode::Read | Opcode::ReadExt if request.count <= self.max_sectors => {
                    // The zeros are there already.
                    let len = Body::Ata(done(&request)).encode(header, out).ok()?;
                    Some(len.max(DATA_AT + usize::from(request.count) * SECTOR_BYTES))
                }
                Opcode::Write | Opcode::WriteExt | Opcode::FlushCache | Opcode::FlushCacheExt => {
                    Body::Ata(done(&request)).encode(header, out).ok()
                }
                Opcode::Identify => {
                    response.leftovers = true;
                    let identity = self.identity();
                    let identified = done(&request).with_data(&identity);
                    Body::Ata(identified).encode(header, out).ok()
                }
                _ => {
                    let aborted = Ata {
                        feature_or_error: ata_error::ABRT,
                        command_or_status: Status::FAILED.0,
                        ..done(&request)
                    };
                    Body::Ata(aborted).encode(header, out).ok()
                }
            },
            Body::Config(_) => {
                let config = Config {
                    buffer_count: BUFFERS,
                    sector_count: self.max_sectors,
                    version: VERSION,
                    ..Config::default()
                };
                Body::Config(config).encode(header, out).ok()
            }
            other => {
                let header = header.with_error(ErrorCode::UnrecognizedCommand);
                let nothing = Body::Unknown(other.command().into(), &[]);
                nothing.encode(header, out).ok()
            }
        }
    }

    fn identity(&self) -> [u8; SECTOR_BYTES] {
        let mut identity = [0; SECTOR_BYTES];
        let mut set = |word: usize, bytes: &[u8]| {
            if let Some(place) = identity.get_mut(word * 2..word * 2 + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        set(0, &[0x40, 0]); // ATA, fixed disk
        set(27, b"oNI O         "); // model "No I/O"
        set(49, &[0, 2]); // LBA
        set(
            60,
            &u32::try_from(self.sectors)
                .unwrap_or(0x0FFF_FFFF)
                .min(0x0FFF_FFFF)
                .to_le_bytes(),
        );
        set(83, &[0, 0x74]); // FLUSH EXT, FLUSH, LBA48
        set(86, &[0, 0x34]);
        set(100, &self.sectors.to_le_bytes());
        identity
    }
}

/// The registers of a request that went well.
fn done<'a>(request: &Ata<'_>) -> Ata<'a> {
    Ata {
        flags: request.flags,
        feature_or_error: 0,
        count: 0,
        command_or_status: Status::GOOD.0,
        lba: request.lba,
        reserved: request.reserved,
        data: &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoede_wire::Header;

    const INITIATOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);
    const ADDRESS: Address = Address { shelf: 7, slot: 1 };

    fn disk() -> Disk {
        Disk {
            address: ADDRESS,
            mac: MacAddr([2, 0, 0, 0, 0, 0x0A]),
            sectors: 5000,
            max_sectors: 17,
        }
    }

    fn response() -> Response {
        Response {
            bytes: vec![0; 9064],
            len: 0,
            leftovers: false,
        }
    }

    fn request(body: Body<'_>) -> Vec<u8> {
        let header = Header::request(INITIATOR, MacAddr::BROADCAST, Address::ALL);
        let mut bytes = vec![0; 9014];
        let len = body.encode(header, &mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }

    fn ata(response: &Response) -> Ata<'_> {
        let frame = Frame::decode(response.as_ref()).unwrap();
        assert_eq!(frame.header.flags, Flags::RESPONSE);
        assert_eq!(frame.header.destination, INITIATOR);
        assert_eq!(frame.header.address, ADDRESS);
        match frame.body() {
            Ok(Body::Ata(ata)) => ata,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_are_zeros_even_after_identify() {
        let (disk, mut response) = (disk(), response());
        let identify = Ata::request(Opcode::Identify, 0, 1);
        disk.answer(&request(Body::Ata(identify)), &mut response);
        let identity = ata(&response).data;
        assert_eq!(identity[200..208], 5000_u64.to_le_bytes());
        assert_eq!(&identity[54..60], b"oNI O ");
        let read = Ata::request(Opcode::ReadExt, 3, 8);
        disk.answer(&request(Body::Ata(read)), &mut response);
        assert_eq!(response.len, DATA_AT + 4096);
        assert_eq!(ata(&response).status(), Status::GOOD);
        assert_eq!(ata(&response).data, [0; 4096]);
    }

    #[test]
    fn it_is_found_and_says_what_it_takes() {
        let (disk, mut response) = (disk(), response());
        disk.answer(&request(Body::Config(Config::default())), &mut response);
        let frame = Frame::decode(response.as_ref()).unwrap();
        let Ok(Body::Config(config)) = frame.body() else {
            panic!("no config response");
        };
        assert_eq!((config.buffer_count, config.sector_count), (BUFFERS, 17));
        assert_eq!(config.string(), Ok(&[][..]));
    }

    #[test]
    fn writes_succeed_and_nonsense_does_not() {
        let (disk, mut response) = (disk(), response());
        let write = Ata::request(Opcode::WriteExt, 3, 1).with_data(&[1; 512]);
        disk.answer(&request(Body::Ata(write)), &mut response);
        assert_eq!((response.len, ata(&response).status()), (60, Status::GOOD));
        let smart = Ata::request(Opcode::Smart, 0, 1);
        disk.answer(&request(Body::Ata(smart)), &mut response);
        assert_eq!(ata(&response).status(), Status::FAILED);
        disk.answer(&request(Body::Unknown(9, &[])), &mut response);
        let frame = Frame::decode(response.as_ref()).unwrap();
        assert_eq!(frame.header.error, 1);
    }

    #[test]
    fn what_is_not_asked_is_not_answered() {
        let (disk, mut response) = (disk(), response());
        let read = Ata::request(Opcode::ReadExt, 3, 8);
        let mut other = request(Body::Ata(read));
        other[16..18].copy_from_slice(&[0, 9]);
        disk.answer(&other, &mut response);
        assert_eq!(response.len, 0);
        let mut answered = request(Body::Ata(read));
        answered[14] |= 0x08;
        disk.answer(&answered, &mut response);
        assert_eq!(response.len, 0);
        disk.answer(&[0; 20], &mut response);
        assert_eq!(response.len, 0);
    }
}
