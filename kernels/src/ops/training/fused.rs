//! What operations of training will give, for Burn's fusion, which runs them later.

use bitnet_ternary::Granularity;
use burn::backend::fusion::custom::TensorSpec;
use burn::tensor::DType;

/// Of [`super::TrainingOps::absmean_quantize`].
pub(super) fn absmean(w: &TensorSpec, granularity: &Granularity) -> (TensorSpec, TensorSpec) {
    let (rows, cols) = (w.shape[0], w.shape[1]);
    let scale = match granularity {
        Granularity::Tensor => [1, 1],
        Granularity::Row => [rows, 1],
        Granularity::Group(size) => [rows, cols.div_ceil(*size)],
    };
    (TensorSpec::new([rows, cols.div_ceil(16)].into(), DType::U32), TensorSpec::new(scale.into(), w.dtype))
}

/// Of [`super::TrainingOps::absmax_quantize`], as CubeCL's devices have the codes: four in a word.
pub(super) fn absmax(x: &TensorSpec) -> (TensorSpec, TensorSpec) {
    let (tokens, cols) = (x.shape[0], x.shape[1]);
    (TensorSpec::new([tokens, cols.div_ceil(4)].into(), DType::U32), TensorSpec::new([tokens, 1].into(), x.dtype))
}
