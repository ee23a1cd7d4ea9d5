//! A tokenizer from the files of a Hugging Face folder, and what it makes of texts.

use bitnet_fixtures::{families_tokenizer, family};
use bitnet_text::{HfTokenizer, Message, Role, Tokenizer};

use crate::tokenizer::check;
use crate::{Seeds, joined, read, sections};

/// The input is `tokenizer.json`, `tokenizer_config.json` or nothing, and texts as lines.
pub fn run(data: &[u8]) {
    let [tokenizer_json, config, texts] = sections(data);
    let config = serde_json::from_slice(config).ok();
    let files = HfTokenizer { tokenizer_json, tokenizer_config: config.as_ref(), ..HfTokenizer::default() };
    let tokenizer = match Tokenizer::from_hf(files) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return read::one_line(error),
    };
    for text in String::from_utf8_lossy(texts).lines() {
        for add_special in [false, true] {
            if let Ok(ids) = tokenizer.encode(text, add_special).map_err(read::one_line) {
                check(&tokenizer, &ids);
            }
        }
        let messages = [Message::new(Role::User, text)];
        if let Ok(ids) = tokenizer.encode_chat(&messages, true).map_err(read::one_line) {
            check(&tokenizer, &ids);
        }
    }
}

/// The small tokenizers of the families: byte-level, and SentencePiece with tokens for bytes and without.
pub fn seeds() -> Seeds {
    let config = br#"{"bos_token": "<s>", "add_bos_token": true, "chat_template": "{{ messages[0].content }}"}"#;
    let texts = "The whale's 1234 teeth, \u{e9} <|endoftext|>\n  two  spaces </s>";
    let files = [
        ("byte-level", families_tokenizer()),
        ("sentencepiece", family("1bitllm").join("tokenizer.json")),
        ("without-bytes", family("embedding-gemma3").join("tokenizer.json")),
    ];
    let seed = |(name, path): (&str, std::path::PathBuf)| {
        let json = std::fs::read(path).expect("the fixture can be read");
        (name.to_string(), joined(&[&json, config, texts.as_bytes()]))
    };
    files.map(seed).into()
}
