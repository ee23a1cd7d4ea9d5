//! The curves of the training itself.

use super::axis::Scale;
use super::chart::{Chart, Look, Series};
use super::number::short;
use super::series::{Points, evenly, smoothed, with_spikes, without_spikes};
use crate::metrics::StepRecord;

/// Room for the labels of the values.
const LEFT: f64 = 58.0;

/// Steps that tell their values when the mouse is there.
const READINGS: usize = 160;

/// Loss, bits per byte, schedules, gradient norm and speed.
pub fn charts(out: &mut String, records: &[StepRecord]) {
    let charts = [
        loss(records),
        late_loss(records),
        bits_per_byte(records),
        accuracy(records),
        grad_norm(records),
        schedules(records),
        speed(records),
    ];
    for chart in charts {
        // Nothing was validated, or nothing is finite.
        if chart.series.iter().any(|series| !series.points.is_empty()) {
            chart.open(out);
            out.push_str("</figure>");
        }
    }
}

fn chart(title: &str, unit: &str, scale: Scale, records: &[StepRecord], series: Vec<Series>) -> Chart {
    Chart {
        title: title.to_string(),
        unit: unit.to_string(),
        scale,
        left: LEFT,
        steps: (0.0, last_step(records)),
        spell: short,
        band: Vec::new(),
        series,
        readings: Vec::new(),
    }
}

pub fn last_step(records: &[StepRecord]) -> f64 {
    records.last().map_or(1.0, |record| record.step as f64)
}

/// What `of` takes from each record, where it takes a number.
fn points(records: &[StepRecord], of: impl Fn(&StepRecord) -> Option<f64>) -> Points {
    let points = records.iter().filter_map(|record| Some((record.step as f64, of(record)?)));
    points.filter(|(_, value)| value.is_finite()).collect()
}

/// A reading for some of the records.
fn readings(records: &[StepRecord], of: impl Fn(&StepRecord) -> String) -> Vec<(f64, String)> {
    let picked: Vec<&StepRecord> = records.iter().collect();
    evenly(&picked, READINGS).into_iter().map(|record| (record.step as f64, of(record))).collect()
}

fn loss(records: &[StepRecord]) -> Chart {
    let raw = points(records, |record| Some(record.train_loss));
    let smooth = smoothed(&raw);
    let valid = points(records, |record| record.valid.map(|valid| valid.loss));
    let readings = readings(records, |record| {
        let at = smooth.partition_point(|(step, _)| *step < record.step as f64);
        let smooth = smooth.get(at).map_or(String::new(), |(_, loss)| format!(" (smoothed {})", short(*loss)));
        let valid = record.valid.map_or(String::new(), |valid| format!(" · validation {}", short(valid.loss)));
        format!("train {}{smooth}{valid} · {} tokens", short(record.train_loss), short(record.tokens as f64))
    });
    let series = vec![
        Series { label: "train".to_string(), colour: 0, look: Look::Faint, points: with_spikes(&raw) },
        Series { label: "smoothed".to_string(), colour: 0, look: Look::Line, points: without_spikes(&smooth) },
        Series { label: "validation".to_string(), colour: 1, look: Look::Marked, points: without_spikes(&valid) },
    ];
    let series = series.into_iter().filter(|series| !series.points.is_empty()).collect();
    Chart { readings, ..chart("Loss", "nats per token", Scale::LogFrom(3), records, series) }
}

/// The second half again: beside the first steps, everything that comes late looks flat.
fn late_loss(records: &[StepRecord]) -> Chart {
    let last = last_step(records);
    let middle = (last / 2.0).floor();
    let mut chart = loss(records);
    for series in &mut chart.series {
        series.points.retain(|(step, _)| *step > middle);
    }
    chart.readings.retain(|(step, _)| *step > middle);
    Chart { title: "Loss, second half".to_string(), scale: Scale::Linear, steps: (middle, last), ..chart }
}

fn bits_per_byte(records: &[StepRecord]) -> Chart {
    let valid = points(records, |record| record.valid.map(|valid| valid.bits_per_byte));
    let series = vec![Series {
        label: "bits per byte".to_string(),
        colour: 1,
        look: Look::Marked,
        points: without_spikes(&valid),
    }];
    chart("Bits per byte", "on held-out text", Scale::LogFrom(3), records, series)
}

/// Of a run that compares replies.
fn accuracy(records: &[StepRecord]) -> Chart {
    let valid = points(records, |record| record.valid?.accuracy.map(|accuracy| 100.0 * accuracy));
    let points = without_spikes(&valid);
    let series = vec![Series { label: "right".to_string(), colour: 1, look: Look::Marked, points }];
    chart("Preference accuracy", "% of held-out pairs", Scale::Linear, records, series)
}

/// Three things of three sizes: each is drawn as a share of its own peak.
fn schedules(records: &[StepRecord]) -> Chart {
    type Of = fn(&StepRecord) -> f64;
    let kinds: [(&str, usize, Of); 3] = [
        ("learning rate", 0, |record| record.learning_rate),
        ("weight decay", 1, |record| record.weight_decay),
        ("λ", 2, |record| record.lambda),
    ];
    let series = kinds.into_iter().filter_map(|(name, colour, of)| {
        let mut points = with_spikes(&points(records, |record| Some(of(record))));
        let peak = points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        // λ is 1 throughout unless a float model is being converted.
        if peak == 0.0 || name == "λ" && points.iter().all(|(_, value)| *value == 1.0) {
            return None;
        }
        points.iter_mut().for_each(|(_, value)| *value /= peak);
        Some(Series { label: format!("{name} (peak {})", short(peak)), colour, look: Look::Line, points })
    });
    let series = series.collect();
    let readings = readings(records, |record| {
        let StepRecord { learning_rate, weight_decay, lambda, .. } = record;
        format!(
            "learning rate {} · weight decay {} · λ {}",
            short(*learning_rate),
            short(*weight_decay),
            short(*lambda)
        )
    });
    Chart { readings, ..chart("Schedules", "share of the peak", Scale::FromZero, records, series) }
}

fn grad_norm(records: &[StepRecord]) -> Chart {
    let raw = points(records, |record| Some(record.grad_norm));
    let series = vec![
        Series { label: "each step".to_string(), colour: 3, look: Look::Faint, points: with_spikes(&raw) },
        Series { label: "smoothed".to_string(), colour: 3, look: Look::Line, points: without_spikes(&smoothed(&raw)) },
    ];
    let readings = readings(records, |record| format!("norm {}", short(record.grad_norm)));
    Chart { readings, ..chart("Gradient norm", "before clipping", Scale::LogFrom(10), records, series) }
}

fn speed(records: &[StepRecord]) -> Chart {
    let raw = points(records, |record| Some(record.tokens_per_second));
    let series = vec![
        Series { label: "each step".to_string(), colour: 2, look: Look::Faint, points: with_spikes(&raw) },
        Series { label: "smoothed".to_string(), colour: 2, look: Look::Line, points: without_spikes(&smoothed(&raw)) },
    ];
    let readings = readings(records, |record| format!("{} tokens/s", short(record.tokens_per_second)));
    Chart { readings, ..chart("Speed", "tokens per second", Scale::FromZero, records, series) }
}
