//! The plot: throughput to the left, processor time per GB to the right, a row per peer.
//!
//! ```text
//!              TCP, Gbit/s                    processor seconds per GB
//!   skynet     ███████████████ 4.00  ├─┤      ▓▓▓▓▒▒ 1.00
//!   boringtun  ██ 0.50                        ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▒▒▒▒ 8.00
//! ```

use std::fmt::Write as _;

use super::Report;
use super::summary::Row;
use crate::metric::Metric;

const WIDTH: f64 = 1000.0;
/// Room for the names.
const NAMES: f64 = 160.0;
/// Length of the longest bar of each side.
const BAR: f64 = 310.0;
/// Where the right side begins.
const RIGHT: f64 = 600.0;
const TOP: f64 = 90.0;
const BAR_HEIGHT: f64 = 11.0;
const ROW_HEIGHT: f64 = 46.0;

/// Bars of a side: what, in which colour, under which name.
type Series = (Metric, &'static str, &'static str);

const THROUGHPUT: [Series; 3] = [
    (Metric::TcpOneGbps, "#1f6feb", "1 stream"),
    (Metric::TcpEightGbps, "#6cb6ff", "8 streams"),
    (Metric::TcpReverseGbps, "#a5c8f0", "reverse"),
];
const COST: [Series; 2] =
    [(Metric::TunnelCpuPerGb, "#d1570a", "tunnel"), (Metric::MachineCpuPerGb, "#f0b48a", "whole machine")];

/// The whole picture.
pub(super) fn render(report: &Report) -> String {
    let rows = &report.summary;
    let height = TOP + rows.len() as f64 * ROW_HEIGHT + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, 12.0, 24.0, "font-size=\"16\" font-weight=\"bold\"", &report.title());
    text(&mut svg, 12.0, 42.0, "fill=\"#666\"", &report.run.machine.summary());
    side(&mut svg, rows, NAMES, "TCP, Gbit/s", &THROUGHPUT);
    side(&mut svg, rows, RIGHT, "processor seconds per GB", &COST);
    for (index, row) in rows.iter().enumerate() {
        let y = TOP + index as f64 * ROW_HEIGHT;
        text(&mut svg, NAMES - 10.0, y + 24.0, "text-anchor=\"end\" font-weight=\"bold\"", &row.name);
    }
    let note = "Bars are medians over rounds, thin lines reach from the lowest to the highest round.";
    text(&mut svg, 12.0, height - 12.0, "fill=\"#666\"", note);
    svg + "</svg>\n"
}

fn side(svg: &mut String, rows: &[Row], x: f64, title: &str, series: &[Series]) {
    let values = rows.iter().flat_map(|row| {
        series.iter().filter_map(|(metric, ..)| row.spread.get(metric).map(|(_, high)| *high))
    });
    // Room for the figure behind the longest bar.
    let scale = BAR / values.fold(f64::MIN_POSITIVE, f64::max);
    text(svg, x, TOP - 24.0, "font-weight=\"bold\"", title);
    let mut legend = x;
    for (_, colour, name) in series {
        let y = TOP - 17.0;
        writeln!(svg, "<rect x=\"{legend:.1}\" y=\"{y:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>")
            .expect("writing to a string");
        text(svg, legend + 14.0, TOP - 8.0, "fill=\"#666\"", name);
        legend += 30.0 + 7.0 * name.len() as f64;
    }
    for (index, row) in rows.iter().enumerate() {
        let top = TOP + index as f64 * ROW_HEIGHT + 4.0;
        for (number, (metric, colour, _)) in series.iter().enumerate() {
            let Some(&median) = row.medians.get(metric) else { continue };
            let (low, high) = row.spread.get(metric).copied().unwrap_or((median, median));
            let y = top + number as f64 * (BAR_HEIGHT + 1.0);
            bar(svg, (x, y), [median, low, high].map(|value| value * scale), colour);
            let label = format!("{median:.*}", metric.decimals());
            text(svg, x + high * scale + 6.0, y + 10.0, "font-size=\"11\"", &label);
        }
    }
}

/// A bar and the line of its noise.
fn bar(svg: &mut String, (x, y): (f64, f64), [median, low, high]: [f64; 3], colour: &str) {
    let middle = y + BAR_HEIGHT / 2.0;
    write!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{median:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>\n\
         <line x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\" stroke=\"#333\"/>\n",
        x + low,
        x + high
    )
    .expect("writing to a string");
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, text: &str) {
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>", escaped(text))
        .expect("writing to a string");
}

/// Text that XML takes for text.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use crate::report::example;

    #[test]
    fn bars_are_as_long_as_their_medians() {
        let svg = super::render(&example());
        // The highest round of the plain link, 9 Gbit/s, is 310 long; so 8 and 4 are 275.6 and 137.8.
        assert!(
            svg.contains("<rect x=\"160.0\" y=\"94.0\" width=\"275.6\" height=\"11\" fill=\"#1f6feb\"/>"),
            "{svg}"
        );
        assert!(svg.contains("<rect x=\"160.0\" y=\"140.0\" width=\"137.8\""), "{svg}");
        // From 3 to 5 Gbit/s.
        assert!(svg.contains("<line x1=\"263.3\" y1=\"145.5\" x2=\"332.2\""), "{svg}");
        assert!(svg.contains("a &lt;processor&gt;") && svg.ends_with("</svg>\n"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
