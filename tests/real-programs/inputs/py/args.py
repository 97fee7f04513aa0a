import hashlib, os, sys

print(sys.argv[1:])
print([os.fsencode(a) for a in sys.argv[1:]])
print(sorted(os.environ.items()))
data = sys.stdin.buffer.read()
print(len(data), hashlib.sha256(data).hexdigest())
print("an error message", file=sys.stderr)
sys.exit(int(os.environ.get("EXIT", "0")))
