//! The operations on CubeCL's devices.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn_cubecl::CubeBackend;

use crate::cpu::dense::RowFormat;
use crate::cpu::gate::Gate;
use crate::cube;
use crate::ops::training::TrainingOps;
use crate::ops::{CacheSpec, LinearInput, Norm, TernaryOps, TernarySpec, Weight, WeightOrder, Weights, reference};

impl TernaryOps for CubeBackend {
    fn ternary_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        let weight = in_rows(Weight { words, scale, spec });
        cube::quantized_linear(&cube::quantize(x, None, &spec), weight)
    }

    fn ternary_linears(input: LinearInput<Self>, norm: Norm<Self>, weights: Weights<Self>) -> Vec<FloatTensor<Self>> {
        let x = match input {
            LinearInput::Plain(x) => x,
            LinearInput::Gated { gate, up, kind } => cube::gated(gate, up, kind),
        };
        let norm = match norm {
            Norm::None => None,
            Norm::Rms { weight, eps } => Some((weight, eps)),
        };
        let mut quantized: Option<(TernarySpec, cube::Quantized)> = None;
        let mut linear = |weight: Weight<Self>| {
            let weight = in_rows(weight);
            // Once for all that read it in the same way.
            let codes = match quantized.take() {
                Some((spec, codes)) if spec == weight.spec => codes,
                _ => cube::quantize(x.clone(), norm.clone(), &weight.spec),
            };
            let spec = weight.spec;
            let y = cube::quantized_linear(&codes, weight);
            quantized = Some((spec, codes));
            y
        };
        let out: Vec<_> = weights.into_vec().into_iter().map(&mut linear).collect();
        if let Some(y) = out.first() {
            cube::rest(y);
        }
        out
    }

    fn rows_linear(x: FloatTensor<Self>, rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        match cube::rows_linear(x.clone(), &rows, format) {
            Some(y) => y,
            None => reference::rows_linear::<Self>(x, rows, format, cols),
        }
    }

    fn decode_rows(rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        match cube::decode_rows(&rows, format, cols) {
            Some(values) => values,
            None => reference::decode_rows::<Self>(rows, format, cols),
        }
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        cube::rms_norm(x, weight, eps)
    }

    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>, start: usize) -> FloatTensor<Self> {
        cube::rope(x, cos, sin, start)
    }

    fn cached_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        keys: IntTensor<Self>,
        values: IntTensor<Self>,
        spec: CacheSpec,
    ) -> (FloatTensor<Self>, IntTensor<Self>, IntTensor<Self>) {
        let (q, k) = (cube::rope(q, cos.clone(), sin.clone(), 0), cube::rope(k, cos, sin, 0));
        cube::attend([q, k, v], [keys, values], spec)
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self> {
        cube::gated(gate, up, kind)
    }
}

/// The same weights in canonical order, which the kernels read.
fn in_rows(weight: Weight<CubeBackend>) -> Weight<CubeBackend> {
    let Weight { words, scale, spec } = weight;
    let words = reference::rows_of_words::<CubeBackend>(words, spec.order, spec.cols);
    Weight { words, scale, spec: TernarySpec { order: WeightOrder::Rows, ..spec } }
}

impl TrainingOps for CubeBackend {}
