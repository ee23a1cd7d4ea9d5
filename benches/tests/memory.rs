//! A model must not be in memory twice.
#![cfg(target_os = "linux")]

use std::process::Command;

/// The numbers of the line `peak memory P bytes, files F bytes, KV cache C bytes`.
fn figures(format: &str, name: &str) -> [u64; 3] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let made = Command::new(env!("CARGO_BIN_EXE_generate-model"))
        .args(["--format", format, "--layers", "12", "--vocab", "small"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let opened = Command::new(env!("CARGO_BIN_EXE_open-model")).args(["-n", "0"]).arg(&path).output().unwrap();
    let text = String::from_utf8(opened.stdout).unwrap();
    println!("{format}: {}", text.lines().next().unwrap_or_default());
    let numbers: Vec<u64> = text.lines().next().unwrap().split(' ').filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().expect("three numbers")
}

#[test]
fn the_peak_is_the_size_of_the_file_and_the_cache() {
    for (format, name) in [("i2_s", "model.gguf"), ("tq2_0", "model.gguf"), ("hf-packed", "model")] {
        let [peak, file, cache] = figures(format, name);
        assert!(file > 200_000_000, "large enough for a second copy to show");
        let allowed = file + file * 15 / 100 + cache;
        assert!(peak <= allowed, "{format}: {peak} bytes at most, {allowed} allowed");
    }
}
