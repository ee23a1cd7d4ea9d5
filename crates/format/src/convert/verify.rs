//! What was written against what it was written from.

use std::path::Path;
use std::sync::OnceLock;

use bitnet_ternary::{Packing, Scale, TernaryMatrix};
use half::f16;
use sha2::{Digest, Sha256};

use super::{Progress, Report, Stage, Target, ahead, weights};
use crate::export::floats;
use crate::export::plan::is_own_norm;
use crate::export::{HuggingFaceForm, Model, Tensor, TensorData, TensorKind};
use crate::{Checkpoint, FormatError, I2sLayout, OpenOptions, StorageType, open_with};

/// Floats that are compared at once.
const CHUNK: usize = 1 << 18;

/// What the scales of ternary tensors go through on their way into a format and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleFidelity {
    /// The same to the bit.
    Exact,
    /// The nearest f16.
    HalfPrecision,
    /// The inverse of the nearest inverse: the same, or a neighbour.
    Inverse,
}

impl ScaleFidelity {
    fn of(target: &Target) -> Self {
        match target {
            Target::Gguf(options) => match options.packing {
                Packing::Tq1_0 | Packing::Tq2_0 | Packing::Q2_0 { .. } | Packing::Iq1Bn => Self::HalfPrecision,
                _ => Self::Exact,
            },
            Target::HuggingFace(options) if options.form == HuggingFaceForm::PackedBitLinear => Self::Inverse,
            Target::HuggingFace(_) | Target::GgufFloats(_) | Target::Burnpack(_) => Self::Exact,
        }
    }

    /// Whether `found` is what became of `meant`.
    fn holds(self, meant: f32, found: f32) -> bool {
        match self {
            Self::Exact => found.to_bits() == meant.to_bits(),
            Self::HalfPrecision => found == f16::from_f32(meant).to_f32(),
            Self::Inverse => found.to_bits().abs_diff(meant.to_bits()) <= 1,
        }
    }
}

/// How the codes of `I2_S` lie in what was written.
fn layout(target: &Target) -> I2sLayout {
    match target {
        Target::Gguf(options) if options.packing == Packing::I2SArm64 => I2sLayout::Block64,
        Target::Gguf(options) if options.packing == Packing::I2SFourRows => I2sLayout::FourRows,
        _ => I2sLayout::Block128,
    }
}

/// A ternary matrix as it was handed to the writer, without its trits.
pub(super) struct Fingerprint {
    shape: (usize, usize),
    /// SHA-256 of the code words.
    trits: [u8; 32],
    scale: Scale,
}

impl Fingerprint {
    pub(super) fn of(matrix: &TernaryMatrix) -> Self {
        Self { shape: (matrix.rows(), matrix.cols()), trits: digest(matrix), scale: matrix.scale().clone() }
    }
}

fn digest(matrix: &TernaryMatrix) -> [u8; 32] {
    const WORDS: usize = 1024;
    let (mut hash, mut bytes) = (Sha256::new(), [0; 4 * WORDS]);
    for words in matrix.words().chunks(WORDS) {
        for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        hash.update(&bytes[..4 * words.len()]);
    }
    hash.finalize().into()
}

/// What comparing one tensor gave.
enum Compared {
    Ternary,
    Floats,
}

/// Opens what lies at `draft` and compares it with its source: trits with the fingerprints that they had when they were handed to
/// the writer, the rest with the source itself. Errors name `path`, where it is to be.
///
/// # Errors
///
/// When it does not open, or a tensor is another one.
pub(super) fn verify(
    source: &Checkpoint,
    model: &Model,
    fingerprints: &[OnceLock<Fingerprint>],
    target: &Target,
    draft: &Path,
    path: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report, FormatError> {
    let written = open_with(draft, &OpenOptions { i2s_layout: layout(target), ..OpenOptions::default() })?;
    let scales = ScaleFidelity::of(target);
    let compare = |index: usize| {
        let tensor = &model.tensors[index];
        let fingerprint = fingerprints[index].get();
        let result = Comparison { source, written: &written, tensor, fingerprint, scales }.run();
        source.release(&tensor.name);
        written.release(&tensor.name);
        result
    };
    let (mut done, total) = (0, weights(&model.tensors));
    let bytes = written.source().files.iter().map(|file| file.bytes).sum();
    let mut report = Report { bytes, ternary: 0, floats: 0, scales };
    ahead::in_order(model.tensors.len(), compare, |next| {
        for tensor in &model.tensors {
            progress(Progress { stage: Stage::Verify, done, total });
            match next() {
                Ok(Compared::Ternary) => report.ternary += 1,
                Ok(Compared::Floats) => report.floats += 1,
                Err(Trouble::Differs(what)) => {
                    return Err(FormatError::tensor(path, &tensor.name, format!("does not come back: {what}")));
                }
                Err(Trouble::Read(error)) => return Err(error),
            }
            done += weights(std::slice::from_ref(tensor));
        }
        progress(Progress { stage: Stage::Verify, done, total });
        Ok(report)
    })
}

enum Trouble {
    Differs(String),
    Read(FormatError),
}

impl From<FormatError> for Trouble {
    fn from(error: FormatError) -> Self {
        Self::Read(error)
    }
}

/// One tensor on both sides.
struct Comparison<'a> {
    source: &'a Checkpoint,
    written: &'a Checkpoint,
    tensor: &'a Tensor,
    fingerprint: Option<&'a Fingerprint>,
    scales: ScaleFidelity,
}

impl Comparison<'_> {
    fn run(&self) -> Result<Compared, Trouble> {
        let name = &self.tensor.name;
        match (self.tensor.kind, self.fingerprint) {
            (TensorKind::Ternary, Some(meant)) => {
                let linear = name.strip_suffix(".weight").unwrap_or(name);
                let found = self.written.ternary(linear, meant.shape.0, meant.shape.1)?;
                match difference(meant, &found, self.scales) {
                    Some(what) => Err(Trouble::Differs(what)),
                    None => Ok(Compared::Ternary),
                }
            }
            (TensorKind::Ternary, None) => Err(Trouble::Differs("it was never handed to the writer".to_string())),
            (TensorKind::Stored(_), _) if self.source.bytes(name)? == self.written.bytes(name)? => Ok(Compared::Floats),
            (TensorKind::Stored(_), _) => Err(Trouble::Differs("other bytes".to_string())),
            _ => self.floats(),
        }
    }

    /// Floats: what is stored must be the bytes that they are encoded to.
    fn floats(&self) -> Result<Compared, Trouble> {
        let written = self.written.float_reader(&self.tensor.name)?;
        let (dtype, (rows, cols)) = (written.dtype(), written.rows_cols());
        let source = self.tensor.read(self.source)?;
        let step = (CHUNK / cols.max(1)).max(1);
        // A model's norms have in them what the class of a folder adds.
        let offset = self.written.config().norm_offset as f32;
        let offset = if is_own_norm(&self.tensor.name) { offset } else { 0.0 };
        let (mut values, mut meant, mut found) = (vec![0.0; step.min(rows) * cols], Vec::new(), Vec::new());
        for start in (0..rows).step_by(step) {
            let range = start..rows.min(start + step);
            let values = &mut values[..range.len() * cols];
            meant.clear();
            let meant: &[u8] = match &source {
                TensorData::Floats(all) => {
                    let all = &all[range.start * cols..range.end * cols];
                    values.iter_mut().zip(all).for_each(|(value, x)| *value = x - offset);
                    encode(values, dtype, &mut meant)?;
                    &meant
                }
                TensorData::Reader(reader) => match reader.stored(range.clone()).filter(|_| reader.dtype() == dtype) {
                    Some(stored) => stored,
                    None => {
                        reader.read(range.clone(), values)?;
                        encode(values, dtype, &mut meant)?;
                        &meant
                    }
                },
                TensorData::Ternary(_) | TensorData::Stored(_) => {
                    return Err(Trouble::Differs("other data than declared".to_string()));
                }
            };
            found.clear();
            let found: &[u8] = match written.stored(range.clone()) {
                Some(stored) => stored,
                None => {
                    written.read(range.clone(), values)?;
                    encode(values, dtype, &mut found)?;
                    &found
                }
            };
            if meant != found {
                return Err(Trouble::Differs(format!("other numbers in rows {start} to {}", range.end - 1)));
            }
            // With the rows before, for the pages that the two share.
            let pages = start.saturating_sub(step)..range.end;
            written.release(pages.clone());
            if let TensorData::Reader(reader) = &source {
                reader.release(pages);
            }
        }
        Ok(Compared::Floats)
    }
}

fn encode(values: &[f32], dtype: StorageType, out: &mut Vec<u8>) -> Result<(), Trouble> {
    floats::encode(values, dtype, 0, out).map_err(Trouble::Differs)
}

/// Where a matrix differs from what it is meant to be. A scale that no trit is multiplied by may be any.
fn difference(meant: &Fingerprint, found: &TernaryMatrix, scales: ScaleFidelity) -> Option<String> {
    let (rows, cols) = (found.rows(), found.cols());
    if (rows, cols) != meant.shape {
        return Some(format!("a matrix of [{rows}, {cols}]"));
    }
    if digest(found) != meant.trits {
        return Some("other trits".to_string());
    }
    if let (Scale::Tensor(one), Scale::Tensor(other)) = (&meant.scale, found.scale()) {
        let same = scales.holds(*one, *other) || found.zero_fraction() == 1.0;
        return (!same).then(|| format!("the scale is {other:e} and was {one:e}"));
    }
    let step = gcd(block(&meant.scale, cols), block(found.scale(), cols));
    for row in 0..rows {
        let trits: Vec<i8> = found.row_trits(row).collect();
        for (index, trits) in trits.chunks(step).enumerate() {
            let (one, other) = (meant.scale.at(row, index * step, cols), found.scale().at(row, index * step, cols));
            if !scales.holds(one, other) && trits.iter().any(|trit| *trit != 0) {
                return Some(format!("the scale of row {row}, column {} is {other:e} and was {one:e}", index * step));
            }
        }
    }
    None
}

/// Columns that surely share a scale, counted from the start of a row.
fn block(scale: &Scale, cols: usize) -> usize {
    match scale {
        Scale::Group { size, .. } => (*size).min(cols),
        Scale::Tensor(_) | Scale::Row(_) => cols,
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(trits: &[i8], scale: Scale) -> TernaryMatrix {
        TernaryMatrix::from_trits(2, trits.len() / 2, trits, scale).unwrap()
    }

    #[test]
    fn differences_are_found_and_scales_of_nothing_are_none() {
        let trits = [1, 0, -1, 0, 0, 0, 0, 1];
        let same = matrix(&trits, Scale::Tensor(0.1));
        let one = Fingerprint::of(&same);
        let exact = |found: &TernaryMatrix| difference(&one, found, ScaleFidelity::Exact);
        assert_eq!(exact(&same), None);
        assert_eq!(exact(&matrix(&trits, Scale::Row(vec![0.1, 0.1]))), None);
        let grouped = |values: [f32; 4]| matrix(&trits, Scale::Group { size: 2, values: values.to_vec() });
        assert_eq!(exact(&grouped([0.1, 0.1, 0.0, 0.1])), None, "columns 0 and 1 of row 1 are zeros");
        let said = exact(&grouped([0.1, 0.2, 0.0, 0.1])).unwrap();
        assert!(said.contains("row 0, column 2"), "{said}");
        let mut other = trits;
        other[6] = -1;
        assert_eq!(exact(&matrix(&other, Scale::Tensor(0.1))).unwrap(), "other trits");

        let half = matrix(&trits, Scale::Tensor(f16::from_f32(0.1).to_f32()));
        assert!(exact(&half).is_some());
        assert_eq!(difference(&one, &half, ScaleFidelity::HalfPrecision), None);
        let neighbour = matrix(&trits, Scale::Tensor(0.1f32.next_up()));
        assert_eq!(difference(&one, &neighbour, ScaleFidelity::Inverse), None);
        assert!(difference(&one, &neighbour, ScaleFidelity::HalfPrecision).is_some());
        let zeros = |scale| matrix(&[0; 8], Scale::Tensor(scale));
        assert_eq!(difference(&Fingerprint::of(&zeros(0.3)), &zeros(0.0), ScaleFidelity::Exact), None);
    }
}
