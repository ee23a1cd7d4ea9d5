//! Several texts at once.

use bitnet_model::KvCache;

use crate::session::chunk_size;
use crate::writer::{Writer, best_of, write};
use crate::{EngineError, GenerationConfig, LanguageModel, SessionOptions, Step};

/// Texts that are continued together: each step of the model reads the weights once and writes one token of every text.
///
/// A text gets what it would get by itself. Texts come and go at any time ([`Batch::add`], [`Batch::remove`]), each with its
/// own length, settings and end.
///
/// ```no_run
/// # fn run(model: &bitnet_engine::LanguageModel, prompts: &[Vec<u32>]) -> Result<(), bitnet_engine::EngineError> {
/// let mut batch = model.batch(prompts.len(), None);
/// for prompt in prompts {
///     batch.add(prompt, &Default::default())?;
/// }
/// while batch.is_writing() {
///     for (place, step) in batch.step()? {
///         println!("{place}: {}", step?.text);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Batch<'m> {
    model: &'m LanguageModel,
    cache: KvCache,
    texts: Vec<Option<Writer>>,
}

impl<'m> Batch<'m> {
    pub(crate) fn new(model: &'m LanguageModel, slots: usize, options: SessionOptions) -> Self {
        let limit = options.context.unwrap_or(usize::MAX);
        let cache = model.transformer().cache_of(slots, limit, options.cache);
        Self { model, cache, texts: std::iter::repeat_with(|| None).take(slots).collect() }
    }

    /// Adds a text and gives its place, by which its steps are told.
    ///
    /// # Errors
    /// When there is no place left, the prompt is empty or does not fit the context, or a setting is out of its range.
    pub fn add(&mut self, prompt: &[u32], config: &GenerationConfig) -> Result<usize, EngineError> {
        let free = self.texts.iter().position(Option::is_none).ok_or(EngineError::BatchFull(self.texts.len()))?;
        self.model.transformer().check_tokens(prompt)?;
        self.texts[free] = Some(Writer::new(self.model, prompt, config, self.cache.limit())?);
        self.cache.clear(free);
        Ok(free)
    }

    /// Takes a text out, finished or not, and gives the tokens that were added to it; its place is free again.
    pub fn remove(&mut self, place: usize) -> Option<Vec<u32>> {
        Some(self.texts.get_mut(place)?.take()?.ids().to_vec())
    }

    /// The tokens that were added to a text so far.
    pub fn ids(&self, place: usize) -> Option<&[u32]> {
        Some(self.texts.get(place)?.as_ref()?.ids())
    }

    /// Whether some text is not finished.
    pub fn is_writing(&self) -> bool {
        self.texts.iter().flatten().any(|text| !text.is_finished())
    }

    /// Bytes of the cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Writes one token of every text that is not finished; new texts are read first. Gives the places and what came, in the
    /// order of the places. A text whose logits are of no use ends with an error of its own.
    ///
    /// # Errors
    /// When the model cannot go on.
    #[expect(clippy::type_complexity, reason = "a step or an error for each place")]
    pub fn step(&mut self) -> Result<Vec<(usize, Result<Step, EngineError>)>, EngineError> {
        self.read_prompts()?;
        let writing: Vec<usize> = (0..self.texts.len())
            .filter(|place| self.texts[*place].as_ref().is_some_and(|text| !text.is_finished()))
            .collect();
        if writing.is_empty() {
            return Ok(Vec::new());
        }
        let last: Vec<(usize, u32)> = writing
            .iter()
            .map(|place| {
                let text = self.texts[*place].as_ref().expect("it is being written").text();
                (*place, text[text.len() - 1])
            })
            .collect();
        let mut writers: Vec<&mut Writer> =
            self.texts.iter_mut().flatten().filter(|text| !text.is_finished()).collect();
        let next = self.model.transformer().next(&last, &mut self.cache, best_of(&writers))?;
        let steps = write(&mut writers, next);
        for (place, step) in writing.iter().zip(&steps) {
            if step.is_err() {
                self.texts[*place] = None;
            }
        }
        Ok(writing.into_iter().zip(steps).collect())
    }

    /// Brings all but the last token of each text into the cache.
    fn read_prompts(&mut self) -> Result<(), EngineError> {
        for (place, text) in self.texts.iter().enumerate() {
            let Some(text) = text.as_ref().filter(|text| !text.is_finished()) else { continue };
            let unread = &text.text()[self.cache.lens()[place]..];
            let unread = &unread[..unread.len() - 1];
            for chunk in unread.chunks(chunk_size(unread.len())) {
                self.model.transformer().hidden_of_slots(&[(place, chunk)], &mut self.cache)?;
            }
        }
        Ok(())
    }
}
