//! Devices that other processes lend, on this machine.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bitnet::training::metrics::{StepRecord, read_jsonl};
use bitnet::training::recipe::Size;
use bitnet_fixtures::moby;

/// Far beyond what any of these processes takes.
const HANGS: Duration = Duration::from_secs(120);

fn bitnet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command.args(args).env_remove("BITNET_ISA").env_remove("BITNET_MODEL").env_remove("BITNET_REMOTE_TOKEN");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A process that is ended with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Somebody who lends the processor, and its name as a device.
fn lender(token: Option<&str>) -> (Running, String) {
    let mut command = bitnet(&["lend", "--listen", "127.0.0.1:0"]);
    if let Some(token) = token {
        command.env("BITNET_REMOTE_TOKEN", token);
    }
    // Burn's server says what it does on stdout.
    let mut running = Running(command.env("RUST_LOG", "off").stderr(Stdio::null()).spawn().unwrap());
    let mut name = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut name).unwrap();
    assert!(name.starts_with("remote:127.0.0.1:"), "{name:?}");
    (running, name.trim().to_string())
}

/// What a command says on stderr, and whether it ended well, in time.
fn said(mut command: Command) -> (bool, String) {
    let mut running = Running(command.stdout(Stdio::null()).spawn().unwrap());
    let mut stderr = running.0.stderr.take().unwrap();
    let text = std::thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap());
    let begun = Instant::now();
    let status = loop {
        match running.0.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(begun.elapsed() < HANGS, "no end of {command:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    (status.success(), text.join().unwrap())
}

/// Eight steps of a small network on some pages, as `flags` say.
fn train(folder: &Path, out: &str, flags: &[&str]) -> Command {
    let whole = std::fs::read_to_string(moby("heldout.txt")).unwrap();
    let end = whole.char_indices().map(|(at, _)| at).find(|at| *at >= 12_000).unwrap();
    std::fs::write(folder.join("text.txt"), &whole[..end]).unwrap();
    let mut recipe = Size::Tiny.recipe();
    let model = &mut recipe.model;
    (model.layers, model.hidden, model.ffn, model.heads, model.kv_heads, model.context) = (1, 16, 32, 2, 1, 16);
    recipe.batch.rows = 4;
    let run = &mut recipe.run;
    (run.max_steps, run.validate_every, run.validate_tokens, run.inspect_every, run.sample_every) = (8, 4, 200, 4, 0);
    std::fs::write(folder.join("recipe.toml"), recipe.to_toml()).unwrap();
    let [text, recipe, out] = ["text.txt", "recipe.toml", out].map(|name| folder.join(name).display().to_string());
    bitnet(&[&["train", &text, "--recipe", &recipe, "--out", &out, "--no-tui"], flags].concat())
}

/// The records of such a run.
fn trained(folder: &Path, out: &str, flags: &[&str]) -> Vec<StepRecord> {
    let (ended_well, stderr) = said(train(folder, out, flags));
    assert!(ended_well, "{stderr}");
    read_jsonl(folder.join(out).join("metrics.jsonl")).unwrap()
}

#[test]
fn two_lent_devices_train_what_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let one = trained(folder.path(), "one", &[]);
    let ((_a, a), (_b, b)) = (lender(None), lender(None));
    let two = trained(folder.path(), "two", &["--devices", &format!("{a},{b}")]);
    assert_eq!((one.len(), two.len()), (8, 8));
    for (one, two) in one.iter().zip(&two) {
        let apart = |x: f64, y: f64| (x / y - 1.0).abs();
        assert_eq!(one.tokens, two.tokens);
        assert!(apart(one.train_loss, two.train_loss) < 1e-5, "step {}: {one:?} {two:?}", one.step);
        assert!(apart(one.grad_norm, two.grad_norm) < 1e-3, "step {}: {one:?} {two:?}", one.step);
    }
    let valid = |records: &[StepRecord]| records[7].valid.unwrap().loss;
    assert!((valid(&one) - valid(&two)).abs() < 1e-4, "{} {}", valid(&one), valid(&two));
}

#[test]
fn a_run_that_loses_a_device_says_so_and_keeps_its_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let (lender, name) = lender(None);
    let mut command = train(folder.path(), "run", &["--devices", &format!("flex,{name}"), "--max-steps", "100000"]);
    command.args(["--checkpoint-every", "2"]).env("RUST_BACKTRACE", "0");
    let records = folder.path().join("run/metrics.jsonl");
    let lost = std::thread::spawn(move || {
        let begun = Instant::now();
        while std::fs::read_to_string(&records).map_or(0, |records| records.lines().count()) < 5 {
            assert!(begun.elapsed() < HANGS, "no steps");
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(lender);
    });
    let (ended_well, stderr) = said(command);
    lost.join().unwrap();
    let last = stderr.lines().last().unwrap();
    assert!(!ended_well && last.starts_with("error: step ") && last.contains("device number 2 has failed"), "{stderr}");
    assert!(std::fs::read_dir(folder.path().join("run/checkpoints")).unwrap().count() > 0);
}

#[test]
fn a_device_that_nobody_lends_is_an_error_that_names_it() {
    let (_running, name) = lender(Some("open sesame"));
    let generate = |device: &str, token: &str| {
        let mut command = bitnet(&["generate", "Call me", "--max-tokens", "4", "--device", device]);
        command.env("BITNET_REMOTE_TOKEN", token);
        said(command)
    };
    let (ended_well, stderr) = generate(&name, "open sesame");
    assert!(ended_well, "{stderr}");
    for (device, token, reason) in [
        (name.clone(), "open barley", "credential"),
        (format!("{name}/1"), "open sesame", "1 device"),
        ("remote:nowhere".to_string(), "", "host:port"),
    ] {
        let (ended_well, stderr) = generate(&device, token);
        assert!(!ended_well && stderr.starts_with("error: ") && stderr.contains(reason), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}
