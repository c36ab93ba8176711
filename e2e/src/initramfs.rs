//! The guest's root: busybox, a few programs with their libraries, and the kernel modules of the
//! AoE driver, in one cpio archive that is built once and kept.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{Packages, lab_folder, succeed};

/// Programs inside, by the name they have there.
const PROGRAMS: &[(&str, &str)] = &[
    ("fio", "fio"),
    ("mkfs.ext4", "mke2fs"),
    ("fsck.ext4", "e2fsck"),
    ("aoe-stat", "aoe-stat"),
];

/// Modules to load before the AoE driver; their dependencies come along.
const MODULES: &[&str] = &["virtio_pci", "virtio_net", "virtio_blk"];

/// The driver that is the initiator of most stories. Loaded last.
const DRIVER: &str = "aoe";

const INIT: &str = include_str!("init.sh");

/// Builds the archive, or finds it built, and returns its path.
pub(crate) fn initramfs(packages: &Packages) -> Result<PathBuf> {
    let contents = contents(packages)?;
    let archive = lab_folder().join("initramfs.cpio");
    let stamp = lab_folder().join("initramfs.contents");
    let fingerprint = fingerprint(&contents)?;
    if archive.exists() && fs::read_to_string(&stamp).is_ok_and(|built| built == fingerprint) {
        return Ok(archive);
    }
    let mut cpio = Cpio::default();
    for folder in [
        "bin", "dev", "jobs", "lib", "lib64", "mnt", "modules", "proc", "sbin", "sys", "tmp",
    ] {
        cpio.add(folder, 0o040_755, &[]);
    }
    for (name, source) in &contents {
        let bytes = match source {
            Source::File(path) => {
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?
            }
            Source::Text(text) => text.clone().into_bytes(),
        };
        cpio.add(name, 0o100_755, &bytes);
    }
    let temporary = archive.with_extension("new");
    fs::write(&temporary, cpio.finish()).context("cannot write the initramfs")?;
    fs::rename(&temporary, &archive)?;
    fs::write(&stamp, fingerprint)?;
    Ok(archive)
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Text(String),
}

fn contents(packages: &Packages) -> Result<BTreeMap<String, Source>> {
    let mut contents = BTreeMap::new();
    contents.insert("init".to_owned(), Source::Text(INIT.to_owned()));
    contents.insert(
        "bin/busybox".to_owned(),
        Source::File(packages.tool("busybox")?),
    );
    for (name, tool) in PROGRAMS {
        let path = packages.tool(tool)?;
        for library in libraries(packages, &path)? {
            let file = library
                .file_name()
                .and_then(|name| name.to_str())
                .context("a library without a name")?;
            let folder = if file.starts_with("ld-linux") {
                "lib64"
            } else {
                "lib"
            };
            contents.insert(format!("{folder}/{file}"), Source::File(library.clone()));
        }
        contents.insert(format!("sbin/{name}"), Source::File(path));
    }
    let mut order = Vec::new();
    let files = module_files(&packages.kernel_modules());
    for module in MODULES.iter().chain([&DRIVER]) {
        load_order(module, &files, &mut order)?;
    }
    for module in &order {
        let file = files
            .get(module)
            .with_context(|| format!("no module {module}"))?;
        contents.insert(format!("modules/{module}.ko"), Source::File(file.clone()));
    }
    order.retain(|module| module != DRIVER);
    contents.insert(
        "modules/order".to_owned(),
        Source::Text(order.join("\n") + "\n"),
    );
    Ok(contents)
}

fn fingerprint(contents: &BTreeMap<String, Source>) -> Result<String> {
    let mut text = String::new();
    for (name, source) in contents {
        match source {
            Source::File(path) => {
                let about = fs::metadata(path).with_context(|| format!("no {}", path.display()))?;
                writeln!(
                    text,
                    "{name} {} {} {}",
                    path.display(),
                    about.len(),
                    about.mtime()
                )?;
            }
            Source::Text(inside) => writeln!(text, "{name} {inside}")?,
        }
    }
    Ok(text)
}

/// What the dynamic loader would load; nothing for a script.
fn libraries(packages: &Packages, program: &Path) -> Result<Vec<PathBuf>> {
    if !fs::read(program)?.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    let mut command = Command::new("ldd");
    command
        .arg(program)
        .env("LD_LIBRARY_PATH", packages.libraries());
    let text = succeed(None, command, Duration::from_secs(10))?;
    if text.contains("not found") {
        bail!("{} lacks libraries:\n{text}", program.display());
    }
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// All module files, by module name (in file names, dashes and underscores are one).
fn module_files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ko") {
                let name = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .replace('-', "_");
                files.insert(name, path);
            }
        }
    }
    files
}

/// Appends `module` to `order`, after what it depends on. A module without a file is built in.
fn load_order(
    module: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<String>,
) -> Result<()> {
    let Some(file) = files.get(module) else {
        return Ok(());
    };
    if order.iter().any(|earlier| earlier == module) {
        return Ok(());
    }
    // `.modinfo` is a list of zero-terminated `key=value`.
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut fields = bytes.split(|&byte| byte == 0);
    let depends = fields
        .find_map(|field| field.strip_prefix(b"depends="))
        .unwrap_or_default();
    for other in String::from_utf8_lossy(depends)
        .split(',')
        .filter(|name| !name.is_empty())
    {
        load_order(&other.replace('-', "_"), files, order)?;
    }
    order.push(module.to_owned());
    Ok(())
}

/// A cpio archive in the "newc" format, which the kernel unpacks.
#[derive(Debug, Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name size, check
        let fields = [
            self.entries as usize,
            mode as usize,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_aligned_and_says_its_size() {
        let mut cpio = Cpio::default();
        cpio.add("a", 0o100_644, b"hello");
        let text = String::from_utf8(cpio.bytes.clone()).unwrap();
        assert!(text.starts_with("07070100000001000081a4"), "{text}");
        assert_eq!(&text[54..62], "00000005");
        assert_eq!(cpio.bytes.len(), 112 + 8);
        assert!(cpio.bytes.starts_with(b"070701") && cpio.finish().len() % 4 == 0);
    }
}
