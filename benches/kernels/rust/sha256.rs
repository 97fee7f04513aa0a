//! Hashing with 32-bit rotations: SHA-256.
mod common;

const fn constants() -> [u32; 64] {
    // The first 32 bits of the fractional parts of the cube roots of the first 64 primes, by integer arithmetic.
    let (mut k, mut n, mut prime) = ([0; 64], 0, 2u128);
    while n < 64 {
        let (mut low, mut high) = (0u128, 8u128 << 32);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if middle * middle * middle <= prime << 96 { low = middle } else { high = middle }
        }
        k[n] = low as u32;
        n += 1;
        loop {
            prime += 1;
            let mut divisor = 2;
            while divisor * divisor <= prime && prime % divisor != 0 {
                divisor += 1;
            }
            if divisor * divisor > prime {
                break;
            }
        }
    }
    k
}
static K: [u32; 64] = constants();

fn block(state: &mut [u32; 8], bytes: &[u8; 64]) {
    let mut w = [0u32; 64];
    for (word, bytes) in w.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for i in 16..64 {
        let (a, b) = (w[i - 15], w[i - 2]);
        let s0 = a.rotate_right(7) ^ a.rotate_right(18) ^ a >> 3;
        let s1 = b.rotate_right(17) ^ b.rotate_right(19) ^ b >> 10;
        w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for i in 0..64 {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let t1 = h.wrapping_add(s1).wrapping_add(e & f ^ !e & g).wrapping_add(K[i]).wrapping_add(w[i]);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t2 = s0.wrapping_add(a & b ^ a & c ^ b & c);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
    }
    for (s, v) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *s = s.wrapping_add(v);
    }
}

fn sha256(message: &[u8]) -> [u32; 8] {
    let mut state =
        [0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19];
    let mut blocks = message.chunks_exact(64);
    for bytes in &mut blocks {
        block(&mut state, bytes.try_into().unwrap());
    }
    let mut tail = [0u8; 128];
    let rest = blocks.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    tail[rest.len()] = 0x80;
    let end = if rest.len() < 56 { 64 } else { 128 };
    tail[end - 8..end].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    for bytes in tail[..end].chunks_exact(64) {
        block(&mut state, bytes.try_into().unwrap());
    }
    state
}

fn main() {
    assert_eq!(sha256(b"abc")[0], 0xba7816bf);
    let mut random = common::Random::new();
    let mut data: Vec<u8> = (0..1 << 16).map(|_| random.next() as u8).collect();
    let mut sum = 0;
    for round in 0..1400 {
        let digest = sha256(&data[..data.len() - round]);
        data[round * 3] ^= digest[7] as u8;
        sum = common::mix(sum, u64::from(digest[0]));
    }
    common::report(sum);
}
