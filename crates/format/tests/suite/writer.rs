//! The GGUF writer, and reading back what it wrote.

use bitnet_format::gguf::{Array, Value, Writer};
use bitnet_format::{Metadata, StorageType, open};
use proptest::prelude::*;

use crate::common::{assert_says, f32_bytes, gguf_bytes, gguf_keys, open_gguf, write_gguf};

#[test]
fn nothing_is_there_before_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let begin = |overwrite| {
        let mut writer = Writer::new();
        for (key, value) in gguf_keys("bitnet") {
            writer.metadata(&key, value).unwrap();
        }
        writer.tensor("output_norm.weight", StorageType::F32, &[2]).unwrap();
        writer.create(&path, overwrite)
    };
    let mut out = begin(false).unwrap();
    assert!(!path.exists());
    out.write("output_norm.weight", &f32_bytes(&[1.0, 2.0])).unwrap();
    drop(out);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "an abandoned file leaves nothing");

    let mut out = begin(false).unwrap();
    out.write_with("output_norm.weight", |w| w.write_all(&f32_bytes(&[1.0, 2.0]))).unwrap();
    out.finish().unwrap();
    assert_eq!(open(&path).unwrap().floats("model.norm.weight").unwrap(), [1.0, 2.0]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);

    assert_says(begin(false), &["m.gguf", "exists"]);
    let mut out = begin(true).unwrap();
    out.write("output_norm.weight", &f32_bytes(&[3.0, 4.0])).unwrap();
    out.finish().unwrap();
    assert_eq!(open(&path).unwrap().floats("model.norm.weight").unwrap(), [3.0, 4.0]);
}

#[cfg(unix)]
#[test]
fn a_written_file_is_as_readable_as_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    write_gguf(&folder.path().join("m.gguf"), &gguf_keys("bitnet"), &[]);
    std::fs::write(folder.path().join("other"), b"").unwrap();
    let mode = |name| folder.path().join(name).metadata().unwrap().permissions().mode();
    assert_eq!(mode("m.gguf"), mode("other"));
}

#[test]
fn a_file_that_appears_meanwhile_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let out = Writer::new().create(&path, false).unwrap();
    std::fs::write(&path, b"mine").unwrap();
    assert_says(out.finish(), &["m.gguf", "exists"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn data_that_was_not_declared() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::new();
    writer.tensor("a", StorageType::F32, &[2]).unwrap();
    writer.tensor("b", StorageType::F32, &[]).unwrap();
    let mut out = writer.create(folder.path().join("m.gguf"), false).unwrap();
    assert_says(out.write("b", &[0; 4]), &["`b`", "`a` is due"]);
    assert_says(out.write("a", &[0; 7]), &["`a`", "7 bytes", "instead of 8"]);
    drop(out);

    let mut writer = Writer::new();
    writer.tensor("a", StorageType::F32, &[2]).unwrap();
    let mut out = writer.create(folder.path().join("m.gguf"), false).unwrap();
    out.write("a", &[0; 8]).unwrap();
    assert_says(out.write("c", &[]), &["`c`", "last"]);
    out.finish().unwrap();

    let mut writer = Writer::new();
    writer.tensor("a", StorageType::F32, &[2]).unwrap();
    let out = writer.create(folder.path().join("n.gguf"), false).unwrap();
    assert_says(out.finish(), &["`a`", "never written"]);
    assert_says(Writer::new().create(folder.path().join("no/such/folder.gguf"), false), &["folder.gguf"]);
}

#[test]
fn declarations_that_make_no_sense() {
    let mut writer = Writer::new();
    writer.metadata("k", 1u32).unwrap().tensor("t", StorageType::F32, &[1]).unwrap();
    assert_says(writer.metadata("k", 2u32), &["`k`", "twice"]);
    assert_says(writer.metadata("general.alignment", 64u32), &["general.alignment"]);
    assert_says(writer.tensor("t", StorageType::F32, &[1]), &["`t`", "twice"]);
    assert_says(writer.tensor("", StorageType::F32, &[1]), &["not at all"]);
    assert_says(writer.tensor("u", StorageType::F32, &[1, 1, 1, 1, 1]), &["`u`", "shape"]);
    assert_says(writer.tensor("v", StorageType::F32, &[0]), &["`v`", "shape"]);
    assert_says(writer.tensor("w", StorageType::Q8_0, &[33]), &["`w`", "Q8_0"]);
    assert_says(writer.tensor("x", StorageType::U8, &[4]), &["`x`", "U8"]);
    assert_says(writer.tensor("y", StorageType::F32, &[usize::MAX, 2]), &["`y`", "shape"]);
}

#[test]
fn every_kind_of_value_comes_back() {
    let values: Vec<Value> = vec![
        1u8.into(),
        (-1i8).into(),
        2u16.into(),
        (-2i16).into(),
        3u32.into(),
        (-3i32).into(),
        0.5f32.into(),
        true.into(),
        "text".into(),
        4u64.into(),
        (-4i64).into(),
        0.25f64.into(),
        vec![1u8].into(),
        vec![-1i8].into(),
        vec![2u16].into(),
        vec![-2i16].into(),
        vec![3u32].into(),
        vec![-3i32].into(),
        vec![0.5f32, 1.5].into(),
        vec![true, false].into(),
        vec!["a".to_string(), String::new()].into(),
        vec![4u64].into(),
        vec![-4i64].into(),
        vec![0.25f64].into(),
        Array::Array(vec![Array::U8(vec![1, 2]), Array::String(vec!["x".to_string()])]).into(),
    ];
    let mut keys = gguf_keys("bitnet");
    keys.extend(values.into_iter().enumerate().map(|(i, value)| (format!("test.{i}"), value)));
    let model = open_gguf(gguf_bytes(&keys, &[])).unwrap();
    let Metadata::Gguf(metadata) = model.metadata() else {
        panic!("a GGUF file");
    };
    assert!(metadata.iter().eq(keys.iter().map(|(key, value)| (key.as_str(), value))));
    let json = model.metadata().to_json(1);
    assert_eq!(json["test.18"], serde_json::json!({ "type": "f32", "count": 2, "first": [0.5] }));
    assert_eq!((&json["test.1"], &json["test.8"], &json["test.12"]), (&(-1).into(), &"text".into(), &vec![1].into()));
}

fn array() -> impl Strategy<Value = Array> {
    let flat = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Array::U8),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(Array::I32),
        prop::collection::vec(-1e9f32..1e9, 0..9).prop_map(Array::F32),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        prop::collection::vec(".{0,8}", 0..9).prop_map(Array::String),
    ];
    flat.prop_recursive(2, 16, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Array::Array))
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::U64),
        any::<i16>().prop_map(Value::I16),
        (-1e9f64..1e9).prop_map(Value::F64),
        ".{0,40}".prop_map(Value::String),
        array().prop_map(Value::Array),
    ]
}

fn tensor() -> impl Strategy<Value = (StorageType, Vec<usize>)> {
    let plain = prop::sample::select(vec![StorageType::F32, StorageType::F16, StorageType::BF16, StorageType::I32]);
    let blocks = prop::sample::select(vec![StorageType::Q8_0, StorageType::Q4_0, StorageType::IQ4_NL]);
    prop_oneof![
        (plain, prop::collection::vec(1usize..6, 0..5)),
        (blocks, 1usize..4, 1usize..3).prop_map(|(dtype, rows, blocks)| (dtype, vec![rows, 32 * blocks])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_written_is_read_back(
        values in prop::collection::vec(value(), 0..12),
        tensors in prop::collection::vec(tensor(), 0..12),
        seed in any::<u8>(),
    ) {
        let mut keys = gguf_keys("bitnet");
        keys.extend(values.into_iter().enumerate().map(|(i, value)| (format!("test.{i}"), value)));
        let names: Vec<String> = (0..tensors.len()).map(|i| format!("t{i}")).collect();
        let tensors: Vec<_> = names.iter().zip(tensors).map(|(name, (dtype, shape))| {
            let len = dtype.byte_len(&shape).unwrap();
            let data: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
            (name.as_str(), dtype, shape, data)
        }).collect();
        let model = open_gguf(gguf_bytes(&keys, &tensors)).unwrap();
        let Metadata::Gguf(metadata) = model.metadata() else { panic!("a GGUF file") };
        prop_assert!(metadata.iter().eq(keys.iter().map(|(key, value)| (key.as_str(), value))));
        prop_assert_eq!(model.tensors().len(), tensors.len());
        for (info, (name, dtype, shape, data)) in model.tensors().zip(&tensors) {
            prop_assert_eq!((&info.name[..], info.dtype, &info.shape), (*name, *dtype, shape));
            prop_assert_eq!(model.bytes(name).unwrap(), data);
        }
    }
}
