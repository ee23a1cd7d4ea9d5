//! What the vocabularies of known GGUF files lack or have wrong.

use crate::gguf::looks_like_control;
use crate::{GgufVocabulary, chat, pre};

/// `tokenizer.ggml.token_type` of a token that no text becomes.
const CONTROL: i32 = 3;
const NORMAL: i32 = 1;

/// What is right where a vocabulary says nothing or something wrong. A tokenizer made here knows these anyway
/// ([`Tokenizer::from_gguf`](crate::Tokenizer::from_gguf)); other programs have to be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VocabularyRepairs {
    /// The pre-tokenizer that is not named.
    pub pre: Option<String>,
    /// The token that ends a turn, where only the one that ends a text is named.
    pub eot: Option<u32>,
    /// The template that the model was tuned on, in place of a placeholder or of none.
    pub chat_template: Option<String>,
    /// All token types, where control tokens are said to be ordinary ones.
    pub token_types: Option<Vec<i32>>,
}

impl GgufVocabulary {
    /// What is to be mended. The official file of BitNet b1.58 2B-4T names no pre-tokenizer, only one of its two stop tokens,
    /// and has a template that the model does not follow.
    pub fn repairs(&self) -> VocabularyRepairs {
        let is_bpe = self.model == "gpt2";
        let pre = (is_bpe && self.pre.is_none()).then(|| pre::guess(&self.tokens)).flatten();
        // LLaMA 3 ends a turn with a token of its own, whose place is the same in every model with its vocabulary.
        const TURN_END: (u32, &str) = (128_009, "<|eot_id|>");
        let has_turn_end = self.tokens.get(TURN_END.0 as usize).is_some_and(|token| token == TURN_END.1);
        let is_missing = self.eot.is_none() && self.eos != Some(TURN_END.0);
        let template = chat::for_gguf(self.chat_template.as_deref(), &self.architecture, self.tokens.len());
        let wrong = |(token, kind): (&String, &i32)| *kind == NORMAL && looks_like_control(token);
        let token_types = self.tokens.iter().zip(&self.token_types).any(wrong).then(|| {
            let right = |pair: (&String, &i32)| if wrong(pair) { CONTROL } else { *pair.1 };
            self.tokens.iter().zip(&self.token_types).map(right).collect()
        });
        VocabularyRepairs {
            pre: pre.map(str::to_string),
            eot: (has_turn_end && is_missing).then_some(TURN_END.0),
            chat_template: template
                .map(|(source, _)| source)
                .filter(|source| self.chat_template.as_ref() != Some(source)),
            token_types,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The official file's vocabulary but for its words.
    fn official() -> GgufVocabulary {
        let mut tokens: Vec<String> = (0..128_256).map(|id| format!("t{id}")).collect();
        tokens[128_000] = "<|begin_of_text|>".to_string();
        tokens[128_009] = "<|eot_id|>".to_string();
        let mut token_types = vec![1; 128_256];
        token_types[128_000] = 3;
        GgufVocabulary {
            model: "gpt2".to_string(),
            tokens,
            token_types,
            eos: Some(128_001),
            chat_template: Some("Human: {{ x }}BITNETAssistant: ".to_string()),
            architecture: "bitnet-b1.58".to_string(),
            ..GgufVocabulary::default()
        }
    }

    #[test]
    fn the_official_file_is_mended_once() {
        let mut vocabulary = official();
        let repairs = vocabulary.repairs();
        assert_eq!((repairs.pre.as_deref(), repairs.eot), (Some("llama-bpe"), Some(128_009)));
        let template = repairs.chat_template.unwrap();
        assert!(template.contains("eot_id") && !template.contains("BITNET"), "{template}");
        let types = repairs.token_types.unwrap();
        assert_eq!((types[0], types[128_000], types[128_009]), (1, 3, 3));

        vocabulary.pre = Some("llama-bpe".to_string());
        vocabulary.eot = Some(128_009);
        vocabulary.chat_template = Some(template);
        vocabulary.token_types = types;
        assert_eq!(vocabulary.repairs(), VocabularyRepairs::default());
    }

    #[test]
    fn what_is_said_or_not_known_is_left_alone() {
        let other = GgufVocabulary { eos: Some(128_009), pre: Some("qwen2".to_string()), ..official() };
        assert_eq!((other.repairs().pre, other.repairs().eot), (None, None));
        let mut small = official();
        small.tokens.truncate(4_096);
        small.token_types.truncate(4_096);
        small.chat_template = Some("own".to_string());
        assert_eq!(small.repairs(), VocabularyRepairs::default());
    }
}
