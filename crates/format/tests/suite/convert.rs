//! Models converted from every fixture to every form, and back.

use std::path::Path;
use std::sync::Mutex;

use bitnet_fixtures::{FOLDERS, GGUFS, moby};
use bitnet_format::convert::{Conversion, Progress, Report, ScaleFidelity, Stage, Target, faults, repair};
use bitnet_format::export::{Architecture, BurnpackOptions, GgufOptions, HuggingFaceForm, HuggingFaceOptions, Model};
use bitnet_format::gguf::Value;
use bitnet_format::{
    Activation, Checkpoint, FormatError, I2sLayout, Metadata, OpenOptions, StorageType, TokenizerSource, open,
    open_with,
};
use bitnet_ternary::{Packing, Scale, TernaryMatrix};
use half::f16;
use safetensors::Dtype;

use crate::common::{
    assert_says, bf16_bytes, f32_bytes, gguf_bytes, gguf_keys, hf_config, leak, open_gguf, safetensors_bytes, trits,
};

fn gguf(packing: Packing) -> Target {
    Target::Gguf(GgufOptions { packing, ..GgufOptions::default() })
}

fn folder(form: HuggingFaceForm) -> Target {
    Target::HuggingFace(HuggingFaceOptions { form, dtype: StorageType::F32 })
}

fn convert(source: &Checkpoint, target: Target, path: &Path) -> Result<Report, FormatError> {
    let mut model = Model::of(source, "moby")?;
    let wants_json = matches!(target, Target::HuggingFace(_) | Target::Burnpack(_));
    if wants_json && matches!(model.tokenizer, TokenizerSource::Gguf(_)) {
        // Another crate's task.
        model.tokenizer = TokenizerSource::Missing;
    }
    Conversion { source, model, target }.run(path, false, &|_| {})
}

/// Every linear of a model.
fn linears(model: &Checkpoint) -> Vec<(String, TernaryMatrix)> {
    let config = model.config();
    let (hidden, mlp) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let shapes = [
        ("self_attn.q_proj", q, hidden),
        ("self_attn.k_proj", kv, hidden),
        ("self_attn.v_proj", kv, hidden),
        ("self_attn.o_proj", hidden, q),
        ("mlp.gate_proj", mlp, hidden),
        ("mlp.up_proj", mlp, hidden),
        ("mlp.down_proj", hidden, mlp),
    ];
    let names = (0..config.num_layers)
        .flat_map(|layer| shapes.map(|(part, rows, cols)| (format!("model.layers.{layer}.{part}"), rows, cols)));
    names.map(|(name, rows, cols)| (name.clone(), model.ternary(&name, rows, cols).unwrap())).collect()
}

/// Trits the same to the bit, scales the same after `rounded`.
fn assert_same(source: &Checkpoint, found: &Checkpoint, what: &str, rounded: impl Fn(f32) -> f32) {
    for ((name, meant), (_, found)) in linears(source).into_iter().zip(linears(found)) {
        assert!(meant.words() == found.words(), "{what}: {name}");
        let (Scale::Tensor(meant), Scale::Tensor(found)) = (meant.scale(), found.scale()) else {
            panic!("{what}: {name} has another granularity")
        };
        assert_eq!(rounded(*meant), *found, "{what}: {name}");
    }
    let embedding = "model.embed_tokens.weight";
    let halves: Vec<f32> = source.floats(embedding).unwrap().iter().map(|x| f16::from_f32(*x).to_f32()).collect();
    assert!(found.floats(embedding).unwrap() == halves, "{what}");
}

#[test]
fn every_fixture_goes_to_every_form_and_back() {
    let place = tempfile::tempdir().unwrap();
    let half = |x: f32| f16::from_f32(x).to_f32();
    let forms: [(&str, Target, bool); 13] = [
        ("i2_s.gguf", gguf(Packing::I2S), false),
        ("tq1_0.gguf", gguf(Packing::Tq1_0), true),
        ("tq2_0.gguf", gguf(Packing::Tq2_0), true),
        ("iq2_bn.gguf", gguf(Packing::Iq2Bn), false),
        ("iq2_bn_r4.gguf", gguf(Packing::Iq2BnR4), false),
        ("iq1_bn.gguf", gguf(Packing::Iq1Bn), true),
        ("arm.gguf", gguf(Packing::I2SArm64), false),
        ("four-rows.gguf", gguf(Packing::I2SFourRows), false),
        ("float.gguf", Target::GgufFloats(GgufOptions { floats: StorageType::F32, ..GgufOptions::default() }), false),
        ("packed", folder(HuggingFaceForm::PackedAutoBitLinear), false),
        ("bitlinear", folder(HuggingFaceForm::PackedBitLinear), false),
        ("master", folder(HuggingFaceForm::Master), false),
        ("burnpack.bpk", Target::Burnpack(BurnpackOptions::default()), false),
    ];
    for fixture in FOLDERS.into_iter().chain(GGUFS) {
        let source = open(moby(fixture)).unwrap();
        for (name, target, is_half) in &forms {
            let what = format!("{fixture} to {name}");
            let path = place.path().join(format!("{}-{name}", fixture.trim_end_matches(".gguf")));
            let report = convert(&source, target.clone(), &path).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(report.ternary + report.floats, source_tensors(&source), "{what}");
            let i2s_layout = match *name {
                "arm.gguf" => I2sLayout::Block64,
                "four-rows.gguf" => I2sLayout::FourRows,
                _ => I2sLayout::Block128,
            };
            let there = open_with(&path, &OpenOptions { i2s_layout, ..OpenOptions::default() }).unwrap();
            // The inverse of an inverse may be a neighbour.
            let is_inverse = *name == "bitlinear";
            assert_eq!(report.scales == ScaleFidelity::Inverse, is_inverse);
            if !is_inverse && fixture != "i2_s-q6_k.gguf" && !matches!(target, Target::HuggingFace(_)) {
                let compared = if *name == "float.gguf" { continue } else { &there };
                assert_same(&source, compared, &what, |x| if *is_half { half(x) } else { x });
            }

            // And back, to the first form of the other container.
            let back = path.with_extension("back.gguf");
            convert(&there, gguf(Packing::I2S), &back).unwrap_or_else(|error| panic!("back from {what}: {error}"));
            let back = open(&back).unwrap();
            for ((linear, meant), (_, found)) in linears(&source).into_iter().zip(linears(&back)) {
                assert!(meant.words() == found.words(), "{what} and back: {linear}");
                let (meant, found) = (meant.scale().values()[0], found.scale().values()[0]);
                let rounded = if *is_half { half(meant) } else { meant };
                let off = if is_inverse { rounded.to_bits().abs_diff(found.to_bits()) } else { 0 };
                assert!(off <= 1 && (is_inverse || rounded == found), "{what} and back: {linear}: {meant} {found}");
            }
        }
    }
}

/// Tensors of the decoder: what is not a scale of another tensor.
fn source_tensors(source: &Checkpoint) -> usize {
    source.tensors().filter(|t| !t.name.ends_with("scale")).count()
}

#[test]
fn embeddings_of_every_type() {
    let place = tempfile::tempdir().unwrap();
    let source = open(moby("packed-bitlinear")).unwrap();
    let meant = source.floats("model.embed_tokens.weight").unwrap();
    let largest = meant.iter().fold(0f32, |a, x| a.max(x.abs()));
    for (floats, steps) in [
        (StorageType::F32, f32::INFINITY),
        (StorageType::BF16, f32::INFINITY),
        (StorageType::F16, 2048.0),
        (StorageType::Q8_0, 127.0),
        (StorageType::Q6_K, 30.0),
    ] {
        let path = place.path().join(format!("{floats}.gguf"));
        let options = GgufOptions { floats, ..GgufOptions::default() };
        convert(&source, Target::Gguf(options.clone()), &path).unwrap();
        let found = open(&path).unwrap();
        assert_eq!(found.info("model.embed_tokens.weight").unwrap().dtype, floats);
        let found_values = found.floats("model.embed_tokens.weight").unwrap();
        let off = meant.iter().zip(&found_values).fold(0f32, |off, (x, y)| off.max((x - y).abs()));
        assert!(off <= largest / steps, "{floats}: {off}");

        // From a file with blocks they are copied, not encoded again.
        let again = place.path().join(format!("{floats}-again.gguf"));
        convert(&found, Target::Gguf(options), &again).unwrap();
        let again = open(&again).unwrap();
        assert!(again.bytes("model.embed_tokens.weight").unwrap() == found.bytes("model.embed_tokens.weight").unwrap());
    }
    let blocks = GgufOptions { floats: StorageType::Q8_0, ..GgufOptions::default() };
    assert_says(
        convert(&open(moby("master")).unwrap(), Target::GgufFloats(blocks), &place.path().join("x.gguf")),
        &["q_proj.weight`", "Q8_0 holds no linear"],
    );
    let folder = Target::HuggingFace(HuggingFaceOptions { dtype: StorageType::Q6_K, ..HuggingFaceOptions::default() });
    assert_says(convert(&source, folder, &place.path().join("x")), &["a folder of Q6_K"]);
}

#[test]
fn a_silu_model_with_sub_norms_takes_the_name_that_all_programs_run_so() {
    let place = tempfile::tempdir().unwrap();
    let silu = OpenOptions { activation: Some(Activation::Silu), ..OpenOptions::default() };
    let source = open_with(moby("packed-bitlinear"), &silu).unwrap();
    for (architecture, name, says) in [
        (None, "bitnet", None),
        (Some(Architecture::BitnetB158), "bitnet-b1.58", Some("silu")),
        (Some(Architecture::Bitnet25), "bitnet-25", Some("silu")),
    ] {
        let path = place.path().join(format!("{name}.gguf"));
        convert(&source, Target::Gguf(GgufOptions { architecture, ..GgufOptions::default() }), &path).unwrap();
        let found = open(&path).unwrap();
        assert_eq!((&*found.config().architecture, found.config().activation), (name, Activation::Silu));
        assert_eq!(found.metadata().to_json(0)[format!("{name}.hidden_activation")].as_str(), says);
    }
}

#[test]
fn progress_is_told_and_ends_at_the_whole() {
    let place = tempfile::tempdir().unwrap();
    let source = open(moby("i2_s.gguf")).unwrap();
    let model = Model::of(&source, "moby").unwrap();
    let seen = Mutex::new(Vec::new());
    let conversion = Conversion { source: &source, model, target: gguf(Packing::Tq2_0) };
    conversion.run(&place.path().join("m.gguf"), false, &|progress| seen.lock().unwrap().push(progress)).unwrap();
    let seen = seen.into_inner().unwrap();
    assert!(seen.windows(2).all(|pair| pair[0].stage != pair[1].stage || pair[0].done <= pair[1].done));
    let Some(Progress { stage: Stage::Verify, done: 4_200_704, total: 4_200_704 }) = seen.last().copied() else {
        panic!("{:?}", seen.last())
    };
}

/// One layer of a master, 256 wide, all of whose linears are these numbers.
fn master(weights: impl Fn(usize) -> f32) -> Checkpoint {
    let norm = |width: usize| (Dtype::F32, vec![width], f32_bytes(&vec![1.0; width]));
    let linear = |rows: usize, cols: usize| {
        (Dtype::F32, vec![rows, cols], f32_bytes(&(0..rows * cols).map(&weights).collect::<Vec<_>>()))
    };
    let mut tensors =
        vec![("model.embed_tokens.weight".to_string(), (Dtype::BF16, vec![8, 256], bf16_bytes(&[0.5; 2048])))];
    for (part, tensor) in [
        ("input_layernorm", norm(256)),
        ("post_attention_layernorm", norm(256)),
        ("self_attn.attn_sub_norm", norm(256)),
        ("mlp.ffn_sub_norm", norm(512)),
        ("self_attn.q_proj", linear(256, 256)),
        ("self_attn.k_proj", linear(128, 256)),
        ("self_attn.v_proj", linear(128, 256)),
        ("self_attn.o_proj", linear(256, 256)),
        ("mlp.gate_proj", linear(512, 256)),
        ("mlp.up_proj", linear(512, 256)),
        ("mlp.down_proj", linear(256, 512)),
    ] {
        tensors.push((format!("model.layers.0.{part}.weight"), tensor));
    }
    tensors.push(("model.norm.weight".to_string(), norm(256)));
    let tensors: Vec<_> = tensors.iter().map(|(name, (d, s, b))| (name.as_str(), *d, s.clone(), b.clone())).collect();
    let mut config = hf_config();
    config["quantization_config"]["quantization_mode"] = "online".into();
    Checkpoint::from_memory(&[
        ("config.json", leak(config.to_string().into_bytes())),
        ("model.safetensors", leak(safetensors_bytes(&tensors))),
    ])
    .unwrap()
}

#[test]
fn masters_are_quantized_and_what_only_looks_ternary_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    let noise = |i: usize| ((i * 7_919) % 2_003) as f32 / 1_000.0 - 1.0;
    assert_eq!(convert(&master(noise), gguf(Packing::I2S), &path).unwrap().ternary, 7);
    std::fs::remove_file(&path).unwrap();

    // Trits under one scale are kept. With two magnitudes, near each other and not the same, they are neither one thing nor
    // the other.
    let codes = trits(1 << 18);
    let exact = master(|i| 0.7 * f32::from(codes[i]));
    convert(&exact, gguf(Packing::I2S), &path).unwrap();
    let found = open(&path).unwrap().ternary("model.layers.0.self_attn.k_proj", 128, 256).unwrap();
    assert_eq!(found.scale(), &Scale::Tensor(0.7));
    std::fs::remove_file(&path).unwrap();
    let blurred = |i: usize| f32::from(codes[i]) * if i.is_multiple_of(5) { 0.701 } else { 0.7 };
    for target in [gguf(Packing::I2S), gguf(Packing::Tq2_0), folder(HuggingFaceForm::PackedAutoBitLinear)] {
        assert_says(
            convert(&master(blurred), target, &path),
            &["model.layers.0.self_attn.q_proj.weight", "more than three values"],
        );
    }
    assert_says(
        convert(&master(|i| if i == 77 { f32::NAN } else { noise(i) }), gguf(Packing::I2S), &path),
        &["q_proj.weight", "NaN"],
    );
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn what_is_there_is_kept() {
    let place = tempfile::tempdir().unwrap();
    let source = open(moby("i2_s.gguf")).unwrap();
    for (name, target) in [("m.gguf", gguf(Packing::Tq2_0)), ("m", folder(HuggingFaceForm::PackedAutoBitLinear))] {
        let path = place.path().join(name);
        std::fs::write(&path, "mine").unwrap();
        assert_says(convert(&source, target, &path), &[name, "exists"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 2);
}

#[test]
fn a_repaired_file_has_other_keys_and_the_same_bytes() {
    let place = tempfile::tempdir().unwrap();
    let bare = open_gguf(gguf_bytes(&gguf_keys("bitnet-b1.58"), &[])).unwrap();
    assert_eq!(faults(&bare).unwrap(), [("bitnet-b1.58.hidden_activation".to_string(), Value::from("relu2"))]);
    assert_eq!(faults(&open_gguf(gguf_bytes(&gguf_keys("bitnet"), &[])).unwrap()).unwrap(), []);

    let source = open(moby("i2_s.gguf")).unwrap();
    assert_eq!(faults(&source).unwrap(), []);
    let changes = [("a.key".to_string(), Value::from(true)), ("general.file_type".to_string(), 7u32.into())];
    let path = place.path().join("m.gguf");
    let bytes = repair(&source, &changes, &path, false, &|_| {}).unwrap();
    assert_eq!(bytes, path.metadata().unwrap().len());
    let found = open(&path).unwrap();
    for (meant, tensor) in source.tensors().zip(found.tensors()) {
        assert_eq!((&meant.stored_name, meant.dtype, &meant.shape), (&tensor.stored_name, tensor.dtype, &tensor.shape));
        assert!(source.bytes(&meant.name).unwrap() == found.bytes(&meant.name).unwrap(), "{}", meant.name);
    }
    let (Metadata::Gguf(before), Metadata::Gguf(after)) = (source.metadata(), found.metadata()) else {
        panic!("two GGUF files")
    };
    for (key, value) in before.iter().filter(|(key, _)| *key != "general.file_type") {
        assert_eq!(after.get(key), Some(value), "{key}");
    }
    assert_eq!(after.iter().len(), before.iter().len() + 1);
    // The number that the tensors give is a fault to be mended.
    assert_eq!(faults(&found).unwrap(), [("general.file_type".to_string(), Value::from(40u32))]);
    assert_says(repair(&source, &changes, &path, false, &|_| {}), &["m.gguf", "exists"]);
    let folder = open(moby("master")).unwrap();
    assert_says(faults(&folder), &["no GGUF file"]);
}
