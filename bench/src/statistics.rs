//! Several rounds of the same measurement, in few numbers. Machines drift from minute to minute,
//! so rivals are compared within a round, and only then is the middle taken.

use serde::{Deserialize, Serialize};

/// The middle and the extremes of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// Of the values that are numbers. `None` if there are none.
    ///
    /// ```
    /// use aoede_bench::statistics::Summary;
    /// let summary = Summary::of([3.0, 9.0, 4.0]).unwrap();
    /// assert_eq!((summary.min, summary.median, summary.max), (3.0, 4.0, 9.0));
    /// ```
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self {
            median: f64::midpoint(lower, upper),
            min,
            max,
        })
    }
}

/// `ours` in units of `theirs`, round by round. Rounds that lack one of the two are left out.
///
/// ```
/// use aoede_bench::statistics::ratio;
/// // The machine got twice as slow in the second round; the ratio did not.
/// let summary = ratio(&[Some(300.0), Some(150.0)], &[Some(100.0), Some(50.0)]).unwrap();
/// assert_eq!((summary.min, summary.median, summary.max), (3.0, 3.0, 3.0));
/// ```
pub fn ratio(ours: &[Option<f64>], theirs: &[Option<f64>]) -> Option<Summary> {
    let rounds = ours.iter().zip(theirs);
    Summary::of(rounds.filter_map(|(ours, theirs)| Some((*ours)? / (*theirs)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Option<(f64, f64, f64)> {
        Summary::of(values.iter().copied()).map(|s| (s.min, s.median, s.max))
    }

    #[test]
    fn the_middle_of_odd_even_and_unsorted_values() {
        assert_eq!(of(&[5.0]), Some((5.0, 5.0, 5.0)));
        assert_eq!(of(&[4.0, 1.0]), Some((1.0, 2.5, 4.0)));
        assert_eq!(of(&[9.0, 1.0, 2.0]), Some((1.0, 2.0, 9.0)));
        assert_eq!(of(&[9.0, 1.0, 2.0, 4.0]), Some((1.0, 3.0, 9.0)));
        assert_eq!(of(&[1e9, 1.0, 1.0, 1.0, 1.0]), Some((1.0, 1.0, 1e9)));
    }

    #[test]
    fn nothing_has_no_middle() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[f64::NAN, f64::INFINITY]), None);
        assert_eq!(of(&[f64::NAN, 2.0]), Some((2.0, 2.0, 2.0)));
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        // The ratio of the medians, 200/100, would say 2.
        let ours = [Some(100.0), Some(200.0), Some(900.0)];
        let theirs = [Some(100.0), Some(50.0), Some(300.0)];
        let summary = ratio(&ours, &theirs).unwrap();
        assert_eq!(
            (summary.min, summary.median, summary.max),
            (1.0, 3.0, 4.0),
            "of 1, 4 and 3"
        );
    }

    #[test]
    fn a_round_without_one_of_the_two_does_not_count() {
        let ours = [Some(4.0), None, Some(9.0)];
        let theirs = [Some(2.0), Some(1.0), None];
        assert_eq!(ratio(&ours, &theirs), Summary::of([2.0]));
        assert_eq!(ratio(&ours, &[None, None, None]), None);
        assert_eq!(ratio(&[Some(1.0)], &[Some(0.0)]), None);
        assert_eq!(ratio(&[], &[]), None);
    }
}
