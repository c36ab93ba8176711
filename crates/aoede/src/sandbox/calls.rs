//! The system calls that the daemon makes, and a filter for all others (seccomp(2)).
//!
//! Those that it makes all the time stand in [`ALLOWED`], without a look at their arguments: for
//! these the kernel (5.11 and newer) keeps the answer, and the filter costs nothing.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use super::{Calls, Error};

/// Whatever their arguments are.
const ALLOWED: &[c_long] = &[
    // Files: images, shadows, the state folder, the configuration, /proc and /sys.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fadvise64,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    libc::SYS_getcwd,
    libc::SYS_umask,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Engines.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_io_getevents,
    libc::SYS_io_destroy,
    // Sockets, once they are there.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    // Waiting.
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_signalfd4,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    // Threads and signals.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Who and where it is.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_capget,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getrandom,
    // Refused with another error: see `ERRNO_OF_CLONE3`.
    libc::SYS_clone3,
];

/// Older forms of the same calls, which C libraries use where they are.
#[cfg(target_arch = "x86_64")]
const OLD: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_fstat,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
/// `renameat` only, for which `libc` has no name here (asm-generic/unistd.h).
#[cfg(target_arch = "aarch64")]
const OLD: &[c_long] = &[38];

/// `ioctl`: is it a terminal, shall it block, how large are its sectors.
const IOCTLS: &[u64] = &[
    0x5401,      // TCGETS
    0x802C_542A, // TCGETS2
    0x5421,      // FIONBIO
    0x1268,      // BLKSSZGET
    0x127B,      // BLKPBSZGET
];

/// Families of sockets, and protocols of that family where only some are for us.
const SOCKETS: &[(libc::c_int, Option<libc::c_int>)] = &[
    (libc::AF_PACKET, None),
    (libc::AF_UNIX, None),
    (libc::AF_INET, None),
    (libc::AF_INET6, None),
    (libc::AF_NETLINK, Some(libc::NETLINK_ROUTE)),
    (libc::AF_NETLINK, Some(libc::NETLINK_KOBJECT_UEVENT)),
];

/// `prctl`: the names of threads and of memory.
const PRCTLS: &[libc::c_int] = &[libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];

/// The flags of `clone3` lie in memory, where no filter sees them. C libraries use `clone` when
/// there is no such call.
const ERRNO_OF_CLONE3: u32 = libc::ENOSYS.unsigned_abs();

/// Refuses all other system calls to this thread and those that it starts, for good.
pub(super) fn filter() -> Result<Calls, Error> {
    let programs = programs(std::process::id()).map_err(|error| Error::Filter(error.into()))?;
    for program in programs {
        match apply_filter_all_threads(&program) {
            Ok(()) => {}
            Err(seccompiler::Error::Seccomp(error)) if is_without_seccomp(&error) => {
                return Ok(Calls::UnknownToKernel);
            }
            Err(seccompiler::Error::Prctl(source) | seccompiler::Error::Seccomp(source)) => {
                return Err(Error::Refused {
                    operation: "filter system calls",
                    source,
                });
            }
            Err(error) => return Err(Error::Filter(error.into())),
        }
    }
    Ok(Calls::Filtered)
}

/// `EINVAL` is for a kernel that has the call, and no filters.
fn is_without_seccomp(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

/// Two filters: a filter has one way to refuse. The stricter answer of the two counts. The one that
/// refuses more comes last, because it refuses filters, too.
fn programs(own_id: u32) -> Result<[BpfProgram; 2], BackendError> {
    let allowed = SeccompFilter::new(
        rules(own_id)?,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
        ARCHITECTURE,
    )?;
    let clone3 = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(ERRNO_OF_CLONE3),
        ARCHITECTURE,
    )?;
    Ok([clone3.try_into()?, allowed.try_into()?])
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// For each call the rules of which one has to fit; none at all allow it always.
fn rules(own_id: u32) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let mut rules = BTreeMap::new();
    for &call in ALLOWED.iter().chain(OLD) {
        rules.insert(call, Vec::new());
    }
    let bits = |value: libc::c_int| u64::from(value.cast_unsigned());
    let first = |value: u64| rule(&[SeccompCondition::new(0, Dword, Eq, value)?]);

    let mut sockets = Vec::new();
    for &(family, protocol) in SOCKETS {
        let mut conditions = vec![SeccompCondition::new(0, Dword, Eq, bits(family))?];
        if let Some(protocol) = protocol {
            conditions.push(SeccompCondition::new(2, Dword, Eq, bits(protocol))?);
        }
        sockets.push(rule(&conditions)?);
    }
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(libc::SYS_socketpair, vec![first(bits(libc::AF_UNIX))?]);

    let mut ioctls = Vec::new();
    for &request in IOCTLS {
        ioctls.push(rule(&[SeccompCondition::new(1, Dword, Eq, request)?])?);
    }
    rules.insert(libc::SYS_ioctl, ioctls);
    let prctls: Result<Vec<_>, _> = PRCTLS.iter().map(|&what| first(bits(what))).collect();
    rules.insert(libc::SYS_prctl, prctls?);

    // Memory, but none that is executed.
    let not_executed = MaskedEq(bits(libc::PROT_EXEC));
    let plain = SeccompCondition::new(2, Dword, not_executed, 0)?;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(std::slice::from_ref(&plain))?]);
    }

    // Threads, but no processes.
    let is_thread = MaskedEq(bits(libc::CLONE_THREAD));
    let thread = SeccompCondition::new(0, Dword, is_thread, bits(libc::CLONE_THREAD))?;
    rules.insert(libc::SYS_clone, vec![rule(&[thread])?]);

    // Signals to itself: this is how a program aborts.
    rules.insert(libc::SYS_tgkill, vec![first(u64::from(own_id))?]);

    // Its limits can be read.
    let nothing_new = SeccompCondition::new(2, Qword, Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![rule(&[nothing_new])?]);
    Ok(rules)
}

/// All of these at once.
fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}
