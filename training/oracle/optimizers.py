#!/usr/bin/env python3
"""Writes parameters after each of a few steps of AdamW with clipped gradients, and of Muon, computed by PyTorch in f32.

python3 training/oracle/optimizers.py crates/fixtures/data/training
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="folder to write the files to")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, write in [("adamw", adamw), ("muon", muon)]:
        tensors, settings = write()
        path = out / f"{name}.safetensors"
        save_file({key: value.clone() for key, value in tensors.items()}, path, {"settings": json.dumps(settings)})
        print(f"{path}: {len(tensors)} tensors, {path.stat().st_size} bytes", file=sys.stderr)


def adamw():
    """Five steps over a matrix and a vector whose gradients are clipped together; some are, some are short enough."""
    settings = {
        "betas": [0.9, 0.95],
        "eps": 1e-8,
        "weight_decay": 0.1,
        "max_norm": 1.0,
        "lr": [1e-2, 2e-2, 2e-2, 1e-2, 5e-3],
    }
    generator = torch.Generator().manual_seed(7)
    parameters = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in [(4, 6), (5,)]]
    names = ["matrix", "vector"]
    optimizer = torch.optim.AdamW(
        parameters, betas=settings["betas"], eps=settings["eps"], weight_decay=settings["weight_decay"], foreach=False
    )
    tensors = {f"start.{name}": p.detach().clone() for name, p in zip(names, parameters)}
    # The norm of these gradients is about 5.4 times the factor: above, below, far above, below, just above 1.
    for step, (lr, factor) in enumerate(zip(settings["lr"], [0.5, 0.1, 40.0, 0.15, 0.2])):
        for name, parameter in zip(names, parameters):
            parameter.grad = factor * torch.randn(parameter.shape, generator=generator)
            tensors[f"grad.{step}.{name}"] = parameter.grad.clone()
        tensors[f"norm.{step}"] = torch.nn.utils.clip_grad_norm_(parameters, settings["max_norm"])
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        tensors |= {f"after.{step}.{name}": p.detach().clone() for name, p in zip(names, parameters)}
    return tensors, settings


def muon():
    """Three steps for a wide and a tall matrix.

    PyTorch's own optimizer iterates in bf16. So the steps here are written out in f32, and PyTorch's must agree as far
    as bf16 goes.
    """
    settings = {
        "lr": 0.02,
        "momentum": 0.95,
        "nesterov": True,
        "weight_decay": 0.1,
        "steps": 5,
        "coefficients": [3.4445, -4.7750, 2.0315],
        "eps": 1e-7,
        "scale": "0.2 * sqrt(max(rows, cols))",
    }
    generator = torch.Generator().manual_seed(8)
    tensors = {}
    for name, size in [("wide", (6, 10)), ("tall", (10, 6))]:
        weight = torch.randn(size, generator=generator)
        tensors[f"start.{name}"] = weight.clone()
        published = torch.nn.Parameter(weight.clone())
        optimizer = torch.optim.Muon(
            [published],
            lr=settings["lr"],
            weight_decay=settings["weight_decay"],
            momentum=settings["momentum"],
            nesterov=settings["nesterov"],
            ns_coefficients=tuple(settings["coefficients"]),
            ns_steps=settings["steps"],
            eps=settings["eps"],
            adjust_lr_fn="match_rms_adamw",
        )
        momentum = torch.zeros(size)
        for step in range(3):
            gradient = 0.1 * torch.randn(size, generator=generator)
            tensors[f"grad.{step}.{name}"] = gradient
            weight, momentum = muon_step(weight, gradient, momentum, settings)
            tensors[f"after.{step}.{name}"] = weight.clone()
            published.grad = gradient.clone()
            optimizer.step()
            moved = settings["lr"] * 0.2 * max(size) ** 0.5
            assert (published.detach() - weight).abs().max() < 0.05 * moved * (step + 1)
    return tensors, settings


def muon_step(weight, gradient, momentum, settings):
    """The weight and the momentum after a step.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks"; the scale is Liu et al.'s, "Muon is
    scalable for LLM training" (arXiv 2502.16982).
    """
    beta = settings["momentum"]
    momentum = beta * momentum + (1 - beta) * gradient
    update = orthogonalized(beta * momentum + (1 - beta) * gradient, settings)
    scale = 0.2 * max(weight.shape) ** 0.5
    return weight * (1 - settings["lr"] * settings["weight_decay"]) - settings["lr"] * scale * update, momentum


def orthogonalized(x, settings):
    """Newton-Schulz iterations towards the nearest semi-orthogonal matrix, on the side with fewer rows."""
    a, b, c = settings["coefficients"]
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / x.norm().clamp(min=settings["eps"])
    for _ in range(settings["steps"]):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if is_tall else x


if __name__ == "__main__":
    main()
