//! RMSNorm.

use bitnet_kernels::ops;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// `weight * (x / sqrt(mean(x^2) + eps))` over the last dimension.
///
/// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization" (arXiv 1910.07467), eq. 4.
#[derive(Module, Debug)]
pub struct RmsNorm {
    weight: Param<Tensor<1>>,
    eps: f64,
}

impl RmsNorm {
    /// From a weight for each value of the last dimension.
    pub fn new(weight: Vec<f32>, eps: f64, device: &Device) -> Self {
        let shape = [weight.len()];
        Self {
            weight: Param::from_tensor(Tensor::from_data(TensorData::new(weight, shape), (device, DType::F32))),
            eps,
        }
    }

    /// The weight and the epsilon, for an operation that normalizes by itself.
    pub(crate) fn parts(&self) -> (Tensor<1>, f64) {
        (self.weight.val(), self.eps)
    }

    /// `[width]`.
    pub fn weight(&self) -> &Param<Tensor<1>> {
        &self.weight
    }

    /// Normalizes each row of `x` (`[rows, width]`, F32).
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::rms_norm(x, self.weight.val(), self.eps)
    }
}
