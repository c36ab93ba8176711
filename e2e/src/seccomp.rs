//! Processes from which system calls are withheld, as containers and hardened kernels do it.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use libc::{c_long, sock_filter, sock_fprog};

/// `SECCOMP_MODE_FILTER` of `linux/seccomp.h`.
const FILTER: libc::c_ulong = 2;

/// Makes a command start a program that gets "permission denied" from these system calls.
pub(crate) fn withhold(command: &mut Command, calls: &[c_long]) {
    let mut program = program(calls);
    let in_child = move || {
        let filter = sock_fprog {
            len: u16::try_from(program.len()).unwrap_or(u16::MAX),
            filter: program.as_mut_ptr(),
        };
        // SAFETY: this takes numbers only.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel copies the program that `filter` describes during the call.
        if unsafe { libc::prctl(libc::PR_SET_SECCOMP, FILTER, &raw const filter) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls without allocating or
    // locking, on memory it keeps alive itself.
    unsafe { command.pre_exec(in_child) };
}

/// Classic BPF on `struct seccomp_data`, which begins with the number of the system call.
fn program(calls: &[c_long]) -> Vec<sock_filter> {
    let instruction = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    let (load, jump_equal, give_back) = (0x20, 0x15, 0x06);
    let mut program = vec![instruction(load, 0, 0)];
    for (left, &call) in (1..=calls.len()).rev().zip(calls) {
        let to_the_last = u8::try_from(left).unwrap_or(u8::MAX);
        let number = u32::try_from(call).unwrap_or(u32::MAX);
        program.push(instruction(jump_equal, to_the_last, number));
    }
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
    program.push(instruction(give_back, 0, libc::SECCOMP_RET_ALLOW));
    program.push(instruction(give_back, 0, refuse));
    program
}
