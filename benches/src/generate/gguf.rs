//! A model as a GGUF file like the official one of BitNet b1.58 2B-4T.

use std::path::Path;

use bitnet_format::gguf::Writer;
use bitnet_format::{StorageType, names};
use bitnet_ternary::Packing;

use super::{FloatType, GenerateError, RMS_NORM_EPS, ROPE_THETA, RandomModel, Role, Tensor};

const ARCHITECTURE: &str = "bitnet-b1.58";

/// Like the template in the official file, one that the model was not tuned on. Readers know to replace it.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}\
    {{ 'Human: ' + message['content'] + '\n\nBITNETAssistant: ' + eos_token }}{% else %}\
    {{ message['content'] + eos_token }}{% endif %}{% endfor %}";

/// `tokenizer.ggml.token_type` of an ordinary token, and of a control token.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Writes the file; see [`write_model`](super::write_model).
pub(super) fn write(
    model: &RandomModel,
    packing: Packing,
    embedding: FloatType,
    path: &Path,
    overwrite: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), GenerateError> {
    if path.extension().is_none_or(|extension| extension != "gguf") {
        return Err(GenerateError::Name { path: path.to_path_buf() });
    }
    if path.is_dir() {
        return Err(GenerateError::NotAModel { path: path.to_path_buf(), reason: "it is a folder".to_string() });
    }
    let tensors: Vec<(String, Tensor)> = model
        .tensors()
        .into_iter()
        .map(|tensor| (names::hf_to_gguf(&tensor.name()).unwrap_or_else(|| tensor.name()), tensor))
        .collect();
    let mut writer = Writer::new();
    put_metadata(&mut writer, model, packing)?;
    for (name, tensor) in &tensors {
        match tensor.role {
            Role::Embedding => writer.tensor(name, embedding.into(), &[tensor.rows, tensor.cols])?,
            Role::Norm => writer.tensor(name, StorageType::F32, &[tensor.cols])?,
            Role::Linear => writer.tensor(name, StorageType::Ternary(packing), &[tensor.rows, tensor.cols])?,
        };
    }
    let mut out = writer.create(path, overwrite)?;
    for (name, tensor) in &tensors {
        match tensor.role {
            Role::Embedding => {
                out.write_with(name, |out| model.write_embedding(tensor, embedding, out, progress))?;
                continue;
            }
            Role::Norm => out.write(name, &1f32.to_le_bytes().repeat(tensor.cols))?,
            Role::Linear => {
                let packed = model.linear(tensor).and_then(|matrix| packing.encode(&matrix));
                out.write(name, &packed.map_err(|source| GenerateError::ternary(name, source))?)?;
            }
        }
        progress(tensor.weights());
    }
    Ok(out.finish()?)
}

/// The official file's keys in its order. Like it, a file with a vocabulary of the real size does not name its
/// pre-tokenizer; one with another has to.
fn put_metadata(writer: &mut Writer, model: &RandomModel, packing: Packing) -> Result<(), GenerateError> {
    let RandomModel { shape, vocabulary, .. } = model;
    let own = |key: &str| format!("{ARCHITECTURE}.{key}");
    let file_type = if packing == Packing::Tq2_0 { 37u32 } else { 40 };
    let tokens: Vec<String> =
        vocabulary.words().iter().cloned().chain(vocabulary.specials().map(|(_, token)| token)).collect();
    let mut types = vec![NORMAL; vocabulary.words().len()];
    types.resize(tokens.len(), CONTROL);

    writer.metadata("general.architecture", ARCHITECTURE)?;
    writer.metadata("general.name", format!("random-{}", shape.name))?;
    for (key, size) in [
        ("vocab_size", tokens.len()),
        ("context_length", shape.context),
        ("embedding_length", shape.hidden),
        ("block_count", shape.layers),
        ("feed_forward_length", shape.ffn),
        ("rope.dimension_count", shape.head_dim()),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
    ] {
        writer.metadata(&own(key), size as u32)?;
    }
    writer.metadata("tokenizer.ggml.add_bos_token", true)?;
    writer.metadata(&own("attention.layer_norm_rms_epsilon"), RMS_NORM_EPS as f32)?;
    writer.metadata(&own("rope.freq_base"), ROPE_THETA as f32)?;
    writer.metadata("general.file_type", file_type)?;
    writer.metadata("tokenizer.ggml.model", "gpt2")?;
    if !vocabulary.is_real_size() {
        writer.metadata("tokenizer.ggml.pre", "llama-bpe")?;
    }
    let scores = vec![0f32; tokens.len()];
    writer.metadata("tokenizer.ggml.tokens", tokens)?;
    writer.metadata("tokenizer.ggml.scores", scores)?;
    writer.metadata("tokenizer.ggml.token_type", types)?;
    writer.metadata("tokenizer.ggml.merges", vocabulary.merges().to_vec())?;
    writer.metadata("tokenizer.ggml.bos_token_id", vocabulary.begin_of_text() as u32)?;
    writer.metadata("tokenizer.ggml.eos_token_id", vocabulary.end_of_text() as u32)?;
    writer.metadata("tokenizer.ggml.padding_token_id", vocabulary.end_of_text() as u32)?;
    writer.metadata("tokenizer.chat_template", CHAT_TEMPLATE)?;
    writer.metadata("general.quantization_version", 2u32)?;
    Ok(())
}

impl From<FloatType> for StorageType {
    fn from(float: FloatType) -> Self {
        match float {
            FloatType::F16 => Self::F16,
            FloatType::Bf16 => Self::BF16,
        }
    }
}
