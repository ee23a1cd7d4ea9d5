//! From a path to an open checkpoint.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Checkpoint, Container, Metadata, Source, SourceFile};
use crate::blob::{Blob, Folder};
use crate::tokenizer::HfFiles;
use crate::{Activation, FormatError, I2sLayout, ModelConfig, TensorInfo};

/// What a file does not say and a user may know.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// How `I2_S` codes lie.
    pub i2s_layout: I2sLayout,
    /// The MLP's activation, in place of what the file says or the rule in [`Activation`] gives.
    pub activation: Option<Activation>,
}

/// Opens a model: a folder as Hugging Face lays it out, a `.safetensors` or `.safetensors.index.json` with `config.json`
/// beside it, a `.gguf`, a `.bpk`, or a folder with one of the last two in it.
///
/// The file is mapped, not read. Changing or truncating it while the checkpoint is open is undefined, as for every
/// memory-mapped file.
///
/// # Errors
///
/// When the path leads to no model or to several, a file is damaged, or the model is one this project does not run. The
/// error names the file, and the key or tensor at fault.
pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, FormatError> {
    open_with(path, &OpenOptions::default())
}

/// [`open`], told what the file does not say.
///
/// # Errors
///
/// As [`open`].
pub fn open_with(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Checkpoint, FormatError> {
    let path = path.as_ref();
    let info = path.metadata().map_err(|e| FormatError::io(path, e))?;
    if info.is_dir() {
        let folder = Folder::Disk(path.to_path_buf());
        let entry = find_model(&folder, path)?;
        return open_entry(&folder, entry, options);
    }
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| FormatError::not_a_model(path, "the file name is not UTF-8"))?;
    let folder = Folder::Disk(path.parent().map(Path::to_path_buf).unwrap_or_default());
    let entry = Entry::of(name).ok_or_else(|| {
        FormatError::not_a_model(
            path,
            "not a model file (.gguf, .safetensors, .safetensors.index.json, .bpk, or a folder with one)",
        )
    })?;
    open_entry(&folder, entry, options)
}

pub(super) fn from_memory(files: &[(&str, &'static [u8])], options: &OpenOptions) -> Result<Checkpoint, FormatError> {
    let folder = Folder::Memory(files);
    let entry = find_model(&folder, Path::new("embedded files"))?;
    open_entry(&folder, entry, options)
}

/// The file to begin with.
enum Entry {
    Gguf(String),
    Burnpack(String),
    Safetensors(String),
    Index(String),
}

impl Entry {
    fn of(name: &str) -> Option<Self> {
        let name = name.to_string();
        if name.ends_with(".gguf") {
            Some(Self::Gguf(name))
        } else if name.ends_with(".bpk") {
            Some(Self::Burnpack(name))
        } else if name.ends_with(".safetensors") {
            Some(Self::Safetensors(name))
        } else if name.ends_with(".safetensors.index.json") {
            Some(Self::Index(name))
        } else {
            None
        }
    }
}

/// Finds the one model of a folder: safetensors beside a `config.json` first, then GGUF, then burnpack.
fn find_model(folder: &Folder<'_>, path: &Path) -> Result<Entry, FormatError> {
    let mut names = folder.names()?;
    // What a writer that was killed has left.
    names.retain(|name| !name.starts_with('.'));
    let has = |name: &str| names.iter().any(|n| n == name);
    let ending = |suffix| names.iter().filter(move |n| n.ends_with(suffix)).cloned().collect::<Vec<_>>();
    let (ggufs, safetensors) = (first_shards(ending(".gguf")), ending(".safetensors"));
    let config = has("config.json");
    if config {
        for (name, entry) in [
            ("model.safetensors", Entry::Safetensors as fn(String) -> Entry),
            ("model.safetensors.index.json", Entry::Index),
        ] {
            if has(name) {
                return Ok(entry(name.to_string()));
            }
        }
        if let [only] = &safetensors[..] {
            return Ok(Entry::Safetensors(only.clone()));
        }
    }
    let packs: Vec<String> = ending(".bpk");
    if let ([], [], [only]) = (&ggufs[..], &safetensors[..], &packs[..]) {
        return Ok(Entry::Burnpack(only.clone()));
    }
    let reason = match (&ggufs[..], &safetensors[..]) {
        ([only], _) => return Ok(Entry::Gguf(only.clone())),
        ([], []) if config => {
            "there is a config.json, but neither model.safetensors, model.safetensors.index.json nor \
                               a .gguf (weights in .bin files are not read)"
                .to_string()
        }
        ([], []) => "no model in this folder: neither config.json with model.safetensors nor a .gguf".to_string(),
        ([], _) if !config => "there are .safetensors files, but no config.json".to_string(),
        ([], several) => format!(
            "there are {} .safetensors files, but no model.safetensors.index.json that says how they belong together",
            several.len()
        ),
        (several, _) => format!("there are several models, name one: {}", several.join(", ")),
    };
    Err(FormatError::not_a_model(path, reason))
}

/// Leaves only the first file of each split GGUF.
fn first_shards(names: Vec<String>) -> Vec<String> {
    names.into_iter().filter(|name| split_name(name).is_none_or(|(_, number, _)| number == 1)).collect()
}

/// `stem-00002-of-00005.gguf` as (`stem`, 2, 5).
pub(crate) fn split_name(name: &str) -> Option<(&str, u32, u32)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let five = |digits: &str| (digits.len() == 5).then(|| digits.parse().ok()).flatten();
    Some((stem, five(number)?, five(count)?))
}

fn open_entry(folder: &Folder<'_>, entry: Entry, options: &OpenOptions) -> Result<Checkpoint, FormatError> {
    let mut checkpoint = match entry {
        Entry::Gguf(name) => super::gguf::open(folder, &name, options)?,
        Entry::Burnpack(name) => super::burnpack::open(folder, &name)?,
        Entry::Safetensors(name) => super::hugging_face::open_file(folder, &name)?,
        Entry::Index(name) => super::hugging_face::open_index(folder, &name)?,
    };
    if let Some(activation) = options.activation {
        checkpoint.config.activation = activation;
    }
    Ok(checkpoint)
}

/// The parts of a checkpoint that its container gives.
pub(super) struct Parts {
    pub(super) container: Container,
    pub(super) files: Vec<Blob>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) config: ModelConfig,
    pub(super) metadata: Metadata,
    pub(super) hf_files: HfFiles,
    pub(super) notes: Vec<String>,
}

impl Parts {
    /// Puts a checkpoint together, if no two tensors have one name and none asks for what the decoder lacks.
    pub(super) fn assemble(self) -> Result<Checkpoint, FormatError> {
        let mut by_name: HashMap<String, usize> = HashMap::with_capacity(self.tensors.len());
        for (index, info) in self.tensors.iter().enumerate() {
            let file = self.files[info.file].path();
            if info.name.starts_with("model.layers.") && info.name.ends_with("_proj.bias") {
                let what = format!("a bias on a linear (tensor `{}`)", info.stored_name);
                return Err(FormatError::unsupported(file, what));
            }
            if let Some(first) = by_name.insert(info.name.clone(), index) {
                let reason = format!("is the same as `{}`", self.tensors[first].stored_name);
                return Err(FormatError::tensor(file, &info.stored_name, reason));
            }
        }
        let files = self
            .files
            .iter()
            .map(|blob| SourceFile { path: PathBuf::from(blob.path()), bytes: blob.bytes().len() as u64 });
        Ok(Checkpoint {
            source: Source { container: self.container, files: files.collect() },
            files: self.files,
            tensors: self.tensors,
            by_name,
            config: self.config,
            metadata: self.metadata,
            hf_files: self.hf_files,
            notes: self.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::split_name;

    #[test]
    fn split_names_are_recognized() {
        assert_eq!(split_name("m-q2-00002-of-00005.gguf"), Some(("m-q2", 2, 5)));
        for name in ["m.gguf", "m-2-of-5.gguf", "m-0000x-of-00005.gguf", "00001-of-00002.gguf"] {
            assert_eq!(split_name(name), None, "{name}");
        }
    }
}
