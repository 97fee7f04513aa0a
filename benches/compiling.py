"""Measures compilation: sandboxc and `wasmtime compile` at the same optimisation level and number of threads.

Wall time, CPU time and peak memory are those of the whole command (wait4); the size is that of the sections with machine code.
"""
import json
import os
import statistics
import struct
import sys

from common import HERE, Stop, output, programs, table

MODULES = ("hello", "quickjs", "sqlite", "python", "boolector", "esbuild", "pandoc", "clang")
LARGE = ("pandoc", "clang")  # one round each: minutes and gigabytes
LEVELS = {"speed": ("speed", "2"), "none": ("none", "0")}
EXECUTABLE = 4  # SHF_EXECINSTR
RUSAGE = os.path.join(HERE, "rusage.py")


def text_bytes(path):
    """Bytes in the executable sections of a 64-bit little-endian ELF file."""
    with open(path, "rb") as f:
        head = f.read(64)
        if head[:6] != b"\x7fELF\x02\x01":
            raise Stop(f"{path} is no ELF file")
        (offset,) = struct.unpack_from("<Q", head, 40)
        entry, count = struct.unpack_from("<HH", head, 58)
        f.seek(offset)
        sections = f.read(entry * count)
    total = 0
    for i in range(count):
        flags, _address, _offset, size = struct.unpack_from("<QQQQ", sections, i * entry + 8)
        total += size if flags & EXECUTABLE else 0
    return total


def timed(command, environment):
    """What a command used, by `rusage.py`."""
    used = json.loads(output([sys.executable, "-I", "-S", RUSAGE, *command], env=environment))
    if used.pop("exit") != 0:
        raise Stop(f"{' '.join(command)} failed")
    return used


def contenders(o, module, level, threads, scratch, environment):
    """Command, environment and output by name."""
    ours, theirs = LEVELS[level]
    artifact, compiled = os.path.join(scratch, "out.artifact"), os.path.join(scratch, "out.cwasm")
    parallel = "y" if threads > 1 else "n"
    return {
        "sandboxc": (
            [o.sandboxc, "--threads", str(threads), "--opt-level", ours, "-o", artifact, module],
            environment,
            artifact,
        ),
        "Wasmtime": (
            [o.wasmtime, "compile", "-O", f"opt-level={theirs}", "-C", f"parallel-compilation={parallel}", "-o", compiled, module],
            dict(os.environ, RAYON_NUM_THREADS=str(threads)),
            compiled,
        ),
    }


def measure(commands, rounds):
    """Medians of wall and CPU time, the largest peak, and the text's size, by name; in turn."""
    runs = {name: [] for name in commands}
    sizes = {}
    for _ in range(rounds):
        for name, (command, environment, result) in commands.items():
            runs[name].append(timed(command, environment))
            sizes[name] = text_bytes(result)
            os.unlink(result)
    return {
        name: {
            "wall": statistics.median(r["wall"] for r in times),
            "cpu": statistics.median(r["cpu"] for r in times),
            "peak": max(r["peak"] for r in times),
            "text": sizes[name],
        }
        for name, times in runs.items()
    }


def row(name, f):
    ours, peer = f["sandboxc"], f["Wasmtime"]
    cells = [name]
    for key, scale, form in (("wall", 1, ".2f"), ("cpu", 1, ".2f"), ("peak", 1 << 20, ".0f"), ("text", 1000, ".0f")):
        cells += [f"{ours[key] / scale:{form}}", f"{peer[key] / scale:{form}}", f"{ours[key] / peer[key]:.2f}"]
    return cells


def header():
    cells = ["module"]
    for what in ("wall s", "CPU s", "peak MiB", "code kB"):
        cells += [what, "Wasmtime", "ratio"]
    return cells


def measure_compile(o, scratch, environment):
    if not os.access(o.sandboxc, os.X_OK):
        raise Stop(f"{o.sandboxc} is missing: cargo build --release -p sandboxd-supervisor")
    paths = {name: programs.module_path(name, o.modules) for name in o.only or MODULES}
    missing = [name for name, path in paths.items() if not os.path.exists(path)]
    if missing:
        raise Stop(f"no {', '.join(missing)} in {o.modules}: tests/real-programs/fetch.py and benches/fetch_large.py")
    figures = {}
    for level in LEVELS:
        for threads in (1, 2) if level == "speed" else (1,):
            key, rows = f"{level}, {threads} threads", []
            figures[key] = {}
            for name, path in paths.items():
                rounds = 1 if name in LARGE else min(o.rounds, 3)
                commands = contenders(o, path, level, threads, scratch, environment)
                figures[key][name] = measure(commands, rounds)
                rows.append(row(name, figures[key][name]))
            each = [f for f in figures[key].values()]
            mean = [""] * len(rows[0])
            mean[0] = "geometric mean"
            for i, what in enumerate(("wall", "cpu", "peak", "text")):
                mean[3 * i + 3] = f"{statistics.geometric_mean(f['sandboxc'][what] / f['Wasmtime'][what] for f in each):.2f}"
            table(f"Compilation, opt level `{level}`, {threads} thread{'s' * (threads > 1)}", header(), [*rows, mean])
    one, two = figures["speed, 1 threads"], figures["speed, 2 threads"]
    rows = [
        (name, *(f"{one[name][c]['wall'] / two[name][c]['wall']:.2f}" for c in ("sandboxc", "Wasmtime"))) for name in one
    ]
    table("Speed-up of two threads over one", ("module", "sandboxc", "Wasmtime"), rows)
    return figures
