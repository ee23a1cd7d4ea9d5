//! The files of a run, written together.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::error::MetricsError;
use super::record::StepRecord;
use super::replace::sync_folder;
use super::tensorboard::EventFile;
use super::trim::trim;
use super::{csv, jsonl};

/// Writes records to `metrics.csv`, `metrics.jsonl` and `tensorboard/` in the folder of a run.
///
/// A row goes to the operating system at once, in one piece, so that a killed process loses none. [`flush`](Self::flush)
/// makes rows outlast a power cut as well; call it before a checkpoint is committed, and
/// [`resume`](Self::resume) with that checkpoint's step finds every row up to it.
#[derive(Debug)]
pub struct MetricsLog {
    folder: PathBuf,
    csv: File,
    jsonl: File,
    tensorboard: EventFile,
}

impl MetricsLog {
    /// Begins the files of a new run in `folder`, which is made if it is not there. With `overwrite`, those of an earlier
    /// run are lost; its TensorBoard files stay, with everything in them marked as replaced.
    ///
    /// # Errors
    ///
    /// When there are metrics of another run and `overwrite` is false, or writing fails.
    pub fn create(folder: impl AsRef<Path>, overwrite: bool) -> Result<Self, MetricsError> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|error| MetricsError::io(folder, error))?;
        for (name, header) in [(CSV, Some(csv::HEADER)), (JSONL, None)] {
            let path = folder.join(name);
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).create_new(!overwrite);
            let mut file = options.open(&path).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => MetricsError::Exists { path: path.clone() },
                _ => MetricsError::io(&path, error),
            })?;
            if let Some(header) = header {
                writeln!(file, "{header}").map_err(|error| MetricsError::io(&path, error))?;
            }
        }
        Self::append(folder, 0)
    }

    /// Goes on after step `last_step` in `folder`: rows of later steps are dropped, and so is a half-written last one.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, or writing fails.
    pub fn resume(folder: impl AsRef<Path>, last_step: u64) -> Result<Self, MetricsError> {
        let folder = folder.as_ref();
        trim(&folder.join(CSV), Some(csv::HEADER), last_step, csv::step)?;
        trim(&folder.join(JSONL), None, last_step, jsonl::step)?;
        Self::append(folder, last_step)
    }

    fn append(folder: &Path, last_step: u64) -> Result<Self, MetricsError> {
        let open = |name: &str| {
            let path = folder.join(name);
            OpenOptions::new().append(true).open(&path).map_err(|error| MetricsError::io(&path, error))
        };
        let tensorboard = EventFile::create(&folder.join(TENSORBOARD), last_step + 1)?;
        Ok(Self { folder: folder.to_path_buf(), csv: open(CSV)?, jsonl: open(JSONL)?, tensorboard })
    }

    /// Writes a record to all files.
    ///
    /// # Errors
    ///
    /// When writing fails: the disk is full, for example.
    pub fn write(&mut self, record: &StepRecord) -> Result<(), MetricsError> {
        let wrap = |name: &str, error| MetricsError::io(&self.folder.join(name), error);
        self.csv.write_all(csv::row(record).as_bytes()).map_err(|error| wrap(CSV, error))?;
        let row = jsonl::row(record).map_err(|error| wrap(JSONL, error.into()))?;
        self.jsonl.write_all(row.as_bytes()).map_err(|error| wrap(JSONL, error))?;
        self.tensorboard.write(record)
    }

    /// Returns once everything that was written is on the disk.
    ///
    /// # Errors
    ///
    /// When the operating system cannot put it there.
    pub fn flush(&mut self) -> Result<(), MetricsError> {
        let wrap = |name: &str, error| MetricsError::io(&self.folder.join(name), error);
        self.csv.sync_all().map_err(|error| wrap(CSV, error))?;
        self.jsonl.sync_all().map_err(|error| wrap(JSONL, error))?;
        self.tensorboard.flush()?;
        sync_folder(&self.folder).map_err(|error| wrap("", error))
    }
}

const CSV: &str = "metrics.csv";
const JSONL: &str = "metrics.jsonl";
const TENSORBOARD: &str = "tensorboard";
