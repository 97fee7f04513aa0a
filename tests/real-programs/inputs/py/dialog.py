# Answers each line as it comes: output must leave the instance before it waits for more input.
import sys

for n, line in enumerate(sys.stdin, 1):
    print(n, line.strip()[::-1], flush=True)
print("end", flush=True)
