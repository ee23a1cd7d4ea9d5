//! The program as scripts and people use it.

mod program;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use bitnet_fixtures::{FAMILIES, Reference, families_tokenizer, family, moby};
use program::{bitnet, json, path, refusal, run, stdout};
use serde_json::Value;

#[test]
fn generate_json_has_what_scripts_rely_on() {
    let model = moby("packed-autobitlinear");
    let args = ["generate", "The whale", "-m", path(&model), "--max-tokens", "6", "--temperature", "0", "--json"];
    let value = json(&args);
    assert_eq!(value["prompt_ids"], serde_json::json!([4093, 673, 389]));
    assert_eq!(value["ids"].as_array().unwrap().len(), 6);
    assert_eq!(value["finish_reason"], "length");
    assert!(value["prefill_tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(value["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    let text = stdout(&args[..8]);
    assert_eq!(text.trim_end_matches('\n'), value["text"].as_str().unwrap().trim_end_matches('\n'));
}

#[test]
fn a_seed_gives_one_text_whatever_runs_it() {
    let args = ["generate", "Call me Ishmael.", "-n", "40", "--temperature", "0.9", "--json"];
    let seeded = |seed: &str, command: &mut Command| -> Value {
        let output = command.args(["--seed", seed]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["ids"].clone()
    };
    let ids = |command: &mut Command| seeded("42", command);
    let expected = ids(bitnet().args(args));
    assert_eq!(expected.as_array().unwrap().len(), 40);
    for threads in ["1", "2", "3"] {
        assert_eq!(ids(bitnet().args(args).args(["--threads", threads])), expected, "{threads} threads");
    }
    for isa in bitnet::model::Isa::available() {
        assert_eq!(ids(bitnet().args(args).env("BITNET_ISA", isa.name())), expected, "{isa}");
    }
    for device in bitnet::model::devices().unwrap() {
        assert_eq!(ids(bitnet().args(args).args(["--device", device.kind.name()])), expected, "{}", device.kind.name());
    }
    assert_eq!(ids(bitnet().args(args).args(["--weights", "1.6bit"])), expected, "1.6-bit weights");
    assert_ne!(seeded("43", bitnet().args(args)), expected);
}

/// Greedy tokens of a family, or vectors if it makes some.
fn output_of_family(name: &str, isa: Option<&str>, more: &[&str]) -> Vec<Value> {
    let path = match FAMILIES.contains(&name) {
        true => family(name),
        false => family(name).join("model.gguf"),
    };
    let mut command = bitnet();
    match name.starts_with("embedding") {
        true => command.args(["embed", "the whale", "a ship and the sea, and the white whale", "--json"]),
        false => command.args(["generate", "the whale", "-n", "12", "--temperature", "0", "--ignore-eos", "--json"]),
    };
    if path.is_dir() && !path.join("tokenizer.json").exists() {
        command.arg("--tokenizer").arg(families_tokenizer());
    }
    command.envs(isa.map(|isa| ("BITNET_ISA", isa)));
    let output = command.arg("--model").arg(path).args(more).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let values = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    values.map(|value| value.get("ids").unwrap_or(&value["embedding"]).clone()).collect()
}

#[test]
fn every_family_gives_the_same_on_every_instruction_set_and_native_device() {
    for name in FAMILIES.into_iter().chain(["bonsai-g64", "bonsai-g128"]) {
        let expected = output_of_family(name, None, &[]);
        assert!(expected.iter().all(|values| values.as_array().unwrap().len() >= 12), "{name}");
        for isa in bitnet::model::Isa::available() {
            assert_eq!(output_of_family(name, Some(isa.name()), &[]), expected, "{name}, {isa}");
        }
        // Those of CubeCL add floats up in another order, and have suites of their own.
        let devices = bitnet::model::devices().unwrap();
        for device in devices.iter().filter(|device| device.kernels.starts_with("native, ")) {
            let device = device.kind.name();
            let found = output_of_family(name, None, &["--device", device]);
            if name == "embedding-gemma3" {
                // Its windows and its GELU are Burn's own operations, which differ in the last places.
                let floats = |values: Value| serde_json::from_value::<Vec<f32>>(values).unwrap();
                for (found, expected) in found.into_iter().map(floats).zip(expected.clone().into_iter().map(floats)) {
                    assert!(bitnet_fixtures::difference(&found, &expected) < 3e-6, "{name}, {device}");
                }
            } else {
                assert_eq!(found, expected, "{name}, {device}");
            }
        }
    }
}

#[test]
fn embed_prints_a_vector_a_line_for_scripts_and_similarities_for_people() {
    let model = family("embedding-qwen3");
    let reference = Reference::of("embedding-qwen3");
    let expected = reference.vectors("last");
    let texts: Vec<&str> = reference.texts.iter().map(|(text, _)| text.as_str()).collect();
    let args = [&["embed", "-m", path(&model), "--json"], &texts[..]].concat();
    let lines: Vec<Value> = stdout(&args).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), texts.len());
    for (index, (line, expected)) in lines.iter().zip(expected.chunks_exact(expected.len() / texts.len())).enumerate() {
        assert_eq!((&line["index"], &line["tokens"]), (&index.into(), &reference.texts[index].1.len().into()));
        let values: Vec<f32> = serde_json::from_value(line["embedding"].clone()).unwrap();
        assert!(bitnet_fixtures::difference(&values, expected) < 3e-6);
    }

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), texts.join("\n") + "\n").unwrap();
    let of_file = stdout(&["embed", "-m", path(&model), "--file", path(file.path()), "--json"]);
    assert_eq!(of_file, stdout(&args));
    let query = stdout(&["embed", "-m", path(&model), "--prompt-name", "query", "the whale", "--json"]);
    assert_eq!(query, stdout(&["embed", "-m", path(&model), "so: the whale", "--json"]));

    let shown = stdout(&[&["embed", "-m", path(&model)], &texts[..]].concat());
    assert!(shown.contains("32 values") && shown.contains("cosine similarities\n 1.0000"), "{shown}");
}

#[test]
fn a_language_model_embeds_only_when_told_how() {
    let error = refusal(&["embed", "The whale"]);
    assert!(error.contains("--pooling last|mean") && error.contains("embedded"), "{error}");
    let line = json(&["embed", "The whale", "--pooling", "mean", "--json"]);
    assert_eq!(line["embedding"].as_array().unwrap().len(), 256);
    assert_ne!(line, json(&["embed", "The whale", "--pooling", "last", "--json"]));
    let error = String::from_utf8(run(&["embed", "The whale", "--pooling", "cls"]).stderr).unwrap();
    assert!(error.lines().count() == 1 && error.contains("last or mean"), "{error}");
    let error = refusal(&["embed", "--file", "no such file", "--pooling", "mean"]);
    assert!(error.contains("no such file"), "{error}");
}

#[test]
fn caches_of_every_format_continue_a_text_and_others_are_refused() {
    for cache in ["f32", "f16", "int8"] {
        let args = ["generate", "The whale", "-n", "8", "--temperature", "0", "--json", "--cache", cache];
        assert_eq!(json(&args)["ids"].as_array().unwrap().len(), 8, "{cache}");
    }
    for (flag, value) in [("--cache", "q4"), ("--weights", "3bit")] {
        let output = run(&["generate", "x", flag, value]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.lines().count() == 1 && error.contains(flag), "{error}");
    }
}

#[test]
fn every_container_is_opened_by_its_path() {
    let ids = |file: &Path| {
        json(&["generate", "The whale", "-m", path(file), "-n", "4", "--temperature", "0", "--json"])["ids"].clone()
    };
    let expected = ids(&moby("packed-bitlinear").join("model.safetensors"));
    for name in ["master", "packed-autobitlinear", "packed-bitlinear", "i2_s.gguf", "tq2_0.gguf"] {
        assert_eq!(ids(&moby(name)), expected, "{name}");
    }
}

#[test]
fn the_activation_can_be_overruled() {
    let (model, text) = (moby("tq2_0.gguf"), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(text.path(), &std::fs::read(moby("heldout.txt")).unwrap()[..4000]).unwrap();
    let args = ["score", path(text.path()), "-m", path(&model), "--window", "64", "--json"];
    let loss = |more: &[&str]| json(&[&args[..], more].concat())["loss"].as_f64().unwrap();
    assert_eq!(loss(&["--activation", "relu2"]), loss(&[]), "as the file says");
    assert!(loss(&["--activation", "silu"]) > loss(&[]) + 0.1);
}

#[test]
fn a_prompt_can_come_from_stdin() {
    let model = moby("packed-autobitlinear");
    let mut child = bitnet()
        .args(["generate", "-m", path(&model), "-n", "2", "--temperature", "0", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"The whale").unwrap();
    let output = child.wait_with_output().unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["prompt_ids"], serde_json::json!([4093, 673, 389]));
}

#[test]
fn chat_answers_each_line_and_obeys_commands() {
    let mut child = bitnet()
        .args(["chat", "-n", "5", "--temperature", "0", "--system", "Be brief."])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "Hello.\nHello again.\n/system\n/reset\nHello.\n/abacus\n/exit\nnot read\n";
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{notes}");
    assert!(notes.contains("Be brief.") && notes.contains("unknown command /abacus"), "{notes}");
    let replies = String::from_utf8(output.stdout).unwrap();
    let args = ["generate", "Hello.", "--chat", "--system", "Be brief.", "-n", "5", "--temperature", "0"];
    let single = stdout(&args);
    assert!(replies.starts_with(&single) && replies.ends_with(&single), "{replies:?} {single:?}");
}

#[test]
fn score_inspect_tokenize_and_devices_speak_json() {
    let (text, folder) = (moby("heldout.txt"), moby("packed-autobitlinear"));
    let model = ["-m", path(&folder)];
    let value =
        json(&["score", path(&text), "-m", path(&folder), "--window", "256", "--bos", "--skip", "128", "--json"]);
    assert_eq!(value["tokens"], 8382);
    assert!((value["perplexity"].as_f64().unwrap() / 182.5309 - 1.0).abs() < 5e-4, "{value}");
    assert!((value["nll"].as_f64().unwrap() / 8382.0 - value["loss"].as_f64().unwrap()).abs() < 1e-9);

    let value = json(&[&["inspect", "--json"], &model[..]].concat());
    assert_eq!(value["config"]["num_layers"], 4);
    assert_eq!(value["parameters"], 4_200_704);
    assert_eq!(value["ternary_parameters"], 3_145_728);
    assert_eq!(value["bits_per_ternary_weight"], 2.0);
    assert_eq!(value["tokenizer"]["stop_tokens"], serde_json::json!([4094, 4095]));
    let gguf = moby("i2_s.gguf");
    let value = json(&["inspect", "-m", path(&gguf), "--json"]);
    assert_eq!(value["metadata"]["general.architecture"], "bitnet-b1.58");
    assert_eq!(value["tensors"].as_array().unwrap().len(), 46);
    assert_eq!(value["ternary_parameters"], 3_145_728);
    assert!(stdout(&[&["inspect"], &model[..]].concat()).contains("model.layers.3.mlp.up_proj.weight"));

    let tokenize = [&["tokenize", "The whale"], &model[..]].concat();
    assert_eq!(json(&[&tokenize[..], &["--json"]].concat()), serde_json::json!([4093, 673, 389]));
    assert_eq!(json(&[&tokenize[..], &["--no-bos", "--json"]].concat()), serde_json::json!([673, 389]));
    assert!(stdout(&tokenize).contains("389"));
    assert_eq!(json(&["devices", "--json"])[0]["name"], "flex");
    assert!(stdout(&["completions", "bash"]).contains("bitnet"));
}

#[test]
fn wrong_arguments_are_named_in_one_line() {
    assert_eq!(refusal(&["generate", ""]), "the prompt is empty");
    assert!(refusal(&["generate", "x", "--temperature", "-1"]).starts_with("temperature"));
    assert!(refusal(&["generate", "x", "-m", "absent.gguf"]).contains("absent.gguf"));
    assert!(refusal(&["generate", "x", "-m", "absent/model"]).contains("absent/model"));
    assert!(refusal(&["generate", "x", "--device", "abacus"]).contains("abacus"));
    let second = refusal(&["generate", "x", "--device", "flex:7"]);
    assert!(second.contains("no device flex:7: this machine has 1 "), "{second}");
    let listed = stdout(&["devices"]);
    for (feature, there) in [
        ("cuda", cfg!(feature = "cuda")),
        ("rocm", cfg!(feature = "rocm")),
        ("metal", cfg!(feature = "metal")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("webgpu", cfg!(feature = "webgpu")),
        ("cpu", cfg!(feature = "cpu")),
    ] {
        let said = match there {
            true if listed.lines().any(|line| line.starts_with(feature)) => continue,
            true => format!("there is no device {feature}: this machine has 0 with a driver for {feature}"),
            false => format!("without {feature}: build it with `--features {feature}`"),
        };
        for command in [&["generate", "x"][..], &["bench"]] {
            let text = refusal(&[command, &["--device", feature]].concat());
            assert!(text.contains(&said), "{text}");
        }
    }
    assert!(refusal(&["generate", "x", "--tokenizer", "absent.json"]).contains("absent.json"));
    assert!(refusal(&["generate", &"whale ".repeat(1200), "-n", "1"]).contains("the context is 1024"));
    assert!(refusal(&["score", "absent.txt"]).contains("absent.txt"));
    let short = tempfile::NamedTempFile::new().unwrap();
    assert!(refusal(&["score", path(short.path())]).contains("0 tokens"));
    let latin1 = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(latin1.path(), b"caf\xe9").unwrap();
    assert!(refusal(&["score", path(latin1.path())]).contains("not UTF-8"));
    let output = bitnet().args(["generate", "x"]).env("BITNET_ISA", "mmx").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("BITNET_ISA=mmx"), "{error}");
    let output = run(&["generate", "x", "--threads", "0"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && error.lines().count() == 1 && error.contains("--threads"), "{error}");
    assert!(refusal(&["generate", "x", "--context", "5000"]).contains("--context 5000"));
    assert!(refusal(&["score", path(&moby("heldout.txt")), "--window", "5000"]).contains("--window 5000"));
    assert!(refusal(&["generate", "x", "--stop-token", "99999"]).contains("99999"));
    let gguf = moby("i2_s.gguf");
    assert!(refusal(&["generate", "x", "--chat", "-m", path(&gguf)]).contains("i2_s.gguf has no chat template"));
    assert!(refusal(&["chat", "-m", path(&gguf)]).contains("i2_s.gguf has no chat template"));
}

#[cfg(unix)]
#[test]
fn a_prompt_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let prompt = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let output = bitnet().arg("generate").arg(prompt).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("UTF-8"), "{error}");
    let mut child =
        bitnet().arg("generate").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"caf\xe9").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("not UTF-8"));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let mut child = bitnet()
        .args(["generate", "The whale", "-n", "200", "--ignore-eos"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}

#[cfg(unix)]
#[test]
fn nobody_has_to_read_what_is_said_on_stderr() {
    let mut child = bitnet()
        .args(["generate", "x", "-m", "absent.gguf"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
