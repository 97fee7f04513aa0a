//! Why a module is not compiled: one variant per failing step.

use crate::caps::Raise;
use crate::types::FuncType;

/// Why a module is not compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The input does not begin with the WebAssembly magic number.
    #[error("not a WebAssembly module: it does not start with `\\0asm`")]
    NotWasm,
    /// The input is WebAssembly text that does not parse.
    #[error("the WebAssembly text does not parse: {message}")]
    Text {
        /// What the parser says, with line and column.
        message: String,
    },
    /// The input is a component, not a core module.
    #[error(
        "the input uses the component model, which is not supported (at offset 0x4); compile the core module instead"
    )]
    Component,
    /// The module needs a feature that this compiler does not support.
    #[error("the module uses {feature}, which is not supported: {detail} (at offset {offset:#x})")]
    UnsupportedFeature {
        /// The feature's name, as the WebAssembly proposals call it.
        feature: String,
        /// What the validator says.
        detail: String,
        /// Byte offset in the module.
        offset: usize,
    },
    /// The module is malformed or does not validate.
    #[error("invalid WebAssembly module: {message} (at offset {offset:#x})")]
    Invalid {
        /// What the validator says.
        message: String,
        /// Byte offset in the module.
        offset: usize,
    },
    /// An imported function that no host function answers to.
    #[error("unknown import `{module}` `{name}`: no host function has this name")]
    UnknownImport {
        /// Module name of the import.
        module: String,
        /// Field name of the import.
        name: String,
    },
    /// An imported function with another type than the host function.
    #[error("import `{module}` `{name}` has type {found}, but the host function has type {expected}")]
    ImportType {
        /// Module name of the import.
        module: String,
        /// Field name of the import.
        name: String,
        /// The host function's type.
        expected: Box<FuncType>,
        /// The import's type.
        found: Box<FuncType>,
    },
    /// An import that is not a function.
    #[error("import `{module}` `{name}` is a {kind}; only functions can be imported")]
    ImportKind {
        /// Module name of the import.
        module: String,
        /// Field name of the import.
        name: String,
        /// `memory`, `table`, `global` or `tag`.
        kind: &'static str,
    },
    /// The module exceeds one of [`crate::Caps`].
    #[error("the module has {found} {what}, more than the cap of {cap}; {raise}")]
    Cap {
        /// What is counted.
        what: &'static str,
        /// How many there are, or at least are.
        found: u64,
        /// The cap.
        cap: u64,
        /// What raises it.
        raise: Raise,
    },
    /// Code generation failed for one function.
    #[error("cannot generate code for function {function} ({name}): {message}")]
    Codegen {
        /// Index of the function in the module.
        function: u32,
        /// Its name.
        name: String,
        /// What the code generator says.
        message: String,
    },
    /// The code generator cannot be set up with these options.
    #[error("cannot set up the code generator: {0}")]
    Target(String),
    /// The code generator asked for something that our linker does not provide.
    #[error("cannot link function {function}: {message}")]
    Link {
        /// Position of the function in the text.
        function: usize,
        /// What is missing.
        message: String,
    },
    /// The DWARF of the artifact cannot be written.
    #[error("cannot write the artifact's debugging information: {0}; compile without it")]
    Debug(String),
    /// The metadata cannot be encoded.
    #[error("cannot encode the artifact's metadata: {0}")]
    Metadata(postcard::Error),
}

impl Error {
    /// An error of validation that is not about a feature.
    pub(crate) fn invalid(error: &wasmparser::Error) -> Self {
        Error::Invalid { message: error.message().to_owned(), offset: error.offset() }
    }
}
