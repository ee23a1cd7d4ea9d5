//! `metrics.jsonl`: everything that is known of every step, one JSON object a line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use super::error::MetricsError;
use super::record::StepRecord;

/// A record as one line, its end included.
pub fn row(record: &StepRecord) -> serde_json::Result<String> {
    serde_json::to_string(record).map(|row| row + "\n")
}

/// The step of a row.
pub fn step(row: &str) -> Result<u64, String> {
    #[derive(Deserialize)]
    struct Step {
        step: u64,
    }
    serde_json::from_str(row).map(|Step { step }| step).map_err(|error| error.to_string())
}

/// The records of a `metrics.jsonl`, in order. A last line that was cut off by a kill is passed over.
///
/// # Errors
///
/// When the file cannot be read, or a line is no record.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<StepRecord>, MetricsError> {
    let path = path.as_ref();
    let wrap = |source| MetricsError::io(path, source);
    let mut file = BufReader::new(File::open(path).map_err(wrap)?);
    let mut records = Vec::new();
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).map_err(wrap)? > 0 {
        if line.last() != Some(&b'\n') {
            break;
        }
        let record = serde_json::from_slice(&line).map_err(|error| MetricsError::Damaged {
            path: path.to_path_buf(),
            line: records.len() + 1,
            reason: error.to_string(),
        })?;
        records.push(record);
        line.clear();
    }
    Ok(records)
}
