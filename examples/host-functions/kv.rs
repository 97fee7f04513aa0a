// The interface "kv" for guests in Rust.
//
// Stores of keys and values, which live as long as the guest's job.
//
// Made by `sandboxctl interface rust`: change the interface instead.

const _: () = ::core::assert!(::core::mem::size_of::<usize>() == 4, "the interface is for 32-bit WebAssembly");

/// In which order keys are listed.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Order {
    /// Byte by byte.
    #[default]
    Ascending = 0,
    /// The other way round.
    Descending = 1,
}

impl ::core::convert::TryFrom<u32> for Order {
    /// The number, which no case has.
    type Error = u32;

    fn try_from(number: u32) -> ::core::result::Result<Self, u32> {
        ::core::result::Result::Ok(match number {
            0 => Self::Ascending,
            1 => Self::Descending,
            _ => return ::core::result::Result::Err(number),
        })
    }
}

/// What a value is.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Content {
    /// Decimal text, which `sum` adds up.
    #[default]
    Number = 0,
    /// Anything else.
    Other = 1,
}

impl ::core::convert::TryFrom<u32> for Content {
    /// The number, which no case has.
    type Error = u32;

    fn try_from(number: u32) -> ::core::result::Result<Self, u32> {
        ::core::result::Result::Ok(match number {
            0 => Self::Number,
            1 => Self::Other,
            _ => return ::core::result::Result::Err(number),
        })
    }
}

/// Why a store does not do what it is asked for.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum KvError {
    /// There is no such key.
    NotFound = 1,
    /// There is such a key, and `put_flags` says that there must not be.
    Exists = 2,
    /// The store has as many keys as it can have.
    Full = 3,
    /// The result is longer than the guest's room for it.
    TooSmall = 4,
}

impl ::core::convert::TryFrom<u32> for KvError {
    /// The number, which no case has.
    type Error = u32;

    fn try_from(number: u32) -> ::core::result::Result<Self, u32> {
        ::core::result::Result::Ok(match number {
            1 => Self::NotFound,
            2 => Self::Exists,
            3 => Self::Full,
            4 => Self::TooSmall,
            _ => return ::core::result::Result::Err(number),
        })
    }
}

impl ::core::fmt::Display for KvError {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not_found",
            Self::Exists => "exists",
            Self::Full => "full",
            Self::TooSmall => "too_small",
        })
    }
}

impl ::core::error::Error for KvError {}

/// What `put` minds.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct PutFlags(u32);

#[allow(dead_code)]
impl PutFlags {
    /// The key must be new.
    pub const CREATE_NEW: Self = Self(0x1);
    /// The value cannot be replaced later.
    pub const READ_ONLY: Self = Self(0x2);

    /// No flag.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// Every flag.
    pub const fn all() -> Self {
        Self(0x3)
    }

    /// The flags as bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The flags of these bits; `None` if one of them is no flag.
    pub const fn from_bits(bits: u32) -> ::core::option::Option<Self> {
        if bits & Self::all().bits() == bits {
            ::core::option::Option::Some(Self(bits))
        } else {
            ::core::option::Option::None
        }
    }

    /// Whether all of these flags are among them.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl ::core::ops::BitOr for PutFlags {
    type Output = Self;

    fn bitor(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

/// An open store.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Store(u32);

#[allow(dead_code)]
impl Store {
    /// The handle with this number, which the host checks when it is used. 0 is never one.
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// What a store has for a key.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Entry {
    /// Bytes of the value.
    pub value_bytes: u32,
    /// Whether the value cannot be replaced.
    pub read_only: bool,
    /// What the value is.
    pub content: Content,
}

const _: () = {
    ::core::assert!(::core::mem::size_of::<Entry>() == 12);
    ::core::assert!(::core::mem::offset_of!(Entry, value_bytes) == 0);
    ::core::assert!(::core::mem::offset_of!(Entry, read_only) == 4);
    ::core::assert!(::core::mem::offset_of!(Entry, content) == 8);
};

/// What is in a store.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Usage {
    /// Number of keys.
    pub keys: u32,
    /// Bytes of all keys and values.
    pub bytes_used: u64,
    /// Whether another key would be refused.
    pub is_full: bool,
}

const _: () = {
    ::core::assert!(::core::mem::size_of::<Usage>() == 24);
    ::core::assert!(::core::mem::offset_of!(Usage, keys) == 0);
    ::core::assert!(::core::mem::offset_of!(Usage, bytes_used) == 8);
    ::core::assert!(::core::mem::offset_of!(Usage, is_full) == 16);
};

/// Opens the store of this name, which is made if there is none.
///
/// * `keys_max`: Keys that it can have.
#[allow(dead_code)]
#[allow(clippy::let_and_return, clippy::needless_lifetimes)]
pub fn open(name: &str, keys_max: u32) -> Store {
    // SAFETY: each address is that of as many values as are said, and what is written there belongs to this call.
    let _returned = unsafe { raw::open(name.as_ptr(), name.len(), keys_max) };
    Store(_returned)
}

/// Stores a value.
///
/// # Errors
/// As [`KvError`] says.
#[allow(dead_code)]
#[allow(clippy::let_and_return, clippy::needless_lifetimes)]
pub fn put(to: Store, key: &str, value: &[u8], how: PutFlags) -> ::core::result::Result<(), KvError> {
    // SAFETY: each address is that of as many values as are said, and what is written there belongs to this call.
    let _returned = unsafe { raw::put(to.0, key.as_ptr(), key.len(), value.as_ptr(), value.len(), how.0) };
    if _returned != 0 {
        return ::core::result::Result::Err(checks::case(<KvError as ::core::convert::TryFrom<u32>>::try_from(_returned), "put: error"));
    }
    ::core::result::Result::Ok(())
}

/// Why [`get`] failed.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetFailure {
    /// The error.
    pub error: KvError,
    /// With [`KvError::TooSmall`], the length that there must be room for in `value`; else 0.
    pub value_length: usize,
}

impl ::core::convert::From<GetFailure> for KvError {
    fn from(failure: GetFailure) -> Self {
        failure.error
    }
}

impl ::core::fmt::Display for GetFailure {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::core::fmt::Display::fmt(&self.error, f)
    }
}

impl ::core::error::Error for GetFailure {}

/// Reads a value.
///
/// * `value`: Room for the result.
///
/// # Errors
/// As [`GetFailure`] says.
///
/// The guest traps when it takes longer than 1s.
#[allow(dead_code)]
#[allow(clippy::let_and_return, clippy::needless_lifetimes)]
pub fn get<'o>(from: Store, key: &str, value: &'o mut [u8]) -> ::core::result::Result<&'o [u8], GetFailure> {
    let mut _length0: usize = 0;
    // SAFETY: each address is that of as many values as are said, and what is written there belongs to this call.
    let _returned = unsafe { raw::get(from.0, key.as_ptr(), key.len(), value.as_mut_ptr(), value.len(), &raw mut _length0) };
    if _returned != 0 {
        return ::core::result::Result::Err(GetFailure {
            error: checks::case(<KvError as ::core::convert::TryFrom<u32>>::try_from(_returned), "get: error"),
            value_length: _length0,
        });
    }
    ::core::result::Result::Ok(checks::written(value, _length0, "get: value"))
}

/// What [`nth`] returns.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NthResults<'o> {
    /// `key`
    pub key: &'o str,
    /// `value_bytes`
    pub value_bytes: u32,
}

/// Why [`nth`] failed.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NthFailure {
    /// The error.
    pub error: KvError,
    /// With [`KvError::TooSmall`], the length that there must be room for in `key`; else 0.
    pub key_length: usize,
}

impl ::core::convert::From<NthFailure> for KvError {
    fn from(failure: NthFailure) -> Self {
        failure.error
    }
}

impl ::core::fmt::Display for NthFailure {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::core::fmt::Display::fmt(&self.error, f)
    }
}

impl ::core::error::Error for NthFailure {}

/// Tells which key is at a position, and how long its value is.
///
/// * `position`: From 0.
/// * `key`: Room for the result.
///
/// # Errors
/// As [`NthFailure`] says.
#[allow(dead_code)]
#[allow(clippy::let_and_return, clippy::needless_lifetimes)]
pub fn nth<'o>(from: Store, sorted: Order, position: u32, key: &'o mut [u8]) -> ::core::result::Result<NthResults<'o>, NthFailure> {
    let mut _length0: usize = 0;
    let mut _out1: u32 = 0;
    // SAFETY: each address is that of as many values as are said, and what is written there belongs to this call.
    let _returned = unsafe { raw::nth(from.0, sorted as u32, position, key.as_mut_ptr(), key.len(), &raw mut _length0, &raw mut _out1) };
    if _returned != 0 {
        return ::core::result::Result::Err(NthFailure {
            error: checks::case(<KvError as ::core::convert::TryFrom<u32>>::try_from(_returned), "nth: error"),
            key_length: _length0,
        });
    }
    ::core::result::Result::Ok(NthResults { key: checks::text(checks::written(key, _length0, "nth: key"), "nth: key"), value_bytes: _out1 })
}

/// Why [`entries`] failed.
#[allow(dead_code)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntriesFailure {
    /// The error.
    pub error: KvError,
    /// With [`KvError::TooSmall`], the count that there must be room for in `entries`; else 0.
    pub entries_count: usize,
}

impl ::core::convert::From<EntriesFailure> for KvError {
    fn from(failure: EntriesFailure) -> Self {
        failure.error
    }
}

impl ::core::fmt::Display for EntriesFailure {
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        ::core::fmt::Display::fmt(&self.error, f)
    }
}

impl ::core::error::Error for EntriesFailure {}

/// Lists what there is for each key.
///
/// * `sorted`: Of the keys.
/// * `entries`: Room for the result.
///
/// # Errors
/// As [`EntriesFailure`] says.
#[allow(dead_code)]
#[allow(clippy::let_and_return, clippy::needless_lifetimes)]
pub fn entries<'o>(from: Store, sorted: Order, entries: &'o mut [Entry]) -> ::core::result::Result<&'o [Entry], EntriesFailure> {
    let mut _length0: usize = 0;
    // SAFETY: each address is that of as many values as are said, and what is written there belongs to this call.
    let _returned = unsafe { raw::entries(from.0, sorted as u32, entries.as_mut_ptr().cast(), entries.len(), &raw mut _length0) };
    if _returned != 0 {
        return ::core::result::Result::Err(EntriesFailure {
            error: checks::case(<KvError as ::core::convert::TryFrom<u32>>::try_from(_returned), "entries: error"),
            entries_count: _length0,
        });
    }
    for _index in 0.._length0.min(entries.len()) {
        // SAFETY: the element lies in the slice, and all bits are a value of this type.
        let _element = unsafe { entries.as_ptr().cast::<raw::Entry>().add(_index).read() };
        if _element.read_only > 1 || <Content as ::core::convert::TryFrom<u32>>::try_from(_element.content).is_err() {
            // SAFETY: the slice is there, and zeros are a value of its type.
            unsafe { entries.as_mut_ptr().write_bytes(0, entries.len()) };
            checks::broken("entries: entries");
        }
    }
    ::core::result::Result::Ok(checks::written(entries, _length0, "entries: entries"))
}

/// Adds up numbers that are stored as decimal text, as far as they are there.
///
/// * `weights`: Of the keys, in ascending order.
#[allow(dead_code)]
#[allow(clippy::let_and_return, clippy::needless_lifetimes)]
pub fn sum(from: Store, weights: &[i64]) -> i64 {
    // SAFETY: each address is that of as many values as are said, and what is written there belongs to this call.
    let _returned = unsafe { raw::sum(from.0, weights.as_ptr().cast(), weights.len()) };
    _returned
}

/// Tells what is in a store.
#[allow(dead_code)]
#[allow(clippy::let_and_return, clippy::needless_lifetimes)]
pub fn usage_of(of: Store) -> Usage {
    let mut _out0 = <raw::Usage as ::core::default::Default>::default();
    // SAFETY: each address is that of as many values as are said, and what is written there belongs to this call.
    unsafe { raw::usage_of(of.0, &raw mut _out0) };
    Usage { keys: _out0.keys, bytes_used: _out0.bytes_used, is_full: _out0.is_full != 0 }
}

/// Closes a store. What is in it stays until the job ends.
#[allow(dead_code)]
#[allow(clippy::let_and_return, clippy::needless_lifetimes)]
pub fn close(closed: Store) {
    // SAFETY: each address is that of as many values as are said, and what is written there belongs to this call.
    unsafe { raw::close(closed.0) };
}

#[allow(dead_code)]
mod raw {
    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    pub struct Entry {
        pub value_bytes: u32,
        pub read_only: u8,
        pub content: u32,
    }

    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    pub struct Usage {
        pub keys: u32,
        pub bytes_used: u64,
        pub is_full: u8,
    }

    #[link(wasm_import_module = "kv")]
    unsafe extern "C" {
        #[link_name = "open"]
        pub fn open(p0: *const u8, p1: usize, p2: u32) -> u32;
        #[link_name = "put"]
        pub fn put(p0: u32, p1: *const u8, p2: usize, p3: *const u8, p4: usize, p5: u32) -> u32;
        #[link_name = "get"]
        pub fn get(p0: u32, p1: *const u8, p2: usize, p3: *mut u8, p4: usize, p5: *mut usize) -> u32;
        #[link_name = "nth"]
        pub fn nth(p0: u32, p1: u32, p2: u32, p3: *mut u8, p4: usize, p5: *mut usize, p6: *mut u32) -> u32;
        #[link_name = "entries"]
        pub fn entries(p0: u32, p1: u32, p2: *mut Entry, p3: usize, p4: *mut usize) -> u32;
        #[link_name = "sum"]
        pub fn sum(p0: u32, p1: *const i64, p2: usize) -> i64;
        #[link_name = "usage_of"]
        pub fn usage_of(p0: u32, p1: *mut Usage);
        #[link_name = "close"]
        pub fn close(p0: u32);
    }
}

#[allow(dead_code)]
mod checks {
    #[cold]
    pub fn broken(what: &str) -> ! {
        ::core::panic!("the host breaks the interface kv: {}", what)
    }

    pub fn case<T>(case: ::core::result::Result<T, u32>, what: &str) -> T {
        match case {
            ::core::result::Result::Ok(case) => case,
            ::core::result::Result::Err(_) => broken(what),
        }
    }

    pub fn written<'o, T>(room: &'o [T], length: usize, what: &str) -> &'o [T] {
        match room.get(..length) {
            ::core::option::Option::Some(written) => written,
            ::core::option::Option::None => broken(what),
        }
    }

    pub fn text<'o>(bytes: &'o [u8], what: &str) -> &'o str {
        match ::core::str::from_utf8(bytes) {
            ::core::result::Result::Ok(text) => text,
            ::core::result::Result::Err(_) => broken(what),
        }
    }
}
