//! From values to places on the picture.

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from the least to the greatest.
    Linear,
    /// Evenly, from 0.
    FromZero,
    /// By their logarithms where all are positive and the greatest is this many times the least; else evenly.
    LogFrom(u32),
}

const HUGE: f64 = 1e100;

/// An axis from `low` at `start` to `high` at `end`, both places in the units of the picture.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
    start: f64,
    end: f64,
}

impl Axis {
    /// An axis that has room for all of `values`, which are finite.
    pub fn over(values: impl Iterator<Item = f64>, scale: Scale, (start, end): (f64, f64)) -> Self {
        let (mut low, mut high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // What a run that diverges may come to; its square has to be a number still.
        (low, high) = (low.clamp(-HUGE, HUGE), high.clamp(-HUGE, HUGE));
        let log = match scale {
            Scale::LogFrom(ratio) => low > 1.0 / HUGE && high >= low * f64::from(ratio),
            Scale::Linear | Scale::FromZero => false,
        };
        if log {
            let margin = (high / low).powf(0.04);
            return Self { low: low / margin, high: high * margin, log, start, end };
        }
        let all_positive = low >= 0.0;
        if scale == Scale::FromZero && all_positive {
            low = 0.0;
        }
        // Where all values are one, the axis shows its surroundings.
        let margin = if high > low { 0.05 * (high - low) } else { (0.05 * high.abs()).max(1e-12) };
        let low = if low == 0.0 && high > 0.0 { 0.0 } else { low - margin };
        // A margin does not make a learning rate negative.
        let low = if all_positive { low.max(0.0) } else { low };
        Self { low, high: high + margin, log, start, end }
    }

    /// An axis that ends exactly where its values do.
    pub fn exactly(low: f64, high: f64, (start, end): (f64, f64)) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, log: false, start, end }
    }

    /// Where a value is.
    pub fn place(&self, value: f64) -> f64 {
        let share = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    pub fn is_log(&self) -> bool {
        self.log
    }

    /// About `count` round values along the axis.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        if self.log {
            let by_decade = [&[1.0][..], &[1.0, 3.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]];
            let ticks = by_decade.map(|mantissas| self.decades(mantissas));
            if let Some(ticks) = ticks.into_iter().find(|ticks| ticks.len() >= count.div_ceil(2)) {
                let step = ticks.len().div_ceil(2 * count).max(1);
                return ticks.into_iter().step_by(step).collect();
            }
        }
        let rough = (self.high - self.low) / count.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].into_iter().map(|round| round * power).find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        // Counted in steps, so that no error adds up.
        let (first, last) = ((self.low / step - 1e-9).ceil(), (self.high / step + 1e-9).floor());
        let ticks = (0..=(last - first).max(0.0) as u32).map(|number| (first + f64::from(number)) * step);
        ticks.filter(|tick| tick.is_finite()).collect()
    }

    fn decades(&self, mantissas: &[f64]) -> Vec<f64> {
        let powers = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let all = powers.flat_map(|power| mantissas.iter().map(move |mantissa| mantissa * 10f64.powi(power)));
        all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticks(low: f64, high: f64, scale: Scale) -> Vec<f64> {
        Axis::over([low, high].into_iter(), scale, (0.0, 1.0)).ticks(5)
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(ticks(0.0, 2000.0, Scale::Linear), [0.0, 500.0, 1000.0, 1500.0, 2000.0]);
        assert_eq!(ticks(1.6, 4.2, Scale::FromZero), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(ticks(2.0, 12.0, Scale::LogFrom(3)), [2.0, 5.0, 10.0]);
        assert_eq!(ticks(0.05, 600.0, Scale::LogFrom(10)), [0.1, 1.0, 10.0, 100.0]);
        assert_eq!(ticks(0.0, 12.0, Scale::LogFrom(3)), [0.0, 5.0, 10.0]);
    }

    proptest! {
        #[test]
        fn no_axis_leaves_the_picture(a: f64, b: f64, between in 0.0..=1.0, scale in 0usize..3) {
            prop_assume!(a.is_finite() && b.is_finite());
            let scale = [Scale::Linear, Scale::FromZero, Scale::LogFrom(3)][scale];
            let axis = Axis::over([a, b].into_iter(), scale, (10.0, 200.0));
            for value in [a, b, a * between + b * (1.0 - between)] {
                prop_assert!((10.0..=200.0).contains(&axis.place(value)));
            }
            let ticks = axis.ticks(5);
            prop_assert!(ticks.len() <= 12);
            prop_assert!(ticks.iter().all(|tick| (10.0..=200.0).contains(&axis.place(*tick))));
        }
    }
}
