//! `aoede serve`: workers, and the main thread that tells them what to do.
//!
//! ```text
//! SIGHUP, calls ─▶ changes.rs: config::check ─▶ State::wanted ─▶ diff ─▶ orders ─▶ workers
//! SIGTERM       ─▶ the end: every worker finishes             news, answers ◀─┘
//! ```
//!
//! The main thread opens files and keeps the account of what is served ([`State`]); it moves no
//! data. `changes.rs` carries out the difference of two configurations, `calls.rs` what comes by the
//! control socket, `state.rs` keeps what outlives the daemon. Nothing here wakes by itself, unless
//! systemd's watchdog wants to hear something.

mod calls;
mod changes;
mod config_file;
mod listeners;
mod notify;
mod state;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use aoede_disk::Windows;
use aoede_wire::Address;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::LocalSet;
use tracing::{error, info, warn};

use crate::control::api::Call;
use crate::control::config::{Config, Export};
use crate::control::plan::State;
use crate::control::status::ReloadStatus;
use crate::sandbox;
use crate::service::{Closed, News, Order, OrderSender, Remembered};
use listeners::Listeners;
use state::StateFolder;

/// Threads that open files and look at configurations, for a while.
const BLOCKING_THREADS: usize = 4;
/// How long they stay when they have nothing to do.
const BLOCKING_PATIENCE: Duration = Duration::from_millis(100);
/// Calls that wait to be taken.
const CALLS: usize = 64;

/// How to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The file that says what.
    pub(crate) config: PathBuf,
    /// Whether to give up rights and system calls that are not needed.
    pub(crate) sandbox: bool,
}

/// Serves what a configuration says, until asked to stop.
///
/// # Errors
/// At the start: whatever is wrong with it or with any export; nothing is served then. At the end:
/// acknowledged data that could not be written, or a worker that could not go on.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let loaded = config_file::load(&settings.config);
    let Some(config) = loaded.config else {
        for wrong in &loaded.errors {
            error!("{wrong}");
        }
        bail!(
            "{}: {} to mend; nothing is served",
            settings.config.display(),
            many(loaded.errors.len(), "error")
        );
    };
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    raise_file_limit();
    let folder = StateFolder::open(&config.daemon.state_folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(BLOCKING_PATIENCE)
        .build()
        .context("cannot prepare the main thread")?;
    let served = LocalSet::new().block_on(&runtime, serve(settings, config, folder));
    // What still opens a file ends by itself.
    runtime.shutdown_background();
    served
}

async fn serve(settings: &Settings, config: Config, folder: StateFolder) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot prepare for signals")?;
    let (calls_sender, mut calls) = mpsc::channel(CALLS);
    let listeners = Listeners::open(&config.daemon, calls_sender)?;
    // From here on: while there is one thread still, and what needed more rights is done.
    enter_sandbox(settings.sandbox)?;
    let (news_sender, mut news) = mpsc::unbounded_channel();
    let daemon = Rc::new(Daemon {
        config_file: settings.config.clone(),
        start: Instant::now(),
        folder,
        windows: Windows::default(),
        news: news_sender,
        listeners: Mutex::new(listeners),
        changing: Mutex::default(),
        inner: RefCell::default(),
    });
    if let Err(error) = daemon.begin(config).await {
        daemon.stop_workers();
        return Err(error);
    }
    notify::ready();
    let mut watchdog = notify::watchdog_pause().map(tokio::time::interval);
    loop {
        tokio::select! {
            () = either(&mut signals.terminate, &mut signals.interrupt) => break,
            _ = signals.reload.recv() => {
                info!("SIGHUP: reading the configuration again");
                tokio::task::spawn_local(Rc::clone(&daemon).reload());
            }
            () = either(&mut signals.user_1, &mut signals.user_2) => warn!(
                "SIGUSR1 and SIGUSR2 mean nothing here: freeze with aoede freeze ADDRESS"
            ),
            Some(told) = news.recv() => {
                if let Some(ended) = daemon.hear(told) {
                    daemon.finish(&mut news).await?;
                    return Err(ended);
                }
            }
            Some(call) = calls.recv() => match call {
                Call::Stop(answer) => {
                    calls::answer_stop(answer);
                    break;
                }
                call => drop(tokio::task::spawn_local(Rc::clone(&daemon).take_call(call))),
            },
            () = tick(watchdog.as_mut()) => {
                tokio::task::spawn_local(Rc::clone(&daemon).prove_alive());
            }
        }
    }
    info!("stopping");
    notify::stopping();
    // A reload that is under way is waited for: what it opens is closed again in order.
    let changing = daemon.changing.lock().await;
    let finished = daemon.finish(&mut news).await;
    drop(changing);
    finished
}

/// The one place where the daemon gives up what it does not need.
fn enter_sandbox(wanted: bool) -> anyhow::Result<()> {
    let report = sandbox::enter(&sandbox::Settings { wanted }).context("the sandbox")?;
    if report == sandbox::Report::Off {
        warn!("{report}");
    } else {
        info!("{report}");
    }
    Ok(())
}

/// Each export takes some descriptors.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        warn!("cannot raise the limit of open files: {error}");
    }
}

async fn tick(watchdog: Option<&mut tokio::time::Interval>) {
    match watchdog {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// What comes from outside.
struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
    /// Freezing has its own command here.
    user_1: Signal,
    user_2: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Waits for one of two.
async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// The main thread's side of everything.
struct Daemon {
    config_file: PathBuf,
    /// What all workers count time from.
    start: Instant,
    folder: StateFolder,
    /// Parts of one file share its lock.
    windows: Windows,
    news: mpsc::UnboundedSender<News>,
    listeners: Mutex<Listeners>,
    /// Held by whoever changes what is served.
    changing: Mutex<()>,
    inner: RefCell<Inner>,
}

/// What is looked at in between; never borrowed while something is waited for.
#[derive(Debug, Default)]
struct Inner {
    /// The account: what is served, and by whom.
    state: State,
    /// Everything was open once: new workers have nothing to wait for.
    begun: bool,
    workers: BTreeMap<u16, OrderSender>,
    /// Workers that had nothing to serve any more, and have not told of their end yet.
    retired: Vec<u16>,
    /// Every worker is to end.
    stopping: bool,
    /// Not served on demand, or as it could not be opened.
    idle: BTreeMap<Address, Unserved>,
    last_reload: Option<ReloadStatus>,
}

/// An export of the configuration that is not served.
#[derive(Debug)]
struct Unserved {
    export: Export,
    /// On demand, and what is left of it.
    drained: Option<Box<Closed>>,
}

impl Daemon {
    /// Who serves an export.
    fn worker_of(&self, address: Address) -> Option<OrderSender> {
        let inner = self.inner.borrow();
        let worker = inner.state.exports.get(&address)?.worker;
        inner.workers.get(&worker).cloned()
    }

    fn export(&self, address: Address) -> Option<Export> {
        let inner = self.inner.borrow();
        Some(inner.state.exports.get(&address)?.export.clone())
    }

    /// Takes what a worker tells. Whether one has ended that nobody asked to: then everything ends.
    fn hear(&self, news: News) -> Option<anyhow::Error> {
        match news {
            News::Remember(address, remembered) => {
                if let Some(export) = self.export(address) {
                    self.keep(&export, &remembered);
                }
                None
            }
            News::Ended(worker, result) => {
                let mut inner = self.inner.borrow_mut();
                let retired = inner.retired.iter().position(|&number| number == worker);
                if let Some(place) = retired {
                    // Another may have its number by now.
                    inner.retired.swap_remove(place);
                    return result.err();
                }
                inner.workers.remove(&worker);
                match result {
                    Ok(()) if inner.stopping => None,
                    Ok(()) => Some(anyhow::anyhow!("worker {worker} has ended")),
                    Err(error) => Some(error),
                }
            }
        }
    }

    fn keep(&self, export: &Export, remembered: &Remembered) {
        if let Err(error) = self.folder.store(export, remembered) {
            error!("{error:#}");
        }
    }

    /// Asks every worker to finish.
    fn stop_workers(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.stopping = true;
        for handle in inner.workers.values() {
            handle.send(Order::Stop);
        }
    }

    /// Waits until every worker has finished, and keeps what they tell at last.
    async fn finish(&self, news: &mut mpsc::UnboundedReceiver<News>) -> anyhow::Result<()> {
        self.stop_workers();
        let mut finished = Ok(());
        while !self.inner.borrow().workers.is_empty() {
            let Some(told) = news.recv().await else {
                break;
            };
            if let Some(error) = self.hear(told) {
                if finished.is_ok() {
                    finished = Err(error);
                } else {
                    error!("{error:#}");
                }
            }
        }
        finished
    }

    /// Tells the watchdog that every worker is there, if it is.
    async fn prove_alive(self: Rc<Self>) {
        let answers: Vec<_> = {
            let inner = self.inner.borrow();
            let ask = |handle: &OrderSender| {
                let (sender, answer) = oneshot::channel();
                handle.send(Order::Ping(sender));
                answer
            };
            inner.workers.values().map(ask).collect()
        };
        for answer in answers {
            // One that hangs is the watchdog's to notice; one that has ended is no hindrance.
            let _ = answer.await;
        }
        notify::alive();
    }
}

/// `1 export`, `2 exports`.
fn many(count: usize, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {one}{plural}")
}
