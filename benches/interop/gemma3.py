#!/usr/bin/env python3
"""Writes a random Gemma 3 whose linears are ternary, which llama.cpp can run: nothing before a linear, float activations.

    gemma3.py OUT TOKENIZER     # a folder with Gemma's tokenizer.json of at most 128 tokens: crates/fixtures/data/families/embedding-gemma3
    bitnet convert OUT gemma3.gguf --to q2_0 --embd f32
    bitnet score TEXT --model gemma3.gguf --window 96 --bos --skip 48
    llama-perplexity -m gemma3.gguf -f TEXT -c 96

Needs torch and safetensors.
"""

import json
import pathlib
import shutil
import sys

import torch
from safetensors.torch import save_file

HIDDEN, INNER, LAYERS, HEADS, HEAD, VOCAB, GROUP = 256, 512, 6, 4, 64, 128, 64
CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "head_dim": HEAD,
    "query_pre_attn_scalar": HEAD,
    "vocab_size": VOCAB,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 128,
    "layer_types": ["sliding_attention"] * (LAYERS - 1) + ["full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    },
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
LINEARS = {
    "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
    "self_attn.k_proj": (HEAD, HIDDEN),
    "self_attn.v_proj": (HEAD, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
NORMS = {
    "input_layernorm": HIDDEN,
    "post_attention_layernorm": HIDDEN,
    "pre_feedforward_layernorm": HIDDEN,
    "post_feedforward_layernorm": HIDDEN,
    "self_attn.q_norm": HEAD,
    "self_attn.k_norm": HEAD,
}


def halves(*shape, scale):
    """Random numbers that F16 holds."""
    return (torch.randn(shape) * scale).half().float()


def ternary(rows, columns):
    """Trits with an F16 scale for each group."""
    trits = torch.randint(-1, 2, (rows, columns // GROUP, GROUP)).float()
    scales = (torch.rand(rows, columns // GROUP, 1) * 0.05 + 0.02).half().float()
    return (trits * scales).reshape(rows, columns)


def main():
    out, tokenizer = map(pathlib.Path, sys.argv[1:3])
    torch.manual_seed(0)
    tensors = {"model.embed_tokens.weight": halves(VOCAB, HIDDEN, scale=0.15)}
    tensors["model.norm.weight"] = halves(HIDDEN, scale=0.3)
    for layer in range(LAYERS):
        for name, shape in LINEARS.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = ternary(*shape)
        for name, width in NORMS.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = halves(width, scale=0.3)
    out.mkdir()
    (out / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    for file in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(tokenizer / file, out / file)


if __name__ == "__main__":
    main()
