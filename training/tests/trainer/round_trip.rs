//! What was trained is what is written, and what is written is what runs.

use std::path::Path;

use bitnet_engine::{GenerationConfig, LanguageModel, SessionOptions};
use bitnet_model::{CacheFormat, Initialize, Quantization, Transformer};
use bitnet_ternary::Packing;
use bitnet_training::data::{Blocks, Prepare};
use bitnet_training::optimizer::Optimizer;
use bitnet_training::step::mean_loss;
use bitnet_training::{ExportFormat, RunFolder, RunOptions, TrainError, export};
use burn::tensor::{DType, Distribution, FloatDType, Int, Tensor, TensorData};

use crate::support::{device, floats, options, run, small};

const CONTEXT: usize = 160;

/// The model of the last checkpoint, as the trainer has it.
fn trained(options: &RunOptions) -> Transformer {
    let (recipe, folder) = (&options.recipe, RunFolder::new(&options.out));
    let tokenizer = folder.read_tokenizer().unwrap();
    let initialize = Initialize {
        config: recipe.config(tokenizer.tokenizer.vocab_size(), tokenizer.end_of_text()),
        sub_norms: true,
        inner_norms: false,
        quantization: Quantization::BITNET,
        storage: FloatDType::F16,
        linear_std: 1.0,
        embedding_std: 1.0,
        seed: 99,
    };
    let model = initialize.on(&device().autodiff()).unwrap();
    let loaded = folder.checkpoint(None).unwrap().expect("a finished run has a checkpoint");
    loaded.restore(model, &mut Optimizer::new(&recipe.optimizer)).unwrap()
}

fn ids<const D: usize>(values: &[i32], shape: [usize; D], model: &Transformer) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (model.device(), DType::I32))
}

fn logits(model: &Transformer) -> Vec<f32> {
    let tokens: Vec<i32> = (0..2 * CONTEXT as i32).map(|i| i * 37 % 256).collect();
    floats(model.forward(ids(&tokens, [2, CONTEXT], model)).inner_if_needed())
}

/// A tensor without the graph that it may be part of.
trait Plain {
    fn inner_if_needed(self) -> Self;
}

impl<const D: usize> Plain for Tensor<D> {
    fn inner_if_needed(self) -> Self {
        if self.device().is_autodiff() { self.inner() } else { self }
    }
}

fn same_linears(trained: &Transformer, found: &Transformer) {
    let mut compared = 0;
    for ((name, a), (other, b)) in trained.linears().zip(found.linears()) {
        assert_eq!(name, other);
        let x = Tensor::<2>::random([7, a.d_input()], Distribution::Normal(0.0, 2.0), (&device(), DType::F32));
        let in_training = a.forward(Tensor::from_inner(x.clone()));
        assert_eq!(floats(b.forward(x)), floats(in_training.inner()), "{name}");
        compared += 1;
    }
    assert_eq!(compared, 14);
}

/// The tokens that the model finds likeliest, one after the other, each from the whole text before it.
fn greedy(model: &Transformer, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens: Vec<i32> = prompt.iter().map(|id| *id as i32).collect();
    for _ in 0..count {
        let logits = model.forward(ids(&tokens, [1, tokens.len()], model));
        let last = floats(logits.slice_dim(1, tokens.len() - 1..tokens.len()).inner_if_needed());
        let best = (0..last.len()).reduce(|best, i| if last[i] > last[best] { i } else { best }).unwrap();
        tokens.push(best as i32);
    }
    tokens[prompt.len()..].iter().map(|id| *id as u32).collect()
}

fn greedy_by_the_engine(path: &Path, prompt: &[u32], count: usize) -> Vec<u32> {
    let checkpoint = bitnet_format::open(path).unwrap();
    let model = LanguageModel::load(&checkpoint, &device(), None).unwrap();
    assert_eq!(model.warnings(), [""; 0]);
    let mut session = model.session(SessionOptions { cache: CacheFormat::F32, ..Default::default() });
    let config =
        GenerationConfig { max_new_tokens: count, ignore_eos: true, temperature: 0.0, ..GenerationConfig::default() };
    session.generate(prompt, &config).unwrap().map(|step| step.unwrap().id).collect()
}

#[test]
fn a_trained_model_is_the_same_model_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = small();
    (recipe.model.context, recipe.batch.rows) = (CONTEXT, 2);
    let options = options(folder.path(), "run", &recipe);
    let outcome = run(&options).unwrap();
    assert_eq!((outcome.steps, outcome.tokens), (30, 30 * 2 * CONTEXT as u64));

    let run_folder = RunFolder::new(&options.out);
    let model = trained(&options);
    let expected = logits(&model);
    let tokenizer = run_folder.read_tokenizer().unwrap();
    let cache = run_folder.cache();
    let prepare = Prepare::new(&options.source, &tokenizer.tokenizer, &tokenizer.tokenizer_json, &cache);
    let data = prepare.run(&mut |_| {}).unwrap();
    let loss =
        |model: &Transformer| mean_loss(model, model.device(), Blocks::new(&data.valid, CONTEXT, 16, None).unwrap()).0;
    let in_training = loss(&model.without_gradients());
    let ln = outcome.valid_loss.unwrap();
    assert!(ln > 1.0 && ln < (tokenizer.tokenizer.vocab_size() as f64).ln(), "{ln}: it has learned something");

    let prompt = tokenizer.tokenizer.encode("The whale", true).unwrap();
    let text = greedy(&model, &prompt, 128);
    let again = folder.path().join("again");
    export(&model, &tokenizer, "again", ExportFormat::HfPackedBitLinear, &again, false).unwrap();
    let burnpack = folder.path().join("model.bpk");
    export(&model, &tokenizer, "model", ExportFormat::Burnpack, &burnpack, false).unwrap();
    for path in [run_folder.model(), run_folder.hugging_face(), again.clone(), burnpack] {
        let checkpoint = bitnet_format::open(&path).unwrap();
        let loaded = bitnet_model::load(&checkpoint, &device()).unwrap();
        assert!(loaded.unused.is_empty(), "{:?}", loaded.unused);
        // The divisors of `bitlinear` are neighbours of the inverse scales, at times.
        if path != again {
            same_linears(&model, &loaded.model);
            assert_eq!(logits(&loaded.model), expected, "{}", path.display());
        }
        let found = loss(&loaded.model);
        assert!((found - in_training).abs() < 1e-4, "{}: {found} {in_training}", path.display());
        assert!((ln - in_training).abs() < 1e-4, "{ln} {in_training}");
        assert_eq!(greedy_by_the_engine(&path, &prompt, 128), text, "{}", path.display());
    }

    let error = export(&model, &tokenizer, "again", ExportFormat::HfPacked, &again, false).unwrap_err();
    assert!(error.to_string().contains("again"), "{error}");
}

#[test]
fn every_packing_that_can_hold_the_model_holds_the_same_trits() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = small();
    recipe.run.max_steps = 2;
    let options = options(folder.path(), "run", &recipe);
    run(&options).unwrap();
    let (model, tokenizer) = (trained(&options), RunFolder::new(&options.out).read_tokenizer().unwrap());
    use Packing::{I2S, Iq1Bn, Iq2Bn, Tq1_0, Tq2_0};
    for packing in [I2S, Iq2Bn, Iq1Bn, Tq1_0, Tq2_0, Packing::Q2_0 { group: 64 }] {
        let path = folder.path().join(format!("{packing}.gguf"));
        match export(&model, &tokenizer, "model", ExportFormat::Gguf(packing), &path, false) {
            Ok(()) => {
                let loaded = bitnet_model::load(&bitnet_format::open(&path).unwrap(), &device()).unwrap().model;
                for ((name, a), (_, b)) in model.linears().zip(loaded.linears()) {
                    assert_eq!(a.ternary().unwrap().trits(), b.ternary().unwrap().trits(), "{packing}, {name}");
                }
            }
            Err(TrainError::Format(error)) => {
                let error = error.to_string();
                assert!(error.contains(&*path.to_string_lossy()), "{packing}: {error}");
                assert!(!path.exists());
            }
            Err(error) => panic!("{packing}: {error}"),
        }
    }
    let master = folder.path().join("master");
    export(&model, &tokenizer, "model", ExportFormat::HfMaster, &master, false).unwrap();
    let loaded = bitnet_model::load(&bitnet_format::open(&master).unwrap(), &device()).unwrap().model;
    same_linears(&model, &loaded);
}
