#!/usr/bin/env python3
"""Checks that every test that a document names exists: `path/to/file.rs::function`.

Exits 1 and prints what is missing. SECURITY.md and SPECIFICATION.md must name tests; what docs/ says about them must be true.
"""
import glob
import os
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
MUST_NAME_TESTS = ("SECURITY.md", "SPECIFICATION.md")
CLAIM = re.compile(r"`([\w./-]+\.rs)::(\w+)`")


def tests_in(path):
    """Names of the functions that carry a test attribute; empty for a file that does not exist."""
    try:
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            text = f.read()
    except FileNotFoundError:
        return set()
    return set(re.findall(r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:async )?fn (\w+)", text))


def main():
    missing = 0
    others = sorted(glob.glob("docs/**/*.md", root_dir=ROOT, recursive=True))
    for document in (*MUST_NAME_TESTS, *others):
        with open(os.path.join(ROOT, document), encoding="utf-8") as f:
            claims = CLAIM.findall(f.read())
        if not claims and document in MUST_NAME_TESTS:
            print(f"{document} names no test")
            missing += 1
        for path, name in claims:
            if name not in tests_in(path):
                print(f"{document} names {path}::{name}, which does not exist")
                missing += 1
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
