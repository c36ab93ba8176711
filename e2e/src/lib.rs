//! The test bench: two hosts, real initiators and other targets on one machine.
//!
//! A test takes the pieces it needs and tells a story with them:
//!
//! * [`Packages`]: other people's programs (QEMU, a Linux kernel, iPXE, fio, vblade), unpacked
//!   privately; nothing is installed.
//! * [`Namespace`]: a host's network, with [`Namespace::veth`], [`Namespace::tap`] and
//!   [`Namespace::bridge`].
//! * [`Export`] and [`TargetProcess`]: a running target, ours or vblade ([`Maker`]).
//! * [`Attachment`]: a running `aoede attach`, for programs that speak NBD.
//! * [`Guest`]: a Linux machine under emulation with the kernel's own AoE driver.
//! * [`Machine`]: a whole system with systemd, of this machine's own files.
//! * [`Ipxe`]: a machine that boots from the network.
//! * [`Nic`] and [`aoe`]: frames made by hand.
//! * [`forwarder`]: somebody in the middle of a cable, who holds, loses, doubles and damages frames.
//! * [`crash`]: targets that are killed and disks whose power is cut, and what must be left.
//! * [`Process`], [`run`], [`Scratch`]: children that die with their guard, folders that go away.
//!
//! Everything is owned by a guard and ends with it. Namespaces have no name and die with their
//! last file descriptor, children are killed when their parent dies: even a killed test run leaves
//! no interface, process or mount. Waiting is always for a condition with a deadline.
//!
//! All of it needs root. What it deliberately does not do: use the project's own crates. The
//! frames here are written from the specification a second time, so that a mistake in the codec
//! cannot hide itself.

pub mod aoe;
mod attachment;
pub mod corpus;
pub mod crash;
pub mod forwarder;
mod guest;
mod initramfs;
mod ipxe;
mod machine;
mod namespace;
mod packages;
mod packet;
mod process;
mod random;
mod scratch;
mod seccomp;
mod target;

pub use attachment::Attachment;
pub use guest::{Guest, GuestOptions, Job};
pub use ipxe::{Ipxe, boot_image};
pub use machine::Machine;
pub use namespace::Namespace;
pub use packages::{Packages, lab_folder, target_folder};
pub use packet::Nic;
pub use process::{Finished, Log, Process, run, succeed, wait_until};
pub use random::Random;
pub use scratch::Scratch;
pub use target::{Export, Maker, TargetProcess, aoede_binary, as_nobody, public_copy};
