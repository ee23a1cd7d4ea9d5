//! Files with random damage: an error or an answer, never a panic.

use bitnet_engine::{GenerationConfig, LanguageModel, format, model};
use bitnet_fixtures::{FOLDERS, GGUFS, moby};
use proptest::prelude::*;

/// Loads the model and lets it write; gives whether it came that far.
fn try_model(path: &std::path::Path) -> bool {
    let device = model::device(model::DeviceKind::default_name()).unwrap();
    let Ok(checkpoint) = format::open(path) else { return false };
    let Ok(language_model) = LanguageModel::load(&checkpoint, &device, None) else { return false };
    let config = GenerationConfig { temperature: 0.0, max_new_tokens: 2, ..Default::default() };
    let Ok(prompt) = language_model.tokenizer().encode("The whale", true) else { return false };
    let mut session = language_model.session(Some(8));
    let Ok(generation) = session.generate(&prompt, &config) else { return false };
    generation.map(|step| step.map(drop)).all(|step| step.is_ok())
}

/// Where to change a file, as a fraction of its length, and to what.
fn damage() -> impl Strategy<Value = Vec<(f64, u8)>> {
    prop::collection::vec((0.0..1.0f64, any::<u8>()), 1..6)
}

fn at(fraction: f64, length: usize) -> usize {
    // The header is a small part of the file and the part that is read with care: half of the hits go there.
    if fraction < 0.5 { (fraction * 2.0 * 8192.0) as usize % length } else { (fraction * length as f64) as usize }
}

/// The files of a folder that a model needs.
const FILES: [&str; 4] = ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_damaged_gguf_does_no_harm(file in 0..GGUFS.len(), damage in damage(), cut in prop::option::of(0.0..1.0f64)) {
        let mut bytes = std::fs::read(moby(GGUFS[file])).unwrap();
        for (fraction, byte) in damage {
            let at = at(fraction, bytes.len());
            bytes[at] = byte;
        }
        if let Some(fraction) = cut {
            bytes.truncate((fraction * bytes.len() as f64) as usize);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        let came_through = try_model(&path);
        // The last bytes of a GGUF may be padding.
        let whole = std::fs::metadata(moby(GGUFS[file])).unwrap().len();
        let is_cut = std::fs::metadata(&path).unwrap().len() + 32 <= whole;
        prop_assert!(!is_cut || !came_through, "a file that is cut is not a model");
    }

    #[test]
    fn a_damaged_folder_does_no_harm(
        folder in 0..FOLDERS.len(), file in 0..FILES.len(), damage in damage(), cut in prop::option::of(0.0..1.0f64),
    ) {
        let (source, file) = (moby(FOLDERS[folder]), FILES[file]);
        let folder = tempfile::tempdir().unwrap();
        for file in FILES {
            std::fs::copy(source.join(file), folder.path().join(file)).unwrap();
        }
        let mut bytes = std::fs::read(source.join(file)).unwrap();
        for (fraction, byte) in damage {
            let at = at(fraction, bytes.len());
            bytes[at] = byte;
        }
        if let Some(fraction) = cut {
            bytes.truncate((fraction * bytes.len() as f64) as usize);
        }
        std::fs::write(folder.path().join(file), bytes).unwrap();
        let came_through = try_model(folder.path());
        prop_assert!(cut.is_none() || file != "model.safetensors" || !came_through, "a file that is cut is not a model");
    }
}
