//! What keeps others from hurting a daemon by its connections: their number, and the time that
//! each may take for its part.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Connections at once. Others wait in the kernel.
const MOST_CONNECTIONS: usize = 32;

/// How long the other end may take for a whole request, and to take a part of the answer.
const OTHERS_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of a request after its head: a few numbers.
pub(super) const MOST_BODY_BYTES: usize = 4096;

/// The limit of [`MOST_BODY_BYTES`], as a layer.
pub(super) fn body_limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(MOST_BODY_BYTES)
}

/// A listener whose connections are limited in number and time.
#[derive(Debug)]
pub(crate) struct Limited<L> {
    listener: L,
    free: Arc<Semaphore>,
    patience: Duration,
}

impl<L> Limited<L> {
    pub(crate) fn new(listener: L) -> Self {
        Self::with(listener, MOST_CONNECTIONS, OTHERS_PATIENCE)
    }

    fn with(listener: L, connections: usize, patience: Duration) -> Self {
        Self {
            listener,
            free: Arc::new(Semaphore::new(connections)),
            patience,
        }
    }
}

impl<L: Listener> Listener for Limited<L> {
    type Io = LimitedIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // It is never closed.
        let place = Arc::clone(&self.free).acquire_owned().await.ok();
        let (io, address) = self.listener.accept().await;
        let limited = LimitedIo {
            io,
            place,
            turn: Turn::default(),
            patience: self.patience,
            end: Box::pin(sleep(self.patience)),
        };
        (limited, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// Whose turn it is at a connection: ours while a request is carried out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn(Arc<AtomicBool>);

impl Turn {
    fn is_ours(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl<L: Listener> Connected<IncomingStream<'_, Limited<L>>> for Turn {
    fn connect_info(stream: IncomingStream<'_, Limited<L>>) -> Self {
        stream.io().turn.clone()
    }
}

/// While a request is carried out, nobody waits for the other end. A middleware.
pub(crate) async fn keep_time(
    ConnectInfo(turn): ConnectInfo<Turn>,
    request: Request,
    next: Next,
) -> Response {
    turn.0.store(true, Ordering::Relaxed);
    let response = next.run(request).await;
    turn.0.store(false, Ordering::Relaxed);
    response
}

/// A connection that ends when the other end takes too long.
#[derive(Debug)]
pub(crate) struct LimitedIo<S> {
    io: S,
    /// Given back with the connection.
    #[expect(dead_code, reason = "held")]
    place: Option<OwnedSemaphorePermit>,
    turn: Turn,
    patience: Duration,
    end: Pin<Box<Sleep>>,
}

impl<S> LimitedIo<S> {
    /// An error if the other end has taken too long.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.end.as_mut().poll(context).is_ready() {
            if !self.turn.is_ours() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.extend();
        }
        Ok(())
    }

    fn extend(&mut self) {
        self.end.as_mut().reset(Instant::now() + self.patience);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedIo<S> {
    /// That something came gives no more time: it could come byte by byte.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        match written {
            Poll::Ready(_) => self.extend(),
            Poll::Pending => self.check(context)?,
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use axum::Router;
    use axum::routing::get;
    use tokio::net::UnixListener;
    use tokio::runtime;
    use tokio::task::{JoinHandle, spawn_blocking};

    use super::*;

    /// Long beside the work, short beside a test.
    const PATIENCE: Duration = Duration::from_millis(300);

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    /// Serves two connections at once while `test` connects to them.
    fn served<T: Send + 'static>(
        router: Router,
        test: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let listener = Limited::with(UnixListener::bind(&path).unwrap(), 2, PATIENCE);
            let router = router.layer(axum::middleware::from_fn(keep_time));
            let service = router.into_make_service_with_connect_info::<Turn>();
            tokio::spawn(axum::serve(listener, service).into_future());
            let testing: JoinHandle<T> = spawn_blocking(move || test(&path));
            testing.await.unwrap()
        })
    }

    fn here() -> Router {
        Router::new().route("/", get(|| async { "here" }))
    }

    fn ask(path: &Path) -> String {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(REQUEST).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn who_takes_all_places_and_is_silent_loses_them() {
        served(here(), |path| {
            let silent = [(); 2].map(|()| UnixStream::connect(path).unwrap());
            let start = Instant::now();
            assert!(ask(path).ends_with("here"));
            assert!(start.elapsed() > PATIENCE / 2, "it was let in before");
            for mut silent in silent {
                assert_eq!(silent.read(&mut [0]).unwrap(), 0);
            }
        });
    }

    #[test]
    fn byte_by_byte_is_no_faster_than_silence() {
        served(here(), |path| {
            let mut slow = UnixStream::connect(path).unwrap();
            let start = Instant::now();
            while slow.write_all(b"G").is_ok() {
                assert!(start.elapsed() < 10 * PATIENCE, "it goes on for ever");
                std::thread::sleep(PATIENCE / 10);
            }
        });
    }

    #[test]
    fn our_own_time_is_not_the_others() {
        let slow = get(|| async {
            sleep(3 * PATIENCE).await;
            "at last"
        });
        let router = Router::new().route("/", slow);
        assert!(served(router, ask).ends_with("at last"));
    }
}
