//! The supervisor in a shared library, as a host app that is no Rust program would have it. `tests/shared_library.rs` loads it.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

use supervisor::{CompileProgress, Compiler, Config};

/// Compiles a small module, with workers of the program at `worker` (null: of the program that runs). Returns 0, or 1 and why
/// not in `message`, of `capacity` bytes.
///
/// # Safety
///
/// `worker` is null or a C string, and `message` has `capacity` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn compile_something(
    worker: *const c_char,
    message: *mut c_char,
    capacity: usize,
) -> c_int {
    // SAFETY: as the caller promises.
    let worker = (!worker.is_null()).then(|| unsafe { CStr::from_ptr(worker) });
    let worker_program = worker.map(|path| OsStr::from_bytes(path.to_bytes()).into());
    let compiler = Compiler::new(&Config { worker_program, ..Config::default() });
    let result = compiler.compile(b"(module)", &compiler::Options::default(), &CompileProgress::default());
    let text = result.as_ref().map_or_else(ToString::to_string, |_| String::new());
    let bytes = text.bytes().take(capacity.saturating_sub(1)).chain([0]).take(capacity);
    for (index, byte) in bytes.enumerate() {
        // SAFETY: `index` is less than `capacity`.
        unsafe { message.add(index).write(byte as c_char) };
    }
    result.is_err().into()
}
