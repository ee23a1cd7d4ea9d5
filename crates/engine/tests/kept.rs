//! Weights that are kept from one start to the next.

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_engine::model::{Kept, WeightBits, device};
use bitnet_engine::{GenerationConfig, LanguageModel, OpenOptions, format};
use bitnet_fixtures::moby;

/// Loads the model with its weights kept in `folder`; what is said of them, and what the model writes.
fn run(model: &Path, bits: WeightBits, folder: Option<&Path>) -> (String, Vec<u32>) {
    let checkpoint = format::open_with(model, &OpenOptions::default()).unwrap();
    let kept = folder.map(|folder| Kept { folder: folder.to_path_buf(), at_least: 0 });
    let device = device("flex").unwrap();
    let model = LanguageModel::load_with_bits(&checkpoint, bits, kept.as_ref(), &device, None).unwrap();
    let config = GenerationConfig { temperature: 0.0, max_new_tokens: 20, ignore_eos: true, ..Default::default() };
    let prompt = model.tokenizer().encode("The whale", true).unwrap();
    let mut session = model.session(None);
    let mut generation = session.generate(&prompt, &config).unwrap();
    generation.by_ref().for_each(|step| drop(step.unwrap()));
    (model.kept_weights().map(ToString::to_string).unwrap_or_default(), generation.ids().to_vec())
}

/// The files of a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_second_start_finds_what_the_first_kept() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("cache");
    for name in ["packed-autobitlinear", "i2_s-q6_k.gguf", "tq2_0.gguf"] {
        for bits in [WeightBits::Two, WeightBits::OnePointSix] {
            let (_, expected) = run(&moby(name), bits, None);
            let (state, ids) = run(&moby(name), bits, Some(&folder));
            assert!(state.starts_with("prepared weights kept in") && !state.contains("instead of"), "{name}: {state}");
            assert_eq!(ids, expected, "{name}");
            let (state, ids) = run(&moby(name), bits, Some(&folder));
            assert!(state.starts_with("prepared weights from"), "{name}: {state}");
            assert_eq!(ids, expected, "{name}");
        }
    }
    assert_eq!(files(&folder).len(), 6, "a file for each model and number of bits, and nothing else");
}

#[test]
fn what_is_damaged_or_of_an_earlier_model_is_made_again() {
    let temporary = tempfile::tempdir().unwrap();
    let (folder, model) = (temporary.path().join("cache"), temporary.path().join("model.gguf"));
    fs::copy(moby("i2_s.gguf"), &model).unwrap();
    let (_, expected) = run(&model, WeightBits::Two, Some(&folder));
    let file = files(&folder).remove(0);
    let whole = fs::read(&file).unwrap();
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for (bytes, what) in
        [(&whole[..middle], "table"), (&changed, "has changed"), (&whole[..20], "of another"), (&[], "")]
    {
        fs::write(&file, bytes).unwrap();
        let (state, ids) = run(&model, WeightBits::Two, Some(&folder));
        assert!(state.contains("instead of") && state.contains(what), "{what}: {state}");
        assert_eq!(ids, expected);
        assert_eq!(files(&folder), std::slice::from_ref(&file));
        assert!(fs::read(&file).unwrap() == whole);
    }
    // Another model under the same name.
    fs::copy(moby("tq2_0.gguf"), &model).unwrap();
    let (state, _) = run(&model, WeightBits::Two, Some(&folder));
    assert!(state.contains("another model"), "{state}");
    assert!(run(&model, WeightBits::Two, Some(&folder)).0.starts_with("prepared weights from"));
}

#[test]
fn a_folder_that_cannot_be_written_to_is_no_error() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("file");
    fs::write(&file, "not a folder").unwrap();
    let (state, ids) = run(&moby("i2_s.gguf"), WeightBits::Two, Some(&file));
    assert!(state.starts_with("prepared weights not kept"), "{state}");
    assert_eq!(ids, run(&moby("i2_s.gguf"), WeightBits::Two, None).1);
}
