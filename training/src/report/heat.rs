//! A heat map: layers down, steps across.

use std::fmt::Write;

use super::axis::{Axis, Scale};
use super::chart::{RIGHT, WIDTH, steps};
use super::html::Escaped;

/// Cells of a map at most: each is an element of the page.
const CELLS: usize = 2400;

/// Height of a row of cells, and of one that has room for its name.
const ROW: (f64, f64) = (4.0, 13.0);

/// Height that rows with names may have together.
const HEIGHT: f64 = 330.0;

/// From dark blue over green to yellow, evenly lighter to the eye: red, green and blue.
const RAMP: [[u8; 3]; 6] =
    [[52, 28, 94], [59, 82, 139], [33, 125, 138], [53, 168, 118], [140, 204, 72], [250, 226, 60]];

/// A value for each layer and step.
pub struct Heat<'a> {
    pub layers: &'a [&'a str],
    /// Where columns end, and what they hold: one value a layer, NaN where there is none.
    pub columns: Vec<(f64, Vec<f64>)>,
    pub scale: Scale,
    pub left: f64,
    pub last_step: f64,
    /// Prints a value.
    pub spell: fn(f64) -> String,
}

impl Heat<'_> {
    /// How many columns a map of so many layers may have.
    pub fn most_columns(layers: usize) -> usize {
        (CELLS / layers.max(1)).clamp(12, 80)
    }

    /// The map as a picture.
    pub fn svg(&self, out: &mut String) {
        let rows = self.layers.len();
        let row = (HEIGHT / rows.max(1) as f64).clamp(ROW.0, ROW.1);
        let (top, bottom) = (4.0, 4.0 + row * rows as f64);
        let height = bottom + 62.0;
        let x = Axis::exactly(0.0, self.last_step, (self.left, WIDTH - RIGHT));
        let values =
            self.columns.iter().flat_map(|(_, values)| values.iter().copied()).filter(|value| value.is_finite());
        let shade = Axis::over(values.clone(), self.scale, (0.0, 1.0));
        let _ = write!(
            out,
            "<svg class=\"heat\" viewBox=\"0 0 {WIDTH} {height:.1}\" role=\"img\" aria-label=\"by layer\">"
        );
        let prefix = common_prefix(self.layers);
        let skip = (11.0 / row).ceil() as usize;
        for (at, name) in self.layers.iter().enumerate() {
            let y = top + row * at as f64;
            if at.is_multiple_of(skip.max(1)) {
                let _ = write!(
                    out,
                    "<text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}<title>{}</title></text>",
                    self.left - 6.0,
                    y + row / 2.0 + 3.5,
                    Escaped(&tail(&name[prefix..])),
                    Escaped(name)
                );
            }
            let _ = write!(out, "<g transform=\"translate(0 {y:.1})\">");
            for (column, (step, values)) in self.columns.iter().enumerate() {
                let Some(value) = values.get(at).filter(|value| value.is_finite()) else { continue };
                let before = column.checked_sub(1).and_then(|before| self.columns.get(before));
                let (from, to) = (before.map_or(self.left, |before| x.place(before.0)), x.place(*step));
                let _ = write!(
                    out,
                    "<path fill=\"{}\" d=\"M{from:.1} 0H{to:.1}V{row:.1}H{from:.1}z\"><title>{} · step {step}: {}</title></path>",
                    colour(shade.place(*value)),
                    Escaped(name),
                    (self.spell)(*value)
                );
            }
            out.push_str("</g>");
        }
        steps(out, &x, bottom);
        self.key(out, values, &shade, bottom + 44.0);
        out.push_str("</svg>");
    }

    /// Which colour is which value.
    fn key(&self, out: &mut String, values: impl Iterator<Item = f64>, shade: &Axis, y: f64) {
        const PARTS: usize = 40;
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return;
        }
        let (from, width) = (self.left + 60.0, 160.0 / PARTS as f64);
        let (first, last) = (shade.place(low), shade.place(high));
        for part in 0..PARTS {
            let share = first + (last - first) * part as f64 / (PARTS - 1) as f64;
            let _ = write!(
                out,
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"9\" fill=\"{}\"/>",
                from + part as f64 * width,
                width + 0.3,
                colour(share)
            );
        }
        let log = if shade.is_log() { " (log)" } else { "" };
        let _ = write!(
            out,
            "<text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}</text><text x=\"{:.1}\" y=\"{:.1}\">{}{log}</text>",
            from - 6.0,
            y + 9.0,
            (self.spell)(low),
            from + 166.0,
            y + 9.0,
            (self.spell)(high)
        );
    }
}

/// Length of what all names begin with, up to a dot.
fn common_prefix(names: &[&str]) -> usize {
    let Some((first, others)) = names.split_first() else { return 0 };
    let ends = first.match_indices('.').map(|(at, _)| at + 1);
    ends.rev().find(|end| others.iter().all(|other| other.starts_with(&first[..*end]))).unwrap_or(0)
}

/// The end of a long name, which is what tells layers apart.
fn tail(name: &str) -> String {
    const ROOM: usize = 19;
    let count = name.chars().count();
    if count <= ROOM {
        name.to_string()
    } else {
        format!("…{}", name.chars().skip(count - ROOM + 1).collect::<String>())
    }
}

/// A place on the ramp, 0 to 1.
fn colour(share: f64) -> String {
    let place = share.clamp(0.0, 1.0) * (RAMP.len() - 1) as f64;
    let at = (place as usize).min(RAMP.len() - 2);
    let mut text = String::from("#");
    for (low, high) in RAMP[at].into_iter().zip(RAMP[at + 1]) {
        let mixed = f64::from(low) + (f64::from(high) - f64::from(low)) * (place - at as f64);
        let _ = write!(text, "{:02x}", mixed.round() as u8);
    }
    text
}
