//! WebAssembly to native artifact, ahead of time.
mod artifact;
mod build;
mod codegen;
mod error;
mod features;
mod initial;
mod link;
mod module;
mod options;
mod plan;
mod sites;
mod trampoline;
mod translate;
mod trap;
mod types;
pub use artifact::{Artifact, ArtifactError, Frame, Metadata, RawModule, metadata};
pub use codegen::Listing;
pub use error::Error;
pub use options::{Caps, OptLevel, Options, TargetCpu};
pub use trap::TrapKind;
pub use types::{FuncType, ValType};
/// What compiles: this crate's version and the code generator's. Part of every artifact and cache key.
pub fn version() -> String {
    format!("sandboxd-compiler {} cranelift {}", env!("CARGO_PKG_VERSION"), cranelift_codegen::VERSION)
}
/// compile
pub fn compile(wasm: &[u8], options: &Options) -> Result<Vec<u8>, Error> {
    build::compile(wasm, options)
}
/// Writes down what becomes of every function of a module: for people.
pub fn list(wasm: &[u8], options: &Options, listing: Listing) -> Result<String, Error> {
    build::list(wasm, options, listing)
}
/// wat
pub fn parse_text(text: &[u8]) -> Result<Vec<u8>, Error> {
    wat::parse_bytes(text).map(|b| b.into_owned()).map_err(|e| Error::Text { message: e.to_string() })
}
