//! What an artifact says about itself, beside its program headers.

use ipc::interface::FunctionId;
use serde::{Deserialize, Serialize};

use crate::trap::TrapKind;
use crate::types::ValType;

/// Version of this structure and of the artifact's layout. An artifact of another version is not loaded.
pub const FORMAT: u32 = 1;

/// The metadata section of an artifact. It crosses a trust boundary: [`crate::Artifact::parse`] checks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// [`FORMAT`].
    pub format: u32,
    /// What compiled it, see [`crate::version`].
    pub compiler: String,
    /// CPU features that the code uses, such as `sse42`; see [`Metadata::missing_cpu_features`].
    pub cpu_features: Vec<String>,
    /// BLAKE3 hash of the WebAssembly module; zero for an artifact without one.
    pub wasm_hash: [u8; 32],
    /// Functions of the module, imported ones included.
    pub functions: u32,
    /// Exports, in the module's order. Names are unique.
    pub exports: Vec<Export>,
    /// The start function, to be called before anything else.
    pub start: Option<Entry>,
    /// Instantiation traps, because an active segment does not fit: nothing may be called.
    pub start_trap: Option<TrapKind>,
    /// Linear memories.
    pub memories: Vec<Memory>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Globals.
    pub globals: Vec<Global>,
    /// Numbers of the host functions that the code may call, ascending.
    pub host_functions: Vec<u32>,
    /// Address of the array of function descriptors ([`ipc::context::TableEntry`]), whose entry 0 is null.
    pub descriptors: u64,
    /// Number of function descriptors, the null one included.
    pub descriptor_count: u32,
    /// Bytes of private writable memory that are mapped from the start, to be counted against `RLIMIT_DATA`.
    pub data_bytes: u64,
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
}

/// A linear memory. Sizes are in pages of 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Initial size.
    pub min_pages: u64,
    /// Size that it may not exceed.
    pub max_pages: u64,
    /// Address of its [`ipc::context::MemoryDescriptor`].
    pub descriptor: u64,
}

/// A table. Sizes are in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `FuncRef` or `ExternRef`.
    pub ty: ValType,
    /// Initial size.
    pub size: u64,
    /// Entries that have room; it may not exceed them.
    pub max: u64,
    /// Address of entry 0.
    pub base: u64,
    /// Address of its [`ipc::context::TableDescriptor`].
    pub descriptor: u64,
}

/// A global.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Global {
    /// Its type.
    pub ty: ValType,
    /// Whether the guest can change it.
    pub mutable: bool,
    /// Where its value is.
    pub value: GlobalValue,
}

/// Where a global's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalValue {
    /// It never changes: these bits.
    Constant(u64),
    /// In the 8 bytes at this address.
    Address(u64),
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
