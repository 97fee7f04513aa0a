"""Measures host calls by kind: nanoseconds each, timed by the guest itself, and the rate of stdin to stdout through the guest."""
import os
import statistics
import subprocess
import time

from common import HERE, Stop, output, table

# Kind, calls in a batch, and whether a native program is compared.
KINDS = (
    ("sched_yield", 200_000, False),
    ("clock_time_get", 200_000, False),
    ("random_get-16", 200_000, False),
    ("args_sizes_get", 200_000, False),
    ("fd_fdstat_get", 100_000, False),
    ("fd_seek", 100_000, False),
    ("fd_tell", 100_000, False),
    ("fd_write-stdout-16", 50_000, False),
    ("fd_filestat_get", 20_000, False),
    ("path_filestat_get", 20_000, False),
    ("open-close", 10_000, False),
    ("read-4k", 20_000, True),
    ("write-4k", 20_000, True),
    ("read-64k", 5_000, True),
    ("write-64k", 5_000, True),
)
STREAMED = 2 << 30
DEFAULT, DIRECT, PEER, NATIVE = "default", "wasi-direct", "Wasmtime", "native"


def build(scratch):
    """The guest and, from the same source, the native program."""
    source, guest, native = (os.path.join(d, f) for d, f in
                             ((HERE, "host_calls.c"), (scratch, "host_calls.wasm"), (scratch, "host_calls")))
    output(["clang", "--target=wasm32-wasi", "-O2", "-o", guest, source])
    output(["cc", "-O2", "-o", native, source])
    return guest, native


def timed(command, directory, environment):
    """What the program measured, in ns. Its output goes to a pipe that is read."""
    done = subprocess.run(command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise Stop(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
    return float(done.stderr)


def streamed(command, environment):
    """GB/s of zeroes from /dev/zero to /dev/null through a guest that copies its input, a pipe, to its output."""
    source = subprocess.Popen(["head", "-c", str(STREAMED), "/dev/zero"], stdout=subprocess.PIPE)
    start = time.perf_counter()
    done = subprocess.run(command, stdin=source.stdout, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    elapsed = time.perf_counter() - start
    source.stdout.close()
    if source.wait() != 0 or done.returncode != 0:
        raise Stop(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
    return STREAMED / elapsed / 1e9


def measure_host_calls(o, scratch, environment):
    guest, native = build(scratch)
    compiled = guest.removesuffix(".wasm")
    output([o.wasmtime, "compile", "-o", compiled + ".cwasm", guest])
    output([o.sandboxctl, "compile", guest, "-o", compiled + ".artifact"], env=environment)
    data = os.path.join(scratch, "data-of-host-calls")
    os.makedirs(data)

    shared = ["--dir", f"{data}::."]

    def ours(policy):
        return [o.sandboxctl, "run", "--no-daemon", "--policy", policy, *shared, compiled + ".artifact", "--"]

    contenders = {
        DEFAULT: ours(DEFAULT),
        DIRECT: ours(DIRECT),
        PEER: [o.wasmtime, "run", "--allow-precompiled", *shared, compiled + ".cwasm"],
        NATIVE: [native],
    }
    figures = {}
    for kind, calls, has_native in KINDS:
        figures[kind] = {}
        times = {name: [] for name in contenders if name != NATIVE or has_native}
        for _ in range(o.rounds):
            for name in times:
                times[name].append(timed([*contenders[name], kind, str(calls)], data, environment))
        figures[kind] = {name: statistics.median(t) for name, t in times.items()}
    names = (DEFAULT, DIRECT, PEER, NATIVE)
    rows = [(kind, *(f"{f[n]:.0f}" if n in f else "" for n in names)) for kind, f in figures.items()]
    table(f"Host calls: ns each, medians of {o.rounds}", ("call", *names), rows)
    much = os.path.join(scratch, "much.toml")
    with open(much, "w") as f:
        f.write('version = 1\nallow_dangerous = true\ndangerous_reason = "It writes much."\n[limits]\noutput = "unlimited"\n')
    streams = {DEFAULT: ours(much), PEER: contenders[PEER]}
    rates = {name: [] for name in streams}
    for _ in range(o.rounds):
        for name, speeds in rates.items():
            speeds.append(streamed([*streams[name], "copy", "0"], environment))
    figures["stream"] = {name: statistics.median(r) for name, r in rates.items()}
    rows = [(name, f"{rate:.2f}") for name, rate in figures["stream"].items()]
    table(f"stdin to stdout through a guest, pipe to /dev/null: GB/s, medians of {o.rounds}", ("", "GB/s"), rows)
    return figures
