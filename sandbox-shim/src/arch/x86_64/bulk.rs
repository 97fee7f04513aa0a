//! Copying and filling memory: `memory.copy` and `memory.fill` of guests, and what the C functions of these names are
//! made of.
//!
//! Most ranges are short, so up to [`STRAIGHT`] bytes are done without a loop: everything is loaded before anything is
//! stored, by accesses that may overlap, which is right for overlapping ranges too. Longer ones are done 64 bytes at
//! a time, and by the processor's own string instructions from [`STRING`] bytes on, where these are faster; they are slow to
//! start, and slow for overlapping ranges. Loops are assembly, since a compiler makes calls of `memcpy` and `memset` of them,
//! which are defined by these functions. Nothing beyond SSE2 is used, which every x86-64 processor has.

use core::arch::asm;
use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_set1_epi8, _mm_storeu_si128};

/// Longest range that is done without a loop.
const STRAIGHT: usize = 128;
/// Shortest range for `rep movsb` and `rep stosb`.
const STRING: usize = 2048;

/// Copies bytes; the ranges may overlap.
///
/// # Safety
/// Both ranges must be mapped with the access they need.
#[inline]
pub unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: by the contract; each function gets a number of bytes that it is for.
    unsafe {
        match bytes {
            0..=16 => copy_to_16(to, from, bytes),
            17..=32 => copy_ends::<1>(to, from, bytes),
            33..=64 => copy_ends::<2>(to, from, bytes),
            65..=STRAIGHT => copy_ends::<4>(to, from, bytes),
            _ => copy_long(to, from, bytes),
        }
    }
}

/// Copies up to 16 bytes.
///
/// # Safety
/// As for [`copy`].
#[inline(always)]
unsafe fn copy_to_16(to: *mut u8, from: *const u8, bytes: usize) {
    /// Two accesses that cover a range of one to two sizes of `T`.
    macro_rules! ends {
        ($ty:ty) => {{
            let last = bytes - size_of::<$ty>();
            let first = from.cast::<$ty>().read_unaligned();
            let second = from.add(last).cast::<$ty>().read_unaligned();
            to.cast::<$ty>().write_unaligned(first);
            to.add(last).cast::<$ty>().write_unaligned(second);
        }};
    }
    // SAFETY: by the contract of `copy`; every access is inside of the range.
    unsafe {
        match bytes {
            0 => {}
            1 => *to = *from,
            2..=3 => ends!(u16),
            4..=7 => ends!(u32),
            _ => ends!(u64),
        }
    }
}

/// Copies `N` to `2 * N` times 16 bytes: `N` vectors from the start and `N` that end at the end.
///
/// # Safety
/// As for [`copy`].
#[inline(always)]
unsafe fn copy_ends<const N: usize>(to: *mut u8, from: *const u8, bytes: usize) {
    let rest = bytes - 16 * N;
    // SAFETY: by the contract of `copy`; every access is inside of the range. Unaligned access is what these are for.
    unsafe {
        let first: [__m128i; N] = core::array::from_fn(|i| _mm_loadu_si128(from.add(16 * i).cast()));
        let last: [__m128i; N] = core::array::from_fn(|i| _mm_loadu_si128(from.add(rest + 16 * i).cast()));
        for (i, vector) in first.into_iter().enumerate() {
            _mm_storeu_si128(to.add(16 * i).cast(), vector);
        }
        for (i, vector) in last.into_iter().enumerate() {
            _mm_storeu_si128(to.add(rest + 16 * i).cast(), vector);
        }
    }
}

/// Copies more than [`STRAIGHT`] bytes.
///
/// # Safety
/// As for [`copy`].
unsafe fn copy_long(to: *mut u8, from: *const u8, bytes: usize) {
    // Distances modulo 2^64: one less than `bytes` says that the other range begins inside of this one.
    let (ahead, behind) =
        ((to as usize).wrapping_sub(from as usize), (from as usize).wrapping_sub(to as usize));
    if ahead < bytes {
        // SAFETY: by the contract, and `to` is not below `from`.
        unsafe { copy_down(to, from, bytes) }
    } else if bytes >= STRING && behind >= bytes {
        // SAFETY: by the contract; the ranges are disjoint.
        unsafe {
            asm!("rep movsb", inout("rcx") bytes => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        }
    } else {
        // SAFETY: by the contract, and `to` does not lie inside of `from`'s range.
        unsafe { copy_up(to, from, bytes) }
    }
}

/// Copies at least 64 bytes at ascending addresses.
///
/// # Safety
/// As for [`copy`], and `to` must not lie inside of `from`'s range.
unsafe fn copy_up(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: by the contract. The last 64 bytes are loaded first, as they may be overwritten before their turn, and stored
    // last; the loop runs while more than 64 bytes are left, so it stays inside of both ranges. What it stores
    // is below everything that it loads later.
    unsafe {
        asm!(
            "movups {e}, [{from} + {left} - 64]",
            "movups {f}, [{from} + {left} - 48]",
            "movups {g}, [{from} + {left} - 32]",
            "movups {h}, [{from} + {left} - 16]",
            "2:",
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "sub {left}, 64",
            "cmp {left}, 64",
            "ja 2b",
            "movups [{to} + {left} - 64], {e}",
            "movups [{to} + {left} - 48], {f}",
            "movups [{to} + {left} - 32], {g}",
            "movups [{to} + {left} - 16], {h}",
            from = inout(reg) from => _, to = inout(reg) to => _, left = inout(reg) bytes => _,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            e = out(xmm_reg) _, f = out(xmm_reg) _, g = out(xmm_reg) _, h = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// Copies more than 64 bytes at descending addresses.
///
/// # Safety
/// As for [`copy`], and `to` must not be below `from`.
unsafe fn copy_down(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: as in `copy_up`, from the other end: the first 64 bytes are loaded first and stored last.
    unsafe {
        asm!(
            "movups {e}, [{from}]",
            "movups {f}, [{from} + 16]",
            "movups {g}, [{from} + 32]",
            "movups {h}, [{from} + 48]",
            "2:",
            "movups {a}, [{from} + {left} - 16]",
            "movups {b}, [{from} + {left} - 32]",
            "movups {c}, [{from} + {left} - 48]",
            "movups {d}, [{from} + {left} - 64]",
            "movups [{to} + {left} - 16], {a}",
            "movups [{to} + {left} - 32], {b}",
            "movups [{to} + {left} - 48], {c}",
            "movups [{to} + {left} - 64], {d}",
            "sub {left}, 64",
            "cmp {left}, 64",
            "ja 2b",
            "movups [{to}], {e}",
            "movups [{to} + 16], {f}",
            "movups [{to} + 32], {g}",
            "movups [{to} + 48], {h}",
            from = in(reg) from, to = in(reg) to, left = inout(reg) bytes => _,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            e = out(xmm_reg) _, f = out(xmm_reg) _, g = out(xmm_reg) _, h = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// Sets bytes.
///
/// # Safety
/// The range must be mapped and writable.
#[inline]
pub unsafe fn fill(to: *mut u8, byte: u8, bytes: usize) {
    let word = u64::from(byte) * 0x0101_0101_0101_0101;
    // SAFETY: by the contract; every access is inside of the range.
    unsafe {
        match bytes {
            0 => {}
            1 => *to = byte,
            2..=3 => {
                to.cast::<u16>().write_unaligned(word as u16);
                to.add(bytes - 2).cast::<u16>().write_unaligned(word as u16);
            }
            4..=7 => {
                to.cast::<u32>().write_unaligned(word as u32);
                to.add(bytes - 4).cast::<u32>().write_unaligned(word as u32);
            }
            8..=16 => {
                to.cast::<u64>().write_unaligned(word);
                to.add(bytes - 8).cast::<u64>().write_unaligned(word);
            }
            17..=32 => fill_ends::<1>(to, byte, bytes),
            33..=64 => fill_ends::<2>(to, byte, bytes),
            65..=STRAIGHT => fill_ends::<4>(to, byte, bytes),
            _ => fill_long(to, byte, bytes),
        }
    }
}

/// Sets `N` to `2 * N` times 16 bytes.
///
/// # Safety
/// As for [`fill`].
#[inline(always)]
unsafe fn fill_ends<const N: usize>(to: *mut u8, byte: u8, bytes: usize) {
    // SAFETY: by the contract of `fill`; every access is inside of the range.
    unsafe {
        let vector = _mm_set1_epi8(byte as i8);
        for i in 0..N {
            _mm_storeu_si128(to.add(16 * i).cast(), vector);
            _mm_storeu_si128(to.add(bytes - 16 * (i + 1)).cast(), vector);
        }
    }
}

/// Sets more than 64 bytes.
///
/// # Safety
/// As for [`fill`].
unsafe fn fill_long(to: *mut u8, byte: u8, bytes: usize) {
    if bytes >= STRING {
        // SAFETY: by the contract of `fill`.
        unsafe {
            asm!("rep stosb", inout("rcx") bytes => _, inout("rdi") to => _, in("al") byte,
                options(nostack, preserves_flags));
        }
        return;
    }
    // SAFETY: by the contract of `fill`. The loop runs while more than 64 bytes are left; the last 64 are set behind it.
    unsafe {
        asm!(
            "2:",
            "movups [{to}], {vector}",
            "movups [{to} + 16], {vector}",
            "movups [{to} + 32], {vector}",
            "movups [{to} + 48], {vector}",
            "add {to}, 64",
            "sub {left}, 64",
            "cmp {left}, 64",
            "ja 2b",
            "movups [{to} + {left} - 64], {vector}",
            "movups [{to} + {left} - 48], {vector}",
            "movups [{to} + {left} - 32], {vector}",
            "movups [{to} + {left} - 16], {vector}",
            to = inout(reg) to => _, left = inout(reg) bytes => _, vector = in(xmm_reg) _mm_set1_epi8(byte as i8),
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    /// Every length up to beyond the loops' first rounds, and some around the string instructions' threshold.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..400).chain([1000, 1023, 1024, STRING - 1, STRING, STRING + 1, 5000])
    }

    fn pattern() -> Vec<u8> {
        (0..12_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn a_copy_moves_its_range_and_nothing_else_at_every_length_and_overlap() {
        for bytes in lengths() {
            let distances = [0, 1, 7, 15, 16, 31, 63, 64, 65, 100, 127, 200, bytes, bytes + 1];
            for distance in distances {
                for (to, from) in [(300 + distance, 300), (300, 300 + distance)] {
                    let mut actual = pattern();
                    let mut expected = actual.clone();
                    expected.copy_within(from..from + bytes, to);
                    let start = actual.as_mut_ptr();
                    // SAFETY: both ranges lie inside of the vector.
                    unsafe { copy(start.add(to), start.add(from), bytes) };
                    assert!(actual == expected, "{bytes} bytes from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn a_fill_sets_its_range_and_nothing_else_at_every_length() {
        for bytes in lengths() {
            for to in [300, 301, 317] {
                let mut actual = pattern();
                let mut expected = actual.clone();
                expected[to..to + bytes].fill(0xa7);
                // SAFETY: the range lies inside of the vector.
                unsafe { fill(actual.as_mut_ptr().add(to), 0xa7, bytes) };
                assert!(actual == expected, "{bytes} bytes at {to}");
            }
        }
    }
}
