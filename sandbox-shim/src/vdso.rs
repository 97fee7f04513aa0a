//! Reading clocks without a system call, through the function that the kernel maps into every process.
//!
//! The vDSO is a small ELF image; its layout and symbol are documented in vdso(7). It comes from the kernel, so
//! it is trusted, and looked at once, by the zygote.

use core::ffi::{CStr, c_char};
use core::mem::transmute;

use linux_raw_sys::general::{CLOCK_MONOTONIC, CLOCK_REALTIME, timespec};

/// `int __vdso_clock_gettime(clockid_t, struct timespec *)`.
pub type ClockGettime = extern "C" fn(i32, *mut timespec) -> i32;

/// Clocks that guests may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time since 1970.
    Realtime,
    /// Time since some fixed point.
    Monotonic,
}

/// Reads a clock, in nanoseconds.
pub fn read(clock_gettime: ClockGettime, clock: Clock) -> Option<u64> {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    let id = match clock {
        Clock::Realtime => CLOCK_REALTIME,
        Clock::Monotonic => CLOCK_MONOTONIC,
    };
    if clock_gettime(id as i32, &mut time) != 0 {
        return None;
    }
    Some((time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64))
}

#[repr(C)]
struct FileHeader {
    ident: [u8; 16],
    kind_machine_version: [u32; 2],
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    header_bytes: u16,
    program_header_bytes: u16,
    program_header_count: u16,
}

#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    file_bytes: u64,
    memory_bytes: u64,
    align: u64,
}

#[repr(C)]
struct Dynamic {
    tag: u64,
    value: u64,
}

#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    bytes: u64,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;

/// Finds `__vdso_clock_gettime` in the vDSO at `base`; `None` if there is none or it has another form.
///
/// # Safety
/// `base` must be the value of `AT_SYSINFO_EHDR` that the kernel passed to this process, or 0.
pub unsafe fn find_clock_gettime(base: u64) -> Option<ClockGettime> {
    if base == 0 {
        return None;
    }
    // SAFETY: the kernel maps a complete ELF image at `base`; its headers, dynamic section, hash table, symbol and
    // string tables lie in the mapped segment, at the addresses that they name.
    unsafe {
        let header = &*(base as *const FileHeader);
        let headers = core::slice::from_raw_parts(
            (base + header.program_headers) as *const ProgramHeader,
            header.program_header_count as usize,
        );
        let load = headers.iter().find(|h| h.kind == PT_LOAD)?;
        let dynamic = headers.iter().find(|h| h.kind == PT_DYNAMIC)?;
        let bias = base.wrapping_add(load.offset).wrapping_sub(load.address);
        let (mut hash, mut strings, mut symbols) = (0, 0, 0);
        let mut entry = bias.wrapping_add(dynamic.address) as *const Dynamic;
        while (*entry).tag != 0 {
            match (*entry).tag {
                DT_HASH => hash = bias.wrapping_add((*entry).value),
                DT_STRTAB => strings = bias.wrapping_add((*entry).value),
                DT_SYMTAB => symbols = bias.wrapping_add((*entry).value),
                _ => {}
            }
            entry = entry.add(1);
        }
        if strings == 0 || symbols == 0 {
            return None;
        }
        // The number of symbols is the second word of DT_HASH. Kernels that only provide DT_GNU_HASH place the
        // string table right behind the symbol table.
        let count = match hash {
            0 if strings > symbols => (strings - symbols) / size_of::<Symbol>() as u64,
            0 => return None,
            hash => u64::from((hash as *const u32).add(1).read()),
        };
        let symbols = core::slice::from_raw_parts(symbols as *const Symbol, count as usize);
        symbols
            .iter()
            .filter(|s| s.section != 0)
            .find(|s| {
                CStr::from_ptr((strings + u64::from(s.name)) as *const c_char) == c"__vdso_clock_gettime"
            })
            .map(|s| transmute::<u64, ClockGettime>(bias.wrapping_add(s.value)))
    }
}
