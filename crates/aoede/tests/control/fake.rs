//! A daemon that answers as it is told, and a status with something of everything.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use aoede::control::api::{
    self, Call, Drained, FailureReset, Reason, Refusal, Reloaded, Resized, Socket, Stopping,
};
use aoede::control::status::{
    CacheStatus, DaemonStatus, ExportCounters, ExportLatency, ExportState, ExportStatus,
    FailureStatus, FreezePhase, FreezeStatus, InitiatorStatus, InterfaceStatus, Latency,
    RingStatus, SectorRange, Status, VERSION, WorkerStatus,
};
use aoede::page;
use aoede_histogram::Histogram;
use aoede_wire::Address;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

/// A running one. It ends when it is dropped.
pub(crate) struct Fake {
    folder: TempDir,
    pub(crate) page: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// One that answers with [`status`].
    pub(crate) fn start() -> Self {
        Self::with(answer)
    }

    /// One that does with calls as it is told.
    pub(crate) fn with(answer: impl FnMut(Call) + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let (end, ended) = oneshot::channel();
        let (tell, told) = std_mpsc::channel();
        let thread = std::thread::spawn(move || run(&path, answer, ended, &tell));
        Self {
            folder,
            page: told.recv().unwrap(),
            end: Some(end),
            thread: Some(thread),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Sends bytes to the socket; all that comes back until it is closed.
    pub(crate) fn exchange(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The same, with the page.
    pub(crate) fn browse(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.page).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn run(
    path: &Path,
    mut answer: impl FnMut(Call),
    ended: oneshot::Receiver<()>,
    tell: &std_mpsc::Sender<SocketAddr>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (calls, mut called) = mpsc::channel(8);
        let socket = Socket::bind(path, None).unwrap();
        let listener = page::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        tell.send(listener.local_addr().unwrap()).unwrap();
        let serving = [
            tokio::spawn(api::serve(socket, calls.clone())),
            tokio::spawn(page::serve(listener, calls)),
        ];
        tokio::select! {
            () = async { while let Some(call) = called.recv().await { answer(call); } } => {}
            _ = ended => {}
        }
        for task in serving {
            task.abort();
        }
    });
}

/// Who has asked may be gone.
fn tell<T>(to: api::Answer<T>, answer: Result<T, Refusal>) {
    drop(to.send(answer));
}

pub(crate) const E1_1: Address = Address { shelf: 1, slot: 1 };

fn no_export<T>(address: Address) -> Result<T, Refusal> {
    let message = format!("there is no export {address}");
    let remedy = "look with aoede status";
    Err(Refusal::new(Reason::NotFound, message, remedy))
}

/// One export, e1.1, with which everything can be done.
pub(crate) fn answer(call: Call) {
    match call {
        Call::Status(to) => tell(to, Ok(status())),
        Call::Reload(to) => tell(
            to,
            Ok(Reloaded {
                config_file: "/etc/aoede/aoede.toml".to_owned(),
                changes: vec!["e1.1: read only".to_owned(), "e1.2: opened".to_owned()],
                ..Reloaded::default()
            }),
        ),
        Call::Stop(to) => tell(to, Ok(Stopping { pid: 4711 })),
        Call::Freeze(E1_1, to) => tell(
            to,
            Ok(FreezeStatus {
                phase: FreezePhase::Frozen,
                ..FreezeStatus::default()
            }),
        ),
        Call::Thaw(E1_1, to) => tell(
            to,
            Err(Refusal::new(Reason::Conflict, "e1.1 is not frozen", "")),
        ),
        Call::Resize(E1_1, size, to) => tell(
            to,
            Ok(Resized {
                old_size_bytes: 1 << 30,
                size_bytes: size.unwrap_or(3 << 30),
            }),
        ),
        Call::Drain(E1_1, to) => tell(to, Ok(Drained { lost_bytes: 4096 })),
        Call::ResetFailure(E1_1, to) => tell(
            to,
            Ok(FailureReset {
                at_risk_bytes: 12288,
            }),
        ),
        Call::Freeze(address, to) | Call::Thaw(address, to) => tell(to, no_export(address)),
        Call::Resize(address, _, to) => tell(to, no_export(address)),
        Call::Drain(address, to) => tell(to, no_export(address)),
        Call::ResetFailure(address, to) => tell(to, no_export(address)),
    }
}

/// So many of so many microseconds.
fn latency(times: &[(u64, u64)]) -> Latency {
    let mut histogram = Histogram::new();
    for &(count, micros) in times {
        for _ in 0..count {
            histogram.record(Duration::from_micros(micros));
        }
    }
    Latency::from(&histogram)
}

pub(crate) fn status() -> Status {
    Status {
        version: VERSION,
        daemon: DaemonStatus {
            program_version: "1.2.3".to_owned(),
            pid: 4711,
            config_file: "/etc/aoede/aoede.toml".to_owned(),
            last_reload: None,
            drops: BTreeMap::from([("address".to_owned(), 9)]),
        },
        uptime_us: 3_723_000_000,
        workers: vec![WorkerStatus {
            worker: 0,
            exports: 2,
            pool_buffers: 256,
            pool_used_buffers: 3,
            pool_buffer_bytes: 9216,
            frames_received: 1000,
            responses: 990,
            ..WorkerStatus::default()
        }],
        interfaces: vec![InterfaceStatus {
            name: "eth0".to_owned(),
            present: true,
            up: true,
            mtu_bytes: 9000,
            mac: "52:54:00:00:00:01".to_owned(),
            rings: vec![RingStatus {
                worker: 0,
                slots: 256,
                used_slots: 2,
                received: 1000,
                ring_drops: 5,
                sent: 990,
                ..RingStatus::default()
            }],
        }],
        exports: vec![busy(), failed()],
    }
}

fn busy() -> ExportStatus {
    ExportStatus {
        address: "e1.1".to_owned(),
        path: "/srv/e1.1.img".to_owned(),
        size_bytes: 1 << 30,
        cache_mode: "writeback".to_owned(),
        io: "direct".to_owned(),
        engine: "io_uring".to_owned(),
        interfaces: vec!["eth0".to_owned()],
        buffers: 64,
        outstanding: 2,
        counters: ExportCounters {
            reads: 100,
            read_bytes: 409_600,
            writes: 20,
            written_bytes: 81920,
            flushes: 3,
            duplicates_done: 1,
            duplicates_in_progress: 2,
            ..ExportCounters::default()
        },
        latency: ExportLatency {
            reads: latency(&[(97, 100), (3, 2_000)]),
            writes: latency(&[(20, 500)]),
            flushes: latency(&[(3, 20_000)]),
        },
        cache: CacheStatus {
            size_bytes: 42 << 20,
            dirty_bytes: 8192,
            dirty_limit_bytes: 32 << 20,
            read_hits: 75,
            read_misses: 25,
            syncs: 4,
            ..CacheStatus::default()
        },
        drops: BTreeMap::from([("masked".to_owned(), 7), ("checksum".to_owned(), 1)]),
        initiators: vec![InitiatorStatus {
            mac: "52:54:00:00:00:aa".to_owned(),
            extensions: vec!["tags".to_owned(), "crc32c".to_owned()],
            idle_ms: 12,
            largest_payload_bytes: 8192,
            outstanding: 2,
            requests: 130,
            read_bytes: 409_600,
            written_bytes: 81920,
            duplicates_done: 1,
            duplicates_in_progress: 2,
            ..InitiatorStatus::default()
        }],
        ..ExportStatus::default()
    }
}

/// With a name that means something to a terminal, to HTML and to Prometheus.
fn failed() -> ExportStatus {
    ExportStatus {
        address: "e1.2".to_owned(),
        path: "/srv/\u{1b}[2J<b>\"\\".to_owned(),
        state: ExportState::Serving,
        size_bytes: 5 << 20,
        read_only: true,
        failure: Some(FailureStatus {
            error: "Input/output error".to_owned(),
            at_risk_bytes: 4608,
            at_risk: vec![
                SectorRange { lba: 8, sectors: 8 },
                SectorRange {
                    lba: 96,
                    sectors: 1,
                },
            ],
            more_ranges: 0,
        }),
        ..ExportStatus::default()
    }
}
