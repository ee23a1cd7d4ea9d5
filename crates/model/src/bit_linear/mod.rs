//! The ternary linear layer.

mod bits;
mod latent;
mod lora;
mod packed;

use std::sync::{Arc, Mutex, PoisonError};

use bitnet_kernels::Gate;
use bitnet_kernels::ops::training::Quantization;
use bitnet_kernels::ops::{self, Activations};
use bitnet_ternary::{Granularity, TernaryMatrix, quantize};
use burn::config::Config;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Distribution, Tensor};

pub use bits::{UnknownWeightBits, WeightBits};
pub use latent::LatentWeight;
pub use lora::Lora;
pub use packed::PackedWeight;

use crate::{ModelError, RmsNorm};

/// Shape of a [`BitLinear`] to be trained.
#[derive(Config, Debug)]
pub struct BitLinearConfig {
    /// Input features.
    pub d_input: usize,
    /// Output features.
    pub d_output: usize,
}

impl BitLinearConfig {
    /// A layer to be trained, with latent weights uniform in `±1 / sqrt(d_input)` as in `burn::nn::Linear`.
    ///
    /// # Panics
    /// When a size is zero.
    pub fn init(&self, device: &Device) -> BitLinear {
        assert!(self.d_input > 0 && self.d_output > 0, "a layer has at least one input and one output");
        let bound = 1.0 / (self.d_input as f64).sqrt();
        let shape = [self.d_output, self.d_input];
        let weight = Tensor::<2>::random(shape, Distribution::Uniform(-bound, bound), (device, DType::F32));
        BitLinear::latent(weight, Quantization::BITNET)
    }
}

/// A linear layer with ternary weights: `y = (xq · trits) * (scale / sx)`.
///
/// The input is quantized per token to int8 (`sx = 127 / max(max|x|, 1e-5)`, `xq = round(x * sx)`, ties to even), the
/// product is an exact integer, and the scales are applied once at the end.
///
/// Source: Ma et al., "The Era of 1-bit LLMs" (arXiv 2402.17764), section 2.
///
/// A layer is one of two. To be trained, it has latent float weights that every forward pass quantizes anew, and its
/// gradients are those of the straight-through estimator ([`BitLinearConfig::init`], [`BitLinear::latent`]). To be run, it
/// has packed trits ([`BitLinear::pack`], [`BitLinear::from_ternary`]), which have no gradient, though its input has.
/// Packing changes no bit of the output.
#[derive(Module, Debug)]
pub struct BitLinear {
    weight: Weight,
    norm: Option<RmsNorm>,
    lora: Option<Lora>,
    d_input: usize,
    #[module(skip)]
    activations: Activations,
    /// The largest magnitude among the inputs, where someone wants to know.
    #[module(skip)]
    watch: Option<Arc<Mutex<f32>>>,
}

/// The weights of a [`BitLinear`].
#[derive(Module, Debug)]
enum Weight {
    /// To be run.
    Packed(PackedWeight),
    /// To be trained.
    Latent(LatentWeight),
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
        let d_input = matrix.cols();
        let weight = Weight::Packed(PackedWeight::new(matrix, bits, device)?);
        Ok(Self { weight, norm: None, lora: None, d_input, activations: Activations::Int8, watch: None })
    }

    /// The packed weights as [`BitLinear::kept`] takes them; `None` of a layer in training.
    pub(crate) fn keep(&self) -> Option<[Vec<u8>; 2]> {
        match &self.weight {
            Weight::Packed(weight) => Some(weight.keep(self.d_input)),
            Weight::Latent(_) => None,
        }
    }

    /// From what [`BitLinear::keep`] gave of a layer `[d_output, d_input]`; `None` where it was another.
    pub(crate) fn kept(bytes: bytes::Bytes, shape: [usize; 2], bits: WeightBits, device: &Device) -> Option<Self> {
        let weight = Weight::Packed(PackedWeight::kept(bytes, shape, bits, device)?);
        Some(Self { weight, norm: None, lora: None, d_input: shape[1], activations: Activations::Int8, watch: None })
    }

    /// From float weights `[d_output, d_input]`, quantized by absmean and packed.
    ///
    /// # Errors
    /// When a weight is NaN or infinite, or the groups of `granularity` are not a multiple of 16 columns.
    pub fn from_weights(weights: Tensor<2>, granularity: Granularity) -> Result<Self, ModelError> {
        let ([rows, cols], device) = (weights.dims(), weights.device());
        let values: Vec<f32> = weights.into_data().iter().collect();
        Self::from_ternary(quantize::absmean(&values, rows, cols, granularity)?, &device)
    }

    /// From float weights `[d_output, d_input]` that are trits times a scale already, packed with that very scale.
    ///
    /// [`BitLinear::from_weights`] would take the mean magnitude for the scale again, which the zeros make smaller.
    ///
    /// # Errors
    /// When they are not, or when they are too few to tell: see [`quantize::already_ternary`].
    pub fn from_ternary_weights(weights: Tensor<2>) -> Result<Self, ModelError> {
        let ([rows, cols], device) = (weights.dims(), weights.device().inner());
        let values: Vec<f32> = weights.into_data().iter().collect();
        let matrix = quantize::already_ternary(&values, rows, cols).ok_or_else(|| {
            let what = format!("a matrix [{rows}, {cols}] of other values than trits times a scale");
            ModelError::Unsupported { what }
        })?;
        Self::from_ternary(matrix, &device)
    }

    /// To be trained, from latent float weights `[d_output, d_input]` (F32), which are quantized as `how` says.
    ///
    /// # Panics
    /// When `how` has scale groups that are not a multiple of 16 columns.
    pub fn latent(weight: Tensor<2>, how: Quantization) -> Self {
        let [_, d_input] = weight.dims();
        let mut activations = Activations::Int8;
        if let Quantization::Ternary { granularity, activations: wanted, .. } = how {
            activations = wanted;
            if let Granularity::Group(size) = granularity {
                assert!(size > 0 && size.is_multiple_of(16), "groups are of a multiple of 16 columns, not {size}");
            }
        }
        let weight = Weight::Latent(LatentWeight::new(Param::from_tensor(weight), how));
        Self { weight, norm: None, lora: None, d_input, activations, watch: None }
    }

    /// The layer with an RMSNorm before its quantizer.
    pub fn with_norm(mut self, norm: Option<RmsNorm>) -> Self {
        self.norm = norm;
        self
    }

    /// The layer with a float branch beside its weights, or without.
    ///
    /// # Panics
    /// When the branch has other widths than the layer.
    pub fn with_lora(mut self, lora: Option<Lora>) -> Self {
        if let Some(lora) = &lora {
            let widths = [lora.a().dims()[1], lora.b().dims()[0]];
            assert_eq!(widths, [self.d_input, self.d_output()], "a branch of the layer's widths");
        }
        self.lora = lora;
        self
    }

    /// The float branch, where the layer has one.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// The layer with its input as int8 codes or as it comes.
    pub fn with_activations(mut self, activations: Activations) -> Self {
        self.activations = activations;
        if let Weight::Latent(weight) = &mut self.weight {
            weight.set_activations(activations);
        }
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
        let [y] = Self::run([self], x.reshape([tokens, self.d_input]), self.norm.as_ref());
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
        Self::run(layers, x, norm)
    }

    /// `residual`, where there is one, and what the layer makes of `x` (`[tokens, d_input]`) after `norm`.
    pub(crate) fn onto(&self, residual: Option<Tensor<2>>, x: Tensor<2>, norm: Option<&RmsNorm>) -> Tensor<2> {
        match (residual, self.plain()) {
            (Some(residual), Some(packed)) => ops::ternary_linear_onto(residual, x, norm.map(RmsNorm::parts), packed),
            (residual, _) => {
                let [y] = Self::forward_all([self], x, norm);
                match residual {
                    Some(residual) => residual + y,
                    None => y,
                }
            }
        }
    }

    /// The packed weights of a layer that has nothing else.
    fn plain(&self) -> Option<ops::Packed> {
        match &self.weight {
            Weight::Packed(weight) if self.norm.is_none() && self.lora.is_none() => {
                Some(weight.parts(self.d_input, self.activations))
            }
            _ => None,
        }
    }

    /// [`BitLinear::forward_all`] without the layers' own norms.
    fn run<const N: usize>(layers: [&BitLinear; N], x: Tensor<2>, norm: Option<&RmsNorm>) -> [Tensor<2>; N] {
        if layers.iter().all(|layer| layer.lora.is_none()) {
            return Self::run_weights(layers, x, norm);
        }
        let x = norm.map_or_else(|| x.clone(), |norm| norm.forward(x.clone()));
        let mut all = Self::run_weights(layers, x.clone(), None);
        for (y, layer) in all.iter_mut().zip(layers) {
            if let Some(lora) = &layer.lora {
                *y = y.clone() + lora.forward(x.clone());
            }
        }
        all
    }

    /// [`BitLinear::run`] without the branches.
    fn run_weights<const N: usize>(layers: [&BitLinear; N], x: Tensor<2>, norm: Option<&RmsNorm>) -> [Tensor<2>; N] {
        if let Some(Weight::Latent(first)) = layers.first().map(|layer| &layer.weight) {
            let x = norm.map_or_else(|| x.clone(), |norm| norm.forward(x.clone()));
            layers.iter().for_each(|layer| layer.watch(&x));
            let (how, precision) = (first.quantization(), first.precision());
            return ops::training::quantized_linears(x, layers.map(BitLinear::latent_weight), how, precision);
        }
        let packed = layers.map(|layer| match &layer.weight {
            Weight::Packed(weight) => weight.parts(layer.d_input, layer.activations),
            Weight::Latent(_) => unreachable!("layers of one input are packed together"),
        });
        ops::ternary_linears(x, norm.map(RmsNorm::parts), packed)
    }

    /// Applies the layer to `act(gate) * up` (`[tokens, d_input]` each), after `norm`.
    pub(crate) fn forward_gated(
        &self,
        gate: Tensor<2>,
        up: Tensor<2>,
        kind: Gate,
        norm: Option<&RmsNorm>,
    ) -> Tensor<2> {
        match self.plain() {
            Some(packed) => ops::gated_ternary_linear(gate, up, kind, norm.map(RmsNorm::parts), packed),
            None => {
                let inner = ops::gated(gate, up, kind);
                let [y] = Self::forward_all([self], inner, norm);
                y
            }
        }
    }

    /// A gated MLP, `down(inner_norm(act(gate(x)) * up(x)))` after `norm`, in one operation, and `x` added to it where it is a
    /// `residual` one; `None` where a layer is to be trained, or has a norm or a branch of its own.
    pub(crate) fn gated_mlp(
        [gate, up, down]: [&BitLinear; 3],
        x: Tensor<2>,
        norm: &RmsNorm,
        kind: Gate,
        inner_norm: Option<&RmsNorm>,
        residual: bool,
    ) -> Option<Tensor<2>> {
        let (inner, down) = ([gate.plain()?, up.plain()?], down.plain()?);
        Some(ops::ternary_mlp(x, Some(norm.parts()), inner, kind, inner_norm.map(RmsNorm::parts), down, residual))
    }

    /// The layer with packed weights: what it computed, it still computes to the bit.
    ///
    /// # Errors
    /// When a latent weight is NaN or infinite, or the layer is a float layer ([`Quantization::None`]).
    pub fn pack(&self) -> Result<Self, ModelError> {
        let Weight::Latent(weight) = &self.weight else { return Ok(self.clone()) };
        let device = weight.value().device().inner();
        let packed = Self::from_ternary(self.ternary()?, &device)?;
        let packed = packed.with_norm(self.norm.as_ref().map(Module::valid)).with_activations(self.activations);
        Ok(packed.with_lora(self.lora.as_ref().map(Module::valid)))
    }

    /// Trits and scale.
    ///
    /// # Errors
    /// As [`BitLinear::pack`].
    pub fn ternary(&self) -> Result<TernaryMatrix, ModelError> {
        match &self.weight {
            Weight::Packed(weight) => weight.ternary(self.d_input),
            Weight::Latent(weight) => weight.ternary(),
        }
    }

    /// The weights that the layer computes with, as floats, `[d_output, d_input]`.
    pub fn weights(&self) -> Tensor<2> {
        match &self.weight {
            Weight::Packed(weight) => {
                let parts = weight.parts(self.d_input, self.activations);
                ops::dequantize(parts.words, parts.scale, parts.spec)
            }
            Weight::Latent(weight) => weight.quantized(),
        }
    }

    /// The latent weights, where the layer has them.
    pub fn latent_weights(&self) -> Option<&LatentWeight> {
        match &self.weight {
            Weight::Packed(_) => None,
            Weight::Latent(weight) => Some(weight),
        }
    }

    /// The same, to be changed.
    pub fn latent_weights_mut(&mut self) -> Option<&mut LatentWeight> {
        match &mut self.weight {
            Weight::Packed(_) => None,
            Weight::Latent(weight) => Some(weight),
        }
    }

    /// From now on a layer in training remembers the largest magnitude among its inputs, at the price of reading it back in
    /// every forward pass.
    pub fn watch_inputs(&mut self) {
        self.watch = Some(Arc::default());
    }

    /// The largest magnitude among the inputs of the quantizer since [`BitLinear::watch_inputs`].
    pub fn largest_input(&self) -> Option<f32> {
        self.watch.as_ref().map(|largest| *largest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn watch(&self, x: &Tensor<2>) {
        if let Some(largest) = &self.watch {
            let found = x.clone().inner().abs().max().into_scalar::<f32>();
            let mut largest = largest.lock().unwrap_or_else(PoisonError::into_inner);
            *largest = largest.max(found);
        }
    }

    fn latent_weight(&self) -> Tensor<2> {
        match &self.weight {
            Weight::Latent(weight) => weight.value(),
            Weight::Packed(_) => unreachable!("layers of one input are trained together"),
        }
    }

    /// The norm before the quantizer, where the layer has one.
    pub fn norm(&self) -> Option<&RmsNorm> {
        self.norm.as_ref()
    }

    /// Input features.
    pub fn d_input(&self) -> usize {
        self.d_input
    }

    /// Output features.
    pub fn d_output(&self) -> usize {
        match &self.weight {
            Weight::Packed(weight) => weight.rows(),
            Weight::Latent(weight) => weight.dims()[0],
        }
    }

    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> usize {
        match &self.weight {
            Weight::Packed(weight) => weight.bytes(),
            Weight::Latent(weight) => size_of::<f32>() * weight.dims().iter().product::<usize>(),
        }
    }
}
