//! The Unix socket that clients connect to: made so that nobody else can connect meanwhile, found
//! again after a crash, and removed at the end.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock, open};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 64;
/// How long another process may hold the lock of the folder, which takes moments; and how often it
/// is tried.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_EVERY: Duration = Duration::from_millis(20);

/// A socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file: it may be another's by the end.
    file: (u64, u64),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another server answers there.
    #[error("another server is listening at {}; stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// There is a file that is no socket.
    #[error("{} exists and is no socket; remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The path does not fit into a socket's address.
    #[error("{} is too long for a socket: 107 bytes at most", .0.display())]
    TooLong(PathBuf),
    /// Another process holds the lock of the folder, for too long.
    #[error("another process keeps {} locked; choose another folder", .0.display())]
    Locked(PathBuf),
    /// Something else.
    #[error("cannot make the socket {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Socket {
    /// Listens at `path`, an absolute one, for processes that `mode` allows to write to its file. A
    /// socket that a dead process has left there is replaced. It takes some seconds at most.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn open(path: &Path, mode: u32) -> Result<Self, SocketError> {
        let failed = |source: io::Error| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        let address =
            SocketAddrUnix::new(path).map_err(|_| SocketError::TooLong(path.to_owned()))?;
        let socket = unix_socket().map_err(|error| failed(error.into()))?;
        // The file that `bind` makes has no more than these, whatever the umask is.
        fchmod(&socket, Mode::from_raw_mode(mode)).map_err(|error| failed(error.into()))?;
        {
            // One at a time: who finds a dead socket must not remove one that has just come alive.
            let _lock = lock_folder(path, LOCK_PATIENCE)?;
            remove_dead(path, &address)?;
            bind(&socket, &address).map_err(|error| failed(error.into()))?;
            listen(&socket, BACKLOG).map_err(|error| failed(error.into()))?;
        }
        let made = fs::symlink_metadata(path).map_err(failed)?;
        let socket = Self {
            listener: socket.into(),
            path: path.to_owned(),
            file: (made.dev(), made.ino()),
        };
        // And what the umask took away.
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        Ok(socket)
    }

    /// The next client, or `None` if none waits.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // It has gone away before its turn.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The URI that clients take. `name` is the export's.
    pub fn uri(&self, name: &str) -> String {
        let name = percent(name.as_bytes());
        let path = percent(self.path.as_os_str().as_encoded_bytes());
        format!("nbd+unix:///{name}?socket={path}")
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path);
        if now.is_ok_and(|now| (now.dev(), now.ino()) == self.file) {
            // Whatever prevents it, nobody listens there any more.
            let _left = fs::remove_file(&self.path);
        }
    }
}

/// A socket that never waits.
fn unix_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Locks the folder of `path` until the result is dropped.
fn lock_folder(path: &Path, patience: Duration) -> Result<OwnedFd, SocketError> {
    let failed = |error: Errno| SocketError::Io {
        path: path.to_owned(),
        source: error.into(),
    };
    let folder = path.parent().unwrap_or(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = open(folder, flags, Mode::empty()).map_err(failed)?;
    let start = Instant::now();
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK | Errno::INTR) if start.elapsed() < patience => {
                thread::sleep(LOCK_EVERY);
            }
            Err(Errno::WOULDBLOCK) => return Err(SocketError::Locked(folder.to_owned())),
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Removes a socket at which nobody listens. `address` is that of `path`.
fn remove_dead(path: &Path, address: &SocketAddrUnix) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let client = unix_socket().map_err(|error| failed(error.into()))?;
    match connect(&client, address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        // Also one that lets its clients wait.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse(path.to_owned())),
        // Another kind of socket is somebody's too.
        Err(error) => Err(failed(error.into())),
    }
}

/// Escapes what a URI does not have in its path and query.
fn percent(bytes: &[u8]) -> String {
    let escape = |&byte: &u8| {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    bytes.iter().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_server() {
        let folder = folder();
        for wanted in [0o600, 0o666] {
            let path = folder.path().join("a");
            let socket = Socket::open(&path, wanted).unwrap();
            assert_eq!(mode(&path), wanted);
            assert!(socket.accept().unwrap().is_none());
            let _client = UnixStream::connect(&path).unwrap();
            assert!(socket.accept().unwrap().is_some());
            drop(socket);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let folder = folder();
        let path = folder.path().join("a");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener of the library leaves its file");
        let socket = Socket::open(&path, 0o600).unwrap();
        let error = Socket::open(&path, 0o600).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        assert!(path.exists());
        // The one that asked whether it lives was a client for a moment.
        assert!(socket.accept().unwrap().is_some());
    }

    #[test]
    fn one_whose_clients_have_to_wait_is_alive() {
        let folder = folder();
        let path = folder.path().join("a");
        let address = SocketAddrUnix::new(&path).unwrap();
        let server = unix_socket().unwrap();
        bind(&server, &address).unwrap();
        listen(&server, 0).unwrap();
        let mut clients = Vec::new();
        let full = loop {
            let client = unix_socket().unwrap();
            if let Err(error) = connect(&client, &address) {
                break error;
            }
            clients.push(client);
        };
        assert_eq!(full, Errno::AGAIN);
        let error = Socket::open(&path, 0o600).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_folder_that_another_one_keeps_locked_is_an_error() {
        let folder = folder();
        let path = folder.path().join("a");
        let held = lock_folder(&path, Duration::ZERO).unwrap();
        let error = lock_folder(&path, Duration::from_millis(50)).unwrap_err();
        assert!(
            matches!(&error, SocketError::Locked(at) if at == folder.path()),
            "{error}"
        );
        drop(held);
        lock_folder(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn what_is_not_a_socket_stays() {
        let folder = folder();
        let path = folder.path().join("a");
        fs::write(&path, "precious").unwrap();
        let error = Socket::open(&path, 0o600).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let long = folder.path().join("x".repeat(108));
        let error = Socket::open(&long, 0o600).unwrap_err();
        assert!(matches!(error, SocketError::TooLong(_)), "{error}");
        let within = path.join("b");
        let error = Socket::open(&within, 0o600).unwrap_err();
        assert!(matches!(error, SocketError::Io { .. }), "{error}");
        let nowhere = folder.path().join("b/c");
        let error = Socket::open(&nowhere, 0o600).unwrap_err();
        assert!(matches!(error, SocketError::Io { .. }), "{error}");
    }

    /// Somebody has removed the file, and another server has its own there.
    #[test]
    fn another_ones_file_is_not_removed() {
        let folder = folder();
        let path = folder.path().join("a");
        let first = Socket::open(&path, 0o600).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Socket::open(&path, 0o600).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn the_uri_escapes_what_it_must() {
        let folder = folder();
        let path = folder.path().join("a b&c");
        let socket = Socket::open(&path, 0o600).unwrap();
        let folder = folder.path().display();
        let uri = socket.uri("disk 1/ä");
        assert_eq!(
            uri,
            format!("nbd+unix:///disk%201/%C3%A4?socket={folder}/a%20b%26c")
        );
    }
}
