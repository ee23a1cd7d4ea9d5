//! The operations on CubeCL's devices.

use bitnet_ternary::Granularity;
use bitnet_ternary::quantize::FLOOR;
use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{FloatDType, Scalar, Shape};
use burn_cubecl::CubeBackend;

use crate::cpu::dense::RowFormat;
use crate::cpu::gate::Gate;
use crate::cube;
use crate::notice::default_body;
use crate::ops::training::{self, AdamW, Precision, TrainingOps};
use crate::ops::{
    Activations, CacheSpec, LinearInput, Norm, Outputs, TernaryOps, TernarySpec, Weight, WeightOrder, Weights,
    reference,
};

impl TernaryOps for CubeBackend {
    fn ternary_linear(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        spec: TernarySpec,
    ) -> FloatTensor<Self> {
        linear(x, None, in_rows(Weight { words, scale, spec }))
    }

    fn ternary_linears(input: LinearInput<Self>, norm: Norm<Self>, weights: Weights<Self>) -> Outputs<Self> {
        let weights = weights.into_vec().into_iter().map(in_rows).collect();
        let out = linears(values_of(input), norm_of(norm), weights);
        if let Some(y) = out.first() {
            cube::rest(y);
        }
        Outputs::from_vec(out)
    }

    fn ternary_linear_onto(
        residual: FloatTensor<Self>,
        input: LinearInput<Self>,
        norm: Norm<Self>,
        weight: Weight<Self>,
    ) -> FloatTensor<Self> {
        let y = linear_onto(residual, values_of(input), norm_of(norm), in_rows(weight));
        cube::rest(&y);
        y
    }

    fn ternary_mlp(
        x: FloatTensor<Self>,
        norm: Norm<Self>,
        inner: Weights<Self>,
        kind: Gate,
        inner_norm: Norm<Self>,
        down: Weight<Self>,
        residual: bool,
    ) -> FloatTensor<Self> {
        let (norm, inner): (_, Vec<_>) = (norm_of(norm), inner.into_vec().into_iter().map(in_rows).collect());
        let residual = residual.then(|| x.clone());
        let gated = |parts: Vec<_>| match <[_; 2]>::try_from(parts) {
            Ok([gate, up]) => cube::gated(gate, up, kind),
            Err(parts) => panic!("a gated MLP has a gate and what it gates, not {} matrices", parts.len()),
        };
        let inner = match &*inner {
            [gate, up] if gate.spec == up.spec => {
                let codes = cube::quantize(x, norm, &gate.spec);
                let together = cube::quantized_gate(&codes, gate, up, kind);
                together.unwrap_or_else(|| gated(cube::quantized_linears(&codes, inner)))
            }
            _ => gated(linears(x, norm, inner)),
        };
        let (inner_norm, down) = (norm_of(inner_norm), in_rows(down));
        let y = match residual {
            Some(residual) => linear_onto(residual, inner, inner_norm, down),
            None => linear(inner, inner_norm, down),
        };
        cube::rest(&y);
        y
    }

    fn ternary_dequantize(words: IntTensor<Self>, scale: FloatTensor<Self>, spec: TernarySpec) -> FloatTensor<Self> {
        let weight = in_rows(Weight { words, scale, spec });
        cube::unpack(weight.words, weight.scale, spec.cols, spec.group.unwrap_or(spec.cols), true)
    }

    fn rows_linear(x: FloatTensor<Self>, rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        match cube::rows_linear(x.clone(), &rows, format) {
            Some(y) => y,
            None => {
                default_body::<Self>(&format!("rows_linear of {format:?}"), &x.device());
                reference::rows_linear::<Self>(x, rows, format, cols)
            }
        }
    }

    fn decode_rows(rows: IntTensor<Self>, format: RowFormat, cols: usize) -> FloatTensor<Self> {
        match cube::decode_rows(&rows, format, cols) {
            Some(values) => values,
            None => {
                default_body::<Self>(&format!("decode_rows of {format:?}"), &rows.device());
                reference::decode_rows::<Self>(rows, format, cols)
            }
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
        places: IntTensor<Self>,
        spec: CacheSpec,
    ) -> (FloatTensor<Self>, IntTensor<Self>, IntTensor<Self>) {
        cube::attend([q, k, v], [cos, sin], [keys, values], places, spec)
    }

    fn top_logits(logits: FloatTensor<Self>, count: usize) -> IntTensor<Self> {
        let [_, vocab] = logits.shape().dims();
        if count == 0 || vocab >= cube::MOST {
            default_body::<Self>("top_logits of so many", &logits.device());
            return reference::top_logits::<Self>(logits, count);
        }
        cube::top_logits(logits, count)
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, kind: Gate) -> FloatTensor<Self> {
        cube::gated(gate, up, kind)
    }
}

fn norm_of(norm: Norm<CubeBackend>) -> Option<(FloatTensor<CubeBackend>, f64)> {
    match norm {
        Norm::None => None,
        Norm::Rms { weight, eps } => Some((weight, eps)),
    }
}

fn values_of(input: LinearInput<CubeBackend>) -> FloatTensor<CubeBackend> {
    match input {
        LinearInput::Plain(x) => x,
        LinearInput::Gated { gate, up, kind } => cube::gated(gate, up, kind),
    }
}

fn linear(
    x: FloatTensor<CubeBackend>,
    norm: Option<(FloatTensor<CubeBackend>, f64)>,
    weight: Weight<CubeBackend>,
) -> FloatTensor<CubeBackend> {
    linears(x, norm, vec![weight]).pop().expect("one output for one matrix")
}

fn linear_onto(
    residual: FloatTensor<CubeBackend>,
    x: FloatTensor<CubeBackend>,
    norm: Option<(FloatTensor<CubeBackend>, f64)>,
    weight: Weight<CubeBackend>,
) -> FloatTensor<CubeBackend> {
    let codes = cube::quantize(x, norm, &weight.spec);
    match cube::quantized_linear_onto(&codes, &weight, residual.clone()) {
        Some(y) => y,
        None => {
            let y = cube::quantized_linears(&codes, vec![weight]).pop().expect("one output for one matrix");
            CubeBackend::float_add(residual, y)
        }
    }
}

/// Layers of one input, which is quantized once for neighbours that read it in the same way.
fn linears(
    x: FloatTensor<CubeBackend>,
    norm: Option<(FloatTensor<CubeBackend>, f64)>,
    weights: Vec<Weight<CubeBackend>>,
) -> Vec<FloatTensor<CubeBackend>> {
    let mut out = Vec::with_capacity(weights.len());
    for alike in weights.chunk_by(|a, b| a.spec == b.spec) {
        let codes = cube::quantize(x.clone(), norm.clone(), &alike[0].spec);
        out.extend(cube::quantized_linears(&codes, alike.to_vec()));
    }
    out
}

/// The same weights in canonical order, which the kernels read.
fn in_rows(weight: Weight<CubeBackend>) -> Weight<CubeBackend> {
    let Weight { words, scale, spec } = weight;
    let words = reference::rows_of_words::<CubeBackend>(words, spec.order, spec.cols);
    Weight { words, scale, spec: TernarySpec { order: WeightOrder::Rows, ..spec } }
}

impl TrainingOps for CubeBackend {
    fn absmean_quantize(w: FloatTensor<Self>, granularity: Granularity) -> (IntTensor<Self>, FloatTensor<Self>) {
        let mut scale = cube::mean_magnitudes(&w, granularity);
        if granularity == Granularity::Tensor {
            // Rows are equally long, so the mean of their means is the mean.
            let mean = Self::float_reshape(Self::float_mean(scale), Shape::from([1, 1]));
            scale = Self::float_clamp_min(mean, Scalar::from(FLOOR));
        }
        (cube::pack(w, scale.clone(), granularity), scale)
    }

    fn absmax_quantize(x: FloatTensor<Self>) -> (IntTensor<Self>, FloatTensor<Self>) {
        cube::absmax(x)
    }

    fn linear_of_codes(
        codes: IntTensor<Self>,
        multiplier: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        granularity: Granularity,
        cols: usize,
    ) -> FloatTensor<Self> {
        let spec = TernarySpec { activations: Activations::Int8, ..training::reference::spec(granularity, cols) };
        if spec.group.is_some() {
            let codes = cube::values_of_codes(codes, multiplier.clone(), cols, false);
            let spec = TernarySpec { activations: Activations::Float, ..spec };
            return Self::float_div(Self::ternary_linear(codes, words, scale, spec), multiplier);
        }
        // The very product that runs the model afterwards, on the words themselves.
        let codes = cube::quantized_codes(codes, multiplier, cols);
        let mut out = cube::quantized_linears(&codes, vec![in_rows(Weight { words, scale, spec })]);
        out.pop().expect("one output for one matrix")
    }

    fn packed_input_gradient(
        dy: FloatTensor<Self>,
        words: IntTensor<Self>,
        scale: FloatTensor<Self>,
        granularity: Granularity,
        cols: usize,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let w = Self::ternary_dequantize(words, scale, training::reference::spec(granularity, cols));
        training::reference::product::<Self>(dy, w, precision)
    }

    fn codes_weight_gradient(
        dy: FloatTensor<Self>,
        codes: IntTensor<Self>,
        multiplier: FloatTensor<Self>,
        cols: usize,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let x = cube::values_of_codes(codes, multiplier, cols, true);
        training::reference::product::<Self>(Self::float_transpose(dy), x, precision)
    }

    fn round_to(x: FloatTensor<Self>, to: FloatDType) -> FloatTensor<Self> {
        match cube::round_to(x.clone(), to) {
            Some(rounded) => rounded,
            None => Self::float_cast(Self::float_cast(x, to), FloatDType::F32),
        }
    }

    fn adamw(
        w: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        square: FloatTensor<Self>,
        step: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        cube::adamw([w, gradient, mean, square], step)
    }
}
