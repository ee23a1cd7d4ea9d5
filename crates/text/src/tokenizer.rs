//! The tokenizer: one type, wherever its vocabulary came from.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokenizers::{AddedToken, DecoderWrapper, Model as _, NormalizerWrapper, PostProcessorWrapper, TokenizerImpl};

use crate::{
    ChatTemplate, Detokenizer, GgufVocabulary, HfTokenizer, Message, TextError,
    frame::Frame,
    gguf, hf,
    model::{Algorithm, SharedModel},
    special::stop_tokens,
    spelling::Spelling,
    split::Splitter,
};

type Encoder = TokenizerImpl<SharedModel, NormalizerWrapper, Splitter, PostProcessorWrapper, DecoderWrapper>;

/// Turns text into token ids and back.
///
/// Immutable, `Send + Sync` and cheap to clone: clones share one vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    /// Reads special tokens' spellings in a text as those tokens.
    encoder: Arc<Encoder>,
    /// Reads them as ordinary text.
    plain: Arc<Encoder>,
    vocabulary: Arc<Vocabulary>,
    frame: Frame,
    bos: Option<u32>,
    stops: Arc<[u32]>,
    template: Option<Arc<Result<ChatTemplate, TextError>>>,
}

/// What decoding needs.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    pub spelling: Spelling,
    pub special: HashSet<u32>,
}

/// Everything a reader of some format found out, before it is put together.
pub(crate) struct Parts {
    pub algorithm: Algorithm,
    pub normalizer: Option<NormalizerWrapper>,
    pub splitter: Option<Splitter>,
    /// Tokens that are found in a text before anything else looks at it, with their ids.
    pub added: Vec<(u32, AddedToken)>,
    /// Tokens that have an id and a spelling but that no text becomes.
    pub unreachable: Vec<(u32, String)>,
    pub spelling: Spelling,
    pub frame: Frame,
    pub bos: Option<u32>,
    /// Ids the checkpoint declares as the end of a text or a turn.
    pub ends: Vec<u32>,
    pub template: Option<Result<ChatTemplate, TextError>>,
}

impl Tokenizer {
    /// Builds a tokenizer from the files of a Hugging Face checkpoint.
    ///
    /// # Errors
    /// Names the part of `tokenizer.json` that is malformed or not supported, or the token that is given two ids.
    pub fn from_hf(files: HfTokenizer<'_>) -> Result<Self, TextError> {
        Self::assemble(hf::read(&files)?, |reason| TextError::json("added_tokens", reason))
    }

    /// Builds a tokenizer from the vocabulary in a GGUF file.
    ///
    /// # Errors
    /// Names the metadata key that is missing, malformed or contradicts another; see [`TextError::UnknownPre`] and
    /// [`TextError::MissingPre`] for files that do not say how to split text.
    pub fn from_gguf(vocab: GgufVocabulary) -> Result<Self, TextError> {
        Self::assemble(gguf::read(vocab)?, |reason| TextError::gguf("tokenizer.ggml.tokens", reason))
    }

    fn assemble(parts: Parts, error: impl Fn(String) -> TextError) -> Result<Self, TextError> {
        let Parts { algorithm, normalizer, splitter, added, unreachable, spelling, frame, bos, ends, template } = parts;
        let mut outside = HashMap::with_capacity(added.len() + unreachable.len());
        let named = added.iter().map(|(id, token)| (*id, &token.content));
        for (id, token) in named.chain(unreachable.iter().map(|(id, token)| (*id, token))) {
            if let Some(first) = outside.insert(token.clone(), id) {
                return Err(error(format!("token {token:?} has two ids, {first} and {id}")));
            }
        }
        let special: HashSet<u32> = added.iter().filter(|(_, t)| t.special).map(|&(id, _)| id).collect();

        let mut encoder = Encoder::new(SharedModel::new(algorithm, outside));
        encoder.with_pre_tokenizer(splitter);
        let library = |e: tokenizers::Error| error(e.to_string());
        encoder.with_normalizer(normalizer).map_err(library)?;
        encoder.add_tokens(added.into_iter().map(|(_, token)| token)).map_err(library)?;
        let mut plain = encoder.clone();
        plain.set_encode_special_tokens(true);

        let special_id = |spelling: &str| encoder.token_to_id(spelling).filter(|id| special.contains(id));
        let stops = stop_tokens(ends, special_id).into();
        Ok(Self {
            encoder: Arc::new(encoder),
            plain: Arc::new(plain),
            vocabulary: Arc::new(Vocabulary { spelling, special }),
            frame,
            bos,
            stops,
            template: template.map(Arc::new),
        })
    }

    /// Ids of a text. Spellings of special tokens in the text become those tokens; with `add_special`, so do the
    /// tokens that the model expects around every text, such as a BOS.
    ///
    /// # Errors
    /// [`TextError::Encode`] where the vocabulary cannot express the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        self.encode_with(&self.encoder, text, add_special)
    }

    /// Like [`encode`](Self::encode), but the spelling of a special token is ordinary text: for text from someone who
    /// must not be able to end a turn or to begin one.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_plain(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        self.encode_with(&self.plain, text, add_special)
    }

    fn encode_with(&self, encoder: &Encoder, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        let encoding = encoder.encode_fast(text, false).map_err(TextError::encode)?;
        Ok(if add_special { self.frame.around(encoding.get_ids()) } else { encoding.get_ids().to_vec() })
    }

    /// Ids of a conversation: the chat template's rendering, tokenized, with a BOS exactly once if the model wants
    /// one, whether the template writes it or the tokenizer adds it.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`], or why the template does not compile or does not render these messages.
    pub fn encode_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>, TextError> {
        let template = match self.template.as_deref() {
            Some(Ok(template)) => template,
            Some(Err(error)) => return Err(error.clone()),
            None => return Err(TextError::NoChatTemplate),
        };
        let mut ids = self.encode(&template.render(messages, add_generation_prompt)?, false)?;
        let Some(bos) = self.bos else { return Ok(ids) };
        let written = ids.iter().take_while(|&&id| id == bos).count();
        let wanted = usize::from(written > 0 || self.frame.before.contains(&bos));
        ids.splice(..written, std::iter::repeat_n(bos, wanted));
        Ok(ids)
    }

    /// Text of ids, without the special tokens if `skip_special`. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TextError::UnknownId`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let mut detokenizer = Detokenizer::new(self.vocabulary.clone(), skip_special, true);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&detokenizer.push(id)?);
        }
        text.push_str(&detokenizer.finish());
        Ok(text)
    }

    /// A token as the vocabulary writes it (`Ġworld`, `▁world`, `<|eot_id|>`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.encoder.get_model().id_to_token(id)
    }

    /// The id of a token, written as the vocabulary writes it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.encoder.get_model().token_to_id(token)
    }

    /// Highest id plus one. A model may have more embedding rows than this: padding.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.spelling.len()
    }

    /// Checks that a model with `model_vocab` embedding rows has a row for every id.
    ///
    /// # Errors
    /// [`TextError::VocabularyTooLarge`].
    pub fn check_vocabulary(&self, model_vocab: usize) -> Result<(), TextError> {
        match u32::try_from(self.vocab_size().saturating_sub(1)) {
            Ok(id) if self.vocab_size() > model_vocab => {
                Err(TextError::VocabularyTooLarge { token: self.token(id).unwrap_or_default(), id, model_vocab })
            }
            _ => Ok(()),
        }
    }

    /// The token that begins a text, if the checkpoint names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// What [`encode`](Self::encode) puts after a text when special tokens are asked for.
    pub fn after_text(&self) -> &[u32] {
        &self.frame.after
    }

    /// Every id that ends a reply: the end-of-text and end-of-turn tokens that the checkpoint declares, and the
    /// special tokens whose spelling says so. The declared ones come first.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stops
    }

    /// Whether an id is a special token: never part of a text, only of its structure.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary.special.contains(&id)
    }

    /// The chat template, if there is one that compiles.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_deref()?.as_ref().ok()
    }

    /// Why the checkpoint's chat template cannot be used, if it has one that cannot.
    ///
    /// Such a tokenizer is good for everything but [`encode_chat`](Self::encode_chat), which gives this error.
    pub fn chat_template_error(&self) -> Option<&TextError> {
        self.template.as_deref()?.as_ref().err()
    }

    /// A streaming decoder for a text of its own, which leaves special tokens out.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(self.vocabulary.clone(), true, true)
    }

    /// A streaming decoder for ids that continue `prompt`: a SentencePiece model's space before the first word is
    /// then part of the text, unless the prompt holds special tokens only.
    pub fn detokenizer_after(&self, prompt: &[u32]) -> Detokenizer {
        let at_start = prompt.iter().all(|&id| self.is_special(id));
        Detokenizer::new(self.vocabulary.clone(), true, at_start)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("stop_tokens", &self.stops)
            .field("chat_template", &self.chat_template())
            .finish_non_exhaustive()
    }
}
