//! The folder of a run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::TrainError;
use crate::checkpoint::{Checkpoints, Loaded};
use crate::recipe::Recipe;
use crate::tokenizer::TokenizerFiles;

/// Where the parts of a run are.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The run in this folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The recipe.
    pub fn recipe(&self) -> PathBuf {
        self.0.join("recipe.toml")
    }

    /// The files of the tokenizer.
    pub fn tokenizer(&self) -> PathBuf {
        self.0.join("tokenizer")
    }

    /// The tokenized data.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// The checkpoints, of which `keep` are kept.
    pub fn checkpoints(&self, keep: usize) -> Checkpoints {
        Checkpoints::new(self.0.join("checkpoints"), keep)
    }

    /// The report.
    pub fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// All that is known of each step.
    pub fn records(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// The learning rates that were tried before the run.
    pub fn sweep(&self) -> PathBuf {
        self.0.join("lr-sweep.json")
    }

    /// The packed model.
    pub fn model(&self) -> PathBuf {
        self.0.join("model.gguf")
    }

    /// The packed model as a Hugging Face folder.
    pub fn hugging_face(&self) -> PathBuf {
        self.0.join("hf")
    }

    /// The low-rank adapter.
    pub fn adapter(&self) -> PathBuf {
        self.0.join("adapter")
    }

    /// Whether a run began here.
    pub fn is_begun(&self) -> bool {
        self.recipe().exists()
    }

    /// Reads the recipe.
    ///
    /// # Errors
    /// When it is not there or not a recipe.
    pub fn read_recipe(&self) -> Result<Recipe, TrainError> {
        let path = self.recipe();
        let text = fs::read_to_string(&path).map_err(TrainError::io(&path))?;
        Recipe::parse(&text).map_err(|source| TrainError::Recipe { path, source })
    }

    /// Reads the tokenizer.
    ///
    /// # Errors
    /// When its files are not there or not a tokenizer.
    pub fn read_tokenizer(&self) -> Result<TokenizerFiles, TrainError> {
        TokenizerFiles::read(&self.tokenizer())
    }

    /// Makes the folder ready for a new run: nothing of an earlier one is left that could be taken for its own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn clear(&self) -> Result<(), TrainError> {
        for folder in [self.0.join("checkpoints"), self.tokenizer(), self.hugging_face(), self.adapter()] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(TrainError::io(&folder)(error));
                }
                _ => {}
            }
        }
        for file in [self.model(), self.report(), self.recipe()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(TrainError::io(&file)(error)),
                _ => {}
            }
        }
        fs::create_dir_all(&self.0).map_err(TrainError::io(&self.0))
    }

    /// The checkpoint of a step, the latest one without a step; `None` when there is none at all.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn checkpoint(&self, step: Option<u64>) -> Result<Option<Loaded>, TrainError> {
        let checkpoints = self.checkpoints(1);
        match step.or(checkpoints.steps()?.pop()) {
            Some(step) => Loaded::open(&checkpoints.path(step)).map(Some),
            None => Ok(None),
        }
    }
}
