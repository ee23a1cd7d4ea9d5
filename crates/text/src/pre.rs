//! `tokenizer.ggml.pre`: names of pre-tokenizers and the patterns that they stand for.

use serde_json::{Value, json};

use crate::{
    TextError,
    split::{GPT2, Splitter, Step, Words},
};

/// LLaMA-3's pattern: contractions in any case, digits in threes, line ends with what precedes them.
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2's: as LLaMA-3's, with single digits.
pub(crate) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pre {
    /// Applied one after the other, each to the pieces of the one before.
    patterns: &'static [Cut],
    /// A pre-token that is a token itself is emitted without merging.
    pub ignore_merges: bool,
    /// Whether a BOS comes first when `tokenizer.ggml.add_bos_token` does not say.
    pub add_bos: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// A pattern of the GPT-2 family.
    Words(&'static str),
    /// A plain pattern whose matches stand alone.
    Isolate(&'static str),
}

const fn words(patterns: &'static [Cut]) -> Pre {
    Pre { patterns, ignore_merges: false, add_bos: false }
}

/// Looks a name up. The names are the ones that converters write.
pub(crate) fn lookup(name: &str) -> Option<Pre> {
    Some(match name {
        // Falcon-E's own name is written by the converter of bitnet.cpp only; its vocabulary is made like Falcon 3's.
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon_e" | "falcon-h1" => {
            Pre { patterns: &[Cut::Words(LLAMA3)], ignore_merges: true, add_bos: true }
        }
        "dbrx" | "smaug-bpe" => words(&[Cut::Words(LLAMA3)]),
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" => words(&[Cut::Words(QWEN2)]),
        "gpt-2" | "phi-2" | "olmo" => words(&[Cut::Words(GPT2)]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            words(&[Cut::Isolate(r"\p{N}"), Cut::Words(GPT2)])
        }
        "falcon" => words(&[Cut::Isolate(r"[\p{P}\$\+<=>\^~\|`]+"), Cut::Words(GPT2), Cut::Isolate("[0-9][0-9][0-9]")]),
        "default" => words(&[
            Cut::Isolate(r"[\p{P}\$\+<=>\^~\|]+"),
            Cut::Words(GPT2),
            Cut::Isolate(r"\p{N}+"),
            Cut::Isolate("[0-9][0-9][0-9]"),
        ]),
        _ => return None,
    })
}

/// The name that a file without one is known to need.
///
/// The official file of BitNet b1.58 2B-4T and files converted like it have LLaMA-3's vocabulary and no name.
pub(crate) fn guess(tokens: &[String]) -> Option<&'static str> {
    const LLAMA3_VOCAB: usize = 128_256;
    let is_llama3 = tokens.len() == LLAMA3_VOCAB && tokens.get(128_000).is_some_and(|t| t == "<|begin_of_text|>");
    is_llama3.then_some("llama-bpe")
}

/// The pre-tokenizer of a GGUF file: by its name, or by what is known of files that lack it.
pub(crate) fn resolve(name: Option<&str>, tokens: &[String]) -> Result<Pre, TextError> {
    match name {
        Some(name) => lookup(name).ok_or_else(|| TextError::UnknownPre { pre: name.to_owned() }),
        None => guess(tokens).and_then(lookup).ok_or(TextError::MissingPre),
    }
}

impl Pre {
    pub(crate) fn splitter(&self) -> Result<Splitter, TextError> {
        use tokenizers::{
            SplitDelimiterBehavior::Isolated,
            pre_tokenizers::split::{Split, SplitPattern},
        };

        let key = "tokenizer.ggml.pre";
        let mut steps = Vec::with_capacity(self.patterns.len() + 1);
        for cut in self.patterns {
            steps.push(match cut {
                Cut::Words(pattern) => {
                    Step::Words(Words::new(pattern).ok_or_else(|| TextError::gguf(key, "pattern does not compile"))?)
                }
                Cut::Isolate(pattern) => {
                    let split = Split::new(SplitPattern::Regex((*pattern).to_owned()), Isolated, false);
                    Step::Library(split.map_err(|e| TextError::gguf(key, e))?.into())
                }
            });
        }
        steps.push(Step::byte_alphabet());
        Ok(Splitter::new(steps))
    }

    /// The `pre_tokenizer` of a `tokenizer.json` that cuts text in the same way.
    pub(crate) fn to_json(self) -> Value {
        let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let cuts = self.patterns.iter().map(|cut| match cut {
            Cut::Words(pattern) | Cut::Isolate(pattern) => split(pattern),
        });
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        json!({ "type": "Sequence", "pretokenizers": cuts.chain([bytes]).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    fn pieces(name: &str, text: &str) -> Vec<String> {
        let mut pre = PreTokenizedString::from(text);
        lookup(name).unwrap().splitter().unwrap().pre_tokenize(&mut pre).unwrap();
        let splits = pre.get_splits(OffsetReferential::Original, OffsetType::None);
        splits.into_iter().map(|(piece, ..)| piece.replace('Ġ', " ").replace('Ċ', "\n")).collect()
    }

    #[test]
    fn each_family_cuts_in_its_own_way() {
        let text = "I'M 12345  ok!\n\n x$2";
        assert_eq!(pieces("llama-bpe", text), ["I", "'M", " ", "123", "45", " ", " ok", "!\n\n", " x", "$", "2"]);
        assert_eq!(pieces("qwen2", text)[2..9], [" ", "1", "2", "3", "4", "5", " "]);
        assert_eq!(pieces("gpt-2", text), ["I", "'", "M", " 12345", " ", " ok", "!", "\n\n", " x", "$", "2"]);
        assert_eq!(pieces("smollm", text)[..9], ["I", "'", "M", " ", "1", "2", "3", "4", "5"]);
        assert_eq!(pieces("falcon", text)[3..7], [" ", "123", "45", " "]);
        assert_eq!(pieces("default", text), ["I", "'", "M", " ", "123", "45", " ", " ok", "!", "\n\n", " x", "$", "2"]);
    }

    #[test]
    fn names() {
        for name in ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon_e"] {
            let pre = lookup(name).unwrap();
            assert!(pre.ignore_merges && pre.add_bos, "{name}");
        }
        assert!(lookup("llama").is_none() && lookup("").is_none());
        let mut tokens = vec![String::new(); 128_256];
        assert_eq!(resolve(None, &tokens), Err(TextError::MissingPre));
        tokens[128_000] = "<|begin_of_text|>".into();
        assert_eq!(resolve(None, &tokens).unwrap(), lookup("llama-bpe").unwrap());
        assert_eq!(resolve(None, &tokens[1..]), Err(TextError::MissingPre));
        assert_eq!(resolve(Some("qwen2"), &tokens).unwrap(), lookup("qwen2").unwrap());
    }
}
