//! Going back to the end of a step: rows after it are dropped, and so is a row that a kill cut in two.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use super::error::MetricsError;
use super::replace::replace;

/// Cuts the file at `path` after the last row whose step is at most `last_step`.
///
/// `header` is the first line, where there is one, and comes back where it was cut off; `step` finds the step of a row.
///
/// The file is replaced as a whole: a kill leaves the old one or the new one.
pub fn trim(
    path: &Path,
    header: Option<&str>,
    last_step: u64,
    step: impl Fn(&str) -> Result<u64, String>,
) -> Result<(), MetricsError> {
    let wrap = |source| MetricsError::io(path, source);
    let file = File::open(path).map_err(wrap)?;
    let kept = kept(path, &file, header, last_step, step)?;
    if kept == file.metadata().map_err(wrap)?.len() && (kept > 0 || header.is_none()) {
        return Ok(());
    }
    replace(path, |new| match header {
        Some(header) if kept == 0 => new.write_all(format!("{header}\n").as_bytes()),
        _ => io::copy(&mut File::open(path)?.take(kept), new).map(|_| ()),
    })
    .map_err(wrap)
}

/// Bytes of the header and the rows that stay.
fn kept(
    path: &Path,
    file: &File,
    header: Option<&str>,
    last_step: u64,
    step: impl Fn(&str) -> Result<u64, String>,
) -> Result<u64, MetricsError> {
    let mut file = BufReader::new(file);
    let mut kept = 0;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let length = file.read_until(b'\n', &mut line).map_err(|source| MetricsError::io(path, source))?;
        let Some(row) = line.strip_suffix(b"\n") else { break };
        let damaged = |reason: String| MetricsError::Damaged { path: path.to_path_buf(), line: number, reason };
        let row = str::from_utf8(row).map_err(|error| damaged(error.to_string()))?;
        match header.filter(|_| number == 1) {
            Some(header) if row == header => {}
            Some(header) => return Err(damaged(format!("the header should be `{header}`"))),
            None if step(row).map_err(damaged)? > last_step => break,
            None => {}
        }
        kept += length as u64;
    }
    Ok(kept)
}
