//! `cargo xtask deb`: the Debian package, of what `[package.metadata.deb]` in crates/aoede/Cargo.toml
//! lists, by dpkg-deb.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{succeed, target_folder};
use clap::Args;
use serde::Deserialize;

use crate::test;

const PATIENCE: Duration = Duration::from_secs(120);
/// Scripts of the package that dpkg calls.
const SCRIPTS: &[&str] = &["postinst", "prerm", "postrm"];

/// Build the Debian package: program, systemd unit, manual pages, completions, documentation.
///
/// Needs dpkg-deb and strip. With other hosts' packages in mind: run it on the oldest Debian that
/// the package is for, as its program needs the C library of the host that it is built on, or a
/// newer one.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Package this program instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Folder for the package
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Another revision than the one in Cargo.toml
    #[arg(long, value_name = "N")]
    revision: Option<String>,
    /// Only make what lies in target/package, for cargo-deb
    #[arg(long)]
    prepare: bool,
}

/// What cargo says of a package, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    description: String,
    repository: String,
    manifest_path: PathBuf,
    metadata: Option<Metadata>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    deb: Option<Deb>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Deb {
    maintainer: String,
    section: String,
    priority: String,
    depends: String,
    revision: String,
    extended_description: String,
    changelog: PathBuf,
    conf_files: Vec<String>,
    maintainer_scripts: PathBuf,
    /// From where, to where, with which permissions (in octal).
    assets: Vec<(String, String, String)>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let program = if let Some(program) = &arguments.program {
        program.clone()
    } else {
        test::build_program()?;
        target_folder().join("release/aoede")
    };
    let folder = target_folder().join("package");
    prepare(&program, &folder)?;
    if arguments.prepare {
        return Ok(());
    }
    let (package, deb) = described()?;
    let revision = arguments.revision.as_ref().unwrap_or(&deb.revision);
    let version = format!("{}-{revision}", package.version);
    let root = folder.join("root");
    remove(&root)?;
    let tree = Tree {
        root: &root,
        manifest: package.manifest_path.parent().context("no folder")?,
        program: &program,
    };
    let files = tree.fill(&deb)?;
    let architecture = succeed(None, command("dpkg", &["--print-architecture"]), PATIENCE)?;
    let architecture = architecture.trim();
    tree.control(&package, &deb, &version, architecture, &files)?;
    let output = arguments.output.as_ref().unwrap_or(&folder);
    let name = format!("{}_{version}_{architecture}.deb", package.name);
    let made = output.join(name);
    let mut build = command("dpkg-deb", &["--root-owner-group", "--build"]);
    build.arg(&root).arg(&made);
    succeed(None, build, PATIENCE)?;
    remove(&root)?;
    eprintln!("{}", made.display());
    Ok(())
}

/// Manual pages and completions, which the program knows itself.
fn prepare(program: &Path, folder: &Path) -> Result<()> {
    remove(folder)?;
    fs::create_dir_all(folder)?;
    let mut man = Command::new(program);
    man.arg("man").arg(folder.join("man"));
    succeed(None, man, PATIENCE)?;
    for (shell, name) in [
        ("bash", "aoede.bash"),
        ("zsh", "_aoede"),
        ("fish", "aoede.fish"),
    ] {
        let mut completions = Command::new(program);
        completions.args(["completions", shell]);
        fs::write(folder.join(name), succeed(None, completions, PATIENCE)?)?;
    }
    Ok(())
}

/// The package as Cargo.toml has it.
fn described() -> Result<(Package, Deb)> {
    #[derive(Deserialize)]
    struct Workspace {
        packages: Vec<Package>,
    }
    let mut cargo = test::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let workspace: Workspace = serde_json::from_str(&succeed(None, cargo, PATIENCE)?)?;
    let mut packages = workspace.packages.into_iter();
    let mut package = packages
        .find(|package| package.name == "aoede")
        .context("no package aoede")?;
    let deb = package.metadata.take().and_then(|metadata| metadata.deb);
    Ok((package, deb.context("no [package.metadata.deb]")?))
}

/// A file system with the package's files in it.
struct Tree<'a> {
    root: &'a Path,
    /// The folder that sources start from.
    manifest: &'a Path,
    program: &'a Path,
}

impl Tree<'_> {
    /// Puts the files in their places and says where these are.
    fn fill(&self, deb: &Deb) -> Result<Vec<String>> {
        let mut files = Vec::new();
        for (source, destination, mode) in &deb.assets {
            let sources = self.sources(source)?;
            ensure!(!sources.is_empty(), "there is no {source}");
            for source in sources {
                let mut place = destination.clone();
                if place.ends_with('/') {
                    let name = source.file_name().and_then(|name| name.to_str());
                    place.push_str(name.context("no name")?);
                }
                files.push(self.place(&source, place, mode)?);
            }
        }
        let changelog = "usr/share/doc/aoede/changelog.Debian".to_owned();
        let source = self.manifest.join(&deb.changelog);
        files.push(self.place(&source, changelog, "644")?);
        files.sort();
        Ok(files)
    }

    /// The files that one line stands for: a path with at most one `*`, in its last part.
    fn sources(&self, source: &str) -> Result<Vec<PathBuf>> {
        if source == "target/release/aoede" {
            return Ok(vec![self.program.to_owned()]);
        }
        let path = match source.strip_prefix("../../target/") {
            Some(below) => target_folder().join(below),
            None => self.manifest.join(source),
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let Some((start, end)) = name.and_then(|name| name.split_once('*')) else {
            return Ok(vec![path]);
        };
        let folder = path.parent().context("no folder")?;
        let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(start) && name.ends_with(end))
        });
        paths.sort();
        Ok(paths)
    }

    /// Copies a file, as Debian wants it: programs without symbols, manual pages and changelogs
    /// compressed. Says where it is then.
    fn place(&self, source: &Path, place: String, mode: &str) -> Result<String> {
        let path = self.root.join(&place);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::copy(source, &path).with_context(|| source.display().to_string())?;
        permit(&path, mode)?;
        if place.starts_with("usr/bin/") {
            let mut strip = command("strip", &["--strip-unneeded"]);
            strip.arg(&path);
            succeed(None, strip, PATIENCE)?;
        }
        if place.starts_with("usr/share/man/") || place.contains("/changelog") {
            let mut gzip = command("gzip", &["-9", "--no-name"]);
            gzip.arg(&path);
            succeed(None, gzip, PATIENCE)?;
            return Ok(format!("{place}.gz"));
        }
        Ok(place)
    }

    /// The folder `DEBIAN` (deb-control(5)).
    fn control(
        &self,
        package: &Package,
        deb: &Deb,
        version: &str,
        architecture: &str,
        files: &[String],
    ) -> Result<()> {
        let folder = self.root.join("DEBIAN");
        fs::create_dir_all(&folder)?;
        let mut bytes = 0;
        for file in files {
            bytes += fs::metadata(self.root.join(file))?.len();
        }
        let depends = deb
            .depends
            .replace("$auto", &libraries(&self.root.join("usr/bin/aoede"))?);
        let long = deb.extended_description.replace('\n', "\n ");
        let control = format!(
            "Package: {}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {}\n\
             Installed-Size: {}\nDepends: {depends}\nSection: {}\nPriority: {}\nHomepage: {}\n\
             Description: {}\n {long}\n",
            package.name,
            deb.maintainer,
            bytes.div_ceil(1024),
            deb.section,
            deb.priority,
            package.repository,
            package.description,
        );
        fs::write(folder.join("control"), control)?;
        fs::write(folder.join("conffiles"), deb.conf_files.join("\n") + "\n")?;
        let mut sums = command("md5sum", &["--"]);
        sums.args(files).current_dir(self.root);
        fs::write(folder.join("md5sums"), succeed(None, sums, PATIENCE)?)?;
        for script in SCRIPTS {
            let source = self.manifest.join(&deb.maintainer_scripts).join(script);
            let path = folder.join(script);
            fs::copy(&source, &path).with_context(|| source.display().to_string())?;
            permit(&path, "755")?;
        }
        Ok(())
    }
}

/// The packages of the libraries that a program is linked to. They are few, and only for the C
/// library does it matter which version there is: each of its symbols names the one that it came
/// with.
fn libraries(program: &Path) -> Result<String> {
    let bytes = fs::read(program)?;
    let mut newest = (0, 0);
    for start in positions(&bytes, b"GLIBC_2.") {
        let digits = bytes.iter().skip(start + b"GLIBC_2.".len());
        let digits = digits.take_while(|byte| byte.is_ascii_digit());
        let digits: String = digits.map(|&byte| char::from(byte)).collect();
        newest = newest.max((2, digits.parse().unwrap_or(0)));
    }
    ensure!(
        newest > (2, 0),
        "the program is not linked to the C library"
    );
    let mut packages = format!("libc6 (>= {}.{})", newest.0, newest.1);
    if positions(&bytes, b"libgcc_s.so.1\0").next().is_some() {
        packages.push_str(", libgcc-s1 (>= 4.2)");
    }
    Ok(packages)
}

fn positions<'b>(bytes: &'b [u8], wanted: &'b [u8]) -> impl Iterator<Item = usize> + 'b {
    let windows = bytes.windows(wanted.len()).enumerate();
    windows.filter_map(move |(at, window)| (window == wanted).then_some(at))
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    command
}

fn permit(path: &Path, mode: &str) -> Result<()> {
    let mode = u32::from_str_radix(mode, 8).with_context(|| format!("the mode {mode}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| path.display().to_string())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
