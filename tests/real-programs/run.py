#!/usr/bin/env python3
"""Runs real programs through `sandboxctl run`, with and without a daemon, and compares with what Wasmtime gave.

usage: run.py --sandboxctl PATH [--daemon PATH] [--modules DIR] [--wasmtime PATH] [--mode MODE]... [--policy POLICY] [CASE]...
       run.py --record --wasmtime PATH [--modules DIR] [CASE]...

Prints one line per case and "N passed, N failed"; exits 0 only if every case of every mode passed. Anything that is
missing (a module, a golden, a binary) is a failure. With --wasmtime, a case that fails is run there again to show the first
difference. --record writes goldens.json: every case is run twice, and one that differs from itself is refused.
"""
import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True  # leave nothing in the source tree
from cases import CASES  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLES = os.path.join(HERE, "..", "..", "examples")
GOLDENS = os.path.join(HERE, "goldens.json")
INPUT_TIME = 1_600_000_000  # every input file has this mtime, so that guests may print it
TEXT_LIMIT = 6000  # larger outputs are recorded by hash and length
MODES = ("embedded", "daemon")


class Failure(Exception):
    """One line that says what is wrong."""


def described(data):
    """What goes into goldens.json for some bytes."""
    if len(data) <= TEXT_LIMIT:
        try:
            return {"text": data.decode()}
        except UnicodeDecodeError:
            pass
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def module_path(name, modules):
    """The example guests come with the repository, everything else from fetch.py."""
    example = os.path.join(EXAMPLES, "guests", name + ".wasm")
    return example if os.path.exists(example) else os.path.join(modules, name + ".wasm")


def stage_inputs(scratch, modules):
    """Copies the inputs, adds the packages and some links that lead out, and sets every time to INPUT_TIME."""
    root = os.path.join(scratch, "inputs")
    shutil.copytree(os.path.join(HERE, "inputs"), root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(os.path.join(EXAMPLES, "texts"), os.path.join(root, "texts"))
    shutil.copytree(os.path.join(modules, "node_modules"), os.path.join(root, "esb", "node_modules"))
    os.symlink("../../../../../../etc/passwd", os.path.join(root, "py", "host-escape"))
    os.symlink("sample.txt", os.path.join(root, "py", "host-inside"))
    for folder, _, files in os.walk(root):
        for path in [os.path.join(folder, f) for f in files] + [folder]:
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.path.isdir(path) else 0o644)
            os.utime(path, (INPUT_TIME, INPUT_TIME), follow_symlinks=False)
    return root


class Wasmtime:
    """The peer that the goldens come from. Modules are compiled once."""

    def __init__(self, binary, modules, scratch):
        self.binary, self.modules, self.scratch = binary, modules, scratch

    def command(self, case, step, directories):
        compiled = os.path.join(self.scratch, case.module + ".cwasm")
        if not os.path.exists(compiled):
            module = module_path(case.module, self.modules)
            subprocess.run([self.binary, "compile", "-o", compiled, module], check=True)
        command = [self.binary, "run", "--allow-precompiled", "--argv0", step.argv[0]]
        for host, guest, _ in directories:
            command += ["--dir", f"{host}::{guest}"]
        for name, value in step.env.items():
            command += ["--env", f"{name}={value}"]
        return command + [compiled] + step.argv[1:]


class Sandboxctl:
    """Our own, with an embedded supervisor or through a daemon on `socket`."""

    def __init__(self, binary, modules, socket, policy=None):
        self.binary, self.modules, self.socket, self.policy = binary, modules, socket, policy

    def command(self, case, step, directories):
        command = [self.binary, "run", "--argv0", step.argv[0]]
        command += ["--socket", self.socket] if self.socket else ["--no-daemon"]
        command += ["--policy", self.policy] if self.policy else []
        for host, guest, writable in directories:
            command += ["--dir" if writable else "--ro-dir", f"{host}::{guest}"]
        for name, value in step.env.items():
            command += ["--env", f"{name}={value}"]
        return command + [module_path(case.module, self.modules), "--"] + step.argv[1:]


def converse(process, lines):
    """Sends each line after the answer to the one before; what came out is returned as if it had been captured."""
    received = b""
    try:
        for line in lines:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            received += process.stdout.readline()
        process.stdin.close()
    except BrokenPipeError:  # it ended early; what it said and its status tell the rest
        pass
    return received + process.stdout.read()


def run_step(command, step, environment, timeout):
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    if step.dialog is None:
        try:
            out, err = process.communicate(step.stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Failure(f"did not end within {timeout} s") from None
    else:
        alarm = threading.Timer(timeout, process.kill)
        alarm.start()
        try:
            out = converse(process, step.dialog)
            err = process.stderr.read()
            process.wait()
        finally:
            alarm.cancel()
            process.kill()
        if process.returncode == -signal.SIGKILL:
            raise Failure(f"an answer did not come within {timeout} s")
    return {"exit": process.returncode, "stdout": out, "stderr": err}


def run_case(case, engine, inputs, environment, timeout):
    """Raw results: a list of steps and the compared files."""
    with tempfile.TemporaryDirectory(prefix="case-") as work:
        os.chmod(work, 0o755)
        directories = [(os.path.join(inputs, folder), guest, False) for folder, guest in case.inputs]
        for guest in case.writable:
            os.mkdir(work + guest)
            directories.append((work + guest, guest, True))
        steps = []
        for step in case.steps:
            steps.append(run_step(engine.command(case, step, directories), step, environment, timeout))
            if not case.stderr:
                steps[-1]["stderr"] = None
        files = {}
        for guest in case.files:
            try:
                with open(work + guest, "rb") as f:
                    files[guest] = f.read()
            except FileNotFoundError:
                files[guest] = None
        return {"steps": steps, "files": files}


def golden_of(result):
    steps = [
        {"exit": s["exit"]} | {k: described(s[k]) for k in ("stdout", "stderr") if s[k] is not None}
        for s in result["steps"]
    ]
    files = {name: None if data is None else described(data) for name, data in result["files"].items()}
    return {"steps": steps} | ({"files": files} if files else {})


def shorten(data, at=0):
    start = max(0, at - 40)
    return repr(data[start : at + 120])


def first_difference(ours, theirs):
    n = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    return f"byte {n} of {len(ours)} (Wasmtime: {len(theirs)}): ours {shorten(ours, n)}, Wasmtime {shorten(theirs, n)}"


def differences(result, golden, peer):
    """Lines that say what differs; empty when nothing does."""
    actual = golden_of(result)
    lines = []

    def compare(what, got, want, raw, raw_peer):
        if got == want:
            return
        if raw is not None and raw_peer is not None:
            lines.append(f"{what} differs at {first_difference(raw, raw_peer)}")
        elif raw is not None and want is not None and "text" in want:
            lines.append(f"{what} differs at {first_difference(raw, want['text'].encode())}")
        else:
            lines.append(f"{what} differs: got {got}, want {want}")

    for i, (got, want) in enumerate(zip(actual["steps"], golden["steps"])):
        if got["exit"] != want["exit"]:
            err = result["steps"][i]["stderr"] or b""
            lines.append(f"step {i}: exit {got['exit']}, want {want['exit']}; stderr ends {err[-300:]!r}")
        for stream in ("stdout", "stderr"):
            raw_peer = peer["steps"][i][stream] if peer else None
            compare(f"step {i}: {stream}", got.get(stream), want.get(stream), result["steps"][i][stream], raw_peer)
    for name, got in actual.get("files", {}).items():
        raw_peer = peer["files"][name] if peer else None
        compare(f"file {name}", got, golden.get("files", {}).get(name), result["files"][name], raw_peer)
    if len(actual["steps"]) != len(golden["steps"]) or set(result["files"]) != set(golden.get("files", {})):
        lines.append("the case has changed since its golden was recorded")
    return lines


class Daemon:
    """A daemon of our own on a socket of its own."""

    def __init__(self, binary, scratch, environment):
        self.socket = os.path.join(scratch, "sandboxd.sock")
        command = [binary, "--socket", self.socket, "--state-dir", os.path.join(scratch, "state")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        first = self.process.stderr.readline()
        if "listening" not in first:
            self.process.kill()
            raise Failure(f"{binary} did not start: {first.strip() or 'it said nothing'}")
        self.words = []
        self.reader = threading.Thread(target=lambda: self.words.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failure("the daemon did not end within 30 s of SIGTERM") from None
        self.reader.join(5)
        if status != 0:
            raise Failure(f"the daemon ended with {status}: {''.join(self.words)[-500:]}")
        if os.path.exists(self.socket):
            raise Failure("the daemon left its socket behind")


def selected(ids):
    known = {c.id for c in CASES}
    if unknown := [i for i in ids if i not in known]:
        raise Failure(f"unknown case {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return [c for c in CASES if not ids or c.id in ids]


def record(options, cases, inputs, scratch):
    wasmtime = Wasmtime(options.wasmtime, options.modules, scratch)
    goldens = {}
    if options.cases and os.path.exists(GOLDENS):
        with open(GOLDENS) as f:
            goldens = json.load(f)
    refused = 0
    for case in cases:
        once, again = (run_case(case, wasmtime, inputs, None, options.timeout) for _ in range(2))
        if golden_of(once) != golden_of(again):
            refused += 1
            print(f"UNSTABLE {case.id}: {'; '.join(differences(once, golden_of(again), again))}")
            continue
        goldens[case.id] = golden_of(once)
        print(f"recorded {case.id}: exit {[s['exit'] for s in once['steps']]}")
    with open(GOLDENS, "w") as f:
        json.dump({c.id: goldens[c.id] for c in CASES if c.id in goldens}, f, indent=1, ensure_ascii=False)
        f.write("\n")
    return refused


def check(options, cases, inputs, scratch):
    with open(GOLDENS) as f:
        goldens = json.load(f)
    peer = Wasmtime(options.wasmtime, options.modules, scratch) if options.wasmtime else None
    environment = dict(os.environ, SANDBOXD_STATE_DIR=os.path.join(scratch, "state"))
    passed = failed = 0
    for mode in options.mode or MODES:
        daemon = Daemon(options.daemon, scratch, environment) if mode == "daemon" else None
        engine = Sandboxctl(options.sandboxctl, options.modules, daemon and daemon.socket, options.policy)
        for case in cases:
            start = time.monotonic()
            try:
                if case.id not in goldens:
                    raise Failure("goldens.json has nothing for it")
                result = run_case(case, engine, inputs, environment, options.timeout)
                lines = differences(result, goldens[case.id], None)
                if lines and peer:
                    again = run_case(case, peer, inputs, None, options.timeout)
                    lines = differences(result, goldens[case.id], again)
            except Failure as e:
                lines = [str(e)]
            passed, failed = (passed, failed + 1) if lines else (passed + 1, failed)
            print(f"{'FAIL' if lines else 'ok  '} {mode:8} {case.id:26} {time.monotonic() - start:7.3f} s", flush=True)
            for line in lines:
                print(f"     {line}", flush=True)
        if daemon:
            try:
                daemon.stop()
            except Failure as e:
                failed += 1
                print(f"FAIL daemon   {e}")
    print(f"{passed} passed, {failed} failed")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandboxctl", type=os.path.abspath)
    parser.add_argument("--daemon", type=os.path.abspath, help="sandboxd; default: beside sandboxctl")
    parser.add_argument("--modules", type=os.path.abspath, default=os.path.join(HERE, "..", "..", "target", "real-programs"))
    parser.add_argument("--wasmtime", type=os.path.abspath)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--mode", action="append", choices=MODES, help="default: both")
    parser.add_argument("--policy", help="of every job; default: the default policy")
    parser.add_argument("--timeout", type=float, default=180, help="seconds per program run, compilation included")
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    try:
        cases = selected(options.cases)
        missing = {c.module for c in cases if not os.path.exists(module_path(c.module, options.modules))}
        if missing:
            raise Failure(f"no module for {', '.join(sorted(missing))} in {options.modules}: run fetch.py first")
        if options.sandboxctl and not options.daemon:
            options.daemon = os.path.join(os.path.dirname(options.sandboxctl), "sandboxd")
        needed = {"--wasmtime": options.wasmtime} if options.record else {"--sandboxctl": options.sandboxctl}
        if not options.record and "daemon" in (options.mode or MODES):
            needed["--daemon"] = options.daemon
        for option, binary in needed.items():
            if not binary:
                raise Failure(f"{option} PATH is needed")
            if not os.access(binary, os.X_OK):
                raise Failure(f"{option}: there is no program {binary}; build it first")
        with tempfile.TemporaryDirectory(prefix="real-programs-") as scratch:
            inputs = stage_inputs(scratch, options.modules)
            failed = (record if options.record else check)(options, cases, inputs, scratch)
    except Failure as e:
        print(f"run.py: {e}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
