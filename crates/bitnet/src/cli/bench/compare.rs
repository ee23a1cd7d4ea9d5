//! Several runs side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use indicatif::DecimalBytes;

use super::report::Report;
use crate::cli::note::spelled_out;

/// A figure of a report; the rows of the table are in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Load,
    Memory,
    Prefill { tokens: usize, share: bool },
    Decode { depth: usize, tokens: usize, share: bool },
    Batch { sequences: usize, tokens: usize, share: bool },
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Row::Load => write!(f, "load s"),
            Row::Memory => write!(f, "peak memory"),
            Row::Prefill { tokens, share: false } => write!(f, "prefill {tokens} t/s"),
            Row::Prefill { share: true, .. } => write!(f, "  of the int8 peak"),
            Row::Decode { depth, tokens, share: false } => write!(f, "decode {tokens} after {depth} t/s"),
            Row::Batch { sequences, tokens, share: false } => write!(f, "decode {tokens} of {sequences} texts t/s"),
            Row::Decode { share: true, .. } | Row::Batch { share: true, .. } => write!(f, "  of the bandwidth"),
        }
    }
}

impl Row {
    fn show(self, value: f64) -> String {
        match self {
            Row::Load => format!("{value:.3}"),
            Row::Memory => DecimalBytes(value as u64).to_string(),
            Row::Prefill { share, .. } | Row::Decode { share, .. } | Row::Batch { share, .. } => match share {
                false => format!("{value:.2}"),
                true => format!("{:.1} %", 100.0 * value),
            },
        }
    }
}

/// The figures that a report has.
fn figures(report: &Report) -> BTreeMap<Row, f64> {
    let mut figures = BTreeMap::from([(Row::Load, report.load_seconds)]);
    figures.extend(report.peak_bytes.map(|bytes| (Row::Memory, bytes as f64)));
    for run in &report.prefill {
        let row = |share| Row::Prefill { tokens: run.tokens, share };
        figures.insert(row(false), run.speed.tokens_per_second);
        figures.extend(run.int8_peak_share.map(|share| (row(true), share)));
    }
    for run in &report.decode {
        let row = |share| Row::Decode { depth: run.depth, tokens: run.tokens, share };
        figures.insert(row(false), run.speed.tokens_per_second);
        figures.extend(run.bandwidth_share.map(|share| (row(true), share)));
    }
    for run in &report.batch {
        let row = |share| Row::Batch { sequences: run.sequences, tokens: run.tokens, share };
        figures.insert(row(false), run.speed.tokens_per_second);
        figures.extend(run.bandwidth_share.map(|share| (row(true), share)));
    }
    figures
}

/// A column for each report, and beside each but the first its ratios to the first.
pub fn table(names: &[String], reports: &[Report]) -> String {
    let fact = |label: &str, fact: &dyn Fn(&Report) -> String| {
        line(label, &reports.iter().map(fact).collect::<Vec<_>>(), |_| String::new())
    };
    let mut lines = vec![
        line("", names, |_| "ratio".to_string()),
        fact("model", &|report| report.short_hash().to_string()),
        fact("commit", &|report| report.commit().to_string()),
        fact("isa", &|report| report.isa.clone()),
        fact("threads", &|report| report.threads.to_string()),
        fact("weights", &|report| report.weights.clone()),
        fact("cache", &|report| report.cache.clone()),
        fact("head", &|report| report.head.clone()),
        fact("bandwidth", &|report| {
            known(report.bandwidth_bytes_per_second, |bytes| format!("{}/s", DecimalBytes(bytes as u64)))
        }),
        fact("int8 peak", &|report| known(report.int8_peak_macs_per_second, |macs| format!("{:.1} G/s", macs / 1e9))),
    ];
    let figures: Vec<BTreeMap<Row, f64>> = reports.iter().map(figures).collect();
    let rows: BTreeSet<Row> = figures.iter().flat_map(|figures| figures.keys().copied()).collect();
    for row in rows {
        let cells: Vec<Option<f64>> = figures.iter().map(|figures| figures.get(&row).copied()).collect();
        let absent = || "-".to_string();
        let shown: Vec<String> = cells.iter().map(|cell| cell.map_or_else(absent, |value| row.show(value))).collect();
        let ratio = |i: usize| match (cells[0], cells[i]) {
            (Some(first), Some(value)) if first != 0.0 => format!("{:.3}", value / first),
            _ => absent(),
        };
        lines.push(line(&row.to_string(), &shown, ratio));
    }
    aligned(&lines)
}

fn known(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "-".to_string(), show)
}

fn line(label: &str, cells: &[String], ratio: impl Fn(usize) -> String) -> Vec<String> {
    let mut line = vec![label.to_string()];
    for (i, cell) in cells.iter().enumerate() {
        line.push(spelled_out(cell));
        line.extend((i > 0).then(|| ratio(i)));
    }
    line
}

/// Cells below each other, the first column to the left and the others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let widest =
        |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| widest(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate();
        let padded = cells.map(|(i, (cell, width))| match i {
            0 => format!("{cell:width$}"),
            _ => format!("  {cell:>width$}"),
        });
        text.push_str(padded.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}
