//! The shell: a real thread and real time, over a segment in memory whose other end is served
//! whenever the client waits.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aoede_initiator::{
    Answer, Client, ClientError, Completion, Disk, Error, Notice, Refusal, Request, Settings,
    Waiter, Wanted,
};
use aoede_link::Port as _;
use aoede_link::sim::{Faults, SimNet, SimPort};
use aoede_target::DeviceFailure;
use aoede_wire::{Address, ConfigCommand, ReserveCommand};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bench::{E1_1, SECTORS, facts, quick};
use crate::target::{ALL, Model, settings};

const PATIENCE: Duration = Duration::from_secs(20);

/// The other end of the segment.
struct Other {
    net: SimNet,
    port: SimPort,
    model: Model,
    start: Instant,
    /// After so many waits waiting fails.
    lasts: u32,
}

impl Other {
    fn serve(&mut self) {
        let facts = facts(self.port.interface().mac, 1500);
        let now = aoede_initiator::Instant::START + self.start.elapsed();
        while let Some(frame) = self.port.receive() {
            self.model.take(now, 0, &facts, frame);
        }
        self.port.release();
        let answers = self.model.responses(now).into_iter();
        self.port
            .send(&answers.map(|(_, answer)| answer).collect::<Vec<_>>());
    }
}

impl Waiter<SimPort> for Other {
    fn wait(
        &mut self,
        ports: &mut [SimPort],
        _room: &[bool],
        wake: BorrowedFd<'_>,
        patience: Option<Duration>,
    ) -> io::Result<()> {
        self.lasts = self.lasts.checked_sub(1).ok_or(io::ErrorKind::Other)?;
        let start = Instant::now();
        loop {
            self.net.step();
            self.serve();
            let over = patience.is_some_and(|patience| start.elapsed() >= patience);
            if over || ports.iter().any(SimPort::is_readable) {
                return Ok(());
            }
            // A step of the segment takes a millisecond, unless somebody calls.
            let step = Timespec::try_from(Duration::from_millis(1)).unwrap();
            let mut fds = [PollFd::from_borrowed_fd(wake, PollFlags::IN)];
            if poll(&mut fds, Some(&step))? > 0 {
                return Ok(());
            }
        }
    }
}

fn client(faults: Faults, lasts: u32) -> Client {
    client_of(faults, lasts, |_| {})
}

/// With a target that is changed before it is first asked.
fn client_of(
    faults: Faults,
    lasts: u32,
    change: impl FnOnce(&mut Model) + Send + 'static,
) -> Client {
    Client::start(move || {
        let net = SimNet::new(5);
        net.set_faults(faults);
        let port = net.attach("target", 1500);
        let initiator = net.attach("initiator", 1500);
        let mut model = Model::new(settings(E1_1, SECTORS), ALL);
        change(&mut model);
        let other = Other {
            net,
            port,
            model,
            start: Instant::now(),
            lasts,
        };
        Ok((vec![initiator], other))
    })
    .unwrap()
}

fn attached(faults: Faults) -> Disk {
    client(faults, u32::MAX)
        .attach(E1_1, quick(), PATIENCE)
        .unwrap()
}

#[test]
fn a_disk_reads_and_writes() {
    let disk = attached(Faults::default());
    assert_eq!((disk.address(), disk.sectors().unwrap()), (E1_1, SECTORS));
    let data: Vec<u8> = (0..9 * 512_u32).map(|i| (i / 5) as u8).collect();
    disk.write_at(11, &data).unwrap();
    disk.flush().unwrap();
    let mut back = vec![0; data.len()];
    disk.read_at(11, &mut back).unwrap();
    assert_eq!(back, data);
    disk.trim(11, 2).unwrap();
    disk.read_at(11, &mut back).unwrap();
    assert_eq!(back[..1024], [0; 1024]);
    assert_eq!(back[1024..], data[1024..]);
    assert_eq!(
        disk.config(ConfigCommand::ForceSet, b"mine").unwrap(),
        b"mine"
    );
    let wrong = disk.config(ConfigCommand::Test, b"other");
    assert!(matches!(wrong, Err(ClientError::Failed(Error::NoMatch))));
    assert_eq!(disk.reserve(ReserveCommand::Read, &[]).unwrap(), []);
    assert_eq!(disk.mask(&[]).unwrap(), Answer::Mask(Vec::new()));
    let beyond = disk.read_at(SECTORS, &mut back);
    assert!(matches!(beyond, Err(ClientError::Refused(Refusal::Beyond))));
    let info = disk.info().unwrap();
    assert_eq!(info.identity.serial, "serial 1");
    assert!(info.notices.contains(&Notice::Attached));
    assert!(info.paths[0].ready && info.stats.answered > 0);
    assert!(disk.info().unwrap().notices.is_empty(), "told once");
}

#[test]
fn many_threads_share_a_disk_over_a_bad_network() {
    let faults = Faults {
        loss_ppm: 20_000,
        duplicate_ppm: 20_000,
        ..Faults::default()
    };
    let disk = attached(faults);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let disk = disk.clone();
            scope.spawn(move || {
                let mut back = [0; 4 * 512];
                for round in 0..20_u64 {
                    let lba = thread * 64 + round % 5;
                    let data = [(thread * 20 + round) as u8; 4 * 512];
                    disk.write_at(lba, &data).unwrap();
                    disk.read_at(lba, &mut back).unwrap();
                    assert_eq!(back, data, "thread {thread}, round {round}");
                }
            });
        }
    });
    assert!(disk.info().unwrap().stats.repeated > 0);
}

/// More requests than a session takes wait for their turn.
#[test]
fn a_queue_has_many_requests_under_way() {
    let settings = Settings {
        requests: 4,
        ..quick()
    };
    let client = client(Faults::default(), u32::MAX);
    let disk = client.attach(E1_1, settings, PATIENCE).unwrap();
    let mut queue = disk.queue(16);
    for token in 0..16 {
        let buffer = vec![token as u8 + 1; 512];
        queue
            .submit(token, Request::Write { lba: token, buffer })
            .unwrap();
    }
    let buffer = vec![0; 512];
    let refused = queue
        .submit(99, Request::Read { lba: 0, buffer })
        .unwrap_err();
    assert_eq!(refused.why, Refusal::Full);
    let mut tokens: Vec<_> = std::iter::from_fn(|| queue.wait())
        .map(|done| {
            assert!(matches!(done.result, Ok(Answer::Done)));
            assert_eq!(done.buffer.unwrap(), [done.token as u8 + 1; 512]);
            done.token
        })
        .collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..16).collect::<Vec<_>>());
    assert_eq!(queue.under_way(), 0);
    queue.submit(1, refused.request).unwrap();
    assert_eq!(queue.wait().unwrap().buffer.unwrap(), [1; 512]);
    assert!(queue.wait_for(PATIENCE).is_none(), "nothing is under way");
    queue.submit(2, Request::Flush).unwrap();
    let done = loop {
        assert_eq!(queue.under_way(), 1, "what has not ended is under way");
        if let Some(done) = queue.wait_for(Duration::from_millis(1)) {
            break done;
        }
    };
    assert!(done.token == 2 && done.result.is_ok());
    assert_eq!(queue.under_way(), 0);
}

/// The sectors of a write that failed stay closed for a while, and take the session's room. That
/// it ends is no event, but whoever waits for the room must get it.
#[test]
fn room_that_comes_with_time_is_used() {
    let settings = Settings {
        requests: 1,
        ..quick()
    };
    let client = client_of(Faults::default(), u32::MAX, fails);
    let disk = client.attach(E1_1, settings, PATIENCE).unwrap();
    let (done, ended) = mpsc::channel();
    for lba in 0..4 {
        let buffer = vec![1; 512];
        disk.begin(lba, Request::Write { lba, buffer }, &done);
    }
    for lba in 0..4 {
        let one = ended.recv_timeout(PATIENCE).unwrap();
        assert_eq!(one.token, lba, "in order");
        assert!(matches!(one.result, Err(ClientError::Failed(_))));
    }
}

/// Requests that wait for room when the last handle goes end, with their buffers.
#[test]
fn who_waits_for_room_hears_that_the_disk_is_gone() {
    let settings = Settings {
        requests: 1,
        linger: Duration::from_secs(3600),
        ..quick()
    };
    let client = client_of(Faults::default(), u32::MAX, fails);
    let disk = client.attach(E1_1, settings, PATIENCE).unwrap();
    for lba in 0..2 {
        let failed = disk.write_at(lba, &[1; 512]);
        assert!(matches!(
            failed,
            Err(ClientError::Failed(Error::Device { .. }))
        ));
    }
    let (done, ended) = mpsc::channel();
    for lba in 2..5 {
        let buffer = vec![lba as u8; 512];
        disk.begin(lba, Request::Write { lba, buffer }, &done);
    }
    drop(disk);
    for lba in 2..5 {
        let one = ended.recv_timeout(PATIENCE).unwrap();
        assert_eq!(one.token, lba, "in order");
        assert_eq!(one.buffer, Some(vec![lba as u8; 512]));
        assert!(matches!(
            one.result,
            Err(ClientError::Failed(Error::Closed))
        ));
    }
    drop(client);
}

fn fails(model: &mut Model) {
    model.failure = Some(DeviceFailure::Fault);
}

/// One thread asks, another hears; each request ends, also those that were not taken.
#[test]
fn a_request_is_begun_here_and_ends_there() {
    let disk = attached(Faults::default());
    let (done, ended) = mpsc::channel();
    let hearing = std::thread::spawn(move || {
        let mut ended: Vec<Completion> = ended.into_iter().collect();
        ended.sort_by_key(|one| one.token);
        ended
    });
    let buffer = vec![7; 512];
    disk.begin(1, Request::Write { lba: 3, buffer }, &done);
    let buffer = vec![0; 512];
    disk.begin(2, Request::Read { lba: 3, buffer }, &done);
    let buffer = vec![0; 511];
    disk.begin(3, Request::Read { lba: 3, buffer }, &done);
    drop(done);
    let ended = hearing.join().unwrap();
    assert_eq!(ended.len(), 3);
    assert!(matches!(ended[0].result, Ok(Answer::Done)));
    assert_eq!(ended[1].buffer, Some(vec![7; 512]));
    assert!(matches!(
        ended[2].result,
        Err(ClientError::Refused(Refusal::NotSectors))
    ));
}

#[test]
fn targets_are_found_or_not() {
    let client = client(Faults::default(), u32::MAX);
    let found = client.discover(Duration::from_millis(50)).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].address, found[0].buffer_count), (E1_1, 64));
    let other = Address { shelf: 9, slot: 9 };
    let missing = client.attach(other, Settings::default(), Duration::from_millis(50));
    assert!(matches!(missing, Err(ClientError::NotFound { address }) if address == other));
    let wanted = Wanted::NOTHING;
    let plain = Settings {
        wanted,
        ..Settings::default()
    };
    let disk = client.attach(E1_1, plain, PATIENCE).unwrap();
    drop(client);
    disk.write_at(0, &[1; 512]).unwrap();
}

#[test]
fn when_the_thread_ends_every_call_says_so() {
    let client = client(Faults::default(), 200);
    let disk = client.attach(E1_1, quick(), PATIENCE).unwrap();
    let mut data = [0; 512];
    let error = loop {
        if let Err(error) = disk.read_at(0, &mut data) {
            break error;
        }
    };
    assert!(matches!(error, ClientError::Stopped));
    assert!(matches!(disk.flush(), Err(ClientError::Stopped)));
    let mut queue = disk.queue(1);
    queue.submit(1, Request::Flush).unwrap();
    assert!(matches!(
        queue.wait().unwrap().result,
        Err(ClientError::Stopped)
    ));
    let failed = Client::start::<SimPort, Other, _>(|| Err(io::ErrorKind::Other.into())).unwrap();
    let attach = failed.attach(E1_1, quick(), PATIENCE);
    assert!(matches!(attach, Err(ClientError::Stopped)));
}
