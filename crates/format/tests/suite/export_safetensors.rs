//! The safetensors writer, read back by the `safetensors` crate.

use bitnet_format::{SafetensorsWriter, StorageType};
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::common::{assert_says, f32_bytes};

#[test]
fn tensors_come_back_aligned_whatever_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let mut file = SafetensorsWriter::new();
    file.metadata("step", "3").unwrap().metadata("a \"quoted\" key", "ünï").unwrap();
    file.tensor("bytes", StorageType::U8, &[3]).unwrap();
    file.tensor("half", StorageType::BF16, &[1]).unwrap();
    file.tensor("empty", StorageType::F32, &[0, 4]).unwrap();
    file.tensor("words", StorageType::U32, &[2]).unwrap();
    file.tensor("floats", StorageType::F32, &[2, 1]).unwrap();
    file.tensor("long", StorageType::I64, &[]).unwrap();
    let mut out = file.create(&path, false).unwrap();
    assert!(!path.exists());
    out.write_f32("floats", &[1.0, f32::NAN]).unwrap();
    out.write("bytes", &[1, 2, 3]).unwrap();
    out.write("long", &(-5i64).to_le_bytes()).unwrap();
    out.write_u32("words", &[7, u32::MAX]).unwrap();
    out.write("half", &[0x80, 0x3f]).unwrap();
    out.write("empty", &[]).unwrap();
    out.finish().unwrap();

    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("bytes").unwrap().data(), [1, 2, 3]);
    assert_eq!(file.tensor("half").unwrap().data(), [0x80, 0x3f]);
    assert_eq!(file.tensor("floats").unwrap().data(), f32_bytes(&[1.0, f32::NAN]));
    assert_eq!(file.tensor("words").unwrap().data(), [7, 0, 0, 0, 255, 255, 255, 255]);
    assert_eq!(file.tensor("long").unwrap().data(), (-5i64).to_le_bytes());
    assert_eq!((file.tensor("floats").unwrap().shape(), file.tensor("long").unwrap().shape()), (&[2, 1][..], &[][..]));
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let texts = header.metadata().clone().unwrap();
    assert_eq!((texts["step"].as_str(), texts["a \"quoted\" key"].as_str()), ("3", "ünï"));
    for (name, tensor) in file.iter() {
        let place = tensor.data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert!(place.is_multiple_of(tensor.dtype().bitsize() / 8), "{name} begins at {place}");
    }
}

#[test]
fn nothing_is_there_before_it_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let begin = |overwrite| {
        let mut file = SafetensorsWriter::new();
        file.tensor("a", StorageType::F32, &[1]).unwrap();
        file.create(&path, overwrite)
    };
    let mut out = begin(false).unwrap();
    out.write_f32("a", &[1.0]).unwrap();
    drop(out);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "an abandoned file leaves nothing");

    std::fs::write(&path, "mine").unwrap();
    assert_says(begin(false), &["m.safetensors", "exists"]);
    let mut out = begin(true).unwrap();
    out.write_f32("a", &[2.0]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    out.finish().unwrap();
    assert!(SafeTensors::deserialize(&std::fs::read(&path).unwrap()).is_ok());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn what_was_not_declared_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = SafetensorsWriter::new();
    file.metadata("k", "v").unwrap();
    assert_says(file.metadata("k", "w"), &["`k`", "twice"]);
    file.tensor("a", StorageType::F32, &[2]).unwrap().tensor("b", StorageType::U8, &[1]).unwrap();
    assert_says(file.tensor("a", StorageType::F32, &[2]), &["`a`", "twice"]);
    assert_says(file.tensor("__metadata__", StorageType::F32, &[2]), &["`__metadata__`"]);
    assert_says(file.tensor("", StorageType::F32, &[2]), &["``"]);
    assert_says(file.tensor("q", StorageType::Q8_0, &[32]), &["`q`", "Q8_0"]);
    assert_says(file.tensor("q", StorageType::F32, &[usize::MAX, 2]), &["`q`", "too large"]);
    let mut out = file.create(folder.path().join("m.safetensors"), false).unwrap();
    assert_says(out.write("q", &[]), &["`q`", "not declared"]);
    assert_says(out.write("a", &[0; 7]), &["`a`", "7 bytes", "instead of 8"]);
    assert_says(out.write("a", &[0; 9]), &["`a`", "9 bytes", "instead of 8"]);
    assert_says(out.write_u32("a", &[1, 2]), &["`a`", "F32", "U32"]);
    assert_says(out.write_f32("a", &[1.0]), &["`a`", "4 bytes"]);
    out.write_f32("a", &[1.0, 2.0]).unwrap();
    assert_says(out.write_f32("a", &[1.0, 2.0]), &["`a`", "twice"]);
    assert_says(out.finish(), &["`b`", "never written"]);
    let mut huge = SafetensorsWriter::new();
    huge.tensor("a", StorageType::U8, &[usize::MAX]).unwrap().tensor("b", StorageType::U8, &[1]).unwrap();
    assert_says(huge.create(folder.path().join("h.safetensors"), false), &["`b`", "too large"]);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

proptest! {
    #[test]
    fn any_tensors_come_back(
        tensors in prop::collection::vec((0usize..4, prop::collection::vec(0usize..4, 0..3)), 0..8),
        reversed in any::<bool>(),
    ) {
        let types = [StorageType::F32, StorageType::BF16, StorageType::U8, StorageType::F64];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let mut file = SafetensorsWriter::new();
        let mut data: Vec<(String, Vec<u8>)> = Vec::new();
        for (i, (dtype, shape)) in tensors.iter().enumerate() {
            file.tensor(&i.to_string(), types[*dtype], shape).unwrap();
            let bytes = types[*dtype].byte_len(shape).unwrap();
            data.push((i.to_string(), (0..bytes).map(|b| (b * 7 + i) as u8).collect()));
        }
        let mut out = file.create(&path, false).unwrap();
        if reversed {
            data.reverse();
        }
        for (name, bytes) in &data {
            out.write(name, bytes).unwrap();
        }
        out.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(file.len(), data.len());
        for (name, bytes) in &data {
            prop_assert_eq!(file.tensor(name).unwrap().data(), &bytes[..]);
        }
    }
}
