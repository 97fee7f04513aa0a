use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use ipc::interface::FunctionId;
use ipc::report::{Limit, LimitReached};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::*;

fn status_flags(fd: impl AsFd) -> OFlag {
    OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL).unwrap())
}

#[tokio::test]
async fn absent_streams_are_empty_and_swallow() {
    let mut guest = Guest::new();
    assert_eq!(guest.read(0, 10).await.unwrap(), b"");
    assert_eq!(guest.write(1, b"hello").await, Ok(5));
    assert_eq!(guest.write(2, b"abc").await, Ok(3));
    assert_eq!(guest.context.output_bytes(), 8);
    assert_eq!(guest.write(0, b"x").await, Err(BADF));
    assert_eq!(guest.read(1, 1).await, Err(BADF));
    guest.close(1).await.unwrap();
    assert_eq!(guest.write(1, b"x").await, Err(BADF));
}

#[tokio::test]
async fn a_read_of_an_empty_pipe_waits_without_blocking_the_thread() {
    let (reader, writer) = std::io::pipe().unwrap();
    let shared = reader.try_clone().unwrap();
    let mut guest = Guest::with_stdio([Some(reader.into()), None, None]);
    let mut writer = Some(writer);
    // One thread: what is written is written while the guest waits.
    let (read, ()) = tokio::join!(guest.read(0, 100), async {
        tokio::task::yield_now().await;
        writer.as_mut().unwrap().write_all(b"first").unwrap();
    });
    assert_eq!(read.unwrap(), b"first");
    writer.as_mut().unwrap().write_all(b"second").unwrap();
    assert_eq!(guest.read(0, 3).await.unwrap(), b"sec");
    assert_eq!(guest.read(0, 0).await.unwrap(), b"");
    assert_eq!(guest.read(0, 100).await.unwrap(), b"ond");
    let (end, ()) = tokio::join!(guest.read(0, 100), async {
        tokio::task::yield_now().await;
        writer = None;
    });
    assert_eq!(end.unwrap(), b"");
    assert_eq!(guest.read(0, 100).await.unwrap(), b"");
    // The description that other processes share is as it was.
    assert!(!status_flags(&shared).contains(OFlag::O_NONBLOCK));
}

#[tokio::test]
async fn a_write_to_a_full_pipe_waits_and_writes_everything() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let shared = writer.try_clone().unwrap();
    let mut guest = Guest::with_stdio([None, Some(writer.into()), None]);
    let capacity = capacity(&shared);
    let data: Vec<u8> = (0..4 * capacity).map(|i| (i % 251) as u8).collect();
    let mut received = Vec::new();
    let (written, ()) = tokio::join!(guest.write(1, &data), async {
        let mut part = vec![0; capacity / 2];
        while received.len() < data.len() {
            tokio::task::yield_now().await;
            let count = reader.read(&mut part).unwrap();
            received.extend_from_slice(&part[..count]);
        }
    });
    assert_eq!(written, Ok(data.len() as u32));
    assert!(received == data);
    assert_eq!(guest.context.output_bytes(), data.len() as u64);
    assert!(!status_flags(&shared).contains(OFlag::O_NONBLOCK));
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing_behind() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (mut out_reader, out_writer) = std::io::pipe().unwrap();
    let capacity = capacity(&out_writer);
    let mut guest = Guest::with_stdio([Some(reader.into()), Some(out_writer.into()), None]);
    {
        let mut waiting = Box::pin(guest.read(0, 10));
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending()
        );
    }
    {
        let data = vec![7; 2 * capacity];
        let mut waiting = Box::pin(guest.write(1, &data));
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending()
        );
    }
    // It could even go on.
    writer.write_all(b"later").unwrap();
    assert_eq!(guest.read(0, 10).await.unwrap(), b"later");
    drop(guest);
    assert_eq!(writer.write_all(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    let mut rest = Vec::new();
    out_reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), capacity);
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_is_an_error() {
    // Before the first write, and after it.
    let (reader, writer) = std::io::pipe().unwrap();
    let mut guest = Guest::with_stdio([None, Some(writer.into()), None]);
    drop(reader);
    assert_eq!(guest.write(1, b"x").await, Err(PIPE));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut guest = Guest::with_stdio([None, Some(writer.into()), None]);
    assert_eq!(guest.write(1, b"x").await, Ok(1));
    drop(reader);
    assert_eq!(guest.write(1, b"x").await, Err(PIPE));
    assert_eq!(guest.context.output_bytes(), 1);
}

#[tokio::test]
async fn ends_of_pipes_that_go_the_other_way_are_refused() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut guest = Guest::with_stdio([Some(writer.into()), Some(reader.into()), None]);
    assert_eq!(guest.read(0, 1).await, Err(BADF));
    assert_eq!(guest.write(1, b"x").await, Err(BADF));
}

#[tokio::test]
async fn a_descriptor_without_access_gives_none() {
    let files = tempfile::tempdir().unwrap();
    let fifo = files.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _both_ends = File::options().read(true).write(true).open(&fifo).unwrap();
    let path_only = || {
        let opened = File::options().read(true).custom_flags(libc::O_PATH).open(&fifo).unwrap();
        Some(OwnedFd::from(opened))
    };
    let mut guest = Guest::with_stdio([path_only(), path_only(), None]);
    assert_eq!(guest.read(0, 1).await, Err(BADF));
    assert_eq!(guest.write(1, b"x").await, Err(BADF));
}

#[tokio::test]
async fn sockets() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut ours = Some(ours);
    let out = theirs.try_clone().unwrap();
    let shared = theirs.try_clone().unwrap();
    let mut guest = Guest::with_stdio([Some(theirs.into()), Some(out.into()), None]);
    let (read, ()) = tokio::join!(guest.read(0, 100), async {
        tokio::task::yield_now().await;
        ours.as_mut().unwrap().write_all(b"hello").unwrap();
    });
    assert_eq!(read.unwrap(), b"hello");
    let data = vec![1; 1 << 20];
    let mut received = 0;
    let (written, ()) = tokio::join!(guest.write(1, &data), async {
        let mut part = vec![0; 1 << 16];
        while received < data.len() {
            tokio::task::yield_now().await;
            received += ours.as_mut().unwrap().read(&mut part).unwrap();
        }
    });
    assert_eq!(written, Ok(1 << 20));
    assert!(!status_flags(&shared).contains(OFlag::O_NONBLOCK));
    ours = None;
    assert_eq!(guest.read(0, 100).await.unwrap(), b"");
    assert_eq!(guest.write(1, b"x").await, Err(PIPE));
    assert!(ours.is_none());
}

#[tokio::test]
async fn an_event_counter_is_a_stream_too() {
    // SAFETY: eventfd(2) takes two integers; a non-negative result is a new descriptor that nobody else owns.
    let counter = unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    };
    let mut adder = File::from(counter.try_clone().unwrap());
    let mut guest = Guest::with_stdio([Some(counter), None, None]);
    let (read, ()) = tokio::join!(guest.read(0, 8), async {
        tokio::task::yield_now().await;
        adder.write_all(&5u64.to_ne_bytes()).unwrap();
    });
    assert_eq!(read.unwrap(), 5u64.to_ne_bytes());
}

#[tokio::test]
async fn regular_files_share_their_position() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("f");
    std::fs::write(&path, "0123456789").unwrap();
    let mut input = File::open(&path).unwrap();
    input.seek(SeekFrom::Start(2)).unwrap();
    let mut output = File::options().append(true).create(true).open(files.path().join("out")).unwrap();
    output.write_all(b"before ").unwrap();
    let stdio = [Some(input.try_clone().unwrap().into()), Some(output.try_clone().unwrap().into()), None];
    let mut guest = Guest::with_stdio(stdio);
    assert_eq!(guest.read(0, 3).await.unwrap(), b"234");
    assert_eq!(input.stream_position().unwrap(), 5);
    guest.write(1, b"guest ").await.unwrap();
    output.write_all(b"after").unwrap();
    assert_eq!(std::fs::read(files.path().join("out")).unwrap(), b"before guest after");
    assert_eq!(guest.read(0, 100).await.unwrap(), b"56789");
    assert_eq!(guest.read(0, 100).await.unwrap(), b"");
    assert_eq!(guest.seek(0, 0, 0).await, Err(SPIPE));
}

#[tokio::test]
async fn devices() {
    let null = || Some(File::options().read(true).write(true).open("/dev/null").unwrap().into());
    let full = Some(File::options().write(true).open("/dev/full").unwrap().into());
    let mut guest = Guest::with_stdio([null(), null(), full]);
    assert_eq!(guest.read(0, 10).await.unwrap(), b"");
    assert_eq!(guest.write(1, b"x").await, Ok(1));
    assert_eq!(guest.write(2, b"x").await, Err(51));
    assert_eq!(guest.fdstat(0).await.unwrap().0, 0);
    let directory = Some(File::open("/").unwrap().into());
    let mut guest = Guest::with_stdio([directory, None, None]);
    assert_eq!(guest.read(0, 10).await, Err(ISDIR));
}

/// The two ends of a new terminal: the one of the emulator, and the one of the program.
fn terminal() -> (File, File) {
    // SAFETY: posix_openpt(3) takes an integer; a non-negative result is a new descriptor that nobody else owns.
    let master = unsafe {
        let fd = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    let (mut unlocked, mut number) = (0, 0);
    // SAFETY: both requests read or write one int, which lives through the call.
    unsafe {
        assert_eq!(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw mut unlocked), 0);
        assert_eq!(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number), 0);
    }
    let path = format!("/dev/pts/{number}");
    let slave = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap();
    (master, slave)
}

#[tokio::test]
async fn terminals_are_character_devices_that_wait() {
    let (mut master, slave) = terminal();
    let shared = slave.try_clone().unwrap();
    let stdio = [Some(slave.try_clone().unwrap().into()), Some(slave.into()), None];
    let mut guest = Guest::with_stdio(stdio);
    assert_eq!(guest.fdstat(0).await, Ok((2, 0, READ, READ)));
    assert_eq!(guest.filestat(1).await.unwrap().file_type(), 2);
    let (read, ()) = tokio::join!(guest.read(0, 100), async {
        tokio::task::yield_now().await;
        master.write_all(b"typed\n").unwrap();
    });
    assert_eq!(read.unwrap(), b"typed\n");
    assert_eq!(guest.write(1, b"shown").await, Ok(5));
    assert!(!status_flags(&shared).contains(OFlag::O_NONBLOCK));
}

#[tokio::test]
async fn the_emulator_side_of_a_terminal_is_not_opened_again() {
    let (master, mut slave) = terminal();
    let mut guest = Guest::with_stdio([Some(master.into()), None, None]);
    let (read, ()) = tokio::join!(guest.read(0, 100), async {
        tokio::task::yield_now().await;
        slave.write_all(b"shown").unwrap();
    });
    assert_eq!(read.unwrap(), b"shown");
}

#[tokio::test]
async fn output_ends_at_its_limit() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut guest = Guest::with(|config| {
        config.stdio[1] = Some(writer.into());
        config.max_output_bytes = Some(10);
    });
    assert_eq!(guest.write(1, b"12345").await, Ok(5));
    assert_eq!(guest.write(2, b"678").await, Ok(3));
    let values = [n(1u32), s("9abc"), Value::Result];
    let (answer, _) = guest.answer(FunctionId::fd_write, &values).await;
    let Answer::Limit(LimitReached { limit: Limit::Output, value: 10 }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(guest.context.output_bytes(), 10);
    let (answer, _) = guest.answer(FunctionId::fd_write, &values).await;
    assert!(matches!(answer, Answer::Limit(_)));
    assert_eq!(guest.write(1, b"").await, Ok(0));
    drop(guest);
    let mut received = Vec::new();
    reader.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"123459a");
    // Exactly the limit is allowed, and files do not count.
    let mut guest = Guest::with(|config| config.max_output_bytes = Some(3));
    assert_eq!(guest.write(1, b"123").await, Ok(3));
    let file = guest.open(ROOT, "f", CREATE, WRITE).await.unwrap();
    assert_eq!(guest.write(file, b"12345").await, Ok(5));
}

#[tokio::test]
async fn a_guest_that_does_not_want_to_wait_is_told_to_come_again() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (mut out_reader, out_writer) = std::io::pipe().unwrap();
    let capacity = capacity(&out_writer);
    let shared = out_writer.try_clone().unwrap();
    let mut guest = Guest::with_stdio([Some(reader.into()), Some(out_writer.into()), None]);
    guest.set_flags(0, 4).await.unwrap();
    guest.set_flags(1, 4).await.unwrap();
    assert_eq!(guest.read(0, 9).await, Err(AGAIN));
    writer.write_all(b"ab").unwrap();
    assert_eq!(guest.read(0, 9).await.unwrap(), b"ab");
    assert_eq!(guest.read(0, 9).await, Err(AGAIN));
    let data: Vec<u8> = (0..2 * capacity).map(|i| (i % 251) as u8).collect();
    assert_eq!(guest.write(1, &data).await, Ok(capacity as u32));
    assert_eq!(guest.write(1, &data).await, Err(AGAIN));
    assert_eq!(guest.context.output_bytes(), capacity as u64);
    let mut received = vec![0; capacity];
    out_reader.read_exact(&mut received).unwrap();
    assert!(received == data[..capacity]);
    guest.set_flags(0, 0).await.unwrap();
    let (read, ()) = tokio::join!(guest.read(0, 9), async {
        tokio::task::yield_now().await;
        writer.write_all(b"late").unwrap();
    });
    assert_eq!(read.unwrap(), b"late");
    assert!(!status_flags(&shared).contains(OFlag::O_NONBLOCK));
}
