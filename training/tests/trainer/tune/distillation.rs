//! Distillation: its losses, the norms of a student, and runs.

use bitnet_format::open;
use bitnet_model::{Quantization, Transformer};
use bitnet_training::data::{Batch, Source};
use bitnet_training::metrics::{StepRecord, read_jsonl};
use bitnet_training::objective::{divergence, relation_divergence};
use bitnet_training::recipe::{DistillationRecipe, Recipe, WeightsChoice};
use bitnet_training::step::DeviceBatch;
use bitnet_training::{RunFolder, RunOptions};
use burn::tensor::{DType, Tensor, TensorData};

use crate::support::{device, floats, model, options, run, small, text};

fn wave(n: usize, step: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * step).sin() * 3.0).collect()
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&device(), DType::F32))
}

fn softmax(row: impl Iterator<Item = f64>) -> Vec<f64> {
    let row: Vec<f64> = row.map(f64::exp).collect();
    let sum: f64 = row.iter().sum();
    row.into_iter().map(|x| x / sum).collect()
}

/// `Σ p log(p / q)`.
fn from(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
}

#[test]
fn the_divergence_is_that_of_the_formula() {
    let (student, teacher) = (wave(15, 0.7), wave(15, 1.3));
    for temperature in [1.0, 2.0, 5.0] {
        let found = floats(divergence(tensor(&student, [3, 5]), tensor(&teacher, [3, 5]), temperature));
        for (row, found) in found.into_iter().enumerate() {
            let of = |values: &[f32]| softmax(values[row * 5..][..5].iter().map(|x| f64::from(*x) / temperature));
            let expected = from(&of(&teacher), &of(&student)) * temperature * temperature;
            assert!((f64::from(found) - expected).abs() < 1e-5 * expected.max(1.0), "{found} {expected}");
        }
    }
    assert_eq!(floats(divergence(tensor(&student, [3, 5]), tensor(&student, [3, 5]), 2.0)), [0.0; 3]);
}

#[test]
fn relations_are_those_of_the_formula_within_each_sequence() {
    let (tokens, heads, width, lengths) = (7, 2, 4, [3, 4]);
    let (student, teacher) = (wave(tokens * heads * width, 0.37), wave(tokens * heads * width, 0.91));
    let shape = [tokens, heads, width];
    let found = relation_divergence(tensor(&student, shape), tensor(&teacher, shape), &lengths).into_scalar::<f32>();
    let (mut expected, mut start) = (0.0, 0);
    for length in lengths {
        for (head, row) in (0..heads).flat_map(|head| (start..start + length).map(move |row| (head, row))) {
            let relation = |x: &[f32]| {
                let at = |token: usize| x[(token * heads + head) * width..][..width].iter().map(|x| f64::from(*x));
                let product = |other| at(row).zip(at(other)).map(|(a, b)| a * b).sum::<f64>() / (width as f64).sqrt();
                softmax((start..start + length).map(product))
            };
            expected += from(&relation(&teacher), &relation(&student));
        }
        start += length;
    }
    expected /= (heads * tokens) as f64;
    assert!((f64::from(found) - expected).abs() < 1e-5 * expected, "{found} {expected}");
    let same = relation_divergence(tensor(&student, shape), tensor(&student, shape), &lengths);
    assert_eq!(same.into_scalar::<f32>(), 0.0);
}

fn logits(model: &Transformer, batch: &Batch) -> Tensor<2> {
    let batch = DeviceBatch::new(batch, model, &device(), None);
    model.logits(model.hidden_of(batch.inputs(), batch.sequences()))
}

#[test]
fn norms_for_a_student_keep_it_near_its_teacher() {
    let mut recipe = small();
    recipe.model.sub_norms = false;
    let teacher = model(&recipe, 64, Quantization::None).without_gradients();
    let ids: Vec<u32> = (0..33).map(|i| i * 7 % 64).collect();
    let batch =
        Batch { inputs: ids[..32].to_vec(), targets: ids[1..].to_vec(), loss: vec![true; 32], segments: vec![20, 12] };
    let at_teacher = DeviceBatch::new(&batch, &teacher, &device(), None);
    let scales = teacher.projected_scales(at_teacher.inputs(), at_teacher.sequences());
    let distance = |scales: &[[f32; 2]]| {
        let student = teacher.clone().with_sub_norms(scales);
        assert!(student.has_sub_norms() && !teacher.has_sub_norms());
        divergence(logits(&student, &batch), logits(&teacher, &batch), 1.0).mean().into_scalar::<f32>()
    };
    let near = distance(&scales);
    for other in [0.25f32, 4.0] {
        let scaled: Vec<[f32; 2]> = scales.iter().map(|[a, b]| [a * other, b * other]).collect();
        assert!(near < distance(&scaled) / 2.0, "{near} {}", distance(&scaled));
    }
    assert!(near < distance(&[[1.0; 2]; 2]));
}

#[test]
fn a_float_run_becomes_a_ternary_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut float = small();
    float.quantization.weights = WeightsChoice::None;
    float.model.sub_norms = false;
    (float.run.max_steps, float.run.validate_every, float.run.checkpoint_every) = (200, 0, 200);
    let teacher = options(folder.path(), "teacher", &float);
    run(&teacher).unwrap();
    let from = RunFolder::new(&teacher.out).hugging_face();
    let source = Source::new(text(folder.path()));
    let mut recipe = Recipe::to_distill(&from, &source).unwrap();
    assert!(recipe.model.sub_norms && open(&from).unwrap().info("model.layers.0.mlp.ffn_sub_norm.weight").is_none());
    recipe.model.context = 32;
    recipe.batch.rows = 6;
    recipe.optimizer.learning_rate.peak = 2e-3;
    (recipe.run.max_steps, recipe.run.validate_every, recipe.run.checkpoint_every) = (40, 0, 8);
    let distillation =
        DistillationRecipe { likelihood: 0.0, relations: 1.0, layer: 1, ..recipe.distillation.clone().unwrap() };
    recipe.distillation = Some(distillation);
    let whole = options(folder.path(), "whole", &recipe);
    let outcome = run(&whole).unwrap();
    let records = read_jsonl(RunFolder::new(&whole.out).records()).unwrap();
    // What quantization has made of it, it learns to make up for.
    assert_eq!((records[0].lambda, records[4].lambda, records[39].lambda), (0.0, 1.0, 1.0));
    let mean = |part: &[StepRecord]| part.iter().map(|record| record.train_loss).sum::<f64>() / part.len() as f64;
    let (quantized, learned) = (mean(&records[4..7]), mean(&records[37..]));
    assert!(learned < 0.7 * quantized, "{quantized} {learned}");
    let student = open(&outcome.model).unwrap();
    assert!(student.info("model.layers.0.mlp.ffn_sub_norm.weight").is_some());
    assert!(outcome.valid_loss.unwrap() < 5.0);

    let half = options(folder.path(), "half", &recipe);
    let stop = std::sync::atomic::AtomicBool::new(false);
    bitnet_training::train(&half, &mut crate::support::StopAfter { step: 5, stop: &stop }, &stop).unwrap();
    run(&RunOptions { resume: true, ..half.clone() }).unwrap();
    let again = read_jsonl(RunFolder::new(&half.out).records()).unwrap();
    assert!(records.iter().zip(&again).all(|(a, b)| (a.train_loss, a.grad_norm) == (b.train_loss, b.grad_norm)));

    // A float student is its teacher, and has nothing to learn from it.
    recipe.quantization.weights = WeightsChoice::None;
    recipe.model.sub_norms = false;
    recipe.run.max_steps = 1;
    let twin = options(folder.path(), "twin", &recipe);
    run(&twin).unwrap();
    let records = read_jsonl(RunFolder::new(&twin.out).records()).unwrap();
    assert!(records[0].train_loss.abs() < 1e-6, "{}", records[0].train_loss);
}

#[test]
fn settings_that_cannot_be_are_named() {
    let mut recipe = small();
    recipe.from = Some("a/model".into());
    let good = DistillationRecipe { likelihood: 0.5, logits: 0.5, temperature: 2.0, relations: 0.0, layer: 1 };
    recipe.distillation = Some(good.clone());
    assert_eq!(recipe.check(), Ok(()));
    assert_eq!(Recipe::parse(&recipe.to_toml()).unwrap(), recipe);
    for (bad, name) in [
        (DistillationRecipe { temperature: 0.0, ..good.clone() }, "distillation.temperature"),
        (DistillationRecipe { logits: -1.0, ..good.clone() }, "distillation.logits"),
        (DistillationRecipe { relations: f64::NAN, ..good.clone() }, "distillation.relations"),
        (DistillationRecipe { layer: 2, ..good.clone() }, "distillation.layer"),
    ] {
        recipe.distillation = Some(bad);
        assert!(recipe.check().unwrap_err().to_string().starts_with(name));
    }
    recipe.distillation = Some(good);
    recipe.from = None;
    assert!(recipe.check().unwrap_err().to_string().contains("`from`"));
}
