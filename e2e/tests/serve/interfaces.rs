//! Interfaces that come, go and change.

use anyhow::{Result, ensure};
use aoede_e2e::{
    aoe::{Response, config},
    wait_until,
};

use crate::scene::{DONE, MIB, SOON, Scene, ask, discover, read, write};

const TWO: &str = r#"
[[export]]
address = "e1.1"
path = "@/disk.img"
interfaces = ["tgt0"]
[[export]]
address = "e1.2"
path = "@/disk.img"
interfaces = ["tgt*"]
read_only = true
offset = 8192
"#;

fn two() -> String {
    TWO.replacen("interfaces", "length = 8192\ninterfaces", 1)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn interfaces_are_followed_as_they_come_and_go() -> Result<()> {
    let scene = Scene::new(1, 1500)?;
    scene.folder.image("disk.img", 8 * MIB)?;
    scene.configure(&two())?;
    let daemon = scene.start()?;
    let nic = scene.nic(0)?;
    ensure!(discover(&nic, 1)? == [(1, 1), (1, 2)]);

    // One that comes, and one that does not match.
    scene.host.veth("tgt1", &scene.initiator, "ini1", 1500)?;
    scene.host.veth("other0", &scene.initiator, "ini2", 1500)?;
    let new = scene.nic(1)?;
    let e1_2 = scene.path(&new, 1, (1, 2))?;
    ensure!(read(&new, e1_2, 2, 0)? == [0; 512]);
    ensure!(discover(&new, 3)? == [(1, 2)]);
    ensure!(discover(&scene.nic(2)?, 4)?.is_empty());
    // It gets a name that matches; the first one goes.
    scene.host.ip("link set other0 down")?;
    scene.host.ip("link set other0 name tgt2")?;
    scene.host.ip("link set tgt2 up")?;
    let renamed = scene.nic(2)?;
    let e1_2 = scene.path(&renamed, 2, (1, 2))?;
    ensure!(read(&renamed, e1_2, 5, 0)? == [0; 512]);

    // Deleted, and made again under its name.
    scene.host.ip("link del tgt0")?;
    daemon.process.stderr.wait_for("tgt0 is gone", SOON)?;
    scene.host.veth("tgt0", &scene.initiator, "ini0", 1500)?;
    let nic = scene.nic(0)?;
    let e1_1 = scene.path(&nic, 0, (1, 1))?;
    ensure!(write(&nic, e1_1, 6, 0, 7)? == DONE);
    ensure!(discover(&nic, 7)? == [(1, 1), (1, 2)]);
    daemon.stop()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_mtu_is_followed_up_and_down() -> Result<()> {
    let scene = Scene::new(1, 9000)?;
    scene.folder.image("disk.img", 8 * MIB)?;
    scene.configure(&two())?;
    let daemon = scene.start()?;
    let nic = scene.nic(0)?;
    let mut tag = 0;
    for (mtu, sectors) in [(9000, 17), (1500, 2), (9000, 17)] {
        for (host, name) in [(&scene.host, "tgt0"), (&scene.initiator, "ini0")] {
            host.ip(&format!("link set {name} mtu {mtu}"))?;
        }
        let e1_1 = scene.path(&nic, 0, (1, 1))?;
        wait_until("it offers what fits", SOON, || {
            tag += 1;
            let frame = ask(&nic, &e1_1.config(tag, config::READ, b""))?;
            Ok(Response(&frame).sector_count() == sectors)
        })?;
        ensure!(write(&nic, e1_1, 1000 + tag, 0, 1)? == DONE);
    }
    daemon.stop()
}
