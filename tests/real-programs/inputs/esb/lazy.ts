export async function lazy(n: bigint) { label: for (const i of [1, 2, 3]) { if (i > 2) break label; await using_(i); } return n ** 64n; }
async function using_(x: number) { return x?.toString().at(-1) ?? /(?<year>\d{4})/dv.exec('2024')?.groups?.year; }
