//! What several test programs share.

use bitnet_text::GgufVocabulary;
use serde_json::Value;

/// The metadata that a converter writes into a GGUF file for a byte-level `tokenizer.json`.
pub fn gguf_of(tokenizer_json: &[u8], pre: Option<&str>) -> GgufVocabulary {
    let json: Value = serde_json::from_slice(tokenizer_json).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let id = |value: &Value| value.as_u64().unwrap() as usize;
    let last = vocab.values().map(id).chain(added.iter().map(|t| id(&t["id"]))).max().unwrap();
    let mut tokens = vec![String::new(); last + 1];
    let mut token_types = vec![5; last + 1];
    for (token, value) in vocab {
        tokens[id(value)] = token.clone();
        token_types[id(value)] = 1;
    }
    for token in added {
        tokens[id(&token["id"])] = token["content"].as_str().unwrap().to_owned();
        token_types[id(&token["id"])] = if token["special"] == true { 3 } else { 4 };
    }
    let half = |merge: &Value, i: usize| merge[i].as_str().unwrap().to_owned();
    let merge = |merge: &Value| merge.as_str().map_or_else(|| half(merge, 0) + " " + &half(merge, 1), str::to_owned);
    GgufVocabulary {
        model: "gpt2".into(),
        pre: pre.map(str::to_owned),
        tokens,
        token_types,
        merges: json["model"]["merges"].as_array().unwrap().iter().map(merge).collect(),
        add_bos: Some(true),
        architecture: "bitnet-b1.58".into(),
        ..GgufVocabulary::default()
    }
}
