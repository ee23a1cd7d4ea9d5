#!/usr/bin/env python3
"""Compiles CUDA sources without a GPU: `nvrtc.py PACKAGES SOURCES`.

PACKAGES is where pip has put nvidia-cuda-nvrtc, nvidia-cuda-runtime and nvidia-cuda-nvcc. SOURCES holds files that are
called `sm_90.KERNEL.N.cu`. Each is compiled for its architecture with the options that CubeCL passes. The PTX of the
mat-vec kernel must multiply four bytes at once, that of the tiles must use matrix units, and their machine code is made
with ptxas, which says what registers it takes and whether it has to spill.
"""

import concurrent.futures
import ctypes
import pathlib
import subprocess
import sys
import tempfile


class Nvrtc:
    """The library, by its C interface."""

    def __init__(self, packages):
        folder = packages / "nvidia" / "cuda_nvrtc" / "lib"
        name = next(path for path in sorted(folder.glob("libnvrtc.so*")) if "alt" not in path.name)
        self.library = ctypes.CDLL(str(name))
        # wmma's header is in two packages.
        roots = [packages / "nvidia" / package / "include" for package in ("cuda_runtime", "cuda_nvcc")]
        self.includes = [f"--include-path={root}" for root in roots]

    def text(self, program, size, get):
        length = ctypes.c_size_t()
        getattr(self.library, size)(program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        getattr(self.library, get)(program, buffer)
        return buffer.value.decode()

    def ptx(self, source, arch):
        """The PTX of `source`, or the compiler's complaints as an error."""
        program = ctypes.c_void_p()
        self.library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), None, 0, None, None)
        options = [f"--gpu-architecture={arch}", *self.includes]
        arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if self.library.nvrtcCompileProgram(program, len(options), arguments) != 0:
            raise SystemExit(self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog"))
        return self.text(program, "nvrtcGetPTXSize", "nvrtcGetPTX")


def machine_code(packages, ptx, arch):
    """What ptxas says of registers and spills."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [packages / "nvidia" / "cuda_nvcc" / "bin" / "ptxas", "-v", f"-arch={arch}", path]
        done = subprocess.run([*command, "-o", path.with_suffix(".cubin")], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    lines = [line.strip() for line in done.stderr.splitlines()]
    spills = next((line.split(",", 1)[1].strip() for line in lines if "spill stores" in line), "")
    used = next((line.split("Used ", 1)[1] for line in lines if "Used " in line), "")
    return f"{used.split(',')[0]}, {spills}"


def compiled(packages, path):
    """Architecture, kernel and instructions of a source, and what ptxas says of it."""
    arch, kernel, _ = path.name.split(".", 2)
    # As CubeCL does: from Hopper on, with what only that architecture has.
    arch = arch + "a" if int(arch[3:]) >= 90 else arch
    ptx = Nvrtc(packages).ptx(path.read_text(), arch)
    uses = [name for name, sign in (("dp4a", "dp4a."), ("mma", "mma.sync")) if sign in ptx]
    return arch, kernel, uses, machine_code(packages, ptx, arch)


def main():
    packages, sources = map(pathlib.Path, sys.argv[1:3])
    found = {"dp4a": set(), "mma": set()}
    paths = sorted(sources.glob("sm_*.cu"))
    with concurrent.futures.ProcessPoolExecutor() as pool:
        results = pool.map(compiled, [packages] * len(paths), paths)
        for path, (arch, kernel, uses, code) in zip(paths, results):
            for name in uses:
                found[name].add((arch, kernel))
            print(f"{path.name:40} {' '.join(uses):8} {code}", flush=True)
    for name, kernel in (("dp4a", "matvec"), ("mma", "tiles")):
        for arch in ("sm_80", "sm_90a"):
            if (arch, kernel) not in found[name]:
                raise SystemExit(f"no {kernel} for {arch} uses {name}")
    print(f"{len(paths)} kernels compiled")


if __name__ == "__main__":
    main()
