//! A private network for this process, for demonstrations and tests that need no root.
//!
//! Linux: `unshare(2)`, `user_namespaces(7)`, `network_namespaces(7)`.
#![deny(unsafe_code)]

use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use std::{fs, io};

/// What [`enter_private`] had to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy {
    /// A network namespace; the process was privileged.
    Network,
    /// A user namespace around it, too.
    UserAndNetwork,
}

/// Why there is no private network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// Ordinary users may not make namespaces on this host.
    #[error(
        "this host lets ordinary users make no network of their own ({source}): run as root, or \
         allow it with `sysctl -w user.max_user_namespaces=10000`, and where they exist \
         `sysctl -w kernel.unprivileged_userns_clone=1` or \
         `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    )]
    Forbidden {
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot {operation}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Moves this process into a network namespace of its own, with no interface but a loopback that
/// is down. Without the right to do so, first into a user namespace in which it has that right and
/// the user's id is 0.
///
/// Both end with the process. To be called before the process starts threads: those stay outside,
/// and the kernel refuses the user namespace.
///
/// # Errors
/// See [`NamespaceError`].
pub fn enter_private() -> Result<Privacy, NamespaceError> {
    match unshare(UnshareFlags::NEWNET) {
        Ok(()) => return Ok(Privacy::Network),
        Err(Errno::PERM) => {}
        Err(error) => return Err(failed("make a network namespace")(error.into())),
    }
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET).map_err(|error| match error {
        // Too many is how the limit 0 shows.
        Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::USERS => NamespaceError::Forbidden {
            source: error.into(),
        },
        _ => failed("make a user namespace")(error.into()),
    })?;
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {} 1", user.as_raw())),
        ("gid_map", format!("0 {} 1", group.as_raw())),
    ];
    for (file, text) in maps {
        fs::write(format!("/proc/self/{file}"), text).map_err(
            |source| match Errno::from_io_error(&source) {
                Some(Errno::PERM | Errno::ACCESS) => NamespaceError::Forbidden { source },
                _ => failed("map the user into a namespace")(source),
            },
        )?;
    }
    Ok(Privacy::UserAndNetwork)
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> NamespaceError {
    move |source| NamespaceError::Io { operation, source }
}

#[expect(unsafe_code, reason = "the call is unsafe for the sake of one flag")]
fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: only unsharing the table of file descriptors can take a descriptor from a thread
    // that relies on it, and neither caller passes that flag.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
