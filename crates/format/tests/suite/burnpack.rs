//! Burnpack files: what is in them, and those made to hurt.

use std::fs;
use std::path::PathBuf;

use bitnet_fixtures::moby;
use bitnet_format::convert::{Conversion, Target};
use bitnet_format::export::{BurnpackOptions, Model};
use bitnet_format::{Checkpoint, Container, FormatError, Metadata, StorageType, TokenizerSource, open};
use ciborium::{Value, cbor};

use crate::common::{assert_says, read_everything};

fn written() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.bpk");
    let source = open(moby("packed-bitlinear")).unwrap();
    let target = Target::Burnpack(BurnpackOptions { floats: StorageType::BF16 });
    let conversion = Conversion { model: Model::of(&source, "moby").unwrap(), source: &source, target };
    conversion.run(&path, false, &|_| {}).unwrap();
    (place, path)
}

#[test]
fn a_file_has_all_that_a_model_has() {
    let (place, path) = written();
    let (source, found) = (open(moby("packed-bitlinear")).unwrap(), open(&path).unwrap());
    assert_eq!(found.source().container, Container::Burnpack);
    assert_eq!(open(place.path()).unwrap().source().files[0].path, path, "the one model of a folder");
    let TokenizerSource::Hf { tokenizer_json: meant, .. } = source.tokenizer_files().unwrap() else { panic!() };
    let TokenizerSource::Hf { tokenizer_json, tokenizer_config, path, .. } = found.tokenizer_files().unwrap() else {
        panic!()
    };
    assert!(meant == tokenizer_json && tokenizer_config.is_some());
    assert!(path.ends_with("m.bpk/tokenizer.json"), "{}", path.display());
    assert_eq!(found.embedding().unwrap(), None);
    let Metadata::Burnpack { texts, group_size: None } = found.metadata() else { panic!() };
    let keys: Vec<&str> = texts.keys().map(String::as_str).collect();
    assert_eq!(keys, ["bitnet.config", "bitnet.embedding", "bitnet.name", "format", "producer", "version"]);
    let linear = found.info("model.layers.0.mlp.down_proj.weight").unwrap();
    assert_eq!(linear.stored_name, "blocks.0.mlp.down_proj.weight.Packed.words");
    for tensor in found.tensors() {
        assert_eq!(tensor.offset % 256, 0, "{}", tensor.name);
    }
}

#[test]
fn damaged_files_are_refused_and_nothing_panics() {
    let (place, path) = written();
    let whole = fs::read(&path).unwrap();
    let described = u32::from_le_bytes([whole[6], whole[7], whole[8], whole[9]]) as usize;
    let damaged = place.path().join("damaged.bpk");
    let look = |bytes: &[u8]| {
        fs::write(&damaged, bytes).unwrap();
        if let Ok(model) = open(&damaged) {
            read_everything(&model);
        }
    };
    for at in (0..whole.len()).step_by(whole.len() / 40).chain(0..12).chain([described, 10 + described]) {
        look(&whole[..at]);
    }
    // Every byte before the tokenizer's texts, one after the other; a model of this size opens in milliseconds.
    for at in (0..3_000).chain((3_000..10 + described).step_by(described / 200)) {
        let mut bytes = whole[..10 + described].to_vec();
        bytes[at] ^= 0x41;
        bytes.extend(&whole[10 + described..(10 + described + 4096).min(whole.len())]);
        look(&bytes);
    }
}

/// A file with this description, and `data` bytes after it.
fn raw(description: &Value, data: usize) -> Vec<u8> {
    let mut text = Vec::new();
    ciborium::into_writer(description, &mut text).unwrap();
    let mut bytes = [&0x4255_524eu32.to_le_bytes()[..], &[1, 0], &(text.len() as u32).to_le_bytes(), &text].concat();
    bytes.resize(bytes.len().next_multiple_of(256) + data, 0);
    bytes
}

fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, FormatError> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.bpk");
    fs::write(&path, bytes).unwrap();
    open(&path)
}

/// A description of one tensor.
fn one(dtype: Value, shape: Value, begin: u64, end: u64) -> Value {
    cbor!({ "tensors" => { "t" => { "dtype" => dtype, "shape" => shape, "data_offsets" => [begin, end] } } }).unwrap()
}

#[test]
fn headers_that_are_none() {
    assert_says(open_bytes(b""), &["m.bpk", "0 bytes"]);
    assert_says(open_bytes(&[0; 20]), &["does not begin"]);
    let mut bytes = raw(&cbor!({ "tensors" => {} }).unwrap(), 0);
    assert_says(open_bytes(&bytes), &["bitnet.config", "some other module"]);
    bytes[4] = 2;
    assert_says(open_bytes(&bytes), &["version 2"]);
    bytes[4] = 1;
    bytes[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_says(open_bytes(&bytes), &["4294967295 bytes does not fit"]);
    assert_says(open_bytes(&raw(&Value::Null, 0)), &["description cannot be read"]);
    let deep = (0..1000).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
    assert_says(open_bytes(&raw(&deep, 0)), &["description cannot be read"]);
}

#[test]
fn tensors_that_do_not_fit() {
    let f32s = || Value::from("F32");
    let says = |description: &Value, words: &[&str]| assert_says(open_bytes(&raw(description, 16)), words);
    says(&one(f32s(), cbor!([4]).unwrap(), 0, 16), &["some other module"]);
    says(&one(f32s(), cbor!([3]).unwrap(), 0, 16), &["`t`", "16 bytes"]);
    says(&one(f32s(), cbor!([4]).unwrap(), 0, 32), &["`t`", "outside"]);
    says(&one(f32s(), cbor!([4]).unwrap(), 16, 0), &["`t`", "outside"]);
    says(&one(f32s(), cbor!([4]).unwrap(), u64::MAX, u64::MAX), &["`t`", "outside"]);
    says(&one(f32s(), cbor!([u64::MAX, 2]).unwrap(), 0, 16), &["`t`"]);
    says(&one("QFloat".into(), cbor!([4]).unwrap(), 0, 16), &["`t`", "QFloat"]);
    says(&one(cbor!({ "Bool" => "Native" }).unwrap(), cbor!([16]).unwrap(), 0, 16), &["`t`", "not read here"]);
    let tensor =
        |begin: u64| cbor!({ "dtype" => "F32", "shape" => [2], "data_offsets" => [begin, begin + 8] }).unwrap();
    says(&cbor!({ "tensors" => { "a" => tensor(0), "b" => tensor(4) } }).unwrap(), &["`b`", "over `a`"]);
}
