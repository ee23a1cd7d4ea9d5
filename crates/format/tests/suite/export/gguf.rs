//! What is particular to GGUF files.

use bitnet_format::export::{Architecture, GgufOptions, HuggingFaceForm, TensorData, TensorKind};
use bitnet_format::{Activation, RopeScaling, StorageType, open};

use super::fake::{FORMS, Parts, SMALL, fake, noise};

#[test]
fn a_llama_has_its_rotary_pairs_interleaved() {
    let place = tempfile::tempdir().unwrap();
    let fake = fake(&Parts { sub_norms: false, head: true, ..SMALL });
    let path = place.path().join("m.gguf");
    let read = fake.gguf(&GgufOptions::default(), &path).unwrap();
    assert_eq!(read.config().architecture, "llama");
    assert_eq!(read.info("model.layers.1.self_attn.k_proj.weight").unwrap().interleaved_heads, Some(2));
    fake.assert_in(&read, |x| x);
    for form in FORMS {
        let read = fake.folder(form, &place.path().join(format!("{form:?}"))).unwrap();
        assert_eq!(read.config().architecture, "LlamaForCausalLM");
        if form != HuggingFaceForm::PackedBitLinear {
            fake.assert_in(&read, |x| x);
        }
    }
}

#[test]
fn float_rows_are_interleaved_too() {
    let place = tempfile::tempdir().unwrap();
    let mut fake = fake(&Parts { sub_norms: false, ..SMALL });
    for tensor in fake.model.tensors.iter_mut().filter(|t| t.kind == TensorKind::Ternary) {
        let count: usize = tensor.shape.iter().product();
        let values: Vec<f32> = (0..count).map(noise).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let is_q = tensor.name.ends_with("q_proj.weight");
        tensor.kind = if is_q { TensorKind::Stored(StorageType::F32) } else { TensorKind::Floats };
        let data = if is_q { TensorData::Stored(bytes.into()) } else { TensorData::Floats(values) };
        fake.data.insert(tensor.name.clone(), data);
    }
    let options = GgufOptions { floats: StorageType::F32, ..GgufOptions::default() };
    let read = fake.gguf(&options, &place.path().join("m.gguf")).unwrap();
    for name in ["q_proj", "k_proj", "v_proj"].map(|part| format!("model.layers.0.self_attn.{part}.weight")) {
        let found = read.floats(&name).unwrap();
        let meant: Vec<f32> = (0..found.len()).map(noise).collect();
        assert!(found == meant, "{name}");
    }
}

#[test]
fn other_families() {
    let place = tempfile::tempdir().unwrap();
    // Norms of Q and K, a norm before each linear, heads wider than the model, scaled rotation.
    let mut qwen = fake(&Parts { sub_norms: false, qk_norms: true, linear_norms: true, head_dim: 128, ..SMALL });
    qwen.model.config.rope_scaling = RopeScaling::Linear { factor: 2.5 };
    let read = qwen.gguf(&GgufOptions::default(), &place.path().join("q.gguf")).unwrap();
    assert_eq!(read.config().architecture, "qwen3");
    qwen.assert_in(&read, |x| x);
    assert_eq!(read.config().rope_scaling, RopeScaling::Linear { factor: 2.5 });
    let read = qwen.folder(HuggingFaceForm::PackedAutoBitLinear, &place.path().join("q")).unwrap();
    assert_eq!((&*read.config().architecture, read.config().linear_norm_eps), ("Qwen3ForCausalLM", 1e-5));
    qwen.assert_in(&read, |x| x);

    // What no other program runs goes by the name that makes them refuse it.
    let normed = fake(&Parts { sub_norms: false, linear_norms: true, ..SMALL });
    let read = normed.gguf(&GgufOptions::default(), &place.path().join("normed.gguf")).unwrap();
    assert_eq!(read.config().architecture, "bitnet-b1.58");
    normed.assert_in(&read, |x| x);
    let mut relu2 = fake(&Parts { sub_norms: false, ..SMALL });
    relu2.model.config.activation = Activation::Relu2;
    let read = relu2.gguf(&GgufOptions::default(), &place.path().join("no-sub-norms.gguf")).unwrap();
    assert_eq!(read.config().architecture, "bitnet-b1.58");
    relu2.assert_in(&read, |x| x);
    let read = relu2.folder(HuggingFaceForm::Master, &place.path().join("relu2")).unwrap();
    assert_eq!(read.config().architecture, "LlamaForCausalLM");
    relu2.assert_in(&read, |x| x);

    // Sub-norms with SiLU, and the choice of an architecture.
    let mut silu = fake(&SMALL);
    silu.model.config.activation = Activation::Silu;
    for architecture in [Architecture::Bitnet, Architecture::BitnetB158] {
        let options = GgufOptions { architecture: Some(architecture), ..GgufOptions::default() };
        let read = silu.gguf(&options, &place.path().join(format!("{architecture:?}.gguf"))).unwrap();
        silu.assert_in(&read, |x| x);
    }
    let relu2 = fake(&SMALL);
    let options = GgufOptions { architecture: Some(Architecture::Bitnet), ..GgufOptions::default() };
    let read = relu2.gguf(&options, &place.path().join("relu2.gguf")).unwrap();
    relu2.assert_in(&read, |x| x);

    // LLaMA 3's rotation: a divisor for each frequency in GGUF.
    let mut llama3 = fake(&Parts { sub_norms: false, ..SMALL });
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64 };
    llama3.model.config.rope_scaling = scaling.clone();
    let read = llama3.folder(HuggingFaceForm::Master, &place.path().join("l")).unwrap();
    assert_eq!(read.config().rope_scaling, scaling);
    let read = llama3.gguf(&GgufOptions::default(), &place.path().join("l.gguf")).unwrap();
    let RopeScaling::Factors(factors) = &read.config().rope_scaling else { panic!("factors") };
    assert_eq!((factors.len(), factors[0], factors[31]), (32, 1.0, 8.0));
    assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]));
    llama3.model.config.rope_scaling = RopeScaling::Factors(factors.clone());
    let read = llama3.gguf(&GgufOptions::default(), &place.path().join("f.gguf")).unwrap();
    assert_eq!(read.config(), open(place.path().join("l.gguf")).unwrap().config());
}
