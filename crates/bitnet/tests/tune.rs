//! Export, tokenizers and fine-tuning from the command line.

mod program;

use std::fs;
use std::path::{Path, PathBuf};

use bitnet_fixtures::moby;
use program::{bitnet, path, refusal_of, run, stdout};
use serde_json::Value;

/// The last line on stdout.
fn json(args: &[&str]) -> Value {
    serde_json::from_str(stdout(args).lines().last().unwrap()).unwrap()
}

/// The last line that a failing command says.
fn refusal(args: &[&str]) -> String {
    refusal_of(bitnet().args(args), None)
}

/// A recipe for a model that trains in no time and has the widths that every packing takes.
const RECIPE: &str = r#"
seed = 1
tokenizer = "bytes"

[model]
layers = 1
hidden = 256
ffn = 256
heads = 4
kv_heads = 2
context = 32
sub_norms = true
activation = "relu2"
tied = true
rope_theta = 10000.0
embedding = "f16"
init = 1.0
embedding_init = 0.02

[quantization]
weights = "ternary"
scale = "tensor"
act_bits = 8
lambda = "one"

[batch]
rows = 4
accumulate = 1
checkpoint_activations = false

[optimizer]
kind = "adamw"
beta_1 = 0.9
beta_2 = 0.99
epsilon = 1e-8
momentum = 0.95
clip = 1.0

[optimizer.learning_rate]
peak = 2e-3
warmup = 2
schedule = "constant"

[optimizer.weight_decay]
value = 0.1
schedule = "constant"

[run]
max_steps = 6
max_seconds = 0.0
validate_every = 0
validate_tokens = 1000
checkpoint_every = 3
keep = 2
inspect_every = 0
sample_every = 0
sample_prompt = ""
"#;

/// A run of a few steps.
struct Trained {
    folder: tempfile::TempDir,
}

impl Trained {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(moby("heldout.txt")).unwrap();
        fs::write(folder.path().join("text.txt"), &text[..text.floor_char_boundary(20_000)]).unwrap();
        fs::write(folder.path().join("recipe.toml"), RECIPE).unwrap();
        let trained = Self { folder };
        let (text, recipe, run) = (trained.at("text.txt"), trained.at("recipe.toml"), trained.at("run"));
        stdout(&["train", path(&text), "--recipe", path(&recipe), "--out", path(&run)]);
        trained
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[test]
fn a_run_becomes_every_file_with_the_loss_of_the_trainer() {
    let trained = Trained::new();
    let run = trained.at("run");
    let folders = ["hf-packed", "hf-bitlinear", "hf-master"].map(|form| (form, ""));
    let ggufs = ["i2_s", "tq1_0", "tq2_0", "iq2_bn", "iq1_bn"].map(|form| (form, ".gguf"));
    for (form, ending) in [&folders[..], &ggufs, &[("burnpack", ".bpk")]].concat() {
        let out = trained.at(&format!("{form}{ending}"));
        let line = json(&["export", path(&run), path(&out), "--to", form, "--json"]);
        let [before, after] = ["loss_before", "loss_after"].map(|key| line[key].as_f64().unwrap());
        // The blocks of llama.cpp and the rows of IQ1_BN have scales of half precision.
        let close = if form.starts_with("tq") || form == "iq1_bn" { 1e-3 } else { 1e-4 };
        assert!((before - after).abs() <= close, "{form}: {line}");
        assert_eq!(line["step"], 6);
        assert!(refusal(&["export", path(&run), path(&out), "--to", form]).contains("--overwrite"));
        let args = ["generate", "The whale", "-n", "4", "--temperature", "0", "-m"];
        assert!(stdout(&[&args[..], &[path(&out)]].concat()).len() > 1, "{form}");
    }
    let out = trained.at("early.gguf");
    let text = stdout(&["export", path(&run), path(&out), "--to", "i2_s", "--step", "3"]);
    assert!(text.contains("after step 3") && text.contains("nats before"), "{text}");
    let checkpoint = run.join("checkpoints/step-00000003.safetensors");
    let line = json(&["export", path(&checkpoint), path(&out), "--to", "i2_s", "--overwrite", "--json"]);
    assert_eq!(line["step"], 3);

    fs::remove_dir_all(run.join("cache")).unwrap();
    let output = run_export_without_data(&run, &trained.at("blind.gguf"));
    assert!(output.contains("held-out tokens of the run are not in"), "{output}");
    assert!(refusal(&["export", path(&run), path(&out), "--to", "i2_s", "--overwrite", "--step", "99"]).contains("99"));
    assert!(refusal(&["export", path(&run), path(&trained.at("x")), "--to", "i2_s"]).contains(".gguf"));
    let empty = trained.at("empty");
    fs::create_dir(&empty).unwrap();
    let error = refusal(&["export", path(&empty), path(&trained.at("x.gguf")), "--to", "i2_s"]);
    assert!(error.contains("no checkpoint"), "{error}");
}

fn run_export_without_data(from: &Path, out: &Path) -> String {
    let output = run(&["export", path(from), path(out), "--to", "i2_s"]);
    assert!(output.status.success() && out.exists());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_tokenizer_is_made_and_trained_with() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = moby("heldout.txt");
    let (bpe, bytes) = (at("bpe"), at("bytes"));
    assert!(stdout(&["tokenizer", "train", path(&text), "--vocab", "300", "-o", path(&bpe)]).contains("300 tokens"));
    stdout(&["tokenizer", "bytes", "--chat", "-o", path(&bytes)]);
    let error = refusal(&["tokenizer", "bytes", "-o", path(&bytes)]);
    assert!(error.contains("tokenizer.json") && error.contains("--overwrite"), "{error}");
    let config: Value = serde_json::from_slice(&fs::read(bytes.join("tokenizer_config.json")).unwrap()).unwrap();
    assert!(config["chat_template"].is_string());
    let error = refusal(&["tokenizer", "train", path(&text), "--vocab", "5", "-o", path(&at("small"))]);
    assert!(error.contains("too small"), "{error}");
    assert!(refusal(&["tokenizer", "train", "absent.txt", "-o", path(&at("x"))]).contains("absent.txt"));

    let tokenizer = bpe.join("tokenizer.json");
    let run = at("run");
    fs::write(at("recipe.toml"), RECIPE).unwrap();
    let recipe = at("recipe.toml");
    let args = ["train", path(&text), "--recipe", path(&recipe), "--tokenizer", path(&tokenizer), "--max-steps", "1"];
    json(&[&args[..], &["-o", path(&run)]].concat());
    assert_eq!(json(&["inspect", "-m", path(&run.join("model.gguf")), "--json"])["config"]["vocab_size"], 300);
}

#[test]
fn a_model_is_fine_tuned_three_ways() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = moby("packed-autobitlinear");
    let chat: String = (0..6)
        .map(|i| {
            let user = serde_json::json!({ "role": "user", "content": format!("Who is Ahab {i}?") });
            let assistant = serde_json::json!({ "role": "assistant", "content": "A captain." });
            serde_json::json!({ "messages": [user, assistant] }).to_string() + "\n"
        })
        .collect();
    let pairs: String = (0..6)
        .map(|i| {
            serde_json::json!({ "prompt": format!("Who is Ahab {i}?"), "chosen": "A captain.", "rejected": "A whale." })
                .to_string()
                + "\n"
        })
        .collect();
    fs::write(at("chat.jsonl"), chat).unwrap();
    fs::write(at("pairs.jsonl"), pairs).unwrap();
    let (chat, pairs) = (at("chat.jsonl"), at("pairs.jsonl"));
    let short = ["--max-steps", "2", "--batch", "2", "--context", "64", "-m", path(&model)];

    let (sft, dpo, lora) = (at("sft"), at("dpo"), at("lora"));
    let line = json(&[&["finetune", path(&chat), "-o", path(&sft)][..], &short].concat());
    assert_eq!((&line["steps"], line["model"].as_str()), (&2.into(), sft.join("model.gguf").to_str()));
    let args = ["generate", "Who is Ahab?", "--chat", "-n", "4", "--temperature", "0", "-m"];
    stdout(&[&args[..], &[path(&sft.join("hf"))]].concat());

    let line = json(&[&["finetune", path(&pairs), "--dpo", "--beta", "0.2", "-o", path(&dpo)][..], &short].concat());
    assert!((line["valid_loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-2, "{line}");
    assert!(line["bits_per_byte"].is_null());
    assert!(line["preference_accuracy"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{line}");

    let line =
        json(&[&["finetune", path(&chat), "--lora", "4", "--lr", "0.01", "-o", path(&lora)][..], &short].concat());
    let adapter = lora.join("adapter");
    assert_eq!(line["model"].as_str(), adapter.to_str());
    let args = ["generate", "Who is Ahab?", "-n", "8", "--temperature", "0", "-m", path(&model)];
    let (plain, adapted) = (stdout(&args), stdout(&[&args[..], &["--lora", path(&adapter)]].concat()));
    assert_ne!(plain, adapted);

    let (embedded, args) = (at("embedded"), ["--epochs", "1.5", "--batch", "2", "--context", "64", "-m", "embedded"]);
    let line = json(&[&["finetune", path(&chat), "--hold-out", "6", "-o", path(&embedded)][..], &args].concat());
    let recipe = fs::read_to_string(embedded.join("recipe.toml")).unwrap();
    assert!(recipe.contains("epochs = 1.5") && recipe.contains("max_steps = 0"), "{recipe}");
    let records = fs::read_to_string(embedded.join("metrics.csv")).unwrap();
    assert_eq!(line["steps"], records.lines().count() - 1);
    let resumed = json(&["finetune", path(&chat), "--hold-out", "6", "-o", path(&embedded), "--resume"]);
    assert_eq!((&resumed["steps"], &resumed["valid_loss"]), (&line["steps"], &line["valid_loss"]));

    let error = refusal(&["export", path(&lora), path(&at("x.gguf")), "--to", "i2_s"]);
    assert!(error.contains("cannot be merged"), "{error}");
    let error = refusal(&["finetune", path(&chat), "-o", path(&at("none")), "-m", "absent.gguf"]);
    assert!(error.contains("absent.gguf"), "{error}");
    let error = refusal(&["finetune", path(&chat), "-o", path(&at("long")), "-m", path(&model), "--context", "9999"]);
    assert!(error.contains("--context 9999"), "{error}");
    assert!(refusal(&["inspect", "--lora", "x"]).contains("--lora"));
}

#[test]
fn a_float_model_is_distilled_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (teacher, run, out) = (moby("master"), at("run"), at("model.gguf"));
    fs::write(at("whale.txt"), "The whale, the white whale, swam away from the ship.\n".repeat(40)).unwrap();
    let text = at("whale.txt");
    let args = ["distill", path(&text), "--teacher", path(&teacher), "-o", path(&run), "--relations", "1"];
    let short = ["--max-steps", "3", "--batch", "2", "--context", "64", "--lambda", "one"];
    let line = json(&[&args[..], &short].concat());
    assert_eq!(line["steps"], 3);
    let recipe = fs::read_to_string(run.join("recipe.toml")).unwrap();
    assert!(recipe.contains("[distillation]") && recipe.contains("layer = 3"), "{recipe}");
    let line = json(&["export", path(&run), path(&out), "--to", "tq2_0", "--json"]);
    let [before, after] = ["loss_before", "loss_after"].map(|key| line[key].as_f64().unwrap());
    assert!((before - after).abs() < 1e-3, "{line}");
    let error = refusal(&[&args[..], &["--overwrite", "--layer", "4"]].concat());
    assert!(error.contains("distillation.layer"), "{error}");
}
