//! Rotary positions.

use bitnet_format::{ModelConfig, RopeScaling};
use bitnet_kernels::ops;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::Attention;

/// The angles of half-split rotary position embedding: element `i` of a head turns with element `i + dim / 2`.
///
/// Source: Su et al., "RoFormer" (arXiv 2104.09864), section 3.2.2; `inv_freq[i] = theta^(-2 i / dim)`.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Radians a position, one for each pair.
    inv_freq: Vec<f32>,
}

/// The angles of a model, which are others in layers with sliding windows.
#[derive(Clone, Debug)]
pub(crate) struct Ropes {
    global: Rope,
    local: Option<Rope>,
}

/// Tables for the same positions, of both kinds of layers.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    global: RopeTables,
    local: Option<RopeTables>,
}

/// Cosines and sines of some positions, `[positions, dim / 2]` each.
#[derive(Clone, Debug)]
pub struct RopeTables {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Rope {
    /// The frequencies of a configuration, scaled as it says.
    pub fn new(config: &ModelConfig) -> Self {
        Self::with(config.rope_theta, config.rope_dim, &config.rope_scaling)
    }

    fn with(theta: f64, dim: usize, scaling: &RopeScaling) -> Self {
        let plain = (0..dim / 2).map(|i| theta.powf(-((2 * i) as f64) / dim as f64));
        let scaled = plain.enumerate().map(|(i, freq)| scale(scaling, i, freq) as f32);
        Self { inv_freq: scaled.collect() }
    }

    /// Tables for the positions `start..start + tokens`.
    ///
    /// The angle is the f32 product of position and frequency, as in the models' own code: at thousands of radians its
    /// rounding is part of the model.
    pub fn tables(&self, start: usize, tokens: usize, device: &Device) -> RopeTables {
        self.tables_of(start..start + tokens, device)
    }

    /// Tables for sequences of these lengths, one after the other, each from position zero on.
    pub(crate) fn tables_of_sequences(&self, lengths: &[usize], device: &Device) -> RopeTables {
        self.tables_of(lengths.iter().flat_map(|length| 0..*length), device)
    }

    fn tables_of(&self, positions: impl Iterator<Item = usize>, device: &Device) -> RopeTables {
        let angles = positions.flat_map(|p| self.inv_freq.iter().map(move |f| f64::from(p as f32 * f)));
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
        let half = self.inv_freq.len();
        let tokens = cos.len() / half.max(1);
        let table = |values| Tensor::from_data(TensorData::new(values, [tokens, half]), (device, DType::F32));
        RopeTables { cos: table(cos), sin: table(sin) }
    }
}

impl Ropes {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let local = |theta| Rope::with(theta, config.rope_dim, &RopeScaling::None);
        let local = config.sliding_window.as_ref().map(|window| local(window.rope_theta));
        Self { global: Rope::new(config), local }
    }

    /// For the positions below `end`.
    pub(crate) fn positions(&self, end: usize, device: &Device) -> Positions {
        self.each(|rope| rope.tables(0, end, device))
    }

    /// For sequences of these lengths, one after the other, each from position zero on.
    pub(crate) fn of_sequences(&self, lengths: &[usize], device: &Device) -> Positions {
        self.each(|rope| rope.tables_of_sequences(lengths, device))
    }

    fn each(&self, tables: impl Fn(&Rope) -> RopeTables) -> Positions {
        Positions { global: tables(&self.global), local: self.local.as_ref().map(tables) }
    }
}

impl Positions {
    /// The tables for a layer.
    pub(crate) fn of(&self, attention: &Attention) -> &RopeTables {
        self.local.as_ref().filter(|_| attention.window.is_some()).unwrap_or(&self.global)
    }
}

impl RopeTables {
    /// Cosines and sines.
    pub(crate) fn parts(&self) -> [Tensor<2>; 2] {
        [self.cos.clone(), self.sin.clone()]
    }

    /// Turns every head of `x` (`[batch, tokens, heads, head_dim]`); token `t` by the angles of row `t`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        ops::rope(x, self.cos.clone(), self.sin.clone(), 0)
    }
}

/// One frequency under the model's context extension.
fn scale(scaling: &RopeScaling, i: usize, freq: f64) -> f64 {
    match scaling {
        RopeScaling::None => freq,
        RopeScaling::Linear { factor } => freq / factor,
        RopeScaling::Factors(factors) => freq / f64::from(factors[i]),
        // Llama 3.1: long waves are stretched, short ones stay, those between get a mixture.
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let waves = *original_context as f64 * freq / std::f64::consts::TAU;
            let keep = ((waves - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
            freq * keep + freq / factor * (1.0 - keep)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        assert_eq!(scale(&scaling, 0, 1.0), 1.0);
        assert_eq!(scale(&scaling, 0, 1e-6), 1e-6 / 8.0);
        // A wave of 8192 / 2.5 positions is half way between.
        let freq = std::f64::consts::TAU * 2.5 / 8192.0;
        assert!((scale(&scaling, 0, freq) / freq - (0.5 + 0.5 / 8.0)).abs() < 1e-12);
    }
}
