//! Models that others have made, trained further.

use bitnet_fixtures::moby;
use bitnet_training::data::Source;
use bitnet_training::recipe::{Packing, Recipe, Reduction};
use bitnet_training::tokenizer::TokenizerFiles;
use bitnet_training::{RunOptions, Trained};

use crate::support::{device, options, run};

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
