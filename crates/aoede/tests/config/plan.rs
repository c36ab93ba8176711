//! From what is running to what is wanted.

use std::collections::BTreeMap;
use std::time::Duration;

use aoede::control::config::keys::{EXPORT, TOP};
use aoede::control::plan::{Adjustment, DaemonChange, ExportChange, State, diff};
use aoede_wire::Address;

use super::{export, right};

fn address(slot: u8) -> Address {
    Address::new(1, slot).unwrap()
}

/// What a text wants after nothing, on four cores.
fn started(text: &str) -> State {
    State::wanted(right(text), &State::default(), 4)
}

/// What a text wants after that.
fn reloaded(text: &str, running: &State) -> State {
    State::wanted(right(text), running, 4)
}

/// The only change that comes of a line more.
fn change(line: &str) -> ExportChange {
    let running = started(&export(""));
    let wanted = reloaded(&export(line), &running);
    let plan = diff(&running, &wanted);
    assert_eq!(plan.clone().apply(running), wanted, "{line}");
    assert_eq!(plan.daemon, [], "{line}");
    assert_eq!(plan.exports.len(), 1, "{line}");
    plan.exports.get(&address(1)).unwrap().clone()
}

#[test]
fn every_key_of_an_export_is_a_change_in_place_or_a_reason_to_reopen() {
    let reopened = [
        ("offset = 8", "offset"),
        ("length = 8", "length"),
        ("read_only = true", "read_only"),
        ("cache = \"writeback\"", "cache"),
        ("cache_size = \"1MiB\"", "cache_size"),
        ("dirty_size = \"1MiB\"", "dirty_size"),
        ("dirty_age = \"2s\"", "dirty_age"),
        ("io = \"buffered\"", "io"),
        ("shadow = \"/srv/s\"", "shadow"),
        ("engine = \"aio\"", "engine"),
        ("buffers = 16", "buffers"),
        ("model = \"x\"", "model"),
        ("serial = \"x\"", "serial"),
        ("worker = 3", "worker"),
    ];
    for (line, key) in reopened {
        match change(line) {
            ExportChange::Reopen { because, .. } => assert_eq!(because, [key]),
            other => panic!("{line}: {other:?}"),
        }
    }
    let adjusted = [
        "create = \"1MiB\"",
        "allow = [\"52:54:00:00:00:01\"]",
        "allow_read = [\"52:54:00:00:00:01\"]",
        "allow_write = []",
        "allow_configure = []",
        "extensions = []",
        "extension_reset = \"config\"",
        "bytes_per_second = \"1MiB\"",
        "operations_per_second = 100",
        // The one that it has already.
        "worker = 0",
    ];
    for line in adjusted {
        match change(line) {
            ExportChange::Adjust(adjustments) => assert_eq!(adjustments.len(), 1, "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    let lines = reopened.iter().map(|(line, _)| *line).chain(adjusted);
    let tried: Vec<&str> = lines.filter_map(|line| line.split(' ').next()).collect();
    // These are tried below: they stand in every export, or belong to a shadow.
    let others = [
        "address",
        "path",
        "interfaces",
        "shadow_limit",
        "shadow_full",
        "unfinished_freeze",
    ];
    for key in EXPORT {
        assert!(
            tried.contains(&key.name) || others.contains(&key.name),
            "{}",
            key.name
        );
    }
}

#[test]
fn another_path_is_a_reason_to_reopen_and_other_interfaces_are_not() {
    let running = started(&export(""));
    let wanted = reloaded(&export("").replace("/srv/a", "/srv/b"), &running);
    let plan = diff(&running, &wanted);
    let ExportChange::Reopen { to, because } = &plan.exports[&address(1)] else {
        panic!("{plan:?}")
    };
    assert_eq!(because, &["path"]);
    assert_eq!(to.export.settings.path.to_str(), Some("/srv/b"));

    let wanted = reloaded(&export("").replace("eth0", "eth1"), &running);
    let plan = diff(&running, &wanted);
    let [(_, [Adjustment::Interfaces(interfaces)])] = plan.adjustments().collect::<Vec<_>>()[..]
    else {
        panic!("{plan:?}")
    };
    assert_eq!(interfaces[0].as_str(), "eth1");
}

#[test]
fn a_change_of_the_shadow_is_a_reason_to_reopen() {
    let running = started(&export("shadow = \"/srv/s\""));
    for (line, key) in [
        ("shadow_limit = \"1GiB\"", "shadow_limit"),
        ("shadow_full = \"thaw\"", "shadow_full"),
        ("unfinished_freeze = \"merge\"", "unfinished_freeze"),
    ] {
        let wanted = reloaded(&export(&format!("shadow = \"/srv/s\"\n{line}")), &running);
        match &diff(&running, &wanted).exports[&address(1)] {
            ExportChange::Reopen { because, .. } => assert_eq!(because, &[key]),
            other => panic!("{line}: {other:?}"),
        }
    }
    // None any more.
    let wanted = reloaded(&export(""), &running);
    let plan = diff(&running, &wanted);
    assert_eq!(plan.closings().collect::<Vec<_>>(), [address(1)]);
}

/// Two exports that change files are both closed before one is opened.
#[test]
fn files_are_closed_before_others_are_opened() {
    let text = |first: &str, second: &str| {
        let second = export("").replace("e1.1", "e1.2").replace("/srv/a", second);
        format!("{}{second}", export("").replace("/srv/a", first))
    };
    let running = started(&text("/srv/a", "/srv/b"));
    let wanted = reloaded(&text("/srv/b", "/srv/a"), &running);
    let plan = diff(&running, &wanted);
    assert_eq!(
        plan.closings().collect::<Vec<_>>(),
        [address(1), address(2)]
    );
    let openings: BTreeMap<Address, &str> = plan
        .openings()
        .map(|(address, placed)| (address, placed.export.settings.path.to_str().unwrap()))
        .collect();
    assert_eq!(
        openings,
        BTreeMap::from([(address(1), "/srv/b"), (address(2), "/srv/a")])
    );
}

#[test]
fn what_has_not_changed_is_in_no_plan() {
    let second = export("")
        .replace("e1.1", "e1.2")
        .replace("/srv/a", "/srv/b");
    let running = started(&format!("{}{second}", export("")));
    let again = reloaded(&format!("# new\n{second}{}", export("")), &running);
    assert!(diff(&running, &again).is_empty());

    // The first is gone: the second stays where it is.
    let wanted = reloaded(&second, &running);
    let plan = diff(&running, &wanted);
    assert_eq!(
        plan.exports,
        BTreeMap::from([(address(1), ExportChange::Close)])
    );
    assert_eq!(plan.clone().apply(running), wanted);
    assert_eq!(wanted.exports[&address(2)].worker, 1);

    // And when it comes back, it gets the worker that has nothing to do.
    let third = reloaded(&format!("{}{second}", export("")), &wanted);
    let plan = diff(&wanted, &third);
    let openings: Vec<_> = plan
        .openings()
        .map(|(address, placed)| (address, placed.worker))
        .collect();
    assert_eq!(openings, [(address(1), 0)]);
}

#[test]
fn every_key_of_the_daemon_is_a_change() {
    let running = started(&export(""));
    let changes = [
        (
            "state_folder = \"/srv/x\"",
            DaemonChange::StateFolder("/srv/x".into()),
        ),
        ("workers = 4", DaemonChange::Workers(Some(4))),
        (
            "busy_poll = \"1ms\"",
            DaemonChange::BusyPoll(Duration::from_millis(1)),
        ),
        (
            "[control]\nsocket = \"/run/x\"",
            DaemonChange::Socket("/run/x".into()),
        ),
        (
            "[control]\ngroup = \"x\"",
            DaemonChange::Group(Some("x".to_owned())),
        ),
        (
            "[status]\nlisten = \"127.0.0.1:80\"",
            DaemonChange::Status(Some("127.0.0.1:80".parse().unwrap())),
        ),
    ];
    // The others are tables for these, or for exports.
    assert_eq!(TOP.len() - 5 + 3, changes.len());
    for (line, expected) in changes {
        let wanted = reloaded(&format!("{line}\n{}", export("")), &running);
        let plan = diff(&running, &wanted);
        assert_eq!(plan.exports, BTreeMap::new(), "{line}");
        assert_eq!(plan.daemon, [expected], "{line}");
        assert_eq!(plan.apply(running.clone()), wanted, "{line}");
    }
}

/// Workers of exports e1.1, e1.2, … with these lines.
fn workers(head: &str, lines: &[&str], running: &State, cores: u16) -> (Vec<u16>, State) {
    let exports = (1..).zip(lines).map(|(slot, line)| {
        let text = export(line).replace("e1.1", &format!("e1.{slot}"));
        text.replace("/srv/a", &format!("/srv/{slot}"))
    });
    let config = right(&format!("{head}\n{}", exports.collect::<String>()));
    let state = State::wanted(config, running, cores);
    (
        state.exports.values().map(|placed| placed.worker).collect(),
        state,
    )
}

#[test]
fn exports_are_spread_over_the_cores() {
    let fresh = |head, lines: &[&str], cores| workers(head, lines, &State::default(), cores).0;
    assert_eq!(fresh("", &["", "", ""], 8), [0, 1, 2]);
    assert_eq!(fresh("", &["", "", "", "", ""], 2), [0, 1, 0, 1, 0]);
    assert_eq!(fresh("workers = 1", &["", "", ""], 8), [0, 0, 0]);
    // No core at all is one.
    assert_eq!(fresh("", &["", ""], 0), [0, 0]);
    // Pinned ones are counted first, wherever they stand.
    assert_eq!(fresh("", &["", "", "worker = 0"], 2), [1, 0, 0]);
    assert_eq!(fresh("", &["", "worker = 0", "worker = 0"], 2), [1, 0, 0]);
    // A pin is heard on a host with fewer cores too, and nobody else goes there.
    assert_eq!(fresh("", &["worker = 5", "", ""], 2), [5, 0, 1]);
}

#[test]
fn exports_stay_with_their_workers() {
    let (placed, running) = workers("", &["", "", "", ""], &State::default(), 2);
    assert_eq!(placed, [0, 1, 0, 1]);
    // A new one among them does not move them.
    let (placed, _) = workers("", &["", "", "", "", ""], &running, 2);
    assert_eq!(placed, [0, 1, 0, 1, 0]);
    // Fewer workers do, those that have to.
    let (placed, fewer) = workers("workers = 1", &["", "", "", ""], &running, 2);
    assert_eq!(placed, [0, 0, 0, 0]);
    let plan = diff(&running, &fewer);
    assert_eq!(
        plan.closings().collect::<Vec<_>>(),
        [address(2), address(4)]
    );
    // More do not.
    let (placed, _) = workers("workers = 4", &["", "", "", ""], &running, 2);
    assert_eq!(placed, [0, 1, 0, 1]);
}
