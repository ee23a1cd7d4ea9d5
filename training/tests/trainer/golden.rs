//! A block and a whole model against PyTorch: outputs, loss, and the gradients of all parameters.

use bitnet_fixtures::{Golden, difference};
use bitnet_model::{Quantization, Transformer};
use bitnet_training::GradientSum;
use bitnet_training::data::Batch;
use bitnet_training::parameters::Parameters;
use bitnet_training::recipe::{Recipe, Size};
use bitnet_training::step::{DeviceBatch, inner_device};
use burn::tensor::{DType, Int, Tensor, TensorData};
use serde_json::Value;

use crate::support::{device, fill, floats, model};

/// The largest difference allowed, over the largest magnitude.
const TOLERANCE: f32 = 1e-5;

fn check(found: &[f32], golden: &Golden, name: &str) {
    let difference = difference(found, &golden.floats(name));
    assert!(difference <= TOLERANCE, "{name}: {difference}");
}

/// A recipe with the sizes of a golden file.
fn recipe(config: &Value, layers: usize) -> Recipe {
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let mut recipe = Size::Tiny.recipe();
    let model = &mut recipe.model;
    (model.layers, model.hidden, model.ffn) = (layers, size("hidden"), size("ffn"));
    (model.heads, model.kv_heads, model.context) = (size("heads"), size("kv_heads"), 64);
    assert_eq!(model.hidden / model.heads, size("head_dim"));
    assert_eq!(config["activation"], "relu2");
    recipe
}

/// Compares all gradients that the file has, and gives their number.
fn check_gradients(golden: &Golden, model: &Transformer, mut gradients: GradientSum) -> usize {
    let parameters = Parameters::of(model);
    let mut checked = 0;
    for (id, parameter) in parameters.in_order() {
        let name = format!("grad.{}", parameter.name);
        if golden.has(&name) {
            let found = gradients.remove(id).unwrap_or_else(|| panic!("{} has no gradient", parameter.name));
            check(&floats(found), golden, &name);
            checked += 1;
        }
    }
    assert_eq!(checked, golden.names().iter().filter(|name| name.starts_with("grad.")).count());
    checked
}

#[test]
fn a_block() {
    let golden = Golden::open("block.safetensors");
    let recipe = recipe(&golden.json("config"), 1);
    let model = model(&recipe, 8, Quantization::BITNET);
    let model = fill(model, |name| golden.has(name).then(|| golden.floats(name)));
    let given = |name: &str| {
        let shape: [usize; 2] = golden.shape(name).try_into().unwrap();
        Tensor::<2>::from_data(TensorData::new(golden.floats(name), shape), (&device().autodiff(), DType::F32))
    };
    let x = given("x").require_grad();
    let y = model.run_block(0, x.clone(), &model.sequences(&golden.sizes("segments")));
    check(&floats(y.clone().inner()), &golden, "y");
    let all = (y * given("dy")).sum().backward();
    check(&floats(x.grad(&all).unwrap()), &golden, "dx");
    let mut gradients = GradientSum::default();
    gradients.add(all, &model);
    assert_eq!(check_gradients(&golden, &model, gradients), 11);
}

fn batch(golden: &Golden) -> Batch {
    let ids = |name: &str| golden.integers(name).into_iter().map(|id| id as u32).collect();
    Batch {
        inputs: ids("ids"),
        targets: ids("targets"),
        loss: golden.integers("mask").into_iter().map(|counts| counts == 1).collect(),
        segments: golden.sizes("segments"),
    }
}

fn whole_model(golden: &Golden) -> Transformer {
    let config = golden.json("config");
    let recipe = recipe(&config, config["layers"].as_u64().unwrap() as usize);
    let vocab = config["vocab"].as_u64().unwrap() as usize;
    fill(model(&recipe, vocab, Quantization::BITNET), |name| Some(golden.floats(name)))
}

#[test]
fn a_model_with_its_loss() {
    let golden = Golden::open("model.safetensors");
    let model = whole_model(&golden);
    let batch = batch(&golden);
    let ids: Vec<i32> = batch.inputs.iter().map(|id| *id as i32).collect();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [batch.len()]), (model.device(), DType::I32));
    let logits = model.logits(model.hidden_of(ids, &model.sequences(&batch.segments)));
    check(&floats(logits.inner()), &golden, "logits");

    let count = batch.loss_targets() as f64;
    let mut gradients = GradientSum::default();
    let sum = DeviceBatch::new(&batch, &model, model.device(), None).backward(&model, 1.0 / count, &mut gradients);
    check(&[(sum / count) as f32], &golden, "loss");
    assert_eq!(check_gradients(&golden, &model, gradients), 24);
}

#[test]
fn recomputed_activations_and_parts_of_a_batch_give_the_same_gradients() {
    let golden = Golden::open("model.safetensors");
    let (model, whole) = (whole_model(&golden), batch(&golden));
    let count = whole.loss_targets() as f64;
    // Each sequence by itself: the mean is over the targets of all.
    let mut first = 0;
    let parts = whole.segments.iter().map(|length| {
        let tokens = first..first + length;
        first += length;
        Batch {
            inputs: whole.inputs[tokens.clone()].to_vec(),
            targets: whole.targets[tokens.clone()].to_vec(),
            loss: whole.loss[tokens].to_vec(),
            segments: vec![*length],
        }
    });
    let parts: Vec<Batch> = parts.collect();
    let counts: Vec<usize> = parts.iter().map(Batch::loss_targets).collect();
    assert!(counts[0] != counts[1], "the mean of the parts' means is another number");
    for (batches, checkpointed) in [(vec![whole], true), (parts.clone(), false), (parts, true)] {
        let (mut gradients, mut sum) = (GradientSum::default(), 0.0);
        for batch in &batches {
            let batch = DeviceBatch::new(batch, &model, model.device(), None);
            sum += match checkpointed {
                true => batch.backward_checkpointed(&model, 1.0 / count, &mut gradients),
                false => batch.backward(&model, 1.0 / count, &mut gradients),
            };
        }
        check(&[(sum / count) as f32], &golden, "loss");
        check_gradients(&golden, &model, gradients);
    }
}

#[test]
fn the_loss_of_packed_weights_is_that_of_the_model_in_training() {
    let golden = Golden::open("model.safetensors");
    let (model, batch) = (whole_model(&golden), batch(&golden));
    let packed = model.pack().unwrap();
    let in_training = DeviceBatch::new(&batch, &model, model.device(), None).loss(&model);
    let loss = DeviceBatch::new(&batch, &packed, &inner_device(&packed), None).loss(&packed);
    assert_eq!(floats(loss), floats(in_training.inner()));
}
