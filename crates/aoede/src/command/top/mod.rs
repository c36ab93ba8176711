//! `aoede top`: `aoede status`, live, in a terminal.
//!
//! `view.rs` is what is known and what is chosen, `draw.rs` how it looks; here it meets terminal and
//! daemon. The daemon is asked by a thread of its own, so that keys work while it is silent.

mod draw;
mod view;

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, poll};

use self::view::{Key, View};
use super::control::SocketArgs;
use crate::control::client::Client;
use crate::control::status::Status;
use crate::stop::Stop;

const EXAMPLES: &str = "\
Examples:
  aoede top
  aoede top --socket /run/aoede/control.sock

Keys: arrows choose the export whose initiators are shown, q ends it, ? shows the others. A daemon
that goes away is waited for.";

/// Show what a daemon does, live, in the terminal.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct TopArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

/// How often the daemon is asked.
const TICK: Duration = Duration::from_secs(1);

/// How often signals are looked at.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn run(args: &TopArgs) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("this needs a terminal; for programs there is aoede status --json");
    }
    let client = args.socket.client();
    // Who is not permitted, or has no daemon, sees why, and keeps the terminal as it is.
    let status = client.status()?;
    let stop = Stop::on_signals().context("cannot prepare for signals")?;
    let mut view = View::default();
    view.take(Ok(status));
    let terminal = ratatui::try_init().context("cannot use this terminal")?;
    let stopped = end_when_asked(stop);
    let result = watch(terminal, &mut view, client, &stopped);
    ratatui::restore();
    result
}

fn watch(
    mut terminal: DefaultTerminal,
    view: &mut View,
    client: Client,
    stopped: &AtomicBool,
) -> anyhow::Result<()> {
    let (ask, answers) = start_asking(client);
    let mut asked = false;
    let mut due = Instant::now() + TICK;
    loop {
        terminal
            .draw(|frame| draw::draw(frame, view))
            .context("cannot draw")?;
        loop {
            if stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            if due <= Instant::now() && !asked {
                // It ends with this process only.
                asked = ask.send(()).is_ok();
                due = Instant::now() + TICK;
            }
            if let Ok(answer) = answers.try_recv() {
                asked = false;
                view.take(answer);
                break;
            }
            if event::poll(LOOK).context("cannot read keys")? {
                if let Some(key) = key(&event::read().context("cannot read keys")?)
                    && view.press(key)
                {
                    return Ok(());
                }
                break;
            }
        }
    }
}

/// How long a clean end may take.
const GRACE: Duration = Duration::from_secs(1);

/// Tells of a signal, or that the terminal is gone. If that changes nothing it ends the process:
/// what reads keys never comes back from a terminal that is gone.
fn end_when_asked(stop: Stop) -> Arc<AtomicBool> {
    let stopped = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&stopped);
    thread::spawn(move || {
        let input = io::stdin();
        let mut wanted = [
            PollFd::new(&stop, PollFlags::IN),
            PollFd::new(&input, PollFlags::empty()),
        ];
        while poll(&mut wanted, None).is_err() {}
        tell.store(true, Ordering::Relaxed);
        thread::sleep(GRACE);
        ratatui::restore();
        std::process::exit(1);
    });
    stopped
}

/// A thread that asks the daemon once for each order.
fn start_asking(client: Client) -> (Sender<()>, Receiver<Result<Status, String>>) {
    let (ask, orders) = mpsc::channel();
    let (tell, answers) = mpsc::channel();
    thread::spawn(move || {
        for () in orders {
            let answer = client.status().map_err(|error| error.to_string());
            if tell.send(answer).is_err() {
                return;
            }
        }
    });
    (ask, answers)
}

/// What a key is for.
fn key(event: &Event) -> Option<Key> {
    let Event::Key(pressed) = event else {
        return None;
    };
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    match pressed.code {
        KeyCode::Char('c') if pressed.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('?' | 'h') => Some(Key::Help),
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Up(1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Down(1)),
        KeyCode::PageUp => Some(Key::Up(10)),
        KeyCode::PageDown => Some(Key::Down(10)),
        KeyCode::Home => Some(Key::Up(usize::MAX)),
        KeyCode::End => Some(Key::Down(usize::MAX)),
        _ => None,
    }
}
