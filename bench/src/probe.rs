//! An initiator that measures a target's congestion (§10), again and again: what that costs others.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use aoede_link::{BATCH, PacketPort, Port as _, PortOptions};
use aoede_wire::{
    Address, Body, Command, Config, ExtensionTable, Flags, Frame, Header, MacAddr, Tag,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a target may take to answer a question.
const SOON: Duration = Duration::from_secs(5);
/// How long answers to probes are waited for: they are held for half a second.
const HELD: Duration = Duration::from_millis(900);
/// From the beginning of a measurement to that of the next: a target takes none within 2 s.
const EVERY: Duration = Duration::from_millis(2200);
/// Bytes of a probe.
const PROBE_BYTES: usize = 8192;

/// Whom to measure, and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The target.
    pub address: Address,
    /// Where to find it.
    pub interface: String,
    /// Frames of one measurement.
    pub probes: u32,
    /// Measurements.
    pub times: u32,
}

/// Measures, and calls `told` with the number of answers each time.
///
/// # Errors
/// No target, or the interface fails.
pub fn run(settings: &Settings, mut told: impl FnMut(u32)) -> anyhow::Result<()> {
    let interface = crate::interface(&settings.interface)?;
    let mut port = PacketPort::open(&interface, &PortOptions::default())?;
    let header = Header::request(interface.mac, MacAddr::BROADCAST, settings.address);
    let mut question = [0; 60];
    Body::Config(Config::default()).encode(header, &mut question)?;
    port.send(&[question]);
    let target = receive(&mut port, Instant::now() + SOON, |frame| {
        (frame.header.command == Command::Config).then_some(frame.header.source)
    })?;
    let header = Header {
        destination: target.context("no target answers")?,
        ..header
    };
    // Another id each time, and in each run.
    let id = u64::from(std::process::id()) << 16;
    for number in 0..settings.times {
        let start = Instant::now();
        let mut first = [0; 64];
        let names = format!("congestion\0{}\0\0", id + u64::from(number));
        let table = Body::Extension(ExtensionTable::new(names.as_bytes())?);
        let len = table.encode(header, &mut first)?;
        let probe = |tag: u32| {
            let mut frame = vec![0; PROBE_BYTES];
            let (head, tag) = (first.get(..len), tag.to_be_bytes());
            for (byte, value) in frame.iter_mut().zip(head.unwrap_or_default()) {
                *byte = *value;
            }
            if let Some(place) = frame.get_mut(20..24) {
                place.copy_from_slice(&tag);
            }
            frame
        };
        let frames: Vec<Vec<u8>> = (0..settings.probes).map(|tag| probe(tag + 1)).collect();
        let mut rest = frames.as_slice();
        while !rest.is_empty() {
            let sent = port.send(rest.get(..rest.len().min(BATCH)).unwrap_or(rest));
            rest = rest.get(sent..).unwrap_or_default();
            ensure!(start.elapsed() < SOON, "probes cannot be sent");
        }
        let mut answered = 0;
        let all: Option<()> = receive(&mut port, start + HELD, |frame| {
            let Header { command, tag, .. } = frame.header;
            answered += u32::from(command == Command::Extension && tag != Tag([0; 4]));
            (answered >= settings.probes).then_some(())
        })?;
        debug_assert_eq!(all.is_some(), answered >= settings.probes);
        told(answered);
        if number + 1 < settings.times {
            std::thread::sleep(EVERY.saturating_sub(start.elapsed()));
        }
    }
    Ok(())
}

/// Shows every response to `look` until it has found something or time is over.
fn receive<T>(
    port: &mut PacketPort,
    end: Instant,
    mut look: impl FnMut(&Frame<'_>) -> Option<T>,
) -> anyhow::Result<Option<T>> {
    loop {
        while let Some(bytes) = port.receive() {
            let Ok(frame) = Frame::decode(bytes) else {
                continue;
            };
            if frame.header.flags == Flags::RESPONSE {
                if let Some(found) = look(&frame) {
                    port.release();
                    return Ok(Some(found));
                }
            }
        }
        port.release();
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout = Timespec::try_from(left)?;
        match poll(&mut [PollFd::new(&*port, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for frames"),
        }
    }
}
