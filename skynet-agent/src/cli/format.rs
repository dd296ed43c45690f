//! Figures for people, lines for machines.

use std::io::Write;

use serde::Serialize;

/// One line of JSON on standard output; like [`print_line`].
pub(super) fn print_json(value: &impl Serialize) -> bool {
    let line = serde_json::to_string(value).expect("reports are plain data");
    print_line(&line)
}

/// One line on standard output. A closed pipe is the reader's choice, not an error: `false` then, for whoever would
/// go on printing.
pub(super) fn print_line(line: &str) -> bool {
    writeln!(std::io::stdout(), "{line}").is_ok()
}

/// Bytes as people read them: three significant digits, powers of 1,000.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 9.995 => format!("{value:.2} {}", units[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", units[unit]),
        _ => format!("{value:.0} {}", units[unit]),
    }
}

/// A round-trip time in milliseconds.
pub(super) fn rtt(us: u64) -> String {
    let ms = us as f64 / 1000.0;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.1} ms") }
}

/// A clock against the relay's.
pub(super) fn clock(ahead_s: i32) -> String {
    match ahead_s {
        -1..=1 => "right".to_owned(),
        2.. => format!("{ahead_s} s ahead"),
        _ => format!("{} s behind", ahead_s.unsigned_abs()),
    }
}

/// An age as people read it.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let got: Vec<_> = [0, 999, 1_000, 9_994, 12_345, 999_400, 999_600, u64::MAX].map(bytes).into();
        assert_eq!(got, ["0 B", "999 B", "1.00 kB", "9.99 kB", "12.3 kB", "999 kB", "1.00 MB", "18447 PB"]);
        assert_eq!([rtt(1_234), rtt(25_000)], ["1.23 ms", "25.0 ms"]);
        assert_eq!([age(5), age(119), age(120), age(7_200), age(200_000)], ["5s", "119s", "2m", "2h", "2d"]);
    }
}
