//! What is served from the start on, and what keeps a daemon from starting.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::aoe::{Response, ata};

use crate::scene::{DONE, MIB, SOON, Scene, ask, discover, read, write};

const THREE: &str = r#"
[[export]]
address = "e1.1"
path = "@/one.img"
create = "8MiB"
interfaces = ["tgt0"]
[[export]]
address = "e1.2"
path = "@/two.img"
interfaces = ["tgt*"]
cache = "writeback"
length = 8192
[[export]]
address = "e1.3"
path = "@/two.img"
interfaces = ["tgt1"]
offset = 8192
engine = "aio"
"#;

/// Two of them are parts of one file, which two workers have open.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn each_export_is_served_on_its_interfaces() -> Result<()> {
    let scene = Scene::new(2, 1500)?;
    let image = scene.folder.image("two.img", 8 * MIB)?;
    scene.configure(&format!("workers = 2\n{THREE}"))?;
    let daemon = scene.start()?;
    let nics = [scene.nic(0)?, scene.nic(1)?];
    ensure!(discover(&nics[0], 1)? == [(1, 1), (1, 2)], "on tgt0");
    ensure!(discover(&nics[1], 2)? == [(1, 2), (1, 3)], "on tgt1");
    let two = scene.path(&nics[0], 0, (1, 2))?;
    let three = scene.path(&nics[1], 1, (1, 3))?;
    ensure!(write(&nics[0], two, 3, 0, 2)? == DONE);
    ensure!(write(&nics[1], three, 4, 0, 3)? == DONE);
    ensure!(read(&nics[0], two, 5, 0)? == [2; 512]);
    ensure!(read(&nics[1], three, 6, 0)? == [3; 512]);
    ensure!(scene.status("e1.3")?["engine"] == "aio");
    ensure!(scene.status("e1.2")?["interfaces"] == serde_json::json!(["tgt0", "tgt1"]));
    // Acknowledged from memory; a stop brings it to the file.
    daemon.stop()?;
    let mut sector = [0; 512];
    let file = File::open(image)?;
    for (lba, byte) in [(0, 2), (8192, 3)] {
        file.read_exact_at(&mut sector, lba * 512)?;
        ensure!(sector == [byte; 512], "sector {lba}");
    }
    Ok(())
}

/// Nor is anything served meanwhile.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn whatever_is_wrong_at_the_start_is_told_and_nothing_is_served() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    scene.configure(
        r#"
[[export]]
address = "e1.1"
path = "@/one.img"
create = "8MiB"
interfaces = ["tgt0"]
[[export]]
address = "e1.2"
path = "@/no such.img"
interfaces = ["tgt0"]
"#,
    )?;
    let ended = scene.fail()?;
    ensure!(ended.code == 1, "{ended:?}");
    ensure!(
        ended.stderr.contains("aoede.toml:13:8: there is no") && !ended.stderr.contains("serving"),
        "{}",
        ended.stderr
    );

    // What only shows when it is opened.
    scene.configure(
        r#"
[[export]]
address = "e1.1"
path = "@/one.img"
create = "8MiB"
interfaces = ["tgt0"]
[[export]]
address = "e1.2"
path = "@/two.img"
create = "8MiB"
interfaces = ["tgt0"]
"#,
    )?;
    let file = File::create(scene.folder.join("two.img"))?;
    file.set_len(8 * MIB)?;
    file.lock()?;
    let ended = scene.fail()?;
    ensure!(ended.code == 1, "{ended:?}");
    ensure!(
        ended.stderr.contains("e1.2: ") && ended.stderr.contains("(lock held)"),
        "{}",
        ended.stderr
    );
    ensure!(!ended.stderr.contains("serving"), "{}", ended.stderr);
    file.unlock()?;
    scene.start()?.stop()
}

/// By the socket, too.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_stop_by_command_ends_it_after_the_last_write() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    scene.configure(
        THREE
            .split("[[export]]\naddress = \"e1.2\"")
            .next()
            .context("one")?,
    )?;
    let mut daemon = scene.start()?;
    let nic = scene.nic(0)?;
    let one = scene.path(&nic, 0, (1, 1))?;
    let frame = ask(&nic, &one.early_write(1, 8, 1, &[9; 512]))?;
    ensure!(Response(&frame).registers() == DONE);
    let frame = ask(&nic, &one.ata(2, ata::IDENTIFY, 0, 1, b""))?;
    ensure!(Response(&frame).registers() == DONE);
    scene.control(&["stop"])?;
    ensure!(daemon.process.wait(SOON)?.success());
    let mut sector = [0; 512];
    File::open(scene.folder.join("one.img"))?.read_exact_at(&mut sector, 8 * 512)?;
    ensure!(sector == [9; 512]);
    ensure!(!scene.folder.join("control").exists(), "the socket is left");
    Ok(())
}
