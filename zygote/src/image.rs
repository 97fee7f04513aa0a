//! Mapping an artifact: an ELF image whose segments are at their final addresses.
//!
//! The supervisor has checked the artifact; the rules that matter for this process are checked again here,
//! because they are few: every segment lies in the region that artifacts may use, away from the gate and the
//! stack, and nothing is writable and executable.

use ipc::layout::{CODE_BASE, CODE_END, CONTEXT_BASE, CONTEXT_END, MEMORIES_END, MEMORY_BASE, PAGE};
use linux_raw_sys::errno::ENOEXEC;
use linux_raw_sys::general::{
    __NR_pread64, MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE,
};

use crate::gate;
use crate::sys::{self, Errno};
use ipc::control::Step;

const NOT_ACCEPTED: Errno = Errno(ENOEXEC as i32);

/// Most program headers that an artifact may have.
const HEADERS_MAX: usize = 512;

/// `Elf64_Ehdr` (elf(5)).
#[repr(C)]
#[derive(Clone, Copy)]
struct FileHeader {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    program_headers: u64,
    section_headers: u64,
    flags: u32,
    header_bytes: u16,
    program_header_bytes: u16,
    program_header_count: u16,
    rest: [u16; 3],
}

/// `Elf64_Phdr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProgramHeader {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    pub physical: u64,
    pub file_bytes: u64,
    pub memory_bytes: u64,
    pub align: u64,
}

const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;

/// Whether code could be sealed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    Wanted,
    NotWanted,
}

/// Maps the artifact behind `fd`.
pub fn map(fd: i32, sealing: Sealing) -> Result<(), (Step, Errno)> {
    let headers_step = |errno| (Step::ArtifactHeaders, errno);
    let mut file = FileHeader {
        ident: [0; 16],
        kind: 0,
        machine: 0,
        version: 0,
        entry: 0,
        program_headers: 0,
        section_headers: 0,
        flags: 0,
        header_bytes: 0,
        program_header_bytes: 0,
        program_header_count: 0,
        rest: [0; 3],
    };
    // SAFETY: FileHeader is plain integers, so any bytes are a value.
    unsafe { read_exact(fd, (&raw mut file).cast(), size_of::<FileHeader>(), 0) }.map_err(headers_step)?;
    let count = file.program_header_count as usize;
    if !file.ident.starts_with(b"\x7fELF")
        || count > HEADERS_MAX
        || file.program_header_bytes as usize != size_of::<ProgramHeader>()
    {
        return Err(headers_step(NOT_ACCEPTED));
    }
    for index in 0..count {
        let mut header = ProgramHeader {
            kind: 0,
            flags: 0,
            offset: 0,
            address: 0,
            physical: 0,
            file_bytes: 0,
            memory_bytes: 0,
            align: 0,
        };
        let at = index
            .checked_mul(size_of::<ProgramHeader>())
            .and_then(|o| file.program_headers.checked_add(o as u64))
            .ok_or(headers_step(NOT_ACCEPTED))?;
        // SAFETY: ProgramHeader is plain integers.
        unsafe { read_exact(fd, (&raw mut header).cast(), size_of::<ProgramHeader>(), at) }
            .map_err(headers_step)?;
        if header.kind == PT_LOAD {
            map_segment(fd, &header, sealing)?;
        }
    }
    Ok(())
}

fn map_segment(fd: i32, header: &ProgramHeader, sealing: Sealing) -> Result<(), (Step, Errno)> {
    let refused = (Step::ArtifactHeaders, NOT_ACCEPTED);
    let up = |bytes: u64| bytes.checked_next_multiple_of(PAGE).ok_or(refused);
    let (file_bytes, memory_bytes) = (up(header.file_bytes)?, up(header.memory_bytes)?);
    let end = header.address.checked_add(memory_bytes).ok_or(refused)?;
    let inside = |from: u64, to: u64| from <= header.address && end <= to;
    let executable = header.flags & PF_X != 0;
    let writable = header.flags & PF_W != 0;
    let place = if executable || !writable && header.flags & PF_R != 0 {
        inside(CODE_BASE, CODE_END)
    } else {
        inside(CONTEXT_BASE, CONTEXT_END) || inside(MEMORY_BASE, MEMORIES_END)
    };
    let aligned = header.address.is_multiple_of(PAGE) && header.offset.is_multiple_of(PAGE);
    if !place || !aligned || executable && writable || file_bytes > memory_bytes {
        return Err(refused);
    }
    if memory_bytes == 0 {
        return Ok(());
    }
    let protection = match (header.flags & PF_R != 0, writable, executable) {
        (true, true, false) => PROT_READ | PROT_WRITE,
        (true, false, true) => PROT_READ | PROT_EXEC,
        (true, false, false) => PROT_READ,
        (false, false, false) => PROT_NONE,
        _ => return Err(refused),
    };
    let failed = |errno| (Step::MapArtifact, errno);
    if file_bytes > 0 {
        // SAFETY: the range lies in a region of the artifact's, see `place`; nothing of the zygote is there,
        // because the kernel loads a PIE far above the last memory.
        unsafe { sys::map(header.address, file_bytes, protection, MAP_PRIVATE, fd, header.offset) }
            .map_err(failed)?;
    }
    if memory_bytes > file_bytes {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        // SAFETY: as above.
        unsafe { sys::map(header.address + file_bytes, memory_bytes - file_bytes, protection, flags, -1, 0) }
            .map_err(failed)?;
    }
    if sealing == Sealing::Wanted && !writable && protection != PROT_NONE {
        gate::seal(header.address, memory_bytes).map_err(|errno| (Step::Seal, errno))?;
    }
    Ok(())
}

/// Reads exactly `bytes` bytes at `offset`.
///
/// # Safety
/// `to` must be writable for `bytes` bytes, and any bytes must be a value of what is there.
unsafe fn read_exact(fd: i32, to: *mut u8, bytes: usize, offset: u64) -> Result<(), Errno> {
    // SAFETY: by the contract.
    let read = unsafe { sys::call(__NR_pread64, [fd as u64, to as u64, bytes as u64, offset, 0, 0]) }?;
    if read == bytes as u64 { Ok(()) } else { Err(NOT_ACCEPTED) }
}
