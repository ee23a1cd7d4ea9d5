//! Vocabularies and files that are wrong: each is an error that names what is wrong, and nothing panics.

mod support;

use std::fs;

use bitnet_fixtures::moby;
use bitnet_text::{GgufVocabulary, HfTokenizer, Message, Role, TextError, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn byte_level() -> GgufVocabulary {
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("llama-bpe".into()),
        tokens: strings(&["a", "b", "ab", "<s>", "</s>"]),
        token_types: vec![1, 1, 1, 3, 3],
        merges: strings(&["a b"]),
        bos: Some(3),
        eos: Some(4),
        ..GgufVocabulary::default()
    }
}

fn sentencepiece() -> GgufVocabulary {
    GgufVocabulary {
        model: "llama".into(),
        tokens: strings(&["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "▁a"]),
        scores: vec![0.0, 0.0, 0.0, 0.0, -3.0, -2.0, -1.0],
        token_types: vec![2, 3, 3, 6, 1, 1, 1],
        bos: Some(1),
        eos: Some(2),
        ..GgufVocabulary::default()
    }
}

/// Expects an error whose message has all of `words`.
#[track_caller]
fn refused(result: Result<Tokenizer, TextError>, words: &[&str]) {
    let message = result.expect_err("must be refused").to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[track_caller]
fn gguf_refused(vocabulary: GgufVocabulary, words: &[&str]) {
    refused(Tokenizer::from_gguf(vocabulary), words);
}

#[test]
fn the_vocabularies_that_the_attacks_start_from_are_good() {
    let tokenizer = Tokenizer::from_gguf(byte_level()).unwrap();
    assert_eq!(tokenizer.encode("ab</s>b", true).unwrap(), [3, 2, 4, 1]);
    let tokenizer = Tokenizer::from_gguf(sentencepiece()).unwrap();
    assert_eq!(tokenizer.encode("aa</s>A!", true).unwrap(), [1, 6, 5, 2, 4, 3, 0]);
}

#[test]
fn empty_and_unknown() {
    gguf_refused(GgufVocabulary::default(), &["tokenizer.ggml.tokens", "empty"]);
    gguf_refused(GgufVocabulary { tokens: vec![], token_types: vec![], ..byte_level() }, &["empty"]);
    gguf_refused(GgufVocabulary { model: "rwkv".into(), ..byte_level() }, &["rwkv", "--tokenizer"]);
    gguf_refused(GgufVocabulary { pre: Some("klingon".into()), ..byte_level() }, &["klingon", "--tokenizer"]);
    gguf_refused(GgufVocabulary { pre: None, ..byte_level() }, &["tokenizer.ggml.pre", "missing", "--tokenizer"]);
}

#[test]
fn lists_of_different_lengths() {
    gguf_refused(GgufVocabulary { token_types: vec![1, 1], ..byte_level() }, &["token_type", "2", "5"]);
    gguf_refused(GgufVocabulary { token_types: vec![1; 6], ..byte_level() }, &["token_type", "6", "5"]);
    gguf_refused(GgufVocabulary { token_types: vec![1, 1, 1, 3, 77], ..byte_level() }, &["token 4", "77"]);
    gguf_refused(GgufVocabulary { scores: vec![0.0; 3], ..sentencepiece() }, &["scores", "3", "7"]);
    gguf_refused(GgufVocabulary { scores: vec![f32::NAN; 7], ..sentencepiece() }, &["scores", "not a number"]);
}

#[test]
fn special_ids_out_of_range() {
    gguf_refused(GgufVocabulary { bos: Some(5), ..byte_level() }, &["bos_token_id", "5"]);
    gguf_refused(GgufVocabulary { eos: Some(u32::MAX), ..byte_level() }, &["eos_token_id", "4294967295"]);
    gguf_refused(GgufVocabulary { eot: Some(9), ..byte_level() }, &["eot_token_id"]);
    gguf_refused(GgufVocabulary { pad: Some(9), ..sentencepiece() }, &["padding_token_id"]);
    gguf_refused(GgufVocabulary { unk: Some(9), ..sentencepiece() }, &["unknown_token_id"]);
    gguf_refused(GgufVocabulary { bos: None, add_bos: Some(true), ..byte_level() }, &["add_bos_token", "bos_token_id"]);
}

#[test]
fn bad_merges() {
    for (merge, words) in [
        ("a x", &["merges", "`x`"] as &[_]),
        ("y b", &["merges", "`y`"]),
        ("b a", &["merges", "`ba`"]),
        // Longer than any token.
        ("ab ab", &["merges", "`abab`"]),
        ("ab", &["merge 0", "two tokens"]),
        ("a ", &["merge 0", "two tokens"]),
        (" b", &["merge 0", "two tokens"]),
        ("", &["merge 0", "two tokens"]),
        ("a b c", &["merges"]),
        // A control token is not part of the byte-pair vocabulary.
        ("<s> a", &["merges", "`<s>`"]),
    ] {
        gguf_refused(GgufVocabulary { merges: strings(&[merge]), ..byte_level() }, words);
    }
}

#[test]
fn tokens_given_twice() {
    let with = |i: usize, token: &str, mut vocabulary: GgufVocabulary| {
        vocabulary.tokens[i] = token.into();
        vocabulary
    };
    gguf_refused(with(1, "a", byte_level()), &["\"a\"", "two ids", "0", "1"]);
    gguf_refused(with(4, "<s>", byte_level()), &["<s>", "two ids"]);
    gguf_refused(with(6, "a", sentencepiece()), &["\"a\"", "two ids", "5", "6"]);
    gguf_refused(with(3, "A", sentencepiece()), &["byte token 3", "<0xHH>"]);
}

#[test]
fn a_text_the_vocabulary_cannot_express() {
    let mut vocabulary = sentencepiece();
    vocabulary.token_types[0] = 3;
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    assert!(tokenizer.encode("a!", false).unwrap_err().to_string().contains('!'));
}

#[test]
fn ids_without_a_token() {
    let mut vocabulary = byte_level();
    vocabulary.tokens[1] = String::new();
    vocabulary.merges.clear();
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    assert_eq!(tokenizer.encode("a</s>", false).unwrap(), [0, 4], "a hole must not shift the ids after it");
    for id in [5, u32::MAX] {
        assert_eq!(tokenizer.decode(&[0, id], true), Err(TextError::UnknownId { id, vocab_size: 5 }));
        assert_eq!(tokenizer.token(id), None);
        assert!(!tokenizer.is_special(id));
        let mut stream = tokenizer.detokenizer();
        assert!(stream.push(id).is_err());
        assert_eq!(stream.push(0).unwrap(), "a");
    }
}

#[test]
fn a_broken_template_spoils_only_the_chat() {
    let user = [Message::new(Role::User, "a")];
    let tokenizer =
        Tokenizer::from_gguf(GgufVocabulary { chat_template: Some("a\n{% if %}".into()), ..byte_level() }).unwrap();
    assert_eq!(tokenizer.encode("ab", false).unwrap(), [2]);
    assert!(tokenizer.chat_template().is_none());
    let error = tokenizer.encode_chat(&user, true).unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
    assert_eq!(tokenizer.chat_template_error(), Some(&error));

    let tokenizer = Tokenizer::from_gguf(byte_level()).unwrap();
    assert_eq!(tokenizer.encode_chat(&user, true), Err(TextError::NoChatTemplate));
    assert_eq!(tokenizer.chat_template_error(), None);
}

fn file() -> Value {
    json!({
        "version": "1.0",
        "added_tokens": [{"id": 3, "content": "<s>", "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    })
}

fn build(file: &Value) -> Result<Tokenizer, TextError> {
    let tokenizer_json = serde_json::to_vec(file).unwrap();
    Tokenizer::from_hf(HfTokenizer { tokenizer_json: &tokenizer_json, ..HfTokenizer::default() })
}

#[test]
fn parts_of_a_tokenizer_json() {
    assert_eq!(build(&file()).unwrap().encode("ab<s>b", true).unwrap(), [2, 3, 1]);
    let mut arrays = file();
    arrays["model"]["merges"] = json!([["a", "b"]]);
    assert_eq!(build(&arrays).unwrap().encode("ab", true).unwrap(), [2]);

    let tagged = |value: &str| json!({"type": value});
    for (pointer, value, words) in [
        ("/model", json!(3), &["model"] as &[_]),
        ("/model/type", json!("Oracle"), &["model", "Oracle"]),
        ("/model/vocab", json!(null), &["model"]),
        ("/model/vocab/a", json!(1), &["model", "id 1", "\"a\"", "\"b\""]),
        ("/added_tokens/0/id", json!(2), &["id 2", "\"ab\"", "<s>"]),
        ("/model/vocab/a", json!(-1), &["model"]),
        ("/model/vocab/a", json!(4_294_967_295u32), &["model", "4294967295"]),
        ("/model/merges", json!(["a x"]), &["model", "`x`"]),
        ("/model/merges", json!([["a"]]), &["model", "two tokens"]),
        ("/model/merges", json!([["a", "b", "c"]]), &["model", "two tokens"]),
        ("/model/merges", json!(["ab"]), &["model", "two tokens"]),
        ("/added_tokens/0/id", json!(4_294_967_295u32), &["added_tokens", "4294967295"]),
        ("/added_tokens/0/content", json!("a"), &["added_tokens", "\"a\"", "3", "0"]),
        ("/added_tokens/0", json!({"id": "x"}), &["tokenizer.json"]),
        ("/decoder", json!(null), &["decoder"]),
        ("/decoder", tagged("WordPiece"), &["decoder", "WordPiece"]),
        ("/decoder", json!({"type": "Sequence"}), &["decoder", "Sequence"]),
        ("/pre_tokenizer", tagged("Clairvoyant"), &["pre_tokenizer"]),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
            &["pre_tokenizer"],
        ),
        ("/normalizer", tagged("Embellish"), &["normalizer"]),
        ("/post_processor", tagged("Seal"), &["post_processor", "Seal"]),
        (
            "/post_processor",
            json!({"type": "BertProcessing", "sep": ["x", 9], "cls": ["y", 0]}),
            &["post_processor", "9"],
        ),
    ] {
        let mut file = file();
        *file.pointer_mut(pointer).unwrap() = value;
        refused(build(&file), words);
    }
    let mut twice = file();
    twice["added_tokens"] = json!([{"id": 3, "content": "<s>"}, {"id": 4, "content": "<s>"}]);
    refused(build(&twice), &["added_tokens", "<s>", "3", "4"]);
    refused(Tokenizer::from_hf(HfTokenizer::default()), &["tokenizer.json"]);
}

#[test]
fn pieces_and_prefixes_in_a_tokenizer_json() {
    let mut piecewise = file();
    piecewise["model"] = json!({
        "type": "BPE", "byte_fallback": true, "fuse_unk": true, "unk_token": "<unk>", "merges": ["▁ a"],
        "vocab": {"<unk>": 0, "▁": 1, "a": 2, "<0xC3>": 4, "<0xA9>": 5, "▁a": 6},
    });
    piecewise["pre_tokenizer"] = Value::Null;
    piecewise["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]});
    piecewise["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    let tokenizer = build(&piecewise).unwrap();
    assert_eq!(tokenizer.encode("a aé", false).unwrap(), [6, 6, 4, 5]);
    assert_eq!(tokenizer.decode(&[6, 6, 4, 5], true).unwrap(), "a aé");

    piecewise["model"]["unk_token"] = json!("<nothing>");
    refused(build(&piecewise), &["model", "<nothing>"]);
    piecewise["model"]["unk_token"] = Value::Null;
    piecewise["model"]["continuing_subword_prefix"] = json!("##日");
    refused(build(&piecewise), &["model", "##日"]);
}

#[test]
fn a_tokenizer_json_cut_anywhere() {
    let text = serde_json::to_string_pretty(&file()).unwrap();
    for end in 0..text.len() {
        let cut = HfTokenizer { tokenizer_json: &text.as_bytes()[..end], ..HfTokenizer::default() };
        refused(Tokenizer::from_hf(cut), &["tokenizer.json"]);
    }
    let deep = format!("{{\"decoder\": {}", "[".repeat(1 << 16));
    refused(
        Tokenizer::from_hf(HfTokenizer { tokenizer_json: deep.as_bytes(), ..HfTokenizer::default() }),
        &["tokenizer.json"],
    );
    let large = file().to_string().replace("\"trim_offsets\":true", "\"trim_offsets\":1e999");
    refused(
        Tokenizer::from_hf(HfTokenizer { tokenizer_json: large.as_bytes(), ..HfTokenizer::default() }),
        &["tokenizer.json"],
    );
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(at in prop::collection::vec((0usize..1200, 1u8..=255), 1..6), text in ".{0,12}") {
        let mut bytes = serde_json::to_vec(&file()).unwrap();
        for (i, flip) in at {
            let i = i % bytes.len();
            bytes[i] ^= flip;
        }
        if let Ok(tokenizer) = Tokenizer::from_hf(HfTokenizer { tokenizer_json: &bytes, ..HfTokenizer::default() })
            && let Ok(ids) = tokenizer.encode(&text, true)
        {
            let _ = tokenizer.decode(&ids, false);
        }
    }

    #[test]
    fn random_vocabularies_never_panic(
        tokens in prop::collection::vec("[ab▁Ġ]{0,3}|<\\|[ab]\\|>|<0x4[0-9a-f]>|.{0,2}", 0..12),
        types in prop::collection::vec(-1i32..8, 0..12),
        merges in prop::collection::vec("[abĠ]{0,2} [abĠ]{0,2}", 0..4),
        model in prop::sample::select(vec!["gpt2", "llama"]),
        ids in prop::collection::vec(prop::option::of(0u32..14), 5),
        text in "[ab <>|\\\\]{0,12}|.{0,8}",
        fit in any::<bool>(),
    ) {
        let mut types = types;
        if fit {
            types.resize(tokens.len(), 1);
        }
        let vocabulary = GgufVocabulary {
            model: model.into(), pre: Some("default".into()), scores: (0..tokens.len()).map(|i| -(i as f32)).collect(),
            tokens, token_types: types, merges, bos: ids[0], eos: ids[1], eot: ids[2], pad: ids[3], unk: ids[4],
            ..GgufVocabulary::default()
        };
        if let Ok(tokenizer) = Tokenizer::from_gguf(vocabulary)
            && let Ok(ids) = tokenizer.encode(&text, true)
        {
            let _ = tokenizer.encode_plain(&text, true);
            tokenizer.decode(&ids, false).unwrap();
        }
    }
}

#[test]
fn holes_and_tokens_in_the_middle_keep_their_ids() {
    let tokenizer_json = fs::read(moby("master").join("tokenizer.json")).unwrap();
    let straight = Tokenizer::from_gguf(support::gguf_of(&tokenizer_json, Some("llama3"))).unwrap_err();
    assert!(straight.to_string().contains("bos_token_id"), "{straight}");
    let mut vocabulary = GgufVocabulary { bos: Some(4093), ..support::gguf_of(&tokenizer_json, Some("llama3")) };
    // A control token first, a hole second: everything else moves up by two.
    vocabulary.tokens.splice(0..0, strings(&["<|first|>", ""]));
    vocabulary.token_types.splice(0..0, [1, 5]);
    vocabulary.bos = vocabulary.bos.map(|id| id + 2);
    let moved = Tokenizer::from_gguf(vocabulary).unwrap();
    let ids = moved.encode("<|first|>Call me Ishmael.<|eot_id|>", true).unwrap();
    assert_eq!(ids, [4095, 0, 36, 384, 409, 3700, 15, 4097]);
    assert!(moved.is_special(0));
}
