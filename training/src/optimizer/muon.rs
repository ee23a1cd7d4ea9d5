//! Muon: momentum whose matrix is made orthogonal before it is a step.

use bitnet_kernels::ops::training::{Precision, Quantization, quantized_linears};
use burn::tensor::Tensor;

use super::StepSize;

/// Coefficients of the quintic polynomial that moves all singular values towards one.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// One step of Muon for a matrix `[out, in]`, its update scaled by `0.2 sqrt(max(out, in))` to the size of AdamW's, so that
/// both take one learning rate.
///
/// Source: Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024); the scale: Liu et al., "Muon is
/// Scalable for LLM Training" (arXiv 2502.16982), section 2.2.
pub(super) struct Muon {
    pub(super) size: StepSize,
    pub(super) weight_decay: f64,
    pub(super) momentum: f64,
}

impl Muon {
    /// The new weights and the new momentum.
    pub(super) fn apply(
        &self,
        w: Tensor<1>,
        gradient: Tensor<1>,
        momentum: Tensor<1>,
        shape @ [rows, cols]: [usize; 2],
    ) -> (Tensor<1>, Tensor<1>) {
        let gradient = gradient * self.size.gradient_scale;
        // As torch's lerp: both the mean and the look ahead are weighted means.
        let momentum = momentum * self.momentum + gradient.clone() * (1.0 - self.momentum);
        let ahead = gradient * (1.0 - self.momentum) + momentum.clone() * self.momentum;
        let update = orthogonal(ahead.reshape(shape)).reshape([rows * cols]);
        let scale = self.size.learning_rate * 0.2 * (rows.max(cols) as f64).sqrt();
        let kept = w * (1.0 - self.size.learning_rate * self.weight_decay);
        (kept - update * scale, momentum)
    }
}

/// About the nearest orthogonal matrix: Newton-Schulz iterations on the shorter side.
fn orthogonal(g: Tensor<2>) -> Tensor<2> {
    let [rows, cols] = g.dims();
    let tall = rows > cols;
    let g = if tall { g.transpose() } else { g };
    let norm = g.clone().powf_scalar(2.0).sum().sqrt().reshape([1, 1]) + 1e-7;
    let mut x = g / norm;
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        let square = product(x.clone(), x.clone());
        // Symmetric, so it is its own transpose.
        let polynomial = square.clone() * b + product(square.clone(), square) * c;
        x = x.clone() * a + product(polynomial, x.transpose());
    }
    if tall { x.transpose() } else { x }
}

/// `a bᵀ`, as the float products of the linears.
fn product(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let [product] = quantized_linears(a, [b], Quantization::None, Precision::F32);
    product
}
