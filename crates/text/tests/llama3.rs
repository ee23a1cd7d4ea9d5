//! BitNet b1.58 2B-4T's tokenizer: golden ids from `tokenizer.json` and from the metadata of its GGUF file.
//!
//! Needs two registry packages (see `support/llama3.rs`); without them every test prints `skipped` and passes.

#[path = "support/llama3.rs"]
mod llama3;
mod support;

use std::{sync::OnceLock, time::Instant};

use bitnet_text::{GgufVocabulary, HfTokenizer, Message, Role, TemplateOrigin, Tokenizer};
use serde_json::json;

/// With a BOS each.
const GOLDEN: [(&str, &[u32]); 8] = [
    ("Hello world", &[128000, 9906, 1917]),
    ("The capital of France is", &[128000, 791, 6864, 315, 9822, 374]),
    ("Hello, my name is", &[128000, 9906, 11, 856, 836, 374]),
    ("  indent\n\n\tx = 12345", &[128000, 220, 17962, 271, 10436, 284, 220, 4513, 1774]),
    ("I'M don't", &[128000, 40, 28703, 1541, 956]),
    (" 1234567 ", &[128000, 220, 4513, 10961, 22, 220]),
    (" \n \n a", &[128000, 33006, 264]),
    ("日本語テキスト🚀", &[128000, 102433, 102158, 57933, 62903, 71634, 9468, 248, 222]),
];

const CHAT: &[u32] =
    &[128000, 2374, 25, 1472, 527, 264, 11190, 18328, 13, 128009, 1502, 25, 2650, 527, 499, 30, 128009, 72803, 25, 220];

const PLACEHOLDER: &str = "{% for message in messages %}{{ bos_token + 'Human: ' + message['content'] }}\n\nBITNETAssistant: {{ eos_token }}{% endfor %}";

fn from_hf(tokenizer_json: &[u8]) -> Tokenizer {
    let config = json!({
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "chat_template": "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}",
        "clean_up_tokenization_spaces": true,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1e30,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    Tokenizer::from_hf(HfTokenizer {
        tokenizer_json,
        tokenizer_config: Some(&config),
        config_eos: &[128001],
        config_bos: Some(128000),
        ..HfTokenizer::default()
    })
    .unwrap()
}

/// As the official GGUF file has it: no `pre`, a placeholder for a template.
fn vocabulary(tokenizer_json: &[u8]) -> GgufVocabulary {
    GgufVocabulary {
        scores: vec![0.0; 128256],
        bos: Some(128000),
        eos: Some(128001),
        pad: Some(128001),
        chat_template: Some(PLACEHOLDER.into()),
        ..support::gguf_of(tokenizer_json, None)
    }
}

/// The tokenizer from both sources, made once.
fn both() -> Option<&'static [Tokenizer; 2]> {
    static BOTH: OnceLock<Option<[Tokenizer; 2]>> = OnceLock::new();
    BOTH.get_or_init(|| {
        let file = llama3::tokenizer_json()?;
        let start = Instant::now();
        let hf = from_hf(file);
        let hf_time = start.elapsed();
        let vocabulary = vocabulary(file);
        let start = Instant::now();
        let gguf = Tokenizer::from_gguf(vocabulary).unwrap();
        println!("opened: tokenizer.json in {hf_time:.3?}, GGUF vocabulary in {:.3?}", start.elapsed());
        Some([hf, gguf])
    })
    .as_ref()
}

#[test]
fn golden_ids() {
    for tokenizer in both().into_iter().flatten() {
        for (text, ids) in GOLDEN {
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids[1..], "{text:?}");
            assert_eq!(tokenizer.decode(ids, true).unwrap(), text);
        }
    }
}

#[test]
fn the_chat_prompt() {
    let messages =
        [Message::new(Role::System, "You are a helpful assistant."), Message::new(Role::User, "How are you?")];
    for tokenizer in both().into_iter().flatten() {
        assert_eq!(tokenizer.encode_chat(&messages, true).unwrap(), CHAT);
        assert_eq!(tokenizer.stop_tokens(), [128001, 128009]);
        assert_eq!((tokenizer.bos(), tokenizer.vocab_size()), (Some(128000), 128256));
        assert!(tokenizer.check_vocabulary(128256).is_ok());
    }
    if let Some([hf, gguf]) = both() {
        assert_eq!(hf.chat_template().unwrap().origin(), TemplateOrigin::Checkpoint);
        assert_eq!(gguf.chat_template().unwrap().origin(), TemplateOrigin::BuiltIn);
    }
}

#[test]
fn an_emoji_of_three_tokens_comes_out_whole() {
    for tokenizer in both().into_iter().flatten() {
        let mut stream = tokenizer.detokenizer();
        let pieces: Vec<_> = [71634, 9468, 248, 222].iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, ["スト", "", "", "🚀"]);
        assert_eq!(stream.finish(), "");
    }
}

#[test]
fn both_sources_agree_on_every_token() {
    let Some([hf, gguf]) = both() else { return };
    for id in 0..128256 {
        assert_eq!(hf.token(id), gguf.token(id));
        assert_eq!(hf.is_special(id), gguf.is_special(id));
        assert_eq!(hf.is_special(id), id >= 128000);
        assert_eq!(hf.id(&hf.token(id).unwrap()), Some(id));
        // Every fifth token's own text, which is where ignoring merges shows.
        if id % 5 == 0
            && let Ok(text) = hf.decode(&[id], false)
            && !text.contains(char::REPLACEMENT_CHARACTER)
        {
            let ids = hf.encode(&text, false).unwrap();
            assert_eq!(ids, gguf.encode(&text, false).unwrap());
            assert_eq!(hf.decode(&ids, false).unwrap(), text);
        }
    }
}

#[test]
fn equals_the_library_on_a_long_text() {
    let Some([hf, gguf]) = both() else { return };
    let library = tokenizers::Tokenizer::from_bytes(llama3::tokenizer_json().unwrap()).unwrap();
    let text = std::fs::read_to_string(bitnet_fixtures::moby("heldout.txt")).unwrap();
    let expected = library.encode(text.as_str(), true).unwrap().get_ids().to_vec();
    assert_eq!(hf.encode(&text, true).unwrap(), expected);
    assert_eq!(gguf.encode(&text, true).unwrap(), expected);
}
