//! Model files as named tensors: GGUF, safetensors, config.json, Hugging Face Hub.
