//! What is wrong with a module, the same with and without a daemon.

use crate::Error;

/// What `bytes` are if they cannot be a module, binary or text; `None` if they may be one.
///
/// Text begins with a parenthesis or a comment. Without this, any other file is reported as text with a syntax error.
pub fn not_a_module(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.trim_ascii_start();
    let is_text = (text.starts_with(b"(") || text.starts_with(b";;")) && std::str::from_utf8(text).is_ok();
    (!is_text && !bytes.starts_with(b"\0asm")).then_some("not a WebAssembly module (neither binary nor text)")
}

/// Whether an error of a job is about its module, so that a message must name it.
pub fn concerns_module(error: &Error) -> bool {
    matches!(
        error,
        Error::Compile(_)
            | Error::Refused(_)
            | Error::CompilerCrashed { .. }
            | Error::CompileLimit { .. }
            | Error::CompilerOutput { .. }
            | Error::ImportsRefused { .. }
            | Error::ImportsTooLong { .. }
            | Error::Artifact(_)
            | Error::CpuFeatures { .. }
            | Error::NoSuchExport { .. }
            | Error::WrongArguments { .. }
            | Error::UnsupportedSignature { .. }
            | Error::HostCallNotGranted { .. }
            | Error::FuelNotCounted
            | Error::SnapshotInit { .. }
            | Error::SnapshotDescriptors { .. }
            | Error::SnapshotSize { .. }
            | Error::SnapshotTime { .. }
            | Error::Snapshot(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_binary_nor_text() {
        for module in [&b"\0asm"[..], b"(module)", b"\n ;; comment\n(module)", b"(; c ;)(module)"] {
            assert_eq!(not_a_module(module), None);
        }
        for other in [&b""[..], b"\0as", b"this is no module", b"\x7fELF", b"(\xff)"] {
            assert!(not_a_module(other).is_some(), "{other:?}");
        }
    }
}
