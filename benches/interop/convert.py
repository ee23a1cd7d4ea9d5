#!/usr/bin/env python3
"""Times a conversion against copying the bytes that it reads and writes, in turn, and tells its peak of memory.

A round copies (all of IN is read, as many bytes as OUT has are written and brought to disk), then runs each command, which
must bring its output to disk too. Speeds of a shared machine change within minutes, so the ratio is formed within a
round; printed are medians with their range. Other programs' converters can be added with `--peer`.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import statistics
import subprocess
import sys
import time

CHUNK = 16 << 20


def files(path):
    return sorted(path.rglob("*")) if path.is_dir() else [path]


def size(path):
    return sum(file.stat().st_size for file in files(path) if file.is_file())


def copy(source, target, count):
    """Reads all of `source` and writes `count` bytes of it, over and over if need be, to `target`."""
    begin = time.monotonic()
    written = 0
    with open(target, "wb") as out:
        while True:
            for file in filter(pathlib.Path.is_file, files(source)):
                with open(file, "rb") as data:
                    while chunk := data.read(CHUNK):
                        written += out.write(chunk[: count - written])
            if written >= count:
                break
        out.flush()
        os.fsync(out.fileno())
    seconds = time.monotonic() - begin
    target.unlink()
    return seconds


def timed(command, output):
    """Seconds until a command is done and its output is on disk, and the peak of its memory in bytes."""
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)
    begin = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{shlex.join(command)}: {said.strip().splitlines()[-1:]}")
    for file in filter(pathlib.Path.is_file, files(output)):
        with open(file, "rb+") as data:
            os.fsync(data.fileno())
    return time.monotonic() - begin, usage.ru_maxrss * 1024


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bitnet", help="our program")
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path, help="is written, measured and removed")
    parser.add_argument("--options", default="", help="of `bitnet convert`, in one word")
    parser.add_argument("--peer", nargs=2, action="append", default=[], metavar=("NAME", "COMMAND"),
                        help="a shell command that writes the file $OUT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    ours = [args.bitnet, "convert", str(args.source), str(args.out), *shlex.split(args.options)]
    commands = {"bitnet": ours}
    for name, command in args.peer:
        commands[name] = ["sh", "-c", f"OUT={shlex.quote(str(args.out))}; {command}"]
    timed(ours, args.out)
    read, written = size(args.source), size(args.out)
    rounds = []
    for _ in range(args.rounds):
        one = {"copy": copy(args.source, args.out.with_name(args.out.name + ".copy"), written), "load": os.getloadavg()[0]}
        for name, command in commands.items():
            one[name], one[f"{name} memory"] = timed(command, args.out)
        rounds.append(one)
    print(f"{read} bytes read, {written} written, {args.rounds} rounds")
    print(f"copy: {spread([r['copy'] for r in rounds])} s")
    for name in commands:
        peak = max(r[f"{name} memory"] for r in rounds)
        ratio = spread([r[name] / r["copy"] for r in rounds])
        print(f"{name}: {spread([r[name] for r in rounds])} s, {ratio} times the copy, at most {peak / 1e9:.2f} GB of memory")
    if args.json:
        args.json.write_text(json.dumps({"read": read, "written": written, "rounds": rounds}, indent=1) + "\n")
    shutil.rmtree(args.out) if args.out.is_dir() else args.out.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
