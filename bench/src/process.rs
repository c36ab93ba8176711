//! Which core a process runs on, and how much of it was used.

use std::fs;

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Keeps this thread, and those it starts later, on one core.
///
/// # Errors
/// There is no such core, or it is not allowed here.
pub fn pin(core: usize) -> anyhow::Result<()> {
    let mut cores = CpuSet::new();
    anyhow::ensure!(core < CpuSet::MAX_CPU, "there is no core {core}");
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("cannot run on core {core}"))
}

/// Seconds of processor time that a process has used so far with all its threads, in user mode and
/// in the kernel, to the hundredth. Interrupt work that the kernel did on its back is part of it.
///
/// # Errors
/// It has ended.
pub fn cpu_seconds(id: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))
        .with_context(|| format!("process {id} has ended"))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("cannot understand: {stat}"))?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Seconds that a core has worked so far, whoever for: all but idleness. Receiving frames is part of
/// it, which no process need be charged for.
///
/// # Errors
/// There is no such core.
pub fn core_seconds(core: usize) -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("no /proc/stat")?;
    let ticks = core_ticks(&stat, core).with_context(|| format!("there is no core {core}"))?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The times of a core in proc(5) are user, nice, system, idle, iowait, irq and softirq; then those
/// of others.
fn core_ticks(stat: &str, core: usize) -> Option<u64> {
    let name = format!("cpu{core}");
    let line = stat
        .lines()
        .find(|line| line.split_whitespace().next() == Some(&name))?;
    let times = line.split_whitespace().skip(1).take(7).enumerate();
    times
        .filter(|(at, _)| !matches!(at, 3 | 4))
        .map(|(_, time)| time.parse::<u64>().ok())
        .sum()
}

/// Fields 14 and 15 of proc(5), utime and stime, counted from behind the name (field 2), which may
/// contain anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_behind_any_name() {
        let stat = "77 (a) b) (c) R 1 77 77 34816 77 4194304 103 0 7 0 120 34 5 6 20 0 2 0 99 1";
        assert_eq!(cpu_ticks(stat), Some(154));
        assert_eq!(cpu_ticks("77 (a) R 1 2 3"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn a_core_works_in_all_but_two_columns() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 4 1000 1000 8 16 500 0 0\ncpu10 7 0 0 0 0 0 0";
        assert_eq!(core_ticks(stat, 1), Some(31));
        assert_eq!(core_ticks(stat, 10), Some(7));
        assert_eq!(core_ticks(stat, 2), None);
    }

    #[test]
    fn work_costs_time() {
        let before = cpu_seconds(std::process::id()).unwrap();
        let mut state = 1_u64;
        while cpu_seconds(std::process::id()).unwrap() < before + 0.03 {
            for _ in 0..10_000 {
                state = std::hint::black_box(state.wrapping_mul(3));
            }
        }
        assert!(cpu_seconds(u32::MAX).is_err());
    }
}
