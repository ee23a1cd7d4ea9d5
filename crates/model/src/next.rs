//! One token more of each of some sequences: the step that decoding repeats.
//!
//! All that changes from step to step (tokens, slots, positions) is data of the device, in tensors that stay where they are.
//! So where a device can record launches, the step is recorded once and then replayed: one call in place of some hundred.
//! Elsewhere the same code runs as it is.

use std::sync::{Mutex, PoisonError};

use bitnet_kernels::ops;
use bitnet_kernels::{Recording, can_replay, record};
use burn::tensor::{DType, Int, Tensor, TensorData};

use crate::cache::Places;
use crate::{KvCache, ModelError, Transformer};

/// Steps of one shape that run as they are before one is recorded: a few tokens are not worth it.
const PLAIN_STEPS: usize = 2;

/// What the model says of the next tokens. A replayed step writes to the tensors of the one before, so they hold until the
/// next step of the same cache.
#[derive(Clone, Debug)]
pub struct Next {
    /// `[sequences, vocab_size]`.
    pub logits: Tensor<2>,
    /// Their best where they were asked for, see [`ops::top_logits`] and [`ops::Top::read`].
    pub top: Option<Tensor<2, Int>>,
}

/// The steps that a cache has seen. It belongs to the tensors of that cache, and so no clone has it.
#[derive(Debug, Default)]
pub(crate) struct Steps(Mutex<Option<Step>>);

#[derive(Debug)]
struct Step {
    /// I32 `[sequences]`.
    ids: Tensor<1, Int>,
    places: Places,
    /// Best logits of each sequence.
    count: usize,
    /// Steps of this shape so far.
    seen: usize,
    recorded: Recorded,
}

#[derive(Debug)]
enum Recorded {
    NotYet,
    /// The device has refused.
    Never,
    Ready(Box<Ready>),
}

#[derive(Debug)]
struct Ready {
    recording: Recording,
    next: Next,
    /// Whose weights it reads, kept as long as they are read.
    model: Transformer,
}

impl Clone for Steps {
    /// The two caches share their tensors from now on, until one of them goes on in tensors of its own: neither may replay.
    fn clone(&self) -> Self {
        self.forget();
        Self::default()
    }
}

impl Steps {
    /// The tensors of the cache are others now, or shared.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a step is recorded.
    pub fn is_recorded(&self) -> bool {
        let step = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        step.as_ref().is_some_and(|step| matches!(step.recorded, Recorded::Ready(_)))
    }

    fn take(&self) -> Option<Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }
}

impl Transformer {
    /// Runs one token of each of some sequences, given as slots of `cache` (each at most once) with their tokens, after those
    /// that the cache has; gives the logits after them and, if `count` is not zero, the `count` best of each.
    ///
    /// # Errors
    /// As [`Transformer::hidden`].
    ///
    /// # Panics
    /// When the cache does not have such a slot.
    pub fn next(&self, last: &[(usize, u32)], cache: &mut KvCache, count: usize) -> Result<Next, ModelError> {
        let tokens: Vec<u32> = last.iter().map(|(_, token)| *token).collect();
        self.check_tokens(&tokens)?;
        let lengths = last.iter().map(|(slot, _)| (*slot, 1));
        let places = cache.reserve(lengths.clone(), &self.device)?;
        let ids: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [tokens.len()]), (&self.device, DType::I32));

        let mut step = match cache.steps().take() {
            Some(step) if step.ids.dims() == ids.dims() && step.count == count => step.with(ids, places, self),
            _ => Step { ids, places, count, seen: 0, recorded: Recorded::NotYet },
        };
        let next = self.run(&mut step, cache);
        step.seen += 1;
        cache.steps().put(step);
        cache.advance(lengths);
        Ok(next)
    }

    fn run(&self, step: &mut Step, cache: &mut KvCache) -> Next {
        if matches!(step.recorded, Recorded::NotYet) && step.seen >= PLAIN_STEPS && can_replay(&self.device) {
            // What is run again writes the same to the same places.
            let recorded = record(&self.device, || self.next_at(step, cache));
            step.recorded = recorded.map_or(Recorded::Never, |(next, recording)| {
                Recorded::Ready(Box::new(Ready { recording, next, model: self.clone() }))
            });
        }
        if let Recorded::Ready(ready) = &step.recorded {
            // SAFETY: this is its thread (`Step::with`). The recorded run has used the tensors of `step` and `cache`, which
            // change in place alone as long as the recording is there (`Steps::forget`, `KvCache::change`), and those of
            // `ready`. Only this thread has `cache`, and nobody writes to weights.
            match unsafe { ready.recording.replay() } {
                Ok(()) => return ready.next.clone(),
                Err(error) => {
                    bitnet_kernels::notice(|| format!("a step could not be replayed: {error}"));
                    step.recorded = Recorded::Never;
                }
            }
        }
        self.next_at(step, cache)
    }

    fn next_at(&self, step: &Step, cache: &mut KvCache) -> Next {
        let logits = self.logits(self.hidden_at(step.ids.clone(), &step.places, cache));
        Next::of(logits, step.count)
    }
}

impl Next {
    /// With the `count` best of each row of `logits`, if any are wanted.
    pub fn of(logits: Tensor<2>, count: usize) -> Self {
        let top = (count > 0).then(|| ops::top_logits(logits.clone(), count));
        Self { logits, top }
    }
}

impl Step {
    /// The same step for other tokens and places, in the same tensors if they are recorded.
    fn with(mut self, ids: Tensor<1, Int>, places: Places, model: &Transformer) -> Self {
        let usable = match &self.recorded {
            Recorded::Ready(ready) => {
                ready.recording.is_of_this_thread() && ready.model.norm.weight().id == model.norm.weight().id
            }
            Recorded::NotYet | Recorded::Never => return Self { ids, places, ..self },
        };
        if !usable || !self.ids.can_mut() || !self.places.tensor.can_mut() {
            return Self { ids, places, recorded: Recorded::NotYet, ..self };
        }
        let [tokens] = ids.dims();
        self.ids.inplace(|old| old.slice_assign(0..tokens, ids));
        self.places.tensor.inplace(|old| old.slice_assign([0..tokens, 0..2], places.tensor));
        self
    }
}
