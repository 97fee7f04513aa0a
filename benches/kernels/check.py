#!/usr/bin/env python3
"""Builds the kernels and checks that each prints on sandboxctl what expected.txt says, which Wasmtime printed too.

usage: check.py [--sandboxctl PATH] [--skip PATTERN]...

Prints "N passed, N failed"; exits 0 only if all passed.
"""
import argparse
import fnmatch
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TIMEOUT = 60  # seconds; the slowest kernel takes one


def run(command, environment):
    """What is wrong with a command's end, and its output."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"did not end within {TIMEOUT} s", ""
    wrong = f"exit {done.returncode}: {done.stderr.decode(errors='replace')[-400:]}" if done.returncode else None
    return wrong, done.stdout.decode(errors="replace").strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sandboxctl = os.path.join(HERE, "..", "..", "target", "release", "sandboxctl")
    parser.add_argument("--sandboxctl", type=os.path.abspath, default=sandboxctl)
    parser.add_argument("--skip", action="append", default=[])
    o = parser.parse_args()
    with open(os.path.join(HERE, "expected.txt")) as f:
        expected = dict(line.split() for line in f)
    passed, failed = 0, 0
    with tempfile.TemporaryDirectory(prefix="kernels-") as scratch:
        environment = dict(os.environ, SANDBOXD_STATE_DIR=os.path.join(scratch, "state"))
        subprocess.run([os.path.join(HERE, "build.sh"), scratch], check=True)
        built = {name.removesuffix(".wasm") for name in os.listdir(scratch) if name.endswith(".wasm")}
        if built != expected.keys():
            print(f"check.py: expected.txt and the kernels differ: {sorted(built ^ expected.keys())}", file=sys.stderr)
            return 1
        for name in sorted(built):
            if any(fnmatch.fnmatch(name, pattern) for pattern in o.skip):
                print(f"NOT CHECKED: kernel {name}")
                continue
            wrong, output = run([o.sandboxctl, "run", "--no-daemon", os.path.join(scratch, name + ".wasm")], environment)
            if not wrong and output != expected[name]:
                wrong = f"printed {output!r}, expected {expected[name]}"
            passed, failed = passed + (not wrong), failed + bool(wrong)
            print(f"{'FAILED' if wrong else 'ok':7} {name}{': ' + wrong if wrong else ''}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
