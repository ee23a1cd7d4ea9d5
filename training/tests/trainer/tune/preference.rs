//! Preferences: the loss, its gradient, and a run.

use bitnet_model::Quantization;
use bitnet_training::data::{EachDocument, Source, prepare_pairs};
use bitnet_training::metrics::read_jsonl;
use bitnet_training::objective::{log_likelihoods, preference_loss};
use bitnet_training::recipe::{Packing, PreferenceRecipe, Recipe, TokenizerChoice};
use bitnet_training::step::DeviceBatch;
use bitnet_training::tokenizer::TokenizerFiles;
use bitnet_training::{GradientSum, RunFolder, RunOptions};
use burn::tensor::{DType, Tensor, TensorData};
use serde_json::json;

use crate::support::{device, floats, model, options, run, small};

fn tensor(values: &[f32]) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (&device().autodiff(), DType::F32))
}

/// The loss and its derivative by the log-likelihoods, by the formulas in f64.
fn by_hand(policy: &[f32], reference: &[f32], beta: f64) -> (f64, Vec<f64>) {
    let gain: Vec<f64> = policy.iter().zip(reference).map(|(p, r)| f64::from(*p) - f64::from(*r)).collect();
    let (mut loss, mut slopes) = (0.0, Vec::new());
    for pair in gain.chunks(2) {
        let z = beta * (pair[0] - pair[1]);
        let sigmoid = 1.0 / (1.0 + (-z).exp());
        loss -= sigmoid.ln();
        slopes.extend([-beta * (1.0 - sigmoid), beta * (1.0 - sigmoid)]);
    }
    (loss, slopes)
}

#[test]
fn the_loss_and_its_gradient_are_those_of_the_formula() {
    let policy = [-10.0, -12.0, -3.5, -3.5, -40.0, -1.0, -1.0, -200.0];
    let reference = [-11.0, -11.5, -3.5, -3.5, -20.0, -2.0, -300.0, -1.0];
    for beta in [0.1, 1.0] {
        let leaf = tensor(&policy).require_grad();
        let loss = preference_loss(leaf.clone(), tensor(&reference), beta);
        let gradient = floats(leaf.grad(&loss.clone().backward()).unwrap());
        let (expected, slopes) = by_hand(&policy, &reference, beta);
        let loss = f64::from(loss.into_scalar::<f32>());
        assert!((loss - expected).abs() < 1e-5 * expected, "{loss} {expected}");
        for (found, expected) in gradient.iter().zip(slopes) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}

#[test]
fn likelihoods_are_summed_by_sequence() {
    let sums = floats(log_likelihoods(tensor(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]), &[2, 1, 3]));
    assert_eq!(sums, [-3.0, -4.0, -56.0]);
}

fn pairs() -> String {
    let pair = |i: usize| json!({ "prompt": format!("Say {i}: "), "chosen": format!("yes {i}"), "rejected": "no" });
    (0..12).map(|i| pair(i).to_string() + "\n").collect()
}

/// A gradient of the whole model is the chain of the parts: slopes of the loss by the likelihoods, and the gradients of
/// these.
#[test]
fn the_gradient_of_a_model_is_that_of_its_likelihoods() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.jsonl");
    std::fs::write(&path, pairs()).unwrap();
    let tokenizer = TokenizerFiles::bytes(false).unwrap();
    let data = prepare_pairs(&Source::new(path), None, &tokenizer.tokenizer, 32, 50, folder.path()).unwrap();
    assert_eq!(data.train.documents() + data.valid.documents(), 24);
    let batch = EachDocument::new(&data.train, 32, 2, None).unwrap().next().unwrap();
    let model = model(&small(), tokenizer.tokenizer.vocab_size(), Quantization::BITNET);
    let device_batch = DeviceBatch::new(&batch, &model, model.device(), None);
    let likelihoods = || log_likelihoods(device_batch.negative_log_likelihoods(&model), device_batch.lengths());
    let reference = [-30.0, -31.0];
    let beta = 0.5;
    let loss = preference_loss(likelihoods(), tensor(&reference), beta);
    let (expected, slopes) = by_hand(&floats(likelihoods()), &reference, beta);
    assert!((f64::from(loss.clone().into_scalar::<f32>()) - expected).abs() < 1e-5);

    let parameters = bitnet_training::parameters::Parameters::of(&model);
    let mut whole = GradientSum::default();
    whole.add(loss.backward(), &model);
    let weighted = (likelihoods() * tensor(&slopes.iter().map(|slope| *slope as f32).collect::<Vec<_>>())).sum();
    let mut chained = GradientSum::default();
    chained.add(weighted.backward(), &model);
    for (id, parameter) in parameters.in_order() {
        let [a, b] = [&mut whole, &mut chained].map(|sum| floats(sum.remove(id).unwrap()));
        let largest = b.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{}", parameter.name);
    }
}

#[test]
fn a_run_learns_the_preference_and_is_resumed_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = small();
    first.run.max_steps = 20;
    let base = options(folder.path(), "base", &first);
    run(&base).unwrap();

    let mut recipe = Recipe::to_prefer(&RunFolder::new(&base.out).hugging_face()).unwrap();
    assert_eq!(recipe.preference, Some(PreferenceRecipe { beta: 0.1 }));
    recipe.preference = Some(PreferenceRecipe { beta: 0.5 });
    recipe.optimizer.learning_rate.peak = 2e-3;
    recipe.batch.rows = 4;
    (recipe.run.max_steps, recipe.run.validate_every, recipe.run.checkpoint_every) = (12, 4, 6);
    let path = folder.path().join("pairs.jsonl");
    std::fs::write(&path, pairs()).unwrap();
    let preferring =
        |name: &str, recipe: &Recipe| RunOptions { source: Source::new(&path), ..options(folder.path(), name, recipe) };
    let whole = preferring("whole", &recipe);
    let outcome = run(&whole).unwrap();
    let records = read_jsonl(RunFolder::new(&whole.out).records()).unwrap();
    // Where model and reference are the same, each pair costs log 2.
    assert!((records[0].train_loss - std::f64::consts::LN_2).abs() < 1e-4, "{}", records[0].train_loss);
    assert!(records[11].train_loss < 0.5, "{}", records[11].train_loss);
    assert!(outcome.valid_loss.unwrap() < 0.6, "{outcome:?}");
    // What is preferred is the same in all pairs, and so learned of those that are held out.
    assert_eq!(outcome.preference_accuracy, Some(1.0));
    assert_eq!(records[11].valid.unwrap().accuracy, Some(1.0));
    let report = std::fs::read_to_string(RunFolder::new(&whole.out).report()).unwrap();
    assert!(report.contains("Preference accuracy") && report.contains("100.0 %"));

    let half = preferring(
        "half",
        &Recipe { run: bitnet_training::recipe::RunRecipe { max_steps: 12, ..recipe.run.clone() }, ..recipe.clone() },
    );
    let stop = std::sync::atomic::AtomicBool::new(false);
    bitnet_training::train(&half, &mut crate::support::StopAfter { step: 5, stop: &stop }, &stop).unwrap();
    run(&RunOptions { resume: true, ..half.clone() }).unwrap();
    let read = |options: &RunOptions| std::fs::read(RunFolder::new(&options.out).model()).unwrap();
    // Files differ in the model's name, which is the folder's; the losses do not.
    assert_eq!(read(&whole).len(), read(&half).len());
    let again = read_jsonl(RunFolder::new(&half.out).records()).unwrap();
    let losses = |records: &[bitnet_training::metrics::StepRecord]| -> Vec<(f64, f64)> {
        records.iter().map(|record| (record.train_loss, record.grad_norm)).collect()
    };
    assert_eq!(losses(&again), losses(&records));
}

#[test]
fn pairs_that_do_not_fit_and_recipes_without_a_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.jsonl");
    std::fs::write(&path, pairs()).unwrap();
    let tokenizer = TokenizerFiles::bytes(false).unwrap().tokenizer;
    let error = prepare_pairs(&Source::new(&path), None, &tokenizer, 8, 50, folder.path()).unwrap_err().to_string();
    assert!(error.contains("pairs.jsonl:1") && error.contains("context of 8"), "{error}");

    let mut recipe = small();
    recipe.preference = Some(PreferenceRecipe { beta: 0.1 });
    assert!(recipe.check().unwrap_err().to_string().contains("`from`"));
    recipe.preference = None;
    recipe.tokenizer = TokenizerChoice::Model;
    recipe.batch.packing = Packing::Documents;
    assert!(recipe.check().unwrap_err().to_string().contains("`from`"));
    assert_eq!(Recipe { from: Some("a/model".into()), ..recipe.clone() }.check(), Ok(()));
    recipe.from = Some("a/model".into());
    assert_eq!(Recipe::parse(&recipe.to_toml()).unwrap(), recipe);
}
