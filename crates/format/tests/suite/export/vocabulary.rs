//! Tokenizers in each form.

use bitnet_format::export::{GgufOptions, HuggingFaceForm, HuggingFaceOptions, Model, write_gguf, write_hugging_face};
use bitnet_format::{GgufTokenizer, TokenizerSource, open};
use bitnet_ternary::Packing;
use serde_json::{Value as Json, json};

use super::fake::{Fake, SMALL, fake, packed, tokenizer_json};
use crate::common::assert_says;

#[test]
fn the_vocabulary_of_a_tokenizer_json() {
    let place = tempfile::tempdir().unwrap();
    let fake = fake(&SMALL);
    let read = fake.gguf(&GgufOptions::default(), &place.path().join("m.gguf")).unwrap();
    let TokenizerSource::Gguf(found) = read.tokenizer_files().unwrap() else { panic!("a vocabulary") };
    let expected = GgufTokenizer {
        path: found.path.clone(),
        model: "gpt2".to_string(),
        pre: Some("gpt-2".to_string()),
        tokens: ["a", "b", "c", "Ġ", "ab", "Ġa", "abc", "d", "[PAD8]", "<s>", "</s>", "<tool>"]
            .map(str::to_string)
            .to_vec(),
        token_types: vec![1, 1, 1, 1, 1, 1, 1, 1, 5, 3, 3, 4],
        merges: ["a b", "Ġ a", "ab c"].map(str::to_string).to_vec(),
        bos: Some(9),
        eos: Some(10),
        eot: Some(11),
        add_bos: Some(true),
        chat_template: Some("{{ messages }}".to_string()),
        ..GgufTokenizer::default()
    };
    assert_eq!(found, expected);

    // From one GGUF file to another it stays what it is.
    let model = Model::of(&read, "again").unwrap();
    let again = place.path().join("again.gguf");
    write_gguf(&model, &packed(Packing::Tq2_0), &again, false, |tensor| tensor.read(&read)).unwrap();
    let TokenizerSource::Gguf(second) = open(&again).unwrap().tokenizer_files().unwrap() else { panic!("one") };
    assert_eq!(GgufTokenizer { path: found.path.clone(), ..second }, found);
    assert_says(
        write_hugging_face(&model, &HuggingFaceOptions::default(), &place.path().join("m"), false, |t| t.read(&read)),
        &["GGUF", "tokenizer.json"],
    );

    // A folder without tokenizer_config.json gets one.
    let read = fake.folder(HuggingFaceForm::PackedAutoBitLinear, &place.path().join("f")).unwrap();
    let TokenizerSource::Hf { tokenizer_config, chat_template, generation_config, .. } =
        read.tokenizer_files().unwrap()
    else {
        panic!("a folder")
    };
    let config = tokenizer_config.unwrap();
    assert_eq!((&config["bos_token"], &config["eos_token"]), (&json!("<s>"), &json!("</s>")));
    assert_eq!(chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(generation_config, Some(json!({ "temperature": 0.7, "bos_token_id": 9, "eos_token_id": [10, 11] })),);
}

#[test]
fn tokenizers_that_gguf_has_no_word_for() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    let with = |change: &dyn Fn(&mut Json)| {
        let mut fake = fake(&SMALL);
        let mut json = tokenizer_json();
        change(&mut json);
        if let TokenizerSource::Hf { tokenizer_json, .. } = &mut fake.model.tokenizer {
            *tokenizer_json = json.to_string().into_bytes().into();
        }
        fake.gguf(&GgufOptions::default(), &path)
    };
    let set = |pointer: &'static str, value: Json| {
        with(&move |json| *json.pointer_mut(pointer).expect("a place") = value.clone())
    };
    assert_says(set("/normalizer", json!({ "type": "NFC" })), &["tokenizer.json", "normalizer NFC"]);
    assert_says(set("/model/type", json!("Unigram")), &["Unigram"]);
    assert_says(set("/decoder", json!({ "type": "Metaspace" })), &["decoder Metaspace"]);
    assert_says(set("/pre_tokenizer", json!({ "type": "Whitespace" })), &["pre-tokenizer Whitespace"]);
    assert_says(set("/post_processor/single", json!([])), &["more around a text"]);
    assert_says(set("/post_processor/special_tokens/<s>/ids", json!([10])), &["more around a text"]);
    assert_says(set("/model/merges", json!(["a b c"])), &["merge", "a b c"]);
    assert_says(set("/model/merges", json!([["a", ""]])), &["merge"]);
    assert_says(set("/model/vocab/a", json!(1)), &["id 1", "\"a\"", "\"b\""]);
    assert_says(set("/model/vocab/a", json!(-1)), &["id -1"]);
    assert_says(set("/model/vocab/a", json!(99_999)), &["100000", "tokens"]);
    assert_says(set("/model/vocab/a", json!(12)), &["13 tokens", "12 rows"]);
    assert_says(set("/added_tokens/0/id", json!(0)), &["id 0", "\"a\"", "<s>"]);
    assert_says(with(&|json| json["added_tokens"][0]["lstrip"] = json!(true)), &["<s>", "lstrip"]);
    assert_says(with(&|json| json["model"]["unk_token"] = json!("<unk>")), &["unknown token"]);
    assert_says(with(&|json| json["model"]["end_of_word_suffix"] = json!("</w>")), &["end_of_word_suffix"]);
    assert_says(with(&|json| json["model"]["ignore_merges"] = json!(true)), &["ignore_merges"]);
    assert_says(with(&|json| *json = json!([])), &["tokenizer.json", "damaged"]);
    let mut stranger = fake(&SMALL);
    stranger.model.config.eos_token_ids = vec![12];
    assert_says(stranger.gguf(&GgufOptions::default(), &path), &["no token 12"]);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);

    // A folder takes any tokenizer that the embedding has room for.
    let mut unigram = fake(&SMALL);
    let give = |fake: &mut Fake, json: Json| {
        if let TokenizerSource::Hf { tokenizer_json, .. } = &mut fake.model.tokenizer {
            *tokenizer_json = json.to_string().into_bytes().into();
        }
    };
    give(&mut unigram, json!({ "model": { "type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]] } }));
    unigram.folder(HuggingFaceForm::Master, &place.path().join("u")).unwrap();
    give(&mut unigram, json!({ "added_tokens": [{ "id": 12, "content": "x" }], "model": { "vocab": {} } }));
    assert_says(unigram.folder(HuggingFaceForm::Master, &place.path().join("v")), &["13 tokens", "12 rows"]);
    unigram.model.tokenizer = TokenizerSource::Missing;
    unigram.folder(HuggingFaceForm::Master, &place.path().join("v")).unwrap();
    unigram.gguf(&GgufOptions::default(), &place.path().join("v.gguf")).unwrap();
}
