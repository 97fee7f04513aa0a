//! Text to the parser of interfaces, and words of a hostile instance to the decoder of typed calls of what it takes: no panic, errors
//! of one line, no copy of bytes that are not in the arena, and no text that is generated from it with its descriptions outside of comments.
#![no_main]

use interface::{Arena, HandleCheck, Interface};
use libfuzzer_sys::fuzz_target;

const ARENA: usize = 4096;

struct Bytes<'b>(&'b [u8]);

impl Arena for Bytes<'_> {
    fn bytes(&self) -> usize {
        ARENA
    }

    fn copy(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= ARENA);
        self.0.iter().copied().cycle().chain(std::iter::repeat(0)).skip(offset % 64).take(length).collect()
    }
}

struct Some7;

impl HandleCheck for Some7 {
    fn refuse(&self, handle: u32, _: usize) -> Option<String> {
        (handle != 7).then(|| "closed".to_owned())
    }
}

/// An interface with every kind of type.
const SOUND: &str = include_str!("interface.toml");

// What comes before the first zero byte is an interface; what comes after it is words and an arena. Without text, the interface
// is the one above.
fuzz_target!(|data: &[u8]| {
    let (text, rest) =
        data.iter().position(|b| *b == 0).map_or((data, &[][..]), |at| (&data[..at], &data[at + 1..]));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let lowered = match Interface::parse(if text.is_empty() { SOUND } else { text }, "fuzz.toml") {
        Ok(lowered) => lowered,
        Err(error) => {
            assert!(!text.is_empty() && !error.to_string().contains('\n'), "{error}");
            assert!(error.position().is_none_or(|at| at.line > 0 && at.column > 0));
            return;
        }
    };
    let _ = lowered.warnings();
    if let Ok(header) = lowered.c_header() {
        assert_eq!(header.matches("/*").count(), header.matches("*/").count());
    }
    if let Ok(module) = lowered.rust_module() {
        assert!(!module.contains('\r') && lowered.rust_module() == Ok(module));
    }
    assert!(lowered.reference().starts_with("# Interface `"));
    let mut words = [0; ipc::interface::ARGS_MAX];
    for (word, bytes) in words.iter_mut().zip(rest.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    }
    for function in lowered.functions() {
        assert!(function.args().count() <= words.len() && function.params().len() <= ipc::typed::PARAMS_MAX);
        if let Ok(call) = function.decode(&words, &Bytes(rest), &Some7) {
            assert_eq!(call.arguments.len(), function.declaration().params.len());
        }
        let _ = function.decode_refusal(&words);
    }
});
