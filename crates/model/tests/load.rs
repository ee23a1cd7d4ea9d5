//! Loading, and the cache of what was loaded.

use bitnet_fixtures::moby;
use bitnet_format::Checkpoint;
use bitnet_model::{CacheFormat, ModelError, Quantization, Transformer, load, load_trainable};
use bitnet_ternary::quantize;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

fn device() -> Device {
    bitnet_model::device(bitnet_model::DeviceKind::default_name()).unwrap()
}

fn model(name: &str) -> Transformer {
    let loaded = load(&bitnet_format::open(moby(name)).unwrap(), &device()).unwrap();
    assert!(loaded.unused.is_empty(), "{:?}", loaded.unused);
    loaded.model
}

fn floats(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[test]
fn a_cache_that_grows_gives_what_one_of_the_right_size_gives() {
    let model = model("i2_s.gguf");
    let tokens: Vec<u32> = (0..150).map(|i| (i * 37) % 4000).collect();
    let mut whole = model.cache(150, CacheFormat::F32);
    let expected = floats(model.hidden(&tokens, &mut whole).unwrap());

    let mut cache = model.cache(1000, CacheFormat::F32);
    assert!(cache.is_empty());
    assert_eq!(cache.bytes(), 0, "it takes memory with its first tokens");
    // Two halves, four layers, two KV heads of 64 values of four bytes, 64 positions.
    let first = 2 * 4 * 2 * 64 * 4 * 64;
    let mut hidden = Vec::new();
    for part in tokens.chunks(40) {
        hidden.extend(floats(model.hidden(part, &mut cache).unwrap()));
        assert!(cache.len() > 40 || cache.bytes() == first);
    }
    assert_eq!(hidden, expected);
    assert_eq!((cache.len(), cache.bytes()), (150, 4 * first), "it has grown from 64 to 128 to 256 positions");

    let mut fork = cache.clone();
    fork.truncate(100);
    assert_eq!((fork.len(), cache.len()), (100, 150));
    let width = model.config().hidden_size;
    assert_eq!(floats(model.hidden(&tokens[100..], &mut fork).unwrap()), expected[100 * width..]);
}

#[test]
fn a_cache_keeps_its_limit_and_a_refusal_changes_nothing() {
    let model = model("packed-bitlinear");
    assert_eq!(model.cache(usize::MAX, CacheFormat::F32).limit(), model.config().context_length);
    let mut cache = model.cache(10, CacheFormat::F32);
    model.hidden(&[1; 8], &mut cache).unwrap();
    let error = model.hidden(&[1; 3], &mut cache).unwrap_err();
    assert!(matches!(error, ModelError::ContextFull { limit: 10, needed: 11 }), "{error}");
    let error = model.hidden(&[4096], &mut cache).unwrap_err();
    assert!(matches!(error, ModelError::TokenOutOfRange { token: 4096, vocab_size: 4096 }), "{error}");
    assert_eq!(cache.len(), 8);
    model.hidden(&[1; 2], &mut cache).unwrap();
}

/// The packed fixture with text of its header replaced by text of the same length.
fn renamed(from: &str, to: &str) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let source = moby("packed-autobitlinear");
    std::fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    let mut bytes = std::fs::read(source.join("model.safetensors")).unwrap();
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).expect("the header has this");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    bitnet_format::open(folder.path()).unwrap()
}

#[test]
fn what_is_missing_or_left_over_is_named() {
    for name in ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"] {
        let other = name.replace("weight", "xeight");
        let error = load(&renamed(&format!("{name}\""), &format!("{other}\"")), &device()).err().unwrap();
        assert!(error.to_string().contains(name), "{error}");
    }
    // A sub-norm that is not there is no error, but the tensor that bears another name is told.
    let loaded = load(&renamed("layers.3.mlp.ffn_sub_norm.weight", "layers.3.mlp.ffn_sub_mron.weight"), &device());
    assert_eq!(loaded.unwrap().unused, ["model.layers.3.mlp.ffn_sub_mron.weight"]);
    let bias = renamed("layers.3.mlp.ffn_sub_norm.weight", "layers.3.mlp.ffn_sub_norm_x.bias");
    let error = load(&bias, &device()).err().unwrap().to_string();
    assert!(error.contains("bias"), "{error}");
}

/// A model to be trained further, and the same file as a model that runs.
fn trainable(name: &str) -> (Transformer, Transformer) {
    let checkpoint = bitnet_format::open(moby(name)).unwrap();
    let loaded = load_trainable(&checkpoint, Quantization::BITNET, FloatDType::F32, &device().autodiff()).unwrap();
    assert!(loaded.unused.is_empty(), "{:?}", loaded.unused);
    (loaded.model, model(name))
}

#[test]
fn weights_to_be_trained_begin_as_the_model_that_runs() {
    let tokens: Vec<i32> = (0..40).map(|i| (i * 97) % 4000).collect();
    for name in ["master", "packed-bitlinear", "packed-autobitlinear", "i2_s.gguf"] {
        let (trainable, running) = trainable(name);
        for ((linear, latent), (_, running)) in trainable.linears().zip(running.linears()) {
            let (found, expected) = (latent.ternary().unwrap(), running.ternary().unwrap());
            assert_eq!(found.trits(), expected.trits(), "{name}, {linear}");
            // The scale is a mean again, of latent weights that are in f32.
            let (found, expected) = (found.scale().at(0, 0, found.cols()), expected.scale().at(0, 0, expected.cols()));
            assert!((found / expected - 1.0).abs() <= 2.0 * f32::EPSILON, "{name}, {linear}: {found} {expected}");
        }
        let ids = |device: &Device| {
            Tensor::<2, Int>::from_data(TensorData::new(tokens.clone(), [2, 20]), (device, DType::I32))
        };
        let logits = |model: &Transformer| model.forward(ids(model.device()));
        let packed = trainable.pack().unwrap();
        let expected: Vec<f32> = logits(&running).into_data().iter().collect();
        let difference = |found: Tensor<3>| {
            let found: Vec<f32> = found.into_data().iter().collect();
            bitnet_fixtures::difference(&found, &expected)
        };
        let found = difference(logits(&packed));
        // A scale that is off by a last bit turns an int8 code of a later layer now and then.
        assert!(found < 1e-2, "{name}: {found}");
        assert_eq!(
            logits(&trainable).inner().into_data().iter::<f32>().collect::<Vec<_>>(),
            logits(&packed).into_data().iter::<f32>().collect::<Vec<_>>(),
            "{name}: packing changes nothing"
        );
    }
}

#[test]
fn masters_are_the_latent_weights_as_they_are() {
    let checkpoint = bitnet_format::open(moby("master")).unwrap();
    let (trainable, _) = trainable("master");
    for (name, linear) in trainable.linears() {
        let masters = checkpoint.floats(&format!("{name}.weight")).unwrap();
        let latents: Vec<f32> = linear.latent_weights().unwrap().value().into_data().iter().collect();
        assert_eq!(latents, masters, "{name}");
        let [rows, cols] = [linear.d_output(), linear.d_input()];
        let expected = quantize::absmean(&masters, rows, cols, bitnet_ternary::Granularity::Tensor).unwrap();
        assert_eq!(linear.pack().unwrap().ternary().unwrap(), expected, "{name}");
    }
}
