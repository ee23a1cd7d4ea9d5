//! The flags of commands that begin with a model.

use std::path::{Path, PathBuf};

use bitnet::training::recipe::{Packing, Recipe};
use bitnet::{EMBEDDED, write_embedded};
use clap::Args;

use super::set;
use crate::cli::CliError;
use crate::cli::downloads::fetch_with_bar;

/// How the model that a run begins with is found, and how the data becomes its rows.
#[derive(Args)]
pub struct FromModel {
    /// Do not ask the network
    #[arg(long)]
    offline: bool,

    /// The most tokens of a conversation, or of a row of text [default: the model's context]
    #[arg(long, value_name = "N")]
    context: Option<usize>,

    /// documents, one a row and each by itself, or rows of text [default: documents for conversations, else rows]
    #[arg(long, value_name = "WHAT")]
    packing: Option<Packing>,

    /// What stands between the documents of a text file, such as "<|endoftext|>"
    #[arg(long, value_name = "TEXT")]
    pub separator: Option<String>,
}

impl FromModel {
    /// The whole path of a model, downloaded first if it has to be: a run is resumed from wherever one is. The embedded model
    /// has no path until it lies in `out`, the folder of the run.
    pub fn locate(&self, model: &str, out: &Path) -> Result<PathBuf, CliError> {
        let path = if model == EMBEDDED && !Path::new(model).exists() {
            let path = out.join(EMBEDDED);
            write_embedded(&path).map_err(|error| CliError::Write { path: path.clone(), error })?;
            path
        } else {
            fetch_with_bar(model, self.offline)?
        };
        path.canonicalize().map_err(|error| CliError::Read { path, error })
    }

    /// Changes a recipe.
    pub fn change(&self, recipe: &mut Recipe) -> Result<(), CliError> {
        let most = recipe.model.context;
        if let Some(wanted) = self.context.filter(|wanted| *wanted > most) {
            return Err(CliError::Usage(format!("--context {wanted}: this model can have {most} tokens")));
        }
        set(&mut recipe.model.context, self.context);
        set(&mut recipe.batch.packing, self.packing);
        Ok(())
    }
}
