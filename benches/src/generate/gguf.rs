//! A model as a GGUF file like the official one of BitNet b1.58 2B-4T.

use std::path::Path;

use bitnet_format::gguf::Writer;
use bitnet_format::{StorageType, names};
use bitnet_ternary::Packing;

use super::{Architecture, GenerateError, RMS_NORM_EPS, ROPE_THETA, RandomModel, Role, Storage, Tensor};

/// Like the template in the official file, one that the model was not tuned on. Readers know to replace it.
const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}\
    {{ 'Human: ' + message['content'] + '\n\nBITNETAssistant: ' + eos_token }}{% else %}\
    {{ message['content'] + eos_token }}{% endif %}{% endfor %}";

/// `tokenizer.ggml.token_type` of an ordinary token, and of a control token.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// A file to write.
pub(super) struct File<'a> {
    pub model: &'a RandomModel,
    /// How linears are packed.
    pub packing: Packing,
    /// What the file says of how they are packed.
    pub file_type: u32,
    pub storage: Storage,
}

impl File<'_> {
    /// Writes it; see [`write_model`](super::write_model).
    pub(super) fn write(
        &self,
        path: &Path,
        overwrite: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), GenerateError> {
        let Self { model, packing, storage: Storage { embedding, .. }, .. } = *self;
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
        self.put_metadata(&mut writer)?;
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
                    out.write_with(name, |out| model.write_floats(tensor, embedding, out, progress))?;
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
    fn put_metadata(&self, writer: &mut Writer) -> Result<(), GenerateError> {
        let RandomModel { shape, vocabulary, .. } = self.model;
        let architecture = self.storage.architecture;
        let own = |key: &str| format!("{}.{key}", architecture.name());
        let tokens: Vec<String> =
            vocabulary.words().iter().cloned().chain(vocabulary.specials().map(|(_, token)| token)).collect();
        let mut types = vec![NORMAL; vocabulary.words().len()];
        types.resize(tokens.len(), CONTROL);

        writer.metadata("general.architecture", architecture.name())?;
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
        writer.metadata("general.file_type", self.file_type)?;
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
        // By its name alone a `bitnet` is one with SiLU.
        if architecture == Architecture::Bitnet {
            writer.metadata(&own("hidden_activation"), "relu2")?;
        }
        Ok(())
    }
}
