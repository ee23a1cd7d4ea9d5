//! The `generate-model` command.

use std::path::Path;
use std::process::{Command, Output};
use std::{fs, str};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_generate-model"));
    command.current_dir(folder).args(["--shape", "tiny"]).args(arguments).output().unwrap()
}

#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The command fails with one line that holds these words, and leaves the folder as it was.
#[track_caller]
fn fails(folder: &Path, arguments: &[&str], words: &str) {
    let before = entries(folder);
    let output = run(folder, arguments);
    let error = str::from_utf8(&output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
    assert!(error.contains(words), "no {words:?} in {error}");
    assert_eq!(entries(folder), before);
}

fn entries(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_file_is_only_replaced_when_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let summary = succeeds(folder, &["m.gguf"]);
    let bytes = fs::read(folder.join("m.gguf")).unwrap();
    assert!(summary.contains(&format!("m.gguf: {} bytes", bytes.len())), "{summary}");
    assert_eq!(entries(folder), ["m.gguf"]);

    fails(folder, &["m.gguf", "--seed", "1"], "--overwrite");
    assert_eq!(fs::read(folder.join("m.gguf")).unwrap(), bytes);
    succeeds(folder, &["m.gguf", "--seed", "1", "--overwrite"]);
    assert_ne!(fs::read(folder.join("m.gguf")).unwrap(), bytes);
    succeeds(folder, &["m.gguf", "--seed", "0", "--overwrite"]);
    assert_eq!(fs::read(folder.join("m.gguf")).unwrap(), bytes);
    assert_eq!(entries(folder), ["m.gguf"]);
}

#[test]
fn a_folder_is_only_replaced_when_asked_to_and_when_it_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = ["--format", "hf-packed", "m"];
    succeeds(folder, &model);
    let files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(entries(&folder.join("m")), files);

    fails(folder, &model, "--overwrite");
    let replace = ["--format", "hf-packed", "m", "--overwrite", "--layers", "1"];
    let before = fs::metadata(folder.join("m/model.safetensors")).unwrap().len();
    succeeds(folder, &replace);
    assert!(fs::metadata(folder.join("m/model.safetensors")).unwrap().len() < before);
    assert_eq!(
        (entries(folder), entries(&folder.join("m"))),
        (vec!["m".to_string()], files.map(String::from).to_vec())
    );

    fs::write(folder.join("m/thesis.tex"), "years of work").unwrap();
    fails(folder, &replace, "thesis.tex");
    fs::write(folder.join("notes"), "").unwrap();
    fails(folder, &["--format", "hf-packed", "notes", "--overwrite"], "not a folder");
}

#[test]
fn names_that_no_model_can_have() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fails(folder, &["model.bin"], "end in .gguf");
    fails(folder, &["absent/m.gguf"], "absent/m.gguf");
    fails(folder, &["--format", "hf-packed", "absent/m"], "absent/m");
    fs::create_dir(folder.join("d.gguf")).unwrap();
    fails(folder, &["d.gguf", "--overwrite"], "it is a folder");
    assert_eq!(run(folder, &["m.gguf", "--layers", "0"]).status.code(), Some(2));
}
