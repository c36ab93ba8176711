//! Temporary folders that go away, also those of an earlier run that was killed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

const PREFIX: &str = "aoede-e2e-";

/// A temporary folder, readable by everybody, removed when dropped.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// Makes an empty folder, and removes those whose process has died without doing so.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new() -> Result<Self> {
        remove_stale();
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", process::id()))
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .context("cannot make a temporary folder")?;
        Ok(Self(folder))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of `name` inside.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Makes a sparse file of zeros.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn image(&self, name: &str, len_bytes: u64) -> Result<PathBuf> {
        let path = self.join(name);
        let file =
            File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        file.set_len(len_bytes)
            .with_context(|| format!("cannot size {}", path.display()))?;
        Ok(path)
    }
}

/// Removes folders of processes that are gone.
fn remove_stale() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            // Another test may be removing it at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
