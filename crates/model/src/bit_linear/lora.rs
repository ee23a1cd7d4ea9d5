//! A float branch beside the trits.

use bitnet_kernels::ops;
use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// Two float matrices whose product is added to what a layer computes, `y += scale · B A x`, with the input as it is before
/// its quantization. The trits stay what they are: a product of floats cannot be merged into them.
///
/// Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.1.
#[derive(Module, Debug)]
pub struct Lora {
    a: Param<Tensor<2>>,
    b: Param<Tensor<2>>,
    scale: f64,
}

impl Lora {
    /// From `a` `[rank, d_input]` and `b` `[d_output, rank]`, both F32.
    ///
    /// # Panics
    /// When they do not have one rank.
    pub fn new(a: Tensor<2>, b: Tensor<2>, scale: f64) -> Self {
        assert_eq!(a.dims()[0], b.dims()[1], "both matrices have one rank");
        Self { a: Param::from_tensor(a), b: Param::from_tensor(b), scale }
    }

    /// What is added: `[tokens, d_input] → [tokens, d_output]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::dense_linear(ops::dense_linear(x, self.a.val()), self.b.val()) * self.scale
    }

    /// `[rank, d_input]`.
    pub fn a(&self) -> &Param<Tensor<2>> {
        &self.a
    }

    /// `[d_output, rank]`.
    pub fn b(&self) -> &Param<Tensor<2>> {
        &self.b
    }

    /// What the product is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }
}
