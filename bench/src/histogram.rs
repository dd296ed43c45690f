//! Many round trips in few lines.

use std::fmt::Write as _;
use std::time::Duration;

use crate::stats;

/// The longest bar, in characters.
const BAR: usize = 50;

/// Percentiles of some round trips, in µs.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Percentiles {
    /// Requests sent.
    pub(crate) sent: u32,
    /// Requests answered.
    pub(crate) answered: usize,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// In µs, ascending.
pub(crate) fn microseconds(round_trips: &[Duration]) -> Vec<f64> {
    stats::sorted(round_trips.iter().map(|rtt| rtt.as_secs_f64() * 1e6))
}

impl Percentiles {
    /// Of ascending values; `None` if there are none.
    pub(crate) fn of(sent: u32, ascending: &[f64]) -> Option<Self> {
        let at = |share| stats::percentile(ascending, share);
        Some(Self {
            sent,
            answered: ascending.len(),
            min: at(0.0)?,
            p50: at(0.5)?,
            p90: at(0.9)?,
            p99: at(0.99)?,
            p999: at(0.999)?,
            max: at(1.0)?,
        })
    }
}

/// How many of ascending values lie between powers of the square root of two, a line each:
///
/// ```text
///    181 -    256 us    37 ##############
/// ```
pub(crate) fn text(ascending: &[f64]) -> String {
    let (Some(&low), Some(&high)) = (ascending.first(), ascending.last()) else { return String::new() };
    let bucket = |value: f64| (value.max(1.0).log2() * 2.0).floor() as i32;
    let edge = |bucket: i32| 2f64.powf(f64::from(bucket) / 2.0);
    let counts: Vec<_> = (bucket(low)..=bucket(high))
        .map(|b| (b, ascending.iter().filter(|value| bucket(**value) == b).count()))
        .collect();
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    let mut text = String::new();
    for (b, count) in counts {
        // Whatever was there at all is seen.
        let bar = "#".repeat((count * BAR).div_ceil(most));
        writeln!(text, "  {:7.0} - {:7.0} us {count:6} {bar}", edge(b), edge(b + 1))
            .expect("writing to a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_line_and_a_rare_one_is_seen() {
        let mut values = vec![100.0; 999];
        values.push(400.0);
        let text = text(&values);
        let lines: Vec<_> = text.lines().collect();
        // 90.5 to 128, and on by the square root of two until 512.
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[0].contains(&format!("999 {}", "#".repeat(50))), "{text}");
        assert!(lines[4].ends_with("     1 #"), "{text}");
        assert!(lines[1].ends_with("     0 "), "{text}");
    }

    #[test]
    fn percentiles_of_nothing_are_none() {
        assert_eq!(Percentiles::of(3, &[]), None);
        let some = Percentiles::of(5, &microseconds(&[Duration::from_micros(30), Duration::from_micros(10)]))
            .unwrap();
        assert_eq!((some.sent, some.answered, some.min, some.max), (5, 2, 10.0, 30.0));
        assert_eq!(text(&[]), "");
    }
}
