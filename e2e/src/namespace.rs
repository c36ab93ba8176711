//! Hosts: network namespaces without a name. The only reference to one is a file descriptor here
//! and in the processes inside, so the kernel removes it, and every interface in it, with the last
//! of them, whatever becomes of the test. The same goes for mounts of its own, where a host has
//! them.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    process::{self, Command},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{Packages, succeed};

/// A host of its own, as far as the network is concerned. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Namespace {
    descriptor: Arc<OwnedFd>,
    mounts: Option<Arc<OwnedFd>>,
    ip: PathBuf,
}

impl Namespace {
    /// Makes a host without any interface but `lo`.
    ///
    /// # Errors
    /// Not root, or the kernel has no network namespaces.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<OwnedFd> {
            // SAFETY: the thread ends after the next line, so nobody else shares what it gave up;
            // NEWNET touches neither descriptors nor memory.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .context("cannot make a network namespace (needs root)")?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        });
        let descriptor = made.join().map_err(|_| anyhow!("the thread died"))??;
        let host = Self {
            descriptor: Arc::new(descriptor),
            mounts: None,
            ip: Packages::open()?.tool("ip")?,
        };
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// Two hosts with a cable between them: interface `tgt0` here, `ini0` there, both with `mtu`.
    ///
    /// # Errors
    /// As [`Namespace::new`] and [`Namespace::veth`].
    pub fn pair(mtu: u32) -> Result<(Self, Self)> {
        let (target, initiator) = (Self::new()?, Self::new()?);
        target.veth("tgt0", &initiator, "ini0", mtu)?;
        Ok((target, initiator))
    }

    /// The same host with mounts of its own: what processes mount that are started here from now on
    /// is seen by nobody else and goes with the last of them.
    ///
    /// # Errors
    /// Not root.
    pub fn with_own_mounts(&self) -> Result<Self> {
        let made = thread::spawn(|| -> Result<OwnedFd> {
            // SAFETY: the thread ends soon and calls nothing that depends on paths but the two
            // lines below; NEWNS touches neither descriptors nor memory.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
                .context("cannot make a mount namespace (needs root)")?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).context("cannot keep mounts to ourselves")?;
            Ok(File::open("/proc/thread-self/ns/mnt")?.into())
        });
        let mounts = made.join().map_err(|_| anyhow!("the thread died"))??;
        Ok(Self {
            mounts: Some(Arc::new(mounts)),
            ..self.clone()
        })
    }

    /// A cable: `name` here, `peer_name` in `peer` (which may be this host), both up.
    ///
    /// # Errors
    /// A name is taken.
    pub fn veth(&self, name: &str, peer: &Self, peer_name: &str, mtu: u32) -> Result<()> {
        let there = peer.path();
        self.ip(&format!(
            "link add {name} mtu {mtu} type veth peer name {peer_name} mtu {mtu} netns {}",
            there.display()
        ))?;
        self.ip(&format!("link set {name} up"))?;
        peer.ip(&format!("link set {peer_name} up"))?;
        Ok(())
    }

    /// An interface whose other end is a program: a guest's network card.
    ///
    /// # Errors
    /// The name is taken.
    pub fn tap(&self, name: &str, mtu: u32) -> Result<()> {
        self.ip(&format!("tuntap add {name} mode tap"))?;
        self.ip(&format!("link set {name} mtu {mtu} up")).map(drop)
    }

    /// A switch with the named interfaces as its ports.
    ///
    /// # Errors
    /// The name is taken or a port does not exist.
    pub fn bridge(&self, name: &str, ports: &[&str], mtu: u32) -> Result<()> {
        self.ip(&format!("link add {name} type bridge"))?;
        for port in ports {
            self.ip(&format!("link set {port} master {name}"))?;
        }
        self.ip(&format!("link set {name} mtu {mtu} up")).map(drop)
    }

    /// Runs `ip` with these arguments, separated by spaces, and returns its output.
    ///
    /// # Errors
    /// It fails; the message has its words.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new(&self.ip);
        command.args(arguments.split_whitespace());
        succeed(Some(self), command, Duration::from_secs(10))
    }

    /// The MAC address of an interface.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let text = self.ip(&format!("-br link show dev {interface}"))?;
        text.split_whitespace()
            .find_map(parse_mac)
            .with_context(|| format!("no MAC address in: {text}"))
    }

    /// Calls `work` on a thread that is on this host: sockets it opens belong here.
    ///
    /// # Errors
    /// The thread cannot move there, or `work` fails.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(
                    self.descriptor.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )?;
                work()
            });
            inside
                .join()
                .map_err(|_| anyhow!("the thread inside the namespace died"))?
        })
    }

    /// A path by which `ip` and `nsenter` find it while this process lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.descriptor.as_raw_fd()).into()
    }

    /// The namespaces that a child moves into.
    pub(crate) fn descriptors(&self) -> Vec<(Arc<OwnedFd>, LinkNameSpaceType)> {
        let network = (Arc::clone(&self.descriptor), LinkNameSpaceType::Network);
        let mounts = self.mounts.clone();
        std::iter::once(network)
            .chain(mounts.map(|mounts| (mounts, LinkNameSpaceType::Mount)))
            .collect()
    }
}

fn parse_mac(word: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = word.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}
