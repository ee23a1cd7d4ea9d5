//! Vectors of texts.

use bitnet_format::{Pooling, TextEmbedding};
use burn::tensor::{Int, Tensor, TensorData};

use crate::{EngineError, LanguageModel};

/// Tokens of short texts that the model takes at once: so many that reading the weights costs little beside multiplying
/// them. A longer text is taken by itself.
const BATCH: usize = 288;

/// What is to be chosen of an embedding. The default is what the checkpoint says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbeddingOptions {
    /// How the hidden states become one vector; also makes an embedding model of a language model.
    pub pooling: Option<Pooling>,
    /// Whether vectors are made one long.
    pub normalize: Option<bool>,
    /// What belongs before each text.
    pub prompt: Prompt,
    /// Whether a text that is longer than the model's context is cut; otherwise it is an error.
    pub truncate: bool,
}

/// What belongs before each text, such as the instruction of a search query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Prompt {
    /// What the checkpoint has for a text of which nothing is said.
    #[default]
    Default,
    /// What the checkpoint has under this name (`query`).
    Named(String),
    /// This text.
    Text(String),
}

/// The vector of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// As many as the model is wide.
    pub values: Vec<f32>,
    /// Tokens of the text, those around it included.
    pub tokens: usize,
}

/// Makes vectors of texts: [`LanguageModel::embedder`].
///
/// The vector is the last token's hidden state after the last norm, or the mean of all, and for most models made one long.
pub struct Embedder<'m> {
    model: &'m LanguageModel,
    pooling: Pooling,
    normalize: bool,
    /// What a text has to end with.
    end: Option<u32>,
    prompt: String,
    truncate: bool,
    is_guess: bool,
}

impl LanguageModel {
    /// Makes vectors of texts with this model.
    ///
    /// # Errors
    /// When the model is not one for embeddings and `options` does not say how to pool, when the checkpoint asks for a
    /// pooling that this project does not do, or has no prompt of the wanted name.
    pub fn embedder(&self, options: &EmbeddingOptions) -> Result<Embedder<'_>, EngineError> {
        let own: Option<&TextEmbedding> = match (self.embedding(), options.pooling) {
            (Ok(own), _) => own,
            (Err(_), Some(_)) => None,
            (Err(reason), None) => return Err(EngineError::NoEmbedding(reason.to_string())),
        };
        let pooling = options.pooling.or(own.map(|own| own.pooling));
        let none = "it is a language model: say which of its hidden states make the vector, last or mean";
        let pooling = pooling.ok_or_else(|| EngineError::NoEmbedding(none.to_string()))?;
        Ok(Embedder {
            model: self,
            pooling,
            normalize: options.normalize.unwrap_or(own.is_none_or(|own| own.normalize)),
            end: own.and_then(|own| own.end).filter(|_| pooling == Pooling::Last),
            prompt: prompt(&options.prompt, own)?,
            truncate: options.truncate,
            is_guess: options.pooling.is_none() && own.is_some_and(|own| own.is_guess),
        })
    }
}

/// The text of a prompt.
fn prompt(wanted: &Prompt, own: Option<&TextEmbedding>) -> Result<String, EngineError> {
    let name = match wanted {
        Prompt::Text(text) => return Ok(text.clone()),
        Prompt::Named(name) => Some(name),
        Prompt::Default => own.and_then(|own| own.default_prompt.as_ref()),
    };
    let Some(name) = name else { return Ok(String::new()) };
    let prompts = own.map_or(&[][..], |own| &own.prompts);
    let found = prompts.iter().find(|(known, _)| known == name).map(|(_, text)| text.clone());
    found.ok_or_else(|| EngineError::UnknownPrompt {
        name: name.clone(),
        known: prompts.iter().map(|(known, _)| known.clone()).collect(),
    })
}

impl Embedder<'_> {
    /// How the hidden states become one vector.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Whether nobody said how to pool, neither the checkpoint nor the options, and the last token was taken because the model
    /// has no head.
    pub fn is_guess(&self) -> bool {
        self.is_guess
    }

    /// The vectors of some texts, in their order.
    ///
    /// # Errors
    /// As [`Embedder::tokens`] and [`Embedder::embed_ids`].
    pub fn embed<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Embedding>, EngineError> {
        let texts = texts.iter().enumerate().map(|(index, text)| self.tokens(index, text.as_ref()));
        self.embed_ids(&texts.collect::<Result<Vec<_>, _>>()?, |_, _| {})
    }

    /// The tokens that the model sees of a text: the prompt and the text, what the tokenizer puts around them, and, if it puts
    /// nothing after them, the token that has to end a text. Spellings of special tokens become those tokens. `index` is the
    /// text's place among others, for errors.
    ///
    /// # Errors
    /// When the text has no token at all, or more than the model's context and is not to be cut.
    pub fn tokens(&self, index: usize, text: &str) -> Result<Vec<u32>, EngineError> {
        let tokenizer = self.model.tokenizer();
        let mut ids = tokenizer.encode(&format!("{}{text}", self.prompt), true)?;
        let after = match tokenizer.after_text() {
            [] => self.end.as_slice(),
            after => {
                ids.truncate(ids.len() - after.len());
                after
            }
        };
        let (tokens, limit) = (ids.len() + after.len(), self.model.transformer().config().context_length);
        if tokens > limit {
            if !self.truncate {
                return Err(EngineError::LongText { index, tokens, limit });
            }
            ids.truncate(limit.saturating_sub(after.len()));
        }
        ids.extend_from_slice(after);
        if ids.is_empty() {
            return Err(EngineError::EmptyText { index });
        }
        Ok(ids)
    }

    /// The vectors of texts that are tokens already, in their order. Several short texts go through the model together, which
    /// changes no bit of a vector. `progress` hears of texts done and texts in all.
    ///
    /// # Errors
    /// When a text is empty or longer than the model's context, a token has no row in the embedding, or a vector is NaN or
    /// infinite.
    pub fn embed_ids(
        &self,
        texts: &[Vec<u32>],
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Vec<Embedding>, EngineError> {
        let limit = self.model.transformer().config().context_length;
        for (index, text) in texts.iter().enumerate() {
            match text.len() {
                0 => return Err(EngineError::EmptyText { index }),
                tokens if tokens > limit => return Err(EngineError::LongText { index, tokens, limit }),
                _ => self.model.transformer().check_tokens(text)?,
            }
        }
        let mut done = Vec::with_capacity(texts.len());
        while done.len() < texts.len() {
            let rest = &texts[done.len()..];
            let mut tokens = 0;
            let fitting = rest.iter().take_while(|text| {
                tokens += text.len();
                tokens <= BATCH
            });
            let batch = &rest[..fitting.count().max(1)];
            for (values, text) in self.batch(batch).into_iter().zip(batch) {
                if values.iter().any(|value| !value.is_finite()) {
                    return Err(EngineError::BadVector { index: done.len() });
                }
                done.push(Embedding { values, tokens: text.len() });
            }
            progress(done.len(), texts.len());
        }
        Ok(done)
    }

    /// Vectors of texts that the model sees at once, though none sees another.
    fn batch(&self, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
        let transformer = self.model.transformer();
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let ids: Vec<i64> = texts.iter().flatten().map(|id| i64::from(*id)).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [ids.len()]), transformer.device());
        let hidden = transformer.hidden_of(ids, &transformer.sequences(&lengths));
        let ends = lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        let pooled: Vec<Tensor<2>> = match self.pooling {
            Pooling::Last => {
                let last = ends.map(|end| hidden.clone().slice_dim(0, end - 1..end));
                vec![transformer.normed(Tensor::cat(last.collect(), 0))]
            }
            Pooling::Mean => {
                let hidden = transformer.normed(hidden);
                let texts = ends.zip(&lengths).map(|(end, length)| hidden.clone().slice_dim(0, end - length..end));
                texts.map(|text| text.mean_dim(0)).collect()
            }
        };
        let width = transformer.config().hidden_size;
        let values: Vec<f32> = Tensor::cat(pooled, 0).into_data().try_into_vec().expect("hidden states are F32");
        values
            .chunks_exact(width)
            .map(|vector| if self.normalize { one_long(vector) } else { vector.to_vec() })
            .collect()
    }
}

/// The vector over its length; zeros stay zeros.
fn one_long(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    vector.iter().map(|x| if length > 0.0 { (f64::from(*x) / length) as f32 } else { *x }).collect()
}
