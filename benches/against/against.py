#!/usr/bin/env python3
"""Times `bitnet` against llama.cpp and its descendants on one machine, in turn.

The speed of a machine's memory can change by half within minutes when others use it too. So the engines take turns:
every round times all of them one after the other, ratios are formed within a round, and what is printed is the median
over the rounds with the range.

Ours are timed with `bitnet bench`, peers with their own `llama-bench`, or where that cannot decode at a depth, with the
`llama-batched-bench` of the same build. README.md, one folder up, has examples.
"""

import argparse
import datetime
import functools
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time


class Failure(Exception):
    """An engine did not run, or did not tell what it was asked for."""


class Engine:
    """A program, its model, and arguments that it always gets."""

    def __init__(self, name, program, model):
        self.name, self.program, self.model = name, program, model
        self.arguments, self.commands = [], []

    def run(self, program, *options):
        """The standard output of a program with these options."""
        command = [program, *map(str, options)]
        line = shlex.join(command)
        if line not in self.commands:
            self.commands.append(line)
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise self.failure(str(error)) from error
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
            raise self.failure(f"status {done.returncode} from {line}: {' / '.join(said)}")
        return done.stdout

    def failure(self, problem):
        return Failure(f"{self.name}: {problem}")

    def description(self):
        keys = ("name", "program", "model", "arguments", "commands")
        return {key: getattr(self, key) for key in keys} | {"model_bytes": os.path.getsize(self.model)}


class Bitnet(Engine):
    """`bitnet bench`, which takes everything in one go and gives the median of its repetitions."""

    def measure(self, plan, threads):
        depths = ",".join(map(str, sorted({0, plan.depth})))
        sizes = ("--prefill", plan.prefill, "--decode", plan.decode, "--depth", depths)
        at = ("bench", "-m", self.model, "-t", threads)
        out = self.run(self.program, *at, *sizes, "--reps", plan.reps, "--json", *self.arguments)
        try:
            document = json.loads(out)
            prefill = {entry["tokens"]: entry["tokens_per_second"] for entry in document["prefill"]}
            decode = {entry["depth"]: entry["tokens_per_second"] for entry in document["decode"]}
            speeds = {"decode": decode[0], "prefill": prefill[plan.prefill]}
            if plan.depth:
                speeds["deep"] = decode[plan.depth]
        except (ValueError, KeyError, TypeError) as error:
            raise self.failure(f"`bitnet bench --json` printed something else: {error!r}") from error
        return speeds


class LlamaBench(Engine):
    """The `llama-bench` of llama.cpp, ik_llama.cpp or bitnet.cpp."""

    batched_bench = None

    def measure(self, plan, threads):
        results = self.bench(threads, "-p", plan.prefill, "-n", plan.decode, "-r", plan.reps)
        # A result has both numbers of tokens, one of them 0.
        speeds = {"decode" if int(result["n_gen"]) else "prefill": middle(result) for result in results}
        if missing := {"decode", "prefill"} - speeds.keys():
            raise self.failure(f"llama-bench gave no {' and no '.join(sorted(missing))}")
        if plan.depth:
            speeds["deep"] = self.deep_batched(plan, threads) if self.batched_bench else self.deep(plan, threads)
        return speeds

    def deep(self, plan, threads):
        """Decode behind `plan.depth` tokens, by whichever option this llama-bench has for that."""
        if "--n-depth" in self.usage:
            options = ("-p", 0, "-n", plan.decode, "-d", plan.depth)
        elif re.search(r"^ *-gp ", self.usage, re.MULTILINE):
            options = ("-p", 0, "-n", 0, "-gp", f"{plan.depth},{plan.decode}")
        else:
            raise self.failure("this llama-bench cannot decode at a depth: give it a --batched-bench, or all --depth 0")
        results = self.bench(threads, *options, "-r", plan.depth_reps)
        if len(results) != 1:
            raise self.failure(f"llama-bench gave {len(results)} results for {shlex.join(map(str, options))}")
        return middle(results[0])

    def deep_batched(self, plan, threads):
        """The same from llama-batched-bench, for one sequence."""
        size = plan.depth + plan.decode
        sizes = ("-c", size, "-npp", plan.depth, "-ntg", plan.decode, "-npl", 1, "--output-format", "jsonl")
        out = self.run(*self.batched_bench, "-m", self.model, "-t", threads, *sizes)
        try:
            return float(json.loads([line for line in out.splitlines() if line.startswith("{")][-1])["speed_tg"])
        except (IndexError, ValueError, KeyError) as error:
            raise self.failure("llama-batched-bench printed no line of JSON with `speed_tg`") from error

    def bench(self, threads, *options):
        out = self.run(self.program, "-m", self.model, "-t", threads, *options, "-o", "json", *self.arguments)
        try:
            # Some print notes before.
            return json.loads(out[out.index("[\n") :])
        except ValueError as error:
            raise self.failure(f"llama-bench printed no JSON: {error}") from error

    @functools.cached_property
    def usage(self):
        return self.run(self.program, "--help")


def middle(result):
    """The median speed of a result of llama-bench."""
    return statistics.median(result["samples_ts"])


def numbers(text):
    return [int(part) for part in text.split(",")]


def named(text):
    """`NAME=WORDS`, the words split as a shell does."""
    name, equals, words = text.partition("=")
    if not (equals and words):
        raise argparse.ArgumentTypeError(f"no = in {text!r}, or nothing after it")
    return name, shlex.split(words)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    triple = {"nargs": 3, "action": "append", "required": True}
    parser.add_argument("--ours", metavar=("NAME", "BITNET", "MODEL"), **triple, help="may be given again")
    parser.add_argument("--peer", metavar=("NAME", "LLAMA_BENCH", "MODEL"), **triple, help="may be given again")
    pair = {"type": named, "action": "append", "default": []}
    parser.add_argument("--args", metavar="NAME=ARGUMENTS", **pair, help="more arguments for an engine")
    batched = "the llama-batched-bench of a peer whose llama-bench has no -d and no -gp, and its arguments"
    parser.add_argument("--batched-bench", metavar="NAME=PROGRAM", **pair, help=batched)
    parser.add_argument("--threads", type=numbers, default=[1, 2], help="default: 1,2")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--reps", type=int, default=3, help="repetitions in a round; default: %(default)s")
    parser.add_argument("--depth-reps", type=int, default=1, help="peers' repetitions at --depth; default: %(default)s")
    parser.add_argument("--prefill", type=int, default=512, help="tokens; default: %(default)s")
    parser.add_argument("--decode", type=int, default=64, help="tokens; default: %(default)s")
    parser.add_argument("--depth", type=int, default=2048, help="tokens before one more decode; default: %(default)s")
    parser.add_argument("--json", metavar="OUT", help="write every single figure to this file")
    plan = parser.parse_args()
    for name in ("rounds", "reps", "depth_reps", "prefill", "decode"):
        if getattr(plan, name) < 1:
            parser.error(f"--{name.replace('_', '-')} has to be 1 or more")
    return parser, plan


def engines(parser, plan):
    """Ours and the peers, each in the order given."""
    ours, peers = [Bitnet(*triple) for triple in plan.ours], [LlamaBench(*triple) for triple in plan.peer]
    by_name = {engine.name: engine for engine in ours + peers}
    if len(by_name) < len(ours + peers):
        parser.error("two engines have the same name")
    for engine in ours + peers:
        if not os.path.isfile(engine.model):
            parser.error(f"{engine.name}: there is no file {engine.model}")
    for name, more in plan.args:
        if name not in by_name:
            parser.error(f"--args: there is no engine {name}")
        by_name[name].arguments += more
    for name, program in plan.batched_bench:
        if by_name.get(name) not in peers:
            parser.error(f"--batched-bench: there is no peer {name}")
        by_name[name].batched_bench = program
    return ours, peers


def take_turns(plan, everyone, runs, keep):
    """Appends one entry to `runs` for each round, thread count and engine, and calls `keep` after each."""
    for number in range(plan.rounds):
        for threads in plan.threads:
            for engine in everyone:
                started, load = time.monotonic(), os.getloadavg()[0]
                speeds = engine.measure(plan, threads)
                seconds = time.monotonic() - started
                run = {"round": number, "threads": threads, "engine": engine.name, "tokens_per_second": speeds}
                runs.append(run | {"load_average_before": load, "seconds": seconds})
                keep()
                told = ", ".join(f"{what} {speed:.1f}" for what, speed in speeds.items())
                where = f"round {number + 1}, {threads} threads, {engine.name}"
                print(f"{where}: {told} t/s ({seconds:.0f} s)", file=sys.stderr)


class Table:
    """What the runs so far say. Every cell is a list with a number for each round."""

    def __init__(self, plan, runs):
        self.columns = {"decode": "decode", "prefill": f"prefill {plan.prefill}"}
        if plan.depth:
            self.columns["deep"] = f"decode at {plan.depth}"
        self.cells = {}
        for run in runs:
            for what, speed in run["tokens_per_second"].items():
                self.cells.setdefault((run["engine"], run["threads"], what), []).append(speed)
        self.threads = sorted({run["threads"] for run in runs})

    def speeds(self, engine, threads, what):
        return self.cells.get((engine.name, threads, what), [])

    def ratios(self, ours, peer, threads, what):
        return [a / b for a, b in zip(self.speeds(ours, threads, what), self.speeds(peer, threads, what))]

    def fastest(self, peers, threads, what):
        """The peer with the highest median."""
        timed = [peer for peer in peers if self.speeds(peer, threads, what)]
        return max(timed, key=lambda peer: statistics.median(self.speeds(peer, threads, what)), default=None)

    def print(self, ours, peers):
        head = " | ".join(self.columns.values())
        print(f"| tokens a second | threads | {head} |\n|---|---|{'---|' * len(self.columns)}")
        for threads in self.threads:
            for engine in ours + peers:
                cells = [spread(self.speeds(engine, threads, what), 1) for what in self.columns]
                print(f"| {engine.name} | {threads} | {' | '.join(cells)} |")
        print(f"\n| ratio | threads | {head} |\n|---|---|{'---|' * len(self.columns)}")
        for threads in self.threads:
            for own in ours:
                for peer in peers:
                    cells = [spread(self.ratios(own, peer, threads, what), 2) for what in self.columns]
                    print(f"| {own.name} / {peer.name} | {threads} | {' | '.join(cells)} |")
                cells = []
                for what in self.columns:
                    best = self.fastest(peers, threads, what)
                    cell = spread(self.ratios(own, best, threads, what), 2) if best else ""
                    cells.append(f"{cell} {best.name}" if cell else "")
                print(f"| {own.name} / fastest | {threads} | {' | '.join(cells)} |")


def spread(values, digits):
    """The median, and the range if there is one."""
    if not values:
        return ""
    low, mid, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return mid if len(values) == 1 else f"**{mid}** ({low}–{high})"


def processor():
    """The processor's name as Linux tells it, or what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def save(path, plan, everyone, runs, started):
    settings = ("threads", "rounds", "reps", "depth_reps", "prefill", "decode", "depth")
    document = {
        "started": started,
        "processor": processor(),
        "cores": os.cpu_count(),
        "settings": {name: getattr(plan, name) for name in settings},
        "engines": [engine.description() for engine in everyone],
        "runs": runs,
    }
    with open(path, "w", encoding="utf-8") as out:
        json.dump(document, out, indent=1)
        out.write("\n")


def main():
    parser, plan = arguments()
    ours, peers = engines(parser, plan)
    started, runs, failure = datetime.datetime.now().isoformat(timespec="seconds"), [], None

    def keep():
        # Again after every run: what has been measured took its time, whatever ends this program.
        if plan.json:
            save(plan.json, plan, ours + peers, runs, started)

    try:
        take_turns(plan, ours + peers, runs, keep)
    except (Failure, OSError) as error:
        failure = f"error: {error}"
    except KeyboardInterrupt:
        failure = "interrupted"
    if runs:
        Table(plan, runs).print(ours, peers)
    if failure:
        sys.exit(failure)


if __name__ == "__main__":
    main()
