//! Generation, one token at a time.

use std::borrow::BorrowMut;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use bitnet_model::TopLogits;
use burn::tensor::Tensor;

use crate::session::State;
use crate::writer::{Writer, best_of, write};
use crate::{EngineError, GenerationConfig, Session, Step};

/// The continuation of a prompt as an iterator of [`Step`]s. Dropping it stops; the session keeps what it has seen.
///
/// `S` is the session: borrowed (`&mut Session`), or owned by the generation.
pub struct Generation<'m, S: BorrowMut<Session<'m>>> {
    session: S,
    model: PhantomData<&'m ()>,
    writer: Writer,
    /// Searches of the head in vain, one after the other, and tokens that are not searched for because of them.
    in_vain: u32,
    pause: u32,
    timing: Timing,
    failed: bool,
}

/// How long a generation took, and for how many tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Tokens of the prompt that were computed (not those that the session had seen).
    pub prefill_tokens: usize,
    /// Time until the first token was chosen.
    pub prefill: Duration,
    /// Tokens computed after the first.
    pub decode_tokens: usize,
    /// Time that they took.
    pub decode: Duration,
    /// How the head was read for all of them.
    pub head: HeadUse,
}

/// How often the head was read in which way, see [`crate::HeadReading`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadUse {
    /// Tokens that a part of it was read for.
    pub searched: usize,
    /// Tokens that all of it was read for.
    pub full: usize,
    /// Those of them that it had been searched for before, in vain.
    pub undecided: usize,
    /// Bytes that all searches read together.
    pub searched_bytes: u64,
    /// Rows that they read in full.
    pub searched_rows: usize,
}

impl HeadUse {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            searched: self.searched + other.searched,
            full: self.full + other.full,
            undecided: self.undecided + other.undecided,
            searched_bytes: self.searched_bytes + other.searched_bytes,
            searched_rows: self.searched_rows + other.searched_rows,
        }
    }

    /// Bytes for a token, where all of the head has so many.
    pub fn bytes_per_token(&self, full: u64) -> u64 {
        let tokens = (self.searched + self.full).max(1) as u64;
        (self.searched_bytes + self.full as u64 * full) / tokens
    }

    /// How often the head was read in which way, in words, where all of it has so many bytes.
    pub fn describe(&self, full: u64) -> String {
        let rows = self.searched_rows as f64 / self.searched.max(1) as f64;
        format!(
            "searched for {} tokens with {rows:.0} full rows each, read whole for {} (undecided {}), {:.1} MB a token of {:.1}",
            self.searched,
            self.full,
            self.undecided,
            self.bytes_per_token(full) as f64 / 1e6,
            full as f64 / 1e6,
        )
    }

    fn add(&mut self, top: &TopLogits) {
        self.searched += 1;
        self.searched_bytes += top.bytes as u64;
        self.searched_rows += top.logits.len();
    }
}

impl Timing {
    /// Prompt tokens a second.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        per_second(self.prefill_tokens, self.prefill)
    }

    /// New tokens a second, the first one (which prefill gives) not counted.
    pub fn decode_tokens_per_second(&self) -> f64 {
        per_second(self.decode_tokens, self.decode)
    }
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}

impl<'m, S: BorrowMut<Session<'m>>> Generation<'m, S> {
    pub(crate) fn new(session: S, prompt: &[u32], config: &GenerationConfig) -> Result<Self, EngineError> {
        let (model, context) = (session.borrow().model(), session.borrow().context());
        let writer = Writer::new(model, prompt, config, context)?;
        let timing = Timing::default();
        Ok(Self { session, writer, in_vain: 0, pause: 0, timing, failed: false, model: PhantomData })
    }

    /// The tokens that were added so far.
    pub fn ids(&self) -> &[u32] {
        self.writer.ids()
    }

    /// How long it took so far.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.writer.seed()
    }

    /// The token after a hidden state, and its log-probability if that is wanted.
    fn choose(&mut self, hidden: Tensor<2>) -> Result<(u32, Option<f32>), EngineError> {
        let session = self.session.borrow();
        let vocab_size = session.model().transformer().head().rows();
        let use_of_head = &mut self.timing.head;
        let first = self.writer.ids().is_empty();
        let (sampler, text) = self.writer.sampler();
        let wanted = sampler.wanted(vocab_size, text);
        if self.pause > 0 {
            self.pause -= 1;
        } else if let Some(wanted) = wanted.filter(|_| session.searches_head(first)) {
            if let Some(top) = session.top_logits(&hidden, &wanted)
                && let Some(id) = sampler.sample_top(&top, text)
            {
                use_of_head.add(&top);
                self.in_vain = 0;
                return Ok((id, None));
            }
            use_of_head.undecided += 1;
            // What did not settle this token will hardly settle the next: one, three, seven and then fifteen are left out.
            self.in_vain = (self.in_vain + 1).min(4);
            self.pause = (1 << self.in_vain) - 1;
        }
        use_of_head.full += 1;
        let logits = session.logits(hidden)?;
        self.writer.choose(&logits)
    }

    fn step(&mut self) -> Result<Step, EngineError> {
        let before = Instant::now();
        let best = best_of(&[&mut self.writer]);
        let (computed, state) = self.session.borrow_mut().advance_to(self.writer.text(), best)?;
        let first = self.writer.ids().is_empty();
        let step = match state {
            State::Hidden(hidden) => self.choose(*hidden).and_then(|(id, logprob)| self.writer.add(id, logprob)),
            State::Next(next) => {
                self.timing.head.full += 1;
                write(&mut [&mut self.writer], *next).remove(0)
            }
        };
        if first {
            self.timing = Timing { prefill_tokens: computed, prefill: before.elapsed(), ..self.timing };
        } else {
            self.timing.decode_tokens += 1;
            self.timing.decode += before.elapsed();
        }
        step
    }
}

impl<'m, S: BorrowMut<Session<'m>>> Iterator for Generation<'m, S> {
    type Item = Result<Step, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.writer.is_finished() {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        Some(step)
    }
}
