#!/usr/bin/env python3
"""Loads an exported Hugging Face folder in transformers and prints, as one JSON object, its loss and what it generates.

    python3 -m venv target/oracle
    target/oracle/bin/pip install torch transformers safetensors accelerate tokenizers
    target/oracle/bin/python training/oracle/load_export.py FOLDER --text heldout.txt --prompt "The whale"

The loss is the mean over all predicted tokens, in nats, without a BOS: the text is cut into consecutive windows of
--context tokens, each position predicts the next token, and a last window that is not full is left out. Generation is
greedy, from the prompt's ids as the folder's tokenizer gives them, and stops at none of its stop tokens; `gaps` are the
distances between the two best logits, small where another order of additions may choose the other.
"""

import argparse
import json
import os
import pathlib
import sys

# BitNet's layers ask to be compiled, which takes longer than to run them.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import torch
import transformers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="config.json, model.safetensors, tokenizer.json")
    parser.add_argument("--text", type=pathlib.Path, help="text file to compute the loss over")
    parser.add_argument("--context", type=int, help="tokens a window (default: the model's own)")
    parser.add_argument("--prompt", action="append", default=[], help="text to continue; may be repeated")
    parser.add_argument("--tokens", type=int, default=64, help="tokens to generate after each prompt")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=1, help="0 leaves it to torch")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    dtype = getattr(torch, args.dtype)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        args.folder, dtype=dtype, output_loading_info=True
    )
    # transformers leaves what is beside packed linears in the file's type. Its own `to` refuses quantized models.
    torch.nn.Module.to(model, dtype).eval()
    refuse_unless_whole(loading)

    report = {
        "class": type(model).__name__,
        "linear": type(model.get_decoder().layers[0].mlp.up_proj).__name__,
        "dtype": args.dtype,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    with torch.inference_mode():
        if args.text:
            ids = tokenizer(args.text.read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
            context = args.context or model.config.max_position_embeddings
            report |= loss(model, torch.tensor(ids), context)
        report["prompts"] = [continuation(model, tokenizer, prompt, args.tokens) for prompt in args.prompt]
    json.dump(report, sys.stdout, indent=1, ensure_ascii=False)
    print()


def refuse_unless_whole(loading):
    """A missing tensor would be filled with random numbers, a surplus one left out: both only with a warning."""
    # A tied head is no tensor of its own.
    missing = [key for key in loading["missing_keys"] if key != "lm_head.weight"]
    for what, keys in [("missing", missing), ("unexpected", loading["unexpected_keys"]), ("of another shape", loading["mismatched_keys"])]:
        if keys:
            sys.exit(f"{len(keys)} tensors are {what}, such as {sorted(keys, key=str)[0]}")


def loss(model, ids, context):
    windows = (len(ids) - 1) // context
    if windows == 0:
        sys.exit(f"{len(ids)} tokens are less than a window of {context} and the token after it")
    nats = 0.0
    for start in range(0, windows * context, context):
        logits = model(ids[None, start : start + context]).logits[0].float()
        targets = ids[start + 1 : start + 1 + context]
        nats += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").double().item()
    tokens = windows * context
    return {"loss": nats / tokens, "nats": nats, "tokens": tokens, "context": context}


def continuation(model, tokenizer, prompt, count):
    ids = tokenizer(prompt)["input_ids"]
    greedy, gaps, cache, last = [], [], None, torch.tensor([ids])
    for _ in range(count):
        output = model(last, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        best = output.logits[0, -1].float().topk(2)
        greedy.append(best.indices[0].item())
        gaps.append(round((best.values[0] - best.values[1]).item(), 5))
        last = best.indices[:1][None]
    return {"text": prompt, "ids": ids, "greedy": greedy, "greedy_text": tokenizer.decode(greedy), "gaps": gaps}


if __name__ == "__main__":
    main()
