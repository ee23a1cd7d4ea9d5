//! What quantization makes of each linear: the panel of a run.

use std::collections::BTreeMap;

use bitnet_model::Transformer;
use bitnet_ternary::{Scale, TernaryMatrix};

use crate::TrainError;
use crate::data::Batch;
use crate::metrics::LayerQuantization;
use crate::step::{DeviceBatch, inner_device};

/// The trits of each linear when it was looked at before.
#[derive(Clone, Debug, Default)]
pub struct Inspector {
    before: BTreeMap<String, Vec<u32>>,
}

impl Inspector {
    /// One that has seen these trits: packed words by the name of their linear.
    pub fn with_trits(before: BTreeMap<String, Vec<u32>>) -> Self {
        Self { before }
    }

    /// The trits it has seen last: packed words by the name of their linear.
    pub fn trits(&self) -> impl Iterator<Item = (&String, &Vec<u32>)> {
        self.before.iter()
    }

    /// Looks at every linear of a model in training, with the inputs that `batch` gives it.
    ///
    /// # Errors
    /// When a weight is not finite. A float model has no panel: the list is empty.
    pub fn look(&mut self, model: &Transformer, batch: &Batch) -> Result<Vec<LayerQuantization>, TrainError> {
        let mut watched = model.without_gradients();
        watched.linears_mut().for_each(|linear| linear.watch_inputs());
        let device = inner_device(model);
        DeviceBatch::new(batch, &watched, &device, None).loss(&watched);
        let mut layers = Vec::new();
        for (name, linear) in watched.linears() {
            let Some(latent) = linear.latent_weights().filter(|latent| latent.is_quantized()) else { continue };
            let matrix = linear.ternary()?;
            let latents: Vec<f32> = latent.value().into_data().iter().collect();
            layers.push(self.layer(name, &matrix, &latents, linear.largest_input()));
        }
        Ok(layers)
    }

    fn layer(
        &mut self,
        name: String,
        matrix: &TernaryMatrix,
        latents: &[f32],
        largest_input: Option<f32>,
    ) -> LayerQuantization {
        let (cols, count) = (matrix.cols(), latents.len().max(1) as f64);
        let zeros = matrix.trits().iter().filter(|trit| **trit == 0).count();
        let scale = matrix.scale();
        let dead =
            latents.iter().enumerate().filter(|(i, w)| w.abs() < 0.25 * scale.at(i / cols, i % cols, cols)).count();
        let gamma = match scale {
            Scale::Tensor(gamma) => f64::from(*gamma),
            Scale::Row(values) | Scale::Group { values, .. } => {
                values.iter().map(|gamma| f64::from(*gamma)).sum::<f64>() / values.len().max(1) as f64
            }
        };
        let words = matrix.words().to_vec();
        // Two codes differ where either of their bits does.
        let differ = |(a, b): (&u32, &u32)| (((a ^ b) | ((a ^ b) >> 1)) & 0x5555_5555).count_ones() as usize;
        let flips = self.before.get(&name).map_or(0, |before| before.iter().zip(&words).map(differ).sum());
        self.before.insert(name.clone(), words);
        LayerQuantization {
            name,
            zero_fraction: zeros as f64 / count,
            flip_rate: flips as f64 / count,
            gamma,
            dead_zone: dead as f64 / count,
            activation_absmax: f64::from(largest_input.unwrap_or(f32::NAN)),
        }
    }
}
