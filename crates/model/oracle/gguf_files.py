#!/usr/bin/env python3
"""Writes GGUF files of the models that families.py has written, as their publishers' converters lay them out.

    python gguf_files.py DATA

DATA/NAME/model.gguf has the weights of DATA/NAME/model.safetensors, so DATA/NAME/reference.json holds for both. Where only
the GGUF is published, the folder's own files are removed.
"""

import json
import pathlib
import struct
import sys

import numpy as np
import torch
from safetensors.torch import load_file
from transformers.integrations import bitnet

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TYPE_F32, TYPE_F16, TYPE_I2_S, TYPE_Q2_0 = 0, 1, 36, 42

# GGUF's names after `blk.N.`, and what transformers calls them after `layers.N.`.
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.inner_attn_ln": "attn_sub_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.ffn_layernorm": "ffn_sub_norm",
}
# In a model with norms on both sides, the one after attention has the name that others give to the one before the MLP.
GEMMA = PARTS | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OUTSIDE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}


def gguf_name(name, parts):
    body = name.removeprefix("model.").removesuffix(".weight")
    if body in OUTSIDE:
        return f"{OUTSIDE[body]}.weight"
    _, layer, part = body.split(".", 2)
    if part.endswith("_proj.norm"):
        return f"blk.{layer}.{parts[part.removesuffix('.norm')]}_norm_in.weight"
    return f"blk.{layer}.{parts[part]}.weight"


def i2_s(trits, scale):
    """Blocks of 128 in 32 bytes, the first 32 in the highest bits; then the scale in a tail of 32 bytes."""
    codes = (trits + 1).astype(np.uint8).reshape(-1, 4, 32)
    blocks = codes[:, 0] << 6 | codes[:, 1] << 4 | codes[:, 2] << 2 | codes[:, 3]
    return blocks.tobytes() + struct.pack("<f", scale) + bytes(28)


def q2_0(weight, group):
    """An F16 scale, then four codes a byte, the first in the lowest bits."""
    groups = weight.reshape(-1, group)
    scale = np.abs(groups).max(axis=1)
    codes = (np.sign(groups) + 1).astype(np.uint8).reshape(-1, group // 4, 4)
    packed = codes[..., 0] | codes[..., 1] << 2 | codes[..., 2] << 4 | codes[..., 3] << 6
    return b"".join(s.astype(np.float16).tobytes() + p.tobytes() for s, p in zip(scale, packed))


def interleaved(weight, heads):
    """The rows of Q or K in the order that llama.cpp's architecture `llama` rotates: pairs side by side."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def ternary(tensors, name, divides):
    """Trits and scale of a linear, packed or master."""
    weight = tensors[name]
    if weight.dtype == torch.uint8:
        stored = tensors[f"{name}_scale"].float().item()
        return bitnet.unpack_weights(weight, torch.float32).numpy(), 1 / stored if divides else stored
    scale = weight.double().abs().mean().float()
    return (weight.float() / scale).round().clamp(-1, 1).numpy(), scale.item()


def tensors_of(folder, config, architecture, group):
    """(name, shape, type, bytes) of each tensor."""
    tensors = load_file(folder / "model.safetensors")
    gemma = architecture == "gemma3"
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in tensors.items():
        if name.endswith("weight_scale"):
            continue
        gguf, floats = gguf_name(name, GEMMA if gemma else PARTS), tensor.float().numpy()
        if group and tensor.ndim == 2:
            yield gguf, floats.shape, TYPE_Q2_0, q2_0(floats, group)
        elif name.endswith("_proj.weight"):
            trits, scale = ternary(tensors, name, divides=True)
            kind = name.split(".")[-2]
            if architecture == "llama" and kind in heads:
                trits = interleaved(trits, heads[kind])
            yield gguf, trits.shape, TYPE_I2_S, i2_s(trits, scale)
        else:
            if gemma and floats.ndim == 1 and "_norm_in" not in gguf:
                floats = floats + 1
            half = floats.ndim == 2 or architecture in ("qwen3", "gemma3") and not group
            kept = floats.astype(np.float16 if half else np.float32)
            assert (kept.astype(np.float32) == floats).all(), f"{name} would be rounded"
            yield gguf, floats.shape, TYPE_F16 if half else TYPE_F32, kept.tobytes()


def vocabulary(tokenizer, config):
    """The `tokenizer.ggml` keys of a tokenizer.json."""
    by_id = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [token for token, _ in by_id]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    merges = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    kinds = [3 if t in special else 6 if t.startswith("<0x") else 1 for t in tokens]
    # A token for each row of the embedding, as programs want it.
    padding = [f"[PAD{id}]" for id in range(len(tokens), config["vocab_size"])]
    tokens, kinds = tokens + padding, kinds + [5] * len(padding)
    keys = {}
    if "▁" in tokens:
        # SentencePiece merges the pair of the highest score first.
        rank = {merge.replace(" ", ""): i for i, merge in enumerate(merges)}
        scores = [-float(rank.get(token, len(tokens))) for token in tokens]
        kinds = [2 if token == "<unk>" else kind for token, kind in zip(tokens, kinds)]
        keys |= {"model": (STRING, "llama"), "scores": (ARRAY, F32, scores), "add_bos_token": (BOOL, True)}
        keys |= {"add_space_prefix": (BOOL, "Prepend" in json.dumps(tokenizer["normalizer"]))}
    else:
        keys |= {"model": (STRING, "gpt2"), "pre": (STRING, "qwen2"), "merges": (ARRAY, STRING, merges)}
        keys |= {"add_bos_token": (BOOL, False)}
    keys |= {"tokens": (ARRAY, STRING, tokens), "token_type": (ARRAY, I32, kinds)}
    for name in ["bos", "eos"]:
        if config.get(f"{name}_token_id") is not None:
            keys[f"{name}_token_id"] = (U32, config[f"{name}_token_id"])
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def keys_of(folder, config, architecture, embeds):
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    ropes = config["rope_parameters"]
    own = {
        "vocab_size": (U32, config["vocab_size"]),
        "context_length": (U32, config["max_position_embeddings"]),
        "embedding_length": (U32, config["hidden_size"]),
        "block_count": (U32, config["num_hidden_layers"]),
        "feed_forward_length": (U32, config["intermediate_size"]),
        "attention.head_count": (U32, heads),
        "attention.head_count_kv": (U32, config["num_key_value_heads"]),
        "attention.key_length": (U32, head_dim),
        "attention.value_length": (U32, head_dim),
        "attention.layer_norm_rms_epsilon": (F32, config["rms_norm_eps"]),
        "rope.freq_base": (F32, ropes.get("full_attention", ropes)["rope_theta"]),
    }
    if "sliding_window" in config and config["sliding_window"]:
        layers = [kind == "sliding_attention" for kind in config["layer_types"]]
        own["attention.sliding_window"] = (U32, config["sliding_window"])
        own["attention.sliding_window_pattern"] = (ARRAY, BOOL, layers)
    if config.get("query_pre_attn_scalar", head_dim) != head_dim:
        own["attention.scale"] = (F32, config["query_pre_attn_scalar"] ** -0.5)
    if embeds:
        own["pooling_type"] = (U32, 3)
    source = folder if (folder / "tokenizer.json").exists() else folder.parent
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    named = {"general.architecture": (STRING, architecture)}
    own = {f"{architecture}.{key}": value for key, value in own.items()}
    more = {"tokenizer.ggml.add_eos_token": (BOOL, True)} if embeds else {}
    return named | own | vocabulary(tokenizer, config) | more


def encode(kind, value):
    if kind == ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(encode(inner, item) for item in items)
    if kind == STRING:
        return struct.pack("<Q", len(value.encode())) + value.encode()
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


def write(path, keys, tensors):
    """A GGUF file of version 3."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, (kind, *value) in keys.items():
        out += encode(STRING, key) + struct.pack("<I", kind) + encode(kind, value if kind == ARRAY else value[0])
    offset = 0
    for name, shape, kind, data in tensors:
        out += encode(STRING, name) + struct.pack("<I", len(shape))
        out += b"".join(struct.pack("<Q", size) for size in reversed(shape)) + struct.pack("<IQ", kind, offset)
        offset += -(-len(data) // 32) * 32
    pad = lambda data: data + bytes(-len(data) % 32)
    path.write_bytes(pad(out) + b"".join(pad(data) for *_, data in tensors))


def main():
    data = pathlib.Path(sys.argv[1])
    files = [
        ("1bitllm", "bitnet", None),
        ("falcon-e", "llama", None),
        ("bonsai-g64", "qwen3", 64),
        ("bonsai-g128", "qwen3", 128),
        ("embedding-qwen3", "qwen3", None),
        ("embedding-gemma3", "gemma3", None),
    ]
    for name, architecture, group in files:
        folder = data / name
        config = json.loads((folder / "config.json").read_text())
        keys = keys_of(folder, config, architecture, name.startswith("embedding"))
        tensors = list(tensors_of(folder, config, architecture, group))
        write(folder / "model.gguf", keys, tensors)
        if group:
            for file in ["model.safetensors", "config.json"]:
                (folder / file).unlink()
        print(f"{name}: {(folder / 'model.gguf').stat().st_size} bytes")


if __name__ == "__main__":
    main()
