//! A vocabulary as the `tokenizer.json` and `tokenizer_config.json` of a LLaMA-3 tokenizer.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{GenerateError, Vocabulary};

/// How LLaMA-3 cuts text before merging.
const PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The chat format of 2B-4T: `User: text<|eot_id|>`, nothing between messages.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ message['role'] | capitalize + ': ' }}\
    {{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

const BOS: &str = "<|begin_of_text|>";

#[derive(Serialize)]
struct TokenizerJson<'a> {
    version: &'a str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Value>,
    normalizer: (),
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Bpe<'a>,
}

#[derive(Serialize)]
struct Bpe<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    dropout: (),
    unk_token: (),
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    #[serde(serialize_with = "by_id")]
    vocab: &'a [String],
    merges: &'a [String],
}

/// An object of the tokens in order of their ids, which are the values.
fn by_id<S: Serializer>(tokens: &&[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(tokens.iter().zip(0u32..))
}

/// Writes `tokenizer.json`.
pub(super) fn write(vocabulary: &Vocabulary, path: &Path) -> Result<(), GenerateError> {
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let split = json!({ "type": "Split", "pattern": { "Regex": PATTERN }, "behavior": "Isolated", "invert": false });
    let json = TokenizerJson {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: vocabulary.specials().map(|(id, content)| added_token(Some(id), &content)).collect(),
        normalizer: (),
        pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": [split, byte_level] }),
        post_processor: json!({ "type": "Sequence", "processors": [byte_level, begin_with_bos(vocabulary)] }),
        decoder: byte_level.clone(),
        model: Bpe {
            kind: "BPE",
            dropout: (),
            unk_token: (),
            continuing_subword_prefix: (),
            end_of_word_suffix: (),
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: true,
            vocab: vocabulary.words(),
            merges: vocabulary.merges(),
        },
    };
    let wrap = |error| GenerateError::io(path, error);
    let mut out = BufWriter::new(File::create_new(path).map_err(wrap)?);
    serde_json::to_writer_pretty(&mut out, &json).map_err(|error| GenerateError::io(path, error))?;
    out.flush().map_err(wrap)
}

/// An entry of `added_tokens`, or without an id of `added_tokens_decoder`.
fn added_token(id: Option<usize>, content: &str) -> Value {
    let mut token = json!({
        "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
    });
    if let Some(id) = id {
        token["id"] = id.into();
    }
    token
}

/// The template that puts BOS before a text, and before each of a pair.
fn begin_with_bos(vocabulary: &Vocabulary) -> Value {
    let bos = |type_id: u32| json!({ "SpecialToken": { "id": BOS, "type_id": type_id } });
    let text = |id: &str, type_id: u32| json!({ "Sequence": { "id": id, "type_id": type_id } });
    json!({
        "type": "TemplateProcessing",
        "single": [bos(0), text("A", 0)],
        "pair": [bos(0), text("A", 0), bos(1), text("B", 1)],
        "special_tokens": { BOS: { "id": BOS, "ids": [vocabulary.begin_of_text()], "tokens": [BOS] } },
    })
}

/// `tokenizer_config.json`.
pub(super) fn config(vocabulary: &Vocabulary) -> Value {
    let decoder: Map<String, Value> =
        vocabulary.specials().map(|(id, content)| (id.to_string(), added_token(None, &content))).collect();
    json!({
        "added_tokens_decoder": decoder,
        "bos_token": BOS,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": true,
        "eos_token": "<|eot_id|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1e30,
        "tokenizer_class": "PreTrainedTokenizerFast",
    })
}
