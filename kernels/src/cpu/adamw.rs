//! One step of AdamW, and the norm of a gradient.

use super::isa::{Isa, on_each_isa};
use super::parallel::{self, Parts};

/// Elements that one task takes; a sum of squares is the sum of the sums of these.
const CHUNK: usize = 4096;

/// The numbers of one step of AdamW.
///
/// Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101), algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f32,
    /// Decay of the mean of the gradients.
    pub beta_1: f32,
    /// Decay of the mean of their squares.
    pub beta_2: f32,
    /// Added to the root of the mean of the squares.
    pub epsilon: f32,
    /// Share of a weight that is taken away in a step, times the step size.
    pub weight_decay: f32,
    /// What the gradient is multiplied by first: the clipping of its norm.
    pub gradient_scale: f32,
    /// Number of this step, the first being 1: what the means are corrected for.
    pub step: u32,
}

/// The factors that a step applies to each element.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    /// What is kept of a weight.
    pub keep: f32,
    /// What the gradient is multiplied by.
    pub scale: f32,
    /// Decay of the mean.
    pub beta_1: f32,
    /// Decay of the mean of squares.
    pub beta_2: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// The step, corrected for the mean.
    pub size: f32,
    /// What the root is multiplied by.
    pub root: f32,
}

impl AdamW {
    pub(crate) fn factors(&self) -> Factors {
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(step);
        Factors {
            keep: (1.0 - f64::from(self.learning_rate) * f64::from(self.weight_decay)) as f32,
            scale: self.gradient_scale,
            beta_1: self.beta_1,
            beta_2: self.beta_2,
            epsilon: self.epsilon,
            size: (f64::from(self.learning_rate) / correction(self.beta_1)) as f32,
            root: (1.0 / correction(self.beta_2).sqrt()) as f32,
        }
    }
}

/// Changes the weights `w` and both means in place.
///
/// # Panics
/// When this processor cannot run `isa`, or the slices differ in length.
pub fn adamw(isa: Isa, step: AdamW, w: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
    isa.check();
    let len = w.len();
    assert_eq!((gradient.len(), mean.len(), square.len()), (len, len, len), "gradient and means");
    let (factors, mean, square) = (step.factors(), Parts::new(mean), Parts::new(square));
    parallel::chunks(w, CHUNK, 8 * len, |i, w| {
        let (start, end) = (i * CHUNK, i * CHUNK + w.len());
        // SAFETY: each task has elements of its own.
        let (mean, square) = unsafe { (mean.slice(start, end), square.slice(start, end)) };
        step_of(isa, factors, w, &gradient[start..end], mean, square);
    });
}

on_each_isa! {
    fn step_of(f: Factors, w: &mut [f32], g: &[f32], mean: &mut [f32], square: &mut [f32]) = step_body
}

#[inline(always)]
fn step_body(f: Factors, w: &mut [f32], g: &[f32], mean: &mut [f32], square: &mut [f32]) {
    for (((w, g), m), v) in w.iter_mut().zip(g).zip(mean).zip(square) {
        let g = g * f.scale;
        *m = f.beta_1 * *m + (1.0 - f.beta_1) * g;
        *v = f.beta_2 * *v + (1.0 - f.beta_2) * g * g;
        *w = *w * f.keep - f.size * *m / (v.sqrt() * f.root + f.epsilon);
    }
}

/// `sum(x^2)` in f64, the same for any number of threads.
///
/// # Panics
/// When this processor cannot run `isa`.
pub fn sum_of_squares(isa: Isa, x: &[f32]) -> f64 {
    isa.check();
    let mut sums = vec![0f64; x.len().div_ceil(CHUNK)];
    parallel::chunks(&mut sums, 1, x.len(), |i, sum| {
        sum[0] = squares_of(isa, &x[i * CHUNK..x.len().min((i + 1) * CHUNK)]);
    });
    sums.into_iter().sum()
}

on_each_isa! {
    fn squares_of(x: &[f32]) -> f64 = super::norm::sum_of_squares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_the_formula_and_the_same_everywhere() {
        let n = 2 * CHUNK + 77;
        let noise = |seed: usize| (0..n).map(move |i| ((i * 7919 + seed) % 2003) as f32 / 997.0 - 1.0);
        let start: Vec<f32> = noise(1).collect();
        let step = |step| AdamW {
            learning_rate: 1e-2,
            beta_1: 0.9,
            beta_2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: 0.5,
            step,
        };
        let mut all = Vec::new();
        for isa in Isa::available() {
            let (mut w, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
            for t in 1..=3 {
                let g: Vec<f32> = noise(t as usize + 10).collect();
                adamw(isa, step(t), &mut w, &g, &mut m, &mut v);
            }
            all.push(w);
        }
        assert!(all.iter().all(|w| w == &all[0]));
        let (mut w, mut m, mut v) = (f64::from(start[5]), 0.0, 0.0);
        for t in 1..=3 {
            let g = 0.5 * f64::from(noise(t as usize + 10).nth(5).unwrap());
            (m, v) = (0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g);
            let (mean, square) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.95f64.powi(t)));
            w = w * (1.0 - 1e-3) - 1e-2 * mean / (square.sqrt() + 1e-8);
        }
        assert!((f64::from(all[0][5]) - w).abs() < 1e-6, "{} {w}", all[0][5]);
    }
}
