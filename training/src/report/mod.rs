//! `report.html`: a run in one file that needs nothing else, neither network nor scripts.
//!
//! The pictures are SVG written by hand rather than by `plotters`: they take their colours from the page, so that one file is
//! at home on a light screen and a dark one, and they answer the mouse, which needs elements of our own choice.

mod axis;
mod chart;
mod heat;
mod html;
mod number;
mod page;
mod quantization;
mod series;
mod training;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::metrics::{Outcome, StepRecord, replace};

/// What there is to say of a run besides its records.
#[derive(Clone, Debug, Default)]
pub struct RunSummary {
    /// The heading.
    pub title: String,
    /// The command line that repeats the run.
    pub command: String,
    /// The recipe file, as text.
    pub recipe: Option<String>,
    /// The configuration of model and run: names and values.
    pub config: Vec<(String, String)>,
    /// Numbers of parameters by kind.
    pub parameters: Vec<(String, u64)>,
    /// Facts of the data: names and values.
    pub data: Vec<(String, String)>,
    /// The final figures.
    pub outcome: Outcome,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The operating system refused: no such folder, no permission, disk full.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file that was to be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is there and is to be kept.
    #[error("{}: the file is there already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

/// The report as HTML. Records are in rising order of steps; long runs are thinned to some hundreds of points a curve.
pub fn render(summary: &RunSummary, records: &[StepRecord]) -> String {
    page::render(summary, records)
}

/// Writes the report to `path`; a kill leaves the old file or the new one.
///
/// # Errors
///
/// When the file is there already and `overwrite` is false, or writing fails.
pub fn write(
    path: impl AsRef<Path>,
    summary: &RunSummary,
    records: &[StepRecord],
    overwrite: bool,
) -> Result<(), ReportError> {
    let path = path.as_ref();
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(ReportError::Exists { path: path.to_path_buf() });
    }
    let html = render(summary, records);
    replace(path, |file| file.write_all(html.as_bytes()))
        .map_err(|source| ReportError::Io { path: path.to_path_buf(), source })
}
