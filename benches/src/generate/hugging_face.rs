//! A model as a Hugging Face folder like microsoft/bitnet-b1.58-2B-4T: packed linears, each with its scale beside, or masters
//! in BF16.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use bitnet_ternary::{Packing, TernaryMatrix};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};

use super::{
    Architecture, Embedding, Format, GenerateError, RMS_NORM_EPS, ROPE_THETA, RandomModel, Role, Storage, Tensor,
    tokenizer_json,
};

/// Every file of the folder.
const FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// Writes the folder, in place of an older generated one if there is one; see [`write_model`](super::write_model).
pub(super) fn write(
    model: &RandomModel,
    storage: Storage,
    path: &Path,
    overwrite: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), GenerateError> {
    let Storage { embedding, architecture, format } = storage;
    if architecture != Architecture::BitnetB158 {
        return Err(GenerateError::NotInFolder { what: "the architecture `bitnet`" });
    }
    let dtype = dtype(embedding).ok_or(GenerateError::NotInFolder { what: "a Q6_K embedding" })?;
    refuse_foreign(path)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let wrap = |error| GenerateError::io(path, error);
    // What is not moved away from here in the end is removed: an unfinished folder, or the one that was replaced.
    let workshop = tempfile::Builder::new().prefix(".model-").tempdir_in(parent).map_err(wrap)?;
    let (new, old) = (workshop.path().join("new"), workshop.path().join("old"));
    fs::create_dir(&new).map_err(wrap)?;
    write_json(&new.join("config.json"), &config(model, format, dtype))?;
    write_json(&new.join("tokenizer_config.json"), &tokenizer_json::config(&model.vocabulary))?;
    tokenizer_json::write(&model.vocabulary, &new.join("tokenizer.json"))?;
    write_tensors(model, format, embedding, &new.join("model.safetensors"), progress)?;

    // Without a folder to replace, renaming fails on anything that has come to be there meanwhile.
    if overwrite && path.symlink_metadata().is_ok() {
        refuse_foreign(path)?;
        fs::rename(path, &old).map_err(wrap)?;
    }
    fs::rename(&new, path).map_err(|error| {
        // Fails when nothing was moved away.
        let _ = fs::rename(&old, path);
        wrap(error)
    })
}

/// What the embedding is in safetensors, which have no blocks.
fn dtype(embedding: Embedding) -> Option<Dtype> {
    match embedding {
        Embedding::F16 => Some(Dtype::F16),
        Embedding::Bf16 => Some(Dtype::BF16),
        Embedding::Q6K => None,
    }
}

/// Refuses to replace anything but a folder that holds nothing but files of these names.
fn refuse_foreign(path: &Path) -> Result<(), GenerateError> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    let refuse = |reason| GenerateError::NotAModel { path: path.to_path_buf(), reason };
    if !path.is_dir() {
        return Err(refuse("it is not a folder".to_string()));
    }
    let wrap = |error| GenerateError::io(path, error);
    for entry in fs::read_dir(path).map_err(wrap)? {
        let name = entry.map_err(wrap)?.file_name();
        if !FILES.iter().any(|file| *file == name) {
            return Err(refuse(format!("it holds {}, which is not of a generated model", name.display())));
        }
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), GenerateError> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| GenerateError::io(path, error))?;
    fs::write(path, text).map_err(|error| GenerateError::io(path, error))
}

/// `config.json` with the keys of 2B-4T's, but for those that point to Python code in the folder.
fn config(model: &RandomModel, format: Format, dtype: Dtype) -> Value {
    let RandomModel { shape, vocabulary, .. } = model;
    json!({
        "architectures": ["BitNetForCausalLM"],
        "bos_token_id": vocabulary.begin_of_text(),
        "eos_token_id": vocabulary.end_of_text(),
        "hidden_act": "relu2",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.context,
        "model_type": "bitnet",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "quantization_config": {
            "linear_class": "autobitlinear",
            "quant_method": "bitnet",
            "quantization_mode": if format == Format::HfMaster { "online" } else { "offline" },
        },
        "rms_norm_eps": RMS_NORM_EPS,
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": true,
        "torch_dtype": if dtype == Dtype::F16 { "float16" } else { "bfloat16" },
        "use_cache": true,
        "vocab_size": vocabulary.size(),
    })
}

/// A tensor as it will be in the file.
struct Stored<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    source: &'a Tensor,
}

/// What there is to store, in the order of the `safetensors` crate: wider types first, then by name.
fn stored(tensors: &[Tensor], format: Format, embedding: Dtype) -> Vec<Stored<'_>> {
    let mut list = Vec::with_capacity(2 * tensors.len());
    for source in tensors {
        let mut push = |name, dtype, shape| list.push(Stored { name, dtype, shape, source });
        match source.role {
            Role::Embedding => push(source.name(), embedding, vec![source.rows, source.cols]),
            Role::Linear if format == Format::HfMaster => {
                push(source.name(), Dtype::BF16, vec![source.rows, source.cols]);
            }
            Role::Norm => push(source.name(), Dtype::BF16, vec![source.cols]),
            Role::Linear => {
                push(source.name(), Dtype::U8, vec![source.rows.div_ceil(4), source.cols]);
                push(format!("{}.weight_scale", source.module), Dtype::BF16, vec![1]);
            }
        }
    }
    list.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    list
}

fn write_tensors(
    model: &RandomModel,
    format: Format,
    embedding: Embedding,
    path: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<(), GenerateError> {
    let tensors = model.tensors();
    let stored = stored(&tensors, format, dtype(embedding).unwrap_or(Dtype::BF16));
    let wrap = |error| GenerateError::io(path, error);
    let file = File::create_new(path).map_err(wrap)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&header(&stored, path)?).map_err(wrap)?;
    for Stored { name, dtype, source, .. } in stored {
        let linear = || model.linear(source).map_err(|source| GenerateError::ternary(&name, source));
        match (source.role, dtype) {
            (Role::Embedding, _) => {
                model.write_floats(source, embedding, &mut out, progress).map_err(wrap)?;
                continue;
            }
            (Role::Linear, _) if format == Format::HfMaster => {
                model.write_floats(source, Embedding::Bf16, &mut out, progress).map_err(wrap)?;
                continue;
            }
            (Role::Norm, _) => out.write_all(&bf16::ONE.to_le_bytes().repeat(source.cols)).map_err(wrap)?,
            (Role::Linear, Dtype::U8) => {
                let packed = Packing::HfPacked.encode(&linear()?);
                let packed = packed.map_err(|source| GenerateError::ternary(&name, source))?;
                out.write_all(&packed).map_err(wrap)?;
            }
            (Role::Linear, _) => {
                out.write_all(&weight_scale(&linear()?)).map_err(wrap)?;
                continue;
            }
        }
        progress(source.weights());
    }
    let file = out.into_inner().map_err(|error| wrap(error.into_error()))?;
    file.sync_all().map_err(wrap)
}

/// The header's length, the header, and spaces up to a multiple of 8.
fn header(stored: &[Stored<'_>], path: &Path) -> Result<Vec<u8>, GenerateError> {
    let mut end = 0;
    let infos = stored.iter().map(|tensor| {
        let begin = end;
        end += tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
        let info = TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets: (begin, end) };
        (tensor.name.clone(), info)
    });
    let about = HashMap::from([("format".to_string(), "pt".to_string())]);
    let metadata = Metadata::new(Some(about), infos.collect())
        .map_err(|source| GenerateError::Safetensors { path: path.to_path_buf(), source })?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| GenerateError::io(path, error))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([&(json.len() as u64).to_le_bytes(), &json[..]].concat())
}

/// `weight_scale` of an `autobitlinear`: the multiplier, which is a bf16 value.
fn weight_scale(matrix: &TernaryMatrix) -> Vec<u8> {
    matrix.scale().values().iter().flat_map(|scale| bf16::from_f32(*scale).to_le_bytes()).collect()
}
