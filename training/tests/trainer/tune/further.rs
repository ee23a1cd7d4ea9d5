//! Models that others have made, trained further.

use std::collections::BTreeSet;

use bitnet_fixtures::moby;
use bitnet_format::TokenizerSource;
use bitnet_training::data::Source;
use bitnet_training::recipe::{Packing, Recipe, Reduction, TokenizerChoice};
use bitnet_training::tokenizer::TokenizerFiles;
use bitnet_training::{RunOptions, Trained};
use serde_json::{Value, json};

use crate::support::{device, options, run, small, text};

fn short(recipe: &mut Recipe) {
    recipe.batch.rows = 2;
    recipe.model.context = 64;
    let run = &mut recipe.run;
    (run.max_steps, run.validate_every, run.inspect_every) = (2, 0, 0);
}

#[test]
fn a_model_keeps_its_tokenizer_whatever_file_it_comes_from() {
    let text = std::fs::read_to_string(moby("heldout.txt")).unwrap();
    let read = |name: &str| TokenizerFiles::of(&bitnet_format::open(moby(name)).unwrap()).unwrap();
    let hf = read("packed-bitlinear");
    let ids = hf.tokenizer.encode(&text, true).unwrap();
    for name in ["i2_s.gguf", "tq2_0.gguf", "master"] {
        let files = read(name);
        assert_eq!(files.tokenizer.encode(&text, true).unwrap(), ids, "{name}");
        assert_eq!(files.tokenizer.stop_tokens(), hf.tokenizer.stop_tokens(), "{name}");
        let folder = tempfile::tempdir().unwrap();
        files.write(folder.path()).unwrap();
        let again = TokenizerFiles::read(folder.path()).unwrap();
        assert_eq!(again.tokenizer.stop_tokens(), hf.tokenizer.stop_tokens(), "{name}");
        assert_eq!(again.ends(), hf.ends(), "{name}");
    }
}

#[test]
fn conversations_and_texts_train_a_model_of_a_folder_and_of_a_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let chat = folder.path().join("chat.jsonl");
    let line = r#"{"messages":[{"role":"user","content":"Who is Ahab?"},{"role":"assistant","content":"A captain."}]}"#;
    let lines: String = (0..8).map(|i| line.replace("Ahab", &format!("Ahab {i}")) + "\n").collect();
    std::fs::write(&chat, lines).unwrap();

    let mut recipe = Recipe::to_finetune(&moby("packed-autobitlinear"), &Source::new(&chat)).unwrap();
    assert_eq!(recipe.batch.packing, Packing::Documents);
    assert_eq!((recipe.model.layers, recipe.model.kv_heads, recipe.model.tied), (4, 2, true));
    short(&mut recipe);
    recipe.batch.reduction = Reduction::Sum;
    let run_of_chat = RunOptions { source: Source::new(&chat), ..options(folder.path(), "chat", &recipe) };
    let outcome = run(&run_of_chat).unwrap();
    let checkpoint = bitnet_format::open(&outcome.model).unwrap();
    let template = TokenizerFiles::of(&checkpoint).unwrap().chat_template;
    assert!(template.is_some(), "it can still chat");
    assert_eq!(checkpoint.config().context_length, 1024, "fewer positions in training do not make its context shorter");

    // What it weighs lies in the checkpoint, what it is in the model that it began with.
    let trained = Trained::open(&run_of_chat.out, None, &device()).unwrap();
    let held_out = trained.held_out().unwrap().unwrap();
    let [before, after] =
        [trained.loss(&held_out), trained.loss_of_file(&outcome.model, &held_out)].map(Result::unwrap);
    assert!((before - after).abs() < 1e-4, "{before} {after}");
    assert!((after - outcome.valid_loss.unwrap()).abs() < 1e-9);

    let text = folder.path().join("whale.txt");
    std::fs::write(&text, "The whale, the white whale, swam away from the ship.\n".repeat(40)).unwrap();
    let mut recipe = Recipe::to_finetune(&moby("i2_s.gguf"), &Source::new(&text)).unwrap();
    assert_eq!(recipe.batch.packing, Packing::Rows);
    short(&mut recipe);
    run(&RunOptions { source: Source::new(&text), ..options(folder.path(), "text", &recipe) }).unwrap();
}

/// A `tokenizer.json` as LLaMA has it: the characters of a text, two pieces of several, and the bytes for everything else.
fn pieces(text: &str) -> Value {
    let characters: BTreeSet<String> = text.replace(' ', "▁").chars().map(String::from).collect();
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let merged = ["th", "the"].map(String::from);
    let tokens: Vec<String> = special.into_iter().chain(bytes).chain(characters).chain(merged).collect();
    let vocab: Value = tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added =
        tokens[..3].iter().enumerate().map(|(id, token)| json!({ "id": id, "content": token, "special": true }));
    json!({
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] },
        "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": [["t", "h"], ["th", "e"]],
        },
    })
}

#[test]
fn a_gguf_with_a_sentencepiece_vocabulary_is_trained_further() {
    let folder = tempfile::tempdir().unwrap();
    let page = std::fs::read_to_string(text(folder.path())).unwrap();
    let tokenizer = folder.path().join("tokenizer.json");
    std::fs::write(&tokenizer, pieces(&page).to_string()).unwrap();
    let mut recipe = small();
    recipe.tokenizer = TokenizerChoice::File(tokenizer);
    recipe.run.max_steps = 2;
    let first = run(&options(folder.path(), "first", &recipe)).unwrap();

    let checkpoint = bitnet_format::open(&first.model).unwrap();
    let files = checkpoint.tokenizer_files().unwrap();
    assert!(matches!(files, TokenizerSource::Gguf(vocabulary) if vocabulary.model == "llama"));
    let mut recipe = Recipe::to_finetune(&first.model, &Source::new(folder.path().join("text.txt"))).unwrap();
    recipe.batch.rows = 2;
    recipe.run.max_steps = 2;
    let second = run(&options(folder.path(), "second", &recipe)).unwrap();
    let ids = |path| {
        let files = TokenizerFiles::of(&bitnet_format::open(path).unwrap()).unwrap();
        files.tokenizer.encode(&(page.clone() + " 捕鯨"), true).unwrap()
    };
    assert_eq!(ids(&first.model), ids(&second.model));
}
