#!/usr/bin/env python3
"""Trains the same decoder as `bitnet train` in PyTorch, with the published fake quantization, to compare with.

Every BitLinear quantizes its weight and its input on each forward pass and lets gradients through with the detach
trick, as figures 3 and 4 of "The Era of 1-bit LLMs: Training Tips, Code and FAQ" (microsoft/unilm) have it. The rest is
what PyTorch offers for speed: its own RMSNorm, attention and AdamW.

    python3 benches/against/train_twin.py --preset tiny --steps 60
    python3 benches/against/train_twin.py --preset tiny --steps 2000 --text corpus.txt --validate --seed 0

Tokens are bytes; 256 is left for the end of a document. `--json` prints one object as the last line.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional

VOCABULARY = 257
EPSILON = 1e-5

PRESETS = {
    "tiny": {"layers": 4, "hidden": 128, "heads": 4, "kv_heads": 1, "ffn": 384, "context": 64, "batch": 12},
    "10m": {"layers": 6, "hidden": 384, "heads": 6, "kv_heads": 6, "ffn": 1024, "context": 256, "batch": 8},
}


def quantized_weight(weight):
    scale = 1 / weight.abs().mean().clamp(min=EPSILON)
    return (weight * scale).round().clamp(-1, 1) / scale


def quantized_activations(x):
    scale = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=EPSILON)
    return (x * scale).round().clamp(-128, 127) / scale


class BitLinear(nn.Linear):
    """A linear layer without bias whose operands are quantized, with straight-through gradients."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x):
        x = x + (quantized_activations(x) - x).detach()
        weight = self.weight + (quantized_weight(self.weight) - self.weight).detach()
        return functional.linear(x, weight)


class FloatLinear(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)


class Rotation(nn.Module):
    """Half-split rotary positions."""

    def __init__(self, head_dim, context, theta=10000.0):
        super().__init__()
        frequency = theta ** (-torch.arange(0, head_dim, 2).float() / head_dim)
        angle = torch.arange(context)[:, None] * frequency
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x):
        cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self, plan, linear):
        super().__init__()
        hidden, self.head_dim = plan.hidden, plan.hidden // plan.heads
        self.is_grouped = plan.heads != plan.kv_heads
        self.q_proj = linear(hidden, hidden)
        self.k_proj = linear(hidden, plan.kv_heads * self.head_dim)
        self.v_proj = linear(hidden, plan.kv_heads * self.head_dim)
        self.attn_sub_norm = nn.RMSNorm(hidden, eps=EPSILON)
        self.o_proj = linear(hidden, hidden)

    def forward(self, x, rotation):
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        h = functional.scaled_dot_product_attention(
            rotation(q), rotation(k), v, is_causal=True, enable_gqa=self.is_grouped
        )
        return self.o_proj(self.attn_sub_norm(h.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """`down(norm(relu(gate)^2 * up))`."""

    def __init__(self, plan, linear):
        super().__init__()
        self.gate_proj = linear(plan.hidden, plan.ffn)
        self.up_proj = linear(plan.hidden, plan.ffn)
        self.ffn_sub_norm = nn.RMSNorm(plan.ffn, eps=EPSILON)
        self.down_proj = linear(plan.ffn, plan.hidden)

    def forward(self, x):
        return self.down_proj(self.ffn_sub_norm(functional.relu(self.gate_proj(x)).square() * self.up_proj(x)))


class Block(nn.Module):
    def __init__(self, plan, linear):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(plan.hidden, eps=EPSILON)
        self.self_attn = Attention(plan, linear)
        self.post_attention_layernorm = nn.RMSNorm(plan.hidden, eps=EPSILON)
        self.mlp = Mlp(plan, linear)

    def forward(self, x, rotation):
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, plan):
        super().__init__()
        linear = {"ternary": BitLinear, "none": FloatLinear}[plan.quant]
        self.embed_tokens = nn.Embedding(VOCABULARY, plan.hidden)
        self.layers = nn.ModuleList(Block(plan, linear) for _ in range(plan.layers))
        self.norm = nn.RMSNorm(plan.hidden, eps=EPSILON)
        self.rotation = Rotation(plan.hidden // plan.heads, plan.context)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=plan.init_std)

    def forward(self, ids, targets):
        """Cross entropy in nats, mean over `targets`, which are as many as `ids [batch, tokens]`."""
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.rotation)
        logits = functional.linear(self.norm(x), self.embed_tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def learning_rate(step, plan):
    """Linear warm-up, then a cosine from `--lr` to `--min-lr`."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (plan.lr - plan.min_lr)


def batch_of(data, generator, plan):
    starts = torch.randint(len(data) - plan.context, (plan.batch,), generator=generator)
    windows = torch.stack([data[start : start + plan.context + 1] for start in starts.tolist()])
    return windows[:, :-1], windows[:, 1:]


@torch.no_grad()
def validation_loss(model, data, plan):
    """Mean over every byte but the first, in blocks of `--context` that know nothing of each other."""
    total, whole = 0.0, (len(data) - 1) // plan.context * plan.context
    inputs, targets = data[:-1], data[1:]
    for ids, wanted in zip(
        inputs[:whole].view(-1, plan.context).split(64), targets[:whole].view(-1, plan.context).split(64)
    ):
        total += model(ids, wanted).item() * wanted.numel()
    if whole < len(targets):
        total += model(inputs[None, whole:], targets[None, whole:]).item() * (len(targets) - whole)
    return total / len(targets)


def train(plan):
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    if plan.text:
        text = torch.frombuffer(bytearray(plan.text.read_bytes()), dtype=torch.uint8).long()
    else:
        text = torch.randint(256, (1_000_000,))
    cut = len(text) * 9 // 10
    generator = torch.Generator().manual_seed(plan.seed)
    model = Decoder(plan)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, plan.beta2), eps=1e-8, **{plan.optimizer: True})
    loss_of = torch.compile(model) if plan.compile else model

    seconds, processor, losses = [], [], []
    for step in range(plan.steps):
        started = time.perf_counter(), time.process_time()
        rate = learning_rate(step, plan)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(*batch_of(text[:cut], generator, plan))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started[0])
        processor.append(time.process_time() - started[1])
        if plan.log_every and (step % plan.log_every == 0 or step + 1 == plan.steps):
            recent = losses[-plan.log_every :]
            print(f"step {step:5d}  loss {statistics.mean(recent):.4f}  lr {rate:.2e}", file=sys.stderr, flush=True)

    # The first steps allocate, choose kernels and, with --compile, compile.
    first = min(plan.settle, plan.steps // 2)
    settled = seconds[first:]
    tokens = plan.batch * plan.context
    return {
        "plan": {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in vars(plan).items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_per_second": tokens / statistics.median(settled),
        "tokens_per_second_quartiles": [tokens / q for q in statistics.quantiles(settled, n=4)[::-2]],
        # Of all threads together: less moved by what else the machine does.
        "tokens_per_processor_second": tokens / statistics.median(processor[first:]),
        "seconds": sum(seconds),
        "losses": losses[:: max(1, plan.steps // 100)] if plan.text else [],
        "train_loss": statistics.mean(losses[-50:]),
        "valid_loss": validation_loss(model, text[cut:], plan) if plan.validate else None,
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "load": os.getloadavg(),
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="sizes; those given besides replace its own")
    for name in PRESETS["tiny"]:
        parser.add_argument("--" + name.replace("_", "-"), type=int)
    parser.add_argument("--quant", choices=["ternary", "none"], default="ternary")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--settle", type=int, default=10, help="first steps that are not timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--optimizer", choices=["fused", "foreach"], default="fused", help="PyTorch's form of AdamW")
    parser.add_argument("--compile", action="store_true", help="compile the model")
    parser.add_argument(
        "--text", type=pathlib.Path, help="file to train on, first nine tenths; random bytes without it"
    )
    parser.add_argument("--validate", action="store_true", help="the loss over the whole last tenth, at the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--min-lr", type=float, default=1e-4)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--beta2", type=float, default=0.99)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--init-std", type=float, default=0.02)
    parser.add_argument("--log-every", type=int, default=100, help="steps between lines; 0 for none")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    plan = parser.parse_args()
    for name, value in PRESETS[plan.preset].items():
        if getattr(plan, name) is None:
            setattr(plan, name, value)
    if plan.steps < 4:
        parser.error("--steps must be 4 or more")
    return plan


def main():
    plan = arguments()
    result = train(plan)
    if plan.json:
        print(json.dumps(result))
        return
    slow, fast = result["tokens_per_second_quartiles"]
    print(f"{result['parameters']} parameters, {result['seconds']:.1f} s")
    print(f"{result['tokens_per_second']:.0f} tokens/s, quartiles {slow:.0f} to {fast:.0f}")
    print(f"{result['tokens_per_processor_second']:.0f} tokens a processor second, load {result['load'][0]:.1f}")
    print(f"train loss {result['train_loss']:.4f} (last 50 steps), validation loss {result['valid_loss']}")


if __name__ == "__main__":
    main()
