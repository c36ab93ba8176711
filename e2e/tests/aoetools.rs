//! The AoE tools of Linux distributions (aoetools) as the initiator, from another host.

use std::time::Duration;

use anyhow::{Result, ensure};
use aoede_e2e::{Export, Finished, Maker, Namespace, Packages, Scratch, TargetProcess, run};

/// Long enough that the responses of targets that do not pad reach the tools, which discard
/// frames under 60 bytes.
const LONG: &str = "the quick brown fox jumps over the lazy dog";

struct Scene {
    initiator: Namespace,
    target: TargetProcess,
    _folder: Scratch,
}

impl Scene {
    fn new() -> Result<Self> {
        let folder = Scratch::new()?;
        let (host, initiator) = Namespace::pair(9000)?;
        let image = folder.image("disk.img", 8 << 20)?;
        let target = Export::new(&image, "tgt0").start(&host, Maker::under_test())?;
        Ok(Self {
            initiator,
            target,
            _folder: folder,
        })
    }

    fn tool(&self, name: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = Packages::open()?.command(name)?;
        command.args(arguments);
        run(Some(&self.initiator), command, Duration::from_secs(30))
    }

    /// What `aoecfg` prints for a sub-command and a string, addressed to e1.1.
    fn config(&self, sub_command: &str, string: &str) -> Result<String> {
        let arguments = ["-t", "1", "-c", sub_command, "-s", string, "1", "1", "ini0"];
        let finished = self.tool("aoecfg", &arguments)?;
        ensure!(finished.code == 0, "aoecfg failed: {finished:?}");
        Ok(format!("{}{}", finished.stdout, finished.stderr)
            .trim()
            .to_owned())
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn aoecfg_reads_tests_and_sets_the_config_string() -> Result<()> {
    let scene = Scene::new()?;
    for (sub_command, string, answer, why) in [
        ("set", LONG, LONG, "an empty string can be set"),
        ("read", "", LONG, "what was set is read"),
        ("test", LONG, LONG, "the same string passes the test"),
        (
            "test",
            "the quick",
            "",
            "a prefix is not the same string: silence",
        ),
        (
            "prefix",
            "the quick",
            LONG,
            "a prefix passes the prefix test",
        ),
        ("prefix", "quick", "", "what is no prefix does not: silence"),
        (
            "set",
            "something else",
            "*badcfg*",
            "a string that is there is not replaced by set",
        ),
        (
            "fset",
            &LONG.to_uppercase(),
            &LONG.to_uppercase(),
            "force set replaces it",
        ),
        (
            "read",
            "",
            &LONG.to_uppercase(),
            "what was force set is read",
        ),
    ] {
        let said = scene.config(sub_command, string)?;
        ensure!(
            said == answer,
            "{why}: aoecfg {sub_command} `{string}` says `{said}`"
        );
    }
    // To everybody: one line for each target, with its own address.
    let everybody = scene.tool("aoecfg", &["-t", "1", "ini0"])?;
    ensure!(
        everybody.stdout == format!("1.1\t{}\n", LONG.to_uppercase()),
        "{everybody:?}"
    );
    if Maker::under_test() == Maker::Aoede {
        let said = scene.config("fset", "short")?;
        ensure!(
            said == "short",
            "a short response must be padded to 60 bytes: `{said}`"
        );
    }
    scene.target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn aoeping_reaches_and_identifies_the_target() -> Result<()> {
    let scene = Scene::new()?;
    scene.config("fset", LONG)?;
    let ping = scene.tool("aoeping", &["-s", "5", "1", "1", "ini0"])?;
    ensure!(ping.code == 0, "{ping:?}");
    let identify = scene.tool("aoeping", &["-s", "5", "-I", "1", "1", "ini0"])?;
    ensure!(identify.code == 0, "{identify:?}");
    let serial = identify
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("serial_number: "));
    ensure!(
        serial.is_some_and(|serial| serial.starts_with("1.1:")),
        "{identify:?}"
    );
    let model = identify
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("model: "));
    ensure!(
        model.is_some_and(|model| !model.trim().is_empty()),
        "{identify:?}"
    );
    // It asks for SMART only where word 82 announces it; saying no is an answer, silence is not.
    let smart = scene.tool(
        "aoeping",
        &["-s", "5", "-S", "return_status", "1", "1", "ini0"],
    )?;
    let refused = smart.stderr.contains("does not support SMART");
    ensure!(smart.code == 0 || (smart.code == 1 && refused), "{smart:?}");
    let nobody = scene.tool("aoeping", &["-s", "1", "1", "2", "ini0"])?;
    ensure!(
        nobody.code != 0,
        "e1.2 is not ours and must not answer: {nobody:?}"
    );
    scene.target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn aoe_sancheck_finds_one_path_with_full_payload() -> Result<()> {
    let scene = Scene::new()?;
    scene.config("fset", LONG)?;
    let check = scene.tool("aoe-sancheck", &[])?;
    let devices: Vec<Vec<&str>> = check
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<&str>| words.first() == Some(&"e1.1"))
        .collect();
    ensure!(
        devices == [["e1.1", "1", "8704", "ini0"]],
        "{}",
        check.stdout
    );
    scene.target.stop().map(drop)
}
