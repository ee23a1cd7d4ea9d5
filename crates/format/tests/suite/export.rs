//! Whole models written and read again.

use std::collections::HashMap;
use std::path::Path;

use bitnet_fixtures::moby;
use bitnet_format::export::{
    Architecture, GgufOptions, HuggingFaceForm, HuggingFaceOptions, Model, Tensor, TensorData, TensorKind, write_gguf,
    write_hugging_face,
};
use bitnet_format::{
    Activation, Checkpoint, FormatError, GgufTokenizer, Metadata, ModelConfig, RopeScaling, ScaleDirection,
    StorageType, TokenizerSource, open,
};
use bitnet_ternary::{Granularity, Packing, Scale, TernaryMatrix, quantize};
use half::f16;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::common::{assert_says, trits};

/// A model in memory.
struct Fake {
    model: Model,
    data: HashMap<String, TensorData>,
}

/// What a [`Fake`] is made of.
#[derive(Debug, Clone)]
struct Parts {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    mlp: usize,
    layers: usize,
    vocab: usize,
    sub_norms: bool,
    qk_norms: bool,
    linear_norms: bool,
    head: bool,
}

/// 256 wide, so that every packing holds it.
const SMALL: Parts = Parts {
    hidden: 256,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    mlp: 512,
    layers: 2,
    vocab: 12,
    sub_norms: true,
    qk_norms: false,
    linear_norms: false,
    head: false,
};

fn noise(index: usize) -> f32 {
    ((index as u32).wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

fn fake(parts: &Parts) -> Fake {
    let Parts { hidden, heads, kv_heads, head_dim, mlp, layers, vocab, .. } = *parts;
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let mut layer = vec![("input_layernorm", vec![hidden]), ("post_attention_layernorm", vec![hidden])];
    let linears = [
        ("self_attn.q_proj", q, hidden),
        ("self_attn.k_proj", kv, hidden),
        ("self_attn.v_proj", kv, hidden),
        ("self_attn.o_proj", hidden, q),
        ("mlp.gate_proj", mlp, hidden),
        ("mlp.up_proj", mlp, hidden),
        ("mlp.down_proj", hidden, mlp),
    ];
    layer.extend(linears.map(|(name, rows, cols)| (name, vec![rows, cols])));
    if parts.sub_norms {
        layer.extend([("self_attn.attn_sub_norm", vec![q]), ("mlp.ffn_sub_norm", vec![mlp])]);
    }
    if parts.qk_norms {
        layer.extend([("self_attn.q_norm", vec![head_dim]), ("self_attn.k_norm", vec![head_dim])]);
    }
    let mut shapes = vec![("model.embed_tokens.weight".to_string(), vec![vocab, hidden])];
    for index in 0..layers {
        shapes.extend(layer.iter().map(|(part, shape)| (format!("model.layers.{index}.{part}.weight"), shape.clone())));
        if parts.linear_norms {
            shapes.extend(
                linears.map(|(part, _, cols)| (format!("model.layers.{index}.{part}.norm.weight"), vec![cols])),
            );
        }
    }
    shapes.push(("model.norm.weight".to_string(), vec![hidden]));
    if parts.head {
        shapes.push(("lm_head.weight".to_string(), vec![vocab, hidden]));
    }
    let mut data = HashMap::new();
    let mut tensors = Vec::new();
    for (number, (name, shape)) in shapes.into_iter().enumerate() {
        match shape[..] {
            [rows, cols] if name.ends_with("_proj.weight") => {
                let codes = trits(rows * cols + number).split_off(number);
                let scale = 0.01 + noise(number).abs();
                let matrix = TernaryMatrix::from_trits(rows, cols, &codes, Scale::Tensor(scale)).unwrap();
                data.insert(name.clone(), TensorData::Ternary(matrix));
                tensors.push(Tensor::ternary(name, rows, cols));
            }
            _ => {
                let count: usize = shape.iter().product();
                let values = (0..count).map(|i| f16::from_f32(noise(i + 31 * number)).to_f32()).collect();
                data.insert(name.clone(), TensorData::Floats(values));
                tensors.push(Tensor::floats(name, &shape));
            }
        }
    }
    let config = ModelConfig {
        architecture: "in memory".to_string(),
        hidden_size: hidden,
        intermediate_size: mlp,
        num_layers: layers,
        num_heads: heads,
        num_kv_heads: kv_heads,
        head_dim,
        vocab_size: vocab,
        context_length: 64,
        rope_theta: 10_000.0,
        rope_dim: head_dim,
        rope_scaling: RopeScaling::None,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        sliding_window: None,
        embedding_scale: 1.0,
        norm_offset: 0.0,
        rms_norm_eps: 1e-5,
        activation: if parts.sub_norms { Activation::Relu2 } else { Activation::Silu },
        tie_word_embeddings: Some(!parts.head),
        bos_token_ids: vec![9],
        eos_token_ids: vec![10, 11],
        weight_scale: ScaleDirection::Multiply,
        linear_norm_eps: 1e-5,
        activation_bits: Some(8),
    };
    let tokenizer = TokenizerSource::Hf {
        path: "tokenizer.json".into(),
        tokenizer_json: tokenizer_json().to_string().into_bytes().into(),
        tokenizer_config: None,
        chat_template: Some("{{ messages }}".to_string()),
        generation_config: Some(json!({ "temperature": 0.7, "eos_token_id": 3 })),
    };
    Fake { model: Model { name: "fake".to_string(), config, tokenizer, tensors }, data }
}

/// Nine tokens of bytes, a hole, and three added tokens; id 8 is nothing.
fn tokenizer_json() -> Json {
    json!({
        "added_tokens": [
            { "id": 9, "content": "<s>", "special": true },
            { "id": 10, "content": "</s>", "special": true },
            { "id": 11, "content": "<tool>", "special": false },
        ],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": true },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [9], "tokens": ["<s>"] } },
        },
        "decoder": { "type": "ByteLevel" },
        "model": {
            "type": "BPE",
            "vocab": { "a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "Ġa": 5, "abc": 6, "d": 7 },
            "merges": ["a b", ["Ġ", "a"], "ab c"],
        },
    })
}

impl Fake {
    fn gguf(&self, options: &GgufOptions, path: &Path) -> Result<Checkpoint, FormatError> {
        write_gguf(&self.model, options, path, false, |tensor| self.data_of(tensor))?;
        open(path)
    }

    fn folder(&self, form: HuggingFaceForm, path: &Path) -> Result<Checkpoint, FormatError> {
        write_hugging_face(&self.model, &folder_of(form), path, false, |tensor| self.data_of(tensor))?;
        open(path)
    }

    fn data_of(&self, tensor: &Tensor) -> Result<TensorData, FormatError> {
        Ok(self.data[&tensor.name].clone())
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.model.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    fn matrix(&mut self, name: &str, change: impl FnOnce(&TernaryMatrix) -> TernaryMatrix) {
        let Some(TensorData::Ternary(matrix)) = self.data.get_mut(name) else { panic!("{name} is no matrix") };
        *matrix = change(matrix);
    }

    /// Asserts that a checkpoint has every tensor of this model and means the same by its configuration.
    fn assert_in(&self, read: &Checkpoint, scale: impl Fn(f32) -> f32) {
        for tensor in &self.model.tensors {
            match &self.data[&tensor.name] {
                TensorData::Ternary(matrix) => {
                    let linear = tensor.name.trim_end_matches(".weight");
                    let found = read.ternary(linear, matrix.rows(), matrix.cols()).unwrap();
                    assert!(found.words() == matrix.words(), "{}", tensor.name);
                    assert_eq!(found.scale().granularity(), matrix.scale().granularity(), "{}", tensor.name);
                    let scales: Vec<f32> = matrix.scale().values().iter().map(|x| scale(*x)).collect();
                    assert_eq!(found.scale().values(), scales, "{}", tensor.name);
                }
                TensorData::Floats(values) => {
                    assert!(&read.floats(&tensor.name).unwrap() == values, "{}", tensor.name)
                }
                TensorData::Stored(bytes) => assert_eq!(read.bytes(&tensor.name).unwrap(), bytes, "{}", tensor.name),
                TensorData::Reader(_) => unreachable!("a model in memory"),
            }
        }
        let (meant, found) = (&self.model.config, read.config());
        let expected = ModelConfig {
            architecture: found.architecture.clone(),
            weight_scale: found.weight_scale,
            rms_norm_eps: found.rms_norm_eps,
            linear_norm_eps: found.linear_norm_eps,
            rope_theta: found.rope_theta,
            rope_scaling: found.rope_scaling.clone(),
            tie_word_embeddings: Some(self.model.tensors.iter().all(|t| t.name != "lm_head.weight")),
            ..meant.clone()
        };
        assert_eq!(found, &expected);
        assert_eq!(found.rms_norm_eps as f32, meant.rms_norm_eps as f32);
        assert_eq!(found.rope_theta as f32, meant.rope_theta as f32);
    }
}

/// Nothing but `name` lies in a folder.
fn assert_only(folder: &Path, name: &str) {
    let names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [name]);
}

fn folder_of(form: HuggingFaceForm) -> HuggingFaceOptions {
    HuggingFaceOptions { form, dtype: StorageType::F32 }
}

fn packed(packing: Packing) -> GgufOptions {
    GgufOptions { packing, ..GgufOptions::default() }
}

const FORMS: [HuggingFaceForm; 3] =
    [HuggingFaceForm::PackedAutoBitLinear, HuggingFaceForm::PackedBitLinear, HuggingFaceForm::Master];

#[test]
fn the_fixture_goes_through_every_packing() {
    let place = tempfile::tempdir().unwrap();
    for (packing, half_scales) in [
        (Packing::I2S, false),
        (Packing::Tq1_0, true),
        (Packing::Tq2_0, true),
        (Packing::Iq2Bn, false),
        (Packing::Iq2BnR4, false),
        (Packing::Iq1Bn, true),
    ] {
        let source = open(moby(if half_scales { "packed-bitlinear" } else { "master" })).unwrap();
        let model = Model::of(&source, "moby").unwrap();
        let path = place.path().join("moby.gguf");
        write_gguf(&model, &packed(packing), &path, true, |tensor| tensor.read(&source)).unwrap();
        assert_only(place.path(), "moby.gguf");
        let read = open(&path).unwrap();
        assert!(read.notes().is_empty(), "{:?}", read.notes());
        assert_same_model(&source, &read, &model, |x| if half_scales { f16::from_f32(x).to_f32() } else { x });
        assert_eq!(read.config().architecture, "bitnet-b1.58");

        let TokenizerSource::Gguf(found) = read.tokenizer_files().unwrap() else { panic!("a GGUF vocabulary") };
        let TokenizerSource::Gguf(expected) = open(moby("i2_s.gguf")).unwrap().tokenizer_files().unwrap() else {
            panic!("a GGUF vocabulary")
        };
        let chat_template = std::fs::read_to_string(moby("master").join("chat_template.jinja")).unwrap();
        let expected = GgufTokenizer {
            path: path.clone(),
            scores: Vec::new(),
            pad: None,
            chat_template: Some(chat_template),
            ..expected
        };
        assert!(found == expected, "another vocabulary than the one converted elsewhere");
    }
}

#[test]
fn the_fixture_goes_through_every_folder() {
    let place = tempfile::tempdir().unwrap();
    for form in FORMS {
        for name in ["master", "packed-bitlinear"] {
            let source = open(moby(name)).unwrap();
            let model = Model::of(&source, "moby").unwrap();
            let path = place.path().join("moby");
            write_hugging_face(&model, &folder_of(form), &path, true, |tensor| tensor.read(&source)).unwrap();
            assert_only(place.path(), "moby");
            let read = open(&path).unwrap();
            assert!(read.notes().is_empty(), "{:?}", read.notes());
            // Not every f32 is the inverse of one.
            let divides = form == HuggingFaceForm::PackedBitLinear;
            assert_eq!(read.config().weight_scale == ScaleDirection::Divide, divides);
            assert_same_model(
                &source,
                &read,
                &model,
                |x| if divides && name != "packed-bitlinear" { f32::NAN } else { x },
            );
            for file in ["tokenizer.json", "chat_template.jinja"] {
                assert_eq!(std::fs::read(path.join(file)).unwrap(), std::fs::read(moby(name).join(file)).unwrap());
            }
            let config = |folder: &Path| -> Json {
                serde_json::from_slice(&std::fs::read(folder.join("tokenizer_config.json")).unwrap()).unwrap()
            };
            assert_eq!(config(&path), config(&moby(name)));
        }
    }
}

#[test]
fn float_masters_stay_masters() {
    let place = tempfile::tempdir().unwrap();
    let source = open(moby("master")).unwrap();
    let mut model = Model::of(&source, "moby").unwrap();
    let bf16_master = HuggingFaceOptions { form: HuggingFaceForm::Master, dtype: StorageType::BF16 };
    for tensor in model.tensors.iter_mut().filter(|t| t.kind == TensorKind::Ternary) {
        tensor.kind = TensorKind::Stored(source.info(&tensor.name).unwrap().dtype);
    }
    let path = place.path().join("moby");
    write_hugging_face(&model, &bf16_master, &path, false, |tensor| tensor.read(&source)).unwrap();
    let read = open(&path).unwrap();
    for info in source.tensors() {
        assert_eq!(read.info(&info.name).unwrap().dtype, info.dtype);
        assert_eq!(read.bytes(&info.name).unwrap(), source.bytes(&info.name).unwrap());
    }
    let Metadata::HuggingFace { config, .. } = read.metadata() else { panic!("a folder") };
    assert_eq!(config["quantization_config"]["quantization_mode"], "online");
    assert_eq!(config["dtype"], "bfloat16");
    assert_says(
        write_hugging_face(&model, &folder_of(HuggingFaceForm::PackedBitLinear), &path, true, |tensor| {
            tensor.read(&source)
        }),
        &["layers.0.self_attn.q_proj.weight`", "not ternary"],
    );
    // As GGUF, a master is a file of floats.
    let path = place.path().join("m.gguf");
    write_gguf(&model, &GgufOptions::default(), &path, false, |tensor| tensor.read(&source)).unwrap();
    let read = open(&path).unwrap();
    let (linear, rows, cols) = ("model.layers.3.mlp.down_proj", 256, 768);
    assert_eq!(read.ternary(linear, rows, cols).unwrap(), source.ternary(linear, rows, cols).unwrap());
}

#[test]
fn what_transformers_wrote_is_written_again_to_the_byte() {
    let place = tempfile::tempdir().unwrap();
    for (name, form) in [
        ("packed-autobitlinear", HuggingFaceForm::PackedAutoBitLinear),
        ("packed-bitlinear", HuggingFaceForm::PackedBitLinear),
    ] {
        let source = open(moby(name)).unwrap();
        let model = Model::of(&source, "moby").unwrap();
        let path = place.path().join(name);
        let options = HuggingFaceOptions { form, dtype: StorageType::BF16 };
        write_hugging_face(&model, &options, &path, false, |tensor| tensor.read(&source)).unwrap();
        let read = open(&path).unwrap();
        assert_eq!(read.tensors().len(), source.tensors().len());
        for info in source.tensors() {
            let found = read.info(&info.name).unwrap();
            assert_eq!((found.dtype, &found.shape), (info.dtype, &info.shape), "{}", info.name);
            assert!(read.bytes(&info.name).unwrap() == source.bytes(&info.name).unwrap(), "{}", info.name);
        }
        assert_eq!(read.config(), source.config());
    }
    // Scales that are no BF16 numbers are not rounded in silence.
    let source = open(moby("master")).unwrap();
    let model = Model::of(&source, "moby").unwrap();
    for form in FORMS {
        let options = HuggingFaceOptions { form, dtype: StorageType::BF16 };
        assert_says(
            write_hugging_face(&model, &options, &place.path().join("m"), false, |tensor| tensor.read(&source)),
            &["layers.0.self_attn.q_proj.weight`", "no BF16 number", "F32"],
        );
    }
}

/// Trits to the bit, scales as `scale` says (NaN: within one unit of the last place), the rest to the bit.
fn assert_same_model(source: &Checkpoint, read: &Checkpoint, model: &Model, scale: impl Fn(f32) -> f32) {
    for tensor in &model.tensors {
        match tensor.read(source).unwrap() {
            TensorData::Ternary(matrix) => {
                let linear = tensor.name.trim_end_matches(".weight");
                let found = read.ternary(linear, matrix.rows(), matrix.cols()).unwrap();
                assert!(found.words() == matrix.words(), "{linear}");
                let (&Scale::Tensor(meant), &Scale::Tensor(found)) = (matrix.scale(), found.scale()) else {
                    panic!("{linear} has another granularity")
                };
                let expected = scale(meant);
                let near = expected.is_nan() && found.to_bits().abs_diff(meant.to_bits()) <= 1;
                assert!(found == expected || near, "{linear}: {found} for {meant}");
            }
            _ => {
                let exact = |x: &f32| {
                    if read.info(&tensor.name).unwrap().dtype == StorageType::F16 {
                        f16::from_f32(*x).to_f32()
                    } else {
                        *x
                    }
                };
                let meant: Vec<f32> = source.floats(&tensor.name).unwrap().iter().map(exact).collect();
                assert!(read.floats(&tensor.name).unwrap() == meant, "{}", tensor.name);
            }
        }
    }
    let (found, meant) = (read.config(), source.config());
    assert_eq!(found.rms_norm_eps as f32, meant.rms_norm_eps as f32);
    let expected = ModelConfig {
        architecture: found.architecture.clone(),
        weight_scale: found.weight_scale,
        rms_norm_eps: found.rms_norm_eps,
        linear_norm_eps: found.linear_norm_eps,
        ..meant.clone()
    };
    assert_eq!(found, &expected);
}

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

#[test]
fn finer_scales_go_where_there_is_room_for_them() {
    let place = tempfile::tempdir().unwrap();
    let mut rows = fake(&SMALL);
    let name = "model.layers.1.mlp.up_proj.weight";
    rows.matrix(name, |matrix| {
        let scales = (0..matrix.rows()).map(|row| 1.0 + row as f32 / 512.0).collect();
        matrix.clone().with_scale(Scale::Row(scales)).unwrap()
    });
    let read = rows.gguf(&packed(Packing::Iq2Bn), &place.path().join("rows.gguf")).unwrap();
    rows.assert_in(&read, |x| x);
    let read = rows.folder(HuggingFaceForm::Master, &place.path().join("rows")).unwrap();
    rows.assert_in(&read, |x| x);
    assert_says(
        rows.gguf(&packed(Packing::I2S), &place.path().join("x.gguf")),
        &["x.gguf", "`model.layers.1.mlp.up_proj.weight`", "I2_S", "a row"],
    );
    assert_says(
        rows.folder(HuggingFaceForm::PackedAutoBitLinear, &place.path().join("x")),
        &["`model.layers.1.mlp.up_proj.weight`", "a row", "one for the tensor"],
    );

    // A model whose activations stay floats has a form of its own.
    let mut groups = fake(&Parts { sub_norms: false, ..SMALL });
    groups.model.config.activation_bits = None;
    for (number, tensor) in groups.model.tensors.clone().iter().enumerate() {
        if tensor.kind == TensorKind::Ternary {
            groups.matrix(&tensor.name, |matrix| {
                let count = matrix.rows() * matrix.cols() / 128;
                let values = (0..count).map(|i| f16::from_f32(1.5 + noise(i + number)).to_f32()).collect();
                matrix.clone().with_scale(Scale::Group { size: 128, values }).unwrap()
            });
        }
    }
    let read = groups.gguf(&packed(Packing::Q2_0 { group: 128 }), &place.path().join("groups.gguf")).unwrap();
    groups.assert_in(&read, |x| x);
    assert_says(groups.gguf(&packed(Packing::I2S), &place.path().join("y.gguf")), &["activation_bits", "I2_S"]);
    assert_says(groups.folder(HuggingFaceForm::PackedBitLinear, &place.path().join("y")), &["activations stay floats"]);
    let path = place.path().join("groups");
    write_hugging_face(&groups.model, &folder_of(HuggingFaceForm::Master), &path, false, |t| groups.data_of(t))
        .unwrap();
    let read = open(&path).unwrap();
    assert_eq!(read.config().activation_bits, None);
    groups.assert_in(&read, |x| x);
}

#[test]
fn shapes_that_a_form_cannot_hold() {
    let place = tempfile::tempdir().unwrap();
    let narrow = fake(&Parts { hidden: 48, heads: 3, kv_heads: 1, head_dim: 16, mlp: 80, ..SMALL });
    for (packing, words) in [
        (Packing::Tq2_0, ["q_proj", "256"]),
        (Packing::Tq1_0, ["q_proj", "256"]),
        (Packing::Iq2Bn, ["q_proj", "64"]),
        (Packing::HfPacked, ["attn_q", "GGUF cannot hold"]),
    ] {
        let path = place.path().join("m.gguf");
        assert_says(narrow.gguf(&packed(packing), &path), &words);
    }
    let odd = fake(&Parts { hidden: 16, heads: 1, kv_heads: 1, head_dim: 16, mlp: 6, ..SMALL });
    assert_says(odd.gguf(&packed(Packing::I2S), &place.path().join("m.gguf")), &["gate_proj", "128"]);
    assert_says(
        odd.folder(HuggingFaceForm::PackedBitLinear, &place.path().join("m")),
        &["gate_proj", "6 rows", "share a byte"],
    );
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    narrow.assert_in(&narrow.gguf(&packed(Packing::I2S), &place.path().join("n.gguf")).unwrap(), |x| x);
}

#[test]
fn tensors_that_are_not_those_of_the_configuration() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m");
    let write = |change: &dyn Fn(&mut Fake)| {
        let mut fake = fake(&Parts { head: true, ..SMALL });
        change(&mut fake);
        let folder = fake.folder(HuggingFaceForm::PackedAutoBitLinear, &path).err().map(|e| e.to_string());
        let gguf = fake.gguf(&GgufOptions::default(), &path).err().map(|e| e.to_string());
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "something is left behind");
        assert_eq!(folder, gguf, "both formats refuse with the same words");
        Err::<(), _>(FormatError::NotAModel { path: path.clone(), reason: gguf.expect("an error") })
    };
    let up = "model.layers.1.mlp.up_proj.weight";
    assert_says(write(&|fake| fake.model.tensors.retain(|t| t.name != up)), &["no tensor", up]);
    assert_says(
        write(&|fake| {
            let tensor = fake.tensor(up).clone();
            fake.model.tensors.push(tensor);
        }),
        &[up, "twice"],
    );
    let extra = |name: &'static str| move |fake: &mut Fake| fake.model.tensors.push(Tensor::floats(name, &[1]));
    assert_says(write(&extra("model.layers.2.input_layernorm.weight")), &["layers.2", "no part"]);
    assert_says(write(&extra("model.layers.0.mlp.up_proj.bias")), &["bias", "no part"]);
    assert_says(write(&extra("rope_freqs.weight")), &["rope_freqs", "rope_scaling"]);
    assert_says(
        write(&|fake| fake.model.tensors[0] = Tensor::floats("model.embed_tokens.weight", &[11, 256])),
        &["embed_tokens", "[11, 256]", "[12, 256]"],
    );
    assert_says(write(&|fake| fake.model.tensors[0].kind = TensorKind::Stored(StorageType::I32)), &["I32"]);
    let norm = "model.norm.weight";
    assert_says(write(&|fake| fake.tensor(norm).kind = TensorKind::Ternary), &[norm, "no matrix"]);
    let floats = TensorKind::Floats;
    assert_says(write(&|fake| fake.tensor(up).kind = floats), &[up, "other linears"]);
    let i2s = TensorKind::Stored(StorageType::Ternary(Packing::I2S));
    assert_says(write(&|fake| fake.tensor(up).kind = i2s), &[up, "passed through", "I2_S"]);
    assert_says(write(&|fake| fake.model.config.tie_word_embeddings = Some(true)), &["lm_head", "the embedding"]);
    assert_says(
        write(&|fake| {
            fake.model.tensors.pop();
        }),
        &["no tensor", "lm_head"],
    );
    // Data that is not as declared.
    let small = TernaryMatrix::from_trits(1, 4, &[0; 4], Scale::Tensor(1.0)).unwrap();
    assert_says(
        write(&|fake| drop(fake.data.insert(up.to_string(), TensorData::Ternary(small.clone())))),
        &[up, "[1, 4]", "[512, 256]"],
    );
    assert_says(
        write(&|fake| drop(fake.data.insert(up.to_string(), TensorData::Floats(vec![0.0])))),
        &[up, "other data than declared"],
    );
    assert_says(
        write(&|fake| drop(fake.data.insert(norm.to_string(), TensorData::Floats(vec![0.0; 255])))),
        &[norm, "255 numbers", "256"],
    );
    let embedding = "model.embed_tokens.weight";
    let with = |value: f32| {
        move |fake: &mut Fake| {
            let Some(TensorData::Floats(values)) = fake.data.get_mut(embedding) else { panic!("floats") };
            values[77] = value;
        }
    };
    assert_says(write(&with(f32::NAN)), &["embed_tokens", "NaN", "element 77"]);
    let mut large = fake(&SMALL);
    with(1e5)(&mut large);
    assert_says(large.gguf(&GgufOptions::default(), &path), &["embed_tokens", "100000", "F16"]);
    assert_says(
        write(&|fake| {
            fake.tensor(embedding).kind = TensorKind::Stored(StorageType::F32);
            fake.data.insert(embedding.to_string(), TensorData::Stored(vec![0; 3].into()));
        }),
        &["embed_tokens", "3 bytes"],
    );
    large.tensor(embedding).kind = TensorKind::Stored(StorageType::F16);
    assert_says(large.folder(HuggingFaceForm::Master, &path), &["embed_tokens", "F16", "F32"]);
    let options = HuggingFaceOptions { dtype: StorageType::Q8_0, ..HuggingFaceOptions::default() };
    assert_says(write_hugging_face(&large.model, &options, &path, false, |t| large.data_of(t)), &["Q8_0", "BF16"]);
    let options = GgufOptions { floats: StorageType::I8, ..GgufOptions::default() };
    assert_says(large.gguf(&options, &path), &["I8", "BF16"]);
}

#[test]
fn configurations_that_a_format_has_no_word_for() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m");
    let with = |parts: &Parts, change: fn(&mut ModelConfig)| {
        let mut fake = fake(parts);
        change(&mut fake.model.config);
        fake
    };
    let gguf = |fake: Fake| fake.gguf(&GgufOptions::default(), &path);
    let folder = |fake: Fake| fake.folder(HuggingFaceForm::PackedAutoBitLinear, &path);
    let three = |config: &mut ModelConfig| config.eos_token_ids = vec![8, 9, 10];
    assert_says(gguf(with(&SMALL, three)), &["eos_token_ids", "[8, 9, 10]", "[8, 9]"]);
    assert!(folder(with(&SMALL, three)).is_ok());
    std::fs::remove_dir_all(&path).unwrap();
    let two = |config: &mut ModelConfig| config.bos_token_ids = vec![9, 8];
    assert_says(gguf(with(&SMALL, two)), &["bos_token_ids"]);
    assert_says(folder(with(&SMALL, two)), &["begin a text"]);
    assert_says(folder(with(&SMALL, |config| config.rope_dim = 32)), &["rotating 32 of the 64"]);
    assert_says(gguf(with(&SMALL, |config| config.rms_norm_eps = 0.0)), &["layer_norm_rms_epsilon"]);
    assert_says(
        folder(with(&SMALL, |config| config.rope_scaling = RopeScaling::Factors(vec![1.0; 32]))),
        &["rotary frequency"],
    );
    let wide = Parts { head_dim: 32, ..SMALL };
    assert_says(folder(with(&wide, |_| ())), &["4 heads of 32", "256"]);
    assert_says(folder(with(&Parts { qk_norms: true, ..SMALL }, |_| ())), &["sub-norms together"]);
    assert_says(gguf(with(&SMALL, |config| config.activation_bits = Some(4))), &["activation_bits", "4"]);

    let llama = GgufOptions { architecture: Some(Architecture::Llama), ..GgufOptions::default() };
    assert_says(fake(&SMALL).gguf(&llama, &path), &["llama", "Relu2"]);
    let silu = with(&SMALL, |config| config.activation = Activation::Silu);
    assert_says(silu.gguf(&llama, &path), &["sub_norm", "llama lacks"]);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn the_vocabulary_of_a_tokenizer_json() {
    let place = tempfile::tempdir().unwrap();
    let fake = fake(&SMALL);
    let read = fake.gguf(&GgufOptions::default(), &place.path().join("m.gguf")).unwrap();
    let TokenizerSource::Gguf(found) = read.tokenizer_files().unwrap() else { panic!("a vocabulary") };
    let expected = GgufTokenizer {
        path: found.path.clone(),
        model: "gpt2".to_string(),
        pre: Some("gpt-2".to_string()),
        tokens: ["a", "b", "c", "Ġ", "ab", "Ġa", "abc", "d", "[PAD8]", "<s>", "</s>", "<tool>"]
            .map(str::to_string)
            .to_vec(),
        token_types: vec![1, 1, 1, 1, 1, 1, 1, 1, 5, 3, 3, 4],
        merges: ["a b", "Ġ a", "ab c"].map(str::to_string).to_vec(),
        bos: Some(9),
        eos: Some(10),
        eot: Some(11),
        add_bos: Some(true),
        chat_template: Some("{{ messages }}".to_string()),
        ..GgufTokenizer::default()
    };
    assert_eq!(found, expected);

    // From one GGUF file to another it stays what it is.
    let model = Model::of(&read, "again").unwrap();
    let again = place.path().join("again.gguf");
    write_gguf(&model, &packed(Packing::Tq2_0), &again, false, |tensor| tensor.read(&read)).unwrap();
    let TokenizerSource::Gguf(second) = open(&again).unwrap().tokenizer_files().unwrap() else { panic!("one") };
    assert_eq!(GgufTokenizer { path: found.path.clone(), ..second }, found);
    assert_says(
        write_hugging_face(&model, &HuggingFaceOptions::default(), &place.path().join("m"), false, |t| t.read(&read)),
        &["GGUF", "tokenizer.json"],
    );

    // A folder without tokenizer_config.json gets one.
    let read = fake.folder(HuggingFaceForm::PackedAutoBitLinear, &place.path().join("f")).unwrap();
    let TokenizerSource::Hf { tokenizer_config, chat_template, generation_config, .. } =
        read.tokenizer_files().unwrap()
    else {
        panic!("a folder")
    };
    let config = tokenizer_config.unwrap();
    assert_eq!((&config["bos_token"], &config["eos_token"]), (&json!("<s>"), &json!("</s>")));
    assert_eq!(chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(generation_config, Some(json!({ "temperature": 0.7, "bos_token_id": 9, "eos_token_id": [10, 11] })),);
}

#[test]
fn tokenizers_that_gguf_has_no_word_for() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    let with = |change: &dyn Fn(&mut Json)| {
        let mut fake = fake(&SMALL);
        let mut json = tokenizer_json();
        change(&mut json);
        if let TokenizerSource::Hf { tokenizer_json, .. } = &mut fake.model.tokenizer {
            *tokenizer_json = json.to_string().into_bytes().into();
        }
        fake.gguf(&GgufOptions::default(), &path)
    };
    let set = |pointer: &'static str, value: Json| {
        with(&move |json| *json.pointer_mut(pointer).expect("a place") = value.clone())
    };
    assert_says(set("/normalizer", json!({ "type": "NFC" })), &["tokenizer.json", "normalizer NFC"]);
    assert_says(set("/model/type", json!("Unigram")), &["Unigram"]);
    assert_says(set("/decoder", json!({ "type": "Metaspace" })), &["decoder Metaspace"]);
    assert_says(set("/pre_tokenizer", json!({ "type": "Whitespace" })), &["pre-tokenizer Whitespace"]);
    assert_says(set("/post_processor/single", json!([])), &["more around a text"]);
    assert_says(set("/post_processor/special_tokens/<s>/ids", json!([10])), &["more around a text"]);
    assert_says(set("/model/merges", json!(["a b c"])), &["merge", "a b c"]);
    assert_says(set("/model/merges", json!([["a", ""]])), &["merge"]);
    assert_says(set("/model/vocab/a", json!(1)), &["id 1", "\"a\"", "\"b\""]);
    assert_says(set("/model/vocab/a", json!(-1)), &["id -1"]);
    assert_says(set("/model/vocab/a", json!(99_999)), &["100000", "tokens"]);
    assert_says(set("/model/vocab/a", json!(12)), &["13 tokens", "12 rows"]);
    assert_says(set("/added_tokens/0/id", json!(0)), &["id 0", "\"a\"", "<s>"]);
    assert_says(with(&|json| json["added_tokens"][0]["lstrip"] = json!(true)), &["<s>", "lstrip"]);
    assert_says(with(&|json| json["model"]["unk_token"] = json!("<unk>")), &["unknown token"]);
    assert_says(with(&|json| json["model"]["end_of_word_suffix"] = json!("</w>")), &["end_of_word_suffix"]);
    assert_says(with(&|json| json["model"]["ignore_merges"] = json!(true)), &["ignore_merges"]);
    assert_says(with(&|json| *json = json!([])), &["tokenizer.json", "damaged"]);
    let mut stranger = fake(&SMALL);
    stranger.model.config.eos_token_ids = vec![12];
    assert_says(stranger.gguf(&GgufOptions::default(), &path), &["no token 12"]);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);

    // A folder takes any tokenizer that the embedding has room for.
    let mut unigram = fake(&SMALL);
    let give = |fake: &mut Fake, json: Json| {
        if let TokenizerSource::Hf { tokenizer_json, .. } = &mut fake.model.tokenizer {
            *tokenizer_json = json.to_string().into_bytes().into();
        }
    };
    give(&mut unigram, json!({ "model": { "type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]] } }));
    unigram.folder(HuggingFaceForm::Master, &place.path().join("u")).unwrap();
    give(&mut unigram, json!({ "added_tokens": [{ "id": 12, "content": "x" }], "model": { "vocab": {} } }));
    assert_says(unigram.folder(HuggingFaceForm::Master, &place.path().join("v")), &["13 tokens", "12 rows"]);
    unigram.model.tokenizer = TokenizerSource::Missing;
    unigram.folder(HuggingFaceForm::Master, &place.path().join("v")).unwrap();
    unigram.gguf(&GgufOptions::default(), &place.path().join("v.gguf")).unwrap();
}

#[test]
fn what_was_there_is_kept_unless_it_may_be_replaced() {
    let place = tempfile::tempdir().unwrap();
    let fake = fake(&SMALL);
    let (file, folder) = (place.path().join("m.gguf"), place.path().join("m"));
    let gguf = |overwrite| write_gguf(&fake.model, &GgufOptions::default(), &file, overwrite, |t| fake.data_of(t));
    let form = HuggingFaceOptions::default();
    let hugging = |overwrite| write_hugging_face(&fake.model, &form, &folder, overwrite, |t| fake.data_of(t));
    gguf(false).unwrap();
    hugging(false).unwrap();
    assert_says(gguf(false), &["m.gguf", "exists"]);
    assert_says(hugging(false), &["/m", "exists"]);

    // Data that fails half way leaves the older model as it was.
    let half = |tensor: &Tensor| match tensor.name.contains("layers.1") {
        true => Err(FormatError::NotAModel { path: "source".into(), reason: "gone".to_string() }),
        false => fake.data_of(tensor),
    };
    assert_says(write_gguf(&fake.model, &GgufOptions::default(), &file, true, half), &["source: gone"]);
    assert_says(write_hugging_face(&fake.model, &form, &folder, true, half), &["source: gone"]);
    fake.assert_in(&open(&file).unwrap(), |x| x);
    fake.assert_in(&open(&folder).unwrap(), |x| x);
    gguf(true).unwrap();
    hugging(true).unwrap();
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 2);
    std::fs::write(folder.join("notes.txt"), b"mine").unwrap();
    assert_says(hugging(true), &["notes.txt"]);
}

#[test]
fn a_scale_of_a_dead_linear() {
    let place = tempfile::tempdir().unwrap();
    let mut dead = fake(&SMALL);
    let name = "model.layers.0.mlp.gate_proj.weight";
    dead.matrix(name, |matrix| {
        let zeros = vec![0; matrix.rows() * matrix.cols()];
        TernaryMatrix::from_trits(matrix.rows(), matrix.cols(), &zeros, Scale::Tensor(0.0)).unwrap()
    });
    let read = dead.folder(HuggingFaceForm::PackedBitLinear, &place.path().join("m")).unwrap();
    assert_eq!(read.ternary(name.trim_end_matches(".weight"), 512, 256).unwrap().zero_fraction(), 1.0);
    assert_says(dead.folder(HuggingFaceForm::Master, &place.path().join("n")), &["gate_proj", "pack it"]);
    dead.matrix(name, |matrix| {
        quantize::absmean(&vec![1.0; matrix.rows() * matrix.cols()], matrix.rows(), matrix.cols(), Granularity::Tensor)
            .and_then(|matrix| matrix.with_scale(Scale::Tensor(1e-40)))
            .unwrap()
    });
    for form in [HuggingFaceForm::PackedAutoBitLinear, HuggingFaceForm::PackedBitLinear] {
        assert_says(dead.folder(form, &place.path().join("n")), &["gate_proj", "scale"]);
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let sizes = (1usize..4, 1usize..3, 1usize..5, 1usize..5, 1usize..3);
    (sizes, any::<[bool; 3]>()).prop_map(|((kv_heads, groups, half_dim, mlp, layers), [sub_norms, head, qk])| Parts {
        heads: kv_heads * groups,
        kv_heads,
        head_dim: 2 * half_dim,
        hidden: kv_heads * groups * 2 * half_dim,
        mlp: 4 * mlp,
        layers,
        vocab: 12,
        sub_norms,
        qk_norms: qk && !sub_norms,
        linear_norms: false,
        head,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_small_model_comes_back_or_is_refused_by_name(parts in parts(), wide in any::<bool>(), packing in 0usize..8) {
        let place = tempfile::tempdir().unwrap();
        let parts = if wide { Parts { head_dim: 64 * parts.head_dim, hidden: 64 * parts.hidden, mlp: 64 * parts.mlp, ..parts } } else { parts };
        prop_assume!(parts.hidden * (parts.hidden + parts.mlp) < 600_000);
        let fake = fake(&parts);
        let packings = [Packing::I2S, Packing::I2SFourRows, Packing::Tq1_0, Packing::Tq2_0, Packing::Iq2Bn, Packing::Iq2BnR4, Packing::Iq1Bn, Packing::I2SArm64];
        let packing = packings[packing];
        let path = place.path().join("m.gguf");
        let halves = matches!(packing, Packing::Tq1_0 | Packing::Tq2_0 | Packing::Iq1Bn);
        let plain = !matches!(packing, Packing::I2SFourRows | Packing::I2SArm64);
        match write_gguf(&fake.model, &packed(packing), &path, false, |t| fake.data_of(t)) {
            // The two odd layouts of I2_S read back only when they are asked for.
            Ok(()) if plain => {
                fake.assert_in(&open(&path).unwrap(), |x| if halves { f16::from_f32(x).to_f32() } else { x });
            }
            Ok(()) => {}
            Err(error) => prop_assert!(matches!(error, FormatError::Ternary { .. }), "{error}"),
        }
        for (number, form) in FORMS.into_iter().enumerate() {
            let path = place.path().join(number.to_string());
            match fake.folder(form, &path) {
                Ok(read) if form == HuggingFaceForm::PackedBitLinear => {
                    prop_assert_eq!(read.config().num_heads, parts.heads);
                }
                Ok(read) => fake.assert_in(&read, |x| x),
                // Four rows share a byte, and few trits do not tell what they are.
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.contains("share a byte") || error.contains("pack it"), "{error}");
                }
            }
        }
    }
}
