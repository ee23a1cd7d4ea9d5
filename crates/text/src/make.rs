//! Making tokenizers: a vocabulary of bytes, or one of merges learned from texts.
//!
//! Both write every byte as a character of GPT-2's alphabet and split text as GPT-2 does, so no text is out of
//! vocabulary, and both can be written as a `tokenizer.json` and as a GGUF vocabulary with the same ids:
//!
//! | ids | tokens |
//! |---|---|
//! | 0..256 | the byte of that value |
//! | 256..256 + m | the result of each of the m merges, in order of priority |
//! | after them | `<\|endoftext\|>`; where chat markers are asked for, `<\|im_start\|>` and `<\|im_end\|>` |

use std::collections::HashSet;

use serde::{Serialize, Serializer, ser::SerializeSeq};
use serde_json::{Value, json};
use tokenizers::{
    Trainer,
    models::bpe::{BPE, BpeTrainer},
    pattern::Pattern,
};

use crate::{
    GgufVocabulary, HfTokenizer, TextError, Tokenizer,
    spelling::{MAX_VOCAB, byte_of},
    split::{GPT2, Words},
};

/// The token that ends every text.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// The token that begins a turn of a conversation.
pub const TURN_START: &str = "<|im_start|>";
/// The token that ends a turn of a conversation.
pub const TURN_END: &str = "<|im_end|>";

/// Conversations in ChatML.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const BYTES: usize = 256;

/// A pair that occurs once teaches nothing.
const LEAST_FREQUENCY: u64 = 2;

/// Stretches longer than this, in bytes, are no words (a line of 10,000 dashes), and merging within them takes time
/// that grows with the square of their length: they teach no merges.
const LONGEST_WORD: usize = 256;

/// Why a tokenizer could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MakeError {
    /// There was no text to learn from.
    #[error("there is no text to train a tokenizer on")]
    NoText,
    /// The vocabulary has no room for the bytes and the special tokens.
    #[error("a vocabulary of {asked} tokens is too small: the bytes and the special tokens alone are {least}")]
    VocabularyTooSmall {
        /// What was asked for.
        asked: usize,
        /// Bytes and special tokens.
        least: usize,
    },
    /// More tokens than any reader takes.
    #[error("a vocabulary of {asked} tokens is too large: at most {most}")]
    VocabularyTooLarge {
        /// What was asked for.
        asked: usize,
        /// Ids must stay below this.
        most: usize,
    },
    /// Learning the merges failed.
    #[error("merges could not be learned: {reason}")]
    Merges {
        /// What went wrong.
        reason: String,
    },
}

/// How far the training of a vocabulary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MakeProgress {
    /// Texts are being cut into words.
    Reading {
        /// Bytes of text taken so far.
        bytes: u64,
    },
    /// All texts are read; merges are being learned.
    Merging {
        /// Number of different words.
        words: usize,
    },
}

/// A tokenizer that was made here, before it is written to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTokenizer {
    /// By id, the special tokens last.
    tokens: Vec<String>,
    merges: Vec<(String, String)>,
    chat: bool,
}

impl NewTokenizer {
    /// A vocabulary of the 256 bytes, without merges: a text has as many tokens as UTF-8 bytes, and the loss per token
    /// is the loss per byte. With `chat`, it has the markers and the template of conversations.
    pub fn bytes(chat: bool) -> Self {
        Self::assemble(Vec::new(), chat)
    }

    /// Learns byte-pair merges from texts until the vocabulary has `vocab_size` tokens, the bytes and special tokens
    /// included. The same texts give the same tokenizer, in whatever order they come.
    ///
    /// A small text may not have enough pairs that occur twice: [`vocab_size`](Self::vocab_size) then is less.
    ///
    /// # Errors
    /// [`MakeError::NoText`] when there is none, and sizes that are too small or too large.
    pub fn train<S: AsRef<str> + Send>(
        texts: impl Iterator<Item = S> + Send,
        vocab_size: usize,
        chat: bool,
        progress: &mut (dyn FnMut(MakeProgress) + Send),
    ) -> Result<Self, MakeError> {
        let least = BYTES + specials(chat).len();
        if vocab_size < least {
            return Err(MakeError::VocabularyTooSmall { asked: vocab_size, least });
        }
        if vocab_size > MAX_VOCAB as usize {
            return Err(MakeError::VocabularyTooLarge { asked: vocab_size, most: MAX_VOCAB as usize });
        }
        let letters = letters();
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size - specials(chat).len())
            .min_frequency(LEAST_FREQUENCY)
            .initial_alphabet(HashSet::from(letters))
            .show_progress(false)
            .build();
        let failed = |e: tokenizers::Error| MakeError::Merges { reason: e.to_string() };
        let words = Words::new(GPT2).ok_or_else(|| MakeError::Merges { reason: "the pattern is refused".into() })?;
        let mut bytes = 0u64;
        let texts = texts.inspect(|text| {
            bytes += text.as_ref().len() as u64;
            progress(MakeProgress::Reading { bytes });
        });
        trainer.feed(texts, |text| words_of(text, &words, &letters)).map_err(failed)?;
        if bytes == 0 {
            return Err(MakeError::NoText);
        }
        progress(MakeProgress::Merging { words: trainer.get_word_count() });
        let mut model = BPE::default();
        trainer.train(&mut model).map_err(failed)?;
        Ok(Self::assemble(merges_of(&model)?, chat))
    }

    fn assemble(merges: Vec<(String, String)>, chat: bool) -> Self {
        let mut tokens: Vec<String> = letters().map(String::from).to_vec();
        // Two merges may make the same token (a·bc and ab·c); it has one id.
        let mut seen: HashSet<String> = HashSet::with_capacity(merges.len());
        for (left, right) in &merges {
            let token = format!("{left}{right}");
            if seen.insert(token.clone()) {
                tokens.push(token);
            }
        }
        tokens.extend(specials(chat).iter().map(ToString::to_string));
        Self { tokens, merges, chat }
    }

    /// Number of tokens, the special ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// Id of the token that ends every text.
    pub fn end_of_text(&self) -> u32 {
        id(self.tokens.len() - specials(self.chat).len())
    }

    /// Id of the token that ends a turn, if there are chat markers.
    pub fn turn_end(&self) -> Option<u32> {
        self.chat.then(|| id(self.tokens.len() - 1))
    }

    /// The text of a `tokenizer.json`.
    pub fn tokenizer_json(&self) -> String {
        let plain = self.tokens.len() - specials(self.chat).len();
        let added = |(i, token): (usize, &String)| {
            json!({
                "id": id(plain + i), "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        };
        // `add_prefix_space` and `trim_offsets` of a decoder have no effect, but readers ask for them.
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let file = TokenizerJson {
            version: "1.0",
            truncation: (),
            padding: (),
            added_tokens: self.tokens[plain..].iter().enumerate().map(added).collect(),
            normalizer: (),
            pre_tokenizer: byte_level.clone(),
            post_processor: (),
            decoder: byte_level,
            model: BpeJson {
                r#type: "BPE",
                dropout: (),
                unk_token: (),
                continuing_subword_prefix: (),
                end_of_word_suffix: (),
                fuse_unk: false,
                byte_fallback: false,
                ignore_merges: false,
                vocab: Vocabulary(&self.tokens[..plain]),
                merges: Merges(&self.merges),
            },
        };
        // Plain data with text keys always has a JSON form.
        serde_json::to_string_pretty(&file).unwrap_or_default()
    }

    /// The contents of a `tokenizer_config.json`: the end-of-text token and, where there are chat markers, the chat
    /// template. The end of a turn is no `eos_token`: a generation that stops there too needs both ids in its own
    /// configuration.
    pub fn tokenizer_config(&self) -> Value {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TEXT,
            "add_bos_token": false,
            "clean_up_tokenization_spaces": false,
        });
        if let Some(template) = self.chat_template() {
            config["chat_template"] = template.into();
        }
        config
    }

    /// The chat template, if there are chat markers: ChatML.
    pub fn chat_template(&self) -> Option<&'static str> {
        self.chat.then_some(CHATML)
    }

    /// The same vocabulary as the keys of a GGUF file, with the same ids.
    pub fn gguf(&self) -> GgufVocabulary {
        let plain = self.tokens.len() - specials(self.chat).len();
        let (normal, control) = (1, 3);
        GgufVocabulary {
            model: "gpt2".into(),
            pre: Some("gpt-2".into()),
            tokens: self.tokens.clone(),
            token_types: (0..self.tokens.len()).map(|i| if i < plain { normal } else { control }).collect(),
            merges: self.merges.iter().map(|(left, right)| format!("{left} {right}")).collect(),
            eos: Some(self.end_of_text()),
            eot: self.turn_end(),
            add_bos: Some(false),
            chat_template: self.chat_template().map(String::from),
            ..GgufVocabulary::default()
        }
    }

    /// The tokenizer itself, read back from its own files.
    ///
    /// # Errors
    /// None that is known; those of [`Tokenizer::from_hf`].
    pub fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        let (json, config) = (self.tokenizer_json(), self.tokenizer_config());
        Tokenizer::from_hf(HfTokenizer {
            tokenizer_json: json.as_bytes(),
            tokenizer_config: Some(&config),
            ..HfTokenizer::default()
        })
    }
}

/// Special tokens, in order of their ids.
fn specials(chat: bool) -> &'static [&'static str] {
    if chat { &[END_OF_TEXT, TURN_START, TURN_END] } else { &[END_OF_TEXT] }
}

/// Vocabularies are held far below `u32::MAX`.
fn id(index: usize) -> u32 {
    index as u32
}

/// For every byte its character in GPT-2's alphabet.
fn letters() -> [char; BYTES] {
    let mut letters = ['\0'; BYTES];
    for letter in ('\0'..='\u{143}').filter(|&letter| byte_of(letter).is_some()) {
        letters[usize::from(byte_of(letter).unwrap_or_default())] = letter;
    }
    letters
}

/// The words of a text, in the byte alphabet.
fn words_of(text: &str, words: &Words, letters: &[char; BYTES]) -> tokenizers::Result<Vec<String>> {
    let pieces = words.find_matches(text)?.into_iter().map(|((start, end), _)| &text.as_bytes()[start..end]);
    let short = pieces.filter(|piece| (1..=LONGEST_WORD).contains(&piece.len()));
    Ok(short.map(|piece| piece.iter().map(|&b| letters[usize::from(b)]).collect()).collect())
}

/// The merges of a trained model, in order of priority. The model shows them in its JSON form only.
fn merges_of(model: &BPE) -> Result<Vec<(String, String)>, MakeError> {
    let failed = |e: serde_json::Error| MakeError::Merges { reason: e.to_string() };
    let mut model = serde_json::to_value(model).map_err(failed)?;
    serde_json::from_value(model["merges"].take()).map_err(failed)
}

#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Value>,
    normalizer: (),
    pre_tokenizer: Value,
    post_processor: (),
    decoder: Value,
    model: BpeJson<'a>,
}

#[derive(Serialize)]
struct BpeJson<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: (),
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocabulary<'a>,
    merges: Merges<'a>,
}

/// `{"token": id, ...}`, in order of id.
struct Vocabulary<'a>(&'a [String]);

impl Serialize for Vocabulary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().enumerate().map(|(i, token)| (token, i)))
    }
}

/// `["left right", ...]`: the form that every version of the readers knows.
struct Merges<'a>(&'a [(String, String)]);

impl Serialize for Merges<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (left, right) in self.0 {
            list.serialize_element(&format!("{left} {right}"))?;
        }
        list.end()
    }
}
