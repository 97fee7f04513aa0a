#!/usr/bin/env python3
"""Runs the WASI preview 1 part of https://github.com/WebAssembly/wasi-testsuite through `sandboxctl run`.

usage: run.py --sandboxctl PATH SUITE [TEST]...
       run.py --wasmtime PATH SUITE [TEST]...

SUITE is a copy of the branch `prod/testsuite-base`, which has the tests as modules. It is not changed: what a test may write
to is copied first. The JSON file beside a module says what it is given and what must come of it, as doc/specification.md of
the suite has it. Prints one line per test that fails and "N/M passed"; exits 0 only if all did, and there were some.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

LANGUAGES = ("assemblyscript", "c", "rust")
TIMEOUT = 120


class Failure(Exception):
    """One line that says what is wrong."""


def tests(suite):
    for language in LANGUAGES:
        folder = os.path.join(suite, "tests", language, "testsuite", "wasm32-wasip1")
        for name in sorted(os.listdir(folder)):
            if name.endswith(".wasm"):
                yield f"{language}/{name[:-5]}", os.path.join(folder, name)


def operations(module):
    """What the test's JSON file asks for, as a list; the older form of it is turned into the newer."""
    path = module[:-5] + ".json"
    spec = {}
    if os.path.exists(path):
        with open(path) as f:
            spec = json.load(f)
    if "operations" in spec:
        return spec["operations"]
    known = {"args", "root", "dirs", "env", "exit_code", "stdout", "stderr"}
    if set(spec) - known:
        raise Failure(f"unknown keys {sorted(set(spec) - known)} in {path}")
    steps = [{"type": "run", **{k: spec[k] for k in ("args", "env", "root", "dirs") if k in spec}}]
    steps += [{"type": "read", "id": id, "payload": spec[id]} for id in ("stdout", "stderr") if id in spec]
    return steps + [{"type": "wait", "exit_code": spec.get("exit_code", 0)}]


def directories(step, module, scratch):
    """Fresh copies of the directories that the test may use, with their names in the guest."""
    wanted = [(step["root"], "/")] if step.get("root") else []
    wanted += [(name, name) for name in step.get("dirs", [])]
    given = []
    for number, (name, guest) in enumerate(wanted):
        copy = os.path.join(scratch, str(number))
        shutil.copytree(os.path.join(os.path.dirname(module), name), copy, symlinks=True)
        given.append((copy, guest))
    return given


def command(arguments, step, module, given):
    if arguments.wasmtime:
        line = [arguments.wasmtime, "run"]
    else:
        line = [arguments.sandboxctl, "run", "--no-daemon", "--state-dir", arguments.state]
    for host, guest in given:
        line += ["--dir", f"{host}::{guest}"]
    for name, value in step.get("env", {}).items():
        line += ["--env", f"{name}={value}"]
    return line + [module] + step.get("args", [])


def run(arguments, module):
    process, scratch = None, tempfile.mkdtemp(dir=arguments.scratch)
    try:
        for step in operations(module):
            kind = step.get("type")
            if kind == "run":
                line = command(arguments, step, module, directories(step, module, scratch))
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
                process = subprocess.Popen(line, **pipes)
            elif kind == "write":
                process.stdin.write(step["payload"].encode())
                process.stdin.flush()
            elif kind == "read":
                wanted = step.get("payload", "").encode()
                found = getattr(process, step.get("id", "stdout")).read(len(wanted))
                if found != wanted:
                    raise Failure(f"{step.get('id', 'stdout')}: expected {wanted!r}, got {found!r}")
            elif kind == "wait":
                out, err = process.communicate(timeout=TIMEOUT)
                if process.returncode != step.get("exit_code", 0):
                    words = (out + err).decode(errors="replace").strip()
                    raise Failure(f"status {process.returncode}, expected {step.get('exit_code', 0)}: {words}")
            else:
                raise Failure(f"an operation of type {kind!r} is unknown here")
    except subprocess.TimeoutExpired:
        raise Failure(f"did not end within {TIMEOUT} s") from None
    finally:
        if process and process.poll() is None:
            process.kill()
            process.wait()


def main():
    parser = argparse.ArgumentParser()
    runtime = parser.add_mutually_exclusive_group(required=True)
    runtime.add_argument("--sandboxctl", type=os.path.abspath)
    runtime.add_argument("--wasmtime", type=os.path.abspath)
    parser.add_argument("suite")
    parser.add_argument("test", nargs="*")
    arguments = parser.parse_args()
    chosen = [(n, m) for n, m in tests(arguments.suite) if not arguments.test or n in arguments.test]
    passed = 0
    with tempfile.TemporaryDirectory(prefix="wasi-testsuite-") as arguments.scratch:
        arguments.state = os.path.join(arguments.scratch, "state")
        for name, module in chosen:
            try:
                run(arguments, module)
                passed += 1
            except Failure as failure:
                print(f"FAILED  {name}: {failure}")
    print(f"{passed}/{len(chosen)} passed")
    return 0 if chosen and passed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
