# Grows the heap to about 200 MiB and gives it back, several times over.
import array, gc, hashlib

for round in range(3):
    blocks = [bytearray([i & 255]) * (1 << 20) for i in range(180)]
    print(round, len(blocks), hashlib.md5(b"".join(blocks[::17])).hexdigest())
    d = {str(i): (i, [i] * 3) for i in range(100_000)}
    a = array.array("Q", range(200_000))
    print(sum(v[0] for v in d.values()), sum(a), sorted(d)[12345])
    del blocks, d, a
    gc.collect()
