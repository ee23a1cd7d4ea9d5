//! Tokenizers from the files of a Hugging Face checkpoint.

use std::borrow::Cow;

use ahash::AHashMap;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use tokenizers::{
    AddedToken, Model as _, ModelWrapper, PreTokenizerWrapper, models::bpe::Merges,
    pre_tokenizers::byte_level::ByteLevel,
};

use crate::{
    TextError,
    bpe::BpeParts,
    chat::{self, ChatTemplate},
    frame::Frame,
    model::Algorithm,
    spelling::{Alphabet, MAX_VOCAB, Spelling},
    split::{GPT2, Splitter, Step, Words},
    tokenizer::Parts,
};

/// The files of a checkpoint that say something about its tokenizer.
#[derive(Clone, Copy, Debug, Default)]
pub struct HfTokenizer<'a> {
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: &'a [u8],
    /// `tokenizer_config.json`: BOS, EOS, `add_bos_token`, chat template.
    pub tokenizer_config: Option<&'a Value>,
    /// `chat_template.jinja`, which wins over the template in `tokenizer_config.json`.
    pub chat_template: Option<&'a str>,
    /// `generation_config.json`: its `eos_token_id` is one id or a list.
    pub generation_config: Option<&'a Value>,
    /// `eos_token_id` of `config.json`.
    pub config_eos: &'a [u32],
    /// `bos_token_id` of `config.json`.
    pub config_bos: Option<u32>,
}

#[derive(Deserialize)]
struct TokenizerJson<'a> {
    #[serde(default)]
    added_tokens: Vec<AddedTokenJson>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
struct AddedTokenJson {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

pub(crate) fn read(files: &HfTokenizer<'_>) -> Result<Parts, TextError> {
    let json: TokenizerJson<'_> =
        serde_json::from_slice(files.tokenizer_json).map_err(|e| TextError::json("file", e))?;
    let alphabet = alphabet(&json.decoder).map_err(|e| TextError::json("decoder", e))?;
    let (model, spelling) = read_model(json.model, &json.added_tokens, alphabet)?;
    let mut frame =
        Frame::from_post_processor(&json.post_processor).map_err(|e| TextError::json("post_processor", e))?;

    let added: Vec<_> = json.added_tokens.into_iter().filter(|t| !t.content.is_empty()).map(added_token).collect();
    let config = Config { files, added: &added, model: &model };
    let bos = config.bos()?;
    config.complete(&mut frame, bos)?;
    let ends = config.ends()?;
    let template = config.template()?;
    let known = |id: &u32| spelling.bytes(*id).is_ok();
    if let Some(id) = frame.before.iter().chain(&frame.after).find(|id| !known(id)) {
        return Err(TextError::json("post_processor", format!("adds id {id}, which no token has")));
    }
    Ok(Parts {
        normalizer: part("normalizer", json.normalizer)?,
        splitter: splitter(json.pre_tokenizer)?,
        algorithm: Algorithm::Library(model),
        added,
        unreachable: Vec::new(),
        spelling,
        frame,
        bos,
        ends,
        template,
    })
}

fn added_token(t: AddedTokenJson) -> (u32, AddedToken) {
    let token = AddedToken::from(t.content, t.special).single_word(t.single_word).lstrip(t.lstrip);
    (t.id, token.rstrip(t.rstrip).normalized(t.normalized))
}

/// A part that the `tokenizers` crate reads by itself. From a `Value`: its readers panic on malformed JSON text.
fn part<T: DeserializeOwned>(name: &'static str, value: Value) -> Result<Option<T>, TextError> {
    serde_json::from_value(value).map_err(|e| TextError::json(name, e))
}

/// How the decoder undoes the writing of bytes as token text.
///
/// Decoding must go token by token, for streaming; so it is done here, from what the file's decoder amounts to.
fn alphabet(decoder: &Value) -> Result<Alphabet, String> {
    let steps = match decoder["type"].as_str() {
        Some("Sequence") => decoder["decoders"].as_array().ok_or("Sequence without decoders")?.as_slice(),
        _ => std::slice::from_ref(decoder),
    };
    let (mut byte_level, mut pieces, mut prefix_space) = (false, false, false);
    for step in steps {
        match step["type"].as_str() {
            Some("ByteLevel") => byte_level = true,
            Some("Metaspace") => {
                pieces = true;
                prefix_space = step["prepend_scheme"] != "never" && step["add_prefix_space"] != false;
            }
            Some("Replace") if step["pattern"]["String"] == "▁" && step["content"] == " " => pieces = true,
            Some("ByteFallback") => pieces = true,
            Some("Fuse") => {}
            Some("Strip") if step["content"] == " " && step["start"] == 1 && step["stop"] == 0 => prefix_space = true,
            _ => return Err(format!("{step} is not supported (byte-level and SentencePiece-style decoders are)")),
        }
    }
    match (byte_level, pieces) {
        (true, false) => Ok(Alphabet::ByteLevel),
        (false, true) => Ok(Alphabet::SentencePiece { prefix_space }),
        _ => Err("is neither byte-level nor SentencePiece-style".into()),
    }
}

#[derive(Deserialize)]
struct ModelType<'a> {
    #[serde(rename = "type", borrow)]
    name: Option<Cow<'a, str>>,
}

/// The `model` object of a byte-pair encoder. Read directly: the `tokenizers` crate's own reader first makes a tree of
/// values of it, which takes nearly twice as long for a vocabulary of 128,000 tokens.
#[derive(Deserialize)]
struct BpeJson {
    vocab: AHashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
}

/// `"left right"` in older files, `["left", "right"]` in newer ones.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Merge;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a merge: two tokens")
            }

            fn visit_str<E: serde::de::Error>(self, merge: &str) -> Result<Merge, E> {
                let (left, right) =
                    merge.split_once(' ').ok_or_else(|| E::custom(format!("merge {merge:?} is not two tokens")))?;
                Ok(Merge(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let missing = || serde::de::Error::custom("a merge is not two tokens");
                let left = seq.next_element()?.ok_or_else(missing)?;
                let right = seq.next_element()?.ok_or_else(missing)?;
                match seq.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Merge(left, right)),
                    Some(_) => Err(missing()),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn read_model(
    raw: &RawValue,
    added: &[AddedTokenJson],
    alphabet: Alphabet,
) -> Result<(ModelWrapper, Spelling), TextError> {
    let fail = |e: String| TextError::json("model", e);
    let kind: ModelType<'_> = serde_json::from_str(raw.get()).map_err(|e| fail(e.to_string()))?;
    let literal = added.iter().map(|t| (t.id, t.content.as_str(), true));
    // Old files have byte-pair encoders without a type.
    if kind.name.as_deref().unwrap_or("BPE") == "BPE" {
        let json: BpeJson = serde_json::from_str(raw.get()).map_err(|e| fail(e.to_string()))?;
        check_added(added, |token| json.vocab.get(token).copied())?;
        let tokens = json.vocab.iter().map(|(token, &id)| (id, token.as_str(), false));
        let spelling = Spelling::new(alphabet, tokens.chain(literal)).map_err(fail)?;
        let merges: Merges = json.merges.into_iter().map(|Merge(left, right)| (left, right)).collect();
        let bpe = BpeParts {
            vocab: json.vocab,
            merges,
            ignore_merges: json.ignore_merges.unwrap_or(false),
            unk_token: json.unk_token,
            fuse_unk: json.fuse_unk.unwrap_or(false),
            byte_fallback: json.byte_fallback.unwrap_or(false),
            continuing_subword_prefix: json.continuing_subword_prefix.filter(|p| !p.is_empty()),
            end_of_word_suffix: json.end_of_word_suffix.filter(|s| !s.is_empty()),
        };
        return Ok((ModelWrapper::BPE(bpe.build().map_err(fail)?), spelling));
    }
    if let Some(name) = kind.name.filter(|name| !matches!(name.as_ref(), "Unigram" | "WordPiece" | "WordLevel")) {
        return Err(fail(format!("type {name:?} is not supported")));
    }
    let value: Value = serde_json::from_str(raw.get()).map_err(|e| fail(e.to_string()))?;
    let model: ModelWrapper = serde_json::from_value(value).map_err(|e| fail(e.to_string()))?;
    check_added(added, |token| model.token_to_id(token))?;
    let vocab = model.get_vocab();
    let tokens = vocab.iter().map(|(token, &id)| (id, token.as_str(), false));
    let spelling = Spelling::new(alphabet, tokens.chain(literal)).map_err(fail)?;
    Ok((model, spelling))
}

fn check_added(added: &[AddedTokenJson], id_in_model: impl Fn(&str) -> Option<u32>) -> Result<(), TextError> {
    for AddedTokenJson { id, content, .. } in added {
        if let Some(other) = id_in_model(content).filter(|other| other != id) {
            let reason = format!("{content:?} has id {id} here and {other} in the model's vocabulary");
            return Err(TextError::json("added_tokens", reason));
        }
        if *id >= MAX_VOCAB {
            return Err(TextError::json(
                "added_tokens",
                format!("{content:?} has id {id}; ids from {MAX_VOCAB} on are refused"),
            ));
        }
    }
    Ok(())
}

/// The pre-tokenizer, with the patterns of the GPT-2 family in their linear-time form.
fn splitter(pre: Value) -> Result<Option<Splitter>, TextError> {
    let mut steps = Vec::new();
    push_steps(pre, &mut steps)?;
    Ok((!steps.is_empty()).then(|| Splitter::new(steps)))
}

fn push_steps(mut pre: Value, steps: &mut Vec<Step>) -> Result<(), TextError> {
    if pre["type"] == "Sequence"
        && let Some(Value::Array(all)) = pre.get_mut("pretokenizers").map(Value::take)
    {
        return all.into_iter().try_for_each(|one| push_steps(one, steps));
    }
    if pre["type"] == "Split"
        && pre["behavior"] == "Isolated"
        && pre["invert"] == false
        && let Some(words) = pre["pattern"]["Regex"].as_str().and_then(Words::new)
    {
        steps.push(Step::Words(words));
        return Ok(());
    }
    let library: Option<PreTokenizerWrapper> = part("pre_tokenizer", pre)?;
    match library {
        Some(PreTokenizerWrapper::ByteLevel(ByteLevel { add_prefix_space: false, use_regex: true, .. })) => {
            steps.extend(Words::new(GPT2).map(Step::Words));
            steps.push(Step::byte_alphabet());
        }
        other => steps.extend(other.map(Step::Library)),
    }
    Ok(())
}

/// What the configuration files say about the special tokens.
struct Config<'a> {
    files: &'a HfTokenizer<'a>,
    added: &'a [(u32, AddedToken)],
    model: &'a ModelWrapper,
}

impl Config<'_> {
    fn get(&self, key: &str) -> &Value {
        self.files.tokenizer_config.map_or(&Value::Null, |config| &config[key])
    }

    /// A token named in `tokenizer_config.json`: a string, or an object with its `content`.
    fn named(&self, key: &str) -> Option<&str> {
        let value = self.get(key);
        value.as_str().or_else(|| value["content"].as_str()).filter(|token| !token.is_empty())
    }

    fn named_id(&self, key: &str) -> Result<Option<u32>, TextError> {
        let Some(token) = self.named(key) else { return Ok(None) };
        let id = self.added.iter().find(|(_, t)| t.content == token).map(|&(id, _)| id);
        let id = id.or_else(|| self.model.token_to_id(token));
        id.map(Some).ok_or_else(|| TextError::config(format!("{key} {token:?} is not in the vocabulary")))
    }

    fn generation_ids(&self, key: &str) -> Vec<u32> {
        let value = self.files.generation_config.map_or(&Value::Null, |config| &config[key]);
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        list.iter().filter_map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    }

    fn bos(&self) -> Result<Option<u32>, TextError> {
        let generation = || self.generation_ids("bos_token_id").first().copied();
        Ok(self.named_id("bos_token")?.or(self.files.config_bos).or_else(generation))
    }

    fn ends(&self) -> Result<Vec<u32>, TextError> {
        let mut ends = self.generation_ids("eos_token_id");
        ends.extend_from_slice(self.files.config_eos);
        ends.extend(self.named_id("eos_token")?);
        Ok(ends)
    }

    /// Adds the BOS that the configuration asks for and the post-processor does not add. `add_eos_token` is of no effect,
    /// as in transformers 5: a prompt that ends in EOS has no continuation.
    fn complete(&self, frame: &mut Frame, bos: Option<u32>) -> Result<(), TextError> {
        if *self.get("add_bos_token") == true {
            frame.ensure_bos(bos.ok_or_else(|| TextError::config("add_bos_token is true, but there is no bos_token"))?);
        }
        Ok(())
    }

    fn template(&self) -> Result<Option<Result<ChatTemplate, TextError>>, TextError> {
        let source = match self.files.chat_template {
            Some(source) => Ok(Some(source.to_owned())),
            None => chat::from_config(self.get("chat_template")),
        };
        let compile = |source| ChatTemplate::new(source, self.named("bos_token"), self.named("eos_token"));
        Ok(source.map(|source| source.map(compile)).unwrap_or_else(|error| Some(Err(error))))
    }
}
