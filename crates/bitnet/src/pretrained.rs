//! A model by name, ready to write.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bitnet_engine::{Generation, OpenOptions};
use bitnet_format::{Adapter, Checkpoint};
use bitnet_model::{Kept, ModelError, WeightBits};

use crate::{
    EMBEDDED, Embedding, EmbeddingOptions, Error, FinishReason, GenerationConfig, LanguageModel, Session,
    SessionOptions, Timing, embedded, fetch,
};

/// How to open a model.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// `flex`, or another device that this build has (see [`bitnet_model::devices`]).
    pub device: String,
    /// A `tokenizer.json` to use in place of the checkpoint's own tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// How the container is read.
    pub open: OpenOptions,
    /// Never ask the network; what is in the cache is used.
    pub offline: bool,
    /// Bits that a ternary weight takes in memory.
    pub weights: WeightBits,
    /// Folder of a low-rank adapter to run beside the weights.
    pub adapter: Option<PathBuf>,
    /// Where to keep weights as the kernels read them, so that a model opens faster the next time; `None` keeps nothing. See
    /// [`crate::cache_folder`].
    pub cache: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let device = bitnet_model::DeviceKind::default_name().to_string();
        let (open, weights) = (OpenOptions::default(), WeightBits::default());
        Self { device, tokenizer: None, open, offline: false, weights, adapter: None, cache: None }
    }
}

/// A loaded model.
pub struct BitNetModel {
    language_model: LanguageModel,
    load_time: Duration,
}

/// The continuation of a prompt, token by token; each item is a [`crate::Step`].
pub type Stream<'m> = Generation<'m, Session<'m>>;

/// A whole continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Tokens of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Tokens that were added, a stop token among them.
    pub ids: Vec<u32>,
    /// Text that was added.
    pub text: String,
    /// Why it ended; `None` when no token was asked for.
    pub finish_reason: Option<FinishReason>,
    /// How long it took.
    pub timing: Timing,
    /// The seed that was used.
    pub seed: u64,
}

/// Opens a checkpoint without loading it: `embedded`, a folder, a `.safetensors`, a `.safetensors.index.json`, a `.gguf`, a `.bpk`, or
/// `org/name[@revision][:file]` on the Hugging Face Hub. A path that exists wins over a name on the Hub.
///
/// # Errors
/// When there is no such file or repository, or it is not a model that can be read.
pub fn open(spec: &str, options: &LoadOptions) -> Result<Checkpoint, Error> {
    if spec == EMBEDDED && !Path::new(spec).exists() {
        return embedded();
    }
    let path = fetch(spec, options.offline, None)?;
    Ok(bitnet_format::open_with(path, &options.open)?)
}

impl BitNetModel {
    /// Opens and loads a model with default options; see [`open`] for the names it takes.
    ///
    /// # Errors
    /// As [`open`], and when a part of the model is missing or wrong.
    pub fn from_pretrained(spec: &str) -> Result<Self, Error> {
        Self::load(spec, &LoadOptions::default())
    }

    /// Opens and loads a model.
    ///
    /// # Errors
    /// As [`BitNetModel::from_pretrained`], and when this build does not have the device.
    pub fn load(spec: &str, options: &LoadOptions) -> Result<Self, Error> {
        let begin = Instant::now();
        let device = bitnet_model::device(&options.device).map_err(ModelError::from)?;
        let checkpoint = open(spec, options)?;
        let tokenizer = options.tokenizer.as_deref();
        let kept = options.cache.clone().map(Kept::in_folder);
        let bits = options.weights;
        let mut language_model = LanguageModel::load_with_bits(&checkpoint, bits, kept.as_ref(), &device, tokenizer)?;
        if let Some(path) = &options.adapter {
            language_model = language_model.with_adapter(&Adapter::open(path)?)?;
        }
        Ok(Self { language_model, load_time: begin.elapsed() })
    }

    /// The model with its tokenizer.
    pub fn language_model(&self) -> &LanguageModel {
        &self.language_model
    }

    /// How long it took to open and load.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// An empty session; see [`LanguageModel::session`].
    pub fn session(&self, options: impl Into<SessionOptions>) -> Session<'_> {
        self.language_model.session(options)
    }

    /// Continues `prompt`, token by token.
    ///
    /// # Errors
    /// When the prompt is empty or does not fit the context, or a setting is out of its range.
    pub fn stream(&self, prompt: &str, config: &GenerationConfig) -> Result<Stream<'_>, Error> {
        self.stream_ids(&self.encode(prompt)?, config)
    }

    /// [`BitNetModel::stream`] for a prompt that is tokens already.
    ///
    /// # Errors
    /// As [`BitNetModel::stream`], and when a token has no row in the embedding.
    pub fn stream_ids(&self, prompt: &[u32], config: &GenerationConfig) -> Result<Stream<'_>, Error> {
        self.session(None).into_generation(prompt, config)
    }

    /// Continues `prompt` to its end.
    ///
    /// # Errors
    /// As [`BitNetModel::stream`].
    pub fn generate(&self, prompt: &str, config: &GenerationConfig) -> Result<Output, Error> {
        Output::of(self.encode(prompt)?, |prompt| self.stream_ids(prompt, config), |_| Ok(()))
    }

    /// The vectors of some texts, in their order; see [`LanguageModel::embedder`].
    ///
    /// # Errors
    /// When the model is not one for embeddings and `options` does not make it one, or a text is empty or too long.
    pub fn embed<T: AsRef<str>>(&self, texts: &[T], options: &EmbeddingOptions) -> Result<Vec<Embedding>, Error> {
        self.language_model.embedder(options)?.embed(texts)
    }

    /// The tokens of a prompt, with the beginning-of-text token if the model has one.
    ///
    /// # Errors
    /// When the prompt is empty.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        Ok(self.language_model.tokenizer().encode(prompt, true)?)
    }
}

impl Output {
    /// Runs the stream that `begin` makes of `prompt_ids` to its end; `show` gets each piece of text as it comes.
    ///
    /// # Errors
    /// Those of the stream and of `show`.
    pub fn of<'m, E: From<Error>>(
        prompt_ids: Vec<u32>,
        begin: impl FnOnce(&[u32]) -> Result<Stream<'m>, Error>,
        mut show: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut stream = begin(&prompt_ids)?;
        let (mut text, mut finish_reason) = (String::new(), None);
        for step in &mut stream {
            let step = step?;
            show(&step.text)?;
            text += &step.text;
            finish_reason = step.finish;
        }
        let (ids, timing, seed) = (stream.ids().to_vec(), stream.timing(), stream.seed());
        Ok(Self { prompt_ids, ids, text, finish_reason, timing, seed })
    }
}
