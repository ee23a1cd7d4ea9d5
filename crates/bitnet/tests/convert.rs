//! `bitnet convert` and `bitnet repair`.

mod program;

use std::path::{Path, PathBuf};
use std::process::Command;

use bitnet_fixtures::{family, moby};
use program::{bitnet, json, path, refusal_of, run};
use serde_json::Value;

/// The last line that a failing command says.
fn refusal(args: &[&str]) -> String {
    refusal_of(bitnet().args(args), None)
}

/// Loss over the beginning of the held-out text, and the tokens after a prompt.
fn behaviour(model: &Path, text: &Path) -> (f64, Value) {
    let loss = json(&["score", path(text), "-m", path(model), "--window", "128", "--json"])["loss"].as_f64().unwrap();
    let ids = json(&["generate", "The whale", "-m", path(model), "-n", "16", "--temperature", "0", "--json"]);
    (loss, ids["ids"].clone())
}

#[test]
fn a_converted_model_says_the_same() {
    let place = tempfile::tempdir().unwrap();
    let text = place.path().join("text.txt");
    std::fs::write(&text, &std::fs::read(moby("heldout.txt")).unwrap()[..8_000]).unwrap();
    for (source, form, out, scales) in [
        ("master", "i2_s", "a.gguf", "exact"),
        ("master", "tq1_0", "b.gguf", "f16"),
        ("i2_s.gguf", "hf-packed", "c", "exact"),
        ("packed-bitlinear", "iq2_bn", "d.gguf", "exact"),
        ("tq2_0.gguf", "hf-master", "e", "exact"),
        ("i2_s-q6_k.gguf", "iq1_bn", "f.gguf", "f16"),
        ("packed-autobitlinear", "hf-bitlinear", "g", "inverse"),
        ("master", "float", "h.gguf", "exact"),
        ("master", "burnpack", "i.bpk", "exact"),
        ("i2_s-q6_k.gguf", "burnpack", "j.bpk", "exact"),
    ] {
        let (from, out) = (moby(source), place.path().join(out));
        let report = json(&["convert", path(&from), path(&out), "--to", form, "--json"]);
        assert_eq!((&report["format"], &report["scales"]), (&form.into(), &scales.into()), "{source}");
        assert_eq!(report["ternary_tensors"], if form == "float" { 0 } else { 28 });
        let ((meant, ids), (found, found_ids)) = (behaviour(&from, &text), behaviour(&out, &text));
        assert!((meant - found).abs() < 2e-4, "{source} to {form}: {meant} became {found}");
        assert_eq!(ids, found_ids, "{source} to {form}");
    }
}

/// The folder that the GGUF file was made of says how its text is cut by merges, the file by scores.
#[test]
fn a_sentencepiece_vocabulary_becomes_merges_again() {
    let place = tempfile::tempdir().unwrap();
    let (gguf, out) = (family("1bitllm").join("model.gguf"), place.path().join("folder"));
    json(&["convert", path(&gguf), path(&out), "--to", "hf-master", "--json"]);
    let page = std::fs::read_to_string(moby("heldout.txt")).unwrap();
    let page = &page[..page.floor_char_boundary(20_000)];
    let ids = |model: &Path| json(&["tokenize", page, "-m", path(model), "--json"]);
    let expected = ids(&family("1bitllm"));
    assert!(expected.as_array().unwrap().len() > 1_000);
    assert_eq!(ids(&gguf), expected);
    assert_eq!(ids(&out), expected);
}

#[test]
fn an_embedding_model_stays_one() {
    let place = tempfile::tempdir().unwrap();
    let vectors = |model: &Path, more: &[&str]| {
        let args = [&["embed", "the whale", "a ship and the sea", "-m", path(model), "--json"], more].concat();
        let output = run(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for (name, form, ending) in [
        ("embedding-qwen3", "i2_s", "gguf"),
        ("embedding-gemma3", "i2_s", "gguf"),
        ("embedding-qwen3", "hf-packed", "folder"),
        ("embedding-gemma3", "burnpack", "bpk"),
    ] {
        let (source, out) = (family(name), place.path().join(format!("{name}-{form}.{ending}")));
        json(&["convert", path(&source), path(&out), "--to", form, "--embd", "f32", "--json"]);
        for more in [&[][..], &["--prompt-name", "query"]] {
            assert_eq!(vectors(&source, more), vectors(&out, more), "{name} as {form}");
        }
    }
    // Without the files that say how it pools.
    let bare = place.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(family("embedding-qwen3").join(file), bare.join(file)).unwrap();
    }
    let said = |source: &Path, name: &str| {
        let output = run(&["convert", path(source), path(&place.path().join(name))]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    };
    let pooling = said(&bare, "bare.gguf");
    assert!(pooling.contains("how the model pools") && !pooling.contains("tokenizer"), "{pooling}");
    assert!(said(&family("falcon-e"), "falcon-e.gguf").contains("no tokenizer"));
}

#[test]
fn what_cannot_be_done_is_named_in_one_line() {
    let place = tempfile::tempdir().unwrap();
    let (from, out, folder) = (moby("master"), place.path().join("m.gguf"), place.path().join("m"));
    let convert = |more: &[&str]| refusal(&[&["convert", path(&from)], more].concat());
    assert!(convert(&[path(&folder)]).contains("ends in .gguf"));
    assert!(convert(&[path(&out), "--to", "burnpack"]).contains("ends in .bpk"));
    assert!(convert(&[path(&place.path().join("m.bpk")), "--to", "burnpack", "--arch", "llama"]).contains("--arch"));
    assert!(convert(&[path(&folder), "--to", "hf-packed", "--arch", "llama"]).contains("--arch"));
    assert!(convert(&[path(&out), "--arch", "llama"]).contains("Relu2"));
    assert!(convert(&[path(&out), "--to", "q2_0"]).contains("8-bit activations"));
    assert!(convert(&[path(&folder), "--to", "hf-packed", "--embd", "q8_0"]).contains("Q8_0"));
    assert!(refusal(&["convert", "absent.gguf", path(&out)]).contains("absent.gguf"));
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);

    std::fs::write(&out, "mine").unwrap();
    for args in [["convert", path(&from), path(&out)], ["repair", path(&from), path(&out)]] {
        let error = refusal(&args);
        assert!(error.contains("m.gguf exists") && error.contains("--overwrite"), "{error}");
    }
    assert_eq!(std::fs::read(&out).unwrap(), b"mine");
    json(&["convert", path(&from), path(&out), "--overwrite", "--json"]);
    assert!(out.metadata().unwrap().len() > 1_000_000);
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let (from, file) = (moby("i2_s.gguf"), place.path().join("m.gguf"));
    std::fs::write(&file, "mine").unwrap();
    let (file, folder, pack) = (path(&file), place.path().join("m"), place.path().join("m.bpk"));
    for args in [
        vec!["convert", path(&from), file, "--to", "tq2_0", "--overwrite"],
        vec!["convert", path(&from), path(&folder), "--to", "hf-packed"],
        vec!["convert", path(&from), path(&pack), "--to", "burnpack"],
    ] {
        // No file may grow beyond a megabyte, as on a disk that has no more room.
        let shell = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"";
        let output = Command::new("sh").args(["-c", shell, env!("CARGO_BIN_EXE_bitnet")]).args(&args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("error: ") && error.contains(place.path().to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 1, "{args:?}");
        assert_eq!(std::fs::read(file).unwrap(), b"mine");
    }
}

/// A GGUF file with the faults of the official one: a small model with a large vocabulary.
fn faulty(place: &Path, vocabulary: usize) -> PathBuf {
    use bitnet::format::export::{GgufOptions, Model, TensorData, write_gguf};
    use bitnet::format::{GgufTokenizer, TokenizerSource, open};
    let source = open(moby("packed-bitlinear")).unwrap();
    let mut model = Model::of(&source, "official").unwrap();
    // LLaMA 3's numbers, without its words.
    let mut tokens: Vec<String> = (0..vocabulary).map(|id| format!("t{id}")).collect();
    for (id, token) in [(128_000, "<|begin_of_text|>"), (128_001, "<|end_of_text|>"), (128_009, "<|eot_id|>")] {
        tokens[id] = token.to_string();
    }
    let token_types = (0..vocabulary).map(|id| if id < 128_000 { 1 } else { 3 }).collect();
    model.tokenizer = TokenizerSource::Gguf(GgufTokenizer {
        model: "gpt2".to_string(),
        tokens,
        token_types,
        chat_template: Some("Human: {{ messages }}BITNETAssistant: ".to_string()),
        ..GgufTokenizer::default()
    });
    model.config.vocab_size = vocabulary;
    (model.config.bos_token_ids, model.config.eos_token_ids) = (vec![128_000], vec![128_001]);
    let embedding = &mut model.tensors[0];
    embedding.shape = vec![vocabulary, 256];
    let whole = place.join("official.gguf");
    write_gguf(&model, &GgufOptions::default(), &whole, false, |tensor| match tensor.shape[0] {
        rows if rows == vocabulary => Ok(TensorData::Floats(vec![0.25; rows * tensor.shape[1]])),
        _ => tensor.read(&source),
    })
    .unwrap();
    whole
}

#[test]
fn the_faults_of_the_official_file_are_mended() {
    let place = tempfile::tempdir().unwrap();
    let official = faulty(place.path(), 128_256);
    let mended = place.path().join("mended.gguf");
    let report = json(&["repair", path(&official), path(&mended), "--json"]);
    let keys: Vec<&str> = report["changes"].as_array().unwrap().iter().map(|c| c["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["tokenizer.ggml.pre", "tokenizer.ggml.eot_token_id", "tokenizer.chat_template"]);
    assert_eq!(report["changes"][1]["after"], 128_009);
    assert_eq!(report["bytes"], mended.metadata().unwrap().len());
    let (before, after) = (bitnet::format::open(&official).unwrap(), bitnet::format::open(&mended).unwrap());
    for tensor in before.tensors() {
        assert!(before.bytes(&tensor.name).unwrap() == after.bytes(&tensor.name).unwrap(), "{}", tensor.name);
    }
    let found = json(&["inspect", "-m", path(&mended), "--json"]);
    assert_eq!(found["metadata"]["tokenizer.ggml.pre"], "llama-bpe");
    assert_eq!(found["tokenizer"]["stop_tokens"], serde_json::json!([128_001, 128_009]));
    assert_eq!(found["tokenizer"]["chat_template_origin"], "the checkpoint");

    let again = place.path().join("again.gguf");
    assert!(refusal(&["repair", path(&mended), path(&again)]).contains("nothing"));
    assert!(refusal(&["repair", path(&moby("master")), path(&again)]).contains("no GGUF file"));
    assert!(!again.exists());
    // Converting mends as well.
    json(&["convert", path(&official), path(&again), "--to", "tq2_0", "--json"]);
    assert_eq!(json(&["inspect", "-m", path(&again), "--json"])["tokenizer"], found["tokenizer"]);
}
