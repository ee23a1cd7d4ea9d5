#!/usr/bin/env python3
"""Times `bitnet train` against its twin in PyTorch and against its own float twin, in turn.

Every round times each of them once, ratios are formed within a round, and what is printed is the median over the rounds
with the range. A figure is the median over the steps of a run, the first ones left out.

    python3 benches/against/train.py target/release/bitnet tinyshakespeare.txt --python venv/bin/python
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

# What is timed: the program, and what it computes with.
FIGURES = {
    "bitnet ternary": ("ternary", "f32"),
    "bitnet float": ("none", "f32"),
    "bitnet ternary bf16": ("ternary", "bf16"),
    "PyTorch ternary": ("ternary", "f32"),
    "PyTorch float": ("none", "f32"),
}
SIZES = {"tiny": ["--size", "tiny"], "10m": ["--size", "10m", "--batch", "8"]}


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"status {done.returncode} from {' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return done.stdout


def ours(arguments, quant, precision):
    """Tokens a second of `bitnet train`."""
    with tempfile.TemporaryDirectory() as folder:
        out, held_out = pathlib.Path(folder) / "run", pathlib.Path(folder) / "held-out.txt"
        # The measurement at the end of a run is none of what is timed.
        held_out.write_text("What is held out is looked at once, at the end of the run.\n" * 99)
        command = [arguments.bitnet, "train", arguments.text, "--out", out, *SIZES[arguments.preset]]
        command += ["--validation", held_out, "--quant", quant, "--precision", precision, "--lambda", "one"]
        command += ["--max-steps", arguments.steps, "--threads", arguments.threads]
        run([*command, "--validate-every", 1000000, "--sample-every", 0, "--log-every", 1000000])
        lines = (out / "metrics.jsonl").read_text().splitlines()[arguments.settle:]
        return statistics.median(json.loads(line)["tokens_per_second"] for line in lines)


def twin(arguments, quant, _):
    """Tokens a second of the same network in PyTorch."""
    script = pathlib.Path(__file__).with_name("train_twin.py")
    command = [arguments.python, script, "--preset", arguments.preset, "--quant", quant, "--steps", arguments.steps]
    command += ["--settle", arguments.settle, "--threads", arguments.threads, "--log-every", 0, "--json"]
    if arguments.compile:
        command.append("--compile")
    return json.loads(run(command).splitlines()[-1])["tokens_per_second"]


def spread(values, form):
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bitnet", help="the program")
    parser.add_argument("text", help="what is trained on")
    parser.add_argument("--python", default=sys.executable, help="a Python with torch")
    parser.add_argument("--preset", choices=SIZES, default="tiny")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--settle", type=int, default=10, help="first steps that are not timed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=FIGURES, help="what is timed [default: all]")
    parser.add_argument("--compile", action="store_true", help="compile PyTorch's model")
    arguments = parser.parse_args()
    if arguments.steps <= arguments.settle:
        parser.error("--steps: more than --settle are needed")
    figures = {name: [] for name in FIGURES if name in arguments.only}
    for number in range(arguments.rounds):
        for name, values in figures.items():
            time = ours if name.startswith("bitnet") else twin
            values.append(time(arguments, *FIGURES[name]))
        print(f"round {number + 1}:", ", ".join(f"{name} {values[-1]:.0f}" for name, values in figures.items()), flush=True)
    for name, values in figures.items():
        print(f"{name}: {spread(values, '{:.0f}')} tokens a second")
    for title, above, below in [
        ("bitnet / PyTorch, ternary", "bitnet ternary", "PyTorch ternary"),
        ("bitnet in bf16 / PyTorch, ternary", "bitnet ternary bf16", "PyTorch ternary"),
        ("step time ternary / float, bitnet", "bitnet float", "bitnet ternary"),
    ]:
        if above in figures and below in figures:
            print(f"{title}:", spread([a / b for a, b in zip(figures[above], figures[below])], "{:.2f}"))


main()
