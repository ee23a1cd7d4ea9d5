//! `bitnet cache`.

use std::io::{Write, stdout};

use bitnet::{cache_folder, cached_weights, clear_cache};
use clap::Args;
use indicatif::DecimalBytes;

use super::CliError;

#[derive(Args)]
pub struct Cache {
    /// Remove all of them
    #[arg(long)]
    clear: bool,
}

impl Cache {
    pub fn run(self) -> Result<(), CliError> {
        let none = || CliError::Usage("there is no folder for prepared weights: set BITNET_CACHE".to_string());
        let folder = cache_folder().ok_or_else(none)?;
        let wrap = |error| CliError::Read { path: folder.clone(), error };
        let mut out = stdout().lock();
        if self.clear {
            let (files, bytes) = clear_cache(&folder).map_err(wrap)?;
            writeln!(out, "{files} removed from {}, {}", folder.display(), DecimalBytes(bytes))?;
            return Ok(());
        }
        for (path, bytes) in cached_weights(&folder).map_err(wrap)? {
            writeln!(out, "{:>12}  {}", DecimalBytes(bytes).to_string(), path.display())?;
        }
        Ok(())
    }
}
