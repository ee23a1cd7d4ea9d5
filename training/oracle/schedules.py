#!/usr/bin/env python3
"""Writes the golden schedules in training/tests/golden/, from definitions of its own.

    python3 training/oracle/schedules.py [FOLDER]

Learning rates are built here the way PyTorch's schedulers do it, as pieces that are laid end to end and told which step
of their own they are at, and not, as in the library, from one factor for each influence. Every file is a table: the step,
counted from 0, and the value with which that step is taken, with all 17 digits.
"""

import math
import pathlib
import sys


def warm_up(peak, steps):
    return [peak * (i + 1) / steps for i in range(steps)]


def line(first, last, steps):
    """From `first` towards `last`, which the step after these would have."""
    return [first + (last - first) * i / steps for i in range(steps)]


def two_stage(total, warm, peak, second_peak, switch):
    """b1.58: one line to 0; from `switch` on, the line of the second peak."""
    high = line(peak, 0.0, total - warm)
    low = line(second_peak, 0.0, total - warm)
    at = next(i for i in range(total) if i >= switch * total) - warm
    return warm_up(peak, warm) + high[:at] + low[at:]


def wsd(total, warm, peak, decay_steps, last, root=False):
    stable = [peak] * (total - warm - decay_steps)
    if root:
        fall = [last + (peak - last) * (1 - math.sqrt(i / decay_steps)) for i in range(decay_steps)]
    else:
        fall = line(peak, last, decay_steps)
    return warm_up(peak, warm) + stable + fall


def cosine(total, warm, peak, last):
    steps = total - warm
    middle, swing = (peak + last) / 2, (peak - last) / 2
    return warm_up(peak, warm) + [middle + swing * math.cos(math.pi * i / steps) for i in range(steps)]


def main(folder):
    tables = {
        "learning_rate-two_stage": two_stage(400, 40, 1.5e-3, 1e-3, 0.5),
        # 2% of 400 steps; and the switch where Spectra has that of the weight decay, between two steps.
        "learning_rate-two_stage-late": two_stage(400, 8, 2.4e-3, 1.5e-3, 2 / 3),
        "learning_rate-wsd": wsd(400, 40, 1e-3, 80, 0.0),
        "learning_rate-wsd-root": wsd(400, 40, 1e-3, 100, 1e-4, root=True),
        "learning_rate-cosine": cosine(400, 40, 3e-3, 3e-4),
        "learning_rate-constant": warm_up(1e-4, 10) + [1e-4] * 390,
        "weight_decay-constant": [0.1] * 400,
        "weight_decay-two_stage": [0.1] * 200 + [0.0] * 200,
        "weight_decay-two_stage-late": [0.1] * 267 + [0.0] * 133,
        "weight_decay-cosine": cosine(400, 0, 0.1, 0.0),
        "lambda-one": [1.0] * 400,
        "lambda-linear": [min(i / 150, 1.0) for i in range(400)],
        "lambda-linear-share": [min(i / 40, 1.0) for i in range(400)],
    }
    for name, values in tables.items():
        assert len(values) == 400, name
        rows = "".join(f"{step},{value!r}\n" for step, value in enumerate(values))
        (folder / f"schedule-{name}.csv").write_text("step,value\n" + rows)


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parent.parent
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "tests" / "golden")
