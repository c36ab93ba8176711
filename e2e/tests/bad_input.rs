//! What people get wrong on the command line: every message names the thing and the remedy, the
//! exit code says whose fault it was, and nothing has been touched.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aoede_e2e::{
    Export, Finished, Maker, Namespace, Nic, Process, Scratch,
    aoe::{Addressing, Response, ata},
    aoede_binary, as_nobody, public_copy, run,
};

const SOON: Duration = Duration::from_secs(20);
/// Exit codes: the command line is wrong; it is right but cannot be done.
const USAGE: i32 = 2;
const FAILED: i32 = 1;

/// A case: arguments, exit code, and groups of words; one of each group must be in the message.
/// `{}` in an argument or a word stands for the scratch folder.
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    code: i32,
    says: &'static [&'static [&'static str]],
}

const CASES: &[Case] = &[
    Case {
        name: "no such file",
        arguments: &["e1.1", "{}/none.img", "-i", "tgt0"],
        code: FAILED,
        says: &[&["{}/none.img"], &["--create"]],
    },
    Case {
        name: "no such interface",
        arguments: &["e1.1", "{}/good.img", "-i", "tgt9"],
        code: FAILED,
        says: &[&["there is no interface tgt9; there is "], &["tgt0"]],
    },
    Case {
        name: "the second of two interfaces does not exist",
        arguments: &["e1.1", "{}/good.img", "-i", "tgt0,tgt9"],
        code: FAILED,
        says: &[&["tgt9"]],
    },
    Case {
        name: "loopback",
        arguments: &["e1.1", "{}/good.img", "-i", "lo"],
        code: FAILED,
        says: &[&["lo"], &["not Ethernet", "not an Ethernet"]],
    },
    Case {
        name: "a tunnel without Ethernet",
        arguments: &["e1.1", "{}/good.img", "-i", "tun0"],
        code: FAILED,
        says: &[&["tun0"], &["not Ethernet", "not an Ethernet"]],
    },
    Case {
        name: "MTU too small",
        arguments: &["e1.1", "{}/good.img", "-i", "small0"],
        code: FAILED,
        says: &[&["small0"], &["1041"], &["1042"], &["mtu"]],
    },
    Case {
        name: "empty file",
        arguments: &["e1.1", "{}/empty.img", "-i", "tgt0"],
        code: FAILED,
        says: &[
            &["{}/empty.img"],
            &["empty", "no sector", "0 bytes"],
            &["--create", "truncate"],
        ],
    },
    Case {
        name: "less than one sector",
        arguments: &["e1.1", "{}/tiny.img", "-i", "tgt0"],
        code: FAILED,
        says: &[&["{}/tiny.img"], &["512"]],
    },
    Case {
        name: "a folder",
        arguments: &["e1.1", "{}", "-i", "tgt0"],
        code: FAILED,
        says: &[&["{}"], &["directory"]],
    },
    Case {
        name: "a window beyond the end",
        arguments: &[
            "e1.1",
            "{}/good.img",
            "-i",
            "tgt0",
            "--offset",
            "2000",
            "--length",
            "100",
        ],
        code: FAILED,
        says: &[&["--length 100"], &["48 sectors"]],
    },
    Case {
        name: "shelf 65535",
        arguments: &["e65535.1", "{}/good.img", "-i", "tgt0"],
        code: USAGE,
        says: &[&["65535"], &["65534"]],
    },
    Case {
        name: "slot 255",
        arguments: &["e1.255", "{}/good.img", "-i", "tgt0"],
        code: USAGE,
        says: &[&["255"], &["254"]],
    },
    Case {
        name: "no address",
        arguments: &["disk", "{}/good.img", "-i", "tgt0"],
        code: USAGE,
        says: &[&["disk"], &["e1.1", "e7.1", "shelf.slot"]],
    },
    Case {
        name: "bad MAC address",
        arguments: &[
            "e1.1",
            "{}/good.img",
            "-i",
            "tgt0",
            "--allow",
            "02:00:00:00:00:zz",
        ],
        code: USAGE,
        says: &[&["02:00:00:00:00:zz"], &["--allow"]],
    },
    Case {
        name: "one buffer",
        arguments: &["e1.1", "{}/good.img", "-i", "tgt0", "--buffers", "1"],
        code: USAGE,
        says: &[&["--buffers"], &["2"]],
    },
    Case {
        name: "no interface",
        arguments: &["e1.1", "{}/good.img"],
        code: USAGE,
        says: &[&["-i", "--interface"]],
    },
];

struct Scene {
    host: Namespace,
    initiator: Namespace,
    folder: Scratch,
}

impl Scene {
    fn new() -> Result<Self> {
        let (host, initiator) = Namespace::pair(1500)?;
        host.veth("small0", &initiator, "ini1", 1041)?;
        host.ip("tuntap add tun0 mode tun")?;
        host.ip("link set tun0 up")?;
        let folder = Scratch::new()?;
        folder.image("good.img", 1 << 20)?;
        folder.image("empty.img", 0)?;
        folder.image("tiny.img", 511)?;
        Ok(Self {
            host,
            initiator,
            folder,
        })
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{}", &self.folder.path().display().to_string())
    }

    fn export(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(aoede_binary()?);
        command
            .arg("export")
            .args(arguments.iter().map(|argument| self.fill(argument)));
        run(Some(&self.host), command, SOON).context("it does not end")
    }

    fn judge(&self, finished: &Finished, code: i32, says: &[&[&str]]) -> Result<()> {
        let said = &finished.stderr;
        ensure!(!said.contains("panicked"), "it panicked:\n{said}");
        ensure!(
            finished.code == code,
            "exit code {}, not {code}:\n{said}",
            finished.code
        );
        let lower = said.to_lowercase();
        for group in says {
            let found = group
                .iter()
                .any(|word| lower.contains(&self.fill(word).to_lowercase()));
            ensure!(found, "none of {group:?} in:\n{said}");
        }
        Ok(())
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn every_mistake_is_named_with_its_remedy() -> Result<()> {
    let scene = Scene::new()?;
    let mut wrong = Vec::new();
    for case in CASES {
        let judged = scene
            .export(case.arguments)
            .and_then(|finished| scene.judge(&finished, case.code, case.says));
        if let Err(error) = judged {
            wrong.push(format!("{}: {error:#}", case.name));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} cases:\n\n{}",
        wrong.len(),
        CASES.len(),
        wrong.join("\n\n")
    );
    let left: u64 = fs::read(scene.folder.join("good.img"))?
        .iter()
        .map(|&byte| u64::from(byte))
        .sum();
    ensure!(left == 0, "the image was touched");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_tail_of_an_odd_file_is_left_out_with_a_warning() -> Result<()> {
    let scene = Scene::new()?;
    let image = scene.folder.image("odd.img", 4 * 512 + 100)?;
    let target = Export::new(&image, "tgt0").start(&scene.host, Maker::Aoede)?;
    let said = target.log()?.text().to_lowercase();
    ensure!(
        said.contains("warn") && said.contains("odd.img") && said.contains("100"),
        "no warning:\n{said}"
    );
    let nic = Nic::open(&scene.initiator, "ini0")?;
    let e1_1 = Addressing {
        to: scene.host.mac("tgt0")?,
        from: nic.mac(),
        address: (1, 1),
    };
    let Some(frame) = nic.exchange(&e1_1.ata(1, ata::IDENTIFY, 0, 1, b""), SOON)? else {
        bail!("no response")
    };
    ensure!(
        Response(&frame).data()[200..208] == [4, 0, 0, 0, 0, 0, 0, 0],
        "not 4 sectors"
    );
    target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_file_is_not_exported_twice() -> Result<()> {
    let scene = Scene::new()?;
    let image = scene.folder.join("good.img");
    let first = Export::new(&image, "tgt0").start(&scene.host, Maker::Aoede)?;
    let second = scene.export(&["e1.2", "{}/good.img", "-i", "tgt0"])?;
    let number = first.id()?.to_string();
    scene.judge(
        &second,
        FAILED,
        &[
            &["{}/good.img"],
            &["already", "in use"],
            &[&number],
            &["stop it"],
        ],
    )?;
    first.stop()?;
    // Readers share, so that there is another way out.
    let reader = Export::new(&image, "tgt0")
        .with(&["--read-only"])
        .start(&scene.host, Maker::Aoede)?;
    let writer = scene.export(&["e1.2", "{}/good.img", "-i", "tgt0"])?;
    let number = reader.id()?.to_string();
    let words: &[&[&str]] = &[&["{}/good.img"], &[&number], &["stop it"], &["--read-only"]];
    scene.judge(&writer, FAILED, words)?;
    Export::new(&image, "tgt0")
        .at(1, 2)
        .with(&["--read-only"])
        .start(&scene.host, Maker::Aoede)?
        .stop()?;
    reader.stop()?;
    // The lock ends with its holder, also when that was killed.
    Export::new(&image, "tgt0")
        .start(&scene.host, Maker::Aoede)?
        .kill()?;
    Export::new(&image, "tgt0")
        .start(&scene.host, Maker::Aoede)?
        .stop()
        .map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_file_that_cannot_be_written_wants_read_only() -> Result<()> {
    let scene = Scene::new()?;
    let program = public_copy(&scene.folder)?;
    let raw = ["--inh-caps=+net_raw", "--ambient-caps=+net_raw"];
    let arguments =
        ["export", "e1.1", "{}/good.img", "-i", "tgt0"].map(|argument| scene.fill(argument));
    let mut command = as_nobody(&raw, &program)?;
    command.args(&arguments);
    let refused = run(Some(&scene.host), command, SOON)?;
    scene.judge(
        &refused,
        FAILED,
        &[
            &["{}/good.img"],
            &["permission", "not writable", "cannot be written"],
            &["--read-only"],
        ],
    )?;
    // And the remedy helps: CAP_NET_RAW is all it needs.
    let mut command = as_nobody(&raw, &program)?;
    command.args(&arguments).arg("--read-only");
    let mut target = Process::spawn("aoede as nobody", Some(&scene.host), command)?;
    target.stderr.wait_for("serving e1.1", SOON)?;
    target.signal(rustix::process::Signal::TERM)?;
    ensure!(target.wait(SOON)?.success(), "no clean end");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_the_right_to_raw_sockets_it_says_which() -> Result<()> {
    let scene = Scene::new()?;
    let mut command = as_nobody(&["--inh-caps=-all"], &public_copy(&scene.folder)?)?;
    command.args(
        ["export", "e1.1", "{}/good.img", "-i", "tgt0", "--read-only"]
            .map(|argument| scene.fill(argument)),
    );
    let refused = run(Some(&scene.host), command, SOON)?;
    scene.judge(
        &refused,
        FAILED,
        &[&["CAP_NET_RAW"], &["root", "sudo", "setcap"]],
    )
}
