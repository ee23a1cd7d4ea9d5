#!/usr/bin/env python3
"""Writes golden values and gradients of a ternary decoder's layers, computed by PyTorch in f32 on the CPU.

    python3 training/oracle/gradients.py crates/fixtures/data/training

README.md, beside this file, lists what is in the files. Before anything is written, every value is computed again: a
BitLinear's from its formulas in f64, the other layers' in f64, the model's by transformers. And no quantized value may
be so near to a rounding tie that another order of additions could tip it, except where ties are the case's subject.
"""

import argparse
import itertools
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import BitNetConfig, BitNetForCausalLM
from transformers.integrations.bitnet import AutoBitLinear

import reference

MARGIN = 1e-3
"""Least distance of a scaled weight or activation from a rounding tie."""

AGREEMENT = 2e-6
"""Largest difference that f64 may make, as a share of a tensor's largest magnitude."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="folder to write the files to")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for name, write in [("bit_linear", bit_linear), ("ops", ops), ("block", block), ("model", model)]:
        tensors, metadata = write()
        path = out / f"{name}.safetensors"
        # No two of a file's tensors may share memory.
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, path, metadata)
        print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes", file=sys.stderr)


def run(function, inputs, dy):
    """Outputs and the gradients of `inputs`, in the order of `inputs`; checked against the same in f64."""

    def once(dtype):
        leaves = [value.to(dtype, copy=True).requires_grad_() for value in inputs]
        y = function(*leaves)
        y.backward(torch.ones_like(y) if dy is None else dy.to(dtype))
        return y.detach(), [leaf.grad for leaf in leaves]

    single, double = once(torch.float32), once(torch.float64)
    for a, b in zip([single[0], *single[1]], [double[0], *double[1]]):
        check_close(a, b, AGREEMENT)
    return single


def check_close(a, b, share):
    difference = (a.double() - b.double()).abs().max().item()
    largest = b.abs().max().item()
    if difference > share * max(largest, 1e-30):
        raise SystemExit(f"{difference:.2e} apart where the largest value is {largest:.2e}")


def attempts():
    """Generators of random numbers, one for each try at values that are clear of ties."""
    return (torch.Generator().manual_seed(seed) for seed in itertools.count())


def normal(generator, *shape, std=1.0):
    return torch.randn(*shape, generator=generator) * std


def clear_weight(generator, rows, cols, granularity="tensor", dtype=torch.float32, std=0.05):
    """A random weight without values near a tie; those that are, are drawn again."""

    def draw():
        return normal(generator, rows, cols, std=std).to(dtype).float()

    weight = draw()
    while (near := reference.quantize_weight(weight, granularity)[2] < 2 * MARGIN).any():
        weight = torch.where(near, draw(), weight)
    return weight


# ---------------------------------------------------------------------------------------------- BitLinear


def bit_linear():
    tensors, described = {}, {}

    def add(name, x, weight, granularity="tensor", activations="int8", lambda_=1.0):
        dy = normal(torch.Generator().manual_seed(len(described)), x.shape[0], weight.shape[0])
        if "ties" not in name:
            margins = reference.Margins()
            reference.bit_linear(x, weight, granularity, activations, lambda_, margins)
            assert margins.least() > MARGIN, name
        case = bit_linear_case(x, weight, dy, granularity, activations, lambda_)
        tensors.update({f"{name}.{key}": value for key, value in case.items()})
        described[name] = {"granularity": granularity, "activations": activations, "lambda": lambda_}

    for name, granularity, tokens, cols, rows in [
        ("tensor", "tensor", 5, 48, 37),
        ("row", "row", 5, 40, 9),
        ("group", "group:32", 4, 80, 11),
        ("one_token", "tensor", 1, 33, 8),
        ("group_one_token", "group:32", 1, 32, 3),
    ]:
        add(name, *clear_case(tokens, cols, rows, granularity), granularity)
    x, weight = clear_case(3, 21, 6, "tensor")
    for percent in (0, 25, 100):
        add(f"lambda_{percent}", x, weight, lambda_=percent / 100)
    add("act_none", x, weight, activations="none")
    add("act_none_lambda_25", x, weight, activations="none", lambda_=0.25)
    for name, granularity in [("row", "row"), ("group", "group:32")]:
        x, weight = clear_case(3, 36, 5, granularity)
        add(f"{name}_lambda_25", x, weight, granularity, lambda_=0.25)
        add(f"{name}_act_none", x, weight, granularity, activations="none")

    x, weight = clear_case(4, 20, 6, "tensor")
    add("ties_activation", tied_activations(), weight)
    add("ties_weight", x, tied_weight())
    add("ties_weight_row", x, tied_weight_rows(), "row")
    add("zero_row", x * torch.tensor([1, 0, 1, 0])[:, None], weight)
    add("zero_weight", x, torch.zeros_like(weight))
    add("zero_weight_row", x, weight * torch.tensor([1, 0, 1, 1, 0, 1])[:, None], "row")
    # Below the floor of 1e-5 the scale no longer follows the values: few codes and trits are not zero.
    add("tiny_row", x * torch.tensor([1, 2e-6, 1e-7, 1])[:, None], weight)
    add("tiny_weight", x, weight * 1e-4)
    return tensors, {"cases": json.dumps(described)}


def clear_case(tokens, cols, rows, granularity):
    for generator in attempts():
        x = normal(generator, tokens, cols)
        if reference.quantize_activations(x)[2].min() > MARGIN:
            return x, clear_weight(generator, rows, cols, granularity)


def tied_activations():
    """Four tokens of 20 whose scaled values are `k + 0.5`, exactly or as near as f32 comes."""
    halves = torch.arange(20) - 9.5
    rows = []
    for largest in (127.0, 63.5, 1.0, 3.7):
        row = halves * torch.tensor(largest) / 127
        row[0] = largest
        rows.append(row)
    return torch.stack(rows)


def tied_weight():
    """`[6, 20]` with gamma 0.25 exactly, and weights at 0, 0.5, 1 and 1.5 gammas of either sign."""
    steps = torch.tensor([0.5, -0.5, 1.5, -1.5, 1, -1, 0, 2, 0.5, 1.5] * 2)
    weight = 0.25 * torch.stack([steps.roll(shift) for shift in range(6)])
    assert reference.gammas(weight, "tensor").item() == 0.25
    return weight


def tied_weight_rows():
    """`[6, 20]`, each row with weights at half its own gamma, or one step of f32 above or below.

    The gammas are chosen so that a step above times `1 / gamma` is 0.5 again, which rounds to 0, while the quotient by
    gamma is above 0.5 and would round to 1: multiplying and dividing give other trits.
    """
    rows, steps = [], torch.tensor([0.5, -0.5, 1.5, -1.5, 1, -1, 0, 2, 0.5, 1.5] * 2)
    for generator in attempts():
        # An even last place, so that one and a half gamma is a number of f32.
        gamma = torch.rand(1, generator=generator).mul(2**15).round().div(2**15).add(0.1)
        gamma = gamma.view(torch.int32).bitwise_and(~1).view(torch.float32)
        above = torch.nextafter(gamma / 2, gamma)
        if not ((above * (1 / gamma)).item() == 0.5 and (above / gamma).item() > 0.5):
            continue
        row = steps * gamma
        row[0], row[1] = above, -above
        row[8] = torch.nextafter(gamma / 2, torch.zeros(1))
        if reference.gammas(row[None], "row").item() == gamma.item():
            rows.append(row)
            if len(rows) == 6:
                return torch.stack(rows)


def bit_linear_case(x, weight, dy, granularity, activations, lambda_):
    """Value and gradients, with the integers and scales that lead to them."""

    def function(x, weight):
        return reference.bit_linear(x, weight, granularity, activations, lambda_)

    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    y = function(*leaves)
    y.backward(dy)
    dx, dweight = leaves[0].grad, leaves[1].grad

    trits, gamma, _ = reference.quantize_weight(weight, granularity)
    case = {"x": x, "weight": weight, "dy": dy, "y": y, "dx": dx, "dweight": dweight}
    case |= {"trits": trits.to(torch.int8), "gamma": gamma}
    x_used, weight_used = x, trits * reference.shared(gamma, weight, granularity)
    if activations == "int8":
        codes, multiplier, _ = reference.quantize_activations(x)
        case |= {"codes": codes.to(torch.int8), "s": multiplier[:, 0]}
        x_used = codes / multiplier
    # The straight-through estimator in so many words: each operand's gradient is that of its quantized value.
    x_used, weight_used = (v + lambda_ * (q - v) for v, q in ((x.double(), x_used), (weight.double(), weight_used)))
    check_close(y.detach(), x_used @ weight_used.T, AGREEMENT)
    check_close(dx, dy.double() @ weight_used, AGREEMENT)
    check_close(dweight, dy.double().T @ x_used, AGREEMENT)
    return case


# ---------------------------------------------------------------------------------------------- other layers


def ops():
    generator = torch.Generator().manual_seed(5)
    tensors = {}

    def add(name, function, inputs, constants=None, dy_shape=None):
        dy = None if dy_shape is None else normal(generator, *dy_shape)
        y, gradients = run(function, list(inputs.values()), dy)
        tensors.update({f"{name}.{key}": value for key, value in inputs.items()})
        tensors.update({f"{name}.{key}": value for key, value in (constants or {}).items()})
        tensors.update({f"{name}.d{key}": value for key, value in zip(inputs, gradients)})
        tensors[f"{name}.y"] = y
        if dy is not None:
            tensors[f"{name}.dy"] = dy

    x, weight = normal(generator, 5, 24, std=2.0), 1 + normal(generator, 24, std=0.3)
    add("rms_norm", reference.rms_norm, {"x": x, "weight": weight}, dy_shape=(5, 24))
    # One token of the size of the epsilon's root, and one of zeros.
    x = normal(generator, 2, 24, std=3e-3) * torch.tensor([[1.0], [0.0]])
    add("rms_norm_small", reference.rms_norm, {"x": x, "weight": weight}, dy_shape=(2, 24))

    for activation in ("relu2", "silu"):
        gate, up = normal(generator, 4, 18, std=2.0), normal(generator, 4, 18)
        gate[0, :3] = torch.tensor([0.0, 30.0, -30.0])
        add(
            f"gated_{activation}",
            lambda gate, up, activation=activation: reference.gated(gate, up, activation),
            {"gate": gate, "up": up},
            dy_shape=(4, 18),
        )

    at = torch.tensor([0, 1, 2, 0, 1, 300])
    x = normal(generator, 6, 3, 8)
    add("rope", lambda x: reference.rope(x, at), {"x": x}, {"positions": at}, dy_shape=(6, 3, 8))

    segments = [6, 1, 4]
    for name, heads, kv_heads in [("attention", 4, 2), ("attention_one_kv_head", 3, 1)]:
        sizes = {"q": heads, "k": kv_heads, "v": kv_heads}
        add(
            name,
            lambda q, k, v: reference.attention(q, k, v, segments),
            {key: normal(generator, sum(segments), n, 8) for key, n in sizes.items()},
            {"segments": torch.tensor(segments)},
            dy_shape=(sum(segments), heads, 8),
        )

    logits, targets = normal(generator, 7, 13, std=3.0), torch.randint(13, (7,), generator=generator)
    logits[2] *= 40
    mask = torch.tensor([1, 1, 1, 0, 1, 0, 1], dtype=torch.uint8)
    add(
        "cross_entropy",
        lambda logits: reference.masked_mean_loss(logits, targets, mask),
        {"logits": logits},
        {"targets": targets, "mask": mask},
    )
    return tensors, {"config": json.dumps({"eps": 1e-5, "theta": 10000.0})}


# ---------------------------------------------------------------------------------------------- block and model

SEGMENTS = [7, 5]


def clear_weights(generator, sizes):
    """Random parameters that bf16 holds exactly: matrices clear of ties, norms about one."""
    weights = {}
    for name, size in sizes.items():
        if len(size) == 1:
            weights[name] = (1 + normal(generator, *size, std=0.2)).bfloat16().float()
        elif name == "model.embed_tokens.weight":
            weights[name] = normal(generator, *size, std=0.25).bfloat16().float()
        else:
            weights[name] = clear_weight(generator, *size, dtype=torch.bfloat16)
    return weights


def block():
    shape = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96}
    prefix = "model.layers.0."
    sizes = reference.block_shapes(prefix, shape)
    weights = clear_weights(torch.Generator().manual_seed(0), sizes)
    for generator in attempts():
        x, margins = normal(generator, sum(SEGMENTS), shape["hidden"]), reference.Margins()
        reference.block(x, weights, prefix, shape, SEGMENTS, margins)
        if margins.least() > MARGIN:
            break
    dy = normal(generator, sum(SEGMENTS), shape["hidden"])

    def function(x, *values):
        return reference.block(x, dict(zip(sizes, values)), prefix, shape, SEGMENTS)

    y, (dx, *gradients) = run(function, [x, *weights.values()], dy)
    tensors = {"x": x, "dy": dy, "y": y, "dx": dx, "segments": torch.tensor(SEGMENTS)}
    return tensors | stored(weights, gradients), described(shape)


def model():
    shape = {"vocab": 61, "layers": 2, "hidden": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 40}
    sizes = {"model.embed_tokens.weight": (shape["vocab"], shape["hidden"])}
    for layer in range(shape["layers"]):
        sizes |= reference.block_shapes(f"model.layers.{layer}.", shape)
    sizes["model.norm.weight"] = (shape["hidden"],)
    weights = clear_weights(torch.Generator().manual_seed(1), sizes)
    for generator in attempts():
        ids, margins = torch.randint(shape["vocab"], (sum(SEGMENTS),), generator=generator), reference.Margins()
        logits = reference.model(ids, weights, shape, SEGMENTS, margins)
        if margins.least() > MARGIN:
            break
    targets = torch.randint(shape["vocab"], ids.shape, generator=generator)
    mask = torch.tensor([1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1], dtype=torch.uint8)

    def function(*values):
        logits = reference.model(ids, dict(zip(sizes, values)), shape, SEGMENTS)
        return reference.masked_mean_loss(logits, targets, mask)

    loss, gradients = run(function, list(weights.values()), None)
    check_against_transformers(shape, weights, (ids, targets, mask), logits, dict(zip(sizes, gradients)))
    tensors = {"ids": ids, "targets": targets, "mask": mask, "segments": torch.tensor(SEGMENTS)}
    return tensors | {"logits": logits, "loss": loss} | stored(weights, gradients), described(shape)


def check_against_transformers(shape, weights, batch, logits, gradients):
    """Its BitNet model with its own quantization-aware layers, sequence by sequence."""
    config = BitNetConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        hidden_act="relu2",
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = BitNetForCausalLM(config).float()
    for name, layer in list(theirs.model.named_modules()):
        if isinstance(layer, torch.nn.Linear):
            ternary = AutoBitLinear(layer.in_features, layer.out_features, bias=False, online_quant=True)
            theirs.model.set_submodule(name, ternary)
    theirs.model.load_state_dict({name.removeprefix("model."): weight for name, weight in weights.items()})
    ids, targets, mask = batch
    outputs = torch.cat([theirs(sequence[None]).logits[0] for sequence in ids.split(SEGMENTS)])
    reference.masked_mean_loss(outputs, targets, mask).backward()
    check_close(outputs.detach(), logits, AGREEMENT)
    for name, parameter in theirs.named_parameters():
        check_close(parameter.grad, gradients[name], AGREEMENT)


def stored(weights, gradients):
    """The parameters in bf16, in which they are exact, and their gradients in f32 as `grad.NAME`."""
    tensors = {name: weight.bfloat16() for name, weight in weights.items()}
    return tensors | {f"grad.{name}": gradient for name, gradient in zip(weights, gradients)}


def described(shape):
    return {"config": json.dumps(shape | {"eps": 1e-5, "theta": 10000.0, "activation": "relu2"})}


if __name__ == "__main__":
    main()
