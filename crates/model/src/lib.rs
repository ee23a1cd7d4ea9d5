//! BitNet models as Burn modules: BitLinear, attention, transformer, KV cache, loading.
