//! The zygote's binary, carried inside this one, and starting it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::child::{self, Child};
use crate::error::{Error, errno, system};

static IMAGE: &[u8] = include_bytes!(env!("SANDBOXD_ZYGOTE"));

/// Starts a root zygote whose control socket is `socket`. It inherits nothing else: no environment, no
/// arguments of ours, no descriptor.
///
/// The zygote dies with the calling *thread* (`PR_SET_PDEATHSIG`), so call it from one that lives as long as the
/// supervisor.
pub(crate) fn start(socket: OwnedFd) -> Result<Child, Error> {
    let mut image = memory_file()?;
    image.write_all(IMAGE).map_err(system("write the zygote's memory file"))?;
    // Out of the way of the numbers that descriptors take in the child.
    let image = child::out_of_the_way(&image)
        .map_err(system("move the zygote's memory file to another descriptor"))?;
    let program = PathBuf::from(format!("/proc/self/fd/{}", image.as_raw_fd()));
    Child::start(&program, c"sandbox-zygote", socket)
        .map_err(system("start the zygote from its memory file (is vm.memfd_noexec 2?)"))
}

/// A memory file that may be executed. Kernels before 6.3 know no flag for that and need none.
fn memory_file() -> Result<File, Error> {
    const MFD_EXEC: libc::c_uint = 0x10;
    let create = |flags| memfd_create(c"zygote", MFdFlags::from_bits_retain(flags));
    create(libc::MFD_CLOEXEC | MFD_EXEC)
        .or_else(|_| create(libc::MFD_CLOEXEC))
        .map(File::from)
        .map_err(errno("create a memory file for the zygote"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is mapped without bytes of the file is a mapping of its own, which every fork copies.
    #[test]
    fn the_image_has_no_pages_that_are_not_in_its_file() {
        let number = |at: usize, bytes: usize| {
            let field = IMAGE[at..at + bytes].iter().rev();
            field.fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        // elf(5), 64 bits: where the program headers are, and how many; of each its type, address, and sizes in the file and in memory.
        let (headers, count) = (number(32, 8) as usize, number(56, 2) as usize);
        let loaded: Vec<_> = (0..count)
            .map(|index| headers + index * 56)
            .filter(|header| number(*header, 4) == 1)
            .map(|header| (number(header + 16, 8), number(header + 32, 8), number(header + 40, 8)))
            .collect();
        assert!(!loaded.is_empty());
        for (address, in_file, in_memory) in loaded {
            let end = |bytes: u64| (address + bytes).next_multiple_of(ipc::layout::PAGE);
            assert_eq!(end(in_file), end(in_memory), "the segment at {address:#x}");
        }
    }
}
