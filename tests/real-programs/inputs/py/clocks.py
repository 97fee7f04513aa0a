# Nothing here depends on the host's speed: only relations are printed.
import os, random, select, sys, time

a, b = time.monotonic_ns(), time.monotonic_ns()
print("monotonic", a <= b)
start = time.monotonic()
time.sleep(0.05)
print("slept", time.monotonic() - start >= 0.05)
now = time.time()
print("wall clock is this century", 1.7e9 < now < 4.1e9)
print("cpu clock", time.process_time() >= 0)
r, s = os.urandom(32), os.urandom(32)
print("random", len(r), r != s, random.SystemRandom().randrange(1 << 64) != random.SystemRandom().randrange(1 << 64))
print("hash seeds differ or are fixed", isinstance(hash("x"), int))
print("select", [len(x) for x in select.select([0], [], [], 5)])
print(sys.stdin.read())
start = time.monotonic()
print("timeout", select.select([], [], [], 0.02), time.monotonic() - start >= 0.02)
