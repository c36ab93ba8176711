//! Other people's programs: Debian packages, unpacked into a private folder under `target/lab`.
//! Nothing is installed. What the machine has already is used from there, except QEMU, whose
//! packages conflict with newer ones that a machine may have.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::succeed;

/// Package, and a file in it without which it is not complete.
const NEEDED: &[(&str, &str)] = &[
    ("aoetools", "aoeping"),
    ("busybox-static", "busybox"),
    ("chromium-headless-shell", "chromium-headless-shell"),
    ("e2fsprogs", "e2fsck"),
    ("fio", "fio"),
    ("iproute2", "ip"),
    ("ipxe", "ipxe.lkrn"),
    ("libnbd-bin", "nbdfuse"),
    ("nbdkit", "nbdkit"),
    ("prometheus", "promtool"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("qemu-utils", "qemu-io"),
    ("strace", "strace"),
    ("tmux", "tmux"),
    ("util-linux", "setpriv"),
    ("vblade", "vblade"),
];

/// Depends on the kernel package of the day.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Where programs are looked for, in the private folder and then on the machine. Chromium's folder is
/// the first: what is in `usr/bin` of it is a script that looks on the machine.
const PROGRAM_FOLDERS: &[&str] = &[
    "usr/lib/chromium",
    "usr/bin",
    "usr/sbin",
    "bin",
    "sbin",
    "boot",
];

/// Where libraries are, and in the folders just below.
const LIBRARY_FOLDERS: &[&str] = &[
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib",
    "usr/lib",
];

const DOWNLOAD: Duration = Duration::from_secs(600);

/// The unpacked packages. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Packages(Arc<Unpacked>);

#[derive(Debug)]
struct Unpacked {
    root: PathBuf,
    libraries: String,
    kernel_version: String,
}

static OPEN: Mutex<Option<Packages>> = Mutex::new(None);

impl Packages {
    /// The packages; fetches what is missing, which takes a minute on a fresh machine.
    ///
    /// # Errors
    /// Not root, no Debian, or a package cannot be fetched.
    pub fn open() -> Result<Self> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packages) = open.as_ref() {
            return Ok(packages.clone());
        }
        let lab = lab_folder();
        fs::create_dir_all(&lab).with_context(|| format!("cannot make {}", lab.display()))?;
        let lock = File::create(lab.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let packages = if let Ok(packages) = Self::unpacked(&lab) {
            packages
        } else {
            fetch(&lab)?;
            Self::unpacked(&lab)
                .context("the packages were fetched and still something is missing")?
        };
        *open = Some(packages.clone());
        Ok(packages)
    }

    fn unpacked(lab: &Path) -> Result<Self> {
        let root = lab.join("root");
        ensure!(
            fs::read_to_string(lab.join("packages"))? == wanted(),
            "other packages are needed now"
        );
        let kernel_version = kernel_version(&root)?;
        let packages = Self(Arc::new(Unpacked {
            libraries: library_path(&root),
            root,
            kernel_version,
        }));
        for (_, file) in NEEDED {
            packages.tool(file)?;
        }
        Ok(packages)
    }

    /// The path of a program (or of `ipxe.lkrn`), private or the machine's own.
    ///
    /// # Errors
    /// It is in neither place.
    pub fn tool(&self, name: &str) -> Result<PathBuf> {
        let private = PROGRAM_FOLDERS
            .iter()
            .map(|folder| self.0.root.join(folder));
        let own = PROGRAM_FOLDERS
            .iter()
            .map(|folder| Path::new("/").join(folder));
        private
            .chain(own)
            .map(|folder| folder.join(name))
            .find(|path| path.exists())
            .with_context(|| format!("no {name}"))
    }

    /// A command that runs a program with the libraries it needs.
    ///
    /// # Errors
    /// As [`Packages::tool`].
    pub fn command(&self, name: &str) -> Result<Command> {
        let program = self.tool(name)?;
        let private = program.starts_with(&self.0.root);
        let mut command = Command::new(program);
        if private {
            command.env("LD_LIBRARY_PATH", &self.0.libraries);
            command.env(
                "QEMU_MODULE_DIR",
                self.0.root.join("usr/lib/x86_64-linux-gnu/qemu"),
            );
        }
        Ok(command)
    }

    /// A plugin or filter of nbdkit, such as `filters/nbdkit-cache-filter.so`.
    ///
    /// # Errors
    /// The nbdkit at hand has none of that name.
    pub fn nbdkit_module(&self, name: &str) -> Result<PathBuf> {
        let roots = [self.0.root.as_path(), Path::new("/")];
        let mut paths = roots
            .into_iter()
            .map(|root| root.join("usr/lib/x86_64-linux-gnu/nbdkit").join(name));
        paths
            .find(|path| path.exists())
            .with_context(|| format!("no {name} of nbdkit"))
    }

    /// The version of the guest's kernel, as in the names of its files.
    pub fn kernel_version(&self) -> &str {
        &self.0.kernel_version
    }

    /// The guest's kernel.
    pub fn kernel(&self) -> PathBuf {
        self.0
            .root
            .join("boot")
            .join(format!("vmlinuz-{}", self.0.kernel_version))
    }

    /// The folder of the guest's kernel modules.
    pub fn kernel_modules(&self) -> PathBuf {
        self.0.root.join("lib/modules").join(&self.0.kernel_version)
    }

    /// The folders in which QEMU finds its firmware.
    pub fn firmware(&self) -> impl Iterator<Item = PathBuf> + '_ {
        ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"]
            .into_iter()
            .flat_map(|folder| [self.0.root.join(folder), Path::new("/").join(folder)])
            .filter(|folder| folder.exists())
    }

    /// The path under which the dynamic loader finds the private libraries.
    pub(crate) fn libraries(&self) -> &str {
        &self.0.libraries
    }
}

/// The build folder of the workspace.
pub fn target_folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let workspace = workspace.canonicalize().unwrap_or(workspace);
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), |folder| workspace.join(folder))
}

/// Where the lab keeps what it fetched and built.
pub fn lab_folder() -> PathBuf {
    target_folder().join("lab")
}

fn wanted() -> String {
    let names: Vec<&str> = NEEDED
        .iter()
        .map(|(package, _)| *package)
        .chain([KERNEL])
        .collect();
    names.join("\n")
}

fn kernel_version(root: &Path) -> Result<String> {
    let boot = fs::read_dir(root.join("boot"))?;
    let names = boot
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()))
        .max()
        .context("no kernel unpacked")
}

fn library_path(root: &Path) -> String {
    let mut folders = Vec::new();
    for folder in LIBRARY_FOLDERS.iter().map(|folder| root.join(folder)) {
        let below = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        folders.extend(below.filter(|path| path.is_dir() && holds_library(path)));
        folders.push(folder);
    }
    let names: Vec<String> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    names.join(":")
}

fn holds_library(folder: &Path) -> bool {
    let mut names = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name());
    names.any(|name| {
        name.to_str()
            .is_some_and(|name| name.starts_with("lib") && name.contains(".so"))
    })
}

/// Fetches and unpacks everything anew.
fn fetch(lab: &Path) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the test bench needs root to fetch Debian packages"
    );
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "the test bench fetches its tools with apt-get and needs Debian 12 or a relative"
    );
    eprintln!(
        "lab: fetching packages into {}: {}",
        lab.display(),
        wanted().replace('\n', " ")
    );
    let root = lab.join("root");
    let archives = lab.join("apt/archives");
    for folder in [&root, &archives] {
        remove_folder(folder)?;
    }
    fs::create_dir_all(archives.join("partial"))?;
    fs::create_dir_all(&root)?;
    if download(lab, &archives).is_err() {
        eprintln!(
            "lab: that failed; refreshing the package lists (apt-get update) and trying again"
        );
        succeed(None, apt_command(&["update"]), DOWNLOAD)?;
        download(lab, &archives)?;
    }
    let mut count = 0;
    for entry in fs::read_dir(&archives)? {
        let archive = entry?.path();
        if archive
            .extension()
            .is_some_and(|extension| extension == "deb")
        {
            let mut command = Command::new("dpkg");
            command.arg("-x").arg(&archive).arg(&root);
            succeed(None, command, DOWNLOAD)?;
            count += 1;
        }
    }
    remove_folder(&lab.join("apt"))?;
    fs::write(lab.join("packages"), wanted())?;
    eprintln!("lab: {count} packages unpacked, nothing installed");
    Ok(())
}

fn download(lab: &Path, archives: &Path) -> Result<()> {
    // What apt believes to be installed decides which dependencies come along. Without the QEMU
    // packages in that picture nothing conflicts; if the picture is then inconsistent, take all.
    let status = lab.join("apt/status");
    let installed = fs::read_to_string("/var/lib/dpkg/status")?;
    let without_qemu: Vec<&str> = installed
        .split("\n\n")
        .filter(|paragraph| !paragraph.starts_with("Package: qemu"))
        .collect();
    let mut result = Ok(String::new());
    for picture in [without_qemu.join("\n\n"), String::new()] {
        fs::write(&status, picture)?;
        let mut command = apt_command(&[
            "--download-only",
            "--yes",
            "--no-install-recommends",
            "--allow-remove-essential",
        ]);
        command
            .arg("-o")
            .arg(format!("Dir::State::status={}", status.display()));
        command
            .arg("-o")
            .arg(format!("Dir::Cache={}", lab.join("apt").display()));
        command
            .args(["-o", "Debug::NoLocking=true", "install"])
            .args(NEEDED.iter().map(|(package, _)| package));
        result = succeed(None, command, DOWNLOAD);
        if result.is_ok() {
            break;
        }
    }
    result?;
    let mut command = Command::new("apt-cache");
    command.args(["depends", KERNEL]);
    let depends = succeed(None, command, DOWNLOAD)?;
    let Some(package) = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
    else {
        bail!("{KERNEL} does not say which kernel it stands for:\n{depends}");
    };
    let mut command = apt_command(&["download", &format!("linux-image-{package}")]);
    command.current_dir(archives);
    succeed(None, command, DOWNLOAD).map(drop)
}

fn apt_command(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    command
        .args(["-q", "-o", "APT::Sandbox::User=root"])
        .args(arguments);
    command
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
