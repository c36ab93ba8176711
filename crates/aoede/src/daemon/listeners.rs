//! Where the daemon can be asked: the control socket, and the status page.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use tracing::error;

use crate::control::api::{self, Call, Socket};
use crate::control::config;
use crate::page;

/// Both of them, as far as they are wanted.
#[derive(Debug)]
pub(super) struct Listeners {
    calls: Sender<Call>,
    control: JoinHandle<()>,
    /// Where that is.
    socket: PathBuf,
    page: Option<JoinHandle<()>>,
    /// Where that is.
    page_at: Option<SocketAddr>,
}

impl Listeners {
    /// Begins to listen.
    ///
    /// # Errors
    /// A place is taken, or may not be used.
    pub(super) fn open(daemon: &config::Daemon, calls: Sender<Call>) -> anyhow::Result<Self> {
        let socket = Socket::bind(&daemon.socket, daemon.group.as_deref()).context(NO_CONTROL)?;
        Ok(Self {
            control: control(socket, &calls),
            socket: daemon.socket.clone(),
            page: status_page(daemon.status, &calls)?,
            page_at: daemon.status,
            calls,
        })
    }

    /// Listens for calls at another place, or for others.
    ///
    /// # Errors
    /// As for [`Self::open`]; what was before goes on then.
    pub(super) async fn move_control(&mut self, daemon: &config::Daemon) -> anyhow::Result<()> {
        let group = daemon.group.as_deref();
        let socket = if daemon.socket == self.socket {
            Socket::bind_over(&daemon.socket, group)
        } else {
            Socket::bind(&daemon.socket, group)
        };
        let socket = socket.context(NO_CONTROL)?;
        let before = std::mem::replace(&mut self.control, control(socket, &self.calls));
        self.socket.clone_from(&daemon.socket);
        end(before).await;
        Ok(())
    }

    /// Shows the status page elsewhere, or not any more.
    ///
    /// # Errors
    /// As for [`Self::open`]; it is shown where it was then, unless that has become impossible.
    pub(super) async fn move_page(&mut self, daemon: &config::Daemon) -> anyhow::Result<()> {
        let page = match status_page(daemon.status, &self.calls) {
            Ok(page) => page,
            Err(error) => {
                // Its own old place may be in the way: all addresses, and one of them.
                let Some(before) = self.page.take() else {
                    return Err(error);
                };
                end(before).await;
                match status_page(daemon.status, &self.calls) {
                    Ok(page) => page,
                    Err(error) => {
                        self.page = status_page(self.page_at, &self.calls)?;
                        return Err(error);
                    }
                }
            }
        };
        if let Some(before) = std::mem::replace(&mut self.page, page) {
            end(before).await;
        }
        self.page_at = daemon.status;
        Ok(())
    }
}

/// Ends a listener, and waits until its place is free.
async fn end(listener: JoinHandle<()>) {
    listener.abort();
    // That it was aborted is no news.
    let _ = listener.await;
}

const NO_CONTROL: &str = "cannot listen for calls";

fn control(socket: Socket, calls: &Sender<Call>) -> JoinHandle<()> {
    let calls = calls.clone();
    tokio::task::spawn_local(async move {
        if let Err(error) = api::serve(socket, calls).await {
            error!("the control socket: {error}");
        }
    })
}

fn status_page(
    address: Option<SocketAddr>,
    calls: &Sender<Call>,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener =
        page::bind(address).with_context(|| format!("cannot show the status page at {address}"))?;
    let calls = calls.clone();
    Ok(Some(tokio::task::spawn_local(async move {
        if let Err(error) = page::serve(listener, calls).await {
            error!("the status page: {error}");
        }
    })))
}
