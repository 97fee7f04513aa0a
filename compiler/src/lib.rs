//! WebAssembly to native artifact, ahead of time.
//!
//! [`compile`] validates a module, translates it to Cranelift IR with our own translator, and lays out an
//! [`Artifact`]: an ELF image that holds everything an instance needs at its final address (the address space is
//! [`ipc::layout`], the context that code and shim share is [`ipc::context`]). Loading it means mapping its
//! `PT_LOAD` segments in order; nothing is relocated.
//!
//! Shape of the code: no context parameter, no heap base, no bounds check on memory accesses (each memory's
//! reservation is larger than any 32-bit index plus offset; a 64-bit index is compared with one constant), direct calls between functions, no stack check in prologues
//! (a guard page ends the stack), no interruption checks. A trap is a fault at an address that
//! [`Artifact::trap_at`] knows.
//!
//! The output is a pure function of the module and [`Options`]: the number of threads does not matter. Nothing
//! here panics on any input; hostile modules meet [`Caps`] and get an [`Error`]. Compiling one takes as long as it
//! takes, so a caller bounds time and memory from outside.
//!
//! Segments, in the order of the program headers:
//!
//! | segment | access | what |
//! | --- | --- | --- |
//! | per memory: its reservation | none | [`ipc::layout::MEMORY_RESERVED`] bytes |
//! | ... its initial pages, in one or more parts inside the reservation | RW | what is not in the file is zero |
//! | instance context, globals, tables, in one or more parts | RW | from [`ipc::layout::CONTEXT_BASE`] |
//! | code | RX | from [`ipc::layout::CODE_BASE`] |
//! | function descriptors, passive segments | R | behind the code |

pub mod artifact;
mod build;
mod caps;
mod codegen;
mod debug;
mod diagnostic;
mod error;
mod features;
mod handlers;
mod initial;
mod link;
mod module;
mod options;
mod plan;
mod progress;
mod sites;
mod trampoline;
mod translate;
mod trap;
mod types;

pub use artifact::{
    Artifact, ArtifactError, ExportSummary, Frame, FunctionSummary, ImportSummary, InitialMemory,
    MemoryState, Metadata, RawModule, SegmentSummary, Sizes, SnapshotError, SnapshotSummary, State, Summary,
    TableState, metadata,
};
pub use caps::{Cap, Caps, Raise, Unit};
pub use codegen::Listing;
pub use diagnostic::{Diagnostic, ErrorKind};
pub use error::Error;
pub use options::{CodeOptions, OptLevel, Options, TargetCpu, UnknownChoice};
pub use progress::Report;
pub use trap::TrapKind;
pub use types::{FuncType, ValType};

/// What compiles: this crate's version, a digest of its sources and of the interface that code relies on, and the code
/// generator's version. Part of every artifact and cache key.
pub fn version() -> String {
    format!(
        "sandboxd-compiler {} sources {} format {} cranelift {}",
        env!("CARGO_PKG_VERSION"),
        env!("SANDBOXD_COMPILER_SOURCES"),
        metadata::FORMAT,
        cranelift_codegen::VERSION
    )
}

/// Compiles a WebAssembly module in binary form to the bytes of an [`Artifact`].
pub fn compile(wasm: &[u8], options: &Options) -> Result<Vec<u8>, Error> {
    build::compile(wasm, options, &|_, _| ())
}

/// Like [`compile`]; tells `report` from time to time how far it is.
pub fn compile_with_progress(wasm: &[u8], options: &Options, report: Report<'_>) -> Result<Vec<u8>, Error> {
    build::compile(wasm, options, report)
}

/// Checks a module as [`compile`] does before it generates code: every section, every function body, imports and caps.
pub fn validate(wasm: &[u8], options: &Options) -> Result<(), Error> {
    build::validate(wasm, options)
}

/// What a module imports beyond the functions of the interface table, whatever [`Options::open_imports`] says. Function bodies are
/// not looked at.
pub fn imports(wasm: &[u8], options: &Options) -> Result<Vec<metadata::Import>, Error> {
    build::imports(wasm, options)
}

/// Writes down every function of a module as Cranelift IR or machine code, for people to read; tells `report` from time to
/// time how far it is.
pub fn list(wasm: &[u8], options: &Options, listing: Listing, report: Report<'_>) -> Result<String, Error> {
    build::list(wasm, options, listing, report)
}

/// Turns a module in text form (`.wat`) into binary form; binary input is returned as it is.
pub fn parse_text(text: &[u8]) -> Result<Vec<u8>, Error> {
    parse_text_with(text, &Caps::default())
}

/// Like [`parse_text`] with other caps, of which [`Cap::TextBytes`] counts.
pub fn parse_text_with(text: &[u8], caps: &Caps) -> Result<Vec<u8>, Error> {
    if !text.starts_with(b"\0asm") {
        caps.check(Cap::TextBytes, "bytes of text", text.len() as u64)?;
    }
    wat::parse_bytes(text)
        .map(|wasm| wasm.into_owned())
        .map_err(|error| Error::Text { message: one_line(&error.to_string()) })
}

/// A message of the parser of text as `LINE:COLUMN: what`. It says what, then ` --> FILE:LINE:COLUMN`, then draws an excerpt
/// over several lines.
fn one_line(message: &str) -> String {
    let mut what = String::new();
    for line in message.lines().map(str::trim) {
        if let Some(place) = line.strip_prefix("--> ") {
            let mut parts = place.rsplitn(3, ':');
            if let (Some(column), Some(line)) = (parts.next(), parts.next()) {
                return format!("{line}:{column}: {what}");
            }
        }
        let separator = if what.is_empty() { "" } else { " " };
        what.push_str(separator);
        what.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    what
}
