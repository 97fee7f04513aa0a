//! Errors in a form for programs.

use serde::Serialize;
use wasmparser::{Parser, Payload, TypeRef};

use crate::Error;

/// An [`Error`] taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Which error, in words that do not change: see [`Error::kind`].
    pub kind: &'static str,
    /// One line for people.
    pub message: String,
    /// Byte offset in the module, if the error is about a place in it.
    pub offset: Option<usize>,
    /// Index of the function that the error is in, if it is in one.
    pub function: Option<u32>,
}

impl Diagnostic {
    /// Takes apart the error that a module gave.
    pub fn new(error: &Error, wasm: &[u8]) -> Self {
        let offset = error.offset();
        let function = match error {
            Error::Codegen { function, .. } => Some(*function),
            _ => offset.and_then(|offset| function_at(wasm, offset)),
        };
        Diagnostic { kind: error.kind(), message: error.to_string(), offset, function }
    }
}

/// The function whose body is at a byte offset of a module, as far as that can be parsed.
fn function_at(wasm: &[u8], offset: usize) -> Option<u32> {
    let mut index = 0u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::ImportSection(reader) => {
                for import in reader.into_imports() {
                    let is_function = matches!(import.ok()?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_));
                    index = index.checked_add(is_function.into())?;
                }
            }
            Payload::CodeSectionEntry(body) => {
                // An error at the end of a body is behind its last byte.
                if (body.range().start..=body.range().end).contains(&offset) {
                    return Some(index);
                }
                index = index.checked_add(1)?;
            }
            _ => {}
        }
    }
    None
}

impl Error {
    /// Which error it is, as a word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::NotWasm => "not-wasm",
            Error::Text { .. } => "text",
            Error::Component => "component",
            Error::UnsupportedFeature { .. } => "unsupported-feature",
            Error::Invalid { .. } => "invalid",
            Error::UnknownImport { .. } => "unknown-import",
            Error::ImportType { .. } => "import-type",
            Error::ImportKind { .. } => "import-kind",
            Error::Cap { .. } => "cap",
            Error::Codegen { .. } => "codegen",
            Error::Target(_) => "target",
            Error::Link { .. } => "link",
            Error::Debug(_) => "debug",
            Error::Metadata(_) => "metadata",
        }
    }

    /// The byte offset in the module that the error is about, if it is about one.
    pub fn offset(&self) -> Option<usize> {
        match self {
            Error::UnsupportedFeature { offset, .. } | Error::Invalid { offset, .. } => Some(*offset),
            Error::Component => Some(4),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, compile, parse_text};

    #[test]
    fn an_error_in_a_body_names_the_function() {
        let wat = r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
            (func) (func (result i32) (i64.const 1)) (func))"#;
        let wasm = parse_text(wat.as_bytes()).unwrap();
        let diagnostic = Diagnostic::new(&compile(&wasm, &Options::default()).unwrap_err(), &wasm);
        assert_eq!((diagnostic.kind, diagnostic.function), ("invalid", Some(2)));
        assert!(diagnostic.message.contains("type mismatch") && diagnostic.offset.is_some());
    }

    #[test]
    fn an_error_elsewhere_does_not() {
        let wasm = parse_text(br#"(module (import "a" "b" (func)))"#).unwrap();
        let diagnostic = Diagnostic::new(&compile(&wasm, &Options::default()).unwrap_err(), &wasm);
        assert_eq!((diagnostic.kind, diagnostic.offset, diagnostic.function), ("unknown-import", None, None));
        let cut = b"\0asm\x01\0\0\0\x01";
        let diagnostic = Diagnostic::new(&compile(cut, &Options::default()).unwrap_err(), cut);
        assert_eq!((diagnostic.kind, diagnostic.function), ("invalid", None));
    }
}
