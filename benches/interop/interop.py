#!/usr/bin/env python3
"""Holds the files that `bitnet convert` writes against other people's programs, and theirs against `bitnet`.

Every row of the table is one question:

  runs       a file of ours has, in their program, the perplexity that it has in `bitnet`
  quantized  a file of their llama-quantize has, in `bitnet`, the trits that it was made from
  loads      a folder of ours has, in transformers, the loss that it has in `bitnet`

The programs are built elsewhere and given by path. Upstream llama.cpp computes SiLU for every model with BitNet's sub-norms,
whatever activation it was trained with, so it is asked with a SiLU model only. bitnet.cpp goes by the architecture: SiLU
or squared ReLU. ik_llama.cpp does too; its kernels want linears of at least 512 columns, and it only quantizes I2_S files,
it does not run them. README.md, one folder up, has the commands.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import re
import shlex
import struct
import subprocess
import sys
import tempfile

# As llama.cpp's tool defines perplexity: BOS first, and the first half of each window is not scored.
WINDOW, SKIPPED = 256, 128
PERPLEXITY_WITHIN = 0.005
LOSS_WITHIN = 2e-4

RELU2, SILU = "relu2", "silu"

# Which forms each program runs, by the model's activation.
RUNS = {
    "llama.cpp": {SILU: ["tq1_0", "tq2_0"]},
    "ik_llama.cpp": {RELU2: ["iq2_bn", "iq2_bn_r4", "iq1_bn"], SILU: ["iq2_bn", "iq1_bn"]},
    "bitnet.cpp": {RELU2: ["i2_s"], SILU: ["i2_s"]},
}
# What each program quantizes, and to what.
QUANTIZES = {
    "llama.cpp": [("float", "TQ1_0"), ("float", "TQ2_0")],
    "ik_llama.cpp": [("float", "IQ2_BN"), ("float", "IQ1_BN"), ("i2_s", "IQ2_BN")],
    "bitnet.cpp": [("float", "I2_S")],
}
FOLDERS = ["hf-packed", "hf-bitlinear", "hf-master"]


@dataclasses.dataclass
class Row:
    """One question and its answer."""

    question: str
    program: str
    form: str
    ours: float
    theirs: float
    difference: str
    holds: bool


class Failure(Exception):
    """A program did not do what it was asked for."""


def run(*command):
    """Standard output and error of a program."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = " / ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise Failure(f"status {done.returncode} from {shlex.join(command)}: {said}")
    return done.stdout, done.stderr


class Bitnet:
    """Our program, and a folder for what it writes."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def convert(self, source, name, *options):
        """A converted model under this name, unless there is one already."""
        path = self.folder / name
        if not path.exists():
            run(self.program, "convert", source, path, *options)
        return path

    def score(self, model, text, *options):
        out, _ = run(self.program, "score", text, "--model", model, "--window", WINDOW, "--json", *options)
        return json.loads(out)

    def activation(self, model):
        out, _ = run(self.program, "inspect", "--model", model, "--json")
        return json.loads(out)["config"]["activation"]

    def perplexity(self, model, text):
        return self.score(model, text, "--bos", "--skip", SKIPPED)["perplexity"]


def perplexity(folder, model, text, threads):
    """What a peer's llama-perplexity says of a model."""
    command = (folder / "llama-perplexity", "-m", model, "-f", text, "-c", WINDOW, "-t", threads)
    # llama.cpp writes from another thread, whose last line is lost when the program ends first: on a busy machine, mostly.
    for _ in range(20):
        if found := re.findall(r"Final estimate: PPL.*? = ([0-9.]+)", "".join(run(*command))):
            return float(found[-1])
    raise Failure(f"{folder}/llama-perplexity printed no final estimate")


def runs(bitnet, args, name, folder):
    for form in RUNS[name].get(args.activation, []):
        model = bitnet.convert(args.model, f"{form}.gguf", "--to", form)
        ours, theirs = bitnet.perplexity(model, args.text), perplexity(folder, model, args.text, args.threads)
        ratio = theirs / ours - 1
        yield Row("runs", name, form, ours, theirs, f"{ratio:+.3%}", abs(ratio) <= PERPLEXITY_WITHIN)


def quantized(bitnet, args, name, folder):
    """Trits under one scale go into their quantizer and have to come out as they were."""
    packed = bitnet.convert(args.model, "packed", "--to", "hf-packed", "--embd", "f32")
    # Upstream only knows the older name.
    arch = ["--arch", "bitnet"] if name == "llama.cpp" else []
    for source, form in QUANTIZES[name]:
        given = bitnet.convert(packed, f"{source}-for-{name}.gguf", "--to", source, "--embd", "f32", *arch)
        theirs = bitnet.folder / f"{form}-of-{source}.gguf"
        options = ["--allow-requantize", "--token-embedding-type", "f16"]
        # With several threads bitnet.cpp cuts I2_S tensors into parts that do not fit together; its own script takes one.
        threads = 1 if form == "I2_S" else args.threads
        run(folder / "llama-quantize", *options, given, theirs, form, threads)
        # The key that tells the activation is not one that they copy in every version.
        told = ["--activation", args.activation]
        back = bitnet.convert(theirs, f"back-{form}-of-{source}", "--to", "hf-packed", "--embd", "f32", *told)
        differing, scale_error = compare(packed, back)
        ours, loss = (bitnet.score(model, args.text, *told)["loss"] for model in (packed, theirs))
        words = f"{differing} tensors differ, scales within {scale_error:.1e}"
        # One rounding to f16 moves a scale by 2^-11 at most.
        holds = differing == 0 and scale_error <= 2**-11 and abs(loss - ours) <= LOSS_WITHIN
        yield Row("quantized", name, f"{source} to {form}", ours, loss, words, holds)


def loads(bitnet, args, name, python):
    oracle = pathlib.Path(__file__).parents[2] / "training" / "oracle" / "load_export.py"
    for form in FOLDERS:
        folder = bitnet.convert(args.model, f"to-{form}", "--to", form, "--embd", "f32")
        out, _ = run(python, oracle, folder, "--text", args.text, "--context", WINDOW)
        theirs, ours = json.loads(out)["loss"], bitnet.score(folder, args.text)["loss"]
        difference = theirs - ours
        yield Row("loads", name, form, ours, theirs, f"{difference:+.1e} nats", abs(difference) <= LOSS_WITHIN)


def tensors(folder):
    """Names, types and bytes of a folder's tensors."""
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    for name, info in header.items():
        if name != "__metadata__":
            begin, end = info["data_offsets"]
            yield name, info["dtype"], data[8 + length + begin : 8 + length + end]


def compare(one, other):
    """How many packed linears differ, and by what share their scales do at most."""
    other = {name: data for name, _, data in tensors(other)}
    differing, scale_error = 0, 0.0
    for name, dtype, data in tensors(one):
        if dtype == "U8":
            differing += data != other[name]
        elif name.endswith("weight_scale"):
            (meant,), (found,) = struct.unpack("<f", data), struct.unpack("<f", other[name])
            scale_error = max(scale_error, abs(found / meant - 1))
    return differing, scale_error


def table(rows):
    head = ["question", "program", "form", "bitnet", "theirs", "difference", "holds"]
    cells = [head] + [
        [r.question, r.program, r.form, f"{r.ours:.4f}", f"{r.theirs:.4f}", r.difference, "yes" if r.holds else "NO"]
        for r in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bitnet", type=pathlib.Path, help="our program")
    parser.add_argument("model", type=pathlib.Path, help="a model with sub-norms that `bitnet` opens")
    parser.add_argument("text", type=pathlib.Path, help="a text to score")
    parser.add_argument(
        "--peer",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "BIN"),
        help=f"one of {', '.join(RUNS)} and the folder of its programs; may be repeated",
    )
    parser.add_argument("--python", help="a Python with torch and transformers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=pathlib.Path, help="write models into this folder and leave them there")
    parser.add_argument("--json", type=pathlib.Path, help="write the rows to this file")
    args = parser.parse_args()
    if unknown := [name for name, _ in args.peer if name not in RUNS]:
        parser.error(f"--peer {unknown[0]}: known are {', '.join(RUNS)}")
    return args


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bitnet = Bitnet(args.bitnet, folder)
        args.activation = bitnet.activation(args.model)
        parts = [runs(bitnet, args, name, pathlib.Path(place)) for name, place in args.peer]
        parts += [quantized(bitnet, args, name, pathlib.Path(place)) for name, place in args.peer if name in QUANTIZES]
        if args.python:
            parts.append(loads(bitnet, args, "transformers", args.python))
        rows = []
        for part in parts:
            try:
                rows.extend(part)
            except Failure as failure:
                print(failure, file=sys.stderr)
                rows.append(Row("-", "-", "-", math.nan, math.nan, "did not run", False))
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    sys.exit(not all(row.holds for row in rows))


if __name__ == "__main__":
    main()
