//! Asks a daemon over its control socket, for commands: blocking, one connection a question.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::api::{PATIENCE, Refusal};
use super::group_name;
use super::status::{self, Status};

/// The largest answer: the status of some thousand busy exports.
const MOST_BYTES: u64 = 256 << 20;

/// Fields in the head of an answer.
const MOST_FIELDS: usize = 32;

/// How long the daemon may be silent: longer than it needs to say that something takes too long.
const SILENCE: Duration = PATIENCE.saturating_add(Duration::from_secs(5));

/// Where a daemon is asked.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Asks at this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// How everything is.
    ///
    /// # Errors
    /// No answer, or one of another version.
    pub fn status(&self) -> Result<Status, ClientError> {
        let status: Status = self.ask("GET", "/v1/status", "")?;
        if status.version == status::VERSION {
            Ok(status)
        } else {
            Err(self.bad(format!(
                "it tells its status in form {}, and this program knows {}",
                status.version,
                status::VERSION
            )))
        }
    }

    /// Has something done: POST to a path, with JSON or nothing.
    ///
    /// # Errors
    /// No answer, or a refusal.
    pub fn post<T: DeserializeOwned>(&self, path: &str, json: &str) -> Result<T, ClientError> {
        self.ask("POST", path, json)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        json: &str,
    ) -> Result<T, ClientError> {
        let answer = self
            .exchange(method, path, json)
            .map_err(|error| self.explain(error))?;
        let (code, body) = split(&answer).ok_or_else(|| self.bad("this is no HTTP"))?;
        if code != 200 {
            let refusal: Refusal = serde_json::from_slice(body)
                .map_err(|_| self.bad(format!("status {code} without a reason")))?;
            return Err(ClientError::Refused(refusal));
        }
        serde_json::from_slice(body).map_err(|error| self.bad(error))
    }

    fn exchange(&self, method: &str, path: &str, json: &str) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: aoede\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
            json.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MOST_BYTES).read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn explain(&self, error: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoDaemon(socket)
            }
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted {
                who: who_may(&socket),
                socket,
            },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent(socket),
            _ => ClientError::Failed { socket, error },
        }
    }

    fn bad(&self, what: impl fmt::Display) -> ClientError {
        ClientError::Bad {
            socket: self.socket.clone(),
            what: what.to_string(),
        }
    }
}

/// Code and body of a whole answer.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let Ok(httparse::Status::Complete(len)) = head.parse(answer) else {
        return None;
    };
    let body = answer.get(len..)?;
    let length = head
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    (body.len() == length).then_some((head.code?, body))
}

/// Who may use a socket, as far as that can be seen.
fn who_may(socket: &Path) -> String {
    let Ok(found) = std::fs::metadata(socket) else {
        return "root".to_owned();
    };
    if found.mode() & 0o020 == 0 {
        return "root, or the user that the daemon runs as".to_owned();
    }
    let group = found.gid();
    let group = group_name(group).unwrap_or_else(|| group.to_string());
    format!("root, or a member of the group {group}")
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon answers at {}: start it (systemctl start aoede), or say where its socket is \
         (--socket)",
        .0.display()
    )]
    NoDaemon(PathBuf),
    /// Others may.
    #[error("not permitted to use {}: do this as {who}", socket.display())]
    NotPermitted {
        /// The socket.
        socket: PathBuf,
        /// As whom it could be done.
        who: String,
    },
    /// It does not answer.
    #[error("the daemon at {} does not answer; its log may say why", .0.display())]
    Silent(PathBuf),
    /// It answered something else.
    #[error("what answers at {} is not understood: {what}", socket.display())]
    Bad {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It does not do it.
    #[error("{0}")]
    Refused(Refusal),
    /// Something else went wrong.
    #[error("cannot ask the daemon at {}: {error}", socket.display())]
    Failed {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_only_whole() {
        let whole = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(split(whole), Some((404, &b"{}"[..])));
        for cut in 0..whole.len() {
            assert_eq!(split(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(split(b"HTTP/1.1 200 OK\r\n\r\n{}"), None);
        assert_eq!(split(b"220 mail.example.org ESMTP\r\n"), None);
    }
}
