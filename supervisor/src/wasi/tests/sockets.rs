use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};

use ipc::interface::FunctionId;

use super::*;
use crate::wasi::SocketError;

/// The first socket, behind the one directory.
const SOCKET: u32 = 4;
const NONBLOCK: u32 = 4;
const PEEK: u32 = 1;
const WAIT_ALL: u32 = 2;

fn guest(socket: impl Into<OwnedFd>) -> Guest {
    Guest::with(|config| config.sockets.push(socket.into()))
}

impl Guest {
    pub(super) async fn accept(&mut self, fd: u32, flags: u32) -> Result<u32, u16> {
        let accepted = self.call(FunctionId::sock_accept, &[n(fd), n(flags), Value::Result]).await?;
        Ok(u32_of(&accepted[0]))
    }

    /// The bytes, and whether there were more.
    pub(super) async fn recv(&mut self, fd: u32, bytes: usize, flags: u32) -> Result<(Vec<u8>, bool), u16> {
        let values = [n(fd), Value::Room(bytes), n(flags), Value::Result, Value::Result];
        let mut outputs = self.call(FunctionId::sock_recv, &values).await?;
        assert_eq!(outputs[0].len(), u32_of(&outputs[1]) as usize);
        let flags = u16::from_le_bytes([outputs[2][0], outputs[2][1]]);
        Ok((outputs.swap_remove(0), flags == 1))
    }

    pub(super) async fn send(&mut self, fd: u32, bytes: &[u8], flags: u32) -> Result<u32, u16> {
        let values = [n(fd), Value::Bytes(bytes), n(flags), Value::Result];
        Ok(u32_of(&self.call(FunctionId::sock_send, &values).await?[0]))
    }

    pub(super) async fn shutdown(&mut self, fd: u32, how: u32) -> Result<(), u16> {
        self.call(FunctionId::sock_shutdown, &[n(fd), n(how)]).await.map(drop)
    }
}

#[tokio::test]
async fn a_guest_serves_connections_on_a_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut guest = guest(listener);
    let (kind, flags, rights, inheriting) = guest.fdstat(SOCKET).await.unwrap();
    assert_eq!((kind, flags, rights), (6, 0, 1 << 29 | 1 << 27 | 1 << 21 | 1 << 3));
    for round in 0..20 {
        let (accepted, mut client) = tokio::join!(guest.accept(SOCKET, 0), async {
            // The guest waits already.
            tokio::task::yield_now().await;
            TcpStream::connect(address).unwrap()
        });
        let fd = accepted.unwrap();
        assert_eq!(guest.fdstat(fd).await, Ok((6, 0, inheriting, inheriting)));
        assert_eq!(guest.filestat(fd).await.unwrap().file_type(), 6);
        client.write_all(b"question").unwrap();
        assert_eq!(guest.recv(fd, 3, 0).await, Ok((b"que".to_vec(), false)));
        // As a file.
        assert_eq!(guest.read(fd, 99).await.unwrap(), b"stion");
        assert_eq!(guest.write(fd, b"ans").await, Ok(3));
        assert_eq!(guest.send(fd, b"wer", 0).await, Ok(3));
        guest.shutdown(fd, 2).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer", "{round}");
        assert_eq!(guest.send(fd, b"more", 0).await, Err(PIPE));
        drop(client);
        assert_eq!(guest.recv(fd, 1, 0).await, Ok((vec![], false)));
        guest.close(fd).await.unwrap();
    }
    // Sockets are not counted as output.
    assert_eq!(guest.context.output_bytes(), 0);
}

#[tokio::test]
async fn what_would_wait_says_so_when_the_guest_does_not_want_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let mut guest = guest(UnixListener::bind(&path).unwrap());
    guest.set_flags(SOCKET, NONBLOCK).await.unwrap();
    assert_eq!(guest.accept(SOCKET, 0).await, Err(AGAIN));
    let mut client = UnixStream::connect(&path).unwrap();
    let fd = guest.accept(SOCKET, NONBLOCK).await.unwrap();
    assert_eq!(guest.fdstat(fd).await.unwrap().1, 4);
    assert_eq!(guest.recv(fd, 9, 0).await, Err(AGAIN));
    assert_eq!(guest.recv(fd, 9, WAIT_ALL).await, Err(AGAIN));
    client.write_all(b"ab").unwrap();
    assert_eq!(guest.recv(fd, 9, PEEK).await, Ok((b"ab".to_vec(), false)));
    assert_eq!(guest.recv(fd, 9, WAIT_ALL).await, Ok((b"ab".to_vec(), false)));
    // As much as there is room for, then nothing.
    let mut sent = 0;
    let full = loop {
        match guest.send(fd, &[1; 1 << 20], 0).await {
            Ok(count) => sent += count as usize,
            Err(error) => break error,
        }
    };
    assert_eq!(full, AGAIN);
    guest.set_flags(fd, 0).await.unwrap();
    assert_eq!(guest.set_flags(fd, 1).await, Err(INVAL));
    // And all of it when it wants to wait.
    let mut received = 0;
    let (all, ()) = tokio::join!(guest.send(fd, &[2; 1 << 20], 0), async {
        client.set_nonblocking(true).unwrap();
        let mut part = vec![0; 1 << 16];
        while received < sent + (1 << 20) {
            match client.read(&mut part) {
                Ok(count) => received += count,
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(all, Ok(1 << 20));
    // All that it asked for, however it arrives.
    let (read, ()) = tokio::join!(guest.recv(fd, 6, WAIT_ALL), async {
        for byte in b"abcdef" {
            tokio::task::yield_now().await;
            client.write_all(&[*byte]).unwrap();
        }
    });
    assert_eq!(read, Ok((b"abcdef".to_vec(), false)));
}

#[tokio::test]
async fn datagrams_keep_their_borders() {
    let (ours, theirs) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    ours.connect(theirs.local_addr().unwrap()).unwrap();
    theirs.connect(ours.local_addr().unwrap()).unwrap();
    let mut guest = guest(theirs);
    assert_eq!(guest.fdstat(SOCKET).await.unwrap().0, 5);
    ours.send(b"long").unwrap();
    ours.send(b"").unwrap();
    ours.send(b"next").unwrap();
    assert_eq!(guest.recv(SOCKET, 2, PEEK).await, Ok((b"lo".to_vec(), true)));
    assert_eq!(guest.recv(SOCKET, 2, WAIT_ALL).await, Ok((b"lo".to_vec(), true)));
    assert_eq!(guest.recv(SOCKET, 9, 0).await, Ok((vec![], false)));
    assert_eq!(guest.recv(SOCKET, 9, 0).await, Ok((b"next".to_vec(), false)));
    assert_eq!(guest.send(SOCKET, b"answer", 0).await, Ok(6));
    assert_eq!(guest.send(SOCKET, &[0; 70_000], 0).await, Err(35));
    let mut buffer = [0; 9];
    assert_eq!(ours.recv(&mut buffer).unwrap(), 6);
}

#[tokio::test]
async fn sockets_are_awaited_beside_clocks() {
    use super::poll::On;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut guest = guest(listener);
    let never = On::Clock(1, u64::MAX, 0);
    let short = On::Clock(1, 1_000_000, 0);
    assert_eq!(guest.poll(&[On::Read(SOCKET), short]).await.unwrap(), [(101, 0, 0, 0, 0)]);
    assert_eq!(guest.poll(&[On::Write(SOCKET)]).await, Err(BADF));
    let awaited = [never, On::Read(SOCKET)];
    let (events, client) = tokio::join!(guest.poll(&awaited), async {
        tokio::task::yield_now().await;
        TcpStream::connect(address).unwrap()
    });
    assert_eq!(events.unwrap(), [(101, 0, 1, 1, 0)]);
    let mut client = Some(client);
    let fd = guest.accept(SOCKET, 0).await.unwrap();
    let both = [On::Read(fd), On::Write(fd)];
    assert_eq!(guest.poll(&both).await.unwrap(), [(101, 0, 2, 1, 0)]);
    let awaited = [never, On::Read(fd)];
    let (events, ()) = tokio::join!(guest.poll(&awaited), async {
        tokio::task::yield_now().await;
        client.as_mut().unwrap().write_all(b"four").unwrap();
    });
    assert_eq!(events.unwrap(), [(101, 0, 1, 4, 0)]);
    guest.recv(fd, 9, 0).await.unwrap();
    let (events, ()) = tokio::join!(guest.poll(&awaited), async {
        tokio::task::yield_now().await;
        client = None;
    });
    assert_eq!(events.unwrap(), [(101, 0, 1, 0, 1)]);
    assert!(client.is_none());
}

#[tokio::test]
async fn a_guest_cannot_do_more_with_a_socket_than_its_kind_can() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let shared = listener.try_clone().unwrap();
    let mut guest = guest(listener);
    let mut client = TcpStream::connect(address).unwrap();
    let connection = guest.accept(SOCKET, 0).await.unwrap();
    // A listener carries no data, and stays what it is for whoever shares it.
    for how in [1, 2, 3] {
        assert_eq!(guest.shutdown(SOCKET, how).await, Err(NOTCONN));
    }
    assert_eq!(guest.recv(SOCKET, 1, 0).await, Err(NOTCONN));
    assert_eq!(guest.send(SOCKET, b"x", 0).await, Err(NOTCONN));
    assert_eq!(guest.read(SOCKET, 1).await, Err(BADF));
    assert_eq!(guest.write(SOCKET, b"x").await, Err(BADF));
    assert_eq!(guest.accept(connection, 0).await, Err(INVAL));
    for flags in [1, 8, 32] {
        assert_eq!(guest.accept(SOCKET, flags).await, Err(INVAL));
    }
    for flags in [4, 0x1_0000] {
        assert_eq!(guest.recv(connection, 1, flags).await, Err(INVAL));
    }
    assert_eq!(guest.send(connection, b"x", 1).await, Err(INVAL));
    for how in [0, 4, 7] {
        assert_eq!(guest.shutdown(connection, how).await, Err(INVAL));
    }
    for fd in [SOCKET, connection] {
        assert_eq!(guest.seek(fd, 0, 0).await, Err(SPIPE));
        assert_eq!(guest.open(fd, "x", 0, READ).await, Err(BADF));
        assert_eq!(guest.call(FunctionId::fd_prestat_get, &[n(fd), Value::Result]).await, Err(BADF));
        assert_eq!(guest.call(FunctionId::fd_filestat_set_size, &[n(fd), n(0u32)]).await, Err(BADF));
    }
    assert_eq!(guest.pread(connection, 1, 0).await, Err(SPIPE));
    assert_eq!(guest.pwrite(connection, b"x", 0).await, Err(SPIPE));
    // Rights that were given up on a listener are given up on what it accepts.
    let (_, _, base, inheriting) = guest.fdstat(SOCKET).await.unwrap();
    guest.set_rights(SOCKET, base, inheriting & !WRITE).await.unwrap();
    let _second = TcpStream::connect(address).unwrap();
    let reader = guest.accept(SOCKET, 0).await.unwrap();
    assert_eq!(guest.send(reader, b"x", 0).await, Err(NOTCAPABLE));
    guest.give_up(SOCKET, 1 << 29).await;
    assert_eq!(guest.accept(SOCKET, 0).await, Err(NOTCAPABLE));
    // Nothing of all that reached the other side, or the listener.
    drop(guest);
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"");
    drop(TcpStream::connect(address).unwrap());
    drop(shared);
}

#[tokio::test]
async fn a_connection_that_would_be_one_descriptor_too_many_is_left_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut guest = Guest::with(|config| {
        config.max_handles = 5;
        config.sockets.push(listener.into());
    });
    let mut client = TcpStream::connect(address).unwrap();
    assert_eq!(guest.accept(SOCKET, 0).await, Err(MFILE));
    guest.close(0).await.unwrap();
    assert_eq!(guest.accept(SOCKET, 0).await, Ok(0));
    client.write_all(b"x").unwrap();
    assert_eq!(guest.recv(0, 9, 0).await.unwrap().0, b"x");
}

/// The host app, or a client of the daemon, shares the listener: it can set it to wait, and take its connections away.
#[tokio::test]
async fn a_listener_that_waits_holds_up_nobody() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let shared = listener.try_clone().unwrap();
    let mut guest = guest(listener);
    let flags = || OFlag::from_bits_retain(fcntl(&shared, FcntlArg::F_GETFL).unwrap());
    assert!(flags().contains(OFlag::O_NONBLOCK));
    // What the kernel does without a thread of its own for it: the caller waits. Here for a connection that comes later.
    shared.set_nonblocking(false).unwrap();
    let late = std::thread::spawn({
        let path = path.clone();
        move || UnixStream::connect(path).unwrap()
    });
    drop(shared.accept().unwrap());
    drop(late.join().unwrap());
    // An accept that was promised a connection, and for which there is none: this thread goes on, and the other ends.
    let held = std::sync::Arc::new(OwnedFd::from(shared.try_clone().unwrap()));
    let mut turns = 0u64;
    let stuck = tokio::select! {
        biased;
        result = crate::wasi::sockets::accept(held) => result,
        () = async { loop { turns += 1; tokio::task::yield_now().await; } } => unreachable!(),
    };
    assert!(stuck.is_err(), "{stuck:?}");
    assert!(turns > 1);
    assert!(matches!(guest.accept(SOCKET, 0).await, Err(INVAL)));
}

#[test]
fn only_streams_and_datagrams_are_sockets_of_a_guest() {
    use rustix::net::{AddressFamily, SocketType, socket};
    let refused = |fd: OwnedFd| {
        let mut config = config(vec![]);
        config.sockets = vec![UnixStream::pair().unwrap().0.into(), fd];
        match WasiContext::new(config).unwrap_err() {
            WasiError::Socket { index: 1, source } => source,
            error => panic!("{error}"),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    assert!(matches!(refused(tempfile::tempfile().unwrap().into()), SocketError::Examine(_)));
    let packets = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    assert!(matches!(refused(packets), SocketError::Type));
    // It speaks to the kernel, in the name of whoever sends.
    let netlink = socket(AddressFamily::NETLINK, SocketType::DGRAM, None).unwrap();
    assert!(matches!(refused(netlink), SocketError::Family));
}
