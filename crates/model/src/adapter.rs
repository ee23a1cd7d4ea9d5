//! Low-rank adapters on a whole model.

use std::collections::BTreeMap;

use bitnet_format::{Adapter, LowRank};
use burn::tensor::{DType, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Uniform};

use crate::{BitLinear, Lora, ModelError, Transformer};

impl Transformer {
    /// The model with fresh branches of a rank on all linears, to be trained: `a` uniform in `±1 / sqrt(d_input)`, `b` zero, so
    /// that nothing is added yet. `seed` chooses the numbers, the same on every device.
    ///
    /// # Panics
    /// When the rank is zero.
    #[must_use]
    pub fn with_fresh_adapter(mut self, rank: usize, alpha: f64, seed: u64) -> Self {
        assert!(rank > 0, "an adapter has a rank");
        let device = self.device().clone();
        for (stream, linear) in (0..).zip(self.linears_mut()) {
            let (d_input, d_output) = (linear.d_input(), linear.d_output());
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream);
            let bound = 1.0 / (d_input as f32).sqrt();
            let uniform = Uniform::new_inclusive(-bound, bound).expect("a bound is a finite number");
            let a: Vec<f32> = uniform.sample_iter(rng).take(rank * d_input).collect();
            let a = Tensor::from_data(TensorData::new(a, [rank, d_input]), (&device, DType::F32));
            let b = Tensor::zeros([d_output, rank], (&device, DType::F32));
            *linear = linear.clone().with_lora(Some(Lora::new(a, b, alpha / rank as f64)));
        }
        self
    }

    /// The model with the branches of an adapter; those it had before are gone.
    ///
    /// # Errors
    /// When the adapter has a linear that the model has not, or of another shape.
    pub fn with_adapter(mut self, adapter: &Adapter) -> Result<Self, ModelError> {
        let device = self.device().clone();
        let names: Vec<String> = self.linears().map(|(name, _)| name).collect();
        if let Some(name) = adapter.linears.keys().find(|name| !names.contains(name)) {
            return Err(ModelError::Adapter { reason: format!("there is no linear {name}") });
        }
        for (name, linear) in names.into_iter().zip(self.linears_mut()) {
            let lora = adapter.linears.get(&name).map(|LowRank { a, b, d_input, d_output }| {
                let (found, needed) = ([*d_output, *d_input], [linear.d_output(), linear.d_input()]);
                if found != needed {
                    return Err(ModelError::Adapter {
                        reason: format!("{name} is {needed:?}, and {found:?} in the adapter"),
                    });
                }
                let matrix = |values: &Vec<f32>, shape: [usize; 2]| {
                    Tensor::from_data(TensorData::new(values.clone(), shape), (&device, DType::F32))
                };
                let (a, b) = (matrix(a, [adapter.rank, *d_input]), matrix(b, [*d_output, adapter.rank]));
                Ok(Lora::new(a, b, adapter.alpha / adapter.rank as f64))
            });
            *linear = linear.clone().with_lora(lora.transpose()?);
        }
        Ok(self)
    }

    /// The branches of the model as an adapter of the model named `base`; `None` where it has none.
    pub fn adapter(&self, base: Option<String>) -> Option<Adapter> {
        let part = |(name, linear): (String, &BitLinear)| {
            let lora = linear.lora()?;
            let values = |tensor: Tensor<2>| tensor.into_data().iter::<f32>().collect::<Vec<f32>>();
            let (a, b) = (values(lora.a().val()), values(lora.b().val()));
            Some((name, LowRank { a, b, d_input: linear.d_input(), d_output: linear.d_output() }))
        };
        let linears: BTreeMap<String, LowRank> = self.linears().filter_map(part).collect();
        let lora = self.linears().find_map(|(_, linear)| linear.lora())?;
        let rank = lora.a().dims()[0];
        Some(Adapter { base, rank, alpha: lora.scale() * rank as f64, linears })
    }
}
