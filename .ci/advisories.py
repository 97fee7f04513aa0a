#!/usr/bin/env python3
"""Fails if the locked code generator has a published flaw, by the table compiler/advisories.toml.

usage: advisories.py [--lock FILE] [--table FILE]
       advisories.py --self-test

Advisories of Cranelift are filed under Wasmtime; the table explains what this does about it.
"""
import argparse
import os
import re
import sys
import tempfile
import tomllib
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
# Cranelift 0.N.P was released with Wasmtime (N - 87).0.P, since Wasmtime 1.0.
CRANELIFT_AHEAD = 87
COMPARE = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b}


class Problem(Exception):
    """One line that says why the check fails."""


def parse_version(text):
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        raise Problem(f"{text!r} is not a version of three numbers")
    return tuple(int(part) for part in text.split("."))


def within(version, requirement):
    """Whether a version satisfies all comparisons of a requirement such as `>= 1.2.3, < 2.0.0`."""
    for part in requirement.split(","):
        operator, _, bound = part.strip().partition(" ")
        if operator not in COMPARE:
            raise Problem(f"{part.strip()!r} is not a comparison")
        if not COMPARE[operator](version, parse_version(bound)):
            return False
    return True


def affects(advisory, version):
    fine = advisory["patched"] + advisory["unaffected"]
    if not fine:
        raise Problem(f"{advisory['id']} names no version without the flaw")
    return not any(within(version, requirement) for requirement in fine)


def locked_wasmtime(lock):
    """The Wasmtime that the locked Cranelift belongs to."""
    versions = {p["version"] for p in lock["package"] if p["name"] == "cranelift-codegen"}
    if len(versions) != 1:
        raise Problem(f"Cargo.lock has {len(versions)} versions of cranelift-codegen, expected one")
    (version,) = versions
    zero, minor, patch = parse_version(version)
    if zero != 0 or minor <= CRANELIFT_AHEAD:
        raise Problem(f"cranelift-codegen {version} belongs to no known Wasmtime: correct the mapping in .ci/advisories.py")
    return version, (minor - CRANELIFT_AHEAD, 0, patch)


def check(lock, table):
    """What to print if all is well."""
    cranelift, wasmtime = locked_wasmtime(lock)
    first, last = table["lines"]
    name = f"cranelift-codegen {cranelift} (Wasmtime {'.'.join(map(str, wasmtime))})"
    if not first <= wasmtime[0] <= last:
        raise Problem(f"{name} is not covered by compiler/advisories.toml, which speaks about Wasmtime {first} to {last}: extend it")
    advisories = table["advisory"]
    ids = [advisory["id"] for advisory in advisories]
    if repeated := {i for i in ids if ids.count(i) > 1}:
        raise Problem(f"compiler/advisories.toml has {', '.join(sorted(repeated))} more than once")
    found = [a for a in advisories if affects(a, wasmtime)]
    if serious := [a for a in found if a["ours"]]:
        flaws = "; ".join(f"{a['id']}: {a['why']}" for a in serious)
        raise Problem(f"{name} has known flaws, update it: {flaws}")
    others = f"; in parts that are not used here: {', '.join(a['id'] for a in found)}" if found else ""
    return f"{name}: none of {len(advisories)} advisories up to {table['date']}{others}"


class Tests(unittest.TestCase):
    def setUp(self):
        with open(os.path.join(ROOT, "compiler", "advisories.toml"), "rb") as f:
            self.table = tomllib.load(f)

    def lock(self, *versions):
        return {"package": [{"name": "cranelift-codegen", "version": v} for v in versions]}

    def refused(self, version, words, table=None):
        with self.assertRaisesRegex(Problem, words):
            check(self.lock(version), table or self.table)

    def test_versions_with_flaws_fail_and_their_fixes_do_not(self):
        self.refused("0.135.3", "GHSA-hw8m-q44c-ggrf")  # Wasmtime 48.0.3
        self.assertIn("48.0.4", check(self.lock("0.135.4"), self.table))
        self.refused("0.127.2", "GHSA-vc8c-j3xm-xj73")  # Wasmtime 40.0.2, and a line that gets no more fixes:
        self.refused("0.127.4", "GHSA-qqfj-4vcm-26hv")
        self.assertIn("36.0.7", check(self.lock("0.123.7"), self.table))

    def test_a_flaw_elsewhere_is_told_and_does_not_fail(self):
        self.assertIn("GHSA-jqpg-j7w6-42pr", check(self.lock("0.123.15"), self.table))

    def test_a_made_up_flaw_of_the_locked_version_fails(self):
        with open(os.path.join(ROOT, "Cargo.lock"), "rb") as f:
            lock = tomllib.load(f)
        check(lock, self.table)
        flaw = {"id": "GHSA-fake", "patched": [">= 1000.0.0"], "unaffected": [], "ours": True, "why": "made up"}
        with self.assertRaisesRegex(Problem, "GHSA-fake: made up"):
            check(lock, self.table | {"advisory": self.table["advisory"] + [flaw]})

    def test_what_the_table_does_not_cover_fails(self):
        self.refused("0.137.0", "not covered")
        self.refused("0.122.0", "not covered")
        self.refused("0.73.1", "no known Wasmtime")
        self.refused("1.0.0", "no known Wasmtime")
        self.refused("0.135.8-beta", "three numbers")
        for versions in ((), ("0.135.8", "0.135.7")):
            with self.assertRaisesRegex(Problem, "expected one"):
                check(self.lock(*versions), self.table)

    def test_a_broken_table_fails(self):
        first = self.table["advisory"][0]
        for change, words in (
            ({"patched": [], "unaffected": []}, "without the flaw"),
            ({"patched": ["~> 3.0.0"]}, "not a comparison"),
            ({"patched": [">= 3.0"]}, "three numbers"),
        ):
            self.refused("0.135.8", words, self.table | {"advisory": [first | change]})
        self.refused("0.135.8", "more than once", self.table | {"advisory": [first, first]})

    def test_the_command_exits_with_one_for_a_version_with_flaws(self):
        with tempfile.NamedTemporaryFile("w", suffix=".lock") as f:
            f.write('[[package]]\nname = "cranelift-codegen"\nversion = "0.130.0"\n')
            f.flush()
            self.assertEqual(main(["--lock", f.name], quiet=True), 1)
        self.assertEqual(main([], quiet=True), 0)


def main(arguments, quiet=False):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", default=os.path.join(ROOT, "Cargo.lock"))
    parser.add_argument("--table", default=os.path.join(ROOT, "compiler", "advisories.toml"))
    parser.add_argument("--self-test", action="store_true")
    o = parser.parse_args(arguments)
    if o.self_test:
        return 0 if unittest.main(argv=["advisories.py"], exit=False).result.wasSuccessful() else 1
    try:
        with open(o.lock, "rb") as lock, open(o.table, "rb") as table:
            words = check(tomllib.load(lock), tomllib.load(table))
    except (Problem, OSError, tomllib.TOMLDecodeError) as e:
        if not quiet:
            print(f"advisories.py: {e}", file=sys.stderr)
        return 1
    if not quiet:
        print(words)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
