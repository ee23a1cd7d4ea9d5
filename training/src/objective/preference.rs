//! Direct preference optimization: the better of two replies becomes more likely than the worse one, measured against the
//! model that the run began with.
//!
//! Source: Rafailov et al., "Direct Preference Optimization" (arXiv 2305.18290), eq. 7.

use bitnet_model::Transformer;
use burn::tensor::{DType, Tensor, TensorData};

use crate::data::{Corpus, DataError, Dataset, EachDocument};
use crate::gradients::GradientSum;
use crate::metrics::Validation;
use crate::step::DeviceBatch;

/// Replies that the reference reads together.
const ROWS: usize = 16;

/// Sum of the log-likelihoods of each sequence's targets: from the negative log-likelihoods of all targets (`[targets]`, 0
/// for those that do not count), which lie one sequence after the other, to `[sequences]`.
///
/// # Panics
/// When the lengths do not add up to the targets.
pub fn log_likelihoods(nll: Tensor<1>, lengths: &[usize]) -> Tensor<1> {
    let targets = nll.dims()[0];
    assert_eq!(lengths.iter().sum::<usize>(), targets, "the sequences are all there is");
    let mut member = vec![0.0f32; lengths.len() * targets];
    let mut start = 0;
    for (row, length) in member.chunks_mut(targets.max(1)).zip(lengths) {
        // The sign makes a log-likelihood of its negative.
        row[start..start + length].fill(-1.0);
        start += length;
    }
    let member = TensorData::new(member, [lengths.len(), targets]);
    let member = Tensor::<2>::from_data(member, (&nll.device(), DType::F32));
    member.matmul(nll.reshape([targets, 1])).reshape([lengths.len()])
}

/// `-log sigmoid(beta * ((chosen - reference of chosen) - (rejected - reference of rejected)))`, summed over the pairs.
/// `policy` and `reference` are log-likelihoods `[2 pairs]`, those of the better reply first in each pair.
pub fn preference_loss(policy: Tensor<1>, reference: Tensor<1>, beta: f64) -> Tensor<1> {
    let z = margins(policy, reference) * beta;
    // log(1 + exp(-z)) without overflow. The shift is a constant: where it is not smooth, at the zero that every run begins
    // at, the gradient is still that of the sum.
    let shift = z.clone().neg().clamp_min(0.0).detach();
    let sum = shift.clone().neg().exp() + (z.neg() - shift.clone()).exp();
    (shift + sum.log()).sum()
}

/// How much more likelihood the better reply of each pair has gained over the reference than the worse one, `[pairs, 1]`.
fn margins(policy: Tensor<1>, reference: Tensor<1>) -> Tensor<2> {
    let [replies] = policy.dims();
    let gain = (policy - reference).reshape([replies / 2, 2]);
    gain.clone().narrow(1, 0, 1) - gain.narrow(1, 1, 1)
}

/// The preference of a run.
#[derive(Clone)]
pub(crate) struct Preference {
    beta: f64,
    /// Log-likelihoods of the documents to train on, under the model that the run began with.
    train: Vec<f32>,
    /// Those of the documents that are held out.
    valid: Vec<f32>,
}

impl Preference {
    /// A preference in which `reference`, a model that runs, gives the likelihoods to compare with.
    pub(crate) fn new(beta: f64, reference: &Transformer, data: &Dataset, context: usize) -> Result<Self, DataError> {
        let of = |corpus: &Corpus| -> Result<Vec<f32>, DataError> {
            let mut all = Vec::with_capacity(corpus.documents());
            for batch in EachDocument::new(corpus, context, ROWS, None)? {
                let batch = DeviceBatch::new(&batch, reference, reference.device(), None);
                all.extend(log_likelihoods_of(&batch, reference).into_data().iter::<f32>());
            }
            Ok(all)
        };
        Ok(Self { beta, train: of(&data.train)?, valid: of(&data.valid)? })
    }

    pub(super) fn backward(
        &self,
        batch: &DeviceBatch,
        documents: &[usize],
        model: &Transformer,
        factor: f64,
        gradients: &mut GradientSum,
    ) -> f64 {
        let reference: Vec<f32> = documents.iter().map(|document| self.train[*document]).collect();
        let (policy, reference) = compared(batch, reference, model);
        let loss = preference_loss(policy, reference, self.beta);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        gradients.add((loss * factor).backward(), model);
        value
    }

    /// Mean loss over the held-out pairs, and the share of them that is right. It has no bits a byte.
    pub(crate) fn measure(
        &self,
        model: &Transformer,
        corpus: &Corpus,
        context: usize,
        at_most: Option<u64>,
    ) -> Result<Validation, DataError> {
        let (mut loss, mut right, mut replies, mut tokens) = (0.0, 0, 0, 0);
        for batch in EachDocument::new(corpus, context, ROWS, at_most)? {
            let count = batch.segments.len();
            tokens += batch.loss_targets() as u64;
            let batch = DeviceBatch::new(&batch, model, model.device(), None);
            let reference = self.valid[replies..replies + count].to_vec();
            let (policy, reference) = compared(&batch, reference, model);
            let gained = margins(policy.clone(), reference.clone()).into_data();
            right += gained.iter::<f32>().filter(|margin| *margin > 0.0).count();
            loss += f64::from(preference_loss(policy, reference, self.beta).into_scalar::<f32>());
            replies += count;
        }
        let pairs = replies as f64 / 2.0;
        let accuracy = Some(right as f64 / pairs);
        Ok(Validation { loss: loss / pairs, bits_per_byte: f64::NAN, tokens, accuracy })
    }
}

/// Log-likelihoods of a batch's sequences under `model`, and those under the reference on the same device.
fn compared(batch: &DeviceBatch, reference: Vec<f32>, model: &Transformer) -> (Tensor<1>, Tensor<1>) {
    let policy = log_likelihoods_of(batch, model);
    let count = reference.len();
    let reference = Tensor::from_data(TensorData::new(reference, [count]), (&policy.device(), DType::F32));
    (policy, reference)
}

fn log_likelihoods_of(batch: &DeviceBatch, model: &Transformer) -> Tensor<1> {
    log_likelihoods(batch.negative_log_likelihoods(model), batch.lengths())
}
