//! A line chart.

use std::fmt::Write;

use super::axis::{Axis, Scale};
use super::html::Escaped;
use super::number;
use super::series::Points;

/// Size of every picture, in its own units, and what surrounds the plot.
pub const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 270.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 36.0;
pub const RIGHT: f64 = 14.0;

/// How a curve looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// As what it is drawn for.
    Line,
    /// As the background of another curve.
    Faint,
    /// With a mark at each point: measurements that are few.
    Marked,
}

/// A curve.
pub struct Series {
    /// For the legend.
    pub label: String,
    /// Number of the page's colour, 0 to 5.
    pub colour: usize,
    pub look: Look,
    /// Finite, in rising order of steps.
    pub points: Points,
}

/// A line chart over the steps of a run.
pub struct Chart {
    pub title: String,
    /// What the values are.
    pub unit: String,
    pub scale: Scale,
    /// Width of the room for the labels of the values.
    pub left: f64,
    /// The first and the last step that are shown.
    pub steps: (f64, f64),
    /// Prints a value on the axis.
    pub spell: fn(f64) -> String,
    /// Least and greatest value at a step, as a band behind the curves.
    pub band: Vec<(f64, f64, f64)>,
    pub series: Vec<Series>,
    /// What is told of a step when the mouse is there.
    pub readings: Vec<(f64, String)>,
}

impl Chart {
    /// The chart as a figure without its end, so that a heat map can follow.
    pub fn open(&self, out: &mut String) {
        let values = self.series.iter().flat_map(|series| series.points.iter().map(|(_, value)| *value));
        let values = values.chain(self.band.iter().flat_map(|(_, low, high)| [*low, *high]));
        let y = Axis::over(values, self.scale, (HEIGHT - BOTTOM, TOP));
        let _ = write!(
            out,
            "<figure class=\"card\"><figcaption><b>{}</b> <span>{}{}</span>",
            Escaped(&self.title),
            Escaped(&self.unit),
            if y.is_log() { ", log scale" } else { "" }
        );
        self.legend(out);
        out.push_str("</figcaption>");
        self.svg(out, &y);
    }

    fn legend(&self, out: &mut String) {
        if self.series.len() + usize::from(!self.band.is_empty()) > 1 {
            out.push_str("<ul class=\"legend\">");
            for Series { label, colour, look, .. } in &self.series {
                let faint = if *look == Look::Faint { " faint" } else { "" };
                let _ = write!(out, "<li class=\"c{colour}{faint}\">{}</li>", Escaped(label));
            }
            if !self.band.is_empty() {
                out.push_str("<li class=\"c0 faint\">all layers</li>");
            }
            out.push_str("</ul>");
        }
    }

    fn svg(&self, out: &mut String, y: &Axis) {
        let across = (self.left, WIDTH - RIGHT);
        let x = Axis::exactly(self.steps.0, self.steps.1, across);
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} over steps\">",
            Escaped(&self.title)
        );
        for tick in y.ticks(7) {
            let (at, label) = (y.place(tick), (self.spell)(tick));
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{:.1} {at:.1}H{:.1}\"/><text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                across.0,
                across.1,
                across.0 - 8.0,
                at + 4.0
            );
        }
        steps(out, &x, HEIGHT - BOTTOM);
        self.curves(out, &x, y);
        self.hits(out, &x, y);
        out.push_str("</svg>");
    }

    fn curves(&self, out: &mut String, x: &Axis, y: &Axis) {
        if !self.band.is_empty() {
            out.push_str("<polygon class=\"band c0\" points=\"");
            for (step, _, high) in &self.band {
                let _ = write!(out, "{:.1},{:.1} ", x.place(*step), y.place(*high));
            }
            for (step, low, _) in self.band.iter().rev() {
                let _ = write!(out, "{:.1},{:.1} ", x.place(*step), y.place(*low));
            }
            out.push_str("\"/>");
        }
        for Series { label, colour, look, points } in &self.series {
            let class = if *look == Look::Faint { "faint" } else { "line" };
            let _ = write!(out, "<polyline class=\"{class} c{colour}\" points=\"");
            for (step, value) in points {
                let _ = write!(out, "{:.1},{:.1} ", x.place(*step), y.place(*value));
            }
            out.push_str("\"/>");
            // A single point makes no line.
            if *look == Look::Marked || points.len() == 1 {
                for (step, value) in points {
                    let _ = write!(
                        out,
                        "<circle class=\"c{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>step {step}: {} {}</title></circle>",
                        x.place(*step),
                        y.place(*value),
                        Escaped(label),
                        (self.spell)(*value)
                    );
                }
            }
        }
    }

    /// A strip for each reading, which shows a rule and the values while the mouse is on it.
    fn hits(&self, out: &mut String, x: &Axis, y: &Axis) {
        let places: Vec<f64> = self.readings.iter().map(|(step, _)| x.place(*step)).collect();
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        for (at, (step, reading)) in self.readings.iter().enumerate() {
            let here = places[at];
            let middle = |other: Option<&f64>, edge: f64| other.map_or(edge, |other| (here + other) / 2.0);
            let from = middle(at.checked_sub(1).and_then(|before| places.get(before)), self.left);
            let to = middle(places.get(at + 1), WIDTH - RIGHT);
            let reading = Escaped(reading);
            let _ = write!(
                out,
                "<g class=\"hit\"><title>step {step}: {reading}</title>\
                 <path class=\"area\" d=\"M{from:.1} {top}H{to:.1}V{bottom}H{from:.1}z\"/>\
                 <path class=\"rule\" d=\"M{here:.1} {top}V{bottom}\"/>"
            );
            for Series { colour, points, .. } in self.series.iter().filter(|series| series.look == Look::Line) {
                if let Some((_, value)) = points.get(points.partition_point(|(other, _)| other < step)) {
                    let _ = write!(
                        out,
                        "<circle class=\"c{colour}\" cx=\"{here:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                        y.place(*value)
                    );
                }
            }
            let _ = write!(out, "<text x=\"{:.1}\" y=\"14\">step {step} · {reading}</text></g>", WIDTH - RIGHT);
        }
    }
}

/// The axis of steps with its labels below `bottom`.
pub fn steps(out: &mut String, x: &Axis, bottom: f64) {
    let ticks = x.ticks(6);
    for tick in &ticks {
        let at = x.place(*tick);
        let _ = write!(
            out,
            "<path class=\"axis\" d=\"M{at:.1} {bottom}v5\"/><text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 18.0,
            number::short(*tick)
        );
    }
    let _ = write!(
        out,
        "<path class=\"axis\" d=\"M{:.1} {bottom}H{:.1}\"/><text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">step</text>",
        x.place(f64::NEG_INFINITY),
        x.place(f64::INFINITY),
        x.place(f64::INFINITY),
        bottom + 32.0
    );
}
