//! The page around the pictures.

use std::fmt::Write;

use super::html::Escaped;
use super::number::{duration, grouped, short};
use super::series::evenly;
use super::{RunSummary, quantization, training};
use crate::metrics::{StepRecord, Thresholds, Watch};

const STYLE: &str = include_str!("style.css");

/// Samples that are shown at most.
const SAMPLES: usize = 12;

/// Alerts that are shown at most.
const ALERTS: usize = 12;

pub fn render(summary: &RunSummary, records: &[StepRecord]) -> String {
    let mut out = String::new();
    let title = Escaped(&summary.title);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title><style>{STYLE}</style></head>\
         <body><main><h1>{title}</h1>"
    );
    tiles(&mut out, summary, records);
    noticed(&mut out, records);
    section(&mut out, "Training", "grid", |out| training::charts(out, records));
    section(&mut out, "Quantization", "grid", |out| quantization::charts(out, records));
    section(&mut out, "What the model wrote", "samples", |out| samples(out, records));
    section(&mut out, "The run", "facts", |out| facts(out, summary));
    out.push_str("</main></body></html>\n");
    out
}

/// A heading and what `body` writes; nothing if that is nothing.
fn section(out: &mut String, heading: &str, class: &str, body: impl FnOnce(&mut String)) {
    let mut content = String::new();
    body(&mut content);
    if !content.is_empty() {
        let _ = write!(out, "<h2>{heading}</h2><div class=\"{class}\">{content}</div>");
    }
}

/// The final figures.
fn tiles(out: &mut String, summary: &RunSummary, records: &[StepRecord]) {
    let outcome = &summary.outcome;
    let looks = records.iter().filter_map(|record| Some((record.valid?, record.step)));
    let best = looks.filter(|(valid, _)| valid.loss.is_finite()).min_by(|a, b| a.0.loss.total_cmp(&b.0.loss));
    // Looks on the way may be at fewer tokens than the last one, so theirs can be less without being better.
    let best = best.map_or(String::new(), |(valid, step)| {
        let (loss, tokens) = (short(valid.loss), short(valid.tokens as f64));
        format!("best look on the way {loss}, at step {}, over {tokens} tokens", grouped(step))
    });
    let optional = |value: Option<f64>| value.map_or("–".to_string(), |value| format!("{value:.4}"));
    let accuracy = outcome.preference_accuracy.map(|accuracy| format!("{:.1} %", 100.0 * accuracy));
    let second = match accuracy {
        Some(accuracy) => ("preference accuracy", accuracy, "of held-out pairs".to_string()),
        None => ("bits per byte", optional(outcome.bits_per_byte), "on held-out text".to_string()),
    };
    let tiles = [
        ("validation loss", optional(outcome.valid_loss), best),
        second,
        ("train loss", format!("{:.4}", outcome.train_loss), "nats per token".to_string()),
        ("steps", grouped(outcome.steps), format!("{} tokens", short(outcome.tokens as f64))),
        ("tokens per second", short(outcome.tokens_per_second), format!("for {}", duration(outcome.seconds))),
        ("parameters", short(outcome.parameters as f64), grouped(outcome.parameters)),
    ];
    out.push_str("<div class=\"tiles\">");
    for (name, value, below) in tiles {
        let _ = write!(out, "<div><span>{name}</span><b>{value}</b><span>{below}</span></div>");
    }
    out.push_str("</div>");
}

/// Alerts, the first of each kind in a row.
fn noticed(out: &mut String, records: &[StepRecord]) {
    let (mut watch, mut found, mut before) = (Watch::new(Thresholds::default()), Vec::new(), Vec::new());
    for record in records {
        let now = watch.see(record);
        let kinds: Vec<_> = now.iter().map(std::mem::discriminant).collect();
        // A trouble that lasts is told once.
        found.extend(now.into_iter().filter(|alert| !before.contains(&std::mem::discriminant(alert))));
        before = kinds;
    }
    if !found.is_empty() {
        out.push_str("<div class=\"noticed\"><b>Noticed</b><ul>");
        let more = found.len().saturating_sub(ALERTS);
        for alert in found.iter().take(ALERTS) {
            let _ = write!(out, "<li>{}</li>", Escaped(&alert.to_string()));
        }
        if more > 0 {
            let _ = write!(out, "<li>and {more} more</li>");
        }
        out.push_str("</ul></div>");
    }
}

fn samples(out: &mut String, records: &[StepRecord]) {
    let samples: Vec<(u64, &str)> =
        records.iter().filter_map(|record| Some((record.step, record.sample.as_deref()?))).collect();
    for (step, text) in evenly(&samples, SAMPLES).iter().rev() {
        let _ = write!(out, "<article><h3>step {}</h3><pre>{}</pre></article>", grouped(*step), Escaped(text));
    }
}

fn facts(out: &mut String, summary: &RunSummary) {
    let model = summary.outcome.model.to_string_lossy();
    let parameters: Vec<_> = summary.parameters.iter().map(|(name, count)| (name.clone(), grouped(*count))).collect();
    for (heading, rows) in [("Configuration", &summary.config), ("Parameters", &parameters), ("Data", &summary.data)] {
        if rows.is_empty() {
            continue;
        }
        let _ = write!(out, "<div class=\"card\"><h3>{heading}</h3><table><tbody>");
        for (name, value) in rows {
            let _ = write!(out, "<tr><th>{}</th><td>{}</td></tr>", Escaped(name), Escaped(value));
        }
        out.push_str("</tbody></table></div>");
    }
    let texts = [
        ("Command", summary.command.as_str()),
        ("Model", model.as_ref()),
        ("Recipe", summary.recipe.as_deref().unwrap_or_default()),
    ];
    for (heading, text) in texts {
        if !text.is_empty() {
            let _ = write!(out, "<div class=\"card\"><h3>{heading}</h3><pre>{}</pre></div>", Escaped(text));
        }
    }
}
