//! The host calls under the daemon's own filter: serving needs no system call that it refuses.

use std::os::unix::net::UnixStream;

use super::*;

/// Everything that a guest can ask for that reaches the kernel.
async fn serve_everything(guest: &mut Guest) {
    guest.mkdir(ROOT, "d").await.unwrap();
    let file = guest.open(ROOT, "d/f", CREATE, READ_WRITE).await.unwrap();
    guest.write(file, b"0123").await.unwrap();
    guest.pwrite(file, b"45", 4).await.unwrap();
    guest.seek(file, 0, 0).await.unwrap();
    assert_eq!(guest.read(file, 9).await.unwrap(), b"012345");
    assert_eq!(guest.pread(file, 2, 1).await.unwrap(), b"12");
    assert_eq!(guest.tell(file).await, Ok(6));
    guest.call(FunctionId::fd_advise, &[n(file), n(0u32), n(4u32), n(1u32)]).await.unwrap();
    guest.call(FunctionId::fd_allocate, &[n(file), n(0u32), n(9u32)]).await.unwrap();
    guest.call(FunctionId::fd_filestat_set_size, &[n(file), n(8u32)]).await.unwrap();
    guest.call(FunctionId::fd_filestat_set_times, &[n(file), n(5u32), n(7u32), n(5u32)]).await.unwrap();
    guest.call(FunctionId::fd_fdstat_set_flags, &[n(file), n(1u32)]).await.unwrap();
    guest.call(FunctionId::fd_sync, &[n(file)]).await.unwrap();
    guest.call(FunctionId::fd_datasync, &[n(file)]).await.unwrap();
    assert_eq!(guest.filestat(file).await.unwrap().size(), 8);
    assert_eq!(guest.fdstat(file).await.unwrap().1, 1);
    guest.call(FunctionId::fd_renumber, &[n(file), n(file)]).await.unwrap();
    guest.close(file).await.unwrap();
    guest.set_times(ROOT, 1, "d/f", (9, 11), 5).await.unwrap();
    guest.link(ROOT, "d/f", ROOT, "g").await.unwrap();
    guest.symlink("d", ROOT, "s").await.unwrap();
    assert_eq!(guest.readlink(ROOT, "s", 9).await.unwrap(), b"d");
    assert_eq!(guest.stat(ROOT, "s/f", true).await.unwrap().links(), 2);
    guest.rename(ROOT, "g", ROOT, "d/h").await.unwrap();
    let directory = guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    let values = [n(directory), Value::Room(400), n(0u32), Value::Result];
    assert!(guest.call(FunctionId::fd_readdir, &values).await.unwrap()[0].len() > 100);
    for name in ["d/f", "d/h", "s"] {
        guest.unlink(ROOT, name).await.unwrap();
    }
    guest.rmdir(ROOT, "d").await.unwrap();
    // A clock of the host's, and the streams.
    for clock in [0u8, 1] {
        let mut subscription = [0u8; 48];
        (subscription[16], subscription[24]) = (clock, 1);
        let values = [Value::Bytes(&subscription), Value::Room(32), n(1u32), Value::Result];
        guest.call(FunctionId::poll_oneoff, &values).await.unwrap();
    }
    assert_eq!(guest.read(0, 9).await.unwrap(), b"in");
    guest.write(1, b"out").await.unwrap();
    for stream in 0..2 {
        guest.fdstat(stream).await.unwrap();
    }
}

#[test]
fn the_daemons_filter_refuses_nothing_that_serving_needs() {
    use std::io::{Read, Write};
    let (input, mut to_guest) = std::io::pipe().unwrap();
    let (mut from_guest, output) = std::io::pipe().unwrap();
    let (their_socket, mut our_socket) = UnixStream::pair().unwrap();
    let (their_input, mut our_input) = UnixStream::pair().unwrap();
    to_guest.write_all(b"in").unwrap();
    our_input.write_all(b"in").unwrap();
    let streams = [
        [Some(OwnedFd::from(input)), Some(OwnedFd::from(output)), None],
        [Some(OwnedFd::from(their_input)), Some(OwnedFd::from(their_socket)), None],
    ];
    let guests = streams.map(Guest::with_stdio);
    // What a thread is put under stays with it, and with those that it starts.
    let served = std::thread::spawn(move || {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // The first of a process makes what all share; the daemon has it when it confines itself.
        drop(runtime());
        // SAFETY: numbers.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
        crate::confine::install_filter().unwrap();
        assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err(), "the filter is in force");
        runtime().block_on(async {
            for mut guest in guests {
                serve_everything(&mut guest).await;
            }
        });
    });
    served.join().unwrap();
    let mut written = [0; 3];
    from_guest.read_exact(&mut written).unwrap();
    assert_eq!(&written, b"out");
    our_socket.read_exact(&mut written).unwrap();
    assert_eq!(&written, b"out");
}
