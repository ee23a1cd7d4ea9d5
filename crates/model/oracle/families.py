#!/usr/bin/env python3
"""Writes a small random model of each public ternary family, and what transformers computes from it in f32.

    python families.py DATA [NAME ...]       see README.md; DATA is crates/fixtures/data/families

Every model is one of transformers' own classes with transformers' own BitNet layers, loaded by `from_pretrained` from a
folder. What is written has the names and keys under which the family is published, where those differ.
"""

import argparse
import json
import os
import pathlib
import shutil
import tempfile

# BitNet's layers ask to be compiled, which takes longer than to run them.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import torch
import transformers
from safetensors.torch import save_file
from transformers.integrations import bitnet

import tokenizers_of
from margins import watched

TOKENS, GREEDY, KEPT = 24, 12, 8
TEXTS = ["the whale", "a ship and the sea, and the white whale under it", "Call me so."]


class Family:
    """A model class, its sizes, and how its tensors are stored.

    storage: `packed` (trits in uint8 with a scale), `masters` (floats that the layers quantize), `row` or `group` (floats
    that are trits times a scale). publish changes transformers' names to those of the family; embeds is the tokenizer of an
    embedding model.
    """

    def __init__(self, config, storage, dtype=torch.bfloat16, quantization=None, publish=None, embeds=None):
        self.config, self.storage, self.dtype, self.quantization = config, storage, dtype, quantization
        self.publish, self.embeds = publish, embeds


# What the small models have in common.
SIZES = dict(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
COMMON = SIZES | dict(num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=0, pad_token_id=None)


def llama(**more):
    return transformers.LlamaConfig(**(COMMON | dict(architectures=["LlamaForCausalLM"], tie_word_embeddings=False) | more))


def bitnet_b158(**more):
    own = dict(architectures=["BitNetForCausalLM"], tie_word_embeddings=True, rms_norm_eps=1e-5)
    return transformers.BitNetConfig(**(COMMON | own | more))


def qwen3(**more):
    own = dict(architectures=["Qwen3ForCausalLM"], tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters=rope(1e6))
    return transformers.Qwen3Config(**(COMMON | own | more))


def gemma3(**more):
    """Three layers, of which the last sees everything and the others eight tokens."""
    own = dict(architectures=["Gemma3TextModel"], bos_token_id=2, eos_token_id=1, query_pre_attn_scalar=24)
    layers = dict(sliding_window=8, layer_types=["sliding_attention", "sliding_attention", "full_attention"])
    return transformers.Gemma3TextConfig(**(COMMON | own | layers | dict(num_hidden_layers=3) | more))


def rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta} | more


def publish_1bitllm(tensors, config):
    """The names of 1bitLLM's own modeling code, which transformers does not have."""
    config |= {"architectures": ["BitnetForCausalLM"], "weight_bits": 1, "input_bits": 8, "model_type": "llama"}
    del config["quantization_config"]
    rename(tensors, "attn_sub_norm", "inner_attn_ln")
    rename(tensors, "ffn_sub_norm", "ffn_layernorm")


def publish_embedding(tensors, config):
    """A norm before each linear goes by `norm`, and nothing is said of the quantization."""
    del config["quantization_config"]
    rename(tensors, ".rms_norm.", ".norm.")


def rename(tensors, part, other):
    for name in [name for name in tensors if part in name]:
        tensors[name.replace(part, other)] = tensors.pop(name)


MASTERS = dict(linear_class="autobitlinear", quantization_mode="online")
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)

FAMILIES = {
    "bitnet-2b-4t": Family(
        bitnet_b158(rope_parameters=rope(5e5)),
        "packed",
        quantization=dict(linear_class="autobitlinear", quantization_mode="offline"),
    ),
    "llama-bitlinear": Family(llama(rope_parameters=rope(1000042.0)), "packed", quantization={}),
    "falcon-e": Family(
        llama(head_dim=32, rope_parameters=rope(1000042.0), is_bitnet_config=True),
        "packed",
        quantization=dict(modules_to_not_convert=["lm_head"]),
    ),
    "1bitllm": Family(
        # 44 columns are neither whole words nor whole blocks; 44 * 32 values are whole blocks of I2_S.
        bitnet_b158(
            vocab_size=tokenizers_of.SENTENCEPIECE_SIZE, hidden_size=32, intermediate_size=44, num_attention_heads=2,
            hidden_act="silu", rope_parameters=rope(1e4), bos_token_id=1, eos_token_id=2,
        ),
        "masters",
        torch.float16,
        MASTERS,
        publish_1bitllm,
    ),
    "linear-norms": Family(
        llama(rope_parameters=rope(5e5, **LLAMA3, original_max_position_embeddings=64), rms_norm_eps=1e-5),
        "packed",
        quantization=dict(use_rms_norm=True, rms_norm_eps=1e-6),
    ),
    "trilm": Family(
        llama(hidden_size=32, intermediate_size=48, num_attention_heads=2, rope_parameters=rope(1e4)), "row", torch.float16
    ),
    "bonsai-unpacked": Family(
        qwen3(num_hidden_layers=1, head_dim=16),
        "group:32",
        torch.float16,
    ),
    # Written as GGUF by gguf_files.py, which takes the floats away again.
    "bonsai-g64": Family(
        qwen3(intermediate_size=128, head_dim=32),
        "group:64",
        torch.float16,
    ),
    "bonsai-g128": Family(
        qwen3(hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_key_value_heads=1, head_dim=32),
        "group:128",
        torch.float16,
    ),
    "embedding-qwen3": Family(
        qwen3(architectures=["Qwen3Model"], hidden_size=32, intermediate_size=48, head_dim=16),
        "masters",
        quantization=MASTERS | dict(use_rms_norm=True, rms_norm_eps=1e-6),
        publish=publish_embedding,
        embeds="byte_level",
    ),
    "embedding-gemma3": Family(
        gemma3(hidden_size=32, intermediate_size=48, num_key_value_heads=1, head_dim=16),
        "masters",
        quantization=MASTERS | dict(use_rms_norm=True, rms_norm_eps=1e-6),
        publish=publish_embedding,
        embeds="gemma",
    ),
}


def random_tensors(family, seed):
    """A checkpoint's tensors, under transformers' names. Norms and embeddings are multiples of a power of two that F16 and
    BF16 both hold, so that no container rounds them."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = getattr(transformers, family.config.architectures[0])(family.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    if (family.quantization or {}).get("use_rms_norm"):
        for name in [name for name in shapes if is_linear(name)]:
            shapes[name.replace(".weight", ".rms_norm.weight")] = shapes[name][1:]
    tensors = {}
    for name, shape in shapes.items():
        if is_linear(name):
            tensors |= linear(name, torch.randn(shape) / shape[1] ** 0.5, family)
        elif len(shape) == 2:
            table = (torch.randn(shape) * 32).round().clamp(-127, 127) / 128
            # Bonsai's embeddings are ternary too.
            tensors |= linear(name, table, family) if family.storage.startswith("group") else {name: table}
        else:
            # Gemma3's own norms multiply by one more than their weight.
            centre = 0.0 if family.config.model_type == "gemma3_text" and ".rms_norm." not in name else 1.0
            tensors[name] = ((centre + torch.randn(shape) / 4) * 64).round().clamp(-112, 112) / 64
    stored = {name: t if t.dtype == torch.uint8 else t.to(family.dtype) for name, t in tensors.items()}
    return {name: t.contiguous() for name, t in stored.items()}


def linear(name, weight, family):
    """A linear's tensors in the family's storage."""
    if family.storage == "masters":
        return {name: weight}
    if family.storage == "packed":
        trits, scale = absmean(weight)
        multiplies = family.quantization.get("linear_class") == "autobitlinear"
        stored = (scale if multiplies else 1 / scale).reshape(1)
        return {name: bitnet.pack_weights(trits), name + "_scale": stored}
    if family.storage == "row":
        # As of models trained in parallel on several machines: a scale for each share of the rows.
        shares = weight.chunk(1 if "mlp" in name else 2, dim=0)
    else:
        shares = weight.split(int(family.storage.removeprefix("group:")), dim=1)
        shares = [group for share in shares for group in share.split(1, dim=0)]
    ternary = []
    for share in shares:
        trits, scale = absmean(share)
        ternary.append(trits * scale.half().float())
    if family.storage == "row":
        return {name: torch.cat(ternary)}
    columns = len(ternary) // weight.shape[0]
    rows = weight.shape[0]
    return {name: torch.cat([torch.cat(ternary[i * rows : (i + 1) * rows]) for i in range(columns)], dim=1)}


def absmean(weight):
    """Trits, and the scale that multiplies them."""
    scale = weight.double().abs().mean().float().clamp(min=1e-5)
    return (weight / scale).round().clamp(-1, 1), scale


def is_linear(name):
    return name.endswith("_proj.weight")


def write(folder, tensors, config):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def config_of(family):
    config = family.config.to_dict() | {"dtype": str(family.dtype).removeprefix("torch.")}
    config.pop("_sliding_window_pattern", None)
    if family.quantization is not None:
        config["quantization_config"] = {"quant_method": "bitnet"} | family.quantization
    return config


def load(folder, family):
    """What transformers makes of a folder, all of it in f32."""
    # For a model without a head, the class that has one: its head is the embedding.
    heads = {"Qwen3Model": transformers.Qwen3ForCausalLM, "Gemma3TextModel": transformers.Gemma3ForCausalLM}
    architecture = family.config.architectures[0]
    cls = heads.get(architecture) or getattr(transformers, architecture)
    model, loading = cls.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    missing = [key for key in loading["missing_keys"] if key != "lm_head.weight"]
    assert not missing and not loading["unexpected_keys"] and not loading["mismatched_keys"], loading
    # transformers leaves what is beside packed linears in the file's type. Its own `to` refuses quantized models.
    torch.nn.Module.to(model, torch.float32).eval()
    for module in model.modules():
        if isinstance(module, bitnet.BitLinear):
            module.dtype = torch.float32
    return model


def run(model, ids):
    """Logits of a text; and, for its first half, the tokens that follow, each time without a cache."""
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    text, greedy, gaps = list(ids[: len(ids) // 2]), [], []
    for _ in range(GREEDY):
        best = model(torch.tensor([text]), use_cache=False).logits[0, -1].topk(2)
        gaps.append(round((best.values[0] - best.values[1]).item(), 5))
        greedy.append(best.indices[0].item())
        text.append(greedy[-1])
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])).double().item()
    return {"ids": ids, "loss": loss, "greedy": greedy, "gaps": gaps}, {"logits": logits[-KEPT:].contiguous()}


def vectors(model, texts):
    """The last token's hidden state and the mean of all, after the last norm, each made one long."""
    rows = {"last": [], "mean": []}
    for ids in texts:
        hidden = model.get_decoder()(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        rows["last"].append(torch.nn.functional.normalize(hidden[-1], dim=0))
        rows["mean"].append(torch.nn.functional.normalize(hidden.mean(dim=0), dim=0))
    return {name: torch.stack(both).contiguous() for name, both in rows.items()}


def attempt(family, seed, folder):
    """One random model and what it computes; the margin says how near a code comes to a rounding tie."""
    tensors, config = random_tensors(family, seed), config_of(family)
    write(folder, tensors, config)
    model = load(folder, family)
    ids = torch.randint(3, 100, (TOKENS,)).tolist()
    with torch.inference_mode(), watched() as margins:
        said, computed = run(model, ids)
        if family.embeds:
            tokenizer, _ = getattr(tokenizers_of, family.embeds)()
            texts = [tokenizer.encode(text).ids + [family.config.eos_token_id] for text in TEXTS]
            said["texts"] = [{"text": text, "ids": ids} for text, ids in zip(TEXTS, texts)]
            computed |= vectors(model, texts)
    said |= {"seed": seed, "margin": margins.smallest, "class": type(model).__name__}
    return margins.smallest, seed, tensors, config, said, computed


def make(name, data, seeds):
    """Writes the family's model. Of so many seeds, the one whose codes are the farthest from being others: another order
    of additions turns none of them, so that what is computed elsewhere can be held to the last places."""
    family = FAMILIES[name]
    with tempfile.TemporaryDirectory() as folder:
        tries = (attempt(family, seed, pathlib.Path(folder)) for seed in range(seeds if uses_codes(family) else 1))
        best = max(tries, key=lambda attempt: attempt[0])
    _, seed, tensors, config, said, computed = best
    if family.publish:
        family.publish(tensors, config)
    folder = data / name
    shutil.rmtree(folder, ignore_errors=True)
    write(folder, tensors, config)
    save_file(computed, folder / "reference.safetensors")
    said |= {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    (folder / "reference.json").write_text(json.dumps(said, sort_keys=True) + "\n")
    if name == "1bitllm":
        save_tokenizer(folder, *tokenizers_of.llama())
    if family.embeds:
        save_tokenizer(folder, *getattr(tokenizers_of, family.embeds)())
        save_pooling(folder, config["hidden_size"])
    print(f"{name}: seed {seed}, margin {said['margin']:.1e}, loss {said['loss']:.4f}, least gap {min(said['gaps'])}")


def uses_codes(family):
    return family.storage in ("packed", "masters")


def save_tokenizer(folder, tokenizer, config):
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, sort_keys=True) + "\n")


def save_pooling(folder, width):
    """What sentence-transformers keeps beside a model whose last token stands for the text."""
    prefix = "sentence_transformers.models."
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [{"idx": i, "name": str(i), "path": path, "type": prefix + kind} for i, (path, kind) in enumerate(modules)]
    pooling = {"word_embedding_dimension": width, "pooling_mode_lasttoken": True, "include_prompt": True}
    pooling |= {f"pooling_mode_{mode}": False for mode in ["cls_token", "mean_tokens", "max_tokens"]}
    prompts = {"prompts": {"query": "so: ", "document": ""}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (folder / "1_Pooling").mkdir()
    for path, content in [("modules.json", listed), ("1_Pooling/config.json", pooling), ("config_sentence_transformers.json", prompts)]:
        (folder / path).write_text(json.dumps(content) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("names", nargs="*", choices=[*FAMILIES, []])
    parser.add_argument("--seeds", type=int, default=300)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    args.data.mkdir(parents=True, exist_ok=True)
    tokenizers_of.byte_level()[0].save(str(args.data / "tokenizer.json"), pretty=False)
    for name in args.names or FAMILIES:
        make(name, args.data, args.seeds)


if __name__ == "__main__":
    main()
