//! How `top` looks.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, TableState, Wrap};

use super::view::View;
use crate::command::status::figures::{bytes, silence, time, uptime, whole};
use crate::command::status::tables::state;
use crate::control::status::{ExportStatus, InitiatorStatus, Status};
use crate::harmless;
use crate::size::Size;

const HELP: &str = "\
arrows, j and k    choose an export: its initiators are shown
Page, Home, End    the same, faster
? or h             this help
q, Esc, Ctrl-C     leave

Rates, p50 and p99 are of the last second, throughput of the last minute.
Dirty data is acknowledged and not on stable storage.";

const KEYS: &str = "q quit   arrows choose   ? help";

/// Lines that initiators get at least.
const LEAST: u16 = 5;

pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let exports = view.status().map_or(0, |status| status.exports.len());
    let wanted = u16::try_from(exports).unwrap_or(u16::MAX).saturating_add(2);
    let [head, above, below, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Max(wanted),
        Constraint::Min(LEAST),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(frame, head, view);
    if let Some(status) = view.status() {
        draw_exports(frame, above, view, status);
        if let Some((_, export)) = view.chosen() {
            draw_initiators(frame, below, view, export);
        }
    }
    let faint = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Line::styled(KEYS, faint), keys);
    if view.help {
        draw_help(frame);
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let first = view.status().map_or_else(String::new, |status| {
        format!(
            "aoede {}   process {}   up {}   {}",
            status.daemon.program_version,
            status.daemon.pid,
            uptime(status.uptime_us),
            status.daemon.config_file
        )
    });
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let second = match (&view.trouble, view.status()) {
        (Some(why), _) => Line::styled(shown(&format!("{why}; trying again")), bad()),
        (None, Some(status)) => Line::raw(totals(view, status)),
        (None, None) => Line::raw(""),
    };
    let text = Text::from(vec![Line::styled(shown(&first), bold), second]);
    frame.render_widget(Paragraph::new(text), area);
}

fn totals(view: &View, status: &Status) -> String {
    let all = status.exports.iter().map(|export| view.export(export).0);
    let (mut read, mut written, mut operations) = (0.0, 0.0, 0.0);
    for rates in all {
        read += rates.read_bytes_per_second;
        written += rates.written_bytes_per_second;
        operations += rates.reads_per_second + rates.writes_per_second;
    }
    let rings = status.interfaces.iter().flat_map(|one| &one.rings);
    let lost: u64 = rings.map(|ring| ring.ring_drops).sum();
    format!(
        "{}/s read   {}/s written   {} IOPS   {lost} frames lost by full rings",
        bytes(read),
        bytes(written),
        whole(operations)
    )
}

/// A column of a table.
#[derive(Clone, Copy)]
struct Column {
    name: &'static str,
    /// 0 for the room that is left.
    width: u16,
    align: Alignment,
    /// A narrower screen has no room for it.
    least_screen: u16,
}

const fn text(name: &'static str, width: u16, least_screen: u16) -> Column {
    Column {
        name,
        width,
        align: Alignment::Left,
        least_screen,
    }
}

const fn number(name: &'static str, width: u16, least_screen: u16) -> Column {
    Column {
        align: Alignment::Right,
        ..text(name, width, least_screen)
    }
}

const EXPORT_HEAD: [Column; 12] = [
    text("ADDRESS", 9, 0),
    text("STATE", 12, 95),
    number("READ/s", 9, 0),
    number("WRITE/s", 9, 0),
    number("IOPS", 6, 0),
    number("R p50", 7, 125),
    number("R p99", 7, 0),
    number("W p50", 7, 125),
    number("W p99", 7, 0),
    number("DIRTY", 9, 0),
    number("DROPS/s", 7, 105),
    text("THROUGHPUT", 0, 0),
];

fn draw_exports(frame: &mut Frame<'_>, area: Rect, view: &View, status: &Status) {
    let rows = status.exports.iter().map(|export| {
        let (rates, line) = view.export(export);
        let cells = [
            shown(&export.address),
            state(export).to_owned(),
            bytes(rates.read_bytes_per_second),
            bytes(rates.written_bytes_per_second),
            whole(rates.reads_per_second + rates.writes_per_second),
            time(&rates.reads, rates.reads.p50_ns),
            time(&rates.reads, rates.reads.p99_ns),
            time(&rates.writes, rates.writes.p50_ns),
            time(&rates.writes, rates.writes.p99_ns),
            Size(export.cache.dirty_bytes).to_string(),
            whole(rates.drops_per_second),
            newest(&line, area, &EXPORT_HEAD),
        ];
        let style = if export.failure.is_some() {
            bad()
        } else {
            Style::new()
        };
        row(cells, area, &EXPORT_HEAD).style(style)
    });
    let table = table(rows, area, &EXPORT_HEAD);
    let chosen = view.chosen().map(|(place, _)| place);
    let mut state = TableState::new().with_selected(chosen);
    frame.render_stateful_widget(table, area, &mut state);
}

const INITIATOR_HEAD: [Column; 8] = [
    text("INITIATOR", 17, 0),
    number("READ/s", 9, 0),
    number("WRITE/s", 9, 0),
    number("REQ/s", 7, 0),
    number("UNDER WAY", 9, 0),
    number("DUPLICATES", 10, 102),
    number("SILENT", 10, 114),
    text("THROUGHPUT", 0, 0),
];

fn draw_initiators(frame: &mut Frame<'_>, area: Rect, view: &View, export: &ExportStatus) {
    let rows = export.initiators.iter();
    let rows = rows.map(|one| initiator(view, area, export, one));
    let title = match export.initiators.len() {
        0 => format!("nobody was heard of at {}", export.address),
        1 => format!("1 initiator of {}", export.address),
        more => format!("{more} initiators of {}", export.address),
    };
    let table = table(rows, area, &INITIATOR_HEAD).block(Block::new().title(shown(&title)));
    frame.render_widget(table, area);
}

fn initiator(
    view: &View,
    area: Rect,
    export: &ExportStatus,
    one: &InitiatorStatus,
) -> Row<'static> {
    let (rates, line) = view.initiator(export, one);
    let cells = [
        shown(&one.mac),
        bytes(rates.read_bytes_per_second),
        bytes(rates.written_bytes_per_second),
        whole(rates.requests_per_second),
        one.outstanding.to_string(),
        one.duplicates().to_string(),
        silence(one.idle_ms),
        newest(&line, area, &INITIATOR_HEAD),
    ];
    row(cells, area, &INITIATOR_HEAD)
}

/// Between columns.
const SPACING: u16 = 2;

impl Column {
    fn fits(&self, area: Rect) -> bool {
        area.width >= self.least_screen
    }
}

/// The newest part of a line, as much as there is room for in the last column.
fn newest(line: &str, area: Rect, head: &[Column]) -> String {
    let shown = head.iter().filter(|column| column.fits(area));
    let taken = shown.map(|column| column.width + SPACING).sum::<u16>() - SPACING;
    let room = usize::from(area.width.saturating_sub(taken));
    let old = line.chars().count().saturating_sub(room);
    line.chars().skip(old).collect()
}

fn table<'a>(rows: impl Iterator<Item = Row<'a>>, area: Rect, head: &[Column]) -> Table<'a> {
    let names = head.iter().map(|column| column.name.to_owned());
    let faint = Style::new().add_modifier(Modifier::DIM);
    let widths = head.iter().filter(|column| column.fits(area));
    let widths = widths.map(|column| match column.width {
        0 => Constraint::Fill(1),
        width => Constraint::Length(width),
    });
    Table::new(rows, widths)
        .header(row(names, area, head).style(faint))
        .column_spacing(SPACING)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

/// What of a line there is room for.
fn row(cells: impl IntoIterator<Item = String>, area: Rect, head: &[Column]) -> Row<'static> {
    let cells = cells.into_iter().zip(head);
    cells
        .filter(|(_, column)| column.fits(area))
        .map(|(text, column)| Cell::from(Line::raw(text).alignment(column.align)))
        .collect()
}

fn draw_help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let [_, line, _] = Layout::vertical([
        Constraint::Fill(1),
        Constraint::Max(12),
        Constraint::Fill(1),
    ])
    .areas(area);
    let [_, middle, _] = Layout::horizontal([
        Constraint::Fill(1),
        Constraint::Max(78),
        Constraint::Fill(1),
    ])
    .areas(line);
    let help = Paragraph::new(HELP)
        .wrap(Wrap { trim: false })
        .block(Block::bordered().title(" aoede top "));
    frame.render_widget(Clear, middle);
    frame.render_widget(help, middle);
}

fn bad() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

/// Text of others.
fn shown(text: &str) -> String {
    harmless::line(text).into_owned()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::Key;
    use super::*;
    use crate::control::status::{DaemonStatus, ExportCounters, FailureStatus};

    /// What stands on a screen of this size, line by line.
    fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| {
            (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<String>()
        };
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    fn status(seconds: u64, mebibytes: u64) -> Status {
        let export = |address: &str| ExportStatus {
            address: address.to_owned(),
            ..ExportStatus::default()
        };
        Status {
            daemon: DaemonStatus {
                program_version: "1.2.3".to_owned(),
                pid: 7,
                config_file: "\u{1b}[2J.toml".to_owned(),
                ..DaemonStatus::default()
            },
            uptime_us: seconds * 1_000_000,
            exports: vec![
                ExportStatus {
                    counters: ExportCounters {
                        reads: mebibytes * 128,
                        read_bytes: mebibytes << 20,
                        ..ExportCounters::default()
                    },
                    initiators: vec![InitiatorStatus {
                        mac: "52:54:00:00:00:aa".to_owned(),
                        read_bytes: mebibytes << 20,
                        outstanding: 3,
                        ..InitiatorStatus::default()
                    }],
                    ..export("e1.1")
                },
                ExportStatus {
                    failure: Some(FailureStatus::default()),
                    ..export("e1.2")
                },
            ],
            ..Status::default()
        }
    }

    fn view() -> View {
        let mut view = View::default();
        for (seconds, mebibytes) in [(60, 0), (61, 1), (62, 3), (63, 7)] {
            view.take(Ok(status(seconds, mebibytes)));
        }
        view
    }

    #[test]
    fn exports_stand_above_and_the_initiators_of_one_below() {
        let mut view = view();
        let lines = screen(&view, 150, 14);
        assert_eq!(
            lines[0],
            "aoede 1.2.3   process 7   up 1m 3s   \\u{1b}[2J.toml"
        );
        assert_eq!(
            lines[1],
            "4 MiB/s read   0/s written   512 IOPS   0 frames lost by full rings"
        );
        let table = [
            "ADDRESS    STATE            READ/s    WRITE/s    IOPS    R p50    R p99    W p50    W p99      DIRTY  DROPS/s  THROUGHPUT",
            "e1.1       serving           4 MiB          0     512        -        -        -        -    0 bytes        0  ▂▄█",
            "e1.2       write failed          0          0       0        -        -        -        -    0 bytes        0",
        ];
        assert_eq!(lines[2..5], table);
        let table = [
            "1 initiator of e1.1",
            "INITIATOR             READ/s    WRITE/s    REQ/s  UNDER WAY  DUPLICATES      SILENT  THROUGHPUT",
            "52:54:00:00:00:aa      4 MiB          0        0          3           0        0 ms  ▂▄█",
        ];
        assert_eq!(lines[6..9], table);
        assert_eq!(lines[13], KEYS);
        view.press(Key::Down(1));
        let lines = screen(&view, 150, 14);
        assert_eq!(lines[6], "nobody was heard of at e1.2");
    }

    #[test]
    fn a_daemon_that_is_gone_leaves_the_picture_and_a_word() {
        let mut view = view();
        view.take(Err("no daemon answers".to_owned()));
        let lines = screen(&view, 150, 14);
        assert_eq!(lines[1], "no daemon answers; trying again");
        assert!(lines[3].starts_with("e1.1       serving           4 MiB"));
        // It is back, as another process: that is no rate.
        let mut back = status(1, 0);
        back.daemon.pid = 8;
        view.take(Ok(back));
        let lines = screen(&view, 150, 14);
        assert_eq!(
            lines[1],
            "0/s read   0/s written   0 IOPS   0 frames lost by full rings"
        );
        assert!(!lines[3].contains('█'));
    }

    #[test]
    fn the_chosen_export_is_on_the_screen() {
        let mut view = View::default();
        let mut many = status(1, 0);
        many.exports = (0..100)
            .map(|slot| ExportStatus {
                address: format!("e1.{slot}"),
                ..ExportStatus::default()
            })
            .collect();
        view.take(Ok(many));
        view.press(Key::Down(73));
        let lines = screen(&view, 80, 24);
        assert!(
            lines.iter().any(|line| line.starts_with("e1.73 ")),
            "{lines:#?}"
        );
        assert!(lines.contains(&"nobody was heard of at e1.73".to_owned()));
    }

    #[test]
    fn a_narrow_screen_leaves_out_columns_and_what_is_older() {
        let lines = screen(&view(), 72, 14);
        let table = [
            "ADDRESS       READ/s    WRITE/s    IOPS    R p99    W p99      DIRTY  TH",
            "e1.1           4 MiB          0     512        -        -    0 bytes  ▄█",
        ];
        assert_eq!(lines[2..4], table);
    }

    #[test]
    fn no_screen_is_too_small() {
        let mut view = view();
        for help in [false, true] {
            view.help = help;
            for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 24), (400, 100)] {
                screen(&view, width, height);
            }
        }
        screen(&View::default(), 80, 24);
    }
}
