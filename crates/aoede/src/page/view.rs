//! What the page shows: one status for all who look at about the same time.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::control::api::{Call, Caller, Refusal};
use crate::control::metrics;
use crate::control::status::Status;

/// How old a status may be that is shown. Whoever floods the page with questions disturbs the
/// workers no more often than this.
const FRESH: Duration = Duration::from_millis(200);

/// The latest status.
#[derive(Clone, Debug)]
pub(super) struct View {
    caller: Caller,
    latest: Arc<Mutex<Option<Latest>>>,
}

#[derive(Debug)]
struct Latest {
    at: Instant,
    status: Arc<Status>,
}

impl View {
    pub(super) fn new(caller: Caller) -> Self {
        Self {
            caller,
            latest: Arc::default(),
        }
    }

    async fn status(&self) -> Result<Arc<Status>, Refusal> {
        // Whoever comes while it is asked for waits for that.
        let mut latest = self.latest.lock().await;
        if let Some(Latest { at, status }) = latest.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(status));
        }
        let status = Arc::new(self.caller.call(Call::Status).await?);
        *latest = Some(Latest {
            at: Instant::now(),
            status: Arc::clone(&status),
        });
        Ok(status)
    }
}

pub(super) async fn json(State(view): State<View>) -> Result<Response, Refusal> {
    let status = view.status().await?;
    Ok(Json(&*status).into_response())
}

pub(super) async fn metrics(State(view): State<View>) -> Result<impl IntoResponse, Refusal> {
    let status = view.status().await?;
    Ok((
        [(CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::text(&status),
    ))
}
