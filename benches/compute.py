"""Cases that only the benchmarks run: of COMPUTE almost all of the time is guest code, of FILES most is host calls."""
from cases import Case, Step

SQL = b"""
PRAGMA cache_size=-64000;
CREATE TABLE t(id INTEGER PRIMARY KEY, a INT, b TEXT, c REAL);
WITH RECURSIVE r(i, x) AS (SELECT 1, 99 UNION ALL SELECT i + 1, (x * 1103515245 + 12345) & 2147483647 FROM r WHERE i < 150000)
INSERT INTO t SELECT i, x % 1000, printf('s%06d', x % 100000), x / 7.0 FROM r;
CREATE INDEX ab ON t(a, b);
SELECT a, count(*) n, min(b), max(b), round(sum(c), 3) FROM t GROUP BY a ORDER BY n DESC, a LIMIT 3;
SELECT count(*) FROM t x JOIN t y ON y.id = x.a + 1 WHERE y.b > x.b;
UPDATE t SET b = b || 'x' WHERE a % 3 = 0;
SELECT sum(length(b)), count(DISTINCT b) FROM t;
SELECT round(avg(d), 6) FROM (SELECT c - lag(c) OVER (PARTITION BY a ORDER BY id) d FROM t);
CREATE VIRTUAL TABLE f USING fts5(b); INSERT INTO f SELECT 'w' || (a % 50) || ' v' || (id % 97) FROM t WHERE id < 30000;
SELECT count(*) FROM f WHERE f MATCH 'w7 AND v5';
"""

JAVASCRIPT = """
let seed = 7; const next = () => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0);
const n = 90, a = Float64Array.from({length: n * n}, () => next() / 2 ** 32), c = new Float64Array(n * n);
for (let i = 0; i < n; i++) for (let k = 0; k < n; k++) { const x = a[i * n + k]; for (let j = 0; j < n; j++) c[i * n + j] += x * a[k * n + j]; }
print(c.reduce((s, x) => s + x).toFixed(6));
const m = new Map(); for (let i = 0; i < 300000; i++) { const k = 'k' + next() % 5003; m.set(k, (m.get(k) ?? 0) + 1); } print(m.size, m.get('k17'));
const fib = n => n < 2 ? n : fib(n - 1) + fib(n - 2); print(fib(25));
let s = ''; for (let i = 0; i < 60000; i++) s += String.fromCharCode(97 + next() % 26); print((s.match(/([a-z])[a-m]+\\1/g) ?? []).length);
print([...Array(60000)].map(next).sort((x, y) => x - y)[30000], (3n ** 3000n).toString().length);
"""

PYTHON = """
import hashlib, json, re
def collatz(n):
    s = 0
    while n != 1: n = n // 2 if n % 2 == 0 else 3 * n + 1; s += 1
    return s
print(max((collatz(i), i) for i in range(1, 12000)))
words = [hashlib.md5(str(i).encode()).hexdigest()[:5] for i in range(60000)]
d = {}
for w in words: d[w[:3]] = d.get(w[:3], 0) + 1
print(sorted(d.items(), key=lambda t: (-t[1], t[0]))[:3], len(re.findall(r'([0-9])[a-f]+\\1', ' '.join(words))))
print(len(json.loads(json.dumps({w: [i, str(i)] for i, w in enumerate(words)}))))
"""

# (a + b)(a - b) = a*a - b*b, modulo 128: to be refuted by search.
SMT = b"""
(set-logic QF_BV)
(declare-fun a () (_ BitVec 7))
(declare-fun b () (_ BitVec 7))
(assert (not (= (bvmul (bvadd a b) (bvsub a b)) (bvsub (bvmul a a) (bvmul b b)))))
(check-sat)
"""

# Everything that one does with small files.
MANY_FILES = """
import os
os.mkdir('/data/new'); os.mkdir('/data/old')
name = '/data/new/file-{:04}'.format
for i in range(5000):
    with open(name(i), 'w') as f: f.write('contents of number %d\\n' % i)
total = 0
for i in range(5000):
    with open(name(i)) as f: total += len(f.read())
sizes = sum(os.stat(name(i)).st_size for i in range(5000))
print(total, sizes, len(os.listdir('/data/new')), sum(e.is_file() for e in os.scandir('/data/new')))
for i in range(5000): os.rename(name(i), '/data/old/%d' % i)
for i in range(5000): os.remove('/data/old/%d' % i)
os.rmdir('/data/old'); print(os.listdir('/data'))
os.rmdir('/data/new')
"""

FILES = [
    Case("python-5000-files", "python", [Step(["python", "-c", MANY_FILES], {"PYTHONHASHSEED": "0"})], writable=["/data"]),
]

COMPUTE = [
    Case("sqlite-memory", "sqlite", [Step(["sqlite3", "-batch", ":memory:"], {"HOME": "/"}, SQL)]),
    Case("quickjs-compute", "quickjs", [Step(["qjs", "-e", JAVASCRIPT])]),
    Case("python-compute", "python", [Step(["python", "-c", PYTHON], {"PYTHONHASHSEED": "0"})]),
    Case("boolector-multiply", "boolector", [Step(["boolector", "--smt2"], {}, SMT)]),
]
