//! Bad input: each is one error that names what is wrong, and what was there stays.

use std::path::Path;

use bitnet_fixtures::moby;
use bitnet_training::data::Source;
use bitnet_training::recipe::{Recipe, TokenizerChoice};
use bitnet_training::{RunFolder, RunOptions, TrainError};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::support::{options, run, small};

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_names_step_and_layer() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = small();
    recipe.run.checkpoint_every = 1;
    recipe.optimizer.learning_rate.peak = 1e30;
    let options = options(folder.path(), "run", &recipe);
    let error = run(&options).unwrap_err();
    let TrainError::NotFinite { step, layer, last_good } = &error else { panic!("{error}") };
    assert!(*step > 1 && layer.starts_with("model."), "{error}");
    let last_good = last_good.as_ref().expect("there was one after each step");
    let text = error.to_string();
    assert!(text.contains(&format!("step {step}")) && text.contains(&*last_good.to_string_lossy()), "{text}");
    // It is whole, and all of its numbers are.
    let bytes = std::fs::read(last_good).unwrap();
    for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().iter() {
        let mut values = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        assert!(name.starts_with("inspector") || values.all(f32::is_finite), "{name}");
    }
    assert!(!RunFolder::new(&options.out).model().exists());
}

fn finished(folder: &Path) -> RunOptions {
    let mut recipe = small();
    recipe.run.max_steps = 1;
    let options = options(folder, "run", &recipe);
    run(&options).unwrap();
    RunOptions { resume: true, ..options }
}

#[test]
fn a_damaged_checkpoint_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let options = finished(folder.path());
    let path = RunFolder::new(&options.out).checkpoints(1).path(1);
    let whole = std::fs::read(&path).unwrap();
    let mut header = whole.clone();
    header[20] ^= 0xff;
    let damaged = [whole[..whole.len() / 2].to_vec(), whole[..5].to_vec(), Vec::new(), header];
    for bytes in damaged {
        std::fs::write(&path, bytes).unwrap();
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains("step-00000001.safetensors"), "{error}");
    }
    std::fs::write(&path, whole).unwrap();
    run(&options).unwrap();
}

/// Burn's optimizers begin anew in silence where a record has no state of a parameter.
#[test]
fn a_checkpoint_without_a_part_is_refused_by_that_part() {
    let folder = tempfile::tempdir().unwrap();
    let options = finished(folder.path());
    let path = RunFolder::new(&options.out).checkpoints(1).path(1);
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for part in ["optimizer.square.model.norm.weight", "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"]
    {
        let rest: Vec<(&str, TensorView<'_>)> = tensors.iter().filter(|(name, _)| *name != part).collect();
        assert_eq!(rest.len() + 1, tensors.len());
        std::fs::write(&path, safetensors::serialize(rest, metadata.clone()).unwrap()).unwrap();
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor {part} is missing")), "{error}");
    }
    let other = safetensors::serialize(tensors.iter(), None).unwrap();
    std::fs::write(&path, other).unwrap();
    let error = run(&options).unwrap_err().to_string();
    assert!(error.contains("no training state"), "{error}");
}

#[test]
fn weights_to_begin_with_have_a_row_for_every_token() {
    let folder = tempfile::tempdir().unwrap();
    let first = finished(folder.path());
    let from = Some(RunFolder::new(&first.out).hugging_face());
    let mut recipe = first.recipe.clone();
    recipe.tokenizer = TokenizerChoice::File(moby("packed-bitlinear"));
    recipe.from = from.clone();
    let error = run(&options(folder.path(), "larger", &recipe)).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("4096") && error.contains("hf"), "{error}");

    let again = options(folder.path(), "again", &Recipe { from, ..first.recipe });
    let outcome = run(&again).unwrap();
    assert_eq!(outcome.steps, 1);
}

#[test]
fn data_without_text_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, expected) in [
        ("empty.txt", b"".as_slice(), "no text"),
        ("binary.txt", b"\x7fELF\x02\x01\x01\0\xff\xfe", "binary"),
        ("short.txt", b"a", "to train on"),
        ("line.jsonl", b"{\"text\": \"a whale\"}\nwhale\n", "line.jsonl:2"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let options = RunOptions { source: Source::new(&path), ..options(folder.path(), "run", &small()) };
        let error = run(&options).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!options.out.join("recipe.toml").exists());
    }
}
