//! Where and on what the figures came about.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use serde::Serialize;

/// How long the cores are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The machine and the state of the sources.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) kernel: String,
    pub(super) date: String,
    pub(super) commit: String,
}

impl Machine {
    pub(super) fn look() -> Self {
        let uname = rustix::system::uname();
        Self {
            cpu: cpu(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            cores: thread::available_parallelism().map_or(1, Into::into),
            kernel: format!(
                "{} {}",
                uname.sysname().to_string_lossy(),
                // Who built it is of no use to anyone else.
                uname
                    .release()
                    .to_string_lossy()
                    .split('-')
                    .next()
                    .unwrap_or_default()
            ),
            date: today(),
            commit: commit(&workspace().join(".git")).unwrap_or_else(unknown),
        }
    }
}

/// How busy the cores are before anything is measured, from 0 to 1.
pub(super) fn busy() -> f64 {
    let look = || fs::read_to_string("/proc/stat").unwrap_or_default();
    let before = look();
    thread::sleep(LOOK);
    busy_between(&before, &look()).unwrap_or(0.0)
}

/// The first line of `/proc/stat`: of its numbers the fourth and fifth are time without work.
fn busy_between(before: &str, after: &str) -> Option<f64> {
    let times = |text: &str| -> Option<(f64, f64)> {
        let times: Vec<f64> = text
            .lines()
            .next()?
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|time| time.parse().ok())
            .collect();
        let idle = times.get(3..5)?.iter().sum();
        Some((idle, times.iter().sum()))
    };
    let ((idle_before, before), (idle_after, after)) = (times(before)?, times(after)?);
    (after > before).then(|| 1.0 - (idle_after - idle_before) / (after - before))
}

/// The root of the sources.
pub(super) fn workspace() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    path.canonicalize().unwrap_or(path)
}

fn cpu(cpuinfo: &str) -> String {
    let names = ["model name", "Model", "cpu model", "machine"];
    names
        .into_iter()
        .find_map(|name| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find_map(|(field, value)| (field.trim() == name).then(|| value.trim().to_owned()))
        })
        .unwrap_or_else(unknown)
}

fn today() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    output.map_or_else(
        |_| unknown(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// The commit that is checked out. Read by hand: git itself refuses a folder of another user,
/// which is what root finds here.
fn commit(git: &Path) -> Option<String> {
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    let id = match head.trim().strip_prefix("ref: ") {
        None => head.trim().to_owned(),
        Some(name) => fs::read_to_string(git.join(name))
            .ok()
            .map(|id| id.trim().to_owned())
            .or_else(|| packed(&fs::read_to_string(git.join("packed-refs")).ok()?, name))?,
    };
    id.get(..12).map(str::to_owned)
}

fn packed(references: &str, name: &str) -> Option<String> {
    references
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(id, reference)| (reference == name).then(|| id.to_owned()))
}

fn unknown() -> String {
    "unknown".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_names_on_different_architectures() {
        assert_eq!(cpu("processor\t: 0\nmodel name\t: A B\n"), "A B");
        assert_eq!(
            cpu("processor\t: 0\nModel\t\t: Raspberry Pi\n"),
            "Raspberry Pi"
        );
        assert_eq!(cpu(""), "unknown");
    }

    #[test]
    fn what_is_not_idle_or_waiting_for_a_disk_is_busy() {
        let before = "cpu  100 0 50 1000 200 0 0 0 0 0\ncpu0 1";
        let after = "cpu  110 0 60 1070 210 0 0 0 0 0\ncpu0 1";
        let busy = busy_between(before, after).unwrap();
        assert!((busy - 0.2).abs() < 1e-9, "{busy}");
        assert_eq!(busy_between(before, before), None);
        assert_eq!(busy_between("", "cpu"), None);
    }

    #[test]
    fn packed_references_are_found() {
        let references = "# pack-refs with: peeled\n0123 refs/heads/a\n4567 refs/heads/main\n";
        assert_eq!(
            packed(references, "refs/heads/main"),
            Some("4567".to_owned())
        );
        assert_eq!(packed(references, "refs/heads/none"), None);
    }
}
