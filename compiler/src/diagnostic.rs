//! Errors in a form for programs.

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload, TypeRef};

use crate::Error;

/// Characters of a message; what it quotes from the module (a name, say) may be of any length.
const MESSAGE_MAX: usize = 4096;

/// An [`Error`] taken apart: what a process that compiles tells another one about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Which error.
    pub kind: ErrorKind,
    /// One line for people, of at most 4096 characters.
    pub message: String,
    /// Byte offset in the module, if the error is about a place in it.
    pub offset: Option<u64>,
    /// Index of the function that the error is in, if it is in one.
    pub function: Option<u32>,
}

/// Which error of the compiler it is. Programs read the words ("unsupported-feature"), which do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Error::NotWasm`]
    NotWasm,
    /// [`Error::Text`]
    Text,
    /// [`Error::Component`]
    Component,
    /// [`Error::UnsupportedFeature`]
    UnsupportedFeature,
    /// [`Error::Invalid`]
    Invalid,
    /// [`Error::UnknownImport`]
    UnknownImport,
    /// [`Error::ImportType`]
    ImportType,
    /// [`Error::ImportKind`]
    ImportKind,
    /// [`Error::Cap`]
    Cap,
    /// [`Error::Codegen`]
    Codegen,
    /// [`Error::Target`]
    Target,
    /// [`Error::Link`]
    Link,
    /// [`Error::Debug`]
    Debug,
    /// [`Error::Metadata`]
    Metadata,
}

impl Diagnostic {
    /// Takes apart the error that a module gave.
    pub fn new(error: &Error, wasm: &[u8]) -> Self {
        let offset = error.offset();
        let function = match error {
            Error::Codegen { function, .. } => Some(*function),
            _ => offset.and_then(|offset| function_at(wasm, offset)),
        };
        let offset = offset.map(|offset| offset as u64);
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let message = error.to_string().chars().take(MESSAGE_MAX).map(printable).collect();
        Diagnostic { kind: error.kind(), message, offset, function }
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
    /// Which error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotWasm => ErrorKind::NotWasm,
            Error::Text { .. } => ErrorKind::Text,
            Error::Component => ErrorKind::Component,
            Error::UnsupportedFeature { .. } => ErrorKind::UnsupportedFeature,
            Error::Invalid { .. } => ErrorKind::Invalid,
            Error::UnknownImport { .. } => ErrorKind::UnknownImport,
            Error::ImportType { .. } => ErrorKind::ImportType,
            Error::ImportKind { .. } => ErrorKind::ImportKind,
            Error::Cap { .. } => ErrorKind::Cap,
            Error::Codegen { .. } => ErrorKind::Codegen,
            Error::Target(_) => ErrorKind::Target,
            Error::Link { .. } => ErrorKind::Link,
            Error::Debug(_) => ErrorKind::Debug,
            Error::Metadata(_) => ErrorKind::Metadata,
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
        assert_eq!((diagnostic.kind, diagnostic.function), (ErrorKind::Invalid, Some(2)));
        assert!(diagnostic.message.contains("type mismatch") && diagnostic.offset.is_some());
    }

    #[test]
    fn an_error_elsewhere_does_not() {
        let wasm = parse_text(br#"(module (import "a" "b" (func)))"#).unwrap();
        let diagnostic = Diagnostic::new(&compile(&wasm, &Options::default()).unwrap_err(), &wasm);
        assert_eq!(
            (diagnostic.kind, diagnostic.offset, diagnostic.function),
            (ErrorKind::UnknownImport, None, None)
        );
        let cut = b"\0asm\x01\0\0\0\x01";
        let diagnostic = Diagnostic::new(&compile(cut, &Options::default()).unwrap_err(), cut);
        assert_eq!((diagnostic.kind, diagnostic.function), (ErrorKind::Invalid, None));
    }

    #[test]
    fn a_message_is_a_line_of_bounded_length() {
        let name = "\\1b[2J\\0a".repeat(10_000);
        let wasm = parse_text(format!(r#"(module (import "a" "{name}" (func)))"#).as_bytes()).unwrap();
        let message = Diagnostic::new(&compile(&wasm, &Options::default()).unwrap_err(), &wasm).message;
        assert_eq!(message.chars().count(), MESSAGE_MAX);
        assert!(!message.contains(char::is_control), "{message}");
    }
}
