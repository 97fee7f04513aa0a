//! Which WebAssembly proposals are compiled, and how one that is not is named in an error.

use wasmparser::{Parser, Validator, WasmFeatures};

use crate::Error;

/// The proposals that this compiler implements; the validator rejects everything else.
pub(crate) const SUPPORTED: WasmFeatures = WasmFeatures::MVP
    .union(WasmFeatures::MUTABLE_GLOBAL)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::THREADS)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::WIDE_ARITHMETIC);

/// Proposals that exist but are not compiled, with the names that users know them by. A proposal that
/// extends another comes after it, so the base is named when both are missing.
const UNSUPPORTED: &[(WasmFeatures, &str)] = &[
    (WasmFeatures::LEGACY_EXCEPTIONS, "legacy exception handling"),
    (WasmFeatures::GC, "garbage collection"),
    (WasmFeatures::STACK_SWITCHING, "stack switching"),
    (WasmFeatures::CUSTOM_PAGE_SIZES, "custom page sizes"),
    (WasmFeatures::MEMORY_CONTROL, "memory control"),
    (WasmFeatures::SHARED_EVERYTHING_THREADS, "shared-everything threads"),
    (WasmFeatures::CUSTOM_DESCRIPTORS, "custom descriptors"),
    (WasmFeatures::COMPACT_IMPORTS, "compact imports"),
    (WasmFeatures::COMPONENT_MODEL, "the component model"),
];

/// A parser that accepts what [`SUPPORTED`] says.
pub(crate) fn parser() -> Parser {
    let mut parser = Parser::new(0);
    parser.set_features(SUPPORTED);
    parser
}

/// Turns an error of validation into ours: it names the feature when the module would get further with one more
/// feature, else it says that the module is invalid.
pub(crate) fn explain(wasm: &[u8], error: &wasmparser::Error) -> Error {
    match missing_feature(wasm, error) {
        Some(feature) => Error::UnsupportedFeature {
            feature: feature.to_owned(),
            detail: error.message().to_owned(),
            offset: error.offset(),
        },
        None => Error::invalid(error),
    }
}

fn missing_feature(wasm: &[u8], error: &wasmparser::Error) -> Option<&'static str> {
    if let Some(missing) = error.missing_wasm_feature() {
        let named = UNSUPPORTED.iter().find(|(feature, _)| missing.intersects(*feature));
        if let Some((_, name)) = named {
            return Some(name);
        }
    }
    // The validator does not say, or knows only that some encoding is unknown: find the first proposal that
    // moves the error further back. Some need their base proposal to validate at all.
    for (feature, name) in UNSUPPORTED {
        let base = match *feature {
            WasmFeatures::STACK_SWITCHING | WasmFeatures::CUSTOM_DESCRIPTORS => WasmFeatures::GC,
            _ => WasmFeatures::empty(),
        };
        let features = SUPPORTED.union(*feature).union(base);
        match first_error(wasm, features) {
            None => return Some(name),
            Some(offset) if offset > error.offset() => return Some(name),
            Some(_) => {}
        }
    }
    None
}

/// Offset of the first validation error with these features.
fn first_error(wasm: &[u8], features: WasmFeatures) -> Option<usize> {
    let mut validator = Validator::new_with_features(features);
    let mut parser = Parser::new(0);
    parser.set_features(features);
    let mut bodies = Vec::new();
    let offset = |e: wasmparser::Error| Some(e.offset());
    for payload in parser.parse_all(wasm) {
        let payload = match payload {
            Ok(payload) => payload,
            Err(e) => return offset(e),
        };
        match validator.payload(&payload) {
            Ok(wasmparser::ValidPayload::Func(function, body)) => bodies.push((function, body)),
            Ok(_) => {}
            Err(e) => return offset(e),
        }
    }
    let mut allocations = wasmparser::FuncValidatorAllocations::default();
    for (function, body) in bodies {
        let mut validator = function.into_validator(allocations);
        if let Err(e) = validator.validate(&body) {
            return offset(e);
        }
        allocations = validator.into_allocations();
    }
    None
}
