//! `against/against.py`, with programs that only say what the real ones would. Needs `python3`.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const BITNET: &str = r#"echo '{"prefill": [{"tokens": 512, "tokens_per_second": 300.0}], "decode":
    [{"depth": 0, "tokens_per_second": 45.0}, {"depth": 2048, "tokens_per_second": 40.0}]}'"#;

/// With `-d`, as llama.cpp has it.
const LLAMA: &str = r#"case "$*" in
--help) echo '  -d, --n-depth <n>' ;;
*'-d 2048'*) printf '[\n{"n_prompt": 0, "n_gen": 64, "samples_ts": [16.0]}\n]\n' ;;
*) printf '[\n{"n_prompt": 512, "n_gen": 0, "samples_ts": [99.0, 100.0, 150.0]},
{"n_prompt": 0, "n_gen": 64, "samples_ts": [29.0, 31.0]}\n]\n' ;;
esac"#;

/// With `-gp`, as ik_llama.cpp has it, and with notes before the results.
const IK: &str = r#"case "$*" in
--help) echo '  -gp <pp,tg>' ;;
*'-n 0 -gp 2048,64'*) printf 'note [1]\n[\n{"n_prompt": 2048, "n_gen": 64, "samples_ts": [20.0]}\n]\n' ;;
*) printf '[\n{"n_prompt": 512, "n_gen": 0, "samples_ts": [150.0]},
{"n_prompt": 0, "n_gen": 64, "samples_ts": [25.0]}\n]\n' ;;
esac"#;

/// With neither, as bitnet.cpp.
const OLD: &str = r#"case "$*" in
--help) echo '  -p <n>' ;;
*) printf '[\n{"n_prompt": 512, "n_gen": 0, "samples_ts": [60.0]},
{"n_prompt": 0, "n_gen": 64, "samples_ts": [30.0]}\n]\n' ;;
esac"#;

const BATCHED: &str = r#"echo 'main: n_kv_max'; echo '{"pp": 2048, "tg": 64, "speed_tg": 32.0}'"#;

/// Each program adds a line to `calls` when it runs, with its name and arguments.
fn programs(folder: &Path) {
    for (name, body) in
        [("bitnet", BITNET), ("llama", LLAMA), ("ik", IK), ("old", OLD), ("batched", BATCHED), ("broken", "exit 3")]
    {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\necho {name} \"$@\" >> calls\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(folder.join("m.gguf"), "weights").unwrap();
}

fn against(folder: &Path, arguments: &str) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/against/against.py");
    let mut command = Command::new("python3");
    command.current_dir(folder).arg(script).args(arguments.split(' ')).output().unwrap()
}

#[track_caller]
fn succeeds(folder: &Path, arguments: &str) -> String {
    let output = against(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn assert_rows(table: &str, rows: &[&str]) {
    for row in rows {
        assert!(table.lines().any(|line| line == *row), "no {row} in\n{table}");
    }
}

#[test]
fn medians_and_ratios_of_every_kind_of_peer() {
    let folder = tempfile::tempdir().unwrap();
    programs(folder.path());
    let table = succeeds(
        folder.path(),
        "--ours we ./bitnet m.gguf --peer llama ./llama m.gguf --peer ik ./ik m.gguf --peer old ./old m.gguf \
         --batched-bench old=./batched --threads 2 --rounds 1",
    );
    assert_rows(
        &table,
        &[
            "| tokens a second | threads | decode | prefill 512 | decode at 2048 |",
            "| we | 2 | 45.0 | 300.0 | 40.0 |",
            "| llama | 2 | 30.0 | 100.0 | 16.0 |",
            "| ik | 2 | 25.0 | 150.0 | 20.0 |",
            "| old | 2 | 30.0 | 60.0 | 32.0 |",
            "| we / ik | 2 | 1.80 | 2.00 | 2.00 |",
            "| we / fastest | 2 | 1.50 llama | 2.00 ik | 1.25 old |",
        ],
    );
}

#[test]
fn engines_take_turns_and_every_figure_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    programs(folder.path());
    let table = succeeds(
        folder.path(),
        "--ours a ./bitnet m.gguf --ours b ./bitnet m.gguf --peer c ./llama m.gguf --args b=--weights=1.6bit \
         --threads 1,2 --rounds 2 --reps 7 --depth 0 --json out.json",
    );
    assert_rows(&table, &["| a | 1 | **45.0** (45.0–45.0) | **300.0** (300.0–300.0) |"]);

    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    let ours = |threads, more| {
        format!("bitnet bench -m m.gguf -t {threads} --prefill 512 --decode 64 --depth 0 --reps 7 --json{more}")
    };
    let round = [1, 2].map(|threads| {
        let peer = format!("llama -m m.gguf -t {threads} -p 512 -n 64 -r 7 -o json");
        [ours(threads, ""), ours(threads, " --weights=1.6bit"), peer]
    });
    assert_eq!(calls.lines().collect::<Vec<_>>(), [&round, &round].map(|round| round.concat()).concat());

    let json: Value = serde_json::from_slice(&fs::read(folder.path().join("out.json")).unwrap()).unwrap();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2 * 2 * 3);
    assert_eq!((&runs[5]["engine"], &runs[5]["threads"], &runs[5]["round"]), (&"c".into(), &2.into(), &0.into()));
    assert_eq!(runs[5]["tokens_per_second"]["prefill"], 100.0);
    assert_eq!(json["engines"][0]["model_bytes"], 7);
    assert_eq!(json["engines"][1]["arguments"][0], "--weights=1.6bit");
}

#[test]
fn what_was_measured_before_a_failure_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    programs(folder.path());
    for (peer, problem) in [
        ("--peer bad ./broken m.gguf", "error: bad: status 3 from ./broken"),
        ("--peer bad ./old m.gguf", "error: bad: this llama-bench cannot decode at a depth"),
        ("--peer bad ./absent m.gguf", "error: bad: "),
        ("--peer bad ./batched m.gguf", "error: bad: llama-bench printed no JSON"),
    ] {
        let output = against(folder.path(), &format!("--ours we ./bitnet m.gguf {peer} --rounds 1 --json out.json"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(errors.lines().last().unwrap().starts_with(problem), "{errors}");
        assert_rows(&String::from_utf8(output.stdout).unwrap(), &["| we | 1 | 45.0 | 300.0 | 40.0 |"]);
        assert!(folder.path().join("out.json").exists());
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    programs(folder.path());
    let usual = "--ours we ./bitnet m.gguf --peer they ./llama m.gguf";
    for (arguments, problem) in [
        ("--ours we ./bitnet m.gguf", "--peer"),
        ("--ours we ./bitnet absent.gguf --peer they ./llama m.gguf", "absent.gguf"),
        ("--ours they ./bitnet m.gguf --peer they ./llama m.gguf", "same name"),
        (&format!("{usual} --args others=-x"), "no engine others"),
        (&format!("{usual} --batched-bench we=./batched"), "no peer we"),
        (&format!("{usual} --args we"), "no = in 'we'"),
        (&format!("{usual} --rounds 0"), "--rounds"),
    ] {
        let output = against(folder.path(), arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(problem), "{errors}");
    }
    assert!(!folder.path().join("calls").exists());
}
