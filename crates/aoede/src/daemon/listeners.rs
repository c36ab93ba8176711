//! Where the daemon can be asked: the control socket, and the status page.

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
    page: Option<JoinHandle<()>>,
}

impl Listeners {
    /// Begins to listen.
    ///
    /// # Errors
    /// A place is taken, or may not be used.
    pub(super) fn open(daemon: &config::Daemon, calls: Sender<Call>) -> anyhow::Result<Self> {
        Ok(Self {
            control: control(daemon, &calls)?,
            page: status_page(daemon, &calls)?,
            calls,
        })
    }

    /// Listens for calls at another place, or for others.
    ///
    /// # Errors
    /// As for [`Self::open`]; what was before is gone then.
    pub(super) async fn move_control(&mut self, daemon: &config::Daemon) -> anyhow::Result<()> {
        // Its file goes with it, and would be in the way of the new one.
        self.control.abort();
        // That it was aborted is no news.
        let _ = (&mut self.control).await;
        self.control = control(daemon, &self.calls)?;
        Ok(())
    }

    /// Shows the status page elsewhere, or not any more.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub(super) async fn move_page(&mut self, daemon: &config::Daemon) -> anyhow::Result<()> {
        if let Some(page) = self.page.take() {
            page.abort();
            let _ = page.await;
        }
        self.page = status_page(daemon, &self.calls)?;
        Ok(())
    }
}

fn control(daemon: &config::Daemon, calls: &Sender<Call>) -> anyhow::Result<JoinHandle<()>> {
    let socket =
        Socket::bind(&daemon.socket, daemon.group.as_deref()).context("cannot listen for calls")?;
    let calls = calls.clone();
    Ok(tokio::task::spawn_local(async move {
        if let Err(error) = api::serve(socket, calls).await {
            error!("the control socket: {error}");
        }
    }))
}

fn status_page(
    daemon: &config::Daemon,
    calls: &Sender<Call>,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(address) = daemon.status else {
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
