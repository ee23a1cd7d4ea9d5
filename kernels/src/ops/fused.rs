//! What operations will give, for Burn's fusion, which runs them later.

use burn::backend::fusion::custom::TensorSpec;

use super::{Gate, LinearInputMetadata, NormMetadata, OutputsMetadata, WeightMetadata, WeightsMetadata};

/// Of [`super::TernaryOps::ternary_linears`].
pub(super) fn linears(input: &LinearInputMetadata, _: &NormMetadata, weights: &WeightsMetadata) -> OutputsMetadata {
    let x = match input {
        LinearInputMetadata::Plain(x) => x,
        LinearInputMetadata::Gated { gate, .. } => gate,
    };
    let of = |weight: &WeightMetadata| TensorSpec::new([x.shape[0], weight.words.shape[0]].into(), x.dtype);
    match weights {
        WeightsMetadata::One(a) => OutputsMetadata::One(of(a)),
        WeightsMetadata::Two(a, b) => OutputsMetadata::Two(of(a), of(b)),
        WeightsMetadata::Three(a, b, c) => OutputsMetadata::Three(of(a), of(b), of(c)),
    }
}

/// Of [`super::TernaryOps::ternary_linear_onto`].
pub(super) fn linear_onto(
    residual: &TensorSpec,
    _: &LinearInputMetadata,
    _: &NormMetadata,
    _: &WeightMetadata,
) -> TensorSpec {
    residual.clone()
}

/// Of [`super::TernaryOps::ternary_mlp`].
pub(super) fn mlp(
    x: &TensorSpec,
    _: &NormMetadata,
    _: &WeightsMetadata,
    _: &Gate,
    _: &NormMetadata,
    down: &WeightMetadata,
    _: &bool,
) -> TensorSpec {
    TensorSpec::new([x.shape[0], down.words.shape[0]].into(), x.dtype)
}
