//! Paths, and what is called for each.

use std::future::pending;
use std::io;
use std::time::Duration;

use aoede_wire::Address;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::limits::{Limited, Turn, body_limit, keep_time};
use super::{Answer, Call, Reason, Refusal, Socket};

/// How long a call may take. What takes longer, goes on.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Answers at the socket for ever. What is dropped with it, is the socket.
///
/// # Errors
/// What the kernel said.
pub async fn serve(socket: Socket, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let Socket { listener, place } = socket;
    let service = router(Caller::new(calls)).into_make_service_with_connect_info::<Turn>();
    axum::serve(Limited::new(listener), service).await?;
    drop(place);
    pending().await
}

fn router(caller: Caller) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .route("/v1/stop", post(stop))
        .route("/v1/exports/{address}/freeze", post(freeze))
        .route("/v1/exports/{address}/thaw", post(thaw))
        .route("/v1/exports/{address}/resize", post(resize))
        .route("/v1/exports/{address}/drain", post(drain))
        .route("/v1/exports/{address}/reset", post(reset))
        .fallback(path_unknown)
        .method_not_allowed_fallback(method_unknown)
        .layer(body_limit())
        .layer(middleware::from_fn(keep_time))
        .with_state(caller)
}

/// Asks the daemon's loop.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    calls: mpsc::Sender<Call>,
    patience: Duration,
}

type Told<T> = Result<Json<T>, Refusal>;

impl Caller {
    pub(crate) fn new(calls: mpsc::Sender<Call>) -> Self {
        Self {
            calls,
            patience: PATIENCE,
        }
    }

    /// What the loop answers.
    pub(crate) async fn call<T>(&self, make: impl FnOnce(Answer<T>) -> Call) -> Result<T, Refusal> {
        let (answer, told) = oneshot::channel();
        self.calls
            .try_send(make(answer))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Refusal::new(
                    Reason::Busy,
                    "the daemon has too much to answer",
                    "ask again in a moment",
                ),
                mpsc::error::TrySendError::Closed(_) => ending(),
            })?;
        match timeout(self.patience, told).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ending()),
            Err(_) => Err(Refusal::new(
                Reason::Busy,
                format!("this is not done after {} s", self.patience.as_secs()),
                "it may go on: look at the status",
            )),
        }
    }

    async fn tell<T: Serialize>(&self, make: impl FnOnce(Answer<T>) -> Call) -> Told<T> {
        self.call(make).await.map(Json)
    }

    async fn tell_of<T: Serialize>(
        &self,
        address: &str,
        make: impl FnOnce(Address, Answer<T>) -> Call,
    ) -> Told<T> {
        let address = parse(address)?;
        self.tell(|answer| make(address, answer)).await
    }
}

fn ending() -> Refusal {
    Refusal::new(
        Reason::Busy,
        "the daemon is ending",
        "ask again when it is back",
    )
}

fn parse(address: &str) -> Result<Address, Refusal> {
    address.parse().map_err(|_| {
        Refusal::new(
            Reason::Invalid,
            format!("{address:?} is no address of an export"),
            "write shelf and slot, such as e1.1",
        )
    })
}

async fn status(State(caller): State<Caller>) -> impl IntoResponse {
    caller.tell(Call::Status).await
}

async fn reload(State(caller): State<Caller>) -> impl IntoResponse {
    caller.tell(Call::Reload).await
}

async fn stop(State(caller): State<Caller>) -> impl IntoResponse {
    caller.tell(Call::Stop).await
}

async fn freeze(State(caller): State<Caller>, Path(address): Path<String>) -> impl IntoResponse {
    caller.tell_of(&address, Call::Freeze).await
}

async fn thaw(State(caller): State<Caller>, Path(address): Path<String>) -> impl IntoResponse {
    caller.tell_of(&address, Call::Thaw).await
}

async fn drain(State(caller): State<Caller>, Path(address): Path<String>) -> impl IntoResponse {
    caller.tell_of(&address, Call::Drain).await
}

async fn reset(State(caller): State<Caller>, Path(address): Path<String>) -> impl IntoResponse {
    caller.tell_of(&address, Call::ResetFailure).await
}

/// What comes with a resize, if anything does.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    #[serde(default)]
    size_bytes: Option<u64>,
}

async fn resize(
    State(caller): State<Caller>,
    Path(address): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> impl IntoResponse {
    let resize = parse_resize(body)?;
    let call = |address, answer| Call::Resize(address, resize.size_bytes, answer);
    caller.tell_of(&address, call).await
}

fn parse_resize(body: Result<Bytes, BytesRejection>) -> Result<Resize, Refusal> {
    let body = body.map_err(|error| Refusal::new(Reason::Invalid, error.body_text(), ""))?;
    if body.is_empty() {
        return Ok(Resize::default());
    }
    serde_json::from_slice(&body).map_err(|error| {
        Refusal::new(
            Reason::Invalid,
            format!("the size is not understood: {error}"),
            r#"write {"size_bytes": 1073741824}, or nothing to take the size of the file"#,
        )
    })
}

pub(crate) async fn path_unknown() -> Refusal {
    Refusal::new(
        Reason::NotFound,
        "this daemon knows no such path",
        "it speaks version 1, as in /v1/status",
    )
}

pub(crate) async fn method_unknown() -> Response {
    let refusal = Refusal::new(
        Reason::Invalid,
        "this path wants another method",
        "status is read with GET, everything else is done with POST",
    );
    (StatusCode::METHOD_NOT_ALLOWED, Json(refusal)).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.reason {
            Reason::NotFound => StatusCode::NOT_FOUND,
            Reason::Invalid => StatusCode::BAD_REQUEST,
            Reason::Conflict => StatusCode::CONFLICT,
            Reason::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            Reason::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self)).into_response()
    }
}
