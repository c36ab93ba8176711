//! What a person sees of a daemon: `aoede status` and `aoede top` in a terminal, the status page in a
//! browser, the metrics as Prometheus takes them.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Namespace, Nic, Packages, Process, Scratch,
    aoe::{Addressing, Response, ata},
    aoede_binary, run, succeed, target_folder, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const PAGE: &str = "127.0.0.1:34978";

/// Two hosts. One has a daemon with the disks e1.1 and e1.2, of one MiB each.
struct Scene {
    host: Namespace,
    nic: Nic,
    folder: Scratch,
    daemon: Option<Process>,
}

impl Scene {
    fn new() -> Result<Self> {
        let (host, initiator) = Namespace::pair(1500)?;
        host.ip("link set lo up")?;
        let folder = Scratch::new()?;
        let (one, two) = (
            folder.image("one.img", 1 << 20)?,
            folder.image("two.img", 1 << 20)?,
        );
        fs::create_dir(folder.join("state"))?;
        let config = format!(
            r#"
            state_folder = "{state}"
            [control]
            socket = "{socket}"
            [status]
            listen = "{PAGE}"
            [defaults]
            interfaces = ["tgt0"]
            [[export]]
            address = "e1.1"
            path = "{one}"
            [[export]]
            address = "e1.2"
            path = "{two}"
            "#,
            state = folder.join("state").display(),
            socket = folder.join("control.sock").display(),
            one = one.display(),
            two = two.display(),
        );
        fs::write(folder.join("aoede.toml"), config)?;
        let mut scene = Self {
            nic: Nic::open(&initiator, "ini0")?,
            host,
            folder,
            daemon: None,
        };
        scene.start()?;
        Ok(scene)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    fn start(&mut self) -> Result<()> {
        let mut command = Command::new(aoede_binary()?);
        command.args(["serve", "--config"]);
        command.arg(self.folder.join("aoede.toml"));
        self.daemon = Some(Process::spawn("aoede serve", Some(&self.host), command)?);
        wait_until("the daemon answers", SOON, || {
            Ok(self.aoede(&["status", "--json"])?.code == 0)
        })?;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("there is no daemon")?;
        let output = self.aoede(&["stop"])?;
        ensure!(output.code == 0, "{output:?}");
        let status = daemon.wait(SOON)?;
        ensure!(status.success(), "{status}");
        ensure!(!self.socket().exists(), "the socket is still there");
        Ok(())
    }

    /// Runs a command that asks the daemon.
    fn aoede(&self, arguments: &[&str]) -> Result<aoede_e2e::Finished> {
        let mut command = Command::new(aoede_binary()?);
        command.args(arguments).arg("--socket").arg(self.socket());
        run(None, command, SOON)
    }

    fn status(&self) -> Result<Value> {
        let output = self.aoede(&["status", "--json"])?;
        ensure!(output.code == 0, "{output:?}");
        Ok(serde_json::from_str(&output.stdout)?)
    }

    fn exchange(&self, tag: u32, command: u8, data: &[u8]) -> Result<()> {
        let e1_1 = Addressing {
            to: self.host.mac("tgt0")?,
            from: self.nic.mac(),
            address: (1, 1),
        };
        let request = e1_1.ata(tag, command, 8, 2, data);
        let frame = self.nic.exchange(&request, SOON)?.context("no response")?;
        let registers = Response(&frame).registers();
        ensure!(registers == (0, 0x40), "{registers:02x?}");
        Ok(())
    }

    /// Four writes and three reads of 1 KiB each.
    fn work(&self) -> Result<()> {
        for tag in 1..=4 {
            self.exchange(tag, ata::WRITE, &[7; 1024])?;
        }
        for tag in 5..=7 {
            self.exchange(tag, ata::READ, &[])?;
        }
        Ok(())
    }

    /// What the page's address has at a path: without the head.
    fn get(&self, path: &str) -> Result<String> {
        self.host.enter(|| {
            let mut stream = TcpStream::connect(PAGE)?;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {PAGE}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
            ensure!(head.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            Ok(body.to_owned())
        })
    }

    /// The browser shows the page for some seconds of its own time, which goes on as fast as the
    /// daemon answers.
    fn browse(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Packages::open()?.command("chromium-headless-shell")?;
        command
            .args(["--no-sandbox", "--disable-gpu", "--window-size=1280,1250"])
            .args(["--virtual-time-budget=60000", "--timeout=30000"])
            .arg(format!(
                "--user-data-dir={}",
                self.folder.join("browser").display()
            ))
            .args(arguments)
            .arg(format!("http://{PAGE}/"));
        succeed(Some(&self.host), command, Duration::from_secs(60))
    }
}

/// The text of the first element after `start` that has this field.
fn field<'a>(dom: &'a str, start: &str, name: &str) -> Result<&'a str> {
    let (_, after) = dom
        .split_once(start)
        .with_context(|| format!("no {start}: {dom}"))?;
    let mark = format!("data-field=\"{name}\">");
    let (_, after) = after
        .split_once(&mark)
        .with_context(|| format!("no {mark}"))?;
    let (text, _) = after.split_once('<').context("no end")?;
    Ok(text)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_page_in_a_browser_has_the_figures_of_status() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.work()?;
    let dom = scene.browse(&["--dump-dom"])?;
    let status = scene.status()?;
    let export = &status["exports"][0];
    let card = "data-export=\"e1.1\"";
    for (name, shown, value) in [
        ("reads", "3", 3),
        ("read_bytes", "3 KiB", 3072),
        ("writes", "4", 4),
        ("written_bytes", "4 KiB", 4096),
        ("flushes", "0", 0),
        ("size_bytes", "1 MiB", 1 << 20),
    ] {
        ensure!(export[name] == value, "{name}: {export}");
        let found = field(&dom, card, name)?;
        ensure!(found == shown, "{name}: {found} instead of {shown}");
    }
    let initiator = &export["initiators"][0];
    ensure!(initiator["written_bytes"] == 4096, "{initiator}");
    let mac = initiator["mac"].as_str().context("no MAC")?;
    let found = field(&dom, &format!("<h3>{mac}</h3>"), "written_bytes")?;
    ensure!(found == "4 KiB", "{found}");
    ensure!(dom.contains("data-ready="), "it has not drawn: {dom}");
    ensure!(!dom.contains("No answer"), "{dom}");
    for scheme in ["light", "dark"] {
        let picture = target_folder().join(format!("status-page-{scheme}.png"));
        let _ = fs::remove_file(&picture);
        scene.browse(&[
            &format!("--screenshot={}", picture.display()),
            // 0 is dark, 1 is light.
            &format!(
                "--blink-settings=preferredColorScheme={}",
                u8::from(scheme == "light")
            ),
        ])?;
        let bytes = fs::metadata(&picture)?.len();
        ensure!(bytes > 20_000, "{} has {bytes} bytes", picture.display());
    }
    scene.stop()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn prometheus_takes_the_metrics() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.work()?;
    let text = scene.get("/metrics")?;
    for line in [
        "aoede_export_writes_total{export=\"e1.1\"} 4",
        "aoede_export_written_bytes_total{export=\"e1.1\"} 4096",
        "aoede_export_request_duration_seconds_count{export=\"e1.1\",operation=\"read\"} 3",
    ] {
        ensure!(text.lines().any(|one| one == line), "no {line}: {text}");
    }
    let file = scene.folder.join("metrics");
    fs::write(&file, text)?;
    let mut promtool = Packages::open()?.command("promtool")?;
    let output = promtool
        .args(["check", "metrics"])
        .stdin(File::open(&file)?)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(output.stderr.is_empty(), "{output:?}");
    scene.stop()
}

/// `tmux`, with a shell in a window of 150 columns and 30 lines.
struct Terminal {
    server: Process,
    socket: PathBuf,
}

impl Terminal {
    fn new(folder: &Scratch) -> Result<Self> {
        let socket = folder.join("tmux");
        let mut command = Packages::open()?.command("tmux")?;
        command.env("LC_ALL", "C.UTF-8").env("SHELL", "/bin/sh");
        // In the foreground, so that it ends with this test.
        command
            .args(["-D", "-u", "-f", "/dev/null", "-S"])
            .arg(&socket);
        let terminal = Self {
            server: Process::spawn("tmux", None, command)?,
            socket,
        };
        wait_until("tmux listens", SOON, || Ok(terminal.socket.exists()))?;
        terminal.tmux(&["new-session", "-d", "-x", "150", "-y", "30", "exec sh"])?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Packages::open()?.command("tmux")?;
        command.env("LC_ALL", "C.UTF-8");
        command
            .arg("-u")
            .arg("-S")
            .arg(&self.socket)
            .args(arguments);
        succeed(None, command, SOON)
    }

    fn keys(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&str) -> bool) -> Result<()> {
        let mut screen = String::new();
        wait_until(what, SOON, || {
            screen = self.screen()?;
            Ok(holds(&screen))
        })
        .with_context(|| format!("on the screen:\n{screen}"))
        .map(drop)
    }

    fn wait_for_text(&self, text: &str) -> Result<()> {
        self.wait_for(text, |screen| screen.contains(text))
    }

    /// Runs `top`, then shows how it has left the terminal.
    fn run_top(&self, scene: &Scene) -> Result<()> {
        let (aoede, socket) = (aoede_binary()?, scene.socket());
        let line = format!(
            "clear; {} top --socket {}; echo LEFT $?; stty -a",
            aoede.display(),
            socket.display()
        );
        self.keys(&[&line, "Enter"])?;
        self.wait_for_text("THROUGHPUT")
    }

    /// The terminal is as it was before.
    fn is_left(&self, code: i32) -> Result<()> {
        self.wait_for_text(&format!("LEFT {code}"))?;
        self.wait_for("the terminal's modes", |screen| {
            let words: Vec<&str> = screen.split([' ', ';', '\n']).collect();
            words.contains(&"icanon") && words.contains(&"echo")
        })?;
        let modes = self.tmux(&["display", "-p", "#{alternate_on} #{cursor_flag}"])?;
        ensure!(modes.trim() == "0 1", "alternate screen, cursor: {modes}");
        Ok(())
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn top_shows_what_happens_and_leaves_the_terminal_as_it_was() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut terminal = Terminal::new(&scene.folder)?;
    terminal.run_top(&scene)?;
    terminal.wait_for("both exports", |screen| {
        screen.contains("e1.1       serving") && screen.contains("e1.2       serving")
    })?;
    let mut tag = 0;
    terminal.wait_for_after(
        "a line of throughput",
        || {
            tag += 1;
            scene.exchange(tag, ata::WRITE, &[7; 1024])
        },
        |screen| screen.contains('█'),
    )?;
    terminal.wait_for_text("1 initiator of e1.1")?;
    terminal.keys(&["?"])?;
    terminal.wait_for_text("this help")?;
    terminal.keys(&["q"])?;
    terminal.wait_for("help is gone", |screen| !screen.contains("this help"))?;
    terminal.keys(&["Down"])?;
    terminal.wait_for_text("nobody was heard of at e1.2")?;

    scene.stop()?;
    terminal.wait_for_text("no daemon answers")?;
    scene.start()?;
    terminal.wait_for("it is back", |screen| {
        screen.contains("e1.2       serving") && !screen.contains("no daemon answers")
    })?;
    terminal.keys(&["q"])?;
    terminal.is_left(0)?;

    // A window that is too small for anything, then Ctrl-C.
    terminal.run_top(&scene)?;
    terminal.tmux(&["resize-window", "-x", "10", "-y", "3"])?;
    terminal.tmux(&["resize-window", "-x", "150", "-y", "30"])?;
    terminal.wait_for_text("THROUGHPUT")?;
    terminal.keys(&["C-c"])?;
    terminal.is_left(0)?;

    terminal.run_top(&scene)?;
    rustix::process::kill_process(terminal.running()?, Signal::TERM)?;
    terminal.is_left(0)?;

    // The terminal goes away.
    terminal.run_top(&scene)?;
    let top = terminal.running()?;
    terminal.server.kill()?;
    wait_until("it has ended", SOON, || {
        Ok(rustix::process::test_kill_process(top).is_err())
    })?;
    scene.stop()
}

impl Terminal {
    /// What the shell has started.
    fn running(&self) -> Result<rustix::process::Pid> {
        let shell = self.tmux(&["display", "-p", "#{pane_pid}"])?;
        let shell = shell.trim();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        rustix::process::Pid::from_raw(children.trim().parse()?).context("no process")
    }

    /// As [`Terminal::wait_for`], doing something before each look.
    fn wait_for_after(
        &self,
        what: &str,
        mut work: impl FnMut() -> Result<()>,
        holds: impl Fn(&str) -> bool,
    ) -> Result<()> {
        wait_until(what, SOON, || {
            work()?;
            Ok(holds(&self.screen()?))
        })
        .map(drop)
    }
}
