"""The cases: a program, its arguments, what it may see, and what is compared.

Every case compares the exit status and stdout of each step byte for byte with what Wasmtime gave, and stderr too
unless it says `stderr=False`. `files` are compared as well. Steps of one case share its writable directories.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    argv: list  # with the program's name first
    env: dict = field(default_factory=dict)
    stdin: bytes = b""
    dialog: list = None  # lines sent one by one, each only after the answer to the one before has arrived


@dataclass(frozen=True)
class Case:
    id: str
    module: str
    steps: list
    inputs: list = ()  # (folder below inputs/, guest path): the guest only reads there
    writable: list = ()  # guest paths of empty directories
    files: list = ()  # guest paths below a writable directory whose content is compared
    stderr: bool = True


PYTHON_ENV = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
NUMBERS = b"".join(b"%d\n" % i for i in range(300_000))
NON_ASCII = ["ä b", "", "日本語", "😀", "--", "-x=é", "a\tb\nc", "$HOME *", "'\"\\"]


def python(id, *args, env=None, stdin=b"", dialog=None, **kw):
    step = Step(["python", *args], PYTHON_ENV | (env or {}), stdin, dialog)
    return Case(id, "python", [step], inputs=[("py", "/in")], **kw)


def quickjs(id, *args, env=None, stdin=b"", dialog=None, **kw):
    return Case(id, "quickjs", [Step(["qjs", *args], env or {}, stdin, dialog)], inputs=[("qjs", "/in")], **kw)


def sqlite(id, *steps, **kw):
    # Without a home directory the shell says that it has none; give it one.
    return Case(id, "sqlite", [Step(["sqlite3", *a], {"HOME": "/data"}, s) for a, s in steps], writable=["/data"], **kw)


def esbuild(id, *args, stdin=b"", **kw):
    # A Go program: it wants to know where it is.
    return Case(id, "esbuild", [Step(["esbuild", *args], {"PWD": "/"}, stdin)], inputs=[("esb", "/")], **kw)


def boolector(id, *args, stdin=b"", **kw):
    return Case(id, "boolector", [Step(["boolector", *args], {}, stdin)], inputs=[("smt", "/in")], **kw)


def wordfreq(id, *args, env=None, stdin=b"", **kw):
    return Case(id, "wordfreq", [Step(["wordfreq", *args], env or {}, stdin)], inputs=[("texts", "/texts")], **kw)


def script(name):
    import os

    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "inputs", name), "rb") as f:
        return f.read()


CASES = [
    python("python-arithmetic", "/in/arithmetic.py"),
    python("python-text", "/in/text.py", "/in/sample.txt"),
    python("python-files", "/in/files.py", writable=["/data"],
           files=["/data/renamed/ünï cøde 文.bin", "/data/raw", "/data/log"]),
    python("python-errors", "/in/errors.py", writable=["/data"]),
    python("python-args", "/in/args.py", *NON_ASCII,
           env={"EXIT": "37", "NAME": "välue with = and spaces", "EMPTY": ""}, stdin=NUMBERS),
    python("python-exit-125", "-c", "import sys; sys.exit(125)"),
    python("python-dialog", "/in/dialog.py", dialog=["one", "two", "", "dröi", "x" * 5000]),
    python("python-flood", "/in/flood.py"),
    python("python-clocks", "/in/clocks.py", stdin=b"for select"),
    python("python-uncaught", "/in/raises.py"),
    python("python-memory", "/in/memory.py"),
    python("python-database", "/in/database.py", writable=["/data"], files=["/data/app.db"]),
    python("python-stdin-program", "-", "argument", stdin=b"import sys\nprint(sys.argv, 6 * 7)\n"),
    python("python-two-directories", "-c",
           "import os, shutil\n"
           "shutil.copy('/in/sample.txt', '/one/a'); os.rename('/one/a', '/two/b'); os.link('/two/b', '/one/c')\n"
           "print(os.listdir('/one'), os.listdir('/two'), open('/one/c').readline(), sorted(os.listdir('/in')))",
           writable=["/one", "/two"], files=["/two/b"]),
    python("python-mtimes", "-c",
           "import os\n"
           "for n in sorted(os.listdir('/in')):\n"
           "    s = os.stat('/in/' + n, follow_symlinks=False); print(n, s.st_size, s.st_mtime_ns, oct(s.st_mode))"),

    quickjs("quickjs-language", "/in/language.js"),
    quickjs("quickjs-files", "--std", "-m", "/in/files.mjs", "ä", "", "two words", env={"COLOUR": "grün"},
            stdin="erste Zeile\nder Rest\nohne Ende".encode(), writable=["/data"], files=["/data/raw.bin"]),
    quickjs("quickjs-uncaught", "/in/throws.js"),
    quickjs("quickjs-eval", "-e", "print([1,2,3].map(x => x ** 2).join()); throw 7"),
    # The interpreter overruns its own stack and aborts: a trap, after what was printed has come out.
    quickjs("quickjs-trap", "-e", "print('before'); (function f() { f(); })()", stderr=False),
    quickjs("quickjs-missing-file", "/in/absent.js"),
    quickjs("quickjs-dialog", "-m", "/in/echo.js", dialog=["alpha", "βγ", "", "y" * 3000]),
    quickjs("quickjs-usage", "--no-such-option"),

    sqlite("sqlite-database", (["-batch"], script("sql/create.sql")), (["-batch"], script("sql/query.sql")),
           files=["/data/report.csv", "/data/shop.db", "/data/copy.db"]),
    sqlite("sqlite-bail", (["-batch", "/data/x.db"], script("sql/fails.sql")), files=["/data/x.db"]),
    sqlite("sqlite-dump", (["-batch"], script("sql/dump.sql"))),
    sqlite("sqlite-arguments", (["-box", "/data/new.db", "create table t(a); insert into t values('ü'),(2); select * from t"], b""),
           (["-line", "-readonly", "/data/new.db", "select *, count(*) over () n from t; insert into t values(3)"], b"")),
    sqlite("sqlite-not-a-database", (["-batch", ":memory:", ".open /data/missing/x.db", "select * from nope"], b""),
           (["--nonsense"], b"")),

    esbuild("esbuild-bundle", "/app.tsx", "--bundle", "--minify", "--format=esm", "--target=es2020",
            "--jsx-factory=h", "--jsx-fragment=Fragment", "--loader:.svg=dataurl", "--outfile=/dist/app.js",
            "--metafile=/dist/meta.json", "--sourcemap", "--legal-comments=eof",
            writable=["/dist"], files=["/dist/app.js", "/dist/app.js.map", "/dist/app.css", "/dist/meta.json"],
            stderr=False),  # it prints how long it took
    esbuild("esbuild-splitting", "/app.tsx", "/lazy.ts", "--bundle", "--splitting", "--format=esm",
            "--jsx=automatic", "--jsx-import-source=preact", "--loader:.svg=file", "--outdir=/dist", "--log-level=error",
            "--entry-names=[name]", "--chunk-names=chunk-[hash]", "--asset-names=asset-[hash]",
            writable=["/dist"], files=["/dist/app.js", "/dist/lazy.js", "/dist/app.css"]),
    esbuild("esbuild-stdin", "--loader=ts", "--target=es2015", "--minify-whitespace",
            stdin=b"enum A { x = 'ux', y = 3 << 2 } export let f: (a: number) => void = a => console.log(`${a}`, A.y);"),
    esbuild("esbuild-large", "/node_modules/marked/lib/marked.umd.js", "--minify", "--target=es2017"),
    esbuild("esbuild-errors", "/broken.ts", "--bundle", "--color=false"),
    esbuild("esbuild-unresolved", "--bundle", "--color=false", stdin=b"import 'no-such-package'; import './style.css'"),

    boolector("boolector-sat", "/in/overflow.smt2"),
    boolector("boolector-array-unsat", "/in/array.smt2"),
    boolector("boolector-incremental", "--incremental", "/in/incremental.smt2"),
    boolector("boolector-model", "-m", "-d", "/in/factors.btor"),
    boolector("boolector-stdin", "--smt2", stdin=script("smt/array.smt2")),
    boolector("boolector-syntax-error", "/in/broken.smt2"),
    boolector("boolector-missing-file", "/in/absent.smt2"),

    Case("hello", "hello", [Step(["hello"])]),
    wordfreq("wordfreq-directory", "-n", "8", "/texts"),
    wordfreq("wordfreq-stdin", "-", "/texts/more/été.txt", env={"WORDFREQ_COUNT": "100"}, stdin=b"stdin, Stdin; L'\xc3\xa9t\xc3\xa9"),
    wordfreq("wordfreq-output", "-o", "/out/report", "/texts", writable=["/out"], files=["/out/report"]),
    wordfreq("wordfreq-unreadable", "/texts/absent", "/elsewhere", "/texts/islands.txt"),
    wordfreq("wordfreq-usage", "-x"),
]  # fmt: skip
