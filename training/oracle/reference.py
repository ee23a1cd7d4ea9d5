"""The layers of a BitNet b1.58 decoder in PyTorch, plain, for golden values.

Gradients come from autograd through the published detach trick (microsoft/unilm, "The Era of 1-bit LLMs: Training Tips,
Code and FAQ", figures 3 and 4), never from formulas of ours. What PyTorch has is taken from it: `rms_norm`,
`scaled_dot_product_attention`, `cross_entropy`. Tokens of all sequences lie one after the other, `[tokens, ...]`, and
`segments` has the sequences' lengths.
"""

import torch
from torch.nn import functional

FLOOR = 1e-5


def shared(values, weight, granularity):
    """One value for each share of a weight `[rows, cols]`, spread over the columns of that share."""
    if granularity == "tensor":
        return values.expand_as(weight)
    if granularity == "row":
        return values[:, None].expand_as(weight)
    size = int(granularity.removeprefix("group:"))
    return values.repeat_interleave(size, dim=1)[:, : weight.shape[1]]


def gammas(weight, granularity):
    """`max(mean |w|, 1e-5)` as `[1]`, `[rows]` or `[rows, groups]`: the mean in f64, rounded to the weight's type."""
    magnitudes = weight.detach().abs().double()
    if granularity == "tensor":
        means = magnitudes.mean().reshape(1)
    elif granularity == "row":
        means = magnitudes.mean(dim=1)
    else:
        groups = magnitudes.split(int(granularity.removeprefix("group:")), dim=1)
        means = torch.stack([group.mean(dim=1) for group in groups], dim=1)
    return means.to(weight.dtype).clamp(min=FLOOR)


def quantize_weight(weight, granularity="tensor"):
    """Trits `[rows, cols]` and gammas; and how far each weight is, in gammas, from where it would be another trit."""
    gamma = gammas(weight, granularity)
    scaled = weight.detach() * shared(1 / gamma, weight, granularity)
    margin = (scaled.abs() - 0.5).abs()
    return scaled.round().clamp(-1, 1), gamma, margin


def quantize_activations(x):
    """Codes `[tokens, cols]`, multipliers `[tokens, 1]`, and how far each code is from being another."""
    multiplier = 127 / x.detach().abs().amax(dim=-1, keepdim=True).clamp(min=FLOOR)
    scaled = x.detach() * multiplier
    margin = (scaled - scaled.floor() - 0.5).abs()
    return scaled.round().clamp(-128, 127), multiplier, margin


class Margins:
    """The smallest distance to a rounding tie seen so far, over all layers of a forward pass."""

    def __init__(self):
        self.weight = self.activation = float("inf")

    def least(self):
        return min(self.weight, self.activation)


def bit_linear(x, weight, granularity="tensor", activations="int8", lambda_=1.0, margins=None):
    """`x [tokens, cols]` times a ternary `weight [rows, cols]`.

    Both operands are `v + lambda (q(v) - v).detach()`. For `lambda_ = 1` and int8 activations the value is replaced by
    that of the integer product, scaled after it; the graph, and so the gradients, stay those of the detach trick.
    """
    trits, gamma, weight_margin = quantize_weight(weight, granularity)
    spread = shared(gamma, weight, granularity)
    weight_used = weight + lambda_ * (trits * spread - weight).detach()
    x_used = x
    if activations == "int8":
        codes, multiplier, activation_margin = quantize_activations(x)
        x_used = x + lambda_ * (codes / multiplier - x).detach()
    if margins is not None:
        margins.weight = min(margins.weight, weight_margin.min().item())
        if activations == "int8":
            margins.activation = min(margins.activation, activation_margin.min().item())
    y = functional.linear(x_used, weight_used)
    if activations == "int8" and lambda_ == 1:
        y = y + (integer_product(codes, multiplier, trits, gamma, granularity) - y).detach()
    return y


def integer_product(codes, multiplier, trits, gamma, granularity):
    """Exact dot products, then the scales.

    `dot * (gamma / s)`, or by groups `(dot_0 gamma_0 + dot_1 gamma_1 + ...) / s`.
    """
    dtype = codes.dtype
    codes, trits = codes.long(), trits.long()
    if not granularity.startswith("group:"):
        return (codes @ trits.T).to(dtype) * (gamma / multiplier)
    size = int(granularity.removeprefix("group:"))
    y = torch.zeros(codes.shape[0], trits.shape[0], dtype=dtype)
    for group, (c, t) in enumerate(zip(codes.split(size, dim=1), trits.split(size, dim=1))):
        y = y + (c @ t.T).to(dtype) * gamma[:, group]
    return y / multiplier


def rms_norm(x, weight, eps=1e-5):
    return functional.rms_norm(x, (x.shape[-1],), weight, eps)


def gated(gate, up, activation):
    """`act(gate) * up`, where `relu2` is the squared ReLU."""
    return (functional.silu(gate) if activation == "silu" else functional.relu(gate).square()) * up


def positions(segments):
    return torch.cat([torch.arange(length) for length in segments])


def rope(x, at, theta=10000.0):
    """Rotates element `i` of each head of `x [tokens, heads, dim]` with element `i + dim / 2`; token `t` is at `at[t]`.

    Angles are f32 products of position and frequency.
    """
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = (at[:, None].to(x.dtype) * frequency.to(x.dtype)).double()[:, None, :]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def attention(q, k, v, segments):
    """Causal attention within each segment: `q [tokens, heads, dim]`, `k` and `v [tokens, kv_heads, dim]`.

    Query head `h` reads KV head `h / (heads / kv_heads)`.
    """
    outputs = []
    for parts in zip(*(x.split(segments) for x in (q, k, v))):
        heads_first = [part.transpose(0, 1)[None] for part in parts]
        out = functional.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


def block(x, weights, prefix, shape, segments, margins=None):
    """One decoder layer: `x += o(norm(attention(...))); x += down(norm(relu2(gate) * up))`, each behind its norm."""

    def linear(name, h):
        return bit_linear(h, weights[f"{prefix}{name}.weight"], margins=margins)

    def norm(name, h):
        return rms_norm(h, weights[f"{prefix}{name}.weight"])

    at = positions(segments)
    h = norm("input_layernorm", x)
    q, k, v = (linear(f"self_attn.{name}_proj", h).unflatten(-1, (-1, shape["head_dim"])) for name in ("q", "k", "v"))
    h = attention(rope(q, at), rope(k, at), v, segments).flatten(1)
    x = x + linear("self_attn.o_proj", norm("self_attn.attn_sub_norm", h))
    h = norm("post_attention_layernorm", x)
    h = gated(linear("mlp.gate_proj", h), linear("mlp.up_proj", h), "relu2")
    return x + linear("mlp.down_proj", norm("mlp.ffn_sub_norm", h))


def block_shapes(prefix, shape):
    """Names and sizes of one layer's parameters, as Hugging Face transformers names BitNet's."""
    hidden, ffn = shape["hidden"], shape["ffn"]
    q, kv = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    sizes = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.attn_sub_norm": (q,),
        "self_attn.o_proj": (hidden, q),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (ffn, hidden),
        "mlp.up_proj": (ffn, hidden),
        "mlp.ffn_sub_norm": (ffn,),
        "mlp.down_proj": (hidden, ffn),
    }
    return {f"{prefix}{name}.weight": size for name, size in sizes.items()}


def model(ids, weights, shape, segments, margins=None):
    """Logits `[tokens, vocab]` of a decoder whose head is its embedding."""
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(shape["layers"]):
        x = block(x, weights, f"model.layers.{layer}.", shape, segments, margins)
    return rms_norm(x, weights["model.norm.weight"]) @ weights["model.embed_tokens.weight"].T


def masked_mean_loss(logits, targets, mask):
    """Cross entropy in nats, mean over the targets whose mask is not zero."""
    return functional.cross_entropy(logits[mask != 0], targets[mask != 0])
