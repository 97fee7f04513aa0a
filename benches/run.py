#!/usr/bin/env python3
"""Measures sandboxd side by side with its peers, in one run, and prints tables in Markdown.

usage: run.py [--bin DIR] [--wasmtime PATH] [--modules DIR] [--harness PATH] [--runs N] [--rounds N] [--skip PATTERN]...
              [--only MODULE]... [--json FILE] [jobs|start|kernels|calls|compile]...

  jobs    latency and rate of jobs that do nothing, through the library and through a daemon; with a build of
          `jobs` that has the feature `peers`, Wasmtime in-process too
  start   `sandboxctl run hello.wasm` with a warm cache, `wasmtime run` of the precompiled module, the same in
          `bwrap --unshare-all`, and /bin/true as the floor of process creation
  kernels guest code, start included: sandboxctl, Wasmtime, Wasmtime with epochs. The kernels in kernels/, programs that
          hardly call the host (compute.py), then cases of the real-program tests as they are. --rounds of each
          (default 5); --skip leaves out cases whose names match
  calls   host calls by kind, under the profiles `default` and `wasi-direct`, in Wasmtime, and where there is such a thing in a native
          program; the rate of stdin to stdout through a guest
  compile sandboxc and `wasmtime compile`: time, memory, size of the code; --only some of the modules. The large ones need
          minutes and up to 8 GiB

All by default. --bin is where sandboxctl and sandboxd are (default: target/release), --modules is what
tests/real-programs/fetch.py wrote. Contenders of one table take turns, so that whatever else the host does hits all of
them; figures are medians. A contender whose result is wrong, or that is missing, is an error, not an empty cell.
"""
import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time

from common import HERE, ROOT, Stop, output, programs, table
from compiling import measure_compile
from guest_code import measure_kernels
from host_calls import measure_host_calls

TABLES = ("jobs", "start", "kernels", "calls", "compile")


def spawn_and_wait(command, environment):
    """Seconds from posix_spawn to the end of the process, with /dev/null for stdio."""
    actions = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    elapsed = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise Stop(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return elapsed


def compare_commands(commands, runs, environment):
    """Times of each command, run in turn `runs` times after a tenth as many unmeasured rounds."""
    times = {name: [] for name in commands}
    for i in range(runs + runs // 10 + 1):
        for name, command in commands.items():
            elapsed = spawn_and_wait(command, environment)
            if i > runs // 10:
                times[name].append(elapsed)
    return times


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def measure_start(o, scratch, environment):
    hello = os.path.join(ROOT, "examples", "guests", "hello.wasm")
    compiled, artifact = os.path.join(scratch, "hello.cwasm"), os.path.join(scratch, "hello.artifact")
    output([o.wasmtime, "compile", "-o", compiled, hello])
    output([o.sandboxctl, "compile", hello, "-o", artifact], env=environment)
    wasmtime = [o.wasmtime, "run", "--allow-precompiled", compiled]
    bwrap = shutil.which("bwrap") or stop("bwrap is not installed (apt install bubblewrap)")
    with_daemon = programs.Daemon(o.sandboxd, scratch, environment)
    commands = {
        "`sandboxctl run hello.wasm`, no daemon": [o.sandboxctl, "run", "--no-daemon", hello],
        "`sandboxctl run` of the artifact, no daemon": [o.sandboxctl, "run", "--no-daemon", artifact],
        "`sandboxctl run hello.wasm`, daemon": [o.sandboxctl, "run", "--socket", with_daemon.socket, hello],
        "`wasmtime run hello.cwasm`": wasmtime,
        "the same in `bwrap --unshare-all`": [bwrap, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", *wasmtime],
        "`/bin/true`": ["/bin/true"],
    }
    try:
        for name, command in commands.items():
            if name != "`/bin/true`" and output(command, env=environment) != b"hello from inside the sandbox\n":
                raise Stop(f"{name} printed something else than it should")
        times = compare_commands(commands, o.runs, environment)
    finally:
        with_daemon.stop()
    figures = {n: {"p50_ms": statistics.median(t) * 1e3, "p99_ms": percentile(t, 0.99) * 1e3} for n, t in times.items()}
    rows = [(n, f"{f['p50_ms']:.2f}", f"{f['p99_ms']:.2f}") for n, f in figures.items()]
    table(f"Start to end of hello.wasm, ms, {o.runs} rounds", ("command", "p50", "p99"), rows)
    return figures


def stop(message):
    raise Stop(message)


def measure_jobs(o, scratch, environment):
    binary = o.harness
    if not os.access(binary, os.X_OK):
        raise Stop(f"{binary} is missing: cargo build --release --manifest-path benches/Cargo.toml [--features peers]")
    daemon = programs.Daemon(o.sandboxd, scratch, environment)
    latencies = {
        "library, on demand": [binary, "latency"],
        "daemon's socket, on demand": [binary, "latency", "--socket", daemon.socket],
    }
    if "--in-process-wasmtime" in output([binary, "latency", "--help"]).decode():
        latencies["Wasmtime in-process: instantiate, run, drop"] = [binary, "latency", "--in-process-wasmtime"]
    rates = {
        "library": [binary, "throughput"],
        "daemon's socket": [binary, "throughput", "--socket", daemon.socket],
    }
    figures = {}
    try:
        for name, command in latencies.items():
            for gap in (1000, 0):
                f = json.loads(output(command + ["--gap-us", str(gap)], env=environment))["latency"]
                figures[f"{name}, gap {gap} us"] = f
        for name, command in rates.items():
            figures[f"{name}: rate"] = json.loads(output(command, env=environment))["jobs_per_second"]
    finally:
        daemon.stop()
    rows = [(n, *(f"{f[k]:.1f}" for k in ("p50_us", "p99_us"))) for n, f in figures.items() if isinstance(f, dict)]
    table("One job that does nothing, µs", ("path", "p50", "p99"), rows)
    rows = [(n.removesuffix(": rate"), f"{f:.0f}") for n, f in figures.items() if isinstance(f, float)]
    table(f"Jobs per second, {os.cpu_count()} CPUs, 2 shards, 8 in flight", ("path", "jobs/s"), rows)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=os.path.abspath, default=os.path.join(ROOT, "target", "release"))
    parser.add_argument("--wasmtime", default=shutil.which("wasmtime"))
    parser.add_argument("--modules", type=os.path.abspath, default=os.path.join(ROOT, "target", "real-programs"))
    harness = os.path.join(HERE, "target", "release", "jobs")
    parser.add_argument("--harness", type=os.path.abspath, default=harness, help="the program `jobs` (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip", action="append", default=[])
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--json")
    parser.add_argument("tables", nargs="*", metavar="jobs|start|kernels|calls|compile")
    o = parser.parse_args()
    o.sandboxctl, o.sandboxd, o.sandboxc = (os.path.join(o.bin, n) for n in ("sandboxctl", "sandboxd", "sandboxc"))
    wanted = o.tables or TABLES
    if os.access("/dev/shm", os.W_OK):  # the cases' files: a disk's fsync would drown what is measured
        tempfile.tempdir = "/dev/shm"
    measures = {"jobs": measure_jobs, "start": measure_start, "kernels": measure_kernels, "calls": measure_host_calls, "compile": measure_compile}
    try:
        if unknown := set(wanted) - set(TABLES):
            raise Stop(f"unknown table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
        for binary in (o.sandboxctl, o.sandboxd):
            if not os.access(binary, os.X_OK):
                raise Stop(f"{binary} is missing: cargo build --release")
        if wanted != ["jobs"] and not (o.wasmtime and os.access(o.wasmtime, os.X_OK)):
            raise Stop("no wasmtime: cargo install --locked wasmtime-cli@48.0.8, or --wasmtime PATH")
        figures = {"kernel": os.uname().release, "cpus": os.cpu_count()}
        with tempfile.TemporaryDirectory(prefix="sandboxd-bench-") as scratch:
            environment = dict(os.environ, SANDBOXD_STATE_DIR=os.path.join(scratch, "state"))
            for name in wanted:
                figures[name] = measures[name](o, scratch, environment)
        if o.json:
            with open(o.json, "w") as f:
                json.dump(figures, f, indent=1)
    except (Stop, programs.Failure) as e:
        print(f"run.py: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
