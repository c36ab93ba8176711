//! The metrics' text.

use aoede::control::metrics;
use aoede::control::status::Status;

use crate::fake::status;

#[test]
fn every_kind_of_thing_has_its_metrics() {
    let text = metrics::text(&status());
    for line in [
        "# TYPE aoede_export_read_bytes_total counter",
        "aoede_info{version=\"1.2.3\"} 1",
        "aoede_uptime_seconds 3723.000000000",
        "aoede_last_reload_succeeded 1",
        "aoede_worker_pool_used_buffers{worker=\"0\"} 3",
        "aoede_interface_mtu_bytes{interface=\"eth0\"} 9000",
        "aoede_ring_dropped_frames_total{interface=\"eth0\",worker=\"0\"} 5",
        "aoede_export_read_bytes_total{export=\"e1.1\"} 409600",
        "aoede_export_failed{export=\"e1.2\"} 1",
        "aoede_ignored_frames_total{export=\"\",reason=\"address\"} 9",
        "aoede_ignored_frames_total{export=\"e1.1\",reason=\"masked\"} 7",
        "aoede_initiator_idle_seconds{export=\"e1.1\",initiator=\"52:54:00:00:00:aa\"} 0.012000000",
        "aoede_initiator_requests_total{export=\"e1.1\",initiator=\"52:54:00:00:00:aa\"} 130",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}");
    }
}

#[test]
fn buckets_hold_what_is_no_longer_than_their_bounds() {
    let text = metrics::text(&status());
    let bucket = |bound: &str| {
        let start = format!(
            "aoede_export_request_duration_seconds_bucket{{export=\"e1.1\",operation=\"read\",le=\"{bound}\"}} "
        );
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start}"))
            .parse::<u64>()
            .unwrap()
    };
    // 97 reads of 0.1 ms and 3 of 2 ms.
    assert_eq!(bucket("0.000065536"), 0);
    assert_eq!(bucket("0.000131072"), 97);
    assert_eq!(bucket("0.001048576"), 97);
    assert_eq!(bucket("0.002097152"), 100);
    assert_eq!(bucket("17.179869184"), 100);
    assert_eq!(bucket("+Inf"), 100);
    let labels = "{export=\"e1.1\",operation=\"read\"}";
    let sum = format!("aoede_export_request_duration_seconds_sum{labels} 0.015700000");
    assert!(text.lines().any(|line| line == sum));
}

#[test]
fn labels_cannot_break_out() {
    let mut status = status();
    status.interfaces[0].name = "a\"b\\c\nd".to_owned();
    let text = metrics::text(&status);
    assert!(text.contains("aoede_interface_up{interface=\"a\\\"b\\\\c\\nd\"} 1\n"));
}

#[test]
fn a_daemon_without_exports_has_metrics_too() {
    let text = metrics::text(&Status::default());
    assert!(text.contains("aoede_uptime_seconds 0.000000000\n"));
    assert!(!text.contains("aoede_export"));
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../contrib/grafana/aoede.json"
    );
    let dashboard = std::fs::read_to_string(path).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
    let text = metrics::text(&status());
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut names = 0;
    for (at, _) in dashboard.match_indices("aoede_") {
        let name = dashboard[at..].split(|c| !is_name(c)).next().unwrap();
        let found = text.lines().any(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        assert!(found, "{name}");
        names += 1;
    }
    assert!(names > 10, "{names}");
}
