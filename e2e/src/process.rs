//! Child processes that cannot outlive the test: started in a namespace, their output collected,
//! killed when the guard is dropped and by the kernel when the test program dies.

use std::{
    io::{Read, Write},
    os::{fd::AsFd, unix::process::CommandExt, unix::process::ExitStatusExt},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    process::{Pid, Signal, kill_process, set_parent_process_death_signal},
    thread::move_into_link_name_space,
};

use crate::Namespace;

/// How often a condition that cannot be waited for is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Everything a process has written so far, escape characters left out. Clones share the same text.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<(Mutex<LogState>, Condvar)>);

#[derive(Debug, Default)]
struct LogState {
    text: Vec<u8>,
    writers: usize,
}

impl Log {
    /// The text so far; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().text).into_owned()
    }

    /// Waits until the text contains `pattern` and returns the whole text.
    ///
    /// # Errors
    /// The deadline has passed or the process closed its output first; the message has the text.
    pub fn wait_for(&self, pattern: &str, within: Duration) -> Result<String> {
        self.wait(within, &format!("no `{pattern}`"), |text| {
            text.contains(pattern).then(|| text.to_owned())
        })
    }

    /// Waits until `found` returns something for the text so far. `missing` describes its absence.
    ///
    /// # Errors
    /// As [`Log::wait_for`].
    pub fn wait<T>(
        &self,
        within: Duration,
        missing: &str,
        mut found: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + within;
        let mut state = self.lock();
        loop {
            let text = String::from_utf8_lossy(&state.text);
            if let Some(value) = found(&text) {
                return Ok(value);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.writers == 0 {
                let why = if left.is_zero() {
                    format!("within {within:?}")
                } else {
                    "before the process ended".to_owned()
                };
                bail!("{missing} {why}; the output was:\n{}", tail(&text));
            }
            state = self
                .0
                .1
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects what `source` yields until its end, on a thread of its own.
    fn collect(&self, mut source: impl Read + Send + 'static) -> JoinHandle<()> {
        self.lock().writers += 1;
        let log = self.clone();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            loop {
                let count = source.read(&mut chunk).unwrap_or(0);
                let mut state = log.lock();
                // Without escape characters: firmware clears the screen, and this text ends on one.
                state
                    .text
                    .extend(chunk.iter().take(count).filter(|&&byte| byte != 0x1b));
                if count == 0 {
                    state.writers -= 1;
                }
                log.0.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        })
    }
}

/// The last part of a long text, for messages.
fn tail(text: &str) -> &str {
    const KEPT: usize = 6000;
    let start = text.len().saturating_sub(KEPT);
    let start = (start..=text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    text.get(start..).unwrap_or(text).trim_end()
}

/// A running child. Dropping it kills it, waits for it and prints its output, which the test
/// harness shows when the test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    /// Standard output.
    pub stdout: Log,
    /// Standard error; the same log as `stdout` if the two were joined.
    pub stderr: Log,
    readers: Vec<JoinHandle<()>>,
    quiet: bool,
}

impl Process {
    /// Starts `command` in `namespace`; standard output and error go into one log.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(name: &str, namespace: Option<&Namespace>, command: Command) -> Result<Self> {
        let log = Log::default();
        Self::spawn_into(name, namespace, command, log.clone(), log)
    }

    /// Starts `command` in `namespace`, with a log for each of the two outputs.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn_split(
        name: &str,
        namespace: Option<&Namespace>,
        command: Command,
    ) -> Result<Self> {
        Self::spawn_into(name, namespace, command, Log::default(), Log::default())
    }

    fn spawn_into(
        name: &str,
        namespace: Option<&Namespace>,
        mut command: Command,
        stdout: Log,
        stderr: Log,
    ) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child =
            spawn_guarded(command, namespace).with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        let out = child.stdout.take().map(|source| stdout.collect(source));
        let err = child.stderr.take().map(|source| stderr.collect(source));
        Ok(Self {
            name: name.to_owned(),
            child,
            input,
            stdout,
            stderr,
            readers: out.into_iter().chain(err).collect(),
            quiet: false,
        })
    }

    /// Keeps its output for [`Process::stdout`] and [`Process::stderr`]: it is not printed when
    /// the guard is dropped.
    pub fn keep_quiet(&mut self) {
        self.quiet = true;
    }

    /// The process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    /// It has closed its input.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        input
            .write_all(bytes)
            .and_then(|()| input.flush())
            .with_context(|| format!("cannot write to {}", self.name))
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(
            self.is_running(),
            "{} has ended already:\n{}",
            self.name,
            self.stderr.text()
        );
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("no process number")?;
        kill_process(id, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It is still running after `within`.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                for reader in self.readers.drain(..) {
                    // A reader that panicked has nothing more to tell.
                    let _ = reader.join();
                }
                return Ok(status);
            }
            ensure!(
                Instant::now() < end,
                "{} still runs after {within:?}:\n{}",
                self.name,
                tail(&self.stderr.text())
            );
            thread::sleep(POLL);
        }
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.name))?;
        self.wait(Duration::from_secs(10)).map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.quiet {
            return;
        }
        eprintln!("--- {} ---\n{}", self.name, tail(&self.stdout.text()));
        if !Arc::ptr_eq(&self.stdout.0, &self.stderr.0) {
            eprintln!(
                "--- {} (standard error) ---\n{}",
                self.name,
                tail(&self.stderr.text())
            );
        }
    }
}

/// What a program that ran to its end has left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// Runs `command` in `namespace` to its end.
///
/// # Errors
/// It cannot be started or is still running after `within`. A failing exit code is no error here.
pub fn run(namespace: Option<&Namespace>, command: Command, within: Duration) -> Result<Finished> {
    let name = format!("{command:?}");
    let mut process = Process::spawn_split(&name, namespace, command)?;
    process.quiet = true;
    process.close_input();
    let status = process.wait(within)?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Finished {
        code,
        stdout: process.stdout.text(),
        stderr: process.stderr.text(),
    })
}

/// Runs `command` in `namespace` to its end and returns its standard output.
///
/// # Errors
/// As [`run`], and a failing exit code.
pub fn succeed(
    namespace: Option<&Namespace>,
    command: Command,
    within: Duration,
) -> Result<String> {
    let name = format!("{command:?}");
    let finished = run(namespace, command, within)?;
    ensure!(
        finished.code == 0,
        "{name} ended with code {}:\n{}{}",
        finished.code,
        finished.stdout,
        finished.stderr
    );
    Ok(finished.stdout)
}

/// Looks at a condition until it holds. For conditions that nobody announces; where there is
/// output to wait for, use [`Log::wait_for`].
///
/// # Errors
/// It does not hold within the deadline, or looking failed.
pub fn wait_until(
    what: &str,
    within: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    while !holds()? {
        ensure!(start.elapsed() < within, "{what}: not within {within:?}");
        thread::sleep(POLL);
    }
    Ok(start.elapsed())
}

type Order = Box<dyn FnOnce() + Send>;

/// The kernel sends the parent-death signal when the *thread* that forked ends. Tests run on
/// threads of their own, so all children are forked by one thread that lives as long as the
/// process.
static FORKER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<Order>();
    thread::spawn(move || receiver.into_iter().for_each(|order| order()));
    Mutex::new(sender)
});

fn spawn_guarded(mut command: Command, namespace: Option<&Namespace>) -> Result<Child> {
    let namespaces = namespace.map(Namespace::descriptors).unwrap_or_default();
    let in_child = move || {
        for (namespace, kind) in &namespaces {
            move_into_link_name_space(namespace.as_fd(), Some(*kind))?;
        }
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only, without allocating or
    // locking, on descriptors it keeps alive itself.
    unsafe { command.pre_exec(in_child) };
    let (sender, receiver) = mpsc::channel();
    let order = Box::new(move || {
        // The receiver waits below; it is gone only if its thread was torn down.
        let _ = sender.send(command.spawn());
    });
    FORKER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send(order)
        .ok()
        .context("the forking thread is gone")?;
    Ok(receiver.recv().context("the forking thread is gone")??)
}
