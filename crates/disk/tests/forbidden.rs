//! Kernels and containers that forbid an interface: the engine cannot be made, and says why.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]
#![cfg(target_os = "linux")]

mod common;

use std::io::{self, ErrorKind};

use aoede_disk::{AioEngine, IoMode, OpKind, UringEngine};
use libc::{c_long, sock_filter, sock_fprog};

use common::{AnyEngine, create, folders, op, pool, run};

/// Runs `test` in a thread that gets `errno` from these system calls.
fn without<T: Send>(calls: &[c_long], errno: i32, test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            forbid(calls, errno).unwrap();
            test()
        });
        confined.join().unwrap()
    })
}

/// Installs a filter for this thread and, as there is no way back, for all its life.
fn forbid(calls: &[c_long], errno: i32) -> io::Result<()> {
    let instruction = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    let (load, jump_equal, give_back) = (0x20, 0x15, 0x06);
    let mut program = vec![instruction(load, 0, 0)]; // the number of the system call
    for (at, &call) in calls.iter().enumerate() {
        let to_the_last = u8::try_from(calls.len() - at).unwrap();
        let number = u32::try_from(call).unwrap();
        program.push(instruction(jump_equal, to_the_last, number));
    }
    program.push(instruction(give_back, 0, libc::SECCOMP_RET_ALLOW));
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
    program.push(instruction(give_back, 0, refuse));
    let program = sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: this takes numbers only.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel copies the program, which `program` describes, during the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, 2, &raw const program) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[test]
fn io_uring_is_not_made_where_any_part_of_it_is_forbidden() {
    if UringEngine::new(2, &pool(1)).is_err() {
        eprintln!("no io_uring here");
        return;
    }
    for (call, errno, kind) in [
        (
            libc::SYS_io_uring_setup,
            libc::EPERM,
            ErrorKind::PermissionDenied,
        ),
        (
            libc::SYS_io_uring_setup,
            libc::ENOSYS,
            ErrorKind::Unsupported,
        ),
        (
            libc::SYS_io_uring_enter,
            libc::EPERM,
            ErrorKind::PermissionDenied,
        ),
        (
            libc::SYS_io_uring_enter,
            libc::ENOSYS,
            ErrorKind::Unsupported,
        ),
        (
            libc::SYS_io_uring_register,
            libc::EPERM,
            ErrorKind::PermissionDenied,
        ),
    ] {
        let found = without(&[call], errno, || {
            UringEngine::new(2, &pool(1))
                .map(drop)
                .map_err(|error| error.kind())
        });
        assert_eq!(found, Err(kind), "{call} {errno}");
    }
}

#[test]
fn linux_aio_is_not_made_where_any_part_of_it_is_forbidden() {
    if AioEngine::new(2).is_err() {
        eprintln!("no Linux AIO here");
        return;
    }
    for (call, errno, kind) in [
        (libc::SYS_io_setup, libc::ENOSYS, ErrorKind::Unsupported),
        (libc::SYS_io_setup, libc::EPERM, ErrorKind::PermissionDenied),
        (
            libc::SYS_io_submit,
            libc::EPERM,
            ErrorKind::PermissionDenied,
        ),
    ] {
        let found = without(&[call], errno, || {
            AioEngine::new(2).map(drop).map_err(|error| error.kind())
        });
        assert_eq!(found, Err(kind), "{call} {errno}");
    }
}

/// What `--engine auto` then turns to.
#[test]
fn without_io_uring_linux_aio_works() {
    let io_uring = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];
    without(&io_uring, libc::EPERM, || {
        let pool = pool(1);
        assert!(UringEngine::new(1, &pool).is_err());
        let Ok(engine) = AioEngine::new(1) else {
            eprintln!("no Linux AIO here");
            return;
        };
        let mut engine: AnyEngine = Box::new(engine);
        let folder = &folders()[0];
        let backing = create(&folder.path().join("disk"), 1 << 20, IoMode::Direct);
        let file = engine.attach(&backing).unwrap();
        for kind in [OpKind::Write { durable: true }, OpKind::Read] {
            let done = run(&mut engine, file, op(kind, 0, pool.take()));
            assert_eq!(done.result, Ok(4096));
        }
    });
}
