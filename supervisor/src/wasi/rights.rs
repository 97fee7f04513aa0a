//! Rights that a guest gives up.
//!
//! A descriptor begins with the rights of what it stands for, whatever was asked for when it was opened (only reading and
//! writing follow the request, as in Wasmtime). `fd_fdstat_set_rights` takes rights away, for the descriptor itself and for
//! what is opened through it, and nothing gives them back: what counts is what was given up, and that set only grows.

use ipc::interface::FunctionId;

use super::errno::Errno;
use super::types::{oflags, rights, whence};
use crate::hostcall::HostCall;

/// What was given up on one descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// Rights to act on it.
    pub base: u64,
    /// Rights of what is opened through it.
    pub inheriting: u64,
}

impl GivenUp {
    /// Fails if one of `rights` was given up.
    pub fn check(self, rights: u64) -> Result<(), Errno> {
        if self.base & rights == 0 { Ok(()) } else { Err(Errno::NotCapable) }
    }

    /// What a descriptor that is opened through this one has given up from the start.
    pub fn inherited(self) -> Self {
        Self { base: self.inheriting, inheriting: self.inheriting }
    }
}

/// The rights that a call needs on the descriptors of its arguments: (argument, rights). `poll_oneoff` names its descriptors
/// elsewhere; the rest needs none.
pub(super) fn needed(call: &HostCall<'_>) -> [(usize, u64); 2] {
    let none = (0, 0);
    let first = |rights| [(0, rights), none];
    match call.function {
        FunctionId::fd_advise => first(rights::FD_ADVISE),
        FunctionId::fd_allocate => first(rights::FD_ALLOCATE),
        FunctionId::fd_datasync => first(rights::FD_DATASYNC),
        FunctionId::fd_fdstat_set_flags => first(rights::FD_FDSTAT_SET_FLAGS),
        FunctionId::fd_filestat_get => first(rights::FD_FILESTAT_GET),
        FunctionId::fd_filestat_set_size => first(rights::FD_FILESTAT_SET_SIZE),
        FunctionId::fd_filestat_set_times => first(rights::FD_FILESTAT_SET_TIMES),
        FunctionId::fd_pread => first(rights::FD_READ | rights::FD_SEEK),
        FunctionId::fd_pwrite => first(rights::FD_WRITE | rights::FD_SEEK),
        FunctionId::fd_read | FunctionId::sock_recv => first(rights::FD_READ),
        FunctionId::fd_readdir => first(rights::FD_READDIR),
        // Not to move is to tell.
        FunctionId::fd_seek if call.value(1) == 0 && call.value32(2) == whence::CUR => first(rights::FD_TELL),
        FunctionId::fd_seek => first(rights::FD_SEEK),
        FunctionId::fd_sync => first(rights::FD_SYNC),
        FunctionId::fd_tell => first(rights::FD_TELL),
        FunctionId::fd_write | FunctionId::sock_send => first(rights::FD_WRITE),
        FunctionId::path_create_directory => first(rights::PATH_CREATE_DIRECTORY),
        FunctionId::path_filestat_get => first(rights::PATH_FILESTAT_GET),
        FunctionId::path_filestat_set_times => first(rights::PATH_FILESTAT_SET_TIMES),
        FunctionId::path_link => [(0, rights::PATH_LINK_SOURCE), (3, rights::PATH_LINK_TARGET)],
        FunctionId::path_open => {
            let flag = |flag: u16, right| if call.value32(3) & u32::from(flag) != 0 { right } else { 0 };
            first(
                rights::PATH_OPEN
                    | flag(oflags::CREATE, rights::PATH_CREATE_FILE)
                    | flag(oflags::TRUNCATE, rights::PATH_FILESTAT_SET_SIZE),
            )
        }
        FunctionId::path_readlink => first(rights::PATH_READLINK),
        FunctionId::path_remove_directory => first(rights::PATH_REMOVE_DIRECTORY),
        FunctionId::path_rename => [(0, rights::PATH_RENAME_SOURCE), (2, rights::PATH_RENAME_TARGET)],
        FunctionId::path_symlink => [(1, rights::PATH_SYMLINK), none],
        FunctionId::path_unlink_file => first(rights::PATH_UNLINK_FILE),
        FunctionId::sock_accept => first(rights::SOCK_ACCEPT),
        FunctionId::sock_shutdown => first(rights::SOCK_SHUTDOWN),
        _ => [none, none],
    }
}
