//! fio on the served file itself: what the disk can do without a network.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};
use aoede_e2e::Packages;
use serde::Deserialize;
use serde_json::Value;

use super::lab::{Sample, Timing};
use super::rows::{FioJob, Work};

pub(super) fn command(
    packages: &Packages,
    work: Work,
    job: FioJob,
    file: &Path,
    timing: Timing,
) -> Result<Command> {
    let mut command = packages.command("fio")?;
    let file = file
        .to_str()
        .context("the build folder's name is no UTF-8")?;
    command.args(arguments(work, job, file, timing));
    command.arg("--output-format=json");
    Ok(command)
}

pub(super) fn arguments(work: Work, job: FioJob, file: &str, timing: Timing) -> Vec<String> {
    let mut arguments = vec![
        "--name=local".to_owned(),
        format!("--filename={file}"),
        format!("--rw={}", work.workload.name()),
        format!("--bs={}", job.block_bytes.unwrap_or(work.block_bytes)),
        format!("--ioengine={}", job.engine),
        format!("--iodepth={}", job.depth),
        format!("--direct={}", u8::from(job.direct)),
        "--norandommap".to_owned(),
        "--time_based".to_owned(),
        format!("--runtime={}s", timing.measure.as_secs()),
        format!("--ramp_time={}ms", timing.warm_up.as_millis()),
    ];
    if job.durable {
        arguments.push("--sync=dsync".to_owned());
    }
    if work.flush {
        arguments.push("--end_fsync=1".to_owned());
    }
    arguments
}

/// One direction of a job, as fio tells it.
#[derive(Debug, Deserialize)]
struct Direction {
    iops: f64,
    bw_bytes: f64,
    clat_ns: Value,
}

/// Reads what fio printed. Processor time is for a million of the row's blocks, whatever fio's own
/// are.
pub(super) fn sample(output: &str, work: Work) -> Result<Sample> {
    // Notes may stand in front of it.
    let start = output.find('{').context("fio printed no JSON")?;
    let json: Value = serde_json::from_str(output.get(start..).unwrap_or_default())
        .context("cannot understand fio")?;
    let job = json.pointer("/jobs/0").context("fio tells of no job")?;
    let side = if work.workload.writes() {
        "write"
    } else {
        "read"
    };
    let direction = job.get(side).cloned().unwrap_or_default();
    let direction: Direction =
        serde_json::from_value(direction).context("cannot understand fio")?;
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_f64);
    let percentiles = direction.clat_ns.get("percentile").cloned();
    let percentiles = percentiles.unwrap_or_default();
    // Both in percent of one core.
    let busy = number(job, "usr_cpu")
        .zip(number(job, "sys_cpu"))
        .map(|(user, system)| (user + system) / 100.0);
    Ok(Sample {
        ops_per_second: direction.iops,
        bytes_per_second: direction.bw_bytes,
        p50_us: number(&percentiles, "50.000000").unwrap_or(f64::NAN) / 1e3,
        p99_us: number(&percentiles, "99.000000").unwrap_or(f64::NAN) / 1e3,
        cpu_seconds_per_million: busy
            .map(|busy| busy * f64::from(work.block_bytes) / direction.bw_bytes * 1e6),
        retransmissions: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoede_bench::load::{Waiting, Workload};
    use std::time::Duration;

    const OUTPUT: &str = r#"note: something
{ "jobs": [ { "usr_cpu": 10.0, "sys_cpu": 40.0,
    "read": { "iops": 100000.0, "bw_bytes": 409600000,
              "clat_ns": { "percentile": { "50.000000": 87552, "99.000000": 160000 } } },
    "write": { "iops": 0.0, "bw_bytes": 0, "clat_ns": {} } } ] }"#;

    #[test]
    fn figures_are_found() {
        let work = Work {
            workload: Workload::RandRead,
            block_bytes: 4096,
            depth: 16,
            waiting: Waiting::Spin,
            flush: false,
        };
        let wanted = Sample {
            ops_per_second: 100_000.0,
            bytes_per_second: 409_600_000.0,
            p50_us: 87.552,
            p99_us: 160.0,
            cpu_seconds_per_million: Some(5.0),
            retransmissions: 0,
        };
        assert_eq!(sample(OUTPUT, work).unwrap(), wanted);
        assert!(sample("error", work).is_err());
        assert!(sample("{}", work).is_err());

        let half = Work {
            block_bytes: 2048,
            ..work
        };
        let halved = sample(OUTPUT, half).unwrap().cpu_seconds_per_million;
        assert_eq!(halved, Some(2.5), "of twice as many blocks a second");
    }

    #[test]
    fn a_job_may_have_blocks_of_its_own_and_end_with_a_flush() {
        let work = Work {
            workload: Workload::Write,
            block_bytes: 8192,
            depth: 16,
            waiting: Waiting::Spin,
            flush: true,
        };
        let job = FioJob {
            engine: "io_uring",
            depth: 4,
            direct: true,
            durable: false,
            block_bytes: Some(131_072),
        };
        let timing = Timing {
            rounds: 1,
            measure: Duration::from_secs(1),
            warm_up: Duration::ZERO,
        };
        let words = arguments(work, job, "FILE", timing);
        for word in ["--bs=131072", "--iodepth=4", "--end_fsync=1", "--rw=write"] {
            assert!(words.iter().any(|found| found == word), "{word}");
        }
        let without = Work {
            flush: false,
            ..work
        };
        let plain = FioJob {
            block_bytes: None,
            ..job
        };
        let words = arguments(without, plain, "FILE", timing);
        assert!(words.iter().any(|word| word == "--bs=8192"), "{words:?}");
        assert!(!words.iter().any(|word| word.contains("fsync")));
    }
}
