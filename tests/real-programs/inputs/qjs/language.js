// The language itself: closures, generators, proxies, promises, regular expressions, typed arrays, big integers.
let seed = 42;
const random = () => ((seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) / 2 ** 32);
const sieve = n => { const s = new Uint8Array(n + 1); let c = 0; for (let i = 2; i <= n; i++) if (!s[i]) { c++; for (let j = i * i; j <= n; j += i) s[j] = 1; } return c; };
print('primes', sieve(2000000));
function* permutations(a, n = a.length) { if (n <= 1) yield a.slice(); else for (let i = 0; i < n; i++) { yield* permutations(a, n - 1); const j = n % 2 ? 0 : i; [a[n - 1], a[j]] = [a[j], a[n - 1]]; } }
let checksum = 0, count = 0; for (const p of permutations([1, 2, 3, 4, 5, 6, 7])) { checksum = (checksum * 31 + p[0] * p[3] - p[6]) | 0; count++; }
print('permutations', count, checksum);
const sorted = Array.from({ length: 20000 }, random).sort((x, y) => x - y);
print('sorted', sorted.every((x, i) => !i || sorted[i - 1] <= x), sorted[1234]);
print('bigint', (3n ** 500n) % (10n ** 30n), BigInt.asIntN(64, 2n ** 63n), (-7n) / 2n, (123456789n << 100n).toString(36));
print('numbers', 0.1 + 0.2, (1e21).toString(), (255).toString(2), (0.000001234).toExponential(2), Number.MIN_VALUE, -0 === 0, Object.is(-0, 0), parseFloat('3.14abc'), (25).toFixed(3), 5 % -3, 2 ** -1074);
print('math', [Math.sin, Math.tan, Math.atan, Math.exp, Math.log, Math.cbrt, Math.tanh, Math.fround].map(f => f(0.7)).join(' '), Math.hypot(3, 4, 12), Math.clz32(1000), Math.imul(0x7fffffff, 3));
const text = 'The year 1999, the year 2024-05-17, and 31/12/2025. Ünïcödé: 𝒳𝓎𝓏 ẞ';
print('regexp', text.match(/(?<y>\d{4})-(?<m>\d\d)/).groups.y, text.replace(/\b(\w)(\w*)\b/gu, '$2$1'), [...text.matchAll(/\p{Lu}/gu)].map(m => m[0] + m.index).join(), /^(?:(a|ab)(c|bcd))(d*)$/.exec('abcd').join('|'));
print('strings', 'ﬁ'.normalize('NFKC'), 'straße'.toUpperCase(), [...'👩‍👩‍👧'].length, 'abc'.padStart(6, '12'), 'x'.repeat(3), `${[1, [2, [3]]].flat(2)}`, encodeURIComponent('é/&'), escape('ü'));
const dv = new DataView(new ArrayBuffer(16)); dv.setFloat64(0, Math.PI); dv.setInt16(8, -2, true); dv.setBigUint64(8, 2n ** 64n - 2n);
print('views', [...new Uint8Array(dv.buffer)].join(), new Float32Array([1.1, NaN, -Infinity]).join());
const log = []; const proxy = new Proxy({ a: 1 }, { get: (t, k) => (log.push(String(k)), t[k]), has: (t, k) => k === 'ghost' });
print('proxy', proxy.a, 'ghost' in proxy, 'a' in proxy, log.join(), Reflect.ownKeys({ b: 1, 2: 0, a: 1, 1: 0, [Symbol.iterator]: 0 }).map(String).join());
class Shape { #name; static made = 0; constructor(n) { this.#name = n; Shape.made++; } get name() { return this.#name; } static { this.ready = true; } }
class Square extends Shape { constructor() { super('square'); } get name() { return super.name + '!'; } }
print('classes', new Square().name, Shape.made, Shape.ready, (() => { try { null.x; } catch (e) { return e instanceof TypeError; } })());
const wm = new WeakMap(); const key = {}; wm.set(key, 7); print('collections', wm.get(key), new Set([1, NaN, NaN, 0, -0]).size, [...new Map([[1, 'a'], ['1', 'b']])].join(';'));
print('date', new Date(Date.UTC(2024, 1, 29, 12)).toISOString(), new Date('2001-09-09T01:46:40Z').getTime(), JSON.stringify({ d: new Date(0), u: undefined, n: NaN, nested: { toJSON: () => 'j' } }, null, 1));
const order = []; queueMicrotask(() => order.push('micro'));
(async () => { order.push('a'); await null; order.push('b'); for await (const x of (async function* () { yield 1; yield 2; })()) order.push(x); const r = await Promise.allSettled([Promise.reject(new Error('no')), Promise.any([Promise.reject(1), Promise.resolve('any')])]); order.push(r[0].reason.message, r[1].value); print('async', order.join(' ')); })();
order.push('sync');
