//! The sandbox, from inside. There is no way out of it, and it has to be entered before the first
//! thread: so each story has a process of its own, which is this program again, without the usual
//! test harness. On a network of its own, so that no root is needed.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests: a panic is how they fail; and this is a harness"
)]
#![cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(unused, reason = "only the report can be told there")
)]

use std::env;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};
use std::thread;
use std::time::Duration;

use aoede::sandbox::{self, CapabilitySet, Report, Settings};
use aoede_initiator::{Client, Settings as Initiator};
use aoede_link::namespace::{NamespaceError, enter_private};
use aoede_link::{Interface, Monitor, OpenError, PacketPort, PortOptions, veth};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, netlink};
use rustix::process::{Resource, Rlimit, Signal};

/// Which part this process plays.
const PART: &str = "AOEDE_SANDBOX_PART";
/// Where it may write.
const FOLDER: &str = "AOEDE_SANDBOX_FOLDER";
/// Exit code of one that may have no network of its own.
const NO_NETWORK: u8 = 77;
/// Exit code of one whose engine this kernel does not have, sandbox or not.
const NO_ENGINE: u8 = 78;

type Story = (&'static str, fn() -> bool);

const STORIES: &[Story] = &[
    ("what_is_left_is_as_it_says", || ends_well("privileges")),
    ("what_was_not_there_does_not_come", || ends_well("poor")),
    ("what_is_not_needed_is_refused", || ends_well("refusals")),
    ("memory_is_not_executed", || ends_well("memory")),
    ("the_daemon_s_calls_work", || ends_well("calls")),
    ("it_serves_by_io_uring", || serves("io_uring")),
    ("it_serves_by_linux_aio", || serves("aio")),
    ("it_serves_by_blocking_calls", || serves("blocking")),
    ("it_can_abort", it_can_abort),
    ("switched_off_it_takes_nothing", || ends_well("off")),
];

fn main() -> ExitCode {
    match env::var(PART) {
        Ok(part) => play(&part),
        Err(_) => tell(),
    }
}

/// As the usual harness would: names in the arguments choose; nothing here is to be ignored.
fn tell() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments
        .iter()
        .any(|argument| argument == "--ignored" || argument == "--list")
    {
        return ExitCode::SUCCESS;
    }
    let names: Vec<&String> = arguments
        .iter()
        .filter(|one| !one.starts_with('-'))
        .collect();
    let mut all_well = true;
    for (name, story) in STORIES {
        if names.is_empty() || names.iter().any(|part| name.contains(part.as_str())) {
            let well = story();
            println!("test {name} ... {}", if well { "ok" } else { "FAILED" });
            all_well &= well;
        }
    }
    ExitCode::from(u8::from(!all_well))
}

/// A process that plays a part, in a folder of its own.
fn process(part: &str) -> ExitStatus {
    let folder = tempfile::tempdir().unwrap();
    let program = env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.env(PART, part).env(FOLDER, folder.path());
    command.status().unwrap()
}

/// Also if this host lets it have no network: then it says so.
fn ends_well(part: &str) -> bool {
    let status = process(part);
    status.success() || is_without_network(status)
}

fn is_without_network(status: ExitStatus) -> bool {
    let without = status.code() == Some(NO_NETWORK.into());
    if without {
        println!("NOT RUN, as this host lets ordinary users make no network:");
    }
    without
}

fn serves(engine: &str) -> bool {
    // Without a sandbox, to know what this kernel has.
    let status = process(&format!("free {engine}"));
    if status.code() == Some(NO_ENGINE.into()) {
        println!("{engine}: NOT RUN, as this kernel does not have it");
        return true;
    }
    ends_well(&format!("serve {engine}"))
}

fn it_can_abort() -> bool {
    let status = process("abort");
    status.signal() == Some(Signal::ABORT.as_raw()) || is_without_network(status)
}

fn play(part: &str) -> ExitCode {
    match enter_private() {
        Ok(_) => {}
        Err(NamespaceError::Forbidden { .. }) => return ExitCode::from(NO_NETWORK),
        Err(error) => panic!("{error}"),
    }
    let folder = env::var(FOLDER).unwrap();
    let folder = Path::new(&folder);
    match part {
        "privileges" => privileges(),
        "poor" => poor(),
        "refusals" => refusals(folder),
        "memory" => memory(),
        "calls" => calls(folder),
        "abort" => {
            enter();
            std::process::abort();
        }
        "off" => off(),
        other => return play_target(other, folder),
    }
    ExitCode::SUCCESS
}

fn enter() -> Report {
    sandbox::enter(&Settings::default()).unwrap()
}

/// A line of a thread's status (proc(5)).
fn status(name: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

/// `CAP_DAC_OVERRIDE` is bit 1 and `CAP_NET_RAW` bit 13 (linux/capability.h).
const BOTH: &str = "0000000000002002";
const NONE: &str = "0000000000000000";

fn privileges() {
    let report = enter().to_string();
    assert_eq!(
        report,
        "sandbox: capabilities CAP_NET_RAW, CAP_DAC_OVERRIDE; system calls are filtered"
    );
    let look = || {
        let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(status);
        assert_eq!(sets, [NONE, BOTH, BOTH, BOTH, NONE]);
        assert_eq!(status("NoNewPrivs"), "1");
        // SECCOMP_MODE_FILTER.
        assert_eq!(status("Seccomp"), "2");
    };
    look();
    // Threads that come later have no more.
    thread::spawn(look).join().unwrap();
}

/// A service of another user than root, which was given nothing.
fn poor() {
    let all = status("CapBnd");
    let nothing = rustix::thread::CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, nothing).unwrap();
    let report = enter().to_string();
    assert_eq!(
        report,
        "sandbox: capabilities none; system calls are filtered"
    );
    assert_eq!([status("CapPrm"), status("CapEff")], [NONE, NONE]);
    // The limit is for those to lower who may.
    assert_eq!(status("CapBnd"), all);
    assert_eq!(status("NoNewPrivs"), "1");
}

fn refusals(folder: &Path) {
    let outside = std::os::unix::process::parent_id();
    enter();
    let refused = |what: &str, result: io::Result<()>| {
        let error = result.expect_err(what);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{what}");
    };
    // Programs.
    let started = Command::new("/proc/self/exe").spawn().map(drop);
    refused("a process", started);
    refused("a program", Err(Command::new("/proc/self/exe").exec()));
    // Namespaces.
    let private = enter_private();
    assert!(
        matches!(private, Err(NamespaceError::Forbidden { .. })),
        "{private:?}"
    );
    // Others.
    let parent = rustix::process::Pid::from_raw(outside.cast_signed()).unwrap();
    let signal = rustix::process::test_kill_process(parent);
    refused("a signal to others", signal.map_err(Into::into));
    // Capabilities and limits.
    let keep = rustix::thread::set_keep_capabilities(true);
    refused("prctl", keep.map_err(Into::into));
    let sets = rustix::thread::capabilities(None).unwrap();
    let set = rustix::thread::set_capabilities(None, sets);
    refused("capset", set.map_err(Into::into));
    let limit = rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(64),
            maximum: Some(64),
        },
    );
    refused("a limit", limit.map_err(Into::into));
    // Sockets of other families and protocols: AF_VSOCK, AF_ALG, netfilter.
    let families = [40, 38].map(AddressFamily::from_raw);
    for family in families {
        let socket = rustix::net::socket(family, SocketType::STREAM, None);
        refused("a socket", socket.map(drop).map_err(Into::into));
    }
    let netfilter = rustix::net::socket(
        AddressFamily::NETLINK,
        SocketType::RAW,
        Some(netlink::NETFILTER),
    );
    refused("netfilter", netfilter.map(drop).map_err(Into::into));
    // Files of a kind that it has no use for.
    let link = std::os::unix::fs::symlink("/", folder.join("link"));
    refused("a symbolic link", link);
    let terminal = rustix::termios::tcgetwinsize(fs::File::open("/dev/null").unwrap());
    assert_eq!(terminal.unwrap_err(), Errno::PERM);
}

/// Memory that can be written and executed, at once or one after the other.
fn memory() {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};

    enter();
    let size = rustix::param::page_size();
    let map = |flags| {
        let anywhere = std::ptr::null_mut();
        // SAFETY: a new mapping at a place of the kernel's choice replaces none.
        unsafe { mmap_anonymous(anywhere, size, flags, MapFlags::PRIVATE) }
    };
    let executed = map(ProtFlags::READ | ProtFlags::EXEC);
    assert_eq!(executed.unwrap_err(), Errno::PERM);
    let page = map(ProtFlags::READ | ProtFlags::WRITE).unwrap();
    let flags = MprotectFlags::READ | MprotectFlags::EXEC;
    // SAFETY: nobody else knows of the page, and it is not used again.
    let changed = unsafe { mprotect(page, size, flags) };
    assert_eq!(changed.unwrap_err(), Errno::PERM);
}

/// What the main thread does, apart from serving.
fn calls(folder: &Path) {
    enter();
    // A state folder, files in it that replace each other, and what the kernel tells.
    let state = folder.join("state");
    fs::create_dir_all(&state).unwrap();
    let (new, old) = (state.join("e1.1.new"), state.join("e1.1"));
    for text in ["one", "two"] {
        fs::write(&new, text).unwrap();
        fs::File::open(&new).unwrap().sync_all().unwrap();
        fs::rename(&new, &old).unwrap();
        fs::File::open(&state).unwrap().sync_all().unwrap();
    }
    assert_eq!(fs::read_to_string(&old).unwrap(), "two");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    fs::remove_file(&old).unwrap();
    assert!(thread::available_parallelism().unwrap().get() > 0);
    assert!(fs::read_to_string("/proc/self/status").is_ok());

    // The control socket, and the status page.
    let path = folder.join("control.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    let client = thread::spawn({
        let path = path.clone();
        move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(b"status").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    let mut asked = String::new();
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_to_string(&mut asked).unwrap();
    assert_eq!(asked, "status");
    client.join().unwrap();
    fs::remove_file(&path).unwrap();
    TcpListener::bind("127.0.0.1:0").unwrap();

    // The runtime: its own descriptors and threads, signals and timers.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let answer = runtime.block_on(async {
        let hangup = tokio::signal::unix::SignalKind::hangup();
        let _hangup = tokio::signal::unix::signal(hangup).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        tokio::task::spawn_blocking(|| fs::read_to_string("/proc/self/mountinfo"))
            .await
            .unwrap()
    });
    assert!(!answer.unwrap().is_empty());
}

fn off() {
    let before = status("CapEff");
    let report = sandbox::enter(&Settings { wanted: false }).unwrap();
    assert_eq!(report, Report::Off);
    let after = [status("CapEff"), status("NoNewPrivs")];
    assert_eq!(after, [before, "0".to_owned()]);
}

/// A wire between `va` and `vb`, with carrier. No sleeping: the kernel tells when it is up.
fn wire() -> [Interface; 2] {
    let mut monitor = Monitor::open().unwrap();
    veth::create_pair("va", "vb", 1500).unwrap();
    for name in ["va", "vb"] {
        veth::set_up(name, true).unwrap();
    }
    loop {
        while monitor.poll().unwrap().is_some() {}
        let ends = ["va", "vb"].map(|name| monitor.interface(name).unwrap());
        if let [Some(a), Some(b)] = ends
            && a.up
            && b.up
        {
            return [a, b];
        }
        poll(&mut [PollFd::new(&monitor, PollFlags::IN)], None).unwrap();
    }
}

/// `serve ENGINE`, or `free ENGINE` without a sandbox: a target that is started by the command, on
/// interfaces and with an image that come after the sandbox was entered, and an initiator.
fn play_target(part: &str, folder: &Path) -> ExitCode {
    let (confined, engine) = part.split_once(' ').unwrap();
    let [_, initiator] = wire();
    if confined == "serve" {
        enter();
    }
    // Rings are opened by those that may, also later.
    let opened = PacketPort::open(&initiator, &PortOptions::default());
    assert!(
        !matches!(opened, Err(OpenError::Permission { .. })),
        "{opened:?}"
    );
    drop(opened.unwrap());

    // So are files of other users, as far as root is one: nobody may read this one.
    let image = folder.join("disk.img");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    fs::set_permissions(&image, fs::Permissions::from_mode(0o0)).unwrap();

    let engine = engine.to_owned();
    let path = image.to_str().unwrap().to_owned();
    let target = thread::spawn(move || {
        let arguments = ["aoede", "export", "e1.1", &path, "-i", "va"];
        let engine = ["--engine", &engine];
        let all = arguments.into_iter().chain(engine).map(Into::into);
        aoede::command::run(all)
    });
    let client = Client::open(&[initiator]).unwrap();
    let attached = loop {
        let patience = Duration::from_millis(200);
        let found = client.attach("e1.1".parse().unwrap(), Initiator::default(), patience);
        if found.is_ok() || target.is_finished() {
            break found;
        }
    };
    let Ok(disk) = attached else {
        // It has said why.
        return ExitCode::from(NO_ENGINE);
    };
    let written: Vec<u8> = (0..=255).cycle().take(16 << 10).collect();
    disk.write_at(64, &written).unwrap();
    disk.flush().unwrap();
    let mut read = vec![0; written.len()];
    disk.read_at(64, &mut read).unwrap();
    assert_eq!(read, written);
    disk.trim(64, 8).unwrap();
    ExitCode::SUCCESS
}
