"""Measures guest code: kernels and real programs on sandboxctl, Wasmtime, and Wasmtime with epoch interruption.

Everything is compiled before. Start-up is included and nothing is subtracted; what it costs is the first row. Besides the
time from start to end there is the CPU time, which other load on the machine disturbs less: that of the command and of
everything that it waited for and, as the instance is not the command's own child, what the job's report says about it.
"""
import fnmatch
import json
import math
import os
import resource
import statistics
import time

from common import EPOCHS, HERE, Stop, output, programs, table
from cases import Case, Step
from compute import COMPUTE, FILES

OURS, PEER, PEER_EPOCHS = "sandboxctl", "Wasmtime", "Wasmtime, epochs"
PROGRAMS = ("quickjs-language", "sqlite-database", "python-text", "python-files", "esbuild-bundle")
FLOOR = "hello (start-up floor)"
GOAL = 1.05  # no case may be slower than this, compared with PEER, without a written reason
KERNELS = os.path.join(HERE, "kernels")


class Sandboxctl(programs.Sandboxctl):
    """Runs artifacts, without a daemon, and takes the job's report off the output."""

    def __init__(self, binary, modules, scratch, environment):
        super().__init__(binary, modules, None)
        self.scratch, self.environment = scratch, environment

    def command(self, case, step, directories):
        artifact = os.path.join(self.scratch, case.module + ".artifact")
        if not os.path.exists(artifact):
            module = programs.module_path(case.module, self.modules)
            output([self.binary, "compile", module, "-o", artifact], env=self.environment)
        command = super().command(case, step, directories)
        command[command.index("--") - 1] = artifact
        return command[:2] + ["--json"] + command[2:]

    def cpu_of(self, result):
        """Seconds that the reports say the instances used; removes the reports."""
        total = 0
        for step in result["steps"]:
            out = step["stdout"]
            at = out.rfind(b'{"cache_problem"')
            if at < 0:
                raise Stop(f"{self.binary} wrote no report: {out[-200:]!r}")
            total += json.loads(out[at:])["cpu_us"] / 1e6
            step["stdout"] = out[:at]
        return total


class Wasmtime(programs.Wasmtime):
    """Wasmtime with some options, for compilation and run."""

    def __init__(self, binary, modules, scratch, options):
        super().__init__(binary, modules, scratch)
        self.options = options

    def command(self, case, step, directories):
        compiled = os.path.join(self.scratch, case.module + ".cwasm")
        if not os.path.exists(compiled):
            output([self.binary, "compile", *self.options, "-o", compiled, programs.module_path(case.module, self.modules)])
        command = super().command(case, step, directories)
        return command[:2] + self.options + command[2:]

    def cpu_of(self, _result):
        return 0


def engines(o, modules, scratch, environment):
    folders = {name: os.path.join(scratch, folder) for name, folder in ((OURS, "o"), (PEER, "w"), (PEER_EPOCHS, "e"))}
    for folder in folders.values():
        os.makedirs(folder, exist_ok=True)
    return {
        OURS: (Sandboxctl(o.sandboxctl, modules, folders[OURS], environment), environment),
        PEER: (Wasmtime(o.wasmtime, modules, folders[PEER], []), None),
        PEER_EPOCHS: (Wasmtime(o.wasmtime, modules, folders[PEER_EPOCHS], EPOCHS), None),
    }


def children_cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_case(case, contenders, inputs, runs, expected):
    """Medians of wall and CPU time by contender. Everyone must give what `expected` or, if None, Wasmtime says."""
    wall, cpu = ({name: [] for name in contenders} for _ in range(2))
    reference = expected
    for i in range(runs + 1):
        for name, (engine, environment) in reversed(contenders.items()):
            before, start = children_cpu(), time.perf_counter()
            result = programs.run_case(case, engine, inputs, environment, 300)
            elapsed, used = time.perf_counter() - start, children_cpu() - before
            used += engine.cpu_of(result)
            reference = reference or programs.golden_of(result)
            if wrong := programs.differences(result, reference, None):
                raise Stop(f"{name}: {case.id}: {wrong[0]}")
            if i:  # the first round compiles
                wall[name].append(elapsed)
                cpu[name].append(used)
    return {
        name: {"wall": statistics.median(wall[name]), "cpu": statistics.median(cpu[name])} for name in contenders
    }


def ratio(figures, peer, kind):
    return figures[OURS][kind] / figures[peer][kind]


def means(figures):
    """Geometric means of the four ratios; of no figures, which `--skip` can leave, there are none."""
    pairs = [(peer, kind) for kind in ("wall", "cpu") for peer in (PEER, PEER_EPOCHS)]
    if not figures:
        return [math.nan] * len(pairs)
    return [statistics.geometric_mean(ratio(f, *pair) for f in figures) for pair in pairs]


def row(name, figures):
    ratios = [ratio(figures, peer, kind) for kind in ("wall", "cpu") for peer in (PEER, PEER_EPOCHS)]
    slow = [kind for kind in ("wall", "cpu") if ratio(figures, PEER, kind) > GOAL]
    note = f"above {GOAL}: {', '.join(slow)}" if slow and name != FLOOR else ""
    times = (f"{figures[n]['wall'] * 1e3:.0f}" for n in (OURS, PEER, PEER_EPOCHS))
    return (name, *times, *(f"{r:.3f}" for r in ratios), note)


HEADER = ("case", OURS, PEER, PEER_EPOCHS, "wall / W", "wall / W epochs", "CPU / W", "CPU / W epochs", "note")


def compare(title, cases, contenders, inputs, runs, expected):
    """Measures the cases and prints their table; figures by case."""
    figures = {}
    for case in cases:
        wanted = expected and {"steps": [{"exit": 0, "stdout": {"text": expected[case.id]}}]}
        figures[case.id] = measure_case(case, contenders, inputs, runs, wanted)
    rows = [row(name, f) for name, f in figures.items()]
    counted = [f for name, f in figures.items() if name != FLOOR]
    rows.append(("geometric mean", "", "", "", *(f"{m:.3f}" for m in means(counted)), ""))
    table(f"{title}: wall time in ms, and ratios, medians of {runs}", HEADER, rows)
    return figures


def expected_outputs():
    """What each kernel prints."""
    with open(os.path.join(KERNELS, "expected.txt")) as f:
        lines = [line.split() for line in f]
    return {name: checksum + "\n" for name, checksum in lines}


def kernel_cases(o, built):
    """The kernels, built into `built`, less those that the options leave out."""
    output([os.path.join(KERNELS, "build.sh"), built])
    names = sorted(name.removesuffix(".wasm") for name in os.listdir(built))
    if names != sorted(expected_outputs()):
        raise Stop("kernels/expected.txt does not name the kernels that there are")
    skipped = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in o.skip)]
    if skipped:
        print(f"\nNot measured: {', '.join(skipped)}")
    return [Case(name, name, [Step([name])], stderr=False) for name in names if name not in skipped]


def measure_kernels(o, scratch, environment):
    runs = o.rounds
    kernels = kernel_cases(o, os.path.join(scratch, "kernels"))
    floor = Case(FLOOR, "hello", [Step(["hello"])], stderr=False)
    expected = expected_outputs() | {FLOOR: "hello from inside the sandbox\n"}
    inputs = programs.stage_inputs(scratch, o.modules)
    contenders = engines(o, os.path.join(scratch, "kernels"), os.path.join(scratch, "compiled"), environment)
    figures = {"kernels": compare("Kernels", [floor, *kernels], contenders, inputs, runs, expected)}
    contenders = engines(o, o.modules, os.path.join(scratch, "compiled-programs"), environment)
    compute = [c for c in COMPUTE if not any(fnmatch.fnmatch(c.id, p) for p in o.skip)]
    figures["compute"] = compare("Programs that compute", compute, contenders, inputs, runs, None)
    chosen = programs.selected([p for p in PROGRAMS if not any(fnmatch.fnmatch(p, s) for s in o.skip)])
    chosen += [c for c in FILES if not any(fnmatch.fnmatch(c.id, s) for s in o.skip)]
    figures["programs"] = compare("Programs that call the host", chosen, contenders, inputs, runs, None)

    del figures["kernels"][FLOOR]
    rows = []
    for name, groups in (
        ("kernels", ["kernels"]),
        ("kernels and programs that compute", ["kernels", "compute"]),
        ("everything", ["kernels", "compute", "programs"]),
    ):
        counted = [f for group in groups for f in figures[group].values()]
        rows.append((f"{name} ({len(counted)})", *(f"{m:.3f}" for m in means(counted))))
    table("Geometric means", ("of", *HEADER[4:8]), rows)
    slow = [c for group in figures.values() for c, f in group.items() if ratio(f, PEER, "wall") > GOAL]
    print(f"\nAbove {GOAL} of Wasmtime's wall time: {', '.join(slow) or 'none'}")
    return figures
