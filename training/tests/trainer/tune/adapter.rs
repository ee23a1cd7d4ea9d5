//! Low-rank adapters beside trits that stay as they are.

use bitnet_fixtures::moby;
use bitnet_format::{Adapter, open};
use bitnet_model::{Quantization, Transformer, load, load_trainable};
use bitnet_training::data::{Batch, Source};
use bitnet_training::metrics::read_jsonl;
use bitnet_training::parameters::{Kind, Parameters};
use bitnet_training::recipe::{LoraRecipe, Recipe};
use bitnet_training::schedule::LearningRateSchedule;
use bitnet_training::step::DeviceBatch;
use bitnet_training::{ExportFormat, GradientSum, RunFolder, RunOptions, Trained, train};
use burn::tensor::{FloatDType, Int, Tensor, TensorData};

use crate::support::{StopAfter, device, floats, options, run};

fn logits(model: &Transformer) -> Vec<f32> {
    let ids: Vec<i64> = vec![4093, 673, 389, 17, 912];
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 5]), model.device());
    floats(model.forward(ids))
}

#[test]
fn a_fresh_adapter_adds_nothing_and_only_it_is_trained() {
    let checkpoint = open(moby("packed-bitlinear")).unwrap();
    let plain = load(&checkpoint, &device()).unwrap().model;
    let model = load(&checkpoint, &device().autodiff()).unwrap().model.with_fresh_adapter(4, 8.0, 1);
    let largest = logits(&plain).iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (a, b) in logits(&model.without_gradients()).iter().zip(logits(&plain)) {
        // A norm by itself and one inside the linear may round otherwise, and an activation with it.
        assert!((a - b).abs() <= 1e-2 * largest, "{a} {b}");
    }
    let parameters = Parameters::of(&model);
    assert_eq!(parameters.total(), parameters.count(Kind::Adapter));
    assert_eq!(parameters.in_order().len(), 4 * 7 * 2);
    assert_eq!(parameters.in_order()[0].1.name, "model.layers.0.self_attn.q_proj.lora_A.weight");
}

/// `y + scale · B A x`, in f64, for a layer whose input is known.
#[test]
fn the_branch_is_added_to_the_layer() {
    use bitnet_model::{BitLinearConfig, Lora};
    let device = device();
    let layer = BitLinearConfig::new(32, 3).init(&device).pack().unwrap();
    let values = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
    let matrix = |values: &[f32], shape| Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device);
    let (x, a, b) = (values(64, 0.3), values(64, 0.7), values(6, 1.1));
    let plain = floats(layer.forward(matrix(&x, [2, 32])));
    let lora = Lora::new(matrix(&a, [2, 32]), matrix(&b, [3, 2]), 0.5);
    let found = floats(layer.clone().with_lora(Some(lora)).forward(matrix(&x, [2, 32])));
    for token in 0..2 {
        for row in 0..3 {
            let inner =
                |r: usize| (0..32).map(|i| f64::from(a[r * 32 + i]) * f64::from(x[token * 32 + i])).sum::<f64>();
            let branch = 0.5 * (0..2).map(|r| f64::from(b[row * 2 + r]) * inner(r)).sum::<f64>();
            let at = token * 3 + row;
            assert!((f64::from(found[at]) - f64::from(plain[at]) - branch).abs() < 1e-5);
        }
    }
}

/// The gradients of an adapter beside packed trits are those beside the latent weights that are quantized to them.
#[test]
fn gradients_pass_through_packed_trits_as_through_latent_weights() {
    let checkpoint = open(moby("packed-bitlinear")).unwrap();
    let on = device().autodiff();
    let mut adapter = load(&checkpoint, &on).unwrap().model.with_fresh_adapter(4, 8.0, 1).adapter(None).unwrap();
    for part in adapter.linears.values_mut() {
        part.b.iter_mut().enumerate().for_each(|(i, b)| *b = (i as f32 * 0.7).sin() * 0.02);
    }
    let packed = load(&checkpoint, &on).unwrap().model.with_adapter(&adapter).unwrap();
    let latent = load_trainable(&checkpoint, Quantization::BITNET, FloatDType::F32, &on).unwrap().model;
    let latent = latent.with_adapter(&adapter).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| 300 + 7 * i % 50).collect();
    let batch =
        Batch { inputs: ids[..39].to_vec(), targets: ids[1..].to_vec(), loss: vec![true; 39], segments: vec![30, 9] };
    let gradients = |model: &Transformer| -> Vec<(String, Vec<f32>)> {
        let mut sum = GradientSum::default();
        DeviceBatch::new(&batch, model, model.device(), None).backward(model, 1.0, &mut sum);
        let parameters = Parameters::of(model);
        let each = parameters.in_order().into_iter();
        each.map(|(id, parameter)| (parameter.name.clone(), floats(sum.remove(id).unwrap()))).collect()
    };
    for ((name, a), (_, b)) in gradients(&packed).into_iter().zip(gradients(&latent)) {
        let largest = b.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let difference = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(largest > 0.0 && difference <= 1e-3 * largest, "{name}: {difference} of {largest}");
    }
}

#[test]
fn a_run_trains_an_adapter_that_runs_and_is_resumed_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let base = moby("i2_s.gguf");
    let text = folder.path().join("whale.txt");
    std::fs::write(&text, "The whale, the white whale, swam away from the ship.\n".repeat(40)).unwrap();
    let mut recipe = Recipe::to_finetune(&base, &Source::new(&text)).unwrap();
    recipe.lora = Some(LoraRecipe { rank: 4, alpha: 8.0 });
    recipe.optimizer.learning_rate.peak = 5e-3;
    recipe.optimizer.learning_rate.schedule = LearningRateSchedule::Constant;
    recipe.batch.rows = 2;
    recipe.model.context = 64;
    (recipe.run.max_steps, recipe.run.validate_every, recipe.run.checkpoint_every) = (12, 0, 4);
    let training = |name: &str| RunOptions { source: Source::new(&text), ..options(folder.path(), name, &recipe) };
    let whole = training("whole");
    let outcome = run(&whole).unwrap();
    let records = read_jsonl(RunFolder::new(&whole.out).records()).unwrap();
    assert!(records[11].train_loss < records[0].train_loss - 0.5, "{records:?}");
    assert!(outcome.model.ends_with("adapter") && !RunFolder::new(&whole.out).model().exists());

    // The trits are those of the model, and the adapter is what made the loss fall.
    let adapter = Adapter::open(&outcome.model).unwrap();
    assert_eq!((adapter.rank, adapter.alpha, adapter.linears.len()), (4, 8.0, 28));
    let plain = load(&open(&base).unwrap(), &device()).unwrap().model;
    let before = logits(&plain);
    assert_ne!(logits(&plain.clone().with_adapter(&adapter).unwrap()), before);
    let trained = Trained::open(&whole.out, None, &device()).unwrap();
    for ((_, a), (_, b)) in trained.model.linears().zip(plain.linears()) {
        assert_eq!(a.ternary().unwrap(), b.ternary().unwrap());
    }
    assert_eq!(trained.model.adapter(adapter.base.clone()).unwrap(), adapter);
    let out = folder.path().join("merged");
    let error = trained.export(ExportFormat::HfPacked, &out, false).unwrap_err().to_string();
    assert!(error.contains("--lora") && !out.exists(), "{error}");

    let half = training("half");
    let stop = std::sync::atomic::AtomicBool::new(false);
    train(&half, &mut StopAfter { step: 3, stop: &stop }, &stop).unwrap();
    run(&RunOptions { resume: true, ..half.clone() }).unwrap();
    assert_eq!(Adapter::open(RunFolder::new(&half.out).adapter()).unwrap(), adapter);

    let mut other = adapter.clone();
    let part = other.linears.pop_first().unwrap().1;
    other.linears.insert("model.layers.9.mlp.up_proj".into(), part);
    let error = plain.with_adapter(&other).unwrap_err().to_string();
    assert!(error.contains("model.layers.9.mlp.up_proj"), "{error}");
}
