//! What every kernel in Rust shares: a generator of reproducible data and a hash of results, as in `kernel.h`.
#![allow(dead_code)] // no kernel uses all of it

pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    /// xorshift64*: the same numbers on every machine.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
}

pub fn mix(hash: u64, value: u64) -> u64 {
    let hash = (hash ^ value).wrapping_mul(0x100_0000_01b3);
    hash ^ hash >> 29
}

pub fn report(checksum: u64) {
    println!("{checksum:016x}");
}
