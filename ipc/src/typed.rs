//! Typed functions of the host app: how the parameters of an imported function are marshalled.
//!
//! The supervisor writes a table of descriptors to the ring ([`crate::job::TABLE_OFFSET`]) before the instance starts, so artifacts know nothing
//! of interfaces. Its first words are one entry per import number ([`pack_entry`]; 0 for an import that is called with its
//! bare values, see [`crate::imports`]); an entry says where the function's [`Arg`]s are, one word each.
//!
//! A call is a [`crate::ring::Submission`] whose function is [`crate::imports::FUNCTIONS`] plus the import's number, with one word
//! per [`Arg`]: the value, or a range of the arena. Ranges of bytes to be read hold them; of an [`Arg::Out`] the range begins with
//! [`OUT_HEAD`] bytes for the number of bytes or elements that were written. With [`REFUSED`] the instance says that it
//! did not even marshal the call. The completion's error number is 0 unless the guest's call is to trap; its `value` is the WebAssembly result,
//! and its `written` has bits of [`deliver`].
//!
//! The instance can rewrite the table and everything else here: that spoils its own calls. The supervisor goes by its own copy.

use crate::interface::ARGS_MAX;
use crate::job::TABLE_BYTES;

/// What one to three parameters of a typed function mean. The numbers are indices of WebAssembly parameters; pointers have 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The parameter itself.
    Value {
        /// The parameter.
        index: u8,
    },
    /// Guest memory that the host reads: `len` elements of `stride` bytes at `ptr`.
    In {
        /// Parameter with the address.
        ptr: u8,
        /// Parameter with the number of elements.
        len: u8,
        /// Bytes in one element; not 0.
        stride: u32,
    },
    /// The same for exactly `bytes` bytes.
    InFixed {
        /// Parameter with the address.
        ptr: u8,
        /// How many.
        bytes: u32,
    },
    /// Guest memory that the host writes: at most `capacity` elements of `stride` bytes at `ptr`. How many it wrote goes to the `u32` at
    /// `written`.
    Out {
        /// Parameter with the address.
        ptr: u8,
        /// Parameter with the number of elements that there is room for.
        capacity: u8,
        /// Parameter with the address of the number of elements written.
        written: u8,
        /// Bytes in one element; not 0.
        stride: u32,
    },
    /// Exactly `bytes` bytes at `ptr` that the host writes.
    OutFixed {
        /// Parameter with the address.
        ptr: u8,
        /// How many.
        bytes: u32,
    },
}

/// Kinds of a packed [`Arg`]. None is 0, so that a word of zeros is none.
mod kind {
    pub(super) const VALUE: u8 = 1;
    pub(super) const IN: u8 = 2;
    pub(super) const IN_FIXED: u8 = 3;
    pub(super) const OUT: u8 = 4;
    pub(super) const OUT_FIXED: u8 = 5;
}

const fn pack(kind: u8, parameters: [u8; 3], number: u32) -> u64 {
    let [first, second, third] = parameters;
    kind as u64 | (first as u64) << 8 | (second as u64) << 16 | (third as u64) << 24 | (number as u64) << 32
}

impl Arg {
    /// As one word of the table.
    pub const fn pack(self) -> u64 {
        match self {
            Self::Value { index } => pack(kind::VALUE, [index, 0, 0], 0),
            Self::In { ptr, len, stride } => pack(kind::IN, [ptr, len, 0], stride),
            Self::InFixed { ptr, bytes } => pack(kind::IN_FIXED, [ptr, 0, 0], bytes),
            Self::Out { ptr, capacity, written, stride } => pack(kind::OUT, [ptr, capacity, written], stride),
            Self::OutFixed { ptr, bytes } => pack(kind::OUT_FIXED, [ptr, 0, 0], bytes),
        }
    }

    /// The inverse of [`pack`](Self::pack); `None` for a word that is none.
    pub const fn unpack(word: u64) -> Option<Self> {
        let [kind, first, second, third, ..] = word.to_le_bytes();
        let number = (word >> 32) as u32;
        match kind {
            kind::VALUE => Some(Self::Value { index: first }),
            kind::IN => Some(Self::In { ptr: first, len: second, stride: number }),
            kind::IN_FIXED => Some(Self::InFixed { ptr: first, bytes: number }),
            kind::OUT => Some(Self::Out { ptr: first, capacity: second, written: third, stride: number }),
            kind::OUT_FIXED => Some(Self::OutFixed { ptr: first, bytes: number }),
            _ => None,
        }
    }
}

/// Words of the table.
pub const TABLE_WORDS: usize = TABLE_BYTES / size_of::<u64>();

/// Parameters of a typed function at most: three for each of its [`Arg`]s.
pub const PARAMS_MAX: usize = 3 * ARGS_MAX;

/// Bytes before those of an [`Arg::Out`] in its range of the arena; the first four are the number of elements written.
pub const OUT_HEAD: usize = 8;

/// [`crate::ring::Submission::flags`] of a call that the instance did not marshal: its first word is the index of the [`Arg`] on which that
/// failed, its second why, one of [`refused`].
pub const REFUSED: u64 = 1 << 8;

/// Why a call was not marshalled.
pub mod refused {
    /// A range is not inside of the guest's memory.
    pub const OUT_OF_BOUNDS: u64 = 1;
    /// It is more than the arena has room for.
    pub const TOO_LARGE: u64 = 2;
    /// The host would write the same bytes twice.
    pub const OVERLAP: u64 = 3;
}

/// Bits of [`crate::ring::Completion::written`]: what the instance copies to the guest.
pub mod deliver {
    /// The number of elements of each [`super::Arg::Out`].
    pub const LENGTHS: u64 = 1;
    /// The elements of each [`super::Arg::Out`], as many as its number says, and of each [`super::Arg::OutFixed`].
    pub const BYTES: u64 = 2;
}

/// Marks an entry of a typed function.
const TYPED: u64 = 1 << 31;

/// The table's entry of a function whose `count` [`Arg`]s begin at word `first`.
pub const fn pack_entry(first: u32, count: u32) -> u64 {
    (first as u64) << 32 | TYPED | count as u64
}

/// The inverse of [`pack_entry`]: first, count, such that all of them lie in the table and are at most [`ARGS_MAX`]; `None` for
/// an entry of no typed function.
pub const fn unpack_entry(word: u64) -> Option<(usize, usize)> {
    if word & TYPED == 0 {
        return None;
    }
    let (first, count) = ((word >> 32) as usize, (word & (TYPED - 1)) as usize);
    if count <= ARGS_MAX && first <= TABLE_WORDS - ARGS_MAX { Some((first, count)) } else { None }
}

const _: () = assert!(PARAMS_MAX <= u8::MAX as usize && TABLE_WORDS > ARGS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_survive_packing_and_other_words_are_none() {
        for arg in [
            Arg::Value { index: 7 },
            Arg::In { ptr: 1, len: 2, stride: u32::MAX },
            Arg::InFixed { ptr: 255, bytes: 1 },
            Arg::Out { ptr: 3, capacity: 4, written: 5, stride: 24 },
            Arg::OutFixed { ptr: 9, bytes: 64 },
        ] {
            assert_eq!(Arg::unpack(arg.pack()), Some(arg));
        }
        for word in [0, 6, 255, u64::MAX] {
            assert_eq!(Arg::unpack(word), None, "{word:#x}");
        }
    }

    #[test]
    fn entries_lie_in_the_table() {
        assert_eq!(unpack_entry(pack_entry(5, 3)), Some((5, 3)));
        assert_eq!(unpack_entry(pack_entry(0, 0)), Some((0, 0)));
        assert_eq!(unpack_entry(0), None);
        let last = (TABLE_WORDS - ARGS_MAX) as u32;
        assert!(unpack_entry(pack_entry(last, 10)).is_some());
        for (first, count) in [(last + 1, 0), (u32::MAX, 1), (0, 11), (0, 0x7fff_ffff)] {
            assert_eq!(unpack_entry(pack_entry(first, count)), None, "{first} {count}");
        }
    }
}
