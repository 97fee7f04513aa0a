#!/usr/bin/env python3
"""Fetches the two large modules that only compilation is measured with (modules.json) into a directory.

usage: fetch_large.py [DEST]        (default: target/real-programs in the repository)

Through the ordinary npm client, by name and version; a module whose sha256 is not the recorded one is not written.
"""
import json
import os
import sys
import tempfile

from common import ROOT  # also makes the tests' `fetch` importable
import fetch


def main():
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
        return 2
    dest = os.path.abspath(sys.argv[1] if len(sys.argv) == 2 else os.path.join(ROOT, "target", "real-programs"))
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "modules.json")) as f:
        specs = json.load(f)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="large-modules-") as scratch:
        packages = fetch.Packages(scratch)
        for name, spec in specs.items():
            try:
                fetch.fetch_module(name, spec, packages, dest, scratch)
            except fetch.FetchError as e:
                print(f"FAILED  {name}: {e}", file=sys.stderr)
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
