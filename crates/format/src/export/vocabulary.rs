//! A `tokenizer.json` as the vocabulary of a GGUF file.
//!
//! GGUF knows byte-level byte-pair encoders whose way of cutting text has a name (`tokenizer.ggml.pre`), SentencePiece models
//! (see [`pieces`]), and no other part of what a `tokenizer.json` can hold. Whatever of it would change an id is refused, not
//! left out.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value as Json;

use super::vocabulary_pieces as pieces;
use crate::{FormatError, GgufTokenizer, ModelConfig, TokenizerSource};

/// Token types: an ordinary one, one that no text becomes but by its special spelling, one that is found in a text before
/// it is cut, and one that stands for nothing.
pub(super) const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// How LLaMA 3 cuts text; GPT 2; Qwen 2.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[derive(Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    pub(super) normalizer: Json,
    #[serde(default)]
    pub(super) pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
    #[serde(default)]
    pub(super) decoder: Json,
    pub(super) model: Bpe,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
pub(super) struct Bpe {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Json,
    pub(super) merges: Option<Vec<Merge>>,
    pub(super) unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    pub(super) byte_fallback: Option<bool>,
    pub(super) fuse_unk: Option<bool>,
    pub(super) ignore_merges: Option<bool>,
}

/// Both ways of writing a merge.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Pair(String, String),
    Text(String),
}

/// The vocabulary of a model, or `None` if it has no tokenizer. `file` is the one that is written, `end` the token that an
/// embedding model puts after each text.
///
/// # Errors
///
/// When a `tokenizer.json` is malformed, holds what GGUF has no word for (the error says what), or has more tokens than the
/// embedding has rows.
pub(super) fn of(
    file: &Path,
    source: &TokenizerSource,
    config: &ModelConfig,
    end: Option<u32>,
) -> Result<Option<GgufTokenizer>, FormatError> {
    let mut vocabulary = match source {
        TokenizerSource::Missing => return Ok(None),
        TokenizerSource::Gguf(tokenizer) => tokenizer.clone(),
        TokenizerSource::Hf { path, tokenizer_json, tokenizer_config, chat_template, .. } => {
            let json: TokenizerJson =
                serde_json::from_slice(tokenizer_json).map_err(|e| FormatError::damaged(path, e.to_string()))?;
            let refuse = |reason: String| {
                FormatError::unsupported(path, format!("a tokenizer that GGUF has no word for: {reason}"))
            };
            let tokenizer_config = tokenizer_config.as_ref().unwrap_or(&Json::Null);
            let mut vocabulary = convert(json, tokenizer_config, config, end).map_err(refuse)?;
            vocabulary.chat_template.clone_from(chat_template);
            vocabulary
        }
    };
    fill_up(file, &mut vocabulary, config)?;
    Ok(Some(vocabulary))
}

/// Gives every row of the embedding a token.
fn fill_up(file: &Path, vocabulary: &mut GgufTokenizer, config: &ModelConfig) -> Result<(), FormatError> {
    let GgufTokenizer { tokens, token_types, scores, .. } = vocabulary;
    if tokens.len() > config.vocab_size {
        let reason = format!("has {} tokens, more than the embedding's {} rows", tokens.len(), config.vocab_size);
        return Err(FormatError::config(file, "tokenizer.ggml.tokens", reason));
    }
    let ids = config.bos_token_ids.iter().chain(&config.eos_token_ids);
    if let Some(id) = ids.copied().find(|id| tokens.get(*id as usize).is_none()) {
        let reason = format!("has no token {id}, which is to begin or end a text");
        return Err(FormatError::config(file, "tokenizer.ggml.tokens", reason));
    }
    if token_types.is_empty() {
        token_types.resize(tokens.len(), NORMAL);
    }
    while tokens.len() < config.vocab_size {
        tokens.push(format!("[PAD{}]", tokens.len()));
        token_types.push(UNUSED);
    }
    if !scores.is_empty() {
        scores.resize(tokens.len(), 0.0);
    }
    Ok(())
}

fn convert(
    json: TokenizerJson,
    tokenizer_config: &Json,
    config: &ModelConfig,
    end: Option<u32>,
) -> Result<GgufTokenizer, String> {
    check_model(&json.model)?;
    let bos = config.bos_token_ids.first().copied();
    let add_bos = adds_bos(&json.post_processor, bos, end)? || tokenizer_config["add_bos_token"] == true;
    if add_bos && bos.is_none() {
        return Err("a BOS that the model's configuration does not name".to_string());
    }
    let pad = &tokenizer_config["pad_token"];
    let pad = pad.as_str().or_else(|| pad["content"].as_str());
    let mut vocabulary = if pieces::is_of_pieces(&json) { pieces::convert(json)? } else { bytes(json)? };
    let pad = pad.and_then(|pad| vocabulary.tokens.iter().position(|token| token == pad));
    vocabulary.pad = pad.and_then(|id| u32::try_from(id).ok());
    vocabulary.add_bos = Some(add_bos);
    Ok(vocabulary)
}

/// A byte-level BPE.
fn bytes(json: TokenizerJson) -> Result<GgufTokenizer, String> {
    if json.model.unk_token.is_some() {
        return Err("a BPE that is not of bytes (it has an unknown token)".to_string());
    }
    if !json.normalizer.is_null() {
        return Err(format!("the normalizer {}", type_of(&json.normalizer)));
    }
    if json.decoder["type"] != "ByteLevel" {
        return Err(format!("the decoder {} (ByteLevel can be said)", type_of(&json.decoder)));
    }
    let pre = pre_tokenizer(&json.pre_tokenizer, json.model.ignore_merges.unwrap_or(false))?;
    let (tokens, token_types) = tokens(&json)?;
    let merges = json.model.merges.unwrap_or_default().into_iter().map(merge).collect::<Result<_, _>>()?;
    Ok(GgufTokenizer {
        model: "gpt2".to_string(),
        pre: Some(pre.to_string()),
        tokens,
        token_types,
        merges,
        ..GgufTokenizer::default()
    })
}

fn check_model(model: &Bpe) -> Result<(), String> {
    // Old files have byte-pair encoders without a type.
    match model.kind.as_deref() {
        None | Some("BPE") => {}
        Some(other) => return Err(format!("a model of type {other} (byte-level BPE can be said)")),
    }
    let affix = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if affix(&model.continuing_subword_prefix) || affix(&model.end_of_word_suffix) {
        return Err("marks at the ends of words (continuing_subword_prefix, end_of_word_suffix)".to_string());
    }
    Ok(())
}

/// The name of a way to cut text.
fn pre_tokenizer(pre: &Json, ignore_merges: bool) -> Result<&'static str, String> {
    let steps = match pre["type"].as_str() {
        Some("Sequence") => pre["pretokenizers"].as_array().map(Vec::as_slice).unwrap_or_default(),
        _ => std::slice::from_ref(pre),
    };
    let Some((bytes, cuts)) = steps.split_last().filter(|(last, _)| last["type"] == "ByteLevel") else {
        return Err(format!("the pre-tokenizer {} (it does not end in ByteLevel)", type_of(pre)));
    };
    if bytes["add_prefix_space"] == true {
        return Err("a ByteLevel pre-tokenizer with add_prefix_space".to_string());
    }
    let mut patterns = Vec::with_capacity(steps.len());
    for cut in cuts {
        let isolated = cut["behavior"] == "Isolated" && cut["invert"] != true;
        let pattern = match cut["type"].as_str() {
            Some("Split") if isolated => cut["pattern"]["Regex"].as_str(),
            Some("Digits") if cut["individual_digits"] == true => Some(r"\p{N}"),
            _ => None,
        };
        patterns.push(pattern.ok_or_else(|| format!("the pre-tokenizer {cut}"))?);
    }
    // Absent means true.
    if bytes["use_regex"] != false {
        patterns.push(GPT2);
    }
    // The names mean whether merges are ignored for whole tokens, too.
    Ok(match (&patterns[..], ignore_merges) {
        ([LLAMA3], true) => "llama-bpe",
        ([LLAMA3], false) => "smaug-bpe",
        ([QWEN2], false) => "qwen2",
        ([GPT2], false) => "gpt-2",
        ([r"\p{N}", GPT2], false) => "starcoder",
        (_, ignore_merges) => {
            return Err(format!("the pre-tokenizer patterns {patterns:?} with ignore_merges {ignore_merges}"));
        }
    })
}

/// Whether a BOS is put before a text; anything else around it cannot be said, but for the token `end` after each text of an
/// embedding model.
fn adds_bos(post: &Json, bos: Option<u32>, end: Option<u32>) -> Result<bool, String> {
    match post["type"].as_str() {
        None if post.is_null() => Ok(false),
        // Changes offsets only.
        Some("ByteLevel") => Ok(false),
        Some("Sequence") => {
            let steps = post["processors"].as_array().map(Vec::as_slice).unwrap_or_default();
            steps.iter().try_fold(false, |before, step| match (before, adds_bos(step, bos, end)?) {
                (true, true) => Err("a post-processor that puts BOS twice".to_string()),
                (before, now) => Ok(before || now),
            })
        }
        Some("TemplateProcessing") => {
            let pieces = post["single"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ids_of = |piece: &Json| -> Option<&Json> {
                let name = piece["SpecialToken"]["id"].as_str()?;
                Some(&post["special_tokens"][name]["ids"])
            };
            let is =
                |piece: &Json, id: Option<u32>| id.is_some_and(|id| ids_of(piece) == Some(&serde_json::json!([id])));
            let pieces = match pieces {
                [before @ .., last] if is(last, end) => before,
                all => all,
            };
            match pieces {
                [text] if text.get("Sequence").is_some() => Ok(false),
                [first, text] if text.get("Sequence").is_some() && is(first, bos) => Ok(true),
                _ => Err("a post-processor that puts more around a text than the model's BOS".to_string()),
            }
        }
        _ => Err(format!("the post-processor {}", type_of(post))),
    }
}

/// Tokens by id with their types; a number that no token has is filled in.
pub(super) fn tokens(json: &TokenizerJson) -> Result<(Vec<String>, Vec<i32>), String> {
    let vocab = json.model.vocab.as_object().ok_or("a vocabulary that is no object")?;
    let mut by_id: BTreeMap<u32, (&str, i32)> = BTreeMap::new();
    for (token, id) in vocab {
        let id =
            id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| format!("the id {id} of {token:?}"))?;
        if let Some((first, _)) = by_id.insert(id, (token, NORMAL)) {
            return Err(format!("the id {id} of both {first:?} and {token:?}"));
        }
    }
    for Added { id, content, single_word, lstrip, rstrip, special } in &json.added_tokens {
        if *single_word || *lstrip || *rstrip {
            return Err(format!(
                "the token {content:?} that takes spaces or whole words (single_word, lstrip, rstrip)"
            ));
        }
        let kind = if *special { CONTROL } else { USER_DEFINED };
        if let Some((first, _)) = by_id.insert(*id, (content, kind)).filter(|(first, _)| first != content) {
            return Err(format!("the id {id} of both {first:?} and {content:?}"));
        }
    }
    // Ids far apart would make a long list of nothing.
    let count = by_id.last_key_value().map_or(0, |(id, _)| *id as usize + 1);
    if count > 2 * by_id.len() + 1024 {
        return Err(format!("ids up to {count} for {} tokens", by_id.len()));
    }
    let filled = (0..).take(count).map(|id| match by_id.get(&id) {
        Some((token, kind)) => ((*token).to_string(), *kind),
        None => (format!("[PAD{id}]"), UNUSED),
    });
    Ok(filled.unzip())
}

pub(super) fn merge(merge: Merge) -> Result<String, String> {
    let text = match merge {
        Merge::Text(text) => text,
        Merge::Pair(left, right) => format!("{left} {right}"),
    };
    match text.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => Ok(text),
        _ => Err(format!("the merge {text:?}, whose halves a space cannot tell apart")),
    }
}

pub(super) fn type_of(part: &Json) -> &str {
    part["type"].as_str().unwrap_or("of no type")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn byte_level(use_regex: bool) -> Json {
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
    }

    fn split(pattern: &str) -> Json {
        json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
    }

    fn sequence(steps: &[Json]) -> Json {
        json!({ "type": "Sequence", "pretokenizers": steps })
    }

    #[test]
    fn every_named_way_to_cut_text() {
        let digits = json!({ "type": "Digits", "individual_digits": true });
        for (pre, ignore_merges, name) in [
            (sequence(&[split(LLAMA3), byte_level(false)]), true, "llama-bpe"),
            (sequence(&[split(LLAMA3), byte_level(false)]), false, "smaug-bpe"),
            (sequence(&[split(QWEN2), byte_level(false)]), false, "qwen2"),
            (sequence(&[split(GPT2), byte_level(false)]), false, "gpt-2"),
            (byte_level(true), false, "gpt-2"),
            (sequence(&[digits, byte_level(true)]), false, "starcoder"),
        ] {
            assert_eq!(pre_tokenizer(&pre, ignore_merges).unwrap(), name);
        }
        for (pre, ignore_merges, reason) in [
            (Json::Null, false, "ByteLevel"),
            (sequence(&[split(LLAMA3)]), true, "ByteLevel"),
            (sequence(&[split("x+"), byte_level(false)]), true, "x+"),
            (byte_level(false), false, "patterns []"),
            (sequence(&[split(QWEN2), byte_level(false)]), true, "ignore_merges"),
            (json!({ "type": "ByteLevel", "add_prefix_space": true }), false, "add_prefix_space"),
            (json!({ "type": "Metaspace" }), false, "Metaspace"),
        ] {
            let error = pre_tokenizer(&pre, ignore_merges).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn only_a_bos_can_be_put_around_a_text() {
        let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
        let special = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
        let template = |single: &[Json]| {
            json!({ "type": "TemplateProcessing", "single": single,
                "special_tokens": { "<s>": { "ids": [1] }, "</s>": { "ids": [2] } } })
        };
        let begin = template(&[special("<s>"), text.clone()]);
        let adds = |post: &Json, bos| adds_bos(post, bos, None).unwrap();
        assert!(adds(&begin, Some(1)));
        assert!(adds(&json!({ "type": "Sequence", "processors": [byte_level(true), begin] }), Some(1)));
        assert!(!adds(&template(std::slice::from_ref(&text)), None));
        assert!(!adds(&Json::Null, None));
        // What an embedding model ends its texts with need not be said.
        let both = template(&[special("<s>"), text.clone(), special("</s>")]);
        assert!(adds_bos(&both, Some(1), Some(2)).unwrap());
        assert!(!adds_bos(&template(&[text.clone(), special("</s>")]), Some(1), Some(2)).unwrap());
        assert!(adds_bos(&both, Some(1), Some(3)).is_err());
        for bad in [
            template(&[special("<s>"), text.clone(), special("</s>")]),
            template(&[special("</s>"), text]),
            json!({ "type": "Sequence", "processors": [begin, begin] }),
            json!({ "type": "BertProcessing" }),
        ] {
            assert!(adds_bos(&bad, Some(1), None).is_err(), "{bad}");
        }
    }
}
