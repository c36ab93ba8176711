//! The control socket's place in the file system.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use tokio::net::{UnixListener, UnixSocket};
use tracing::warn;

use crate::control::group_id;

/// Connections that wait to be taken.
const BACKLOG: u32 = 128;

/// A control socket that listens. Its file goes with it.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    pub(super) place: Place,
}

impl Socket {
    /// Makes the socket, usable by this process' user, and by the members of a group if one is
    /// given. One that nobody listens at any more is replaced, and its folder is made if need be.
    /// Belongs into a tokio runtime.
    ///
    /// # Errors
    /// Somebody listens there, or what stands there is no socket; there is no such group; what the
    /// kernel said.
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let group = group
            .map(|name| group_id(name).ok_or_else(|| SocketError::NoGroup(name.to_owned())))
            .transpose()?;
        let failed = |what| {
            move |error| SocketError::Failed {
                path: path.to_owned(),
                what,
                error,
            }
        };
        make_room(path)?;
        let socket = UnixSocket::new_stream().map_err(failed("make"))?;
        // The file gets what the socket has: there is no moment in which others may use it.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .map_err(failed("protect"))?;
        socket.bind(path).map_err(failed("make"))?;
        let place = Place::of(path).map_err(failed("find"))?;
        if let Some(group) = group {
            chown(path, None, Some(group)).map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => SocketError::NoRight(path.to_owned()),
                _ => failed("give the group")(error),
            })?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660))
                .map_err(failed("open to the group"))?;
        }
        let listener = socket.listen(BACKLOG).map_err(failed("listen at"))?;
        Ok(Self { listener, place })
    }

    /// As [`Self::bind`], in the place of a socket that may listen: that one is without a name from
    /// then on, and goes on with what it has.
    ///
    /// # Errors
    /// As there; the other is as it was.
    pub fn bind_over(path: &Path, group: Option<&str>) -> Result<Self, SocketError> {
        let mut beside = path.to_owned().into_os_string();
        beside.push(".new");
        let mut socket = Self::bind(Path::new(&beside), group)?;
        fs::rename(&beside, path).map_err(|error| SocketError::Failed {
            path: path.to_owned(),
            what: "rename",
            error,
        })?;
        path.clone_into(&mut socket.place.path);
        Ok(socket)
    }
}

/// Removes what an ended daemon has left.
fn make_room(path: &Path) -> Result<(), SocketError> {
    let failed = |error| SocketError::Failed {
        path: path.to_owned(),
        what: "make",
        error,
    };
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or_else(|| Path::new("/"));
            return fs::create_dir_all(folder).map_err(failed);
        }
        found => found.map_err(failed)?,
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
        Ok(stream) => Err(SocketError::InUse {
            path: path.to_owned(),
            by: peer(&stream),
        }),
    }
}

/// ` by process 7`, if the kernel tells.
fn peer(stream: &UnixStream) -> String {
    let credentials = rustix::net::sockopt::socket_peercred(stream);
    credentials.map_or_else(
        |_| String::new(),
        |peer| format!(" by process {}", peer.pid.as_raw_nonzero()),
    )
}

/// The file of a socket, removed when it is dropped, unless another has taken its place.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    identity: (u64, u64),
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Drop for Place {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A daemon listens there.
    #[error(
        "the control socket {} is in use{by}; end that daemon first, or set `socket` in [control] to another path", path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
        /// ` by process 7`, if that is known.
        by: String,
    },
    /// Something else stands there.
    #[error("{} exists and is no socket; remove it, or set `socket` in [control] to another path", .0.display())]
    NoSocket(PathBuf),
    /// The group is unknown.
    #[error(
        "/etc/group has no group {0:?}; make it (groupadd --system {0}), or take out `group` in [control]"
    )]
    NoGroup(String),
    /// The group may not be set, or not any more.
    #[error(
        "the control socket {} cannot be given to its group: that takes CAP_CHOWN, which is given up after the start; restart the daemon to have it", .0.display()
    )]
    NoRight(PathBuf),
    /// Something that the kernel refused.
    #[error("cannot {what} the control socket {}: {error}", path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// Which step.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}
