//! The NBD server over a disk in memory, whose requests a test may hold back, and a client that is
//! written here from the protocol's document a second time.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests: a panic is how they fail"
)]

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aoede::nbd::disk::{Backing, Facts};
use aoede::nbd::server;
use aoede::nbd::service::Service;
use aoede::nbd::socket::Socket;
use aoede::stop::{Stop, StopHandle};
use aoede_initiator::{Answer, ClientError, Completion, Error, Refusal, Registers, Request};
use aoede_wire::Status;

/// For anything that a thread does at once.
const SOON: Duration = Duration::from_secs(20);
const SECTORS: u64 = 128 * 1024;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const FUA: u16 = 1;
const NO_HOLE: u16 = 2;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
struct Memory {
    shared: Arc<(Mutex<Inside>, Condvar)>,
    /// Whoever asks it panics, as by a fault of the program.
    panics: Arc<AtomicBool>,
    /// Gone for good, which the server is told when it asks for news.
    ended: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Inside {
    data: Vec<u8>,
    facts: Facts,
    losses: u64,
    /// Requests are kept until they are released.
    hold: bool,
    held: Vec<Held>,
    /// The most that were held at once.
    most_held: usize,
    /// What was asked, in words.
    log: Vec<String>,
    /// Trims fail with this.
    failing_trims: Option<fn() -> ClientError>,
    /// The next requests fail with this.
    failing: Option<fn() -> ClientError>,
}

#[derive(Debug)]
struct Held {
    token: u64,
    request: Request<Vec<u8>>,
    done: Sender<Completion>,
}

impl Backing for Memory {
    fn facts(&self) -> Result<Facts, ClientError> {
        Ok(self.lock().facts)
    }

    fn losses(&self) -> Result<u64, ClientError> {
        Ok(self.lock().losses)
    }

    fn begin(&self, token: u64, request: Request<Vec<u8>>, done: &Sender<Completion>) {
        let panics = self.panics.load(Ordering::SeqCst);
        assert!(!panics, "a fault, on purpose");
        let done = done.clone();
        let held = Held {
            token,
            request,
            done,
        };
        let mut inside = self.lock();
        inside.log.push(words(&held.request));
        if inside.hold {
            inside.held.push(held);
            inside.most_held = inside.most_held.max(inside.held.len());
            self.shared.1.notify_all();
        } else {
            inside.finish(held);
        }
    }
}

impl Memory {
    fn new() -> Self {
        let facts = Facts {
            sectors: SECTORS,
            flush: true,
            trim: true,
            trim_zeroes: true,
            abort_refuses: true,
        };
        let inside = Inside {
            data: vec![0; SECTORS as usize * 512],
            facts,
            losses: 0,
            hold: false,
            held: Vec::new(),
            most_held: 0,
            log: Vec::new(),
            failing_trims: None,
            failing: None,
        };
        Self {
            shared: Arc::new((Mutex::new(inside), Condvar::new())),
            panics: Arc::default(),
            ended: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.shared.0.lock().unwrap()
    }

    /// Waits until so many requests are held.
    fn wait_for_held(&self, count: usize) -> MutexGuard<'_, Inside> {
        let waited = self
            .shared
            .1
            .wait_timeout_while(self.lock(), SOON, |inside| inside.held.len() < count);
        let (inside, late) = waited.unwrap();
        assert!(!late.timed_out(), "{} are held", inside.held.len());
        inside
    }

    /// Lets the one go that was held as this one.
    fn release(&self, index: usize) {
        let mut inside = self.lock();
        let held = inside.held.remove(index);
        inside.finish(held);
    }

    fn release_all(&self) {
        let mut inside = self.lock();
        inside.hold = false;
        for held in std::mem::take(&mut inside.held) {
            inside.finish(held);
        }
    }
}

impl Inside {
    fn finish(&mut self, held: Held) {
        let at = |lba: u64| usize::try_from(lba).unwrap() * 512;
        let mut result = Ok(Answer::Done);
        let mut buffer = None;
        let is_trim = matches!(held.request, Request::Trim { .. });
        if let Some(error) = self
            .failing
            .or_else(|| self.failing_trims.filter(|_| is_trim))
        {
            result = Err(error());
        } else {
            match held.request {
                Request::Read {
                    lba,
                    buffer: mut into,
                } => {
                    let len = into.len();
                    into.copy_from_slice(&self.data[at(lba)..][..len]);
                    buffer = Some(into);
                }
                Request::Write { lba, buffer: from } => {
                    self.data[at(lba)..][..from.len()].copy_from_slice(&from);
                    buffer = Some(from);
                }
                Request::Trim { lba, sectors } => {
                    self.data[at(lba)..][..at(sectors)].fill(0);
                }
                Request::Flush => {}
                other => panic!("{other:?}"),
            }
        }
        let token = held.token;
        // The connection may be gone.
        let _ = held.done.send(Completion {
            token,
            buffer,
            result,
        });
    }
}

fn words(request: &Request<Vec<u8>>) -> String {
    match request {
        Request::Read { lba, buffer } => format!("read {lba}+{}", buffer.len() / 512),
        Request::Write { lba, buffer } => format!("write {lba}+{}", buffer.len() / 512),
        Request::Trim { lba, sectors } => format!("trim {lba}+{sectors}"),
        Request::Flush => "flush".to_owned(),
        other => format!("{other:?}"),
    }
}

/// A server in a thread.
struct Scene {
    disk: Memory,
    stop: StopHandle,
    server: Option<JoinHandle<io::Result<bool>>>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with(false, 16)
    }

    fn with(read_only: bool, most: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nbd");
        let socket = Socket::open(&path, 0o600).unwrap();
        let (stopping, stop) = Stop::by_hand().unwrap();
        let disk = Memory::new();
        let service = Service::new(disk.clone(), String::new(), read_only);
        let disk_of_server = disk.clone();
        let server = thread::spawn(move || {
            let tick = || {
                if disk_of_server.ended.load(Ordering::SeqCst) {
                    return Err(io::Error::other("the disk has ended"));
                }
                Ok(())
            };
            let served = server::run(socket, &service, &stopping, most, tick);
            served.map(|()| service.has_changed())
        });
        Self {
            disk,
            stop,
            server: Some(server),
            path,
            _folder: folder,
        }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path, false)
    }

    /// Asks it to stop, and says whether anything was changed, when it has.
    fn stop(mut self) -> bool {
        self.stop.stop().unwrap();
        self.server.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // It has stopped already, if the test has asked it to.
        let _ = self.stop.stop();
    }
}

/// A client that has negotiated.
struct Client {
    stream: UnixStream,
    structured: bool,
    size: u64,
    flags: u16,
}

/// A reply: the cookie, the error, and the data.
type Reply = (u64, u32, Vec<u8>);

impl Client {
    fn connect(path: &Path, structured: bool) -> Self {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(&take::<18>(&mut stream), b"NBDMAGICIHAVEOPT\0\x03");
        stream.write_all(&[0, 0, 0, 3]).unwrap();
        if structured {
            let option = b"IHAVEOPT\0\0\0\x08\0\0\0\0";
            stream.write_all(option).unwrap();
            let reply = take::<20>(&mut stream);
            assert_eq!(reply[12..], [0, 0, 0, 1, 0, 0, 0, 0]);
        }
        // EXPORT_NAME, of no name.
        stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
        let size = u64::from_be_bytes(take(&mut stream));
        let flags = u16::from_be_bytes(take(&mut stream));
        Self {
            stream,
            structured,
            size,
            flags,
        }
    }

    fn ask(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, len: u32) {
        let mut bytes = vec![0x25, 0x60, 0x95, 0x13];
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        self.stream.write_all(&bytes).unwrap();
    }

    fn write(&mut self, flags: u16, cookie: u64, offset: u64, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        self.ask(WRITE, flags, cookie, offset, len);
        self.stream.write_all(data).unwrap();
    }

    /// A reply. `len` bytes of data are expected if it is a simple one without error.
    fn reply(&mut self, len: usize) -> Reply {
        let magic = u32::from_be_bytes(take(&mut self.stream));
        if magic == 0x6744_6698 {
            let error = u32::from_be_bytes(take(&mut self.stream));
            let cookie = u64::from_be_bytes(take(&mut self.stream));
            let mut data = vec![0; if error == 0 { len } else { 0 }];
            self.stream.read_exact(&mut data).unwrap();
            assert!(len == 0 || !self.structured, "reads get structured replies");
            return (cookie, error, data);
        }
        assert_eq!(magic, 0x668E_33EF);
        assert!(self.structured);
        assert_eq!(take::<2>(&mut self.stream), [0, 1], "it is the only chunk");
        let kind = u16::from_be_bytes(take(&mut self.stream));
        let cookie = u64::from_be_bytes(take(&mut self.stream));
        let bytes = u32::from_be_bytes(take(&mut self.stream));
        let mut payload = vec![0; bytes as usize];
        self.stream.read_exact(&mut payload).unwrap();
        match kind {
            1 => (cookie, 0, payload.split_off(8)),
            0x8001 => {
                assert_eq!(payload[4..], [0, 0]);
                let error = u32::from_be_bytes(payload[..4].try_into().unwrap());
                (cookie, error, Vec::new())
            }
            other => panic!("a chunk of type {other}"),
        }
    }

    /// Reads, and waits for the data.
    fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        self.ask(READ, 0, 77, offset, len);
        let (cookie, error, data) = self.reply(len as usize);
        assert_eq!((cookie, error), (77, 0));
        data
    }

    /// Sends, and waits for a reply without data.
    fn call(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> u32 {
        self.ask(command, flags, 78, offset, len);
        let (cookie, error, _) = self.reply(0);
        assert_eq!(cookie, 78);
        error
    }

    /// Nothing more comes.
    fn is_at_end(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

fn take<const N: usize>(stream: &mut UnixStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 3 % 251) as u8).collect()
}

#[test]
fn what_is_written_is_read_in_both_kinds_of_reply() {
    let scene = Scene::new();
    for structured in [false, true] {
        let mut client = Client::connect(&scene.path, structured);
        assert_eq!(client.size, SECTORS * 512);
        // DF, which is bit 7, belongs to structured replies.
        assert_eq!(client.flags, if structured { 0x09ED } else { 0x096D });
        let data = pattern(100 * 512);
        client.write(0, 1, 512, &data);
        assert_eq!(client.reply(0), (1, 0, vec![]));
        assert_eq!(client.read(512, 100 * 512), data);
        assert_eq!(client.read(0, 512), [0; 512]);
        assert_eq!(client.call(FLUSH, 0, 0, 0), 0);
        client.ask(DISCONNECT, 0, 0, 0, 0);
        assert!(client.is_at_end());
    }
    let path = scene.path.clone();
    assert!(scene.stop(), "it was written to");
    assert!(!path.exists());
}

#[test]
fn replies_come_in_the_order_in_which_the_disk_is_ready() {
    let scene = Scene::new();
    let mut client = scene.client();
    scene.disk.lock().hold = true;
    client.ask(READ, 0, 1, 0, 512);
    client.ask(FLUSH, 0, 2, 0, 0);
    client.ask(READ, 0, 3, 1024, 512);
    drop(scene.disk.wait_for_held(3));
    scene.disk.release(2);
    assert_eq!(client.reply(512).0, 3);
    scene.disk.release(1);
    assert_eq!(client.reply(0).0, 2);
    scene.disk.release(0);
    assert_eq!(client.reply(512).0, 1);
    assert!(!scene.stop(), "nothing was changed");
}

#[test]
fn fua_is_answered_when_a_later_flush_is_done() {
    let scene = Scene::new();
    let mut client = scene.client();
    scene.disk.lock().hold = true;
    client.write(FUA, 1, 0, &[1; 512]);
    assert_eq!(
        words(&scene.disk.wait_for_held(1).held[0].request),
        "write 0+1"
    );
    scene.disk.release(0);
    assert_eq!(words(&scene.disk.wait_for_held(1).held[0].request), "flush");
    // Answered first, although it was asked last: the write was not answered before its flush.
    client.ask(READ, 0, 2, 0, 512);
    drop(scene.disk.wait_for_held(2));
    scene.disk.release(1);
    assert_eq!(client.reply(512), (2, 0, vec![1; 512]));
    scene.disk.release_all();
    assert_eq!(client.reply(0), (1, 0, vec![]));
    for (command, flags, words) in [
        (TRIM, FUA, ["trim 8+8", "flush"]),
        (WRITE_ZEROES, FUA, ["trim 8+8", "flush"]),
        (WRITE_ZEROES, FUA | NO_HOLE, ["write 8+8", "flush"]),
    ] {
        scene.disk.lock().log.clear();
        assert_eq!(client.call(command, flags, 4096, 4096), 0);
        assert_eq!(scene.disk.lock().log, words);
    }
}

#[test]
fn zeros_are_written_in_portions_where_holes_are_not_wanted() {
    let scene = Scene::new();
    scene.disk.lock().data.fill(0xFF);
    let mut client = scene.client();
    let len = (5 << 19) + 1024;
    assert_eq!(client.call(WRITE_ZEROES, NO_HOLE, 512, len), 0);
    let portions = ["write 1+2048", "write 2049+2048", "write 4097+1026"];
    assert_eq!(scene.disk.lock().log, portions);
    let zeroed = 512 + len as usize;
    let inside = scene.disk.lock();
    assert!(inside.data[512..zeroed].iter().all(|&byte| byte == 0));
    assert_eq!((inside.data[511], inside.data[zeroed]), (0xFF, 0xFF));
}

/// ATA's answer to what a device does not do: ABRT, and DRDY with ERR (protocol.md §3.3).
fn aborted() -> ClientError {
    let registers = Registers {
        status: Status(0x41),
        error: 0x04,
        not_done: 0,
        lba: 0,
    };
    Error::Device { registers }.into()
}

#[test]
fn zeros_are_written_where_a_trim_fails_unless_they_must_be_fast() {
    let scene = Scene::new();
    scene.disk.lock().data.fill(0xFF);
    let mut client = scene.client();
    scene.disk.lock().failing_trims = Some(aborted);
    let (len, fast) = ((1 << 20) + 512, 1 << 4);
    assert_eq!(client.call(WRITE_ZEROES, fast, 512, len), 95);
    assert_eq!(scene.disk.lock().log, ["trim 1+2049"]);
    assert_eq!(client.call(WRITE_ZEROES, FUA, 512, len), 0);
    let log = std::mem::take(&mut scene.disk.lock().log);
    let asked = ["trim 1+2049", "write 1+2048", "write 2049+1", "flush"];
    assert_eq!(log[1..], asked);
    let inside = scene.disk.lock();
    let zeroed = 512 + len as usize;
    assert!(inside.data[512..zeroed].iter().all(|&byte| byte == 0));
    assert_eq!((inside.data[511], inside.data[zeroed]), (0xFF, 0xFF));
    drop(inside);
    // Silence says nothing of trims, and a trim that was asked for as one is no promise.
    scene.disk.lock().failing_trims = Some(|| Error::Silent.into());
    assert_eq!(client.call(WRITE_ZEROES, 0, 512, len), 5);
    assert_eq!(client.call(TRIM, 0, 512, len), 5);
    assert_eq!(scene.disk.lock().log, ["trim 1+2049"; 2]);
}

#[test]
fn only_our_targets_abort_means_that_a_write_was_refused() {
    let scene = Scene::new();
    let mut client = scene.client();
    scene.disk.lock().failing = Some(aborted);
    for (abort_refuses, of_writes) in [(true, 1), (false, 5)] {
        scene.disk.lock().facts.abort_refuses = abort_refuses;
        client.write(0, 1, 0, &[1; 512]);
        assert_eq!(client.reply(0), (1, of_writes, vec![]));
        client.ask(READ, 0, 2, 0, 512);
        assert_eq!(client.reply(512), (2, 5, vec![]));
    }
}

#[test]
fn a_failure_is_told_and_the_next_request_is_served() {
    let scene = Scene::new();
    for structured in [false, true] {
        let mut client = Client::connect(&scene.path, structured);
        scene.disk.lock().failing = Some(|| Error::Silent.into());
        client.ask(READ, 0, 1, 0, 512);
        assert_eq!(client.reply(512), (1, 5, vec![]));
        client.write(FUA, 2, 0, &[1; 512]);
        assert_eq!(client.reply(0), (2, 5, vec![]));
        // A disk that has shrunk is full for writes only.
        scene.disk.lock().failing = Some(|| Refusal::Beyond.into());
        client.ask(READ, 0, 1, 0, 512);
        assert_eq!(client.reply(512), (1, 5, vec![]));
        client.write(0, 2, 0, &[1; 512]);
        assert_eq!(client.reply(0), (2, 28, vec![]));
        assert_eq!(client.call(TRIM, 0, 0, 512), 28);
        assert_eq!(client.call(WRITE_ZEROES, NO_HOLE, 0, 512), 28);
        scene.disk.lock().failing = None;
        // No whole sectors, behind the end, too long: the data of the writes is read over.
        client.write(0, 3, 1, &[1; 513]);
        assert_eq!(client.reply(0), (3, 22, vec![]));
        client.write(0, 4, SECTORS * 512, &[1; 512]);
        assert_eq!(client.reply(0), (4, 28, vec![]));
        client.write(0, 5, 0, &vec![1; (32 << 20) + 512]);
        assert_eq!(client.reply(0), (5, 22, vec![]));
        client.ask(READ, 0, 6, 1, 512);
        assert_eq!(client.reply(512), (6, 22, vec![]));
        assert_eq!(client.read(0, 512), [0; 512]);
    }
}

/// The disk lets one flush fail for what its target has lost. Each client must hear of it, as the
/// writes may have been its own; and those that come later need not.
#[test]
fn every_client_is_told_of_a_loss_once() {
    let scene = Scene::new();
    let (mut one, mut other) = (scene.client(), scene.client());
    assert_eq!(
        (one.call(FLUSH, 0, 0, 0), other.call(FLUSH, 0, 0, 0)),
        (0, 0)
    );
    scene.disk.lock().losses = 1;
    scene.disk.lock().failing = Some(|| Error::CacheLost.into());
    assert_eq!(one.call(FLUSH, 0, 0, 0), 5);
    scene.disk.lock().failing = None;
    let mut late = scene.client();
    assert_eq!(one.call(FLUSH, 0, 0, 0), 0);
    assert_eq!(late.call(FLUSH, 0, 0, 0), 0);
    other.write(0, 7, 0, &[1; 512]);
    assert_eq!(other.reply(0), (7, 0, vec![]));
    other.write(FUA, 8, 0, &[1; 512]);
    assert_eq!(other.reply(0), (8, 5, vec![]));
    assert_eq!(other.call(FLUSH, 0, 0, 0), 0);
}

#[test]
fn a_read_only_disk_is_not_changed() {
    let scene = Scene::with(true, 16);
    let mut client = scene.client();
    assert_eq!(client.flags, 0x010F);
    client.write(0, 1, 0, &[1; 512]);
    assert_eq!(client.reply(0), (1, 1, vec![]));
    assert_eq!(client.call(TRIM, 0, 0, 512), 1);
    assert_eq!(client.call(WRITE_ZEROES, 0, 0, 512), 1);
    assert_eq!(client.read(0, 512), [0; 512]);
    assert_eq!(scene.disk.lock().log, ["read 0+1"]);
    assert!(!scene.stop());
}

/// A client that has asked for more than its share waits until something is done.
#[test]
fn memory_of_a_client_is_bounded() {
    let scene = Scene::new();
    let mut client = scene.client();
    scene.disk.lock().hold = true;
    for cookie in 0..200 {
        client.ask(READ, 0, cookie, 0, 512);
    }
    drop(scene.disk.wait_for_held(128));
    // One goes, and one comes.
    for cookie in 0..72 {
        scene.disk.release(0);
        assert_eq!(client.reply(512).0, cookie);
        drop(scene.disk.wait_for_held(128));
    }
    assert_eq!(scene.disk.lock().most_held, 128);
    // What is larger than the share is served when it is alone.
    client.ask(READ, 0, 1000, 0, 32 << 20);
    client.ask(READ, 0, 1001, 0, 512);
    for cookie in 72..200 {
        scene.disk.release(0);
        assert_eq!(client.reply(512).0, cookie);
    }
    let inside = scene.disk.wait_for_held(1);
    assert_eq!(inside.held.len(), 1);
    assert_eq!(words(&inside.held[0].request), "read 0+65536");
    drop(inside);
    scene.disk.release(0);
    assert_eq!(client.reply(32 << 20).2.len(), 32 << 20);
    drop(scene.disk.wait_for_held(1));
    scene.disk.release_all();
    assert_eq!(client.reply(512).0, 1001);
}

#[test]
fn a_stop_lets_requests_finish_and_takes_no_more_clients() {
    let scene = Scene::new();
    let mut client = scene.client();
    scene.disk.lock().hold = true;
    client.write(FUA, 1, 0, &[7; 512]);
    client.write(0, 2, 512, &[8; 512]);
    drop(scene.disk.wait_for_held(2));
    scene.stop.stop().unwrap();
    // The socket goes first.
    let start = Instant::now();
    while scene.path.exists() {
        assert!(start.elapsed() < SOON);
        thread::yield_now();
    }
    assert!(UnixStream::connect(&scene.path).is_err());
    scene.disk.release_all();
    let mut cookies = [client.reply(0).0, client.reply(0).0];
    cookies.sort_unstable();
    assert_eq!(cookies, [1, 2]);
    assert!(client.is_at_end());
    let log = scene.disk.lock().log.clone();
    assert_eq!(log, ["write 0+1", "write 1+1", "flush"]);
    let mut scene = scene;
    assert!(scene.server.take().unwrap().join().unwrap().unwrap());
}

/// Its replies fill the socket, and it reads none: everybody else has gone home.
#[test]
fn a_stop_does_not_wait_forever_for_a_client_that_reads_nothing() {
    let scene = Scene::new();
    let mut client = scene.client();
    for cookie in 0..8 {
        client.ask(READ, 0, cookie, 0, 1 << 20);
    }
    let idle = scene.client();
    assert!(!scene.stop());
    drop((client, idle));
}

/// It takes something always, but would need minutes for all.
#[test]
fn a_stop_does_not_wait_for_a_client_that_reads_slowly() {
    let scene = Scene::new();
    let mut client = scene.client();
    client.ask(READ, 0, 1, 0, 32 << 20);
    // It has begun to reply.
    take::<16>(&mut client.stream);
    let slow = thread::spawn(move || {
        let mut data = vec![0; 16 << 10];
        while matches!(client.stream.read(&mut data), Ok(1..)) {
            // How slow it is; nothing waits for it.
            thread::sleep(Duration::from_millis(50));
        }
    });
    let start = Instant::now();
    assert!(!scene.stop());
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    slow.join().unwrap();
}

/// Its clients are told, and the server ends with its error, although nobody has asked it to stop.
#[test]
fn a_disk_that_is_gone_for_good_ends_the_server() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    assert_eq!(client.read(0, 512), [0; 512]);
    scene.disk.ended.store(true, Ordering::SeqCst);
    assert!(client.is_at_end());
    let error = scene.server.take().unwrap().join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the disk has ended");
    assert!(!scene.path.exists());
}

#[test]
fn requests_of_a_client_that_is_gone_are_finished() {
    let scene = Scene::new();
    let mut client = scene.client();
    scene.disk.lock().hold = true;
    client.write(FUA, 1, 0, &[7; 512]);
    drop(scene.disk.wait_for_held(1));
    drop(client);
    // In the middle of a request, and of its data.
    let mut client = scene.client();
    client.stream.write_all(&[0x25, 0x60, 0x95]).unwrap();
    drop(client);
    let mut client = scene.client();
    client.ask(WRITE, 0, 1, 0, 1024);
    client.stream.write_all(&[9; 512]).unwrap();
    drop(client);
    scene.disk.release_all();
    let disk = scene.disk.clone();
    assert!(scene.stop());
    assert_eq!(disk.lock().log, ["write 0+1", "flush"]);
    assert_eq!(disk.lock().data[..512], [7; 512]);
}

/// A fault of this program, in each of the two threads of a client.
#[test]
fn a_panic_costs_one_client_and_no_stop() {
    let scene = Scene::new();
    let mut other = scene.client();
    // The thread that reads asks the disk.
    let mut client = scene.client();
    scene.disk.panics.store(true, Ordering::SeqCst);
    client.ask(READ, 0, 1, 0, 512);
    assert!(client.is_at_end());
    // For the flush the one that replies does, while the other waits for memory.
    scene.disk.panics.store(false, Ordering::SeqCst);
    scene.disk.lock().hold = true;
    let mut client = scene.client();
    client.write(FUA, 1, 0, &[7; 512]);
    client.ask(READ, 0, 2, 0, 8 << 20);
    drop(scene.disk.wait_for_held(1));
    scene.disk.panics.store(true, Ordering::SeqCst);
    scene.disk.release(0);
    assert!(client.is_at_end());
    scene.disk.panics.store(false, Ordering::SeqCst);
    scene.disk.release_all();
    assert_eq!(other.read(0, 512), [7; 512]);
    assert!(scene.stop());
}

#[test]
fn who_sends_rubbish_is_disconnected_and_others_are_not() {
    let scene = Scene::new();
    let mut good = scene.client();
    let mut bad = scene.client();
    bad.stream.write_all(&[0xA5; 100]).unwrap();
    // The rest of the rubbish may turn the end into an error.
    assert!(!matches!(bad.stream.read(&mut [0]), Ok(1)));
    let mut rude = UnixStream::connect(&scene.path).unwrap();
    rude.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut told = Vec::new();
    let _ = rude.read_to_end(&mut told);
    assert_eq!(told, b"NBDMAGICIHAVEOPT\0\x03");
    assert_eq!(good.read(0, 512), [0; 512]);
}

#[test]
fn more_clients_than_allowed_are_turned_away() {
    let scene = Scene::with(false, 2);
    let mut first = scene.client();
    let second = scene.client();
    let mut third = UnixStream::connect(&scene.path).unwrap();
    third.set_read_timeout(Some(SOON)).unwrap();
    assert!(matches!(third.read(&mut [0; 18]), Ok(0)));
    assert_eq!(first.read(0, 512), [0; 512]);
    second.stream.shutdown(Shutdown::Both).unwrap();
    drop(second);
    // There is room again as soon as the server has seen it go.
    let start = Instant::now();
    loop {
        let mut fourth = UnixStream::connect(&scene.path).unwrap();
        fourth.set_read_timeout(Some(SOON)).unwrap();
        if matches!(fourth.read(&mut [0; 18]), Ok(18)) {
            break;
        }
        assert!(start.elapsed() < SOON);
    }
}

#[test]
fn who_connects_after_a_disk_has_grown_sees_its_size() {
    let scene = Scene::new();
    let mut before = scene.client();
    scene.disk.lock().facts.sectors = SECTORS + 8;
    scene
        .disk
        .lock()
        .data
        .resize((SECTORS as usize + 8) * 512, 0);
    let mut after = scene.client();
    assert_eq!(after.size, (SECTORS + 8) * 512);
    assert_eq!(after.read(SECTORS * 512, 512), [0; 512]);
    before.ask(READ, 0, 1, SECTORS * 512, 512);
    assert_eq!(before.reply(512).1, 22);
}
