//! What was there is kept unless it may be replaced.

use bitnet_format::export::{GgufOptions, HuggingFaceOptions, Tensor, write_gguf, write_hugging_face};
use bitnet_format::{FormatError, open};

use super::fake::{SMALL, fake};
use crate::common::assert_says;

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
