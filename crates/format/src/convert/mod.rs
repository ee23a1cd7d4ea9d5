//! From one container to another: written, opened again and compared, and only then named.
//!
//! Tensors are read a few ahead of the one that is written, on several threads. None but those few are ever in memory, and
//! a matrix that stays floats is not even held whole. What was written is then opened as any model and compared with its
//! source tensor by tensor: trits to the bit (by a SHA-256 taken before they were written), scales to the bit or as the format
//! rounds them, floats as their type rounds them.
//!
//! ```no_run
//! use bitnet_format::convert::{Conversion, Target};
//! use bitnet_format::export::{GgufOptions, Model};
//!
//! let source = bitnet_format::open("packed-folder")?;
//! let target = Target::Gguf(GgufOptions::default());
//! let conversion = Conversion { model: Model::of(&source, "my model")?, source: &source, target };
//! let report = conversion.run("model.gguf".as_ref(), false, &|_| {})?;
//! println!("{} ternary tensors, {} bytes", report.ternary, report.bytes);
//! # Ok::<(), bitnet_format::FormatError>(())
//! ```

mod ahead;
mod repair;
mod verify;

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;

use bitnet_ternary::quantize::already_ternary;

pub use repair::{faults, repair};
pub use verify::ScaleFidelity;
use verify::{Fingerprint, verify};

use crate::export::{
    BurnpackOptions, Draft, GgufOptions, HuggingFaceForm, HuggingFaceOptions, Model, Tensor, TensorData, TensorKind,
    draft_burnpack, draft_gguf, draft_hugging_face,
};
use crate::{Checkpoint, FormatError, StorageType};

/// What is written.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A GGUF file with ternary linears.
    Gguf(GgufOptions),
    /// A GGUF file with float linears, as [`GgufOptions::floats`] says: what other programs' quantizers take. Masters stay what
    /// they are, trits become `trit · scale`.
    GgufFloats(GgufOptions),
    /// A folder for transformers.
    HuggingFace(HuggingFaceOptions),
    /// A file of Burn's.
    Burnpack(BurnpackOptions),
}

/// One model to be written in another form.
#[derive(Debug)]
pub struct Conversion<'a> {
    /// Where its tensors come from.
    pub source: &'a Checkpoint,
    /// Its name, configuration, tokenizer and tensors, as [`Model::of`] gives them. The kinds of its linears are chosen by
    /// the target.
    pub model: Model,
    /// What is written.
    pub target: Target,
}

/// How far a conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Weights that have been dealt with in this stage.
    pub done: u64,
    /// All weights of the model.
    pub total: u64,
}

/// The two passes over a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Tensors are read and written.
    Write,
    /// What was written is compared.
    Verify,
}

/// What was written and compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Size of all files with tensors.
    pub bytes: u64,
    /// Tensors whose trits were compared.
    pub ternary: usize,
    /// Tensors whose floats were compared.
    pub floats: usize,
    /// What the scales of the trits went through.
    pub scales: ScaleFidelity,
}

impl Conversion<'_> {
    /// Writes the model to `path`, which exists only when all is well.
    ///
    /// # Errors
    ///
    /// When `path` exists and `overwrite` is false; when a tensor of the source is missing, damaged, or neither a master nor
    /// ternary; when the target has no place for something in the model; when writing fails, or what was written does not
    /// come back. Nothing is left behind.
    pub fn run(
        &self,
        path: &Path,
        overwrite: bool,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Report, FormatError> {
        let mut model = self.model.clone();
        if self.target.keeps_floats(self.source, &model)? {
            model
                .tensors
                .iter_mut()
                .filter(|t| t.kind == TensorKind::Ternary)
                .for_each(|t| t.kind = TensorKind::Floats);
        }
        match &self.target {
            Target::Gguf(GgufOptions { floats, .. })
            | Target::GgufFloats(GgufOptions { floats, .. })
            | Target::Burnpack(BurnpackOptions { floats }) => keep_blocks(self.source, &mut model, *floats),
            Target::HuggingFace(_) => {}
        }
        let fingerprints: Vec<_> = model.tensors.iter().map(|_| OnceLock::new()).collect();
        let draft = self.draft(&model, &fingerprints, path, overwrite, progress)?;
        let report = thread::scope(|scope| {
            let synced = scope.spawn(|| draft.sync());
            let report = verify(self.source, &model, &fingerprints, &self.target, draft.path(), path, progress)?;
            synced.join().unwrap_or_else(|panic| resume_unwind(panic)).map(|()| report)
        })?;
        draft.publish()?;
        Ok(report)
    }

    fn draft<'p>(
        &self,
        model: &Model,
        fingerprints: &[OnceLock<Fingerprint>],
        path: &'p Path,
        overwrite: bool,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Draft<'p>, FormatError> {
        let read = |index: usize| {
            let data = model.tensors[index].read(self.source);
            if let Ok(TensorData::Ternary(matrix)) = &data {
                // Each tensor is read once, so there is none yet.
                let _ = fingerprints[index].set(Fingerprint::of(matrix));
                self.source.release(&model.tensors[index].name);
            }
            data
        };
        let (mut done, total) = (0, weights(&model.tensors));
        progress(Progress { stage: Stage::Write, done, total });
        ahead::in_order(model.tensors.len(), read, |next| {
            // Asked for when the tensor before has been written.
            let mut before = 0;
            let data = |tensor: &Tensor| {
                done += before;
                before = weights(std::slice::from_ref(tensor));
                progress(Progress { stage: Stage::Write, done, total });
                next()
            };
            match &self.target {
                Target::Gguf(options) | Target::GgufFloats(options) => {
                    draft_gguf(model, options, path, overwrite, data)
                }
                Target::HuggingFace(options) => draft_hugging_face(model, options, path, overwrite, data),
                Target::Burnpack(options) => draft_burnpack(model, options, path, overwrite, data),
            }
        })
    }
}

impl Target {
    /// Whether linears are written as floats: asked for, or masters that a folder of masters keeps.
    fn keeps_floats(&self, source: &Checkpoint, model: &Model) -> Result<bool, FormatError> {
        match self {
            Self::Gguf(_) => Ok(false),
            Self::GgufFloats(_) => Ok(true),
            Self::HuggingFace(options) if options.form == HuggingFaceForm::Master => has_masters(source, model),
            Self::HuggingFace(_) | Self::Burnpack(_) => Ok(false),
        }
    }
}

/// Whether the linears of a checkpoint are float weights that a reader quantizes.
fn has_masters(source: &Checkpoint, model: &Model) -> Result<bool, FormatError> {
    let Some(linear) = model.tensors.iter().find(|t| t.kind == TensorKind::Ternary) else {
        return Ok(false);
    };
    let plain = [StorageType::F32, StorageType::F16, StorageType::BF16, StorageType::F64];
    let is_plain = source.info(&linear.name).is_some_and(|info| plain.contains(&info.dtype));
    if !is_plain || source.info(&format!("{}_scale", linear.name)).is_some() {
        return Ok(false);
    }
    let values = source.floats(&linear.name)?;
    Ok(already_ternary(&values, linear.shape[0], linear.shape[1]).is_none())
}

/// Has matrices that are stored in the wanted blocks already copied, not encoded again.
fn keep_blocks(source: &Checkpoint, model: &mut Model, floats: StorageType) {
    if floats.block_format().is_none() {
        return;
    }
    for tensor in model.tensors.iter_mut().filter(|t| t.kind == TensorKind::Floats) {
        if source.info(&tensor.name).is_some_and(|info| info.dtype == floats) {
            tensor.kind = TensorKind::Stored(floats);
        }
    }
}

/// Weights of some tensors.
fn weights(tensors: &[Tensor]) -> u64 {
    tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum()
}
