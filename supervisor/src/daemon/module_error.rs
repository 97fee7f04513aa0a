//! What is wrong with a module, in words for its user: the same with and without a daemon.

use crate::Error;

/// What `bytes` are if they cannot be a module, binary or text; `None` if they may be one.
///
/// Text begins with a parenthesis or a comment. Without this, any other file is reported as text with a syntax error.
pub fn not_a_module(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.trim_ascii_start();
    let is_text = (text.starts_with(b"(") || text.starts_with(b";;")) && std::str::from_utf8(text).is_ok();
    (!is_text && !bytes.starts_with(b"\0asm")).then_some("not a WebAssembly module (neither binary nor text)")
}

/// The message of an error of the compiler, in one line.
pub fn compile_message(error: &compiler::Error) -> String {
    match error {
        compiler::Error::Text { message } => {
            compiler::Error::Text { message: without_excerpt(message) }.to_string()
        }
        other => other.to_string(),
    }
}

/// The message of an error of the supervisor, in one line.
pub fn message(error: &Error) -> String {
    match error {
        Error::Compile(error) => format!("module refused: {}", compile_message(error)),
        other => other.to_string(),
    }
}

/// Whether an error of a job is about its module, so that a message must name it.
pub fn concerns_module(error: &Error) -> bool {
    matches!(
        error,
        Error::Compile(_)
            | Error::Refused { .. }
            | Error::CompilerCrashed { .. }
            | Error::CompileLimit { .. }
            | Error::CompilerOutput { .. }
            | Error::Artifact(_)
            | Error::CpuFeatures { .. }
            | Error::NoSuchExport { .. }
            | Error::WrongArguments { .. }
            | Error::UnsupportedSignature { .. }
            | Error::HostCallNotGranted { .. }
            | Error::FuelNotCounted
    )
}

/// The parser of text says what is wrong, then ` --> FILE:LINE:COLUMN`, then draws an excerpt over several lines.
fn without_excerpt(message: &str) -> String {
    let mut what = Vec::new();
    for line in message.lines().map(str::trim) {
        let Some(place) = line.strip_prefix("--> ") else {
            what.push(line);
            continue;
        };
        let mut parts = place.rsplitn(3, ':');
        if let (Some(column), Some(line)) = (parts.next(), parts.next()) {
            return format!("{line}:{column}: {}", what.join(" "));
        }
    }
    what.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_text_have_a_place_and_no_excerpt() {
        let error = compiler::parse_text(b"(module\n  (fnc))").expect_err("a wrong keyword");
        let text = compile_message(&error);
        assert!(text.contains(": 2:4: ") && !text.contains(['\n', '|']), "{text}");
        assert!(!text.contains("<anon>"), "{text}");
        assert_eq!(without_excerpt("no place"), "no place");
    }

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
