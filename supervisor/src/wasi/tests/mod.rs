//! Tests of the host calls on real files, pipes and sockets.

mod attacks;
mod confined;
mod descriptors;
mod directories;
mod files;
mod paths;
mod poll;
mod stdio;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ipc::interface::{Arg, FunctionId};
use ipc::job::ARENA_BYTES;
use ipc::ring::{Submission, pack_range};
use tempfile::TempDir;

use super::{WasiConfig, WasiContext, WasiError};
use crate::hostcall::{Answer, HostCall, SharedRegion};
use crate::job::Preopen;

pub(super) const BADF: u16 = 8;
pub(super) const EXIST: u16 = 20;
pub(super) const ILSEQ: u16 = 25;
pub(super) const INVAL: u16 = 28;
pub(super) const ISDIR: u16 = 31;
pub(super) const LOOP: u16 = 32;
pub(super) const MFILE: u16 = 33;
pub(super) const NAMETOOLONG: u16 = 37;
pub(super) const NOENT: u16 = 44;
pub(super) const NOTDIR: u16 = 54;
pub(super) const NOTEMPTY: u16 = 55;
pub(super) const NOTSOCK: u16 = 57;
pub(super) const NOTSUP: u16 = 58;
pub(super) const PERM: u16 = 63;
pub(super) const PIPE: u16 = 64;
pub(super) const SPIPE: u16 = 70;

pub(super) const READ: u64 = 1 << 1;
pub(super) const WRITE: u64 = 1 << 6;
pub(super) const READ_WRITE: u64 = READ | WRITE;

pub(super) const CREATE: u32 = 1;
pub(super) const DIRECTORY: u32 = 2;
pub(super) const EXCLUSIVE: u32 = 4;
pub(super) const TRUNCATE: u32 = 8;

/// The first preopened directory, then the second.
pub(super) const ROOT: u32 = 3;
pub(super) const OTHER: u32 = 4;

/// An argument of a call.
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Room for that many bytes of output.
    Room(usize),
    /// Room for a result of fixed size.
    Result,
}

pub(super) fn n(number: impl Into<u64>) -> Value<'static> {
    Value::Number(number.into())
}

pub(super) fn s(text: &str) -> Value<'_> {
    Value::Bytes(text.as_bytes())
}

/// The outputs of a call in order, or its error number.
pub(super) type Outputs = Result<Vec<Vec<u8>>, u16>;

/// A guest with its arena and its files in a temporary directory: `root` is preopened, `outside` is not.
pub(super) struct Guest {
    arena: Vec<u8>,
    pub context: WasiContext,
    pub files: TempDir,
}

pub(super) fn config(preopens: Vec<Preopen>) -> WasiConfig {
    WasiConfig {
        stdio: [None, None, None],
        preopens,
        max_handles: 64,
        max_output_bytes: None,
        clock_resolution_ns: 1,
        monotonic_offset: 0,
    }
}

pub(super) fn preopen(path: &Path, name: &str, read_only: bool) -> Preopen {
    Preopen { directory: OwnedFd::from(File::open(path).unwrap()), guest_path: name.to_owned(), read_only }
}

impl Guest {
    /// With `root` as descriptor 3.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// With `root` as descriptor 3, then read-only as descriptor 4.
    pub fn with_read_only() -> Self {
        let files = Self::files();
        let root = files.path().join("root");
        let config = config(vec![preopen(&root, "/root", false), preopen(&root, "/ro", true)]);
        Self::start(files, config)
    }

    /// With a changed configuration.
    pub fn with(change: impl FnOnce(&mut WasiConfig)) -> Self {
        let files = Self::files();
        let mut config = config(vec![preopen(&files.path().join("root"), "/root", false)]);
        change(&mut config);
        Self::start(files, config)
    }

    pub fn with_stdio(stdio: [Option<OwnedFd>; 3]) -> Self {
        Self::with(|config| config.stdio = stdio)
    }

    fn files() -> TempDir {
        let files = tempfile::tempdir().unwrap();
        std::fs::create_dir(files.path().join("root")).unwrap();
        std::fs::create_dir(files.path().join("outside")).unwrap();
        std::fs::write(files.path().join("outside/secret"), "secret").unwrap();
        files
    }

    fn start(files: TempDir, config: WasiConfig) -> Self {
        Self { arena: vec![0; ARENA_BYTES], context: WasiContext::new(config).unwrap(), files }
    }

    /// A path on the host below the preopened directory.
    pub fn host(&self, path: &str) -> PathBuf {
        self.files.path().join("root").join(path)
    }

    /// Calls a function with its arguments in the order of the interface table.
    pub async fn answer(&mut self, function: FunctionId, values: &[Value<'_>]) -> (Answer, Vec<Vec<u8>>) {
        let args = function.declaration().args;
        assert_eq!(args.len(), values.len(), "{function:?}");
        let mut submission = Submission { function: function.number(), ..Default::default() };
        let mut outputs = Vec::new();
        let mut end = 0;
        for ((word, arg), value) in submission.args.iter_mut().zip(args).zip(values) {
            let length = match (value, arg) {
                (Value::Number(number), _) => {
                    *word = *number;
                    continue;
                }
                (Value::Bytes(bytes), _) => {
                    self.arena[end..end + bytes.len()].copy_from_slice(bytes);
                    bytes.len()
                }
                (Value::Room(length), _) => *length,
                (Value::Result, Arg::Result { bytes, .. }) => *bytes as usize,
                (Value::Result, arg) => panic!("{arg:?} is not a result"),
            };
            if matches!(value, Value::Room(_) | Value::Result) {
                // What is not written must stay as it was.
                self.arena[end..end + length].fill(0xA5);
                outputs.push((end, length, matches!(value, Value::Room(_))));
            }
            *word = pack_range(end as u32, length as u32);
            end += length;
        }
        // SAFETY: the arena has that many bytes, and nothing else uses it until the call is done.
        let region = unsafe { SharedRegion::new(self.arena.as_mut_ptr(), ARENA_BYTES) };
        let call = HostCall::check(&submission, region).unwrap();
        let answer = self.context.call(&call).await;
        let written = if let Answer::Done { written, .. } = answer { written } else { 0 };
        let outputs = outputs
            .into_iter()
            .map(|(start, length, variable)| {
                let length = if variable { written } else { length };
                self.arena[start..start + length].to_vec()
            })
            .collect();
        (answer, outputs)
    }

    /// Calls a function that ends no job.
    pub async fn call(&mut self, function: FunctionId, values: &[Value<'_>]) -> Outputs {
        match self.answer(function, values).await {
            (Answer::Done { errno: 0, .. }, outputs) => Ok(outputs),
            (Answer::Done { errno, written }, _) => {
                assert_eq!(written, 0, "{function:?} failed and wrote");
                Err(errno)
            }
            (answer, _) => panic!("{function:?}: {answer:?}"),
        }
    }

    pub async fn open(&mut self, fd: u32, path: &str, oflags: u32, rights: u64) -> Result<u32, u16> {
        self.open_with(fd, 1, path, oflags, rights, 0).await
    }

    pub async fn open_with(
        &mut self,
        fd: u32,
        lookup: u32,
        path: &str,
        oflags: u32,
        rights: u64,
        fdflags: u32,
    ) -> Result<u32, u16> {
        let values = [n(fd), n(lookup), s(path), n(oflags), n(rights), n(rights), n(fdflags), Value::Result];
        Ok(u32_of(&self.call(FunctionId::path_open, &values).await?[0]))
    }

    pub async fn read(&mut self, fd: u32, bytes: usize) -> Result<Vec<u8>, u16> {
        let mut outputs = self.call(FunctionId::fd_read, &[n(fd), Value::Room(bytes), Value::Result]).await?;
        assert_eq!(outputs[0].len(), u32_of(&outputs[1]) as usize);
        Ok(outputs.swap_remove(0))
    }

    pub async fn pread(&mut self, fd: u32, bytes: usize, offset: u64) -> Result<Vec<u8>, u16> {
        let values = [n(fd), Value::Room(bytes), n(offset), Value::Result];
        let mut outputs = self.call(FunctionId::fd_pread, &values).await?;
        assert_eq!(outputs[0].len(), u32_of(&outputs[1]) as usize);
        Ok(outputs.swap_remove(0))
    }

    pub async fn write(&mut self, fd: u32, bytes: &[u8]) -> Result<u32, u16> {
        let values = [n(fd), Value::Bytes(bytes), Value::Result];
        Ok(u32_of(&self.call(FunctionId::fd_write, &values).await?[0]))
    }

    pub async fn pwrite(&mut self, fd: u32, bytes: &[u8], offset: u64) -> Result<u32, u16> {
        let values = [n(fd), Value::Bytes(bytes), n(offset), Value::Result];
        Ok(u32_of(&self.call(FunctionId::fd_pwrite, &values).await?[0]))
    }

    pub async fn close(&mut self, fd: u32) -> Result<(), u16> {
        self.call(FunctionId::fd_close, &[n(fd)]).await.map(drop)
    }

    pub async fn seek(&mut self, fd: u32, offset: i64, whence: u32) -> Result<u64, u16> {
        let values = [n(fd), n(offset as u64), n(whence), Value::Result];
        Ok(u64_of(&self.call(FunctionId::fd_seek, &values).await?[0]))
    }

    pub async fn tell(&mut self, fd: u32) -> Result<u64, u16> {
        Ok(u64_of(&self.call(FunctionId::fd_tell, &[n(fd), Value::Result]).await?[0]))
    }

    /// The 24 bytes of `fdstat`: type, flags, rights, inheriting rights.
    pub async fn fdstat(&mut self, fd: u32) -> Result<(u8, u8, u64, u64), u16> {
        let stat = self.call(FunctionId::fd_fdstat_get, &[n(fd), Value::Result]).await?.swap_remove(0);
        Ok((stat[0], stat[2], u64_of(&stat[8..]), u64_of(&stat[16..])))
    }

    pub async fn filestat(&mut self, fd: u32) -> Result<Stat, u16> {
        let stat = self.call(FunctionId::fd_filestat_get, &[n(fd), Value::Result]).await?;
        Ok(Stat(stat[0].clone()))
    }

    pub async fn stat(&mut self, fd: u32, path: &str, follow: bool) -> Result<Stat, u16> {
        let values = [n(fd), n(follow), s(path), Value::Result];
        Ok(Stat(self.call(FunctionId::path_filestat_get, &values).await?[0].clone()))
    }

    pub async fn mkdir(&mut self, fd: u32, path: &str) -> Result<(), u16> {
        self.call(FunctionId::path_create_directory, &[n(fd), s(path)]).await.map(drop)
    }

    pub async fn rmdir(&mut self, fd: u32, path: &str) -> Result<(), u16> {
        self.call(FunctionId::path_remove_directory, &[n(fd), s(path)]).await.map(drop)
    }

    pub async fn unlink(&mut self, fd: u32, path: &str) -> Result<(), u16> {
        self.call(FunctionId::path_unlink_file, &[n(fd), s(path)]).await.map(drop)
    }

    pub async fn rename(&mut self, fd: u32, old: &str, new_fd: u32, new: &str) -> Result<(), u16> {
        self.call(FunctionId::path_rename, &[n(fd), s(old), n(new_fd), s(new)]).await.map(drop)
    }

    pub async fn link(&mut self, fd: u32, old: &str, new_fd: u32, new: &str) -> Result<(), u16> {
        let values = [n(fd), n(0u32), s(old), n(new_fd), s(new)];
        self.call(FunctionId::path_link, &values).await.map(drop)
    }

    pub async fn symlink(&mut self, target: &str, fd: u32, path: &str) -> Result<(), u16> {
        self.call(FunctionId::path_symlink, &[s(target), n(fd), s(path)]).await.map(drop)
    }

    pub async fn readlink(&mut self, fd: u32, path: &str, bytes: usize) -> Result<Vec<u8>, u16> {
        let values = [n(fd), s(path), Value::Room(bytes), Value::Result];
        let mut outputs = self.call(FunctionId::path_readlink, &values).await?;
        assert_eq!(outputs[0].len(), u32_of(&outputs[1]) as usize);
        Ok(outputs.swap_remove(0))
    }

    pub async fn set_times(
        &mut self,
        fd: u32,
        lookup: u32,
        path: &str,
        times: (u64, u64),
        flags: u32,
    ) -> Result<(), u16> {
        let values = [n(fd), n(lookup), s(path), n(times.0), n(times.1), n(flags)];
        self.call(FunctionId::path_filestat_set_times, &values).await.map(drop)
    }
}

/// The 64 bytes of `filestat`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat(Vec<u8>);

impl Stat {
    fn field(&self, offset: usize) -> u64 {
        u64_of(&self.0[offset..])
    }

    pub fn device(&self) -> u64 {
        self.field(0)
    }

    pub fn inode(&self) -> u64 {
        self.field(8)
    }

    pub fn file_type(&self) -> u8 {
        self.0[16]
    }

    pub fn links(&self) -> u64 {
        self.field(24)
    }

    pub fn size(&self) -> u64 {
        self.field(32)
    }

    pub fn accessed(&self) -> u64 {
        self.field(40)
    }

    pub fn modified(&self) -> u64 {
        self.field(48)
    }
}

/// Bytes that a pipe takes before a write waits.
pub(super) fn capacity(pipe: impl std::os::fd::AsFd) -> usize {
    nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap() as usize
}

pub(super) fn u32_of(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*bytes.first_chunk().unwrap())
}

pub(super) fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().unwrap())
}
