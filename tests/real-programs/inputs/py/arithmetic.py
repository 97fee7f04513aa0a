# Arithmetic that every layer below must get right to the last bit.
import cmath, decimal, fractions, math, random, statistics, struct

random.seed(20240229)
a = [[random.gauss(0, 1) for _ in range(24)] for _ in range(24)]


def determinant(m):
    m = [row[:] for row in m]
    det = 1.0
    for i in range(len(m)):
        p = max(range(i, len(m)), key=lambda r: abs(m[r][i]))
        if p != i:
            m[i], m[p] = m[p], m[i]
            det = -det
        det *= m[i][i]
        for r in range(i + 1, len(m)):
            f = m[r][i] / m[i][i]
            for c in range(i, len(m)):
                m[r][c] -= f * m[i][c]
    return det


print("det", repr(determinant(a)))
h = fractions.Fraction(0)
for i in range(1, 400):
    h += fractions.Fraction(1, i)
print("harmonic", h.numerator % 10**20, h.denominator % 10**20)
print("pow", pow(3, 10**6, 2**127 - 1), len(str(7**5000)), (2**4000).bit_length())
print("isqrt", math.isqrt(10**301) % 10**12, math.comb(200, 77) % 10**15, math.gcd(2**90 - 1, 2**60 - 1))
decimal.getcontext().prec = 60
print("dec", decimal.Decimal(7).ln(), decimal.Decimal("1e-40") + 1)
edge = [0.0, -0.0, 1e-310, 5e-324, 1.7976931348623157e308, float("inf"), float("nan"), 0.1 + 0.2, -1.5, 2.5, 1e22]
for x in edge:
    print(repr(x), struct.pack("<d", x).hex(), "%.17g" % x, x.hex(), repr(struct.unpack("<f", struct.pack("<f", x))[0]) if abs(x) < 3e38 or x != x else "-")
print([round(x) for x in (-2.5, -1.5, 0.5, 1.5, 2.5)], [math.floor(x) for x in (-0.5, 0.5)], math.fmod(-7, 3), -7 % 3, -7 // 2)
print([f(0.5) for f in (math.sin, math.cos, math.tan, math.asin, math.acos, math.atan, math.sinh, math.exp, math.log, math.sqrt, math.erf, math.gamma)])
print(cmath.exp(1j), cmath.sqrt(-2), math.fsum([0.1] * 10), sum([0.1] * 10))
print(statistics.mean(a[0]), statistics.pstdev(a[1]), statistics.median(a[2]), statistics.linear_regression(a[3], a[4]))
print(int("z" * 30, 36), (-12345678901234567890) >> 13, ~(1 << 70) & 0xFFFF, (1 << 64) - 1 ^ 0xAAAA)
for bad in ("1 // 0", "1.0 / 0", "math.sqrt(-1)", "math.exp(1000)", "2.0 ** 10000", "int('x')", "1 << -1"):
    try:
        print(bad, eval(bad))
    except Exception as e:
        print(bad, type(e).__name__, e)
