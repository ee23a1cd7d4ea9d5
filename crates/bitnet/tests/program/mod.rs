//! Running the program, for the tests of all its commands.
#![allow(dead_code, reason = "no test uses all of it")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The program, without what the environment says to it, the Hub and anything on stdin.
pub fn bitnet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitnet"));
    command.env_remove("BITNET_ISA").env_remove("BITNET_MODEL").env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
    command
}

pub fn run(args: &[&str]) -> Output {
    bitnet().args(args).output().unwrap()
}

/// What a command that succeeds says.
pub fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(args)).unwrap()
}

/// The one line that a failing command says.
pub fn refusal(args: &[&str]) -> String {
    refusal_of(bitnet().args(args), Some(1))
}

/// The last of so many lines that a failing command says.
pub fn refusal_of(command: &mut Command, lines: Option<usize>) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    // 2 where the arguments alone make no sense.
    assert!(matches!(output.status.code(), Some(1 | 2)), "{command:?}: {text}");
    assert!(output.stdout.is_empty(), "{command:?}");
    if let Some(lines) = lines {
        assert_eq!(text.lines().count(), lines, "{text}");
    }
    text.lines().last().unwrap_or_default().strip_prefix("error: ").expect("an error").to_string()
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
