//! A run that was stopped ends as one that was not, to the bit.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bitnet_model::pool::Pool;
use bitnet_model::{Precision, has_precision};
use bitnet_training::recipe::PrecisionChoice;
use bitnet_training::{RunFolder, RunOptions, TrainError, train};
use safetensors::SafeTensors;

use crate::support::{StopAfter, options, run, small};

/// The tensors of the last checkpoint: weights, what the optimizer remembers, and the trits that were seen last.
fn last_checkpoint(options: &RunOptions) -> Vec<(String, Vec<u8>)> {
    let checkpoints = RunFolder::new(&options.out).checkpoints(1);
    let bytes = std::fs::read(checkpoints.path(*checkpoints.steps().unwrap().last().unwrap())).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.data().to_vec())).collect();
    tensors.sort();
    tensors
}

fn csv(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("metrics.csv")).unwrap()
}

fn same(a: &RunOptions, b: &RunOptions) {
    assert_eq!(csv(&a.out), csv(&b.out));
    let (a_tensors, b_tensors) = (last_checkpoint(a), last_checkpoint(b));
    let names = |tensors: &[(String, Vec<u8>)]| tensors.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&a_tensors), names(&b_tensors));
    for ((name, a), (_, b)) in a_tensors.iter().zip(&b_tensors) {
        assert!(a == b, "{name} differs");
    }
    let model =
        |options: &RunOptions| std::fs::read(RunFolder::new(&options.out).hugging_face().join("model.safetensors"));
    assert_eq!(model(a).unwrap(), model(b).unwrap());
}

#[test]
fn a_run_that_was_stopped_and_resumed_is_the_run_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let whole = options(folder.path(), "whole", &small());
    let figures = run(&whole).unwrap();
    assert_eq!(csv(&whole.out).lines().count(), 31);
    // Seven linears a layer, each with its weights and two means of gradients, and its trits.
    let names: Vec<String> = last_checkpoint(&whole).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.iter().filter(|name| name.contains("_proj")).count(), 14 * 4);

    let mut parts = options(folder.path(), "parts", &small());
    for step in [1, 13, 20, 29, 30] {
        let stop = AtomicBool::new(false);
        let outcome = train(&parts, &mut StopAfter { step, stop: &stop }, &stop).unwrap();
        assert_eq!(outcome.steps, step);
        parts.resume = true;
    }
    same(&parts, &whole);
    // A run that is over is not trained further; it says the same.
    let outcome = run(&parts).unwrap();
    assert_eq!((outcome.steps, outcome.valid_loss, outcome.train_loss), (30, figures.valid_loss, figures.train_loss));
    same(&parts, &whole);
}

#[test]
fn a_run_that_was_killed_goes_on_from_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let whole = options(folder.path(), "whole", &small());
    run(&whole).unwrap();
    let mut killed = options(folder.path(), "killed", &small());
    run(&killed).unwrap();
    // As a kill after step 27 would have left it: rows that no checkpoint knows of, the last of them half-written.
    let checkpoints = RunFolder::new(&killed.out).checkpoints(9);
    assert_eq!(checkpoints.steps().unwrap(), [20, 30], "as many as the recipe keeps");
    std::fs::remove_file(checkpoints.path(30)).unwrap();
    for name in ["metrics.csv", "metrics.jsonl"] {
        let path = killed.out.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 100]).unwrap();
    }
    killed.resume = true;
    run(&killed).unwrap();
    same(&killed, &whole);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = small();
    recipe.run.max_steps = 12;
    for (name, precision) in [(PrecisionChoice::F32, Precision::F32), (PrecisionChoice::Bf16, Precision::Bf16)] {
        if !has_precision(&crate::support::device(), precision) {
            continue;
        }
        recipe.batch.precision = name;
        let runs = [1, 2, 3].map(|threads| {
            let options = options(folder.path(), &format!("{name} {threads}"), &recipe);
            Arc::new(Pool::new(threads)).install(|| run(&options)).unwrap();
            options
        });
        same(&runs[0], &runs[1]);
        same(&runs[0], &runs[2]);
    }
}

#[test]
fn a_seed_is_one_run_and_another_seed_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = small();
    recipe.run.max_steps = 3;
    let [a, b] = ["a", "b"].map(|name| options(folder.path(), name, &recipe));
    recipe.seed = 1;
    let c = options(folder.path(), "c", &recipe);
    [&a, &b, &c].into_iter().for_each(|options| {
        run(options).unwrap();
    });
    same(&a, &b);
    assert_ne!(csv(&a.out), csv(&c.out));
}

#[test]
fn a_run_goes_on_only_as_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = small();
    recipe.run.max_steps = 2;
    let first = options(folder.path(), "run", &recipe);
    run(&first).unwrap();
    let before = last_checkpoint(&first);
    let resumed = |change: &dyn Fn(&mut RunOptions)| {
        let mut options = RunOptions { resume: true, ..first.clone() };
        change(&mut options);
        run(&options).unwrap_err().to_string()
    };
    for (what, error) in [
        ("the model of the recipe", resumed(&|o| o.recipe.model.ffn = 96)),
        ("the quantization", resumed(&|o| o.recipe.quantization.act_bits = 0)),
        ("the batch", resumed(&|o| o.recipe.batch.rows = 5)),
        ("the optimizer", resumed(&|o| o.recipe.optimizer.clip = 2.0)),
        ("the seed", resumed(&|o| o.recipe.seed = 5)),
        ("the data", resumed(&|o| std::fs::write(&o.source.paths[0], "Call me Ishmael. ".repeat(99)).unwrap())),
    ] {
        assert!(error.contains(what) && error.contains("step-00000002"), "{what}: {error}");
    }
    crate::support::text(folder.path());
    assert!(last_checkpoint(&first) == before, "a refusal changes nothing");

    let error = run(&first).unwrap_err();
    assert!(matches!(error, TrainError::Exists(_)), "{error}");
    let error = run(&RunOptions { resume: true, out: folder.path().join("none"), ..first.clone() }).unwrap_err();
    assert!(matches!(error, TrainError::NothingToResume(_)), "{error}");
    run(&RunOptions { overwrite: true, ..first.clone() }).unwrap();
    assert!(last_checkpoint(&first) == before);
}
