//! A model as a burnpack file: the parameters of `bitnet_model::Transformer` as Burn saves them, and as texts beside them all else
//! that a model has.

use std::collections::BTreeMap;
use std::path::Path;

use bitnet_ternary::{Scale, TernaryMatrix, words_per_row};

use super::encode::{self, Payload};
use super::plan::{EMBEDDING, HEAD, Plan, is_linear};
use super::{
    Draft, Model, Tensor, TensorData, TensorKind, floats, hugging_face, hugging_face_config, sentence_transformers,
};
use crate::burnpack::{Writer, names};
use crate::config::to_burnpack;
use crate::{FormatError, ModelConfig, ScaleDirection, StorageType};

/// Keys of the texts that are no files of the tokenizer.
pub(crate) const CONFIG: &str = "bitnet.config";
pub(crate) const GROUP_SIZE: &str = "bitnet.group_size";
/// The types of embedding and head, which Burn holds as rows of bytes.
pub(crate) const DENSE_TYPES: [(&str, &str); 2] = [(EMBEDDING, "bitnet.embedding"), (HEAD, "bitnet.head")];

/// What is to be chosen of a burnpack file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BurnpackOptions {
    /// What embedding and head become: `F32`, `F16` (the default), `BF16`, `Q8_0` or `Q6_K`. Everything else is `F32`, and trits
    /// are packed.
    pub floats: StorageType,
}

impl Default for BurnpackOptions {
    fn default() -> Self {
        Self { floats: StorageType::F16 }
    }
}

/// Writes a model to `path`, asking `data` for its tensors in the declared order.
///
/// Burn (`Module::load_file`) loads the file into a `bitnet_model::Transformer` of the same shape on a CPU: linears are U32 words of sixteen codes
/// with their F32 scales, embedding and head rows of bytes. [`open`](crate::open) reads it as any other model, for which it has
/// configuration, tokenizer and chat template as texts. It takes its name when it is complete; before that, and after a
/// failure, nothing is there.
///
/// # Errors
///
/// [`FormatError`] when `path` exists and `overwrite` is false; when the tensors are not those of the configuration, or linears
/// are not ternary; when the tokenizer is no `tokenizer.json`, a number does not fit its type, or writing fails. Whatever
/// `data` fails with.
pub fn write_burnpack<E: From<FormatError>>(
    model: &Model,
    options: &BurnpackOptions,
    path: &Path,
    overwrite: bool,
    data: impl FnMut(&Tensor) -> Result<TensorData, E>,
) -> Result<(), E> {
    Ok(draft_burnpack(model, options, path, overwrite, data)?.publish()?)
}

/// [`write_burnpack`] without giving the file its name.
///
/// # Errors
///
/// As there.
pub fn draft_burnpack<'a, E: From<FormatError>>(
    model: &Model,
    options: &BurnpackOptions,
    path: &'a Path,
    overwrite: bool,
    mut data: impl FnMut(&Tensor) -> Result<TensorData, E>,
) -> Result<Draft<'a>, E> {
    floats::check_dtype(path, options.floats)?;
    let plan = Plan::new(path, model)?;
    let mut named = Vec::with_capacity(model.tensors.len());
    for tensor in &model.tensors {
        let refuse = |reason: &str| FormatError::tensor(path, &tensor.name, reason);
        if is_linear(&tensor.name) && tensor.kind != TensorKind::Ternary {
            return Err(refuse("is not ternary, and a burnpack file holds trits").into());
        }
        let name =
            |name: &str| names::path_of(name, plan.two_sided).ok_or_else(|| refuse("has no place in the module"));
        named.push((name(&tensor.name)?, 2));
        if tensor.kind == TensorKind::Ternary {
            named.push((name(&scale_of(&tensor.name))?, 2));
        }
    }
    let file = File { path, options: *options, two_sided: plan.two_sided };
    let texts = file.texts(model)?;
    // The number of columns that share a scale, which the data tells.
    let more = GROUP_SIZE.len() + 32;
    let mut out = Writer::create(path, overwrite, texts, more, named.into_iter())?;
    let mut group = None;
    for tensor in &model.tensors {
        let data = data(tensor)?;
        match tensor.kind {
            TensorKind::Ternary => {
                file.write_matrix(tensor, encode::matrix(path, tensor, data)?, &mut group, &mut out)?
            }
            _ => file.write(tensor, data, &mut out)?,
        }
    }
    if let Some(size) = group {
        out.text(GROUP_SIZE, size.to_string());
    }
    Ok(Draft::file(out.finish_unnamed()?))
}

struct File<'a> {
    path: &'a Path,
    options: BurnpackOptions,
    two_sided: bool,
}

impl File<'_> {
    fn texts(&self, model: &Model) -> Result<BTreeMap<String, String>, FormatError> {
        // Scales multiply here, and norms have nothing added.
        let config = ModelConfig { weight_scale: ScaleDirection::Multiply, norm_offset: 0.0, ..model.config.clone() };
        let mut texts = BTreeMap::from([
            ("format".to_string(), "burnpack".to_string()),
            ("producer".to_string(), "bitnet".to_string()),
            ("version".to_string(), env!("CARGO_PKG_VERSION").to_string()),
            ("bitnet.name".to_string(), model.name.clone()),
            (CONFIG.to_string(), to_burnpack(&config)),
        ]);
        for (name, key) in DENSE_TYPES {
            if let Some(tensor) = model.tensors.iter().find(|tensor| tensor.name == name) {
                texts.insert(key.to_string(), self.dense_type(tensor).to_string());
            }
        }
        for (name, bytes) in hugging_face::tokenizer_files(self.path, model)? {
            let text = String::from_utf8(bytes).map_err(|_| {
                FormatError::unsupported(self.path, format!("a {name} that is not UTF-8 in a burnpack file"))
            })?;
            texts.insert(name.to_string(), text);
        }
        if let Some(embedding) = &model.embedding {
            for (name, json) in sentence_transformers::files(self.path, embedding, &model.config)? {
                let text = hugging_face_config::pretty(&json);
                texts.insert(name.to_string(), String::from_utf8_lossy(&text).into_owned());
            }
        }
        Ok(texts)
    }

    /// What a matrix of floats is stored as.
    fn dense_type(&self, tensor: &Tensor) -> StorageType {
        match tensor.kind {
            TensorKind::Stored(dtype) => dtype,
            _ => self.options.floats,
        }
    }

    fn name(&self, name: &str) -> Result<String, FormatError> {
        names::path_of(name, self.two_sided)
            .ok_or_else(|| FormatError::tensor(self.path, name, "has no place in the module"))
    }

    fn write(&self, tensor: &Tensor, data: TensorData, out: &mut Writer) -> Result<(), FormatError> {
        let path = self.name(&tensor.name)?;
        // A norm is a vector of F32; the rows of a matrix are bytes.
        let (dtype, stored, shape) = match &tensor.shape[..] {
            &[rows, cols] => {
                let dtype = self.dense_type(tensor);
                let row = dtype.byte_len(&[1, cols]).ok_or_else(|| {
                    FormatError::tensor(
                        self.path,
                        &tensor.name,
                        format!("has rows of {cols}, which {dtype} cannot store"),
                    )
                })?;
                (dtype, StorageType::U8, vec![rows, row])
            }
            shape => (StorageType::F32, StorageType::F32, shape.to_vec()),
        };
        let payload = Payload::plain(self.path, tensor, data, dtype)?;
        out.tensor(&path, stored, &shape, |out| payload.write_to(self.path, &tensor.name, out)).map_err(encode::cause)
    }

    fn write_matrix(
        &self,
        tensor: &Tensor,
        matrix: TernaryMatrix,
        group: &mut Option<usize>,
        out: &mut Writer,
    ) -> Result<(), FormatError> {
        let (rows, cols, words, scale) = matrix.into_parts();
        let (values, shape) = match scale {
            Scale::Tensor(scale) => (vec![scale], [1, 1]),
            Scale::Row(values) => (values, [rows, 1]),
            Scale::Group { size, values } => {
                if *group.get_or_insert(size) != size {
                    let reason =
                        format!("has scales in groups of {size}: a burnpack file has one size for all linears");
                    return Err(FormatError::tensor(self.path, &tensor.name, reason));
                }
                (values, [rows, cols.div_ceil(size)])
            }
        };
        let words_name = self.name(&tensor.name)?;
        let words_shape = [rows, words_per_row(cols)];
        out.tensor(&words_name, StorageType::U32, &words_shape, |out| {
            let mut bytes = Vec::with_capacity(4 * CHUNK);
            words.chunks(CHUNK).try_for_each(|words| {
                bytes.clear();
                bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
                out.write_all(&bytes)
            })
        })?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        out.tensor(&self.name(&scale_of(&tensor.name))?, StorageType::F32, &shape, |out| out.write_all(&bytes))
    }
}

/// Words that are written at once.
const CHUNK: usize = 1 << 16;

/// The name of a linear's scale.
fn scale_of(name: &str) -> String {
    format!("{name}_scale")
}
