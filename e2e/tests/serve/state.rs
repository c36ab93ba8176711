//! What outlives the daemon.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use aoede_e2e::{
    aoe::{Response, ata, config},
    succeed, wait_until,
};

use crate::scene::{DONE, MIB, SOON, Scene, ask, is_silent, read, write};

const ONE: &str = r#"
[[export]]
address = "e1.1"
path = "@/disk.img"
interfaces = ["tgt0"]
"#;

/// Set over the wire, also when the daemon is killed; until the configuration says who may.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_config_string_and_an_edited_mask_survive_a_restart() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    scene.folder.image("disk.img", MIB)?;
    scene.configure(ONE)?;
    let daemon = scene.start()?;
    let nic = scene.nic(0)?;
    let e1_1 = scene.path(&nic, 0, (1, 1))?;
    let frame = ask(&nic, &e1_1.config(1, config::SET, b"cabin 7"))?;
    ensure!(Response(&frame).config_string() == b"cabin 7");
    let file = scene.folder.join("state/e1.1.state");
    wait_until("it is kept", SOON, || Ok(file.exists()))?;
    let mut process = daemon.process;
    process.kill()?;

    let daemon = scene.start()?;
    let string = |tag| -> Result<Vec<u8>> {
        let frame = ask(&nic, &e1_1.config(tag, config::READ, b""))?;
        Ok(Response(&frame).config_string().to_vec())
    };
    ensure!(string(2)? == b"cabin 7");
    // From now on only somebody else (§5: the number of changes, then one to add).
    let mut edit = e1_1.header(2, 3);
    edit.extend([0, 1, 0, 1, 0, 1, 2, 0, 0, 0, 0, 0x99]);
    let answer = ask(&nic, &edit)?;
    ensure!(answer[15] == 0, "{answer:02x?}");
    ensure!(is_silent(&nic, e1_1, 4)?, "not on the list");
    // A clean stop keeps what is new, too.
    daemon.stop()?;
    let mut daemon = scene.start()?;
    ensure!(is_silent(&nic, e1_1, 5)?, "still not on the list");
    daemon.reload(ONE)?;
    ensure!(is_silent(&nic, e1_1, 6)?, "nothing has changed");
    let mac: Vec<String> = nic.mac().iter().map(|byte| format!("{byte:02x}")).collect();
    daemon.reload(&format!("{ONE}allow = [\"{}\"]\n", mac.join(":")))?;
    ensure!(string(7)? == b"cabin 7");
    daemon.stop()
}

/// A damaged file is no sign of health: nobody knows what was lost.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_damaged_state_latches_until_it_is_reset() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    scene.folder.image("disk.img", MIB)?;
    scene.configure(ONE)?;
    fs::create_dir(scene.folder.join("state"))?;
    fs::write(scene.folder.join("state/e1.1.state"), "{\"version\":1,")?;
    let daemon = scene.start()?;
    let said = daemon.process.stderr.text();
    ensure!(said.contains("e1.1.state.damaged"), "{said}");
    let nic = scene.nic(0)?;
    let e1_1 = scene.path(&nic, 0, (1, 1))?;
    ensure!(write(&nic, e1_1, 1, 0, 1)? != DONE);
    ensure!(read(&nic, e1_1, 2, 0)?.len() == 512);
    daemon.stop()?;
    let daemon = scene.start()?;
    ensure!(write(&nic, e1_1, 3, 0, 1)? != DONE, "also after a start");
    scene.control(&["reset", "e1.1"])?;
    ensure!(write(&nic, e1_1, 4, 0, 1)? == DONE);
    daemon.stop()?;
    let daemon = scene.start()?;
    ensure!(write(&nic, e1_1, 5, 0, 1)? == DONE, "not any more");
    daemon.stop()?;
    let aside = fs::read_to_string(scene.folder.join("state/e1.1.state.damaged"))?;
    ensure!(aside == "{\"version\":1,");
    Ok(())
}

/// A sparse disk on a full file system: what was acknowledged early cannot be written.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_latched_failure_survives_until_it_is_reset() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    let device = scene.folder.image("ext4.img", 16 * MIB)?;
    let mut format = Command::new("mkfs.ext4");
    format.args(["-q", "-b", "4096"]).arg(&device);
    succeed(None, format, SOON)?;
    let place = scene.folder.join("full");
    fs::create_dir(&place)?;
    let host = scene.host.with_own_mounts()?;
    let mut mount = Command::new("mount");
    mount.args(["-o", "loop"]).arg(&device).arg(&place);
    succeed(Some(&host), mount, SOON)?;
    scene.configure(&ONE.replace("@/disk.img", "@/full/disk.img").replace(
        "interfaces",
        "create = \"64MiB\"\ncache = \"writeback\"\ninterfaces",
    ))?;
    let daemon = scene.start_on(&host)?;
    let mut fill = Command::new("sh");
    // Blocks that are promised to data in memory are found by the direct writes at the end.
    let steps = "cat /dev/zero > \"$0\" 2>/dev/null; sync; dd if=/dev/zero of=\"$0\" bs=4096 \
                 oflag=append,direct conv=notrunc 2>/dev/null; test -s \"$0\"";
    fill.arg("-c").arg(steps).arg(place.join("fill"));
    succeed(Some(&host), fill, SOON)?;

    let nic = scene.nic(0)?;
    let e1_1 = scene.path(&nic, 0, (1, 1))?;
    ensure!(write(&nic, e1_1, 1, 4096, 1)? == DONE, "acknowledged early");
    wait_until("it is latched", SOON, || {
        Ok(!scene.status("e1.1")?["failure"].is_null())
    })?;
    ensure!(write(&nic, e1_1, 2, 0, 1)? != DONE);
    // Closing it would lose what a reset may still write.
    ensure!(scene.control(&["drain", "e1.1"]).is_err());
    let text = fs::read_to_string(scene.config())?;
    fs::write(scene.config(), text.replace("writeback", "writethrough"))?;
    ensure!(scene.control(&["reload"]).is_err());
    scene.hear("RELOADING=1")?;
    scene.hear("READY=1")?;
    ensure!(scene.status("e1.1")?["failure"]["at_risk_bytes"] == 512);
    ensure!(scene.status("e1.1")?["cache_mode"] == "writeback");
    fs::write(scene.config(), text)?;
    let kept = scene.folder.join("state/e1.1.state");
    wait_until("it is kept", SOON, || Ok(kept.exists()))?;
    let mut process = daemon.process;
    process.kill()?;

    // There is room again; but nobody has looked after what was lost.
    let mut clear = Command::new("rm");
    clear.arg(place.join("fill"));
    succeed(Some(&host), clear, SOON)?;
    for _ in 0..2 {
        let daemon = scene.start_on(&host)?;
        ensure!(write(&nic, e1_1, 3, 0, 1)? != DONE, "still latched");
        ensure!(read(&nic, e1_1, 4, 0)?.len() == 512, "reads go on");
        let failure = scene.status("e1.1")?["failure"].clone();
        ensure!(
            failure["at_risk"] == serde_json::json!([{"lba": 4096, "sectors": 1}]),
            "{failure}"
        );
        daemon.stop()?;
    }
    let daemon = scene.start_on(&host)?;
    scene.control(&["reset", "e1.1"])?;
    ensure!(write(&nic, e1_1, 5, 0, 8)? == DONE);
    let frame = ask(&nic, &e1_1.ata(6, ata::FLUSH, 0, 0, b""))?;
    ensure!(Response(&frame).registers() == DONE);
    daemon.stop()?;
    let daemon = scene.start_on(&host)?;
    ensure!(write(&nic, e1_1, 7, 0, 9)? == DONE, "not any more");
    daemon.stop()
}

/// By command: the image stays as it was while the disk goes on, also over a restart.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_unfinished_freeze_survives_a_restart() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    let image = scene.folder.image("disk.img", MIB)?;
    scene.configure(&format!("{ONE}shadow = \"@/shadow\"\n"))?;
    let daemon = scene.start()?;
    let nic = scene.nic(0)?;
    let e1_1 = scene.path(&nic, 0, (1, 1))?;
    ensure!(write(&nic, e1_1, 1, 0, 1)? == DONE);
    scene.control(&["freeze", "e1.1"])?;
    ensure!(write(&nic, e1_1, 2, 0, 2)? == DONE);
    daemon.stop()?;
    ensure!(fs::read(&image)?[..512] == [1; 512]);
    let daemon = scene.start()?;
    ensure!(scene.status("e1.1")?["freeze"]["phase"] == "frozen");
    ensure!(read(&nic, e1_1, 3, 0)? == [2; 512]);
    ensure!(fs::read(&image)?[..512] == [1; 512]);
    scene.control(&["thaw", "e1.1"])?;
    wait_until("it is merged", SOON, || {
        Ok(scene.status("e1.1")?["freeze"]["phase"] == "thawed")
    })?;
    ensure!(fs::read(&image)?[..512] == [2; 512]);
    daemon.stop()
}
