# Sixty-four megabytes in writes of many sizes, and a little on stderr between them.
import sys

out = sys.stdout.buffer
block = bytes(range(256)) * 1024
total, n = 64 << 20, 1
while total:
    k = min(n, len(block), total)
    out.write(block[:k])
    total -= k
    n = n * 7 % 262139 + 1
out.flush()
print("done", file=sys.stderr)
