//! A machine that boots from the network with iPXE.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    Namespace, Packages, Process, Scratch,
    guest::{machine, network_card},
};

/// The bytes of [`BOOT_CODE`] that say where the text starts: 0x7c00, where the firmware loads a
/// boot sector, and the length of the code.
const TEXT_AT: u16 = 0x7c00 + 22;

/// 16-bit code of a boot sector that writes the text behind it to the first serial port and stops.
const BOOT_CODE: [u8; 22] = [
    0xfa, // cli
    0x31,
    0xc0, // xor ax, ax
    0x8e,
    0xd8, // mov ds, ax
    0xbe,
    TEXT_AT.to_le_bytes()[0],
    TEXT_AT.to_le_bytes()[1], // mov si, TEXT_AT
    0xba,
    0xf8,
    0x03, // mov dx, 0x3f8: data register of the first serial port
    0xac, // next: lodsb
    0x84,
    0xc0, // test al, al
    0x74,
    0x03, // jz stop
    0xee, // out dx, al
    0xeb,
    0xf8, // jmp next
    0xf4, // stop: hlt
    0xeb,
    0xfd, // jmp stop
];

/// A machine that runs one iPXE script. Dropping it switches it off.
#[derive(Debug)]
pub struct Ipxe {
    machine: Process,
    /// Holds the script while the machine runs.
    _folder: Scratch,
}

impl Ipxe {
    /// Boots from an AoE disk (`e1.1`) by the interface `tap`.
    ///
    /// # Errors
    /// The machine cannot be started.
    pub fn boot(namespace: &Namespace, tap: &str, disk: &str) -> Result<Self> {
        let packages = Packages::open()?;
        let folder = Scratch::new()?;
        let script = folder.join("boot.ipxe");
        fs::write(
            &script,
            format!("#!ipxe\nifopen net0\nsanboot --no-describe aoe:{disk}\n"),
        )?;
        let mut command = machine(&packages, 256)?;
        command
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(packages.tool("ipxe.lkrn")?)
            .arg("-initrd")
            .arg(script);
        network_card(&mut command, 0, tap, "");
        Ok(Self {
            machine: Process::spawn("iPXE", Some(namespace), command)?,
            _folder: folder,
        })
    }

    /// Waits for a text on the first serial port.
    ///
    /// # Errors
    /// It does not come in time; the message has what came.
    pub fn wait_for(&self, text: &str, within: Duration) -> Result<String> {
        self.machine.stdout.wait_for(text, within)
    }
}

/// Puts a boot sector at the start of an image, which writes `text` to the first serial port.
///
/// # Errors
/// The text is too long, or the image cannot be written.
pub fn boot_image(image: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let mut sector = BOOT_CODE.to_vec();
    sector.extend(text.bytes());
    sector.push(0);
    anyhow::ensure!(
        sector.len() <= 440,
        "the text leaves no room for the partition table"
    );
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    let file = fs::OpenOptions::new().write(true).open(image)?;
    file.write_all_at(&sector, 0)
        .with_context(|| format!("cannot write {}", image.display()))
}
