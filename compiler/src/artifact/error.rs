//! Why an artifact is not loaded: one variant per rule.

use super::metadata::FORMAT;

/// Why an artifact is not loaded. Each rule has its own variant; the bytes of an artifact are not trusted, as they
/// come from a compile worker or a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// Shorter than an ELF header.
    #[error("the artifact has {bytes} bytes, less than an ELF header")]
    TooShort {
        /// Its size.
        bytes: usize,
    },
    /// Not a 64-bit little-endian ELF file of the current version.
    #[error("the artifact is not a 64-bit little-endian ELF file")]
    NotElf,
    /// Not an executable for x86-64.
    #[error(
        "the artifact is ELF type {found_type} for machine {found_machine}, not an executable for x86-64"
    )]
    WrongKind {
        /// `e_type`.
        found_type: u16,
        /// `e_machine`.
        found_machine: u16,
    },
    /// Program headers are not where or as large as they must be.
    #[error("the artifact's program headers must follow its ELF header and have the standard size")]
    ProgramHeaderPlace,
    /// Too many or no program headers.
    #[error("the artifact has {found} program headers; 1 to {max} are allowed")]
    ProgramHeaderCount {
        /// How many it has.
        found: usize,
        /// How many are allowed.
        max: usize,
    },
    /// Headers of program or sections reach beyond the end of the file.
    #[error("the artifact ends within its {0} headers")]
    HeadersTruncated(&'static str),
    /// A program header that is not loadable.
    #[error("program header {index} has type {found:#x}; only PT_LOAD is allowed")]
    SegmentType {
        /// Which one.
        index: usize,
        /// Its `p_type`.
        found: u32,
    },
    /// A segment with flags that we never write, such as writable and executable.
    #[error("segment {index} has flags {flags:#x}; allowed are none, R, RW and RX")]
    SegmentFlags {
        /// Which one.
        index: usize,
        /// Its `p_flags`.
        flags: u32,
    },
    /// A segment that does not begin or end on a page boundary, in memory or in the file.
    #[error("segment {index} is not made of whole pages")]
    SegmentAlignment {
        /// Which one.
        index: usize,
    },
    /// A segment that is empty, or larger in the file than in memory.
    #[error("segment {index} has {file} bytes in the file and {memory} in memory")]
    SegmentSize {
        /// Which one.
        index: usize,
        /// Its `p_filesz`.
        file: u64,
        /// Its `p_memsz`.
        memory: u64,
    },
    /// A segment whose contents reach beyond the end of the file.
    #[error("segment {index} has contents beyond the end of the file")]
    SegmentFileRange {
        /// Which one.
        index: usize,
    },
    /// A segment at an address that is not for segments of its kind.
    #[error("segment {index} at {address:#x} is outside of the region for segments with its access")]
    SegmentRegion {
        /// Which one.
        index: usize,
        /// Its `p_vaddr`.
        address: u64,
    },
    /// Two segments share addresses.
    #[error("segment {index} at {address:#x} overlaps another one")]
    SegmentOverlap {
        /// Which one.
        index: usize,
        /// Its `p_vaddr`.
        address: u64,
    },
    /// A reserved range that is not one memory's, exactly.
    #[error("segment {index} reserves a range that is not exactly one memory's")]
    Reservation {
        /// Which one.
        index: usize,
    },
    /// A memory's contents are mapped before its range is reserved, and so lost.
    #[error("segment {index} lies in a memory that is not reserved by an earlier one")]
    ReservationOrder {
        /// Which one.
        index: usize,
    },
    /// No segment with code at the code's address, or more than one.
    #[error("the artifact must have exactly one executable segment, at {expected:#x}")]
    Code {
        /// Where it must be.
        expected: u64,
    },
    /// The context does not begin where it must, or has holes.
    #[error("the instance context must be mapped without holes from {expected:#x} on")]
    Context {
        /// Where it must begin.
        expected: u64,
    },
    /// A section that we need is missing or reaches beyond the end of the file.
    #[error("the artifact has no usable section `{0}`")]
    Section(&'static str),
    /// More metadata than a compiler writes.
    #[error("the artifact has {bytes} bytes of metadata, more than the cap of {max}")]
    MetadataSize {
        /// How many it has.
        bytes: usize,
        /// How many are allowed.
        max: u64,
    },
    /// The metadata does not decode.
    #[error("the artifact's metadata does not decode: {0}")]
    Metadata(postcard::Error),
    /// Another version of the format.
    #[error("the artifact has format {found}, this program reads format {FORMAT}; compile the module again")]
    Format {
        /// Its format.
        found: u32,
    },
    /// Compiled by another version of the compiler, whose idea of the interface may be another.
    #[error("the artifact was made by another version of the compiler; compile the module again")]
    Compiler,
    /// The metadata's memories are not the reserved ones.
    #[error("the metadata declares {declared} memories, but {reserved} are reserved")]
    MemoryCount {
        /// In the metadata.
        declared: usize,
        /// Among the segments.
        reserved: usize,
    },
    /// A memory larger than its maximum or than 32 bits address.
    #[error("memory {index} has {min} initial and {max} maximal pages")]
    MemorySize {
        /// Which one.
        index: usize,
        /// Initial pages.
        min: u64,
        /// Maximal pages.
        max: u64,
    },
    /// A memory whose initial pages are not what is mapped.
    #[error("memory {index} does not have exactly its initial pages mapped")]
    MemoryMapping {
        /// Which one.
        index: usize,
    },
    /// A descriptor in the context that says something else than the metadata.
    #[error("the descriptor of {what} {index} at {address:#x} contradicts the metadata")]
    Descriptor {
        /// `memory` or `table`.
        what: &'static str,
        /// Which one.
        index: usize,
        /// Where the descriptor should be.
        address: u64,
    },
    /// A table outside of the context, or with a size beyond its room.
    #[error("table {index} does not lie in the instance context with room for its size")]
    TableRange {
        /// Which one.
        index: usize,
    },
    /// A global outside of the part of the context that the compiler uses.
    #[error("global {index} does not lie in the instance context")]
    GlobalAddress {
        /// Which one.
        index: usize,
    },
    /// A function that cannot be entered: an address outside of the code, or an unknown index.
    #[error("{what} does not name a function in the code")]
    Entry {
        /// Which export, or `the start function`.
        what: String,
    },
    /// An export of something that is not there.
    #[error("export `{name}` names a {kind} that does not exist")]
    ExportIndex {
        /// Its name.
        name: String,
        /// `memory`, `table`, `global` or `tag`.
        kind: &'static str,
    },
    /// An import names something that does not exist or is not as it says.
    #[error("the artifact's import {index} is not what the artifact has")]
    Import {
        /// Which.
        index: usize,
    },
    /// Two exports have the same name.
    #[error("there are two exports named `{name}`")]
    ExportName {
        /// The name.
        name: String,
    },
    /// More parameters or results than WebAssembly allows.
    #[error("export `{name}` has more than {max} parameters or results")]
    ExportType {
        /// Its name.
        name: String,
        /// How many are allowed.
        max: usize,
    },
    /// A number that is no host function's, or numbers out of order.
    #[error("the list of host functions is not an ascending list of known numbers")]
    HostFunctions,
    /// Function descriptors outside of the read-only data.
    #[error("the function descriptors are not in the read-only data")]
    FunctionDescriptors,
    /// A wrong count of writable bytes, on which a limit depends.
    #[error("the metadata counts {declared} writable bytes, but {mapped} are mapped")]
    DataBytes {
        /// In the metadata.
        declared: u64,
        /// Among the segments.
        mapped: u64,
    },
    /// The length of a passive segment is outside of the context, or neither the segment's nor zero.
    #[error("passive segment {index} has its length at an address that does not say so")]
    PassiveSegment {
        /// Which one.
        index: usize,
    },
    /// A snapshot that still has to start, or that names no initialisation.
    #[error("the artifact says that it is a snapshot, but not of what, or that it has to start")]
    Snapshot,
    /// The table of exception handlers is outside of the read-only data, out of order, or names what does not exist.
    #[error("the artifact's table of exception handlers is damaged")]
    Handlers,
    /// The table of sites is too short for its functions, has another number of them, or is not in strictly ascending
    /// order within the code.
    #[error("the artifact's table of code sites is damaged")]
    Sites,
}
