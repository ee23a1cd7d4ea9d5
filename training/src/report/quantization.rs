//! The quantization panel: what becomes of the trits, layer by layer.

use std::fmt::Write;

use super::axis::Scale;
use super::chart::{Chart, Look, Series};
use super::heat::Heat;
use super::html::Escaped;
use super::number::{grouped, short};
use super::series::evenly;
use super::training::last_step;
use crate::metrics::{LayerQuantization, StepRecord};

/// Room for the names of the layers.
const LEFT: f64 = 132.0;

/// Steps of a curve at most.
const LOOKS: usize = 160;

/// One figure of every layer.
struct Figure {
    title: &'static str,
    unit: &'static str,
    of: fn(&LayerQuantization) -> f64,
    spell: fn(f64) -> String,
    scale: Scale,
}

const FIGURES: [Figure; 5] = [
    Figure {
        title: "Zero fraction",
        unit: "share of the trits that are 0",
        of: |layer| layer.zero_fraction,
        spell: percent,
        scale: Scale::Linear,
    },
    Figure {
        title: "Flip rate",
        unit: "trits changed since the last look",
        of: |layer| layer.flip_rate,
        spell: percent,
        scale: Scale::LogFrom(10),
    },
    Figure {
        title: "Scale γ",
        unit: "mean magnitude of the latent weights",
        of: |layer| layer.gamma,
        spell: short,
        scale: Scale::LogFrom(10),
    },
    Figure {
        title: "Dead zone",
        unit: "share of the weights with |w| < γ/4",
        of: |layer| layer.dead_zone,
        spell: percent,
        scale: Scale::Linear,
    },
    Figure {
        title: "Activation absmax",
        unit: "largest input of the linear",
        of: |layer| layer.activation_absmax,
        spell: short,
        scale: Scale::LogFrom(10),
    },
];

/// A curve over all layers and a map of each, for every figure, and a table. Nothing where no layer was ever looked at.
pub fn charts(out: &mut String, records: &[StepRecord]) {
    let looks: Vec<(f64, &[LayerQuantization])> =
        records.iter().filter_map(|record| Some((record.step as f64, record.layers.as_deref()?))).collect();
    let Some((_, newest)) = looks.last() else { return };
    let layers: Vec<&str> = newest.iter().map(|layer| layer.name.as_str()).collect();
    let looks = evenly(&looks, LOOKS);
    for figure in &FIGURES {
        figure.draw(out, &looks, &layers, last_step(records));
    }
    table(out, records);
}

/// The last look at each layer, as a table.
fn table(out: &mut String, records: &[StepRecord]) {
    let Some((step, layers)) = records.iter().rev().find_map(|record| Some((record.step, record.layers.as_deref()?)))
    else {
        return;
    };
    let _ = write!(
        out,
        "<figure class=\"card layers\"><figcaption><b>Every layer</b> <span>after step {}</span></figcaption>\
         <div><table><thead><tr><th>layer</th>",
        grouped(step)
    );
    for Figure { title, .. } in &FIGURES {
        let _ = write!(out, "<th>{title}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for layer in layers {
        let _ = write!(out, "<tr><td>{}</td>", Escaped(&layer.name));
        for Figure { of, spell, .. } in &FIGURES {
            let _ = write!(out, "<td>{}</td>", spell(of(layer)));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div></figure>");
}

impl Figure {
    fn draw(&self, out: &mut String, looks: &[(f64, &[LayerQuantization])], layers: &[&str], last_step: f64) {
        let (mut mean, mut band, mut readings) = (Vec::new(), Vec::new(), Vec::new());
        for (step, look) in looks {
            let values = || look.iter().map(self.of).filter(|value| value.is_finite());
            let count = values().count();
            if count == 0 {
                continue;
            }
            let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
            let middle = values().sum::<f64>() / count as f64;
            mean.push((*step, middle));
            band.push((*step, low, high));
            let [low, middle, high] = [low, middle, high].map(self.spell);
            readings.push((*step, format!("mean {middle} · {low} to {high}")));
        }
        let chart = Chart {
            title: self.title.to_string(),
            unit: self.unit.to_string(),
            scale: self.scale,
            left: LEFT,
            steps: (0.0, last_step),
            spell: self.spell,
            band,
            series: vec![Series { label: "mean".to_string(), colour: 0, look: Look::Line, points: mean }],
            readings,
        };
        chart.open(out);
        let column = |(step, look): &(f64, &[LayerQuantization])| {
            // A layer keeps its row even if another run had others.
            let value = |name: &&str| look.iter().find(|layer| layer.name == **name).map_or(f64::NAN, self.of);
            (*step, layers.iter().map(value).collect())
        };
        let columns = evenly(looks, Heat::most_columns(layers.len())).iter().map(column).collect();
        Heat { layers, columns, scale: self.scale, left: LEFT, last_step, spell: self.spell }.svg(out);
        out.push_str("</figure>");
    }
}

fn percent(share: f64) -> String {
    format!("{}%", short(share * 100.0))
}
