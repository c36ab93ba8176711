//! How fast `aoede copy` brings a disk to a file, compared with `aoede bench`, which only reads it:
//! by turns, from the same export.

use anyhow::{Context as _, Result, ensure};
use aoede_bench::statistics::{Summary, ratio};
use serde::{Deserialize, Serialize};

use super::images::Sizes;
use super::lab::Lab;
use super::report::{Table, median, spread, three_digits};
use super::rows::{Contender, Image, Kind};
use super::say;

/// What a copy should reach of reading alone.
const AT_LEAST: f64 = 0.8;

/// As a copy asks.
const BLOCK: &str = "256k";

const SUBJECTS: [(&str, Image); 2] = [("full", Image::Memory), ("sparse", Image::Sparse)];

const TARGET: Contender = Contender {
    name: "aoede, buffered",
    kind: Kind::Aoede(&["--io", "buffered"]),
};

/// The files that are copied.
pub(super) fn sizes(sizes: Sizes) -> Sizes {
    Sizes {
        sparse_bytes: sizes.memory_bytes,
        disk_bytes: 0,
        ..sizes
    }
}

/// What both commands tell, among other things.
#[derive(Deserialize)]
struct Told {
    bytes_per_second: f64,
}

/// One round of one image.
#[derive(Clone, Copy, Debug, Serialize)]
struct Turn {
    bench_bytes_per_second: f64,
    copy_bytes_per_second: f64,
    /// Storage that the copy takes.
    copy_storage_bytes: u64,
}

/// All rounds of one image.
#[derive(Debug, Serialize)]
struct Line {
    image: &'static str,
    turns: Vec<Turn>,
    ratio: Option<Summary>,
    at_least: f64,
}

/// Both images, by turns.
pub(super) fn table(lab: &Lab) -> Result<Table> {
    let rounds = lab.timing().rounds;
    let mut turns: [Vec<Turn>; 2] = Default::default();
    for round in 1..=rounds {
        for ((name, image), turns) in SUBJECTS.into_iter().zip(&mut turns) {
            let turn = turn(lab, image).with_context(|| format!("the {name} image"))?;
            say(&format!(
                "round {round}/{rounds} {name}: bench {:.0} MB/s, copy {:.0} MB/s",
                turn.bench_bytes_per_second / 1e6,
                turn.copy_bytes_per_second / 1e6
            ));
            turns.push(turn);
        }
    }
    let lines: Vec<Line> = SUBJECTS
        .into_iter()
        .zip(turns)
        .map(|((name, _), turns)| Line::new(name, turns))
        .collect();
    Ok(Table {
        name: "copy",
        title: "Copying",
        what: format!(
            "{rounds} rounds of {} s of reads in order after {} s of warm-up and one copy, \
             which is compared with its source; medians, and the ratio with its extremes",
            lab.timing().measure.as_secs_f64(),
            lab.timing().warm_up.as_secs_f64()
        ),
        columns: &[
            "image",
            "bench, MB/s",
            "copy, MB/s",
            "ratio",
            "wanted",
            "the copy takes, MiB",
        ],
        lines: lines.iter().map(Line::cells).collect(),
        records: serde_json::to_value(&lines)?,
    })
}

/// First read, then copied, by the same target.
fn turn(lab: &Lab, image: Image) -> Result<Turn> {
    let target = lab.start(&TARGET, image)?;
    let (seconds, warm_up) = (lab.timing().measure, lab.timing().warm_up);
    let bench: Told = lab
        .initiate(&[
            "bench",
            "e1.1",
            "--rw",
            "read",
            "--block-size",
            BLOCK,
            "--seconds",
            &seconds.as_secs_f64().to_string(),
            "--warm-up",
            &warm_up.as_secs_f64().to_string(),
        ])
        .context("aoede bench")?;
    let (place, record) = lab.images().place_for_copy();
    let place = place.to_str().context("a name that is no UTF-8")?;
    let record = record.to_str().context("a name that is no UTF-8")?;
    let copy: Told = lab
        .initiate(&["copy", "e1.1", place, "--state", record])
        .context("aoede copy")?;
    lab.stop(target)?;
    let copy_storage_bytes = lab.images().check_copy(image)?;
    ensure!(bench.bytes_per_second > 0.0, "nothing was read");
    Ok(Turn {
        bench_bytes_per_second: bench.bytes_per_second,
        copy_bytes_per_second: copy.bytes_per_second,
        copy_storage_bytes,
    })
}

impl Line {
    fn new(image: &'static str, turns: Vec<Turn>) -> Self {
        let bench: Vec<_> = turns
            .iter()
            .map(|turn| Some(turn.bench_bytes_per_second))
            .collect();
        let copy: Vec<_> = turns
            .iter()
            .map(|turn| Some(turn.copy_bytes_per_second))
            .collect();
        Self {
            image,
            ratio: ratio(&copy, &bench),
            turns,
            at_least: AT_LEAST,
        }
    }

    fn cells(&self) -> Vec<String> {
        let middle = |figure: fn(&Turn) -> f64| {
            let values: Vec<_> = self.turns.iter().map(|turn| Some(figure(turn))).collect();
            median(&values)
        };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let most = self
            .turns
            .iter()
            .map(|turn| turn.copy_storage_bytes)
            .max()
            .map(|bytes| bytes as f64 / f64::from(1 << 20));
        vec![
            self.image.to_owned(),
            middle(|turn| turn.bench_bytes_per_second / 1e6),
            middle(|turn| turn.copy_bytes_per_second / 1e6),
            spread(self.ratio),
            format!("≥ {}", self.at_least),
            three_digits(most),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_medians_and_the_ratio_within_rounds() {
        let turn = |bench, copy, mib: u64| Turn {
            bench_bytes_per_second: bench,
            copy_bytes_per_second: copy,
            copy_storage_bytes: mib << 20,
        };
        let turns = vec![
            turn(1000e6, 900e6, 256),
            turn(2000e6, 1000e6, 257),
            turn(1500e6, 1200e6, 256),
        ];
        assert_eq!(
            Line::new("sparse", turns).cells(),
            ["sparse", "1500", "1000", "0.80 (0.50–0.90)", "≥ 0.8", "257"]
        );
    }
}
