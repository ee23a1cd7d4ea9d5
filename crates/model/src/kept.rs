//! Weights in the order of the kernels, kept in a file from one start to the next.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bitnet_format::{Checkpoint, FormatError, PreparedFile, PreparedWriter};
use burn::tensor::Device;

use crate::load::load_prepared;
use crate::{Loaded, ModelError, Transformer, WeightBits, load_with_bits};

/// Counts what changes in the parts.
const VERSION: u8 = 3;

/// The copy of the head, see [`crate::DenseMatrix::top`].
const HEAD: &str = "head.sketch";

/// The rows of the head in the order of the kernels, where that is not the file's.
pub(crate) const HEAD_TILES: &str = "head.tiles";

/// Where prepared weights are kept, and of which models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// A file for each model and [`WeightBits`].
    pub folder: PathBuf,
    /// Ternary weights of less memory than this are prepared as fast as they are read.
    pub at_least: usize,
}

impl Kept {
    /// In this folder, of models of some size.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder, at_least: 64 << 20 }
    }
}

/// What became of the kept weights of a model.
#[derive(Debug)]
pub enum KeptWeights {
    /// They were there.
    Used(PathBuf),
    /// They were not there, or not right any more, and are there now.
    Written {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// How long that took.
        time: Duration,
        /// What was wrong with the one that was there.
        instead_of: Option<FormatError>,
    },
    /// They could not be kept.
    NotWritten(FormatError),
    /// The model is not one whose weights are kept.
    NotKept,
}

impl fmt::Display for KeptWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeptWeights::Used(path) => write!(f, "prepared weights from {}", path.display()),
            KeptWeights::Written { path, bytes, time, instead_of } => {
                let (megabytes, time) = (*bytes as f64 / 1e6, time.as_secs_f64());
                write!(f, "prepared weights kept in {}, {megabytes:.0} MB in {time:.2} s", path.display())?;
                instead_of.as_ref().map_or(Ok(()), |error| write!(f, " (instead of {error})"))
            }
            KeptWeights::NotWritten(error) => write!(f, "prepared weights not kept: {error}"),
            KeptWeights::NotKept => write!(f, "no prepared weights: the model is small or not a file"),
        }
    }
}

/// [`load_with_bits`] with weights that were prepared at an earlier start, or are kept now for the next.
///
/// What is kept is a copy that is mapped, checked byte by byte when it is read, and made again when the model's files have
/// changed. That it cannot be written is no error.
///
/// # Errors
/// As [`load_with_bits`].
pub fn load_kept(
    checkpoint: &Checkpoint,
    bits: WeightBits,
    kept: &Kept,
    device: &Device,
) -> Result<(Loaded, KeptWeights), ModelError> {
    let Some((path, key)) = place(checkpoint, bits, kept, device) else {
        return Ok((load_with_bits(checkpoint, bits, device)?, KeptWeights::NotKept));
    };
    let found = PreparedFile::open(&path, &key);
    let instead_of = match found.map_err(ModelError::from).and_then(|file| {
        let loaded = load_prepared(checkpoint, bits, &file, device)?;
        if let Some(search) = loaded.model.head().search().filter(|_| file.has(HEAD)) {
            search.take_sketch(file.part(HEAD)?);
        }
        Ok(loaded)
    }) {
        Ok(loaded) => return Ok((loaded, KeptWeights::Used(path))),
        Err(ModelError::Format(FormatError::Io { source, .. })) if source.kind() == std::io::ErrorKind::NotFound => {
            None
        }
        // Of a file of ours: it is replaced. Any other error comes again.
        Err(ModelError::Format(error)) => Some(error),
        Err(error) => return Err(error),
    };
    let loaded = load_with_bits(checkpoint, bits, device)?;
    let begin = Instant::now();
    let state = match write(&loaded.model, &path, &key) {
        Ok(bytes) => KeptWeights::Written { path, bytes, time: begin.elapsed(), instead_of },
        Err(error) => KeptWeights::NotWritten(error),
    };
    Ok((loaded, state))
}

/// The file of a model, and its key; `None` where nothing is kept of it.
fn place(checkpoint: &Checkpoint, bits: WeightBits, kept: &Kept, device: &Device) -> Option<(PathBuf, [u8; 32])> {
    let config = checkpoint.config();
    let (hidden, inner, heads) = (config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim);
    let weights = config.num_layers.checked_mul(hidden.checked_mul(3 * inner + 2 * heads)?)?;
    let order = match bits {
        WeightBits::Two => bitnet_kernels::weight_order(device),
        WeightBits::OnePointSix => bitnet_kernels::dense_weight_order(device)?,
    };
    // Only the native kernels read weights where they lie.
    let native = bitnet_kernels::row_storage(device) == bitnet_kernels::RowStorage::Bytes;
    if !native || weights / 4 < kept.at_least {
        return None;
    }
    let file = checkpoint.source().files.first()?.path.canonicalize().ok()?;
    let mut key = checkpoint.identity().ok()?;
    key[0] ^= VERSION;
    key[1] ^= order as u8;
    // The same file for a path whatever it holds: weights of an earlier model are replaced.
    let mut name = DefaultHasher::new();
    file.hash(&mut name);
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Some((kept.folder.join(format!("{stem}-{:016x}-{bits}.weights", name.finish())), key))
}

fn write(model: &Transformer, path: &Path, key: &[u8; 32]) -> Result<u64, FormatError> {
    let sketch = Some(model.head()).filter(|head| head.is_worth_searching()).and_then(|head| head.search()?.sketch());
    let tiles = model.head().search().and_then(|search| search.tiles());
    let mut names: Vec<String> = model.linears().map(|(name, _)| name).collect();
    names.extend(sketch.map(|_| HEAD.to_string()));
    names.extend(tiles.map(|_| HEAD_TILES.to_string()));
    let mut writer = PreparedWriter::new(path, key, names)?;
    for (_, linear) in model.linears() {
        let [front, words] = linear.keep().expect("a model that runs has packed weights");
        writer.part(&[&front, &words])?;
    }
    if let Some(sketch) = sketch {
        writer.part(&[sketch.bytes()])?;
    }
    if let Some(tiles) = tiles {
        writer.part(&[tiles])?;
    }
    writer.finish()
}
