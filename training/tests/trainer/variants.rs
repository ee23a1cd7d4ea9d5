//! The settings that a recipe has, each on a short run.

use bitnet_format::open;
use bitnet_model::{Precision, has_precision, load};
use bitnet_ternary::{Granularity, Packing};
use bitnet_training::metrics::{Outcome, StepRecord, read_jsonl};
use bitnet_training::recipe::{
    OptimizerKind, PrecisionChoice, Recipe, ScaleChoice, StorageChoice, TokenizerChoice, WeightsChoice,
};
use bitnet_training::{ExportFormat, RunFolder, TrainError, Trained};

use crate::support::{device, options, run, small};

/// What becomes of a short run of a recipe, and its records.
fn result(change: impl Fn(&mut Recipe)) -> (Result<Outcome, TrainError>, Vec<StepRecord>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = small();
    (recipe.run.max_steps, recipe.run.validate_every, recipe.run.inspect_every) = (8, 4, 4);
    change(&mut recipe);
    let options = options(folder.path(), "run", &recipe);
    let result = run(&options);
    let records = read_jsonl(RunFolder::new(&options.out).records()).unwrap();
    (result, records, folder)
}

/// A run that ends well: its loss falls, and its model opens.
fn good(change: impl Fn(&mut Recipe)) -> (Outcome, Vec<StepRecord>) {
    let (outcome, records, _folder) = result(change);
    let outcome = outcome.unwrap();
    assert_eq!((records.len(), outcome.steps), (8, 8));
    assert!(records[7].train_loss < records[0].train_loss - 0.1, "{records:?}");
    assert!(outcome.valid_loss.unwrap().is_finite());
    let checkpoint = open(&outcome.model).unwrap();
    load(&checkpoint, &device()).unwrap();
    (outcome, records)
}

#[test]
fn the_float_twin() {
    let (outcome, records, folder) = result(|recipe| recipe.quantization.weights = WeightsChoice::None);
    assert!(records.iter().all(|record| record.layers.is_none()), "a float layer has no trits to look at");
    let model = outcome.unwrap().model;
    assert!(model.ends_with("hf") && model.join("model.safetensors").exists());
    assert!(!model.with_file_name("model.gguf").exists());
    let trained = Trained::open(&folder.path().join("run"), None, &device()).unwrap();
    for format in [ExportFormat::Gguf(Packing::I2S), ExportFormat::HfPacked, ExportFormat::Burnpack] {
        let path = folder.path().join("trits.gguf");
        let error = trained.export(format, &path, false).unwrap_err().to_string();
        assert!(error.contains("hf-master") && !path.exists(), "{format:?}: {error}");
    }
}

#[test]
fn parts_of_a_step_and_recomputed_activations_train_the_same_model() {
    let (_, plain) = good(|_| {});
    let (_, parts) = good(|recipe| recipe.batch.accumulate = 4);
    let (_, recomputed) = good(|recipe| recipe.batch.checkpoint_activations = true);
    for other in [parts, recomputed] {
        for (a, b) in plain.iter().zip(&other).take(2) {
            assert!((a.train_loss - b.train_loss).abs() < 1e-4, "{} {}", a.train_loss, b.train_loss);
            assert!((a.grad_norm / b.grad_norm - 1.0).abs() < 1e-2, "{} {}", a.grad_norm, b.grad_norm);
        }
        assert!((plain[0].grad_norm / other[0].grad_norm - 1.0).abs() < 1e-5);
    }
}

#[test]
fn quantization_can_be_phased_in() {
    let (_, records) = good(|recipe| recipe.quantization.lambda = "linear:over=4".parse().unwrap());
    let lambdas: Vec<f64> = records.iter().map(|record| record.lambda).collect();
    assert_eq!((lambdas[0], lambdas[7]), (0.0, 1.0));
    assert!(lambdas.is_sorted());
}

#[test]
fn muon_other_embeddings_and_learned_merges() {
    good(|recipe| recipe.optimizer.kind = OptimizerKind::Muon);
    good(|recipe| recipe.model.embedding = StorageChoice::F32);
    good(|recipe| recipe.model.embedding = StorageChoice::Bf16);
    good(|recipe| recipe.model.tied = false);
    good(|recipe| recipe.model.sub_norms = false);
    good(|recipe| recipe.tokenizer = TokenizerChoice::Bpe(300));
    good(|recipe| recipe.run.sample_every = 5);
    good(|recipe| recipe.model.activation = "silu".parse().unwrap());
}

#[test]
fn norms_inside_the_linears() {
    good(|recipe| recipe.model.inner_norms = true);
    good(|recipe| (recipe.model.inner_norms, recipe.model.sub_norms) = (true, false));
}

/// Only Llama's class has ternary weights and float activations, and it has no sub-norms.
#[test]
fn float_activations_are_those_of_a_model_without_sub_norms() {
    let (outcome, records, _folder) = result(|recipe| {
        (recipe.model.hidden, recipe.model.ffn, recipe.model.kv_heads) = (64, 96, 4);
        (recipe.model.sub_norms, recipe.quantization.act_bits) = (false, 0);
    });
    let outcome = outcome.unwrap();
    assert!(records[7].train_loss < records[0].train_loss - 0.1, "{records:?}");
    assert!(outcome.model.ends_with("hf"));
    assert_eq!(open(&outcome.model).unwrap().config().activation_bits, None);
}

/// The forward pass of a ternary layer is exact in any precision.
#[test]
fn gradients_of_bf16_operands_train_as_well() {
    let bf16 = |recipe: &mut Recipe| recipe.batch.precision = PrecisionChoice::Bf16;
    if !has_precision(&device(), Precision::Bf16) {
        let error = result(bf16).0.unwrap_err().to_string();
        assert!(error.contains("batch.precision"), "{error}");
        return;
    }
    let ((_, whole), (_, short)) = (good(|_| {}), good(bf16));
    assert_eq!(whole[0].train_loss, short[0].train_loss);
    let norms = [&whole, &short].map(|records| records[0].grad_norm);
    assert!(norms[0] != norms[1] && (norms[0] / norms[1] - 1.0).abs() < 0.01, "{norms:?}");
    result(|recipe| {
        bf16(recipe);
        recipe.quantization.weights = WeightsChoice::None;
    })
    .0
    .unwrap();
}

/// Scales of rows and groups, which no packed file holds, are kept in a folder of floats that are trits by their values.
#[test]
fn other_scales_are_written_as_floats() {
    for granularity in [Granularity::Row, Granularity::Group(32)] {
        let (outcome, _, folder) = result(|recipe| {
            recipe.quantization.scale = ScaleChoice(granularity);
            (recipe.model.hidden, recipe.model.ffn) = (64, 96);
        });
        let outcome = outcome.unwrap();
        assert!(outcome.valid_loss.unwrap().is_finite());
        let run = RunFolder::new(folder.path().join("run"));
        assert_eq!(outcome.model, run.hugging_face());
        assert!(!run.model().exists());
    }
}

/// What no file can say ends a run before its first step, with an error that names the setting or the tensor.
#[test]
fn what_a_file_cannot_hold_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Recipe)| {
        let folder = tempfile::tempdir().unwrap();
        let mut recipe = small();
        change(&mut recipe);
        let options = options(folder.path(), "run", &recipe);
        let error = run(&options).unwrap_err().to_string();
        assert!(!RunFolder::new(&options.out).records().exists());
        error
    };
    let error = refused(&|recipe| recipe.quantization.act_bits = 0);
    assert!(error.contains("activation_bits"), "{error}");
    let error = refused(&|recipe| recipe.quantization.scale = ScaleChoice(Granularity::Group(48)));
    // The others have as many columns as one group at most, which is a scale a row.
    assert!(error.contains("down_proj"), "{error}");
}
