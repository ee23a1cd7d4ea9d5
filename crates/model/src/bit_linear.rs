//! The ternary linear layer.

use std::fmt;
use std::str::FromStr;

use bitnet_kernels::ops::{self, Activations, Packed, TernarySpec};
use bitnet_kernels::{Gate, WeightOrder, dense_weight_order, weight_order};
use bitnet_ternary::{CODES_PER_WORD, Granularity, Scale, TernaryMatrix, quantize};
use burn::config::Config;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};

use crate::{ModelError, RmsNorm};

/// Shape of a [`BitLinear`] with fresh random weights.
#[derive(Config, Debug)]
pub struct BitLinearConfig {
    /// Input features.
    pub d_input: usize,
    /// Output features.
    pub d_output: usize,
}

impl BitLinearConfig {
    /// A layer whose float weights, uniform in `±1 / sqrt(d_input)` as in `burn::nn::Linear`, were quantized by absmean.
    ///
    /// # Panics
    /// When a size is zero.
    pub fn init(&self, device: &Device) -> BitLinear {
        let bound = 1.0 / (self.d_input as f64).sqrt();
        let shape = [self.d_output, self.d_input];
        let weights = Tensor::<2>::random(shape, Distribution::Uniform(-bound, bound), (device, DType::F32));
        BitLinear::from_weights(weights, Granularity::Tensor).expect("a layer has at least one input and one output")
    }
}

/// A linear layer with packed ternary weights: `y = (xq · trits) * (scale / sx)`.
///
/// The input is quantized per token to int8 (`sx = 127 / max(max|x|, 1e-5)`, `xq = round(x * sx)`, ties to even), the
/// product is an exact integer, and the scales are applied once at the end.
///
/// Source: Ma et al., "The Era of 1-bit LLMs" (arXiv 2402.17764), section 2.
///
/// The weights are frozen: they are integers and have no gradient. The gradient with respect to the input is that of
/// the straight-through estimator, so layers before a `BitLinear` can be trained.
///
/// # Fields
/// * `words`: U32 `[d_output, ceil(d_input / 16)]`, 16 two-bit codes `trit + 1` a word, lowest bits first. On the CPU
///   backends the words of 16 rows are interleaved, see [`WeightOrder`]; a record always has them row by row.
/// * `scale`: F32 `[1, 1]` for the matrix, `[d_output, 1]` for each row, or `[d_output, groups]`.
/// * `norm`: an RMSNorm of the layer's own before the quantizer, where the model has one.
#[derive(Module, Debug)]
pub struct BitLinear {
    words: Param<Tensor<2, Int>>,
    scale: Param<Tensor<2>>,
    norm: Option<RmsNorm>,
    d_input: usize,
    group: Option<usize>,
    #[module(skip)]
    activations: Activations,
    #[module(skip)]
    order: WeightOrder,
}

impl BitLinear {
    /// From trits and their scale, without a copy of the words on the CPU.
    ///
    /// # Errors
    /// When the scale groups are not a multiple of 16 columns.
    pub fn from_ternary(matrix: TernaryMatrix, device: &Device) -> Result<Self, ModelError> {
        Self::with_bits(matrix, WeightBits::Two, device)
    }

    /// [`BitLinear::from_ternary`] with weights that take less memory.
    ///
    /// A record of such a layer has the usual words and can be loaded into any layer of two bits; Burn 0.22.1, which compares
    /// shapes before it converts, refuses to load one into a layer of 1.6 bits.
    ///
    /// # Errors
    /// As there, and when the device cannot read such weights, or they have a scale for each group.
    pub fn with_bits(matrix: TernaryMatrix, bits: WeightBits, device: &Device) -> Result<Self, ModelError> {
        let order = match (bits, matrix.granularity()) {
            (WeightBits::Two, _) => weight_order(device),
            (WeightBits::OnePointSix, Granularity::Tensor | Granularity::Row) => dense_weight_order(device)
                .ok_or_else(|| ModelError::Unsupported { what: format!("1.6-bit weights on {device:?}") })?,
            (WeightBits::OnePointSix, _) => {
                let what = "1.6-bit weights of a model with a scale for each group".to_string();
                return Err(ModelError::Unsupported { what });
            }
        };
        let (rows, cols, words, scale) = matrix.into_parts();
        let (values, columns, group) = match scale {
            Scale::Tensor(scale) => (vec![scale], 1, None),
            Scale::Row(values) => (values, 1, None),
            Scale::Group { size, values } => (values, cols.div_ceil(size), Some(size)),
        };
        if let Some(size) = group.filter(|size| !size.is_multiple_of(CODES_PER_WORD)) {
            let what = format!("a ternary matrix with one scale for each {size} columns (a multiple of 16 is needed)");
            return Err(ModelError::Unsupported { what });
        }
        let scale_shape = [values.len() / columns, columns];
        let words = WeightOrder::Rows.convert(order, words, cols);
        let words = TensorData::new(words, [rows, order.words(cols)]);
        let words = Tensor::<2, Int>::from_data(words, (device, DType::U32));
        let scale = Tensor::<2>::from_data(TensorData::new(values, scale_shape), (device, DType::F32));
        Ok(Self {
            words: Param::initialized(ParamId::new(), words)
                .load_mapper(move |words| reorder(words, WeightOrder::Rows, order, cols))
                .save_mapper(move |words| reorder(words, order, WeightOrder::Rows, cols)),
            scale: Param::from_tensor(scale).set_require_grad(false),
            norm: None,
            d_input: cols,
            group,
            activations: Activations::Int8,
            order,
        })
    }

    /// From float weights `[d_output, d_input]`, quantized by absmean.
    ///
    /// # Errors
    /// When a weight is NaN or infinite, or the groups of `granularity` are not a multiple of 16 columns.
    pub fn from_weights(weights: Tensor<2>, granularity: Granularity) -> Result<Self, ModelError> {
        let ([rows, cols], device) = (weights.dims(), weights.device());
        let values: Vec<f32> = weights.into_data().iter().collect();
        Self::from_ternary(quantize::absmean(&values, rows, cols, granularity)?, &device)
    }

    /// The layer with an RMSNorm before its quantizer.
    pub fn with_norm(mut self, norm: Option<RmsNorm>) -> Self {
        self.norm = norm;
        self
    }

    /// The layer with its input as int8 codes or as it comes.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        self
    }

    /// Applies the layer to the last dimension.
    ///
    /// # Shapes
    /// * `x`: `[.., d_input]`, F32
    /// * output: `[.., d_output]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let tokens = shape[..D - 1].iter().product();
        let x = x.reshape([tokens, self.d_input]);
        let [y] = ops::ternary_linears(x, self.norm.as_ref().map(RmsNorm::parts), [self.packed()]);
        shape[D - 1] = self.d_output();
        y.reshape(shape)
    }

    /// Applies one to three layers to one input `x` (`[tokens, d_input]`), after `norm`; a CPU quantizes it only once.
    pub(crate) fn forward_all<const N: usize>(
        layers: [&BitLinear; N],
        x: Tensor<2>,
        norm: Option<&RmsNorm>,
    ) -> [Tensor<2>; N] {
        if layers.iter().any(|layer| layer.norm.is_some()) {
            let x = norm.map_or_else(|| x.clone(), |norm| norm.forward(x.clone()));
            return layers.map(|layer| layer.forward(x.clone()));
        }
        ops::ternary_linears(x, norm.map(RmsNorm::parts), layers.map(BitLinear::packed))
    }

    /// Applies the layer to `act(gate) * up` (`[tokens, d_input]` each), after `norm`.
    pub(crate) fn forward_gated(
        &self,
        gate: Tensor<2>,
        up: Tensor<2>,
        kind: Gate,
        norm: Option<&RmsNorm>,
    ) -> Tensor<2> {
        if self.norm.is_some() {
            let inner = ops::gated(gate, up, kind);
            let [y] = Self::forward_all([self], inner, norm);
            return y;
        }
        ops::gated_ternary_linear(gate, up, kind, norm.map(RmsNorm::parts), self.packed())
    }

    /// The weights as floats, `[d_output, d_input]`.
    pub fn weights(&self) -> Tensor<2> {
        ops::dequantize(self.words.val(), self.scale.val(), self.spec())
    }

    /// Input features.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// Output features.
    pub fn d_output(&self) -> usize {
        self.words.dims()[0]
    }

    /// Bytes of the packed weights.
    pub fn packed_bytes(&self) -> usize {
        self.words.dims().iter().product::<usize>() * size_of::<u32>()
    }

    fn packed(&self) -> Packed {
        Packed { words: self.words.val(), scale: self.scale.val(), spec: self.spec() }
    }

    fn spec(&self) -> TernarySpec {
        TernarySpec { cols: self.d_input, group: self.group, activations: self.activations, order: self.order }
    }
}

/// The same matrix with its words in another order.
fn reorder(words: Tensor<2, Int>, from: WeightOrder, to: WeightOrder, cols: usize) -> Tensor<2, Int> {
    if from == to {
        return words;
    }
    let ([rows, _], device) = (words.dims(), words.device());
    let values = from.convert(to, words.into_data().iter().collect(), cols);
    Tensor::from_data(TensorData::new(values, [rows, to.words(cols)]), (&device, DType::U32))
}

/// Bits that a weight takes in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightBits {
    /// Four trits in a byte.
    #[default]
    Two,
    /// Five trits in a byte: less to read for each token, more to compute.
    OnePointSix,
}

impl fmt::Display for WeightBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WeightBits::Two => "2bit",
            WeightBits::OnePointSix => "1.6bit",
        })
    }
}

impl FromStr for WeightBits {
    type Err = UnknownWeightBits;

    fn from_str(name: &str) -> Result<Self, UnknownWeightBits> {
        let all = [WeightBits::Two, WeightBits::OnePointSix];
        all.into_iter().find(|bits| bits.to_string() == name).ok_or_else(|| UnknownWeightBits(name.to_string()))
    }
}

/// Weights are not kept in so many bits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither 2bit nor 1.6bit")]
pub struct UnknownWeightBits(String);
