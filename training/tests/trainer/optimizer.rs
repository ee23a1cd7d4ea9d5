//! AdamW and Muon against PyTorch, the clipping of all gradients together, and what an optimizer remembers.

use bitnet_fixtures::{Golden, difference};
use bitnet_model::Quantization;
use bitnet_model::Transformer;
use bitnet_model::ops::training::{AdamW, adamw};
use bitnet_training::GradientSum;
use bitnet_training::optimizer::{Optimizer, StepSize};
use bitnet_training::parameters::{Kind, Parameters};
use bitnet_training::recipe::{OptimizerKind, OptimizerRecipe, Size};
use burn::module::ParamId;
use burn::tensor::{DType, Tensor, TensorData};

use crate::support::{device, fill, floats, model};

/// A model whose `gate_proj` is `[ffn, hidden]`, and `down_proj` `[hidden, ffn]`, of the sizes that the files have.
fn network(hidden: usize, ffn: usize) -> Transformer {
    let mut recipe = Size::Tiny.recipe();
    let sizes = &mut recipe.model;
    (sizes.layers, sizes.hidden, sizes.ffn, sizes.heads, sizes.kv_heads) = (1, hidden, ffn, 1, 1);
    model(&recipe, 4, Quantization::BITNET)
}

const GATE: &str = "model.layers.0.mlp.gate_proj.weight";
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

fn id_of(model: &Transformer, name: &str) -> ParamId {
    let parameters = Parameters::of(model);
    let found = parameters.in_order().into_iter().find(|(_, parameter)| parameter.name == name);
    found.unwrap_or_else(|| panic!("no parameter named {name}")).0
}

fn latent(model: &Transformer, name: &str) -> Tensor<2> {
    let linear = model.linears().find(|(linear, _)| format!("{linear}.weight") == name).unwrap().1;
    linear.latent_weights().unwrap().value()
}

/// These gradients for the linears named: those of a sum of products.
fn gradients(model: &Transformer, wanted: &[(&str, Vec<f32>)]) -> GradientSum {
    let products = wanted.iter().map(|(name, gradient)| {
        let w = latent(model, name);
        let gradient = TensorData::new(gradient.clone(), w.dims());
        (w.clone() * Tensor::<2>::from_data(gradient, (&w.device(), DType::F32))).sum()
    });
    let mut sum = GradientSum::default();
    sum.add(products.reduce(|a, b| a + b).unwrap().backward(), model);
    sum
}

fn recipe(kind: OptimizerKind) -> OptimizerRecipe {
    OptimizerRecipe { kind, beta_2: 0.95, ..Size::Tiny.recipe().optimizer }
}

#[test]
fn adamw_is_that_of_pytorch() {
    let golden = Golden::open("adamw.safetensors");
    let settings = golden.json("settings");
    let number = |key: &str| settings[key].as_f64().unwrap();
    let rates: Vec<f64> = settings["lr"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap()).collect();
    let recipe = recipe(OptimizerKind::AdamW);
    assert_eq!((recipe.epsilon, number("max_norm")), (number("eps"), 1.0));

    let mut model = fill(network(6, 4), |name| (name == GATE).then(|| golden.floats("start.matrix")));
    let parameters = Parameters::of(&model);
    let mut optimizer = Optimizer::new(&recipe);
    let line = |values: Vec<f32>| {
        let count = values.len();
        Tensor::<1>::from_data(TensorData::new(values, [count]), (&device(), DType::F32))
    };
    let mut vector = line(golden.floats("start.vector"));
    let mut means = [vector.zeros_like(), vector.zeros_like()];
    for (step, rate) in rates.into_iter().enumerate() {
        let gradient = |name: &str| golden.floats(&format!("grad.{step}.{name}"));
        // The norm is that of both together.
        let norm = f64::from(golden.floats(&format!("norm.{step}"))[0]);
        let gradient_scale = (1.0 / norm).min(1.0);
        let size = StepSize { learning_rate: rate, weight_decay: number("weight_decay"), gradient_scale };
        let sum = gradients(&model, &[(GATE, gradient("matrix"))]);
        model = optimizer.step(model, &parameters, sum, size);
        let expected = golden.floats(&format!("after.{step}.matrix"));
        let error = difference(&floats(latent(&model, GATE)), &expected);
        assert!(error < 1e-6, "step {step}: {error}");

        let how = AdamW {
            learning_rate: rate as f32,
            beta_1: 0.9,
            beta_2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: gradient_scale as f32,
            step: step as u32 + 1,
        };
        (vector, means) = adamw(vector, line(gradient("vector")), means, how);
        let error = difference(&floats(vector.clone()), &golden.floats(&format!("after.{step}.vector")));
        assert!(error < 1e-6, "step {step}: {error}");
    }
}

#[test]
fn muon_is_the_published_one() {
    let golden = Golden::open("muon.safetensors");
    let settings = golden.json("settings");
    let size = StepSize {
        learning_rate: settings["lr"].as_f64().unwrap(),
        weight_decay: settings["weight_decay"].as_f64().unwrap(),
        gradient_scale: 1.0,
    };
    let names = [(GATE, "tall"), (DOWN, "wide")];
    let start = |name: &str| names.iter().find(|(linear, _)| *linear == name).map(|(_, name)| format!("start.{name}"));
    let mut model = fill(network(6, 10), |name| start(name).map(|name| golden.floats(&name)));
    let parameters = Parameters::of(&model);
    let mut optimizer = Optimizer::new(&recipe(OptimizerKind::Muon));
    for step in 0..3 {
        let wanted = names.map(|(linear, name)| (linear, golden.floats(&format!("grad.{step}.{name}"))));
        let sum = gradients(&model, &wanted);
        model = optimizer.step(model, &parameters, sum, size);
        for (linear, name) in names {
            let expected = golden.floats(&format!("after.{step}.{name}"));
            let error = difference(&floats(latent(&model, linear)), &expected);
            assert!(error < 1e-5, "step {step}, {name}: {error}");
        }
    }
}

#[test]
fn the_norm_is_that_of_all_gradients_together() {
    let model = network(6, 10);
    let sum = gradients(&model, &[(GATE, vec![0.3; 60]), (DOWN, vec![-0.4; 60])]);
    let norm = sum.norm(&Parameters::of(&model));
    assert!((norm - (60.0f64 * 0.25).sqrt()).abs() < 1e-6, "{norm}");
    assert_eq!(GradientSum::default().norm(&Parameters::of(&model)), 0.0);
}

#[test]
fn a_gradient_that_is_not_finite_is_found_by_name() {
    let model = network(6, 10);
    let parameters = Parameters::of(&model);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut gradient = vec![0.1; 60];
        gradient[59] = bad;
        let sum = gradients(&model, &[(GATE, vec![0.3; 60]), (DOWN, gradient)]);
        assert!(!sum.norm(&parameters).is_finite());
        assert_eq!(sum.first_not_finite(&parameters).as_deref(), Some(DOWN));
    }
    let sum = gradients(&model, &[(GATE, vec![0.3; 60])]);
    assert_eq!(sum.first_not_finite(&parameters), None);
}

#[test]
fn only_the_linears_decay_and_what_has_no_gradient_stays() {
    let model = network(6, 10);
    let parameters = Parameters::of(&model);
    let before = latent(&model, DOWN);
    let mut sum = GradientSum::default();
    // Gradients of zero for one linear and one norm.
    let (_, norm) = model.norms().next().unwrap();
    let zero = (latent(&model, GATE) * 0.0).sum() + (norm.weight().val() * 0.0).sum();
    sum.add(zero.backward(), &model);
    let gate = floats(latent(&model, GATE));
    let size = StepSize { learning_rate: 0.5, weight_decay: 0.5, gradient_scale: 1.0 };
    let model = Optimizer::new(&recipe(OptimizerKind::AdamW)).step(model, &parameters, sum, size);
    let expected: Vec<f32> = gate.iter().map(|w| w * 0.75).collect();
    assert_eq!(floats(latent(&model, GATE)), expected);
    assert_eq!(floats(model.norms().next().unwrap().1.weight().val()), [1.0; 6]);
    assert_eq!(floats(latent(&model, DOWN)), floats(before));
    assert_eq!(parameters.in_order().iter().filter(|(_, p)| p.kind == Kind::Linear).count(), 7);
}

#[test]
fn an_optimizer_that_was_restored_goes_on_as_if_it_had_not_been() {
    for kind in [OptimizerKind::AdamW, OptimizerKind::Muon] {
        let size = StepSize { learning_rate: 0.01, weight_decay: 0.1, gradient_scale: 0.5 };
        let step = |model: Transformer, optimizer: &mut Optimizer, step: u32| {
            let gradient = |factor: f32| (0..60).map(|i| ((i * 7 + step) % 11) as f32 * factor - 0.3).collect();
            let sum = gradients(&model, &[(GATE, gradient(0.1)), (DOWN, gradient(0.07))]);
            let parameters = Parameters::of(&model);
            optimizer.step(model, &parameters, sum, size)
        };
        let mut first = Optimizer::new(&recipe(kind));
        let model = (0..3).fold(network(6, 10), |model, n| step(model, &mut first, n));

        let parameters = Parameters::of(&model);
        let mut second = Optimizer::new(&recipe(kind));
        let restored = second.restore(&parameters, 3, |parameter, part| {
            let state = first.state(id_of(&model, &parameter.name));
            let (_, found) = state.into_iter().find(|(name, _)| *name == part).ok_or(())?;
            Ok::<_, ()>(found.clone())
        });
        // The parameters without a gradient have no state yet, which is an error and not a fresh start.
        assert_eq!(restored, Err(()));
        let zeros = |shape: &[usize]| Tensor::<1>::zeros([shape.iter().product::<usize>()], &device());
        let restored = second.restore(&parameters, 3, |parameter, part| {
            let state = first.state(id_of(&model, &parameter.name));
            let found = state.into_iter().find(|(name, _)| *name == part);
            Ok::<_, ()>(found.map_or_else(|| zeros(&parameter.shape), |(_, found)| found.clone()))
        });
        assert_eq!(restored, Ok(()));
        let (a, b) = (step(model.clone(), &mut first, 3), step(model, &mut second, 3));
        for name in [GATE, DOWN] {
            assert_eq!(floats(latent(&a, name)), floats(latent(&b, name)));
        }
    }
}
