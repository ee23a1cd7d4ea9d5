//! The fixture written in each form, and read again.

use std::path::Path;

use bitnet_fixtures::moby;
use bitnet_format::export::{
    GgufOptions, HuggingFaceForm, HuggingFaceOptions, Model, TensorData, TensorKind, write_gguf, write_hugging_face,
};
use bitnet_format::{
    Checkpoint, GgufTokenizer, Metadata, ModelConfig, ScaleDirection, StorageType, TokenizerSource, open,
};
use bitnet_ternary::{Packing, Scale};
use half::f16;
use serde_json::Value as Json;

use super::fake::{FORMS, assert_only, folder_of, packed};
use crate::common::assert_says;

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
