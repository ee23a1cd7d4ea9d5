//! `bitnet train` as scripts and people use it, on a network of a few thousand parameters.

mod program;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use bitnet::training::RunFolder;
use bitnet::training::recipe::Size;
use bitnet_fixtures::moby;
use safetensors::SafeTensors;
use serde_json::Value;

/// Long enough to be killed in.
const STEPS: u64 = 150;

/// The program with pipes for what it says.
fn bitnet() -> Command {
    let mut command = program::bitnet();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A folder with some pages of text and a small recipe.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let whole = std::fs::read(moby("heldout.txt")).unwrap();
        // The text has characters of several bytes: it is cut at the end of a line.
        let end = whole.iter().enumerate().position(|(i, byte)| i > 12_000 && *byte == b'\n').unwrap();
        std::fs::write(folder.path().join("text.txt"), &whole[..end]).unwrap();
        let mut recipe = Size::Tiny.recipe();
        let model = &mut recipe.model;
        (model.layers, model.hidden, model.ffn, model.heads, model.kv_heads, model.context) = (2, 32, 64, 4, 2, 32);
        recipe.batch.rows = 6;
        recipe.optimizer.learning_rate.warmup = "5".parse().unwrap();
        let run = &mut recipe.run;
        (run.max_steps, run.validate_every, run.validate_tokens) = (STEPS, 20, 500);
        (run.checkpoint_every, run.inspect_every, run.sample_every) = (5, 7, 0);
        std::fs::write(folder.path().join("recipe.toml"), recipe.to_toml()).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `bitnet train` of the text by the recipe, into the folder `out`.
    fn train(&self, out: &str, more: &[&str]) -> Command {
        let mut command = bitnet();
        command.arg("train").arg(self.path("text.txt")).arg("--out").arg(self.path(out));
        command.arg("--recipe").arg(self.path("recipe.toml")).args(more);
        command
    }

    /// What a run says that ends well.
    fn done(&self, out: &str, more: &[&str]) -> Value {
        figures(&self.train(out, more).output().unwrap())
    }
}

/// The last line on stdout.
fn figures(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(stdout.lines().last().expect("there is a last line")).unwrap()
}

/// The last line that a failing command says, of `lines` in all where that is certain.
fn refusal(mut command: Command, lines: Option<usize>) -> String {
    program::refusal_of(&mut command, lines)
}

fn csv(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("metrics.csv")).unwrap_or_default()
}

/// The tensors of the last checkpoint, by name.
fn last_checkpoint(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let checkpoints = RunFolder::new(folder).checkpoints(1);
    let bytes = std::fs::read(checkpoints.path(*checkpoints.steps().unwrap().last().unwrap())).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.data().to_vec())).collect();
    tensors.sort();
    tensors
}

/// Waits until the run in `folder` has taken `step` steps.
fn wait_for(child: &mut Child, folder: &Path, step: u64) {
    let begun = Instant::now();
    while (csv(folder).lines().count() as u64) < step + 1 {
        assert!(begun.elapsed() < Duration::from_secs(60), "step {step} does not come");
        assert!(child.try_wait().unwrap().is_none(), "the run was over before step {step}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_run_leaves_what_scripts_rely_on() {
    let desk = Desk::new();
    let value = desk.done("run", &["--max-steps", "12", "--seed", "7"]);
    for key in ["train_loss", "valid_loss", "bits_per_byte", "tokens_per_second"] {
        assert!(value[key].as_f64().is_some_and(|x| x > 0.0 && x.is_finite()), "{key} of {value}");
    }
    assert_eq!((&value["steps"], &value["tokens"]), (&12.into(), &(12 * 6 * 32).into()));
    let out = desk.path("run");
    assert_eq!(value["model"].as_str().unwrap(), out.join("model.gguf").to_str().unwrap());
    for file in
        ["hf/model.safetensors", "hf/config.json", "hf/tokenizer.json", "report.html", "metrics.jsonl", "recipe.toml"]
    {
        assert!(out.join(file).is_file(), "{file}");
    }
    assert_eq!(csv(&out).lines().count(), 13);

    for model in ["model.gguf", "hf"] {
        let mut command = bitnet();
        command.args(["generate", "The whale", "--temperature", "0", "-n", "8", "--json", "--model"]);
        let output = command.arg(out.join(model)).output().unwrap();
        let text: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success() && text["ids"].as_array().unwrap().len() <= 8, "{text}");
    }

    // The recipe that it left makes the same run again.
    let mut again = bitnet();
    again.arg("train").arg(desk.path("text.txt")).arg("--out").arg(desk.path("again"));
    let output = again.arg("--recipe").arg(out.join("recipe.toml")).args(["--threads", "1"]).output().unwrap();
    assert_eq!(figures(&output)["valid_loss"], value["valid_loss"]);
    assert_eq!(csv(&desk.path("again")), csv(&out));
}

#[cfg(unix)]
#[test]
fn a_run_that_is_killed_three_times_ends_as_one_that_was_not() {
    let desk = Desk::new();
    desk.done("whole", &[]);
    let (whole, killed) = (desk.path("whole"), desk.path("killed"));

    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let steps = [0, 1, 2].map(|third| 2 + third * 18 + u64::from(clock >> (8 * third)) % 16);
    for (i, step) in steps.into_iter().enumerate() {
        let more: &[&str] = if i == 0 { &[] } else { &["--resume"] };
        let mut child = desk.train("killed", more).spawn().unwrap();
        wait_for(&mut child, &killed, step);
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
    }
    desk.done("killed", &["--resume"]);
    assert_eq!(csv(&killed), csv(&whole), "killed after steps {steps:?}");
    let (found, expected) = (last_checkpoint(&killed), last_checkpoint(&whole));
    assert!(found == expected, "killed after steps {steps:?}");
    let model = |folder: &Path| std::fs::read(folder.join("hf/model.safetensors")).unwrap();
    assert!(model(&killed) == model(&whole));
}

#[cfg(unix)]
#[test]
fn sigterm_ends_a_run_with_a_checkpoint_and_a_model() {
    let desk = Desk::new();
    let mut child = desk.train("run", &["--max-steps", "100000"]).spawn().unwrap();
    wait_for(&mut child, &desk.path("run"), 8);
    signal(&child, "-TERM");
    let value = figures(&child.wait_with_output().unwrap());
    let steps = value["steps"].as_u64().unwrap();
    assert!((8..100_000).contains(&steps), "{value}");
    let out = desk.path("run");
    assert_eq!(RunFolder::new(&out).checkpoints(1).steps().unwrap().last(), Some(&steps));
    assert_eq!(csv(&out).lines().count() as u64, steps + 1);
    assert!(out.join("model.gguf").is_file());
}

#[test]
fn a_time_limit_ends_a_run_as_well() {
    let desk = Desk::new();
    let value = desk.done("run", &["--max-seconds", "1"]);
    assert!(value["steps"].as_u64().unwrap() > 1, "{value}");
    let rows = csv(&desk.path("run"));
    let rates: Vec<f64> = rows.lines().skip(1).map(|row| row.split(',').nth(3).unwrap().parse().unwrap()).collect();
    let peak = rates.iter().fold(0.0f64, |peak, rate| peak.max(*rate));
    assert!(rates.len() > 5 && *rates.last().unwrap() < peak, "the schedule follows the clock: {rates:?}");
}

#[test]
fn bad_input_is_one_clear_line() {
    let desk = Desk::new();
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(desk.path(name), bytes).unwrap();
        let mut command = bitnet();
        command.arg("train").arg(desk.path(name)).arg("--out").arg(desk.path("bad"));
        refusal(command, Some(1))
    };
    for (name, bytes, expected) in [
        ("empty.txt", b"".as_slice(), "there is no text in it"),
        ("binary.txt", b"\x7fELF\x02\x01\x01\0\xff\xfe\xfd", "is it a binary file?"),
        ("lines.jsonl", b"{\"text\": \"Call me Ishmael.\"}\n{\"text\": \n", "lines.jsonl:2"),
        ("model.pdf", b"%PDF-1.7", "not a known kind of data file"),
    ] {
        let error = file(name, bytes);
        assert!(error.contains(name.split(':').next().unwrap()) && error.contains(expected), "{error}");
    }
    assert!(!desk.path("bad").join("recipe.toml").exists());

    let error = refusal(desk.train("none", &["--resume"]), Some(1));
    assert!(error.contains("none") && error.contains("no run to resume"), "{error}");
    let error = refusal(desk.train("run", &["--batch", "0"]), Some(1));
    assert!(error.contains("batch.rows"), "{error}");
    let error = refusal(desk.train("run", &["--device", "abacus"]), Some(1));
    assert!(error.contains("abacus"), "{error}");
    let error = refusal(desk.train("run", &["--tokenizer", "no/tokenizer.json"]), Some(1));
    assert!(error.contains("no/tokenizer.json"), "{error}");
    std::fs::write(desk.path("recipe.toml"), "seed = 1\n").unwrap();
    let error = refusal(desk.train("run", &[]), None);
    assert!(!error.is_empty());
}

#[test]
fn the_learning_rate_is_that_of_the_best_short_run() {
    let desk = Desk::new();
    let output = desk.train("run", &["--lr-sweep=4", "--max-steps", "6"]).output().unwrap();
    assert_eq!(figures(&output)["steps"], 6);
    let lines = String::from_utf8(output.stderr).unwrap();
    let tried = lines.lines().filter_map(|line| line.strip_prefix("learning rate ")?.split_once(": "));
    let best = tried.clone().min_by(|a, b| a.1.cmp(b.1)).unwrap().0;
    assert_eq!(tried.map(|(rate, _)| rate).collect::<Vec<_>>(), ["1.00e-3", "2.00e-3", "4.00e-3"], "{lines}");
    let rate = RunFolder::new(desk.path("run")).read_recipe().unwrap().optimizer.learning_rate.peak;
    assert_eq!(format!("{rate:.2e}"), best);
}

#[test]
fn a_precision_that_the_device_lacks_is_refused() {
    let desk = Desk::new();
    let mut command = desk.train("run", &["--precision", "bf16"]);
    command.env("BITNET_ISA", "scalar");
    let error = refusal(command, None);
    assert!(error.contains("bf16") && error.contains("batch.precision"), "{error}");
    assert!(!desk.path("run/recipe.toml").exists());
}

#[test]
fn a_folder_that_holds_a_run_is_not_overwritten_unasked() {
    let desk = Desk::new();
    let short = ["--max-steps", "2"];
    desk.done("run", &short);
    let before = last_checkpoint(&desk.path("run"));
    let error = refusal(desk.train("run", &short), Some(1));
    assert!(error.contains("--resume") && error.contains("--overwrite"), "{error}");
    let error = refusal(desk.train("run", &["--resume", "--seed", "3"]), None);
    assert!(error.contains("the seed"), "{error}");
    let checkpoint = RunFolder::new(desk.path("run")).checkpoints(1).path(2);
    let whole = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, &whole[..whole.len() - 1]).unwrap();
    let error = refusal(desk.train("run", &["--resume"]), None);
    assert!(error.contains("step-00000002.safetensors"), "{error}");
    std::fs::write(&checkpoint, &whole).unwrap();
    assert!(last_checkpoint(&desk.path("run")) == before);
    desk.done("run", &["--max-steps", "2", "--overwrite"]);
    assert!(last_checkpoint(&desk.path("run")) == before);
}

#[test]
fn a_loss_that_is_no_number_is_told_with_step_and_layer() {
    let desk = Desk::new();
    let error = refusal(desk.train("run", &["--lr", "1e30", "--checkpoint-every", "1"]), None);
    assert!(error.contains("step 2") && error.contains("model.") && error.contains("step-00000001"), "{error}");
}

/// A file that may not grow any further stands for a disk that is full.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_checkpoint_before() {
    let desk = Desk::new();
    desk.done("whole", &["--max-steps", "10"]);
    desk.done("run", &["--max-steps", "10"]);
    let out = desk.path("run");
    let checkpoints = RunFolder::new(&out).checkpoints(1);
    // As if it had been stopped after five steps.
    std::fs::remove_file(checkpoints.path(10)).unwrap();
    let before = std::fs::read(checkpoints.path(5)).unwrap();
    assert!(before.len() > 250_000, "{}: the limit lies between the metrics and this", before.len());

    let train = desk.train("run", &["--resume", "--max-steps", "10"]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$@\"", "sh"])
        .arg(train.get_program())
        .args(train.get_args());
    let error = refusal(limited, None);
    assert!(error.contains("step-00000010"), "{error}");
    assert_eq!(checkpoints.steps().unwrap(), [5]);
    assert!(std::fs::read(checkpoints.path(5)).unwrap() == before);
    let left: Vec<_> = std::fs::read_dir(checkpoints.path(5).parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    desk.done("run", &["--resume", "--max-steps", "10"]);
    assert_eq!(csv(&out), csv(&desk.path("whole")));
    assert!(last_checkpoint(&out) == last_checkpoint(&desk.path("whole")));
}
