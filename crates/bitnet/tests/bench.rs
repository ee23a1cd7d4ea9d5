//! `bitnet bench` as scripts and people use it, on the embedded model.

mod program;

use std::path::{Path, PathBuf};

use program::path;
use serde_json::Value;

/// The smallest run that measures everything.
const TINY: [&str; 10] = ["--prefill", "8,3", "--decode", "2", "--depth", "5,0", "--reps", "2", "--warmup", "0"];

/// What `bitnet bench` says.
fn stdout(args: &[&str]) -> String {
    program::stdout(&[&["bench"], args].concat())
}

/// The one line with which it fails.
fn refusal(args: &[&str]) -> String {
    program::refusal(&[&["bench"], args].concat())
}

/// A file in `folder` with what `--json` prints, `tokens_per_second` of decode multiplied by `factor`.
fn report(folder: &Path, name: &str, factor: f64) -> PathBuf {
    let mut report: Value = serde_json::from_str(&stdout(&[&TINY[..], &["--json"]].concat())).unwrap();
    for run in report["decode"].as_array_mut().unwrap() {
        run["tokens_per_second"] = (100.0 * factor).into();
    }
    let file = folder.join(name);
    std::fs::write(&file, report.to_string()).unwrap();
    file
}

#[test]
fn json_has_what_scripts_rely_on() {
    let value: Value = serde_json::from_str(&stdout(&[&TINY[..], &["--json", "--threads", "2"]].concat())).unwrap();
    let positive = |value: &Value| assert!(value.as_f64().is_some_and(|x| x > 0.0 && x.is_finite()), "{value}");

    let prefill = value["prefill"].as_array().unwrap();
    assert_eq!(prefill.iter().map(|run| run["tokens"].as_u64().unwrap()).collect::<Vec<_>>(), [8, 3]);
    for run in prefill {
        ["tokens_per_second", "int8_peak_share"].iter().for_each(|key| positive(&run[key]));
    }
    let decode = value["decode"].as_array().unwrap();
    assert_eq!(decode.iter().map(|run| run["depth"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 5]);
    for run in decode {
        assert_eq!(run["tokens"], 2);
        ["tokens_per_second", "bandwidth_share", "bytes_per_token"].iter().for_each(|key| positive(&run[key]));
    }
    for run in prefill.iter().chain(decode) {
        let [min, median, max] = ["min", "tokens_per_second", "max"].map(|key| run[key].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{run}");
    }
    assert!(decode[1]["bytes_per_token"].as_u64() > decode[0]["bytes_per_token"].as_u64());

    for key in ["load_seconds", "bandwidth_bytes_per_second", "int8_peak_macs_per_second"] {
        positive(&value[key]);
    }
    if cfg!(target_os = "linux") {
        let peak = value["peak_bytes"].as_u64().unwrap();
        assert!((4_000_000..200_000_000).contains(&peak), "{peak}: what is read to measure with does not count");
    }
    assert_eq!((&value["threads"], &value["model"]), (&2.into(), &"embedded".into()));
    assert_eq!(value["isa"], bitnet::model::Isa::available().last().unwrap().name());
    assert_eq!(value["model_hash"].as_str().unwrap().len(), 64);
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
    assert!(value["commit"].is_null() || value["commit"].as_str().is_some_and(|commit| commit.len() >= 7));
}

#[test]
fn people_get_a_table() {
    let text = stdout(&TINY);
    for part in ["embedded", "prefill 8 ", "prefill 3 ", "decode 2 after 0 ", "decode 2 after 5 ", "int8 peak", "load"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let other = stdout(&[&TINY[..], &["-m", path(&bitnet_fixtures::moby("i2_s.gguf"))]].concat());
    let hash = |text: &str| text.lines().find(|line| line.starts_with("model")).unwrap().to_string();
    assert_ne!(hash(&text), hash(&other));
    assert!(other.contains("i2_s.gguf"), "{other}");
}

#[test]
fn two_runs_are_compared_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (report(folder.path(), "a.json", 1.0), report(folder.path(), "b.json", 1.5));
    let svg = folder.path().join("ab.svg");
    let args = ["--compare", path(&a), path(&b), "--plot", path(&svg)];
    let text = stdout(&args);
    let cells = |label: &str| {
        let line = text.lines().find(|line| line.starts_with(label)).unwrap();
        line[label.len()..].split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(cells("decode 2 after 5 t/s"), ["100.00", "150.00", "1.500"]);
    assert_eq!(cells("decode 2 after 0 t/s"), ["100.00", "150.00", "1.500"]);
    assert_eq!(cells("threads").len(), 2);
    assert_eq!(text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(), ["a", "b", "ratio"]);

    let same_name = folder.path().join("other").join("a.json");
    std::fs::create_dir(same_name.parent().unwrap()).unwrap();
    std::fs::copy(&b, &same_name).unwrap();
    let text = stdout(&["--compare", path(&a), path(&same_name)]);
    assert!(text.contains(path(&a)) && text.contains(path(&same_name)), "{text}");

    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("tokens a second"), "{picture}");
    assert!(refusal(&args).contains("ab.svg") && refusal(&args).contains("--overwrite"));
    std::fs::write(&svg, "old").unwrap();
    stdout(&[&args[..], &["--overwrite"]].concat());
    assert_eq!(std::fs::read_to_string(&svg).unwrap(), picture);

    let png = folder.path().join("a.png");
    stdout(&["--compare", path(&a), "--plot", path(&png)]);
    let bytes = std::fs::read(&png).unwrap();
    assert!(bytes.starts_with(b"\x89PNG\r\n") && bytes.len() > 5_000, "{} bytes", bytes.len());
}

#[test]
fn a_run_can_be_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("run.PNG");
    let args = ["--prefill", "2", "--decode", "1", "--depth", "0", "--reps", "1", "--plot", path(&png)];
    assert!(stdout(&args).contains("decode 1 after 0"));
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG\r\n"));
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    for flag in ["--prefill", "--decode", "--reps"] {
        let error = refusal(&[flag, "0"]);
        assert!(error.contains(flag) && error.contains("at least 1"), "{error}");
    }
    assert!(refusal(&["--prefill", "8,x"]).contains("--prefill"));
    assert!(refusal(&["--depth", "-1"]).contains("-1"));
    assert!(refusal(&["--prefill", "1025"]).contains("--prefill 1025: this model can have at most 1024 tokens"));
    assert!(refusal(&["--decode", "1025"]).contains("--decode 1025: this model can have at most 1024 tokens"));
    let error = refusal(&["--depth", "0,1000", "--decode", "25"]);
    assert!(error.contains("--depth 1000 with --decode 25: this model can have at most 1024 tokens"), "{error}");
    assert!(refusal(&["-m", "absent.gguf"]).contains("absent.gguf"));

    let folder = tempfile::tempdir().unwrap();
    let plot = |name: &str| refusal(&["--plot", path(&folder.path().join(name))]);
    assert!(plot("a.pdf").contains("a.pdf") && plot("a.pdf").contains(".svg or .png"));
    assert!(plot("absent/a.svg").contains("no such folder"));
    assert!(refusal(&["--overwrite"]).contains("--plot"));
}

#[test]
fn files_that_are_no_reports_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let good = report(folder.path(), "good.json", 1.0);
    let compare = |file: &Path| refusal(&["--compare", path(&good), path(file)]);
    assert!(compare(&folder.path().join("absent.json")).contains("absent.json"));
    assert!(compare(folder.path()).contains(path(folder.path())));
    let error = compare(&file("empty.json", b"{}"));
    assert!(error.contains("empty.json") && error.contains("missing field"), "{error}");
    for (name, text) in [("text.json", &b"whale"[..]), ("latin1.json", b"caf\xe9"), ("nothing.json", b"")] {
        assert!(compare(&file(name, text)).contains(name));
    }
    let cut = &std::fs::read(&good).unwrap()[..200];
    assert!(compare(&file("cut.json", cut)).contains("cut.json"));
    assert!(refusal(&["--compare"]).contains("--compare"));
    for more in [&["--json"][..], &["--reps", "3"], &["--decode", "64"]] {
        assert!(refusal(&[&["--compare", path(&good)], more].concat()).contains(more[0]));
    }
}
