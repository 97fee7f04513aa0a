//! What an artifact says about itself, beside its program headers.

use std::fmt;
use std::marker::PhantomData;

use ipc::context::asked;
use ipc::interface::FunctionId;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;
use crate::caps::{Raise, check};
use crate::options::CodeOptions;
use crate::trap::TrapKind;
use crate::types::ValType;

pub use crate::types::Reference;

/// Version of this structure and of the artifact's layout. An artifact of another version is not loaded.
pub const FORMAT: u32 = 6;

/// Bytes of encoded metadata at most. A million exports with ordinary names are below it.
pub const BYTES_MAX: u64 = 64 << 20;

/// Elements of the lists at most: what the validator of modules allows. An element is larger decoded than encoded, up to
/// forty times, so the section's size alone would not bound memory.
const IMPORTS_MAX: usize = 1_000_000;
const EXPORTS_MAX: usize = 1_000_000;
const GLOBALS_MAX: usize = 1_000_000;
const TABLES_MAX: usize = 100_000;
const TAGS_MAX: usize = 1_000_000;
const SEGMENTS_MAX: usize = 200_000;
/// The same for lists that our own constants bound far below.
const FEW_MAX: usize = 1_000;

/// The metadata section of an artifact. It crosses a trust boundary: [`crate::Artifact::parse`] checks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// [`FORMAT`].
    pub format: u32,
    /// What compiled it, see [`crate::version`].
    pub compiler: String,
    /// CPU features that the code uses, such as `sse42`; see [`Metadata::missing_cpu_features`].
    #[serde(deserialize_with = "bounded::<FEW_MAX, _, _>")]
    pub cpu_features: Vec<String>,
    /// How it was compiled.
    pub options: CodeOptions,
    /// BLAKE3 hash of the WebAssembly module; zero for an artifact without one.
    pub wasm_hash: [u8; 32],
    /// Functions of the module, imported ones included, and the one that instantiates it, if it needs that.
    pub functions: u32,
    /// What the host side provides for each instance, in the module's order. A function's position is its number.
    #[serde(deserialize_with = "bounded::<IMPORTS_MAX, _, _>")]
    pub imports: Vec<Import>,
    /// Exports, in the module's order. Names are unique.
    #[serde(deserialize_with = "bounded::<EXPORTS_MAX, _, _>")]
    pub exports: Vec<Export>,
    /// The start function, or the one that instantiates the module and calls it: to be called before anything else.
    pub start: Option<Entry>,
    /// Instantiation traps, because an active segment does not fit: nothing may be called.
    pub start_trap: Option<TrapKind>,
    /// Linear memories.
    #[serde(deserialize_with = "bounded::<FEW_MAX, _, _>")]
    pub memories: Vec<Memory>,
    /// Tables.
    #[serde(deserialize_with = "bounded::<TABLES_MAX, _, _>")]
    pub tables: Vec<Table>,
    /// Globals.
    #[serde(deserialize_with = "bounded::<GLOBALS_MAX, _, _>")]
    pub globals: Vec<Global>,
    /// Tags of exceptions.
    #[serde(deserialize_with = "bounded::<TAGS_MAX, _, _>")]
    pub tags: Vec<Tag>,
    /// The table of exception handlers, in a module that has tags.
    pub handlers: Option<Handlers>,
    /// Numbers of the host functions that the code may call, ascending.
    #[serde(deserialize_with = "bounded::<FEW_MAX, _, _>")]
    pub host_functions: Vec<u32>,
    /// Segments that instructions copy from.
    #[serde(deserialize_with = "bounded::<SEGMENTS_MAX, _, _>")]
    pub segments: Vec<PassiveSegment>,
    /// Address of the array of function descriptors ([`ipc::context::TableEntry`]), whose entry 0 is null.
    pub descriptors: u64,
    /// Number of function descriptors, the null one included.
    pub descriptor_count: u32,
    /// Bytes of private writable memory that are mapped from the start, to be counted against `RLIMIT_DATA`.
    pub data_bytes: u64,
    /// In a snapshot: memories, tables and globals are those after its initialisation.
    pub snapshot: Option<Snapshot>,
}

/// How a snapshot came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The exports that have run, the first one first: a snapshot may be made of a snapshot. What starts the module, and
    /// its `_initialize`, ran before the first.
    #[serde(deserialize_with = "bounded::<FEW_MAX, _, _>")]
    pub inits: Vec<String>,
    /// What the guest asked for meanwhile that is not the same every time, by its own word; ascending.
    #[serde(deserialize_with = "bounded::<FEW_MAX, _, _>")]
    pub asked: Vec<Asked>,
}

impl Snapshot {
    /// Whether the module, its arguments, its environment and the files that it read decide the snapshot: the guest asked neither for
    /// time nor for random bytes, and called no function of the host app.
    pub fn is_pure(&self) -> bool {
        self.asked.iter().all(|asked| *asked == Asked::Files)
    }
}

/// Something that a guest asked for and that is not the same every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// The time.
    Time,
    /// Random bytes.
    Random,
    /// What files, directories and streams are and hold.
    Files,
    /// Results of functions of the host app.
    HostFunctions,
}

impl Asked {
    const ALL: [(u64, Self); 4] = [
        (asked::TIME, Self::Time),
        (asked::RANDOM, Self::Random),
        (asked::FILES, Self::Files),
        (asked::HOST_FUNCTIONS, Self::HostFunctions),
    ];

    /// What these bits of [`ipc::context::asked`] say; others mean nothing.
    pub(crate) fn of_bits(bits: u64) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, asked)| asked)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Time => "time",
            Self::Random => "random bytes",
            Self::Files => "files or streams",
            Self::HostFunctions => "functions of the host app",
        })
    }
}

/// A segment that instructions copy from, until it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassiveSegment {
    /// Address of the `u64` that holds its length; 0 once it is dropped.
    pub address: u64,
    /// Its length, in entries or bytes.
    pub length: u64,
}

/// A function that can be called from outside of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Index of the function in the module.
    pub function: u32,
    /// Address of its code.
    pub code: u64,
    /// Address of its trampoline: `extern "sysv64" fn(code: u64, values: *mut [u64; 2])`.
    pub trampoline: u64,
}

/// An import that the host side provides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// Its module name.
    pub module: String,
    /// Its field name.
    pub name: String,
    /// What it is.
    pub item: ImportItem,
}

/// What is imported. An index is among the module's own things of the kind: an instance has a fresh one for each import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImportItem {
    /// A function.
    Function {
        /// Parameter types.
        params: Vec<ValType>,
        /// Result types.
        results: Vec<ValType>,
    },
    /// The global with this index; it is at an address.
    Global(u32),
    /// A memory. Sizes are in pages.
    Memory {
        /// Its index.
        index: u32,
        /// Declared size.
        min: u64,
        /// Declared maximum.
        max: Option<u64>,
    },
    /// A table. Sizes are in entries.
    Table {
        /// Its index.
        index: u32,
        /// Declared size.
        min: u64,
        /// Declared maximum.
        max: Option<u64>,
    },
    /// The tag with this index.
    Tag(u32),
}

/// An export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// What it is.
    pub item: ExportItem,
}

/// What is exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExportItem {
    /// A function.
    Function {
        /// How to call it.
        entry: Entry,
        /// Parameter types.
        params: Vec<ValType>,
        /// Result types.
        results: Vec<ValType>,
    },
    /// The memory with this index.
    Memory(u32),
    /// The table with this index.
    Table(u32),
    /// The global with this index.
    Global(u32),
    /// The tag with this index.
    Tag(u32),
}

/// A linear memory. Sizes are in pages of 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Initial size.
    pub min_pages: u64,
    /// Size that it may not exceed.
    pub max_pages: u64,
    /// Indices have 64 bits.
    pub memory64: bool,
    /// Address of its [`ipc::context::MemoryDescriptor`].
    pub descriptor: u64,
}

/// A table. Sizes are in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// A type of references.
    pub ty: ValType,
    /// What each entry is.
    pub reference: Reference,
    /// Initial size.
    pub size: u64,
    /// Entries that have room; it may not exceed them.
    pub max: u64,
    /// Indices have 64 bits.
    pub table64: bool,
    /// Address of entry 0.
    pub base: u64,
    /// Address of its [`ipc::context::TableDescriptor`].
    pub descriptor: u64,
}

/// A tag of exceptions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// Types of what an exception carries.
    pub params: Vec<ValType>,
}

/// The table of exception handlers in the read-only data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handlers {
    /// Address of the [`ipc::context::ExceptionArena`].
    pub arena: u64,
    /// Address of the [`ipc::context::ExceptionSite`]s; the clauses follow.
    pub sites: u64,
    /// Number of sites.
    pub sites_count: u32,
    /// Number of clauses.
    pub clauses_count: u32,
}

/// A global.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Global {
    /// Its type.
    pub ty: ValType,
    /// What its value is, if it is a reference.
    pub reference: Reference,
    /// Whether the guest can change it.
    pub mutable: bool,
    /// Where its value is.
    pub value: GlobalValue,
}

/// Where a global's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalValue {
    /// It never changes: these bits.
    Constant(u128),
    /// In the 8 bytes at this address, 16 for a vector.
    Address(u64),
}

/// Decodes a list of at most `MAX` elements; a longer one is an error before its elements are decoded.
fn bounded<'de, const MAX: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct List<const MAX: usize, T>(PhantomData<T>);
    impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for List<MAX, T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "a list of at most {MAX} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            // Postcard knows the length from the start; another format might not.
            if elements.size_hint().is_some_and(|count| count > MAX) {
                return Err(A::Error::custom("the list is too long"));
            }
            while let Some(element) = elements.next_element()? {
                if list.len() >= MAX {
                    return Err(A::Error::custom("the list is too long"));
                }
                list.push(element);
            }
            Ok(list)
        }
    }
    deserializer.deserialize_seq(List::<MAX, T>(PhantomData))
}

/// Encodes metadata for an artifact; an error when [`crate::Artifact::parse`] would not read it.
pub(crate) fn encode(metadata: &Metadata) -> Result<Vec<u8>, Error> {
    let bytes = postcard::to_stdvec(metadata).map_err(Error::Metadata)?;
    let fixed = Raise::Fixed("it is part of the format of artifacts");
    check("bytes of metadata", bytes.len() as u64, BYTES_MAX, fixed)?;
    Ok(bytes)
}

impl Metadata {
    /// The features in [`Metadata::cpu_features`] that this machine's CPU lacks, or that we cannot tell.
    pub fn missing_cpu_features(&self) -> Vec<&str> {
        self.cpu_features.iter().map(String::as_str).filter(|feature| !cpu_has(feature)).collect()
    }

    /// The host functions that the code may call.
    pub fn host_functions(&self) -> impl Iterator<Item = FunctionId> + '_ {
        self.host_functions.iter().filter_map(|number| FunctionId::from_number(*number))
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_has(feature: &str) -> bool {
    use std::is_x86_feature_detected as detected;
    match feature {
        "sse3" => detected!("sse3"),
        "ssse3" => detected!("ssse3"),
        "cmpxchg16b" => detected!("cmpxchg16b"),
        "sse41" => detected!("sse4.1"),
        "sse42" => detected!("sse4.2"),
        "popcnt" => detected!("popcnt"),
        "avx" => detected!("avx"),
        "avx2" => detected!("avx2"),
        "fma" => detected!("fma"),
        "bmi1" => detected!("bmi1"),
        "bmi2" => detected!("bmi2"),
        "lzcnt" => detected!("lzcnt"),
        "avx_vnni" => detected!("avxvnni"),
        "avx512vnni" => detected!("avx512vnni"),
        "avx512bitalg" => detected!("avx512bitalg"),
        "avx512dq" => detected!("avx512dq"),
        "avx512f" => detected!("avx512f"),
        "avx512vl" => detected!("avx512vl"),
        "avx512vbmi" => detected!("avx512vbmi"),
        _ => false,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_has(_: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use crate::Options;
    use crate::options::target_features;

    #[test]
    fn the_native_target_misses_nothing_here() {
        for feature in target_features(&Options::default().isa().unwrap()) {
            assert!(super::cpu_has(&feature), "{feature}");
        }
        assert!(!super::cpu_has("warp_drive"));
    }
}
