//! A GGUF vocabulary as the files of a Hugging Face folder.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::{
    GgufVocabulary, TextError, chat,
    gguf::{Kind, TOKENS, kinds},
    pieces_to_hf, pre,
};

/// The tokenizer's files of a Hugging Face folder.
#[derive(Clone, Debug, PartialEq)]
pub struct HfFiles {
    /// `tokenizer.json`.
    pub tokenizer_json: String,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Value,
    /// `generation_config.json`: the tokens that begin and end a text.
    pub generation_config: Value,
    /// `chat_template.jinja`.
    pub chat_template: Option<String>,
}

impl GgufVocabulary {
    /// The same tokenizer as Hugging Face files, with the same ids. Ids of tokens that stand for nothing stay free.
    ///
    /// # Errors
    /// When the vocabulary is neither a byte-level BPE nor of SentencePiece, or malformed, or says what such a file cannot:
    /// that a token has two ids, or that texts begin with a token that stands for nothing.
    pub fn to_hf(&self) -> Result<HfFiles, TextError> {
        let kinds = kinds(self)?;
        let mut form = match self.model.as_str() {
            "gpt2" => self.byte_level()?,
            "llama" => pieces_to_hf::form(self, &kinds)?,
            _ => return Err(TextError::UnknownModel { model: self.model.clone() }),
        };
        let (mut vocab, mut added) = (Map::new(), Vec::new());
        let mut ids = HashMap::with_capacity(self.tokens.len());
        let tokens = self.tokens.iter().enumerate().zip(kinds);
        for ((id, token), kind) in tokens.filter(|((_, token), kind)| !token.is_empty() && *kind != Kind::Unused) {
            if let Some(first) = ids.insert(token, id) {
                return Err(TextError::gguf(TOKENS, format!("token {token:?} has two ids, {first} and {id}")));
            }
            let is_word = matches!(kind, Kind::Normal | Kind::Byte);
            if is_word || form.unknown.as_ref() == Some(token) {
                vocab.insert(token.clone(), id.into());
            }
            if !is_word {
                added.push(json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": kind != Kind::UserDefined,
                }));
            }
        }
        let spelled = |id: Option<u32>| id.and_then(|id| self.tokens.get(id as usize));
        // Tokens that stand for nothing are not in the file, so it cannot name them.
        let is_written = |id: Option<u32>| spelled(id).and_then(|token| ids.get(token)).map(|id| *id as u32) == id;
        let bos = spelled(self.bos).filter(|_| self.add_bos.unwrap_or(form.add_bos));
        if bos.is_some() && !is_written(self.bos) {
            return Err(TextError::gguf("tokenizer.ggml.bos_token_id", "names a token that stands for nothing"));
        }
        form.model["vocab"] = vocab.into();
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": form.normalizer,
            "pre_tokenizer": form.pre_tokenizer,
            "post_processor": bos.map(|bos| begins_with(bos, self.bos)),
            "decoder": form.decoder,
            "model": form.model,
        });
        let mut tokenizer_config =
            json!({ "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false });
        for (key, id) in [("bos_token", self.bos), ("eos_token", self.eos), ("pad_token", self.pad)] {
            if let Some(token) = spelled(id).filter(|_| is_written(id)) {
                tokenizer_config[key] = token.as_str().into();
            }
        }
        let ends: Vec<u32> = [self.eos, self.eot].into_iter().flatten().collect();
        let template = chat::for_gguf(self.chat_template.as_deref(), &self.architecture, self.tokens.len());
        Ok(HfFiles {
            tokenizer_json: file.to_string(),
            tokenizer_config,
            generation_config: json!({ "bos_token_id": self.bos, "eos_token_id": ends }),
            chat_template: template.map(|(source, _)| source),
        })
    }

    fn byte_level(&self) -> Result<Form, TextError> {
        let pre = pre::resolve(self.pre.as_deref(), &self.tokens)?;
        Ok(Form {
            normalizer: Value::Null,
            pre_tokenizer: pre.to_json(),
            decoder: json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true }),
            model: json!({
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": pre.ignore_merges, "merges": self.merges,
            }),
            unknown: None,
            add_bos: pre.add_bos,
        })
    }
}

/// The parts of a `tokenizer.json` that depend on how a text is cut into tokens.
pub(crate) struct Form {
    pub(crate) normalizer: Value,
    pub(crate) pre_tokenizer: Value,
    pub(crate) decoder: Value,
    /// Without its vocabulary.
    pub(crate) model: Value,
    /// The token that the vocabulary has although no text is cut into it.
    pub(crate) unknown: Option<String>,
    /// Whether texts begin with the BOS where the file does not say.
    pub(crate) add_bos: bool,
}

/// A post-processor that puts the token before a text.
fn begins_with(bos: &str, id: Option<u32>) -> Value {
    let special = json!({ "SpecialToken": { "id": bos, "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A")],
        "pair": [special, text("A"), text("B")],
        "special_tokens": { bos: { "id": bos, "ids": [id], "tokens": [bos] } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HfTokenizer, NewTokenizer, Tokenizer};

    #[test]
    fn both_forms_give_the_same_ids() {
        let text = "The whale, the white whale! It's 1851 now.\n\n  Call me Ishmael — 捕鯨.";
        let made = NewTokenizer::train(std::iter::repeat_n(text, 3), 300, true, &mut |_| {}).unwrap();
        let mut gguf = made.gguf();
        gguf.tokens.push("[PAD]".to_string());
        gguf.token_types.push(5);
        gguf.bos = gguf.eos;
        for pre in ["gpt-2", "qwen2", "starcoder", "smaug-bpe", "llama-bpe"] {
            for add_bos in [false, true] {
                let gguf = GgufVocabulary { pre: Some(pre.to_string()), add_bos: Some(add_bos), ..gguf.clone() };
                let files = gguf.to_hf().unwrap();
                let back = Tokenizer::from_hf(HfTokenizer {
                    tokenizer_json: files.tokenizer_json.as_bytes(),
                    tokenizer_config: Some(&files.tokenizer_config),
                    chat_template: files.chat_template.as_deref(),
                    generation_config: Some(&files.generation_config),
                    ..HfTokenizer::default()
                })
                .unwrap();
                let original = Tokenizer::from_gguf(gguf).unwrap();
                for text in [text, "<|im_start|>user\nHi<|im_end|>", ""] {
                    assert_eq!(back.encode(text, true).unwrap(), original.encode(text, true).unwrap(), "{pre} {text}");
                }
                assert_eq!(back.stop_tokens(), original.stop_tokens());
                assert_eq!(back.bos(), original.bos());
                assert_eq!(
                    back.chat_template().map(|template| template.source()),
                    original.chat_template().map(|template| template.source())
                );
            }
        }
    }

    #[test]
    fn a_token_with_two_ids_is_refused() {
        let mut gguf = NewTokenizer::bytes(false).gguf();
        gguf.pre = Some("gpt-2".to_string());
        for (kind, is_written) in [(3, false), (5, true)] {
            gguf.tokens.push("a".to_string());
            gguf.token_types.push(kind);
            let files = gguf.to_hf();
            assert_eq!(files.is_ok(), is_written, "{files:?}");
            gguf.tokens.pop();
            gguf.token_types.pop();
        }
    }

    #[test]
    fn a_token_that_stands_for_nothing_is_not_named() {
        let mut gguf = GgufVocabulary { pre: Some("gpt-2".to_string()), ..NewTokenizer::bytes(false).gguf() };
        gguf.eos = Some(gguf.tokens.len() as u32);
        gguf.tokens.push("[PAD]".to_string());
        gguf.token_types.push(5);
        let files = gguf.to_hf().unwrap();
        assert_eq!(files.tokenizer_config.get("eos_token"), None);
        let back = HfTokenizer {
            tokenizer_json: files.tokenizer_json.as_bytes(),
            tokenizer_config: Some(&files.tokenizer_config),
            ..HfTokenizer::default()
        };
        assert_eq!(Tokenizer::from_hf(back).unwrap().encode("ab", true).unwrap().len(), 2);
        // Nor can it begin one in a tokenizer.json.
        let begins = GgufVocabulary { bos: gguf.eos, add_bos: Some(true), ..gguf };
        assert!(begins.to_hf().unwrap_err().to_string().contains("tokenizer.ggml.bos_token_id"));
    }

    #[test]
    fn another_algorithm_is_refused() {
        let vocab = GgufVocabulary { model: "rwkv".to_string(), ..NewTokenizer::bytes(false).gguf() };
        assert!(vocab.to_hf().unwrap_err().to_string().contains("rwkv"));
    }
}
