"""What all measurements share: where things are, running commands, tables, and errors."""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.dont_write_bytecode = True  # leave nothing in the source tree
sys.path.insert(0, os.path.join(ROOT, "tests", "real-programs"))
import run as programs  # noqa: E402,F401  (run.py and its siblings use it from here)

EPOCHS = ["-W", "epoch-interruption=y,timeout=1000s"]  # without a deadline every guest would be interrupted at once


class Stop(Exception):
    """One line that says why there are no figures."""


def output(command, **kw):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)
    if done.returncode != 0:
        raise Stop(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-400:]}")
    return done.stdout


def table(title, header, rows):
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(str(c) for c in row)} |")
    sys.stdout.flush()
