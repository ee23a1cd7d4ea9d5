//! Every family converted to every form that can hold it, and back to its own; what a form cannot hold is refused by name.

use std::path::Path;

use bitnet_fixtures::{FAMILIES, GGUF_FAMILIES, family};
use bitnet_format::convert::{Conversion, Report, ScaleFidelity, Target};
use bitnet_format::export::{BurnpackOptions, GgufOptions, HuggingFaceForm, HuggingFaceOptions, Model, TensorData};
use bitnet_format::{
    Checkpoint, FormatError, ModelConfig, RopeScaling, StorageType, TextEmbedding, TokenizerSource, open,
};
use bitnet_ternary::{Packing, TernaryMatrix};
use half::f16;

use crate::common::assert_says;

const Q2_0: Packing = Packing::Q2_0 { group: 64 };
const PQ2_0: Packing = Packing::Q2_0 { group: 128 };

/// Every form, under the name that what is written gets.
fn forms() -> Vec<(String, Target)> {
    let packings =
        [Packing::I2S, Packing::Tq1_0, Packing::Tq2_0, Packing::Iq2Bn, Packing::Iq2BnR4, Packing::Iq1Bn, Q2_0, PQ2_0];
    let options = |packing| GgufOptions { packing, floats: StorageType::F32, ..GgufOptions::default() };
    let packed = packings.into_iter().map(|packing| (format!("{packing:?}.gguf"), Target::Gguf(options(packing))));
    let floats = ("float.gguf".to_string(), Target::GgufFloats(options(Packing::I2S)));
    let folders = [HuggingFaceForm::PackedAutoBitLinear, HuggingFaceForm::PackedBitLinear, HuggingFaceForm::Master]
        .map(|form| (format!("{form:?}"), folder(form)));
    let burnpack = ("m.bpk".to_string(), Target::Burnpack(BurnpackOptions { floats: StorageType::F32 }));
    packed.chain([floats]).chain(folders).chain([burnpack]).collect()
}

fn folder(form: HuggingFaceForm) -> Target {
    Target::HuggingFace(HuggingFaceOptions { form, dtype: StorageType::F32 })
}

fn convert(source: &Checkpoint, target: &Target, path: &Path) -> Result<Report, FormatError> {
    let mut model = Model::of(source, "family")?;
    let wants_json = matches!(target, Target::HuggingFace(_) | Target::Burnpack(_));
    if wants_json && matches!(model.tokenizer, TokenizerSource::Gguf(_)) {
        // Another crate's task.
        model.tokenizer = TokenizerSource::Missing;
    }
    Conversion { source, model, target: target.clone() }.run(path, false, &|_| {})
}

/// What a refusal says, where a form cannot hold a model.
fn refusal(model: &Checkpoint, target: &Target) -> Option<&'static str> {
    let config = model.config();
    let widths = [config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim];
    let in_blocks_of = |size: usize| widths.iter().all(|width| width.is_multiple_of(size));
    let has_linear_norms = model.tensors().any(|tensor| tensor.name.ends_with("_proj.norm.weight"));
    let has_float_activations = config.activation_bits.is_none();
    let needs = |size, says| (!in_blocks_of(size)).then_some(says);
    match target {
        Target::HuggingFace(HuggingFaceOptions { form: HuggingFaceForm::Master, .. }) | Target::Burnpack(_) => None,
        Target::HuggingFace(_) => {
            has_float_activations.then_some("packed linears in a model whose activations stay floats")
        }
        Target::GgufFloats(_) => has_float_activations.then_some("`activation_bits` is none"),
        Target::Gguf(options) => match options.packing {
            Packing::Q2_0 { .. } if !has_float_activations && !has_linear_norms => Some("8-bit activations"),
            Q2_0 => needs(64, "multiple of 64"),
            PQ2_0 => needs(128, "multiple of 128"),
            _ if has_float_activations => Some("float activations"),
            Packing::I2S => None,
            Packing::Tq1_0 | Packing::Tq2_0 => needs(256, "multiple of 256"),
            _ => needs(64, "multiple of 64"),
        },
    }
}

/// The form that a model is published in.
fn own_form(model: &Checkpoint) -> Target {
    let linear = model.info("model.layers.0.self_attn.q_proj.weight").unwrap();
    match linear.dtype {
        StorageType::Ternary(packing) => {
            Target::Gguf(GgufOptions { packing, floats: StorageType::F32, ..GgufOptions::default() })
        }
        StorageType::U8 => folder(HuggingFaceForm::PackedAutoBitLinear),
        _ => folder(HuggingFaceForm::Master),
    }
}

/// Trits the same, scales as `fidelity` says, every other number the same to the bit, and what else a model is.
fn assert_same(source: &Checkpoint, found: &Checkpoint, fidelity: ScaleFidelity, what: &str) {
    for tensor in Model::of(source, "").unwrap().tensors {
        match (tensor.read(source).unwrap(), tensor.name.strip_suffix("_proj.weight")) {
            (TensorData::Ternary(meant), Some(_)) => {
                let linear = tensor.name.strip_suffix(".weight").unwrap();
                let read = found.ternary(linear, meant.rows(), meant.cols()).unwrap();
                assert_weights(&meant, &read, fidelity, &format!("{what}: {linear}"));
            }
            _ => assert!(floats(source, &tensor.name) == floats(found, &tensor.name), "{what}: {}", tensor.name),
        }
    }
    let (meant, read) = (source.config(), found.config());
    let in_f32 = |x: f64| f64::from(x as f32);
    let sliding_window = meant.sliding_window.clone().map(|mut window| {
        window.rope_theta = in_f32(window.rope_theta);
        window
    });
    let expected = ModelConfig {
        architecture: read.architecture.clone(),
        weight_scale: read.weight_scale,
        norm_offset: read.norm_offset,
        tie_word_embeddings: read.tie_word_embeddings,
        // GGUF has divisors in their place.
        rope_scaling: match (&meant.rope_scaling, &read.rope_scaling) {
            (RopeScaling::Llama3 { .. }, RopeScaling::Factors(_)) => read.rope_scaling.clone(),
            (other, _) => other.clone(),
        },
        rms_norm_eps: in_f32(meant.rms_norm_eps),
        linear_norm_eps: in_f32(meant.linear_norm_eps),
        attention_scale: in_f32(meant.attention_scale),
        sliding_window,
        ..meant.clone()
    };
    let read = ModelConfig {
        rms_norm_eps: in_f32(read.rms_norm_eps),
        // Of no norm, where no linear has one.
        linear_norm_eps: match found.tensors().any(|tensor| tensor.name.ends_with("_proj.norm.weight")) {
            true => in_f32(read.linear_norm_eps),
            false => expected.linear_norm_eps,
        },
        attention_scale: in_f32(read.attention_scale),
        ..read.clone()
    };
    assert_eq!(read, expected, "{what}");
    let embedding = |model: &Checkpoint| -> Option<TextEmbedding> { model.embedding().unwrap() };
    assert_eq!(embedding(found), embedding(source), "{what}");
}

/// A tensor's numbers, those of a norm with what its class adds.
fn floats(model: &Checkpoint, name: &str) -> Vec<f32> {
    let offset = match name.ends_with("norm.weight") && !name.ends_with("_proj.norm.weight") {
        true => model.config().norm_offset as f32,
        false => 0.0,
    };
    model.floats(name).unwrap().iter().map(|x| x + offset).collect()
}

fn assert_weights(meant: &TernaryMatrix, found: &TernaryMatrix, fidelity: ScaleFidelity, what: &str) {
    assert!(meant.words() == found.words(), "{what}: other trits");
    let holds = |meant: f32, found: f32| match fidelity {
        ScaleFidelity::Exact => meant == found,
        ScaleFidelity::HalfPrecision => f16::from_f32(meant).to_f32() == found,
        ScaleFidelity::Inverse => meant.to_bits().abs_diff(found.to_bits()) <= 1,
    };
    let same = meant.to_f32().iter().zip(found.to_f32()).all(|(meant, found)| holds(*meant, found));
    assert!(same, "{what}: other scales");
}

#[test]
fn every_family_goes_to_every_form_that_can_hold_it_and_back() {
    let folders = FAMILIES.map(|name| (name.to_string(), family(name)));
    let ggufs = GGUF_FAMILIES.map(|name| (format!("{name}.gguf"), family(name).join("model.gguf")));
    let mut written = 0;
    for (name, path) in folders.into_iter().chain(ggufs) {
        let place = tempfile::tempdir().unwrap();
        let source = open(path).unwrap();
        for (form, target) in forms() {
            let what = format!("{name} to {form}");
            let out = place.path().join(&form);
            let result = convert(&source, &target, &out);
            if let Some(words) = refusal(&source, &target) {
                let error = result.expect_err(&what).to_string();
                assert!(error.contains(words) && !out.exists(), "{what}: {error}");
                continue;
            }
            let report = result.unwrap_or_else(|error| panic!("{what}: {error}"));
            let there = open(&out).unwrap();
            assert_same(&source, &there, report.scales, &what);
            written += 1;

            let back = place.path().join("back.gguf");
            let result = convert(&there, &own_form(&source), &back);
            let has_divisors = matches!(there.config().rope_scaling, RopeScaling::Factors(_));
            if has_divisors && matches!(own_form(&source), Target::HuggingFace(_)) {
                assert_says(result, &["a divisor for each rotary frequency"]);
                continue;
            }
            result.unwrap_or_else(|error| panic!("back from {what}: {error}"));
            assert_same(&source, &open(&back).unwrap(), report.scales, &format!("{what} and back"));
            std::fs::remove_file(&back).or_else(|_| std::fs::remove_dir_all(&back)).unwrap();
        }
    }
    assert_eq!(written, 77, "forms that hold a family");
}
