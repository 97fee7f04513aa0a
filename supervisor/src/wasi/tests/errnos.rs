//! Every error number of every call that the supervisor answers, provoked. The table in docs/host-calls.md says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};

use ipc::interface::{FUNCTIONS, FunctionId, Place};

use super::*;

/// Names of error numbers, as the specification has them.
const NAMES: &[(u16, &str)] = &[
    (6, "again"),
    (8, "badf"),
    (20, "exist"),
    (22, "fbig"),
    (25, "ilseq"),
    (28, "inval"),
    (31, "isdir"),
    (32, "loop"),
    (33, "mfile"),
    (35, "msgsize"),
    (37, "nametoolong"),
    (44, "noent"),
    (53, "notconn"),
    (54, "notdir"),
    (55, "notempty"),
    (57, "notsock"),
    (58, "notsup"),
    (63, "perm"),
    (64, "pipe"),
    (70, "spipe"),
    (76, "notcapable"),
];

const DATAGRAMS: u32 = 7;

/// Descriptors: 3 a directory, 4 the same for reading only, 5 a listener, 6 a connection, 7 datagrams, then as opened here.
struct Setup {
    guest: Guest,
    file: u32,
    write_only: u32,
    _peers: (UnixStream, std::net::UdpSocket),
}

const LISTENER: u32 = 5;
const CONNECTION: u32 = 6;

async fn setup() -> Setup {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    datagrams.connect(peer.local_addr().unwrap()).unwrap();
    let mut guest = Guest::with(|config| {
        let directory = config.preopens[0].directory.try_clone().unwrap();
        config.preopens.push(Preopen { directory, guest_path: String::from("/ro"), read_only: true });
        // Its name is gone, but it listens.
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        config.sockets = vec![listener.into(), theirs.into(), datagrams.into()];
    });
    std::fs::create_dir_all(guest.host("d/full")).unwrap();
    std::fs::write(guest.host("f"), "text").unwrap();
    symlink("f", guest.host("l")).unwrap();
    symlink("loop", guest.host("loop")).unwrap();
    symlink("/etc", guest.host("absolute")).unwrap();
    let file = guest.open(ROOT, "f", 0, READ_WRITE).await.unwrap();
    let write_only = guest.open(ROOT, "f", 0, WRITE).await.unwrap();
    Setup { guest, file, write_only, _peers: (ours, peer) }
}

/// The arguments of a call that succeeds, or would if it had what it takes.
fn usual(function: FunctionId, file: u32, write_only: u32) -> Vec<Value<'static>> {
    use FunctionId as F;
    let result = Value::Result;
    match function {
        F::fd_advise => vec![n(file), n(0u32), n(1u32), n(0u32)],
        F::fd_allocate => vec![n(file), n(0u32), n(1u32)],
        F::fd_close | F::fd_datasync | F::fd_sync => vec![n(file)],
        F::fd_fdstat_get | F::fd_filestat_get | F::fd_tell => vec![n(file), result],
        F::fd_fdstat_set_flags | F::fd_filestat_set_size => vec![n(file), n(0u32)],
        F::fd_fdstat_set_rights => vec![n(file), n(0u32), n(0u32)],
        F::fd_filestat_set_times => vec![n(file), n(1u32), n(1u32), n(5u32)],
        F::fd_pread => vec![n(file), Value::Room(4), n(0u32), result],
        F::fd_prestat_get => vec![n(ROOT), result],
        F::fd_prestat_dir_name => vec![n(ROOT), Value::Room(5)],
        F::fd_pwrite => vec![n(file), s("x"), n(0u32), result],
        F::fd_read => vec![n(file), Value::Room(4), result],
        F::fd_readdir => vec![n(ROOT), Value::Room(99), n(0u32), result],
        F::fd_renumber => vec![n(file), n(write_only)],
        F::fd_seek => vec![n(file), n(1u32), n(0u32), result],
        F::fd_write => vec![n(file), s("x"), result],
        F::path_create_directory => vec![n(ROOT), s("new")],
        F::path_filestat_get => vec![n(ROOT), n(1u32), s("f"), result],
        F::path_filestat_set_times => vec![n(ROOT), n(1u32), s("f"), n(1u32), n(1u32), n(5u32)],
        F::path_link => vec![n(ROOT), n(0u32), s("f"), n(ROOT), s("new")],
        F::path_open => vec![n(ROOT), n(1u32), s("f"), n(0u32), n(READ), n(READ), n(0u32), result],
        F::path_readlink => vec![n(ROOT), s("l"), Value::Room(9), result],
        F::path_remove_directory => vec![n(ROOT), s("d/full")],
        F::path_rename => vec![n(ROOT), s("f"), n(ROOT), s("new")],
        F::path_symlink => vec![s("f"), n(ROOT), s("new")],
        F::path_unlink_file => vec![n(ROOT), s("f")],
        F::sock_accept => vec![n(LISTENER), n(0u32), result],
        F::sock_recv => vec![n(CONNECTION), Value::Room(4), n(0u32), result, Value::Result],
        F::sock_send => vec![n(CONNECTION), s("x"), n(0u32), result],
        F::sock_shutdown => vec![n(CONNECTION), n(2u32)],
        _ => panic!("{function:?}"),
    }
}

/// The arguments of [`usual`], one of them in another form.
fn with(mut values: Vec<Value<'static>>, at: usize, value: Value<'static>) -> Vec<Value<'static>> {
    values[at] = value;
    values
}

/// A directory's descriptor, and a name below it, of the functions that take them: (descriptor, name).
fn names(function: FunctionId) -> &'static [(usize, usize)] {
    use FunctionId as F;
    match function {
        F::path_create_directory | F::path_readlink | F::path_remove_directory | F::path_unlink_file => {
            &[(0, 1)]
        }
        F::path_filestat_get | F::path_filestat_set_times | F::path_open => &[(0, 2)],
        F::path_link => &[(0, 2), (3, 4)],
        F::path_rename => &[(0, 1), (2, 3)],
        F::path_symlink => &[(1, 2)],
        _ => &[],
    }
}

/// What changes something, and so is refused below a read-only directory.
fn changes(function: FunctionId) -> bool {
    !names(function).is_empty()
        && ![FunctionId::path_filestat_get, FunctionId::path_open, FunctionId::path_readlink]
            .contains(&function)
}

/// What each call answered.
type Seen = BTreeMap<&'static str, BTreeSet<u16>>;

/// Calls on a guest of its own, and expects an error.
async fn fails(seen: &mut Seen, function: FunctionId, values: Vec<Value<'static>>, errno: u16) {
    let mut setup = setup().await;
    let outcome = setup.guest.call(function, &values).await;
    assert_eq!(outcome, Err(errno), "{function:?}");
    seen.entry(function.declaration().name).or_default().insert(errno);
}

fn of_supervisor() -> impl Iterator<Item = FunctionId> {
    let all = (0..FUNCTIONS.len() as u32).filter_map(FunctionId::from_number);
    all.filter(|f| f.declaration().place == Place::Supervisor)
}

#[tokio::test]
async fn every_errno_of_every_call() {
    use FunctionId as F;
    let mut seen = Seen::new();
    let Setup { guest, file, write_only, .. } = setup().await;
    drop(guest);
    let all = |function| usual(function, file, write_only);

    for function in of_supervisor() {
        if [F::poll_oneoff, F::proc_raise].contains(&function) {
            continue;
        }
        // Each works as it is, but where a call waits for somebody else.
        if ![F::sock_accept, F::sock_recv].contains(&function) {
            let mut setup = setup().await;
            assert!(setup.guest.call(function, &all(function)).await.is_ok(), "{function:?}");
        }
        // A descriptor that stands for nothing.
        let descriptors: &[usize] = match function {
            F::fd_renumber => &[0, 1],
            F::path_symlink => &[1],
            F::path_link => &[0, 3],
            F::path_rename => &[0, 2],
            _ => &[0],
        };
        for &at in descriptors {
            fails(&mut seen, function, with(all(function), at, n(99u32)), BADF).await;
            // Every right that the call needs, given up.
            let right = needed_right(function, at);
            if right != 0 {
                let values = all(function);
                let Value::Number(fd) = values[at] else { panic!("{function:?}") };
                let mut setup = setup().await;
                setup.guest.give_up(fd as u32, right).await;
                assert_eq!(setup.guest.call(function, &values).await, Err(NOTCAPABLE), "{function:?}");
                seen.entry(function.declaration().name).or_default().insert(NOTCAPABLE);
            }
        }
        // Names that lead out, that are no text, that nothing has, and that are too long.
        for &(fd, name) in names(function) {
            let other = match function {
                F::path_open => NOTDIR,
                _ => BADF,
            };
            fails(&mut seen, function, with(all(function), fd, n(file)), other).await;
            fails(&mut seen, function, with(all(function), name, s("../outside/secret")), PERM).await;
            fails(&mut seen, function, with(all(function), name, s("none/x")), NOENT).await;
            fails(&mut seen, function, with(all(function), name, s("f/x")), NOTDIR).await;
            fails(&mut seen, function, with(all(function), name, s("loop/x")), LOOP).await;
            fails(&mut seen, function, with(all(function), name, Value::Bytes(b"\xff")), ILSEQ).await;
            fails(&mut seen, function, with(all(function), name, s("a\0b")), INVAL).await;
            let long = Value::Bytes([b'a'; 4096].as_slice());
            fails(&mut seen, function, with(all(function), name, long), NAMETOOLONG).await;
            if changes(function) {
                fails(&mut seen, function, with(all(function), fd, n(OTHER)), PERM).await;
            }
        }
    }
    more(&mut seen, file, write_only).await;
    assert_documented(&seen);
}

/// What single calls have for themselves.
async fn more(seen: &mut Seen, file: u32, write_only: u32) {
    use FunctionId as F;
    let all = |function| usual(function, file, write_only);
    // What is no file of the kind that the call is for.
    for function in [F::fd_advise, F::fd_allocate, F::fd_datasync, F::fd_filestat_set_size, F::fd_sync] {
        for fd in [0, ROOT, LISTENER, CONNECTION] {
            fails(seen, function, with(all(function), 0, n(fd)), BADF).await;
        }
    }
    for (function, at, value) in [
        (F::fd_advise, 3, n(6u32)),
        (F::fd_advise, 2, n(1u64 << 63)),
        (F::fd_allocate, 2, n(0u32)),
        (F::fd_allocate, 1, n(1u64 << 63)),
        (F::fd_fdstat_set_flags, 1, n(2u32)),
        (F::fd_fdstat_set_rights, 1, n(1u64 << 30)),
        (F::fd_filestat_set_size, 1, n(1u64 << 63)),
        (F::fd_filestat_set_times, 3, n(3u32)),
        (F::fd_filestat_set_times, 3, n(16u32)),
        (F::fd_pread, 2, n(1u64 << 63)),
        (F::fd_pwrite, 2, n(1u64 << 63)),
        (F::fd_seek, 1, n(u64::MAX)),
        (F::fd_seek, 2, n(3u32)),
        (F::path_filestat_get, 1, n(2u32)),
        (F::path_filestat_set_times, 5, n(12u32)),
        (F::path_link, 1, n(1u32)),
        (F::path_open, 1, n(2u32)),
        (F::path_open, 3, n(16u32)),
        (F::path_open, 3, n(CREATE | DIRECTORY)),
        (F::path_open, 4, n(1u64 << 30)),
        (F::path_open, 6, n(32u32)),
        (F::path_remove_directory, 1, s(".")),
        (F::sock_accept, 1, n(1u32)),
        (F::sock_accept, 0, n(CONNECTION)),
        (F::sock_recv, 2, n(4u32)),
        (F::sock_send, 2, n(1u32)),
        (F::sock_shutdown, 1, n(0u32)),
    ] {
        fails(seen, function, with(all(function), at, value), INVAL).await;
    }
    for (function, at, value, errno) in [
        (F::fd_allocate, 1, n(i64::MAX as u64), 22),
        (F::fd_pread, 0, n(0u32), SPIPE),
        (F::fd_pread, 0, n(write_only), BADF),
        (F::fd_prestat_dir_name, 0, n(file), NOTDIR),
        (F::fd_prestat_dir_name, 1, Value::Room(4), NAMETOOLONG),
        (F::fd_pwrite, 0, n(1u32), SPIPE),
        (F::fd_seek, 0, n(0u32), SPIPE),
        (F::fd_tell, 0, n(CONNECTION), SPIPE),
        (F::path_create_directory, 1, s("d"), EXIST),
        (F::path_filestat_get, 2, s("loop"), LOOP),
        (F::path_link, 4, s("l"), EXIST),
        (F::path_link, 2, s("d"), PERM),
        (F::path_open, 3, n(CREATE | EXCLUSIVE), EXIST),
        (F::path_open, 3, n(DIRECTORY), NOTDIR),
        (F::path_open, 2, s("none"), NOENT),
        (F::path_open, 6, n(16u32), NOTSUP),
        (F::path_readlink, 1, s("f"), INVAL),
        (F::path_readlink, 1, s("absolute"), PERM),
        (F::path_remove_directory, 1, s("d"), NOTEMPTY),
        (F::path_remove_directory, 1, s("f"), NOTDIR),
        (F::path_rename, 3, s("d"), ISDIR),
        (F::path_symlink, 0, s("/etc"), PERM),
        (F::path_symlink, 2, s("l"), EXIST),
        (F::path_unlink_file, 1, s("d"), ISDIR),
        (F::sock_accept, 0, n(file), NOTSOCK),
        (F::sock_recv, 0, n(file), NOTSOCK),
        (F::sock_recv, 0, n(LISTENER), NOTCONN),
        (F::sock_send, 0, n(0u32), NOTSOCK),
        (F::sock_send, 0, n(LISTENER), NOTCONN),
        (F::sock_shutdown, 0, n(ROOT), NOTSOCK),
        (F::sock_shutdown, 0, n(LISTENER), NOTCONN),
    ] {
        fails(seen, function, with(all(function), at, value), errno).await;
    }
    fails(seen, F::fd_filestat_set_size, vec![n(file), n(i64::MAX as u64)], 22).await;
    let read_only = |f| vec![n(OTHER), n(1u32), n(1u32), n(f)];
    fails(seen, F::fd_filestat_set_times, read_only(5u32), PERM).await;
    let write = vec![n(ROOT), n(0u32), s("l"), n(0u32), n(READ), n(READ), n(0u32), Value::Result];
    fails(seen, F::path_open, write, LOOP).await;
    let write = vec![n(ROOT), n(0u32), s("d"), n(0u32), n(WRITE), n(0u32), n(0u32), Value::Result];
    fails(seen, F::path_open, write, ISDIR).await;
    let onto = vec![n(ROOT), s("d"), n(ROOT), s("f")];
    fails(seen, F::path_rename, onto, NOTDIR).await;
    let into_itself = vec![n(ROOT), s("d"), n(ROOT), s("d/full/x")];
    fails(seen, F::path_rename, into_itself, INVAL).await;
    let datagram = vec![n(DATAGRAMS), Value::Bytes([0; 70_000].as_slice()), n(0u32), Value::Result];
    fails(seen, F::sock_send, datagram, 35).await;
    fails(seen, F::proc_raise, vec![n(6u32)], NOTSUP).await;
    let clock = |fd: u32, kind: u8| {
        let mut one = [0; 48];
        one[8] = kind;
        one[16..20].copy_from_slice(&fd.to_le_bytes());
        one
    };
    for (kind, fd, errno) in [(0, 4, INVAL), (3, 0, INVAL), (1, 99, BADF), (1, ROOT, BADF), (2, 0, BADF)] {
        let subscription: &'static [u8] = Box::leak(Box::new(clock(fd, kind)));
        let values = vec![Value::Bytes(subscription), Value::Room(32), n(1u32), Value::Result];
        fails(seen, F::poll_oneoff, values, errno).await;
    }

    // What the other side, or an earlier call, brings about.
    let mut note = |function: FunctionId, errno: Option<u16>, expected: u16| {
        assert_eq!(errno, Some(expected), "{function:?}");
        seen.entry(function.declaration().name).or_default().insert(expected);
    };
    let Setup { mut guest, file, _peers, .. } = setup().await;
    for fd in [0, LISTENER, CONNECTION] {
        guest.set_flags(fd, 4).await.unwrap();
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let (blocked, full) = std::io::pipe().unwrap();
    let mut streams = Guest::with_stdio([Some(reader.into()), Some(full.into()), None]);
    streams.set_flags(0, 4).await.unwrap();
    streams.set_flags(1, 4).await.unwrap();
    note(F::fd_read, streams.read(0, 1).await.err(), AGAIN);
    streams.write(1, &vec![0; 1 << 20]).await.unwrap();
    note(F::fd_write, streams.write(1, b"x").await.err(), AGAIN);
    drop(blocked);
    note(F::fd_write, streams.write(1, b"x").await.err(), PIPE);
    drop(writer);
    note(F::sock_accept, guest.accept(LISTENER, 0).await.err(), AGAIN);
    note(F::sock_recv, guest.recv(CONNECTION, 1, 0).await.err(), AGAIN);
    while guest.send(CONNECTION, &[0; 1 << 20], 0).await.is_ok() {}
    note(F::sock_send, guest.send(CONNECTION, b"x", 0).await.err(), AGAIN);
    drop(_peers);
    note(F::sock_send, guest.send(CONNECTION, b"x", 0).await.err(), PIPE);
    let ro = guest.open(OTHER, "f", 0, READ).await.unwrap();
    let size = guest.call(F::fd_filestat_set_size, &[n(ro), n(0u32)]).await;
    note(F::fd_filestat_set_size, size.err(), PERM);
    note(F::fd_allocate, guest.call(F::fd_allocate, &[n(ro), n(0u32), n(1u32)]).await.err(), PERM);
    guest.give_up(file, READ).await;
    let rights = guest.set_rights(file, READ, 0).await;
    note(F::fd_fdstat_set_rights, rights.err(), NOTCAPABLE);
    let mut one = [0; 48];
    one[8] = 1;
    one[16..20].copy_from_slice(&file.to_le_bytes());
    let poll = [Value::Bytes(&one), Value::Room(32), n(1u32), Value::Result];
    note(F::poll_oneoff, guest.call(F::poll_oneoff, &poll).await.err(), NOTCAPABLE);
    one[8] = 2;
    one[16..20].copy_from_slice(&ro.to_le_bytes());
    let poll = [Value::Bytes(&one), Value::Room(32), n(1u32), Value::Result];
    note(F::poll_oneoff, guest.call(F::poll_oneoff, &poll).await.err(), PERM);
    let mut full = Guest::with(|config| config.max_handles = 4);
    note(F::path_open, full.open(ROOT, "f", CREATE, READ).await.err(), MFILE);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut full = Guest::with(|config| {
        config.sockets.push(listener.into());
        config.max_handles = 5;
    });
    note(F::sock_accept, full.accept(4, 0).await.err(), MFILE);
}

fn needed_right(function: FunctionId, at: usize) -> u64 {
    let submission = Submission { function: function.number(), ..Default::default() };
    let mut arena = vec![0; ARENA_BYTES];
    // SAFETY: the arena has that many bytes and outlives the call, which reads none of them.
    let region = unsafe { SharedRegion::new(arena.as_mut_ptr(), ARENA_BYTES) };
    // Ranges of length zero are right for none but fixed results, which do not matter here.
    let mut submission = submission;
    for (word, arg) in submission.args.iter_mut().zip(function.declaration().args) {
        if let Arg::Result { bytes, .. } = arg {
            *word = pack_range(0, *bytes);
        }
    }
    if function == FunctionId::fd_seek {
        submission.args[1] = 1;
    }
    let call = HostCall::check(&submission, region).unwrap();
    crate::wasi::rights::needed(&call).iter().filter(|(argument, _)| *argument == at).map(|(_, r)| r).sum()
}

/// Rows of the table: function, answered, rights, errnos.
fn assert_documented(seen: &Seen) {
    let documentation = include_str!("../../../../docs/host-calls.md");
    let mut rows = BTreeMap::new();
    for line in documentation.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [name, place, _, errnos] = cells[..] {
            rows.insert(name.trim_matches('`'), (place, errnos));
        }
    }
    let mut wrong = String::new();
    for declaration in FUNCTIONS {
        let (place, errnos) = rows.get(declaration.name).copied().unwrap_or(("", ""));
        let inside = declaration.place == Place::Instance;
        if place.starts_with("instance") != inside {
            wrong += &format!("{}: answered by: {place:?}\n", declaration.name);
        }
        if inside {
            continue;
        }
        let name = |number: &u16| NAMES.iter().find(|(n, _)| n == number).map_or("?", |(_, name)| name);
        let mut names: Vec<_> = seen.get(declaration.name).into_iter().flatten().map(name).collect();
        names.sort_unstable();
        let names = names.join(", ");
        if errnos != names {
            wrong +=
                &format!("{}: the table has {errnos:?}, the calls answered {names:?}\n", declaration.name);
        }
    }
    assert!(wrong.is_empty(), "docs/host-calls.md:\n{wrong}");
}
