use ipc::interface::FunctionId;

use super::*;

#[tokio::test]
async fn reads_and_writes_move_a_position_of_the_descriptor() {
    let mut guest = Guest::new();
    let file = guest.open(ROOT, "f", CREATE, READ_WRITE).await.unwrap();
    assert_eq!(guest.write(file, b"hello world").await, Ok(11));
    assert_eq!(guest.tell(file).await, Ok(11));
    assert_eq!(guest.read(file, 5).await.unwrap(), b"");
    assert_eq!(guest.seek(file, -5, 1).await, Ok(6));
    assert_eq!(guest.read(file, 3).await.unwrap(), b"wor");
    assert_eq!(guest.seek(file, -2, 2).await, Ok(9));
    assert_eq!(guest.read(file, 100).await.unwrap(), b"ld");
    assert_eq!(guest.seek(file, 0, 0).await, Ok(0));
    assert_eq!(guest.read(file, 0).await.unwrap(), b"");
    // A second descriptor has its own.
    let second = guest.open(ROOT, "f", 0, READ).await.unwrap();
    assert_eq!(guest.read(second, 5).await.unwrap(), b"hello");
    assert_eq!(guest.tell(file).await, Ok(0));
    assert_eq!(std::fs::read(guest.host("f")).unwrap(), b"hello world");
}

#[tokio::test]
async fn a_position_is_never_negative_but_may_lie_behind_the_end() {
    let mut guest = Guest::new();
    let file = guest.open(ROOT, "f", CREATE, READ_WRITE).await.unwrap();
    for (offset, whence) in [(-1, 0), (-1, 1), (-1, 2), (i64::MIN, 2), (0, 3), (0, u32::MAX)] {
        assert_eq!(guest.seek(file, offset, whence).await, Err(INVAL), "{offset} {whence}");
    }
    assert_eq!(guest.seek(file, 3, 0).await, Ok(3));
    assert_eq!(guest.read(file, 3).await.unwrap(), b"");
    guest.write(file, b"x").await.unwrap();
    assert_eq!(std::fs::read(guest.host("f")).unwrap(), b"\0\0\0x");
    // Beyond what the kernel counts: the position moves there, the transfers fail.
    assert_eq!(guest.seek(file, i64::MAX, 0).await, Ok(i64::MAX as u64));
    assert_eq!(guest.seek(file, 1, 1).await, Ok(1 << 63));
    assert_eq!(guest.read(file, 1).await, Err(INVAL));
    assert_eq!(guest.write(file, b"x").await, Err(INVAL));
    assert_eq!(guest.seek(file, i64::MAX, 1).await, Ok(u64::MAX));
    assert_eq!(guest.seek(file, 1, 1).await, Err(INVAL));
}

#[tokio::test]
async fn transfers_at_an_offset_leave_the_position() {
    let mut guest = Guest::new();
    std::fs::write(guest.host("f"), "0123456789").unwrap();
    let file = guest.open(ROOT, "f", 0, READ_WRITE).await.unwrap();
    assert_eq!(guest.pread(file, 4, 3).await.unwrap(), b"3456");
    assert_eq!(guest.pread(file, 4, 8).await.unwrap(), b"89");
    assert_eq!(guest.pread(file, 4, 100).await.unwrap(), b"");
    assert_eq!(guest.pread(file, 4, u64::MAX).await, Err(INVAL));
    assert_eq!(guest.pwrite(file, b"ABC", 2).await, Ok(3));
    assert_eq!(guest.pwrite(file, b"ABC", u64::MAX).await, Err(INVAL));
    assert_eq!(guest.tell(file).await, Ok(0));
    assert_eq!(guest.read(file, 100).await.unwrap(), b"01ABC56789");
}

#[tokio::test]
async fn appending_ignores_offset_and_position() {
    let mut guest = Guest::new();
    std::fs::write(guest.host("f"), "ab").unwrap();
    let file = guest.open_with(ROOT, 1, "f", 0, READ_WRITE, 1).await.unwrap();
    assert_eq!(guest.write(file, b"c").await, Ok(1));
    assert_eq!(guest.tell(file).await, Ok(3));
    assert_eq!(guest.pwrite(file, b"d", 0).await, Ok(1));
    assert_eq!(guest.tell(file).await, Ok(3));
    guest.call(FunctionId::fd_fdstat_set_flags, &[n(file), n(0u32)]).await.unwrap();
    guest.seek(file, 0, 0).await.unwrap();
    guest.write(file, b"A").await.unwrap();
    assert_eq!(std::fs::read(guest.host("f")).unwrap(), b"Abcd");
}

#[tokio::test]
async fn access_is_what_was_opened() {
    let mut guest = Guest::new();
    std::fs::write(guest.host("f"), "x").unwrap();
    let reader = guest.open(ROOT, "f", 0, READ).await.unwrap();
    assert_eq!(guest.write(reader, b"y").await, Err(BADF));
    assert_eq!(guest.pwrite(reader, b"y", 0).await, Err(BADF));
    let writer = guest.open(ROOT, "f", 0, WRITE).await.unwrap();
    assert_eq!(guest.read(writer, 1).await, Err(BADF));
    assert_eq!(guest.pread(writer, 1, 0).await, Err(BADF));
    // Without any right it can be read, as in Wasmtime.
    let neither = guest.open(ROOT, "f", 0, 0).await.unwrap();
    assert_eq!(guest.read(neither, 1).await.unwrap(), b"x");
}

#[tokio::test]
async fn directories_and_streams_are_no_files() {
    let mut guest = Guest::new();
    assert_eq!(guest.read(ROOT, 1).await, Err(BADF));
    assert_eq!(guest.write(ROOT, b"x").await, Err(BADF));
    assert_eq!(guest.pread(ROOT, 1, 0).await, Err(BADF));
    assert_eq!(guest.pwrite(ROOT, b"x", 0).await, Err(BADF));
    assert_eq!(guest.seek(ROOT, 0, 0).await, Err(BADF));
    assert_eq!(guest.tell(ROOT).await, Err(BADF));
    assert_eq!(guest.pread(0, 1, 0).await, Err(SPIPE));
    assert_eq!(guest.pread(1, 1, 0).await, Err(BADF));
    assert_eq!(guest.pwrite(1, b"x", 0).await, Err(SPIPE));
    assert_eq!(guest.pwrite(0, b"x", 0).await, Err(BADF));
    for fd in 0..3 {
        assert_eq!(guest.seek(fd, 0, 0).await, Err(SPIPE));
        assert_eq!(guest.tell(fd).await, Err(SPIPE));
    }
    for fd in [0, 1, ROOT, 99] {
        let calls: [(FunctionId, &[Value<'_>]); 5] = [
            (FunctionId::fd_advise, &[n(fd), n(0u32), n(0u32), n(0u32)]),
            (FunctionId::fd_allocate, &[n(fd), n(0u32), n(1u32)]),
            (FunctionId::fd_datasync, &[n(fd)]),
            (FunctionId::fd_sync, &[n(fd)]),
            (FunctionId::fd_filestat_set_size, &[n(fd), n(0u32)]),
        ];
        for (function, values) in calls {
            assert_eq!(guest.call(function, values).await, Err(BADF), "{function:?} {fd}");
        }
    }
}

#[tokio::test]
async fn allocation_only_grows() {
    let mut guest = Guest::new();
    let file = guest.open(ROOT, "f", CREATE, READ_WRITE).await.unwrap();
    guest.write(file, b"data").await.unwrap();
    let allocate = |offset: u64, length: u64| [n(file), n(offset), n(length)];
    guest.call(FunctionId::fd_allocate, &allocate(2, 8)).await.unwrap();
    assert_eq!(std::fs::read(guest.host("f")).unwrap(), b"data\0\0\0\0\0\0");
    guest.call(FunctionId::fd_allocate, &allocate(0, 1)).await.unwrap();
    assert_eq!(guest.filestat(file).await.unwrap().size(), 10);
    for (offset, length) in [(0, 0), (u64::MAX, 1), (0, u64::MAX), (1 << 63, 1)] {
        assert_eq!(guest.call(FunctionId::fd_allocate, &allocate(offset, length)).await, Err(INVAL));
    }
}

#[tokio::test]
async fn size_times_sync_and_advice() {
    let mut guest = Guest::new();
    let file = guest.open(ROOT, "f", CREATE, READ_WRITE).await.unwrap();
    guest.write(file, b"0123456789").await.unwrap();
    guest.call(FunctionId::fd_filestat_set_size, &[n(file), n(4u32)]).await.unwrap();
    assert_eq!(std::fs::read(guest.host("f")).unwrap(), b"0123");
    guest.call(FunctionId::fd_filestat_set_size, &[n(file), n(6u32)]).await.unwrap();
    assert_eq!(std::fs::read(guest.host("f")).unwrap(), b"0123\0\0");
    assert_eq!(guest.call(FunctionId::fd_filestat_set_size, &[n(file), n(u64::MAX)]).await, Err(INVAL));
    let reader = guest.open(ROOT, "f", 0, READ).await.unwrap();
    assert_eq!(guest.call(FunctionId::fd_filestat_set_size, &[n(reader), n(0u32)]).await, Err(INVAL));

    let times = |fd: u32, a: u64, m: u64, flags: u32| [n(fd), n(a), n(m), n(flags)];
    let set = FunctionId::fd_filestat_set_times;
    guest.call(set, &times(file, 1_000_000_000, 2_000_000_003, 5)).await.unwrap();
    let stat = guest.filestat(file).await.unwrap();
    assert_eq!((stat.accessed(), stat.modified()), (1_000_000_000, 2_000_000_003));
    guest.call(set, &times(file, 9, 9, 8)).await.unwrap();
    let stat = guest.filestat(file).await.unwrap();
    assert_eq!(stat.accessed(), 1_000_000_000);
    assert!(stat.modified() > 1_600_000_000_000_000_000);
    guest.call(set, &times(ROOT, 7, 7, 5)).await.unwrap();
    assert_eq!(guest.filestat(ROOT).await.unwrap().modified(), 7);
    for (fd, flags, errno) in
        [(file, 3, INVAL), (file, 12, INVAL), (file, 16, INVAL), (0, 1, BADF), (99, 1, BADF)]
    {
        assert_eq!(guest.call(set, &times(fd, 1, 1, flags)).await, Err(errno));
    }

    guest.call(FunctionId::fd_sync, &[n(file)]).await.unwrap();
    guest.call(FunctionId::fd_datasync, &[n(reader)]).await.unwrap();
    for advice in 0..6u32 {
        guest.call(FunctionId::fd_advise, &[n(file), n(0u32), n(4u32), n(advice)]).await.unwrap();
    }
    assert_eq!(guest.call(FunctionId::fd_advise, &[n(file), n(0u32), n(4u32), n(6u32)]).await, Err(INVAL));
    assert_eq!(
        guest.call(FunctionId::fd_advise, &[n(file), n(0u32), n(u64::MAX), n(0u32)]).await,
        Err(INVAL)
    );
}

#[tokio::test]
async fn filestat_identifies_files_without_telling_their_numbers() {
    use std::os::unix::fs::MetadataExt;
    let mut guest = Guest::new();
    std::fs::write(guest.host("f"), "abc").unwrap();
    std::fs::hard_link(guest.host("f"), guest.host("g")).unwrap();
    std::os::unix::fs::symlink("f", guest.host("l")).unwrap();
    let file = guest.open(ROOT, "f", 0, READ).await.unwrap();
    let open = guest.filestat(file).await.unwrap();
    assert_eq!(guest.stat(ROOT, "f", false).await.unwrap(), open);
    assert_eq!(guest.stat(ROOT, "l", true).await.unwrap(), open);
    assert_eq!(guest.stat(ROOT, "g", true).await.unwrap().inode(), open.inode());
    assert_eq!((open.device(), open.file_type(), open.links(), open.size()), (1, 4, 2, 3));
    let host = std::fs::metadata(guest.host("f")).unwrap();
    assert_ne!(open.inode(), host.ino());
    assert_eq!(open.modified(), (host.mtime() * 1_000_000_000 + host.mtime_nsec()) as u64);
    let link = guest.stat(ROOT, "l", false).await.unwrap();
    assert_eq!((link.file_type(), link.size()), (7, 1));
    assert_ne!(link.inode(), open.inode());
    let directory = guest.filestat(ROOT).await.unwrap();
    assert_eq!(directory.file_type(), 3);
    assert_eq!(guest.stat(ROOT, ".", true).await.unwrap(), directory);
    assert_eq!(guest.filestat(0).await.unwrap(), Stat(vec![0; 64]));
    assert_eq!(guest.filestat(99).await, Err(BADF));
}
