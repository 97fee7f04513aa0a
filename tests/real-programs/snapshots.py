#!/usr/bin/env python3
"""Follows the recipes of docs/snapshots.md: snapshots of CPython and QuickJS, and of the example in Rust, must give what the programs
give that start from the beginning.

usage: snapshots.py --sandboxctl PATH [--modules DIR]

Prints one line per check and exits 0 only if all passed. Without rustc for wasm32-wasip1 the example is NOT CHECKED, in one line.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
EXAMPLES = os.path.join(HERE, "..", "..", "examples", "snapshots")
SEED = ["--env", "PYTHONHASHSEED=0"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sandboxctl", required=True)
    parser.add_argument("--modules", default=os.path.join(HERE, "..", "..", "target", "real-programs"))
    options = parser.parse_args()
    sandboxctl, modules = os.path.abspath(options.sandboxctl), os.path.abspath(options.modules)
    failed = 0

    def call(*arguments, stdin=""):
        command = [sandboxctl, *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True)

    def run(*arguments, stdin=""):
        done = call("run", "--no-daemon", *arguments, stdin=stdin)
        return done.returncode, done.stdout, done.stderr

    def check(what, found, expected):
        nonlocal failed
        passed = found == expected
        failed += not passed
        print(("ok      " if passed else "FAILED  ") + what)
        if not passed:
            print(f"  expected {expected!r}\n  found    {found!r}")

    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)

        def extended(module, recipe):
            path = os.path.join(modules, module)
            tool = [sys.executable, "-B", os.path.join(EXAMPLES, "extend.py")]
            subprocess.run([*tool, path, os.path.join(EXAMPLES, recipe), "extended-" + module], check=True)
            return path, "extended-" + module

        def snapshot(module, name, *arguments):
            made = call("snapshot", module, "--init", "init", "-o", name, *arguments)
            check(f"{name} is made", made.returncode, 0)
            if made.returncode:
                print(made.stderr)
            return made.stderr

        python, extended_python = extended("python.wasm", "cpython.recipe")
        snapshot(extended_python, "python.snap", *SEED)
        program = "import json, sys\nprint(json.dumps(sorted({'a', 'b'})), len(sys.path), hash('x'))\nsys.exit(3)\n"
        check("CPython at its prompt", run("python.snap", stdin=program), run(*SEED, python, stdin=program))
        directory = ["--ro-dir", os.path.join(HERE, "inputs", "py") + "::/in"]
        file = [*SEED, *directory]
        snapshot(extended_python, "file.snap", *file, "--", "/in/arithmetic.py")
        check("CPython with a file", run(*directory, "file.snap"), run(*file, python, "/in/arithmetic.py"))

        quickjs, extended_quickjs = extended("quickjs.wasm", "quickjs.recipe")
        told = snapshot(extended_quickjs, "quickjs.snap")
        check("QuickJS has asked for time", "not pure: it asked for time" in told, True)
        script = "console.log([3, 1, 2].sort().join(), JSON.stringify({a: 0.1 + 0.2}))"
        check("QuickJS", run("quickjs.snap", script), run(quickjs, "-e", script))

        source = os.path.join(EXAMPLES, "primes.rs")
        build = ["rustc", "--edition", "2024", "--target", "wasm32-wasip1", "-O", "--crate-type", "cdylib"]
        try:
            built = subprocess.run([*build, source, "-o", "primes.wasm"], capture_output=True).returncode == 0
        except FileNotFoundError:
            built = False
        if built:
            told = snapshot("primes.wasm", "primes.snap")
            check("primes are pure", "pure: it depends on its inputs only" in told, True)
            snapshot("primes.wasm", "same.snap")
            same = open("primes.snap", "rb").read() == open("same.snap", "rb").read()
            check("primes have the same bytes twice", same, True)
            check("primes", run("primes.snap", "664579"), (0, "9999991\n", ""))
            report = json.loads(run("--json", "primes.snap", "1")[1].splitlines()[-1])
            from_start = json.loads(run("--json", "primes.wasm", "1")[1].splitlines()[-1])
            print(f"        CPU time: {from_start['cpu_us']} us from the start, {report['cpu_us']} us from the snapshot")
        else:
            print("NOT CHECKED: the example in Rust, without rustc for wasm32-wasip1")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
