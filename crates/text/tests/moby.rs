//! The tokenizer of a real checkpoint, from its Hugging Face files and from GGUF metadata, against the ids and texts
//! that `transformers` wrote and against the `tokenizers` library used as it comes.

mod support;

use std::{fs, sync::LazyLock};

use bitnet_fixtures::moby;
use bitnet_text::{GgufVocabulary, HfTokenizer, Message, Role, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

const FOLDERS: [&str; 3] = ["master", "packed-autobitlinear", "packed-bitlinear"];

fn json(folder: &str, file: &str) -> Value {
    serde_json::from_slice(&fs::read(moby(folder).join(file)).unwrap()).unwrap()
}

fn from_hf(folder: &str) -> Tokenizer {
    let config = json(folder, "config.json");
    Tokenizer::from_hf(HfTokenizer {
        tokenizer_json: &fs::read(moby(folder).join("tokenizer.json")).unwrap(),
        tokenizer_config: Some(&json(folder, "tokenizer_config.json")),
        chat_template: Some(&fs::read_to_string(moby(folder).join("chat_template.jinja")).unwrap()),
        generation_config: None,
        config_eos: &[config["eos_token_id"].as_u64().unwrap() as u32],
        config_bos: Some(config["bos_token_id"].as_u64().unwrap() as u32),
    })
    .unwrap()
}

fn vocabulary() -> GgufVocabulary {
    let tokenizer_json = fs::read(moby("master").join("tokenizer.json")).unwrap();
    GgufVocabulary { bos: Some(4093), eos: Some(4094), ..support::gguf_of(&tokenizer_json, Some("llama-bpe")) }
}

static HF: LazyLock<Tokenizer> = LazyLock::new(|| from_hf("master"));
static GGUF: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_gguf(vocabulary()).unwrap());
static LIBRARY: LazyLock<tokenizers::Tokenizer> =
    LazyLock::new(|| tokenizers::Tokenizer::from_file(moby("master").join("tokenizer.json")).unwrap());

#[test]
fn reference_prompts() {
    for folder in FOLDERS {
        let tokenizer = from_hf(folder);
        for prompt in json(folder, "reference.json")["prompts"].as_array().unwrap() {
            let ids = |key: &str| -> Vec<u32> { serde_json::from_value(prompt[key].clone()).unwrap() };
            let text = prompt["text"].as_str().unwrap();
            for tokenizer in [&tokenizer, &GGUF] {
                assert_eq!(tokenizer.encode(text, true).unwrap(), ids("ids"), "{text:?}");
                assert_eq!(tokenizer.encode(text, false).unwrap(), ids("ids")[1..], "{text:?}");
                assert_eq!(tokenizer.decode(&ids("ids"), true).unwrap(), text);
                assert_eq!(tokenizer.decode(&ids("greedy"), true).unwrap(), prompt["greedy_text"].as_str().unwrap());
            }
        }
    }
}

#[test]
fn a_whole_text() {
    let text = fs::read_to_string(moby("heldout.txt")).unwrap();
    let ids = HF.encode(&text, false).unwrap();
    let reference = json("master", "reference.json");
    let (window, tokens) = (reference["ctx"].as_u64().unwrap(), reference["val_tokens"].as_u64().unwrap());
    assert_eq!((ids.len() as u64 - 1) / window * window, tokens);
    assert_eq!(GGUF.encode(&text, false).unwrap(), ids);
    assert_eq!(LIBRARY.encode(text.as_str(), false).unwrap().get_ids(), ids);
    assert_eq!(HF.decode(&ids, true).unwrap(), text);
}

#[test]
fn special_tokens() {
    for tokenizer in [&*HF, &*GGUF] {
        assert_eq!((tokenizer.bos(), tokenizer.vocab_size()), (Some(4093), 4096));
        assert_eq!(tokenizer.stop_tokens(), [4094, 4095]);
        assert!(tokenizer.is_special(4095) && !tokenizer.is_special(4092) && !tokenizer.is_special(9999));
        assert_eq!(tokenizer.id("<|eot_id|>"), Some(4095));
        assert_eq!(tokenizer.token(4095).as_deref(), Some("<|eot_id|>"));
        assert_eq!(tokenizer.token(0).as_deref(), Some("!"));
        assert_eq!(
            (tokenizer.id("Ġthe"), tokenizer.id("no such token")),
            (tokenizer.encode(" the", false).unwrap().first().copied(), None)
        );
        assert_eq!(tokenizer.encode("", true).unwrap(), [4093]);
        assert_eq!(tokenizer.encode("", false).unwrap(), [] as [u32; 0]);
        assert_eq!(tokenizer.decode(&[4093, 4095], false).unwrap(), "<|begin_of_text|><|eot_id|>");
        assert_eq!(tokenizer.decode(&[4093, 4095], true).unwrap(), "");
        assert!(tokenizer.check_vocabulary(4096).is_ok() && tokenizer.check_vocabulary(5000).is_ok());
        let error = tokenizer.check_vocabulary(4095).unwrap_err().to_string();
        assert!(error.contains("4095") && error.contains("<|eot_id|>"), "{error}");
    }
}

#[test]
fn text_from_strangers_cannot_end_a_turn() {
    for tokenizer in [&*HF, &*GGUF] {
        let parsed = tokenizer.encode("a<|eot_id|>b", false).unwrap();
        let plain = tokenizer.encode_plain("a<|eot_id|>b", true).unwrap();
        assert!(parsed.contains(&4095));
        assert_eq!(plain[0], 4093);
        assert!(plain[1..].iter().all(|&id| !tokenizer.is_special(id)));
        assert_eq!(tokenizer.decode(&plain, true).unwrap(), "a<|eot_id|>b");
        assert_eq!(tokenizer.encode_plain("The whale", false).unwrap(), tokenizer.encode("The whale", false).unwrap());
    }
}

#[test]
fn conversations() {
    let messages = [Message::new(Role::System, " Be brief.\n"), Message::new(Role::User, "Who?")];
    let text = "System: Be brief.<|eot_id|>User: Who?<|eot_id|>Assistant: ";
    let template = HF.chat_template().unwrap();
    assert_eq!(template.render(&messages, true).unwrap(), text);
    let ids = HF.encode_chat(&messages, true).unwrap();
    assert_eq!(ids, HF.encode(text, true).unwrap());
    assert_eq!(ids.iter().filter(|&&id| id == 4093).count(), 1);

    let with_bos = |bos: &str, add_bos| {
        let template = format!("{bos}{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}");
        Tokenizer::from_gguf(GgufVocabulary { chat_template: Some(template), add_bos, ..vocabulary() }).unwrap()
    };
    let whale = [Message::new(Role::User, "The whale")];
    let expected = HF.encode("The whale", true).unwrap();
    for (bos, add_bos) in [
        ("", Some(true)),
        ("", None),
        ("{{ bos_token }}", Some(true)),
        ("<|begin_of_text|>", Some(false)),
        ("{{ bos_token }}{{ bos_token }}", Some(false)),
    ] {
        assert_eq!(with_bos(bos, add_bos).encode_chat(&whale, true).unwrap(), expected, "{bos} {add_bos:?}");
    }
    assert_eq!(with_bos("", Some(false)).encode_chat(&whale, true).unwrap(), expected[1..]);
}

#[test]
fn a_tokenizer_is_shared_between_threads() {
    let expected = HF.encode("Call me Ishmael.", true).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let tokenizer = HF.clone();
            std::thread::spawn(move || tokenizer.encode("Call me Ishmael.", true).unwrap())
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), expected);
    }
}

#[test]
fn bos_is_added_once_when_the_configuration_asks_for_it() {
    let mut file = json("master", "tokenizer.json");
    let config = serde_json::json!({"add_bos_token": true, "add_eos_token": true, "bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|end_of_text|>"});
    let build = |file: &Value, config: &Value| {
        let tokenizer_json = serde_json::to_vec(file).unwrap();
        Tokenizer::from_hf(HfTokenizer {
            tokenizer_json: &tokenizer_json,
            tokenizer_config: Some(config),
            ..Default::default()
        })
    };
    assert_eq!(build(&file, &config).unwrap().encode("", true).unwrap(), [4093]);
    file["post_processor"] = Value::Null;
    assert_eq!(build(&file, &config).unwrap().encode("", true).unwrap(), [4093]);
    assert_eq!(build(&file, &Value::Null).unwrap().encode("", true).unwrap(), [] as [u32; 0]);
    assert!(build(&file, &serde_json::json!({"add_bos_token": true})).unwrap_err().to_string().contains("bos_token"));
    assert!(build(&file, &serde_json::json!({"eos_token": "</s>"})).unwrap_err().to_string().contains("</s>"));
}

proptest! {
    #[test]
    fn every_text_comes_back(text in r"(?s)[ \t\r\na-zA-Z0-9é日🚀'.,<|>_]{0,60}|.{0,40}|(<\|eot_id\|>|<\|e| |a){0,9}") {
        let ids = HF.encode(&text, true).unwrap();
        prop_assert_eq!(&GGUF.encode(&text, true).unwrap(), &ids);
        let encoding = LIBRARY.encode(text.as_str(), true).unwrap();
        prop_assert_eq!(encoding.get_ids(), &ids);
        prop_assert_eq!(HF.decode(&ids[1..], false).unwrap(), &text[..]);
        let plain = HF.encode_plain(&text, false).unwrap();
        prop_assert_eq!(HF.decode(&plain, true).unwrap(), &text[..]);
        prop_assert!(plain.iter().all(|&id| !HF.is_special(id)));
    }

    #[test]
    fn pieces_make_up_the_text(ids in prop::collection::vec(0u32..4096, 0..40)) {
        let mut stream = HF.detokenizer();
        let mut text = String::new();
        for &id in &ids {
            text.push_str(&stream.push(id).unwrap());
        }
        text.push_str(&stream.finish());
        prop_assert_eq!(&text, &HF.decode(&ids, true).unwrap());
        prop_assert_eq!(text, LIBRARY.decode(&ids, true).unwrap());
        prop_assert_eq!(HF.decode(&ids, false).unwrap(), LIBRARY.decode(&ids, false).unwrap());
    }
}
