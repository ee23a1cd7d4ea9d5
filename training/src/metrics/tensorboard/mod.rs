//! TensorBoard event files.

mod event;
mod message;
mod records;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::error::MetricsError;
use super::record::StepRecord;
use super::replace::sync_folder;
use event::Event;

/// One event file: a run has one for each time it was started.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a new file in `folder`, which is made if it is not there. What earlier files say of `purge_step` and the steps
    /// after it no longer counts.
    pub fn create(folder: &Path, purge_step: u64) -> Result<Self, MetricsError> {
        std::fs::create_dir_all(folder).map_err(|error| MetricsError::io(folder, error))?;
        let seconds = now() as u64;
        // TensorBoard reads the files of a folder in the order of their names. Two may begin within one second.
        let mut number = 0;
        loop {
            let path = folder.join(format!("events.out.tfevents.{seconds:010}.{number:04}.bitnet"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(MetricsError::io(&path, error)),
                Ok(file) => {
                    let mut this = Self { path, file };
                    this.append(&[Event::version(now()), Event::start(now(), purge_step)])?;
                    return Ok(this);
                }
            }
        }
    }

    /// Writes what is known of a step.
    pub fn write(&mut self, record: &StepRecord) -> Result<(), MetricsError> {
        self.append(&[Event::summary(now(), record)])
    }

    /// Returns once everything that was written is on the disk.
    pub fn flush(&mut self) -> Result<(), MetricsError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let done = self.file.sync_all().and_then(|()| sync_folder(folder));
        done.map_err(|error| MetricsError::io(&self.path, error))
    }

    fn append(&mut self, events: &[Event]) -> Result<(), MetricsError> {
        let mut bytes = Vec::new();
        for event in events {
            records::frame(&mut bytes, event.bytes());
        }
        self.file.write_all(&bytes).map_err(|error| MetricsError::io(&self.path, error))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
