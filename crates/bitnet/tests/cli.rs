//! The program as scripts and people use it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bitnet_fixtures::{FAMILIES, Reference, families_tokenizer, family, moby};
use bitnet_ternary::Packing;
use serde_json::Value;

fn bitnet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command.env_remove("BITNET_ISA").env_remove("BITNET_MODEL").env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    bitnet().args(args).output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// The one line that a failing command says.
fn refusal(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    assert!(output.stdout.is_empty(), "{args:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text.strip_prefix("error: ").expect("an error").trim_end().to_string()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

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
fn a_padding_row_of_the_embedding_has_no_text() {
    let folder = broken("packed-autobitlinear", |folder| {
        let file = folder.join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        tokenizer["added_tokens"].as_array_mut().unwrap().retain(|token| token["id"] != 4095);
        std::fs::write(&file, tokenizer.to_string()).unwrap();
    });
    let args = ["generate", "The whale", "-n", "2", "--temperature", "0", "--logit-bias", "4095=1000", "--json", "-m"];
    let value = json(&[&args[..], &[path(folder.path())]].concat());
    assert_eq!((&value["ids"], &value["text"]), (&serde_json::json!([4095, 4095]), &serde_json::json!("")));
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
fn too_little_memory_of_a_device_is_said_before_it_is_used() {
    for device in json(&["devices", "--json"]).as_array().unwrap() {
        let device = device["name"].as_str().unwrap();
        let generate = |bytes: u64, more: &[&str]| {
            let mut command = bitnet();
            command
                .env("BITNET_DEVICE_MEMORY", bytes.to_string())
                .args(["generate", "x", "-n", "2", "--device", device]);
            let output = command.args(more).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            // What a library of the display says where OpenGL's adapters are looked for and nobody is logged in.
            let own = text.split_inclusive('\n').filter(|line| !line.contains("XDG_RUNTIME_DIR"));
            (output.status.code(), own.collect::<String>())
        };
        let (code, text) = generate(1, &[]);
        let needed = text
            .strip_prefix("error: the weights need ")
            .and_then(|rest| rest.split_once(" MB, and the device has 0 MB"));
        let megabytes: u64 = needed.unwrap_or_else(|| panic!("{text}")).0.parse().unwrap();
        assert_eq!((code, text.lines().count()), (Some(1), 1), "{text}");
        // The weights, but not the cache of the whole context; a smaller one goes.
        let (code, text) = generate(megabytes * 1_000_000, &[]);
        assert!(text.starts_with("error: the weights and a cache for 1024 tokens need "), "{text}");
        assert!(text.ends_with(&format!("and the device has {megabytes} MB: ask for a smaller context\n")), "{text}");
        assert_eq!((code, text.lines().count()), (Some(1), 1), "{text}");
        let (code, text) = generate((megabytes + 1) * 1_000_000, &["--context", "64"]);
        assert_eq!(code, Some(0), "{text}");
    }
}

#[test]
fn devices_are_listed_with_what_they_do_themselves_and_each_writes_a_text() {
    let listed = json(&["devices", "--json"]);
    let listed = listed.as_array().unwrap();
    let names: Vec<&str> = listed.iter().map(|device| device["name"].as_str().unwrap()).collect();
    // Those that need no driver.
    let always =
        [("flex", cfg!(feature = "flex")), ("ndarray", cfg!(feature = "ndarray")), ("cpu", cfg!(feature = "cpu"))];
    for (name, there) in always {
        assert_eq!(names.contains(&name), there, "{names:?}");
    }
    let lines = stdout(&["devices"]);
    assert_eq!(lines.lines().count(), listed.len(), "{lines}");
    for ((line, device), name) in lines.lines().zip(listed).zip(names) {
        let kernels = device["kernels"].as_str().unwrap();
        let natively: Vec<&str> = device["natively"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        assert_eq!(line, [&[&*format!("{name:8} {kernels}")], &natively[..]].concat().join(", "));
        let native = ["flex", "ndarray"].contains(&name);
        assert!(kernels.starts_with(if native { "native, " } else { "CubeCL " }), "{line}");
        if native || name == "cpu" {
            assert!(!natively.contains(&"dp4a") && !natively.contains(&"replay"), "{line}");
        }
        if name.starts_with("webgpu") {
            assert!(natively.contains(&"replay"), "{line}");
        }

        let output = run(&["generate", "Call me", "-n", "4", "--temperature", "0", "-v", "--device", name]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{name}: {said}");
        assert!(said.contains(&format!("device {name}, kernels {kernels}")), "{said}");
        // Nothing of a decoder is done without a kernel.
        assert!(!said.contains("has no kernel"), "{said}");
        assert!(!output.stdout.trim_ascii().is_empty(), "{name}");
    }
}

#[test]
#[cfg(all(feature = "webgpu", target_os = "linux"))]
fn a_device_without_a_driver_is_said_in_one_line() {
    let mut command = bitnet();
    // Where Vulkan and OpenGL look for what there is.
    command.env_remove("VK_DRIVER_FILES").env("VK_ICD_FILENAMES", "/absent");
    command.env("__EGL_VENDOR_LIBRARY_FILENAMES", "/absent").args(["generate", "x", "--device", "webgpu"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "error: there is no device webgpu: this machine has 0 with a driver for webgpu\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn variables_of_the_environment_that_cannot_be_understood_are_named_in_one_line() {
    let mut wrong = vec![
        ("BITNET_ISA", "mmx", "not an instruction set of this processor"),
        ("BITNET_DEVICE_MEMORY", "2G", "it takes a number of bytes"),
        ("BITNET_REPLAY", "no", "it takes 0 or 1"),
    ];
    if cfg!(any(feature = "cpu", feature = "webgpu")) {
        wrong.extend([("BITNET_TUNED", "yes", "it takes 0 or 1"), ("BITNET_PRODUCTS", "words", "it takes floats, ")]);
        wrong.push(("BITNET_ROWS", "3x1", "it takes units and rows, "));
    }
    for ((name, value, why), command) in wrong.into_iter().flat_map(|w| [(w, "generate"), (w, "devices")]) {
        let arguments = if command == "generate" { &["generate", "x"][..] } else { &["devices"] };
        let output = bitnet().env(name, value).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("error: {name}={value}: {why}")) && said.lines().count() == 1, "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
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

#[test]
fn what_a_file_says_does_not_reach_the_terminal_as_commands() {
    let folder = broken("packed-autobitlinear", |folder| {
        rewrite(&folder.join("config.json"), |text| text.replace("BitNetForCausalLM", "Bit\\n\\u001b[31mNet"));
    });
    let error = refusal(&["generate", "x", "-m", path(folder.path())]);
    assert!(error.contains("Bit\\n") && !error.contains('\u{1b}'), "{error}");
}

/// A copy of a fixture folder with one thing changed.
fn broken(folder: &str, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(moby(folder)).unwrap() {
        let entry: PathBuf = entry.unwrap().path();
        std::fs::copy(&entry, copy.path().join(entry.file_name().unwrap())).unwrap();
    }
    change(copy.path());
    copy
}

fn rewrite(file: &Path, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(file).unwrap();
    let changed = change(text.clone());
    assert_ne!(text, changed, "the change must hit");
    std::fs::write(file, changed).unwrap();
}

/// Replaces text of the safetensors header by text of the same length.
fn rewrite_header(folder: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let file = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("the header has this");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    std::fs::write(&file, bytes).unwrap();
}

#[test]
fn models_that_are_not_whole_are_refused_by_name() {
    let refuse = |folder: tempfile::TempDir| refusal(&["generate", "x", "-m", path(folder.path())]);
    let config = |change: fn(String) -> String| {
        broken("packed-autobitlinear", |folder| rewrite(&folder.join("config.json"), change))
    };

    let error = refuse(config(|text| text.replace("BitNetForCausalLM", "AbacusForCausalLM")));
    assert!(error.contains("AbacusForCausalLM"), "{error}");
    let error = refuse(config(|text| text.replace("\"hidden_size\": 256", "\"hidden_size\": 512")));
    assert!(error.contains("model.layers.") && error.contains("shape"), "{error}");
    let error = refuse(config(|text| text.replace("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5")));
    assert!(error.contains("model.layers.4."), "{error}");
    let error = refuse(config(|text| text.replace("\"vocab_size\": 4096", "\"vocab_size\": 4090")));
    assert!(error.contains("embed_tokens"), "{error}");
    let error = refuse(config(|text| text.replace("\"relu2\"", "\"tanh\"")));
    assert!(error.contains("tanh"), "{error}");

    let error = refuse(broken("packed-autobitlinear", |folder| {
        rewrite_header(folder, "model.layers.2.self_attn.k_proj.weight\"", "model.layers.2.self_attn.x_proj.weight\"");
    }));
    assert!(error.contains("model.layers.2.self_attn.k_proj.weight"), "{error}");
    let error = refuse(broken("packed-autobitlinear", |folder| {
        let file = folder.join("model.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() = 0xff;
        std::fs::write(&file, bytes).unwrap();
    }));
    assert!(error.contains("model.layers.3") && error.contains("code 3"), "{error}");
    let error =
        refuse(broken("packed-autobitlinear", |folder| std::fs::remove_file(folder.join("tokenizer.json")).unwrap()));
    assert!(error.contains("tokenizer"), "{error}");
    let error = refuse(broken("packed-autobitlinear", |folder| {
        rewrite(&folder.join("tokenizer.json"), |text| text.replace("\"id\": 4095", "\"id\": 4099"));
    }));
    assert!(error.contains("4099"), "{error}");
    for length in [0u64, 7, 8, 1000, 100_000, 2_900_000] {
        let error = refuse(broken("packed-autobitlinear", |folder| {
            let file = std::fs::OpenOptions::new().write(true).open(folder.join("model.safetensors")).unwrap();
            file.set_len(length).unwrap();
        }));
        assert!(error.contains("model.safetensors"), "{length}: {error}");
    }
}

/// The I2_S fixture with its tensors in another order, as a broken build of bitnet.cpp would have written them.
fn in_another_order(folder: &Path, packing: Packing) -> PathBuf {
    let source = moby("i2_s.gguf");
    let model = bitnet::format::open(&source).unwrap();
    let mut bytes = std::fs::read(&source).unwrap();
    for info in model.tensors().filter(|t| t.dtype.is_i2s()) {
        let at = info.offset as usize..(info.offset + info.bytes) as usize;
        let (rows, cols) = info.rows_cols();
        let matrix = Packing::I2S.decode(&bytes[at.clone()], rows, cols).unwrap();
        bytes[at].copy_from_slice(&packing.encode(&matrix).unwrap());
    }
    let path = folder.join(format!("{packing:?}.gguf"));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_layout_of_an_i2s_file_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut losses = Vec::new();
    for (packing, name) in
        [(Packing::I2S, "block128"), (Packing::I2SArm64, "block64"), (Packing::I2SFourRows, "four-rows")]
    {
        let file = in_another_order(folder.path(), packing);
        let value = json(&["inspect", "--check", "-m", path(&file), "--json"]);
        assert_eq!(value["flag"], format!("--i2s-layout {name}"), "{value}");
        for entry in value["layouts"].as_array().unwrap() {
            assert_eq!(entry["makes_sense"], entry["layout"] == name, "{value}");
            losses.extend(entry["loss"].as_f64().filter(|_| entry["layout"] == name));
        }
        let text = stdout(&["inspect", "--check", "-m", path(&file)]);
        assert!(text.lines().last().unwrap().contains(&format!("--i2s-layout {name}")), "{text}");
    }
    assert!(losses.iter().all(|loss| *loss == losses[0]), "the same model three times: {losses:?}");
}

#[test]
fn a_model_that_makes_no_sense_is_told_from_one_without_layouts() {
    let flag = json(&["inspect", "--check", "--json"])["flag"].clone();
    assert_eq!(flag, "--i2s-layout block128", "the embedded model is a file of our own");
    let value = json(&["inspect", "--check", "--json", "-m", path(&moby("packed-autobitlinear"))]);
    assert_eq!((&value["makes_sense"], &value["flag"]), (&Value::Bool(true), &Value::Null));
    assert_eq!(value["layouts"].as_array().unwrap().len(), 1);

    // The rows of every matrix in one order and the columns in another: no layout undoes both.
    let folder = tempfile::tempdir().unwrap();
    let file = in_another_order(folder.path(), Packing::I2SArm64);
    let model = bitnet::format::open(&file).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    for info in model.tensors().filter(|t| t.dtype.is_i2s()) {
        let codes = info.offset as usize..(info.offset + info.bytes) as usize - 32;
        bytes[codes].reverse();
    }
    std::fs::write(&file, bytes).unwrap();
    let output = run(&["inspect", "--check", "-m", path(&file), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["makes_sense"], &value["flag"]), (&Value::Bool(false), &Value::Null));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no layout of I2_S") && error.lines().count() == 1, "{error}");
}
