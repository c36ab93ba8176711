//! Another configuration while initiators work.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::aoe::Response;
use aoede_e2e::aoe::ata;
use aoede_e2e::{aoede_binary, succeed};
use aoede_initiator::{Client, Disk, Settings};
use aoede_link::Monitor;

use crate::load::{Load, SECTORS};
use crate::scene::{DONE, MIB, SOON, Scene, ask, discover, is_silent, read, write};

/// The disk under load.
const STAYS: &str = r#"
[[export]]
address = "e1.1"
path = "@/stays.img"
interfaces = ["tgt0"]
worker = 0
"#;

/// Another one, in so many ways.
fn other(more: &str) -> String {
    format!(
        "workers = 2\n{STAYS}[[export]]\naddress = \"e1.2\"\npath = \"@/other.img\"\n\
         interfaces = [\"tgt0\"]\n{more}"
    )
}

fn alone() -> String {
    format!("workers = 2\n{STAYS}")
}

fn attach(scene: &Scene) -> Result<Disk> {
    scene.initiator.enter(|| {
        let ini0 = Monitor::open()?.interface("ini0")?.context("no ini0")?;
        let client = Client::open(&[ini0])?;
        Ok(client.attach("e1.1".parse()?, Settings::default(), SOON)?)
    })
}

/// Reads everything back, by the disk and from the file.
fn end(scene: &Scene, load: Load, disk: Disk) -> Result<()> {
    let report = load.stop()?;
    ensure!(report.done > 0);
    disk.flush()?;
    let mut content = vec![0; usize::try_from(SECTORS)? * 512];
    disk.read_at(0, &mut content)?;
    report.verify(&content).context("read back")?;
    drop(disk);
    let file = fs::read(scene.folder.join("stays.img"))?;
    report.verify(&file).context("the file")
}

/// Opened, made read-only, for others, elsewhere and closed again, on the same and on another
/// worker; the load on the export that stays notices nothing.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_has_not_changed_goes_on_under_load() -> Result<()> {
    let scene = Scene::new(2, 9000)?;
    scene.folder.image("stays.img", SECTORS * 512)?;
    scene.folder.image("other.img", 8 * MIB)?;
    scene.configure(&alone())?;
    let mut daemon = scene.start()?;
    let disk = attach(&scene)?;
    let load = Load::start(&disk, 1);
    let nics = [scene.nic(0)?, scene.nic(1)?];
    let on_0 = scene.path(&nics[0], 0, (1, 2))?;
    let on_1 = scene.path(&nics[1], 1, (1, 2))?;
    load.go_on(200, SOON)?;
    for round in 0..5_u32 {
        let tag = round * 100;
        let worker = round % 2;
        let byte = u8::try_from(round)? + 1;
        daemon.reload(&other(&format!(
            "worker = {worker}\ncache = \"writeback\"\n"
        )))?;
        ensure!(write(&nics[0], on_0, tag + 1, 8, byte)? == DONE);
        // What it had acknowledged from memory is there.
        daemon.reload(&other(&format!("worker = {worker}\nread_only = true\n")))?;
        ensure!(read(&nics[0], on_0, tag + 2, 8)? == [byte; 512]);
        ensure!(write(&nics[0], on_0, tag + 3, 8, 99)? != DONE, "read-only");
        let strangers = "allow = [\"02:00:00:00:00:99\"]\nread_only = true\n";
        daemon.reload(&other(&format!("worker = {worker}\n{strangers}")))?;
        ensure!(is_silent(&nics[0], on_0, tag + 4)?, "not on the list");
        let elsewhere = other(&format!("worker = {worker}\nread_only = true\n"));
        let (stays, rest) = elsewhere.split_once("e1.2").context("e1.2")?;
        let rest = rest.replace("tgt0", "tgt1");
        daemon.reload(&format!("{stays}e1.2{rest}"))?;
        ensure!(read(&nics[1], on_1, tag + 5, 8)? == [byte; 512]);
        ensure!(is_silent(&nics[0], on_0, tag + 6)?, "not there any more");
        daemon.reload(&alone())?;
        ensure!(is_silent(&nics[1], on_1, tag + 7)?, "closed");
        load.go_on(200, SOON)?;
    }
    let status = scene.status("e1.1")?;
    ensure!(status["state"] == "serving", "{status}");
    end(&scene, load, disk)?;
    daemon.stop()
}

/// Every request under way is repeated by the initiator, and none is lost.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_export_moves_between_workers_under_load() -> Result<()> {
    let scene = Scene::new(1, 9000)?;
    scene.folder.image("stays.img", SECTORS * 512)?;
    scene.configure(&format!("{}cache = \"writeback\"\n", alone()))?;
    let mut daemon = scene.start()?;
    let disk = attach(&scene)?;
    let load = Load::start(&disk, 2);
    for round in 0..6 {
        load.go_on(200, SOON)?;
        let worker = (round + 1) % 2;
        let moved = alone().replace("worker = 0", &format!("worker = {worker}"));
        daemon.reload(&format!("{moved}cache = \"writeback\"\n"))?;
        ensure!(scene.status("e1.1")?["worker"] == worker);
    }
    load.go_on(200, SOON)?;
    end(&scene, load, disk)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_wrong_configuration_changes_nothing() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    scene.folder.image("stays.img", 8 * MIB)?;
    scene.folder.image("other.img", 8 * MIB)?;
    scene.configure(&other(""))?;
    let mut daemon = scene.start()?;
    let nic = scene.nic(0)?;
    ensure!(discover(&nic, 1)? == [(1, 1), (1, 2)]);
    daemon.reload(&alone().replace("path", "pth"))?;
    daemon.process.stderr.wait_for("nothing is changed", SOON)?;
    let said = daemon.process.stderr.text();
    // The third line of the export, which begins in the seventh.
    let wrong = "aoede.toml:9:1: [[export]] has no key `pth`; write `path`";
    ensure!(said.contains(wrong), "{said}");
    ensure!(discover(&nic, 2)? == [(1, 1), (1, 2)]);
    daemon.reload(&alone())?;
    ensure!(discover(&nic, 3)? == [(1, 1)]);
    daemon.stop()
}

/// The others are; and the next reload tries again.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_export_that_cannot_be_opened_is_told_of() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    scene.folder.image("stays.img", 8 * MIB)?;
    let other_image = scene.folder.image("other.img", 8 * MIB)?;
    scene.configure("")?;
    let mut daemon = scene.start()?;
    let nic = scene.nic(0)?;
    let held = fs::File::open(&other_image)?;
    held.lock()?;
    daemon.reload(&other(""))?;
    ensure!(discover(&nic, 1)? == [(1, 1)]);
    ensure!(scene.status("e1.2")?["state"] == "failed");
    held.unlock()?;
    daemon.reload_as_is()?;
    ensure!(discover(&nic, 2)? == [(1, 1), (1, 2)]);
    ensure!(scene.status("e1.2")?["state"] == "serving");
    // It is not taken away for what cannot be served.
    let held_image = scene.folder.image("held.img", 8 * MIB)?;
    let held = fs::File::open(held_image)?;
    held.lock()?;
    daemon.reload(&other("").replace("other.img", "held.img"))?;
    ensure!(discover(&nic, 3)? == [(1, 1), (1, 2)]);
    let is_served = |name: &str| -> Result<bool> {
        let status = scene.status("e1.2")?;
        let path = status["path"].as_str().context("path")?;
        Ok(status["state"] == "serving" && path.ends_with(name))
    };
    ensure!(is_served("other.img")?);
    held.unlock()?;
    daemon.reload_as_is()?;
    ensure!(is_served("held.img")?);
    daemon.stop()
}

/// Grown by command: initiators are told, and can use it.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_export_is_resized_and_drained_by_command() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    scene.configure(&format!("{}create = \"8MiB\"\n", alone()))?;
    let mut daemon = scene.start()?;
    let nic = scene.nic(0)?;
    let e1_1 = scene.path(&nic, 0, (1, 1))?;
    let beyond = e1_1.ata(1, ata::READ, 16_384, 1, b"");
    ensure!(Response(&ask(&nic, &beyond)?).registers() != DONE);
    scene.control(&["resize", "e1.1", "16MiB"])?;
    let beyond = e1_1.ata(2, ata::READ, 16_384, 1, b"");
    ensure!(Response(&ask(&nic, &beyond)?).registers() == DONE);
    let frame = ask(&nic, &e1_1.early_write(3, 0, 1, &[5; 512]))?;
    ensure!(Response(&frame).registers() == DONE);
    scene.control(&["drain", "e1.1"])?;
    ensure!(fs::read(scene.folder.join("stays.img"))?[..512] == [5; 512]);
    ensure!(is_silent(&nic, e1_1, 4)?);
    ensure!(scene.status("e1.1")?["state"] == "drained");
    scene.control(&["reload"])?;
    ensure!(read(&nic, e1_1, 5, 0)? == [5; 512]);
    daemon.process.signal(rustix::process::Signal::INT)?;
    ensure!(daemon.process.wait(SOON)?.success());
    Ok(())
}

/// Where the daemon is asked may change, and does not get lost if that fails.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_control_socket_moves_or_stays() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    scene.folder.image("stays.img", 8 * MIB)?;
    scene.configure(&alone())?;
    let daemon = scene.start()?;
    let text = fs::read_to_string(scene.config())?;
    // The right for that is given up.
    let socket = scene.folder.join("control");
    let line = format!("socket = \"{}\"\n", socket.display());
    ensure!(text.contains(&line), "{text}");
    for _ in 0..2 {
        let other = text.replace(&line, &format!("{line}group = \"daemon\"\n"));
        fs::write(scene.config(), other)?;
        ensure!(scene.control(&["reload"]).is_err());
        daemon.process.stderr.wait_for("CAP_CHOWN", SOON)?;
        ensure!(scene.status("e1.1")?["state"] == "serving");
    }
    let moved = scene.folder.join("moved");
    let other = text.replace(&line, &format!("socket = \"{}\"\n", moved.display()));
    fs::write(scene.config(), &other)?;
    scene.control(&["reload"])?;
    ensure!(moved.exists() && !socket.exists());
    fs::write(scene.config(), &text)?;
    let mut reload = Command::new(aoede_binary()?);
    reload.arg("reload").arg("--socket").arg(&moved);
    succeed(None, reload, SOON)?;
    ensure!(!moved.exists());
    ensure!(scene.status("e1.1")?["state"] == "serving");
    daemon.stop()
}

/// What was acknowledged is written, whatever else is under way.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_stop_in_the_middle_of_a_reload_loses_nothing() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    let image = scene.folder.image("stays.img", 8 * MIB)?;
    let held = fs::File::open(scene.folder.image("other.img", 8 * MIB)?)?;
    scene.configure(&format!(
        "{}cache = \"writeback\"\ndirty_age = \"1h\"\n",
        alone()
    ))?;
    let mut daemon = scene.start()?;
    let nic = scene.nic(0)?;
    let e1_1 = scene.path(&nic, 0, (1, 1))?;
    ensure!(write(&nic, e1_1, 1, 0, 5)? == DONE);
    ensure!(fs::read(&image)?[..512] != [5; 512], "in memory");
    held.lock()?;
    // It waits for the lock, for a while.
    let with = other("").replace(
        "[[export]]\naddress = \"e1.2\"",
        "cache = \"writeback\"\ndirty_age = \"1h\"\n[[export]]\naddress = \"e1.2\"",
    );
    scene.configure(&with)?;
    daemon.process.signal(rustix::process::Signal::HUP)?;
    scene.hear("RELOADING=1")?;
    daemon.process.signal(rustix::process::Signal::TERM)?;
    scene.hear("STOPPING=1")?;
    ensure!(daemon.process.wait(SOON)?.success());
    ensure!(fs::read(&image)?[..512] == [5; 512]);
    Ok(())
}
