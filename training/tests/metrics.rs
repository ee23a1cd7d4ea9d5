//! Metrics files: what is written reads back, and a run that is killed and resumed leaves the same bytes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bitnet_training::metrics::{LayerQuantization, MetricsError, MetricsLog, StepRecord, Validation, read_jsonl};
use proptest::prelude::*;

const HEADER: &str =
    "step,tokens,train_loss,learning_rate,weight_decay,lambda,grad_norm,valid_loss,valid_bits_per_byte,valid_tokens\n";

/// Numbers that no short decimal spells.
fn record(step: u64) -> StepRecord {
    let x = step as f64;
    let layer = |name: &str| LayerQuantization {
        name: name.to_string(),
        zero_fraction: 0.31 + x.sin() / 100.0,
        flip_rate: 1e-3 / x,
        gamma: 0.02,
        dead_zone: 0.1,
        activation_absmax: 3.0,
    };
    StepRecord {
        step,
        tokens: step * 768,
        train_loss: 1.0 + 1.0 / x.sqrt(),
        learning_rate: 1e-7 * x,
        weight_decay: 0.1,
        lambda: 1.0,
        grad_norm: x.cos().abs(),
        valid: step.is_multiple_of(4).then(|| Validation {
            loss: x.ln(),
            bits_per_byte: x.ln_1p(),
            tokens: 1000,
            accuracy: None,
        }),
        layers: step.is_multiple_of(2).then(|| vec![layer("blocks.0.q"), layer("blocks.0.k")]),
        sample: step.is_multiple_of(5).then(|| format!("Once, \"upon\"\na <time> {step}\n")),
        elapsed_seconds: x * 0.1,
        tokens_per_second: 7680.0,
    }
}

fn write(log: &mut MetricsLog, steps: std::ops::RangeInclusive<u64>) {
    for step in steps {
        log.write(&record(step)).unwrap();
    }
    log.flush().unwrap();
}

fn read(folder: &Path) -> (String, String) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    (read("metrics.csv"), read("metrics.jsonl"))
}

/// The files of a run of `steps` steps that was never stopped.
fn whole(steps: u64) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    write(&mut MetricsLog::create(folder.path(), false).unwrap(), 1..=steps);
    read(folder.path())
}

#[test]
fn every_number_in_the_csv_reads_back_to_the_same_bits() {
    let (csv, _) = whole(20);
    assert!(csv.starts_with(HEADER));
    for (row, step) in csv.lines().skip(1).zip(1..) {
        let cells: Vec<&str> = row.split(',').collect();
        let record = record(step);
        let bits = |cell: &str| cell.parse::<f64>().unwrap().to_bits();
        assert_eq!(cells[..2], [step.to_string(), record.tokens.to_string()]);
        assert_eq!(bits(cells[2]), record.train_loss.to_bits());
        assert_eq!(bits(cells[3]), record.learning_rate.to_bits());
        assert_eq!(bits(cells[6]), record.grad_norm.to_bits());
        match record.valid {
            Some(valid) => {
                assert_eq!([bits(cells[7]), bits(cells[8])], [valid.loss, valid.bits_per_byte].map(f64::to_bits))
            }
            None => assert_eq!(cells[7..], ["", "", ""]),
        }
    }
}

#[test]
fn the_clock_has_no_part_in_the_csv() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), false).unwrap();
    log.write(&StepRecord { elapsed_seconds: 99.0, tokens_per_second: 1.5, ..record(1) }).unwrap();
    assert_eq!(read(folder.path()).0, whole(1).0);
}

#[test]
fn everything_is_in_the_jsonl() {
    let folder = tempfile::tempdir().unwrap();
    write(&mut MetricsLog::create(folder.path(), false).unwrap(), 1..=20);
    let records = read_jsonl(folder.path().join("metrics.jsonl")).unwrap();
    assert_eq!(records, (1..=20).map(record).collect::<Vec<_>>());
}

#[test]
fn a_diverged_run_can_be_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = MetricsLog::create(folder.path(), false).unwrap();
    log.write(&StepRecord { train_loss: f64::NAN, grad_norm: f64::INFINITY, ..record(1) }).unwrap();
    let records = read_jsonl(folder.path().join("metrics.jsonl")).unwrap();
    assert!(records[0].train_loss.is_nan() && records[0].grad_norm == f64::INFINITY);
    assert!(read(folder.path()).0.contains(",NaN,"));
    drop(log);
    MetricsLog::resume(folder.path(), 1).unwrap();
    assert!(read(folder.path()).0.contains(",NaN,"));
}

#[test]
fn metrics_of_another_run_are_not_overwritten_unasked() {
    let folder = tempfile::tempdir().unwrap();
    write(&mut MetricsLog::create(folder.path(), false).unwrap(), 1..=3);
    let error = MetricsLog::create(folder.path(), false).unwrap_err();
    assert!(matches!(&error, MetricsError::Exists { path } if path.ends_with("metrics.csv")), "{error}");
    assert_eq!(read(folder.path()), whole(3));
    MetricsLog::create(folder.path(), true).unwrap();
    assert_eq!(read(folder.path()), (HEADER.to_string(), String::new()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// The kill leaves any number of bytes after the checkpoint's last row, in each file on its own.
    #[test]
    fn a_resumed_run_leaves_the_bytes_of_one_that_never_stopped(
        checkpoint in 0u64..12, more in 0u64..6, csv_cut in 0usize..400, jsonl_cut in 0usize..400,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::create(folder.path(), false).unwrap();
        write(&mut log, 1..=checkpoint);
        let safe = ["metrics.csv", "metrics.jsonl"].map(|name| fs::metadata(folder.path().join(name)).unwrap().len());
        write(&mut log, checkpoint + 1..=checkpoint + more);
        drop(log);
        for (name, safe, cut) in [("metrics.csv", safe[0], csv_cut), ("metrics.jsonl", safe[1], jsonl_cut)] {
            let file = fs::OpenOptions::new().write(true).open(folder.path().join(name)).unwrap();
            let length = file.metadata().unwrap().len();
            file.set_len(length.saturating_sub(cut as u64).max(safe)).unwrap();
        }
        let mut log = MetricsLog::resume(folder.path(), checkpoint).unwrap();
        prop_assert_eq!(read(folder.path()), whole(checkpoint));
        write(&mut log, checkpoint + 1..=15);
        prop_assert_eq!(read(folder.path()), whole(15));
    }
}

#[test]
fn a_kill_within_the_header_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    drop(MetricsLog::create(folder.path(), false).unwrap());
    for cut in [0, 10] {
        fs::write(folder.path().join("metrics.csv"), &HEADER[..cut]).unwrap();
        MetricsLog::resume(folder.path(), 0).unwrap();
        assert_eq!(read(folder.path()).0, HEADER);
    }
}

#[test]
fn a_file_that_is_not_ours_is_named_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    write(&mut MetricsLog::create(folder.path(), false).unwrap(), 1..=3);
    let (csv, jsonl) = read(folder.path());
    for (name, text, line, reason) in [
        ("metrics.csv", csv.replace("train_loss", "loss"), 1, "header"),
        ("metrics.csv", csv.replace("\n2,", "\ntwo,"), 3, "no step"),
        ("metrics.csv", csv.replace("\n3,", "\n3,3,"), 4, "11 columns instead of 10"),
        ("metrics.jsonl", jsonl.replace("{\"step\":2", "{\"stop\":2"), 2, "missing field `step`"),
        ("metrics.jsonl", jsonl.replacen('{', "", 1), 1, "line 1"),
    ] {
        let path = folder.path().join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, text).unwrap();
        let error = MetricsLog::resume(folder.path(), 3).unwrap_err();
        let spelled = error.to_string();
        assert!(matches!(&error, MetricsError::Damaged { line: at, .. } if *at == line), "{spelled}");
        assert!(spelled.contains(name) && spelled.contains(reason) && spelled.lines().count() == 1, "{spelled}");
        fs::write(&path, before).unwrap();
    }
    fs::remove_file(folder.path().join("metrics.csv")).unwrap();
    let error = MetricsLog::resume(folder.path(), 3).unwrap_err();
    assert!(matches!(&error, MetricsError::Io { path, .. } if path.ends_with("metrics.csv")), "{error}");
}

fn event_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder.join("tensorboard")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The data of each TFRecord, lengths and checksums verified bit by bit.
fn tf_records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let masked = |data: &[u8]| {
        let crc = data.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
        });
        (!crc).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_at(8);
        let (checksum, rest) = rest.split_at(4);
        assert_eq!(checksum, masked(length));
        let (data, rest) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (checksum, rest) = rest.split_at(4);
        assert_eq!(checksum, masked(data));
        records.push(data.to_vec());
        bytes = rest;
    }
    records
}

#[test]
fn tensorboard_files_are_framed_and_purge_what_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    write(&mut MetricsLog::create(folder.path(), false).unwrap(), 1..=5);
    let mut log = MetricsLog::resume(folder.path(), 3).unwrap();
    write(&mut log, 4..=5);
    let files = event_files(folder.path());
    assert_eq!(files.len(), 2);
    for (file, begin) in files.iter().zip([1, 4]) {
        let records = tf_records(&fs::read(file).unwrap());
        assert_eq!(records.len(), 2 + 5 - (begin as usize - 1));
        // After the time, field 3 with the text and its length; field 2 with the step and field 7 with status 1.
        assert_eq!(records[0][9..], *b"\x1a\x0dbrain.Event:2");
        assert_eq!(records[1][9..], [0x10, begin, 0x3a, 2, 0x08, 1]);
        // Field 1 of field 5: a tag and its number, which is a little-endian f32.
        let mut loss = vec![0x0a, 10];
        loss.extend_from_slice(b"train/loss\x15");
        loss.extend_from_slice(&(record(begin.into()).train_loss as f32).to_le_bytes());
        assert!(records[2].windows(loss.len()).any(|window| window == loss));
    }
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file() {
    // Linux has a device that is always full.
    let (full, folder) = (Path::new("/dev/full"), tempfile::tempdir().unwrap());
    if !full.exists() {
        return;
    }
    drop(MetricsLog::create(folder.path(), false).unwrap());
    #[cfg(unix)]
    {
        let path = folder.path().join("metrics.jsonl");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(full, &path).unwrap();
        let error = MetricsLog::create(folder.path(), true).and_then(|mut log| log.write(&record(1))).unwrap_err();
        assert!(error.to_string().contains("metrics.jsonl"), "{error}");
    }
}

#[test]
fn a_cut_off_last_line_is_passed_over_when_records_are_read() {
    let folder = tempfile::tempdir().unwrap();
    write(&mut MetricsLog::create(folder.path(), false).unwrap(), 1..=3);
    let path = folder.path().join("metrics.jsonl");
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\":4,\"tok").unwrap();
    assert_eq!(read_jsonl(&path).unwrap().len(), 3);
    fs::write(&path, "{\"step\":1}\n").unwrap();
    assert!(read_jsonl(&path).unwrap_err().to_string().contains("line 1: missing field"));
}
