use ipc::interface::{FUNCTIONS, FunctionId, Place};

use super::*;
use crate::wasi::WasiError;

#[tokio::test]
async fn numbers_are_reused_from_the_highest() {
    let mut guest = Guest::new();
    std::fs::write(guest.host("f"), "").unwrap();
    for expected in 4..8 {
        assert_eq!(guest.open(ROOT, "f", 0, READ).await, Ok(expected));
    }
    guest.close(5).await.unwrap();
    guest.close(6).await.unwrap();
    assert_eq!(guest.open(ROOT, "f", 0, READ).await, Ok(6));
    assert_eq!(guest.open(ROOT, "f", 0, READ).await, Ok(5));
    assert_eq!(guest.open(ROOT, "f", 0, READ).await, Ok(8));
    assert_eq!(guest.close(9).await, Err(BADF));
    guest.close(8).await.unwrap();
    assert_eq!(guest.close(8).await, Err(BADF));
}

#[tokio::test]
async fn a_file_that_would_be_one_descriptor_too_many_is_not_created() {
    let mut guest = Guest::with(|config| config.max_handles = 5);
    assert_eq!(guest.open(ROOT, "one", CREATE, READ).await, Ok(4));
    assert_eq!(guest.open(ROOT, "two", CREATE, READ).await, Err(MFILE));
    assert!(!guest.host("two").exists());
    guest.close(0).await.unwrap();
    assert_eq!(guest.open(ROOT, "two", CREATE, READ).await, Ok(0));
}

#[tokio::test]
async fn renumber_replaces_a_descriptor_in_use() {
    let mut guest = Guest::new();
    std::fs::write(guest.host("a"), "a").unwrap();
    std::fs::write(guest.host("b"), "b").unwrap();
    guest.open(ROOT, "a", 0, READ).await.unwrap();
    guest.open(ROOT, "b", 0, READ).await.unwrap();
    let renumber = |from: u32, to: u32| [n(from), n(to)];
    guest.call(FunctionId::fd_renumber, &renumber(4, 5)).await.unwrap();
    assert_eq!(guest.read(5, 9).await.unwrap(), b"a");
    assert_eq!(guest.read(4, 9).await, Err(BADF));
    for (from, to) in [(4, 5), (5, 4), (5, 99), (u32::MAX, 5)] {
        assert_eq!(guest.call(FunctionId::fd_renumber, &renumber(from, to)).await, Err(BADF));
    }
    guest.call(FunctionId::fd_renumber, &renumber(5, 5)).await.unwrap();
    // Onto standard output, which is then an ordinary file.
    guest.call(FunctionId::fd_renumber, &renumber(5, 1)).await.unwrap();
    assert_eq!(guest.tell(1).await, Ok(1));
    assert_eq!(guest.open(ROOT, "b", 0, READ).await, Ok(5));
}

#[tokio::test]
async fn preopened_directories_say_their_names() {
    let mut guest = Guest::with_read_only();
    let get = |fd: u32| [n(fd), Value::Result];
    assert_eq!(
        guest.call(FunctionId::fd_prestat_get, &get(ROOT)).await.unwrap(),
        [vec![0, 0, 0, 0, 5, 0, 0, 0]]
    );
    let name = |fd: u32, room| [n(fd), Value::Room(room)];
    assert_eq!(guest.call(FunctionId::fd_prestat_dir_name, &name(OTHER, 9)).await.unwrap(), [b"/ro"]);
    assert_eq!(guest.call(FunctionId::fd_prestat_dir_name, &name(OTHER, 2)).await, Err(NAMETOOLONG));
    std::fs::create_dir(guest.host("d")).unwrap();
    let below = guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    for (fd, get_errno, name_errno) in [(0, BADF, NOTDIR), (below, BADF, NOTDIR), (99, BADF, BADF)] {
        assert_eq!(guest.call(FunctionId::fd_prestat_get, &get(fd)).await, Err(get_errno));
        assert_eq!(guest.call(FunctionId::fd_prestat_dir_name, &name(fd, 9)).await, Err(name_errno));
    }
}

#[tokio::test]
async fn fdstat_says_what_a_descriptor_can_do() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.host("d")).unwrap();
    assert_eq!(guest.fdstat(0).await, Ok((0, 0, READ, READ)));
    assert_eq!(guest.fdstat(1).await, Ok((0, 0, WRITE, WRITE)));
    assert_eq!(guest.fdstat(ROOT).await, Ok((3, 0, 0x07BF_FE00 & !(1 << 22), 0x0FFF_FFFF)));
    let all = 0x3FFF_FFFF;
    let directory = guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    assert_eq!(guest.fdstat(directory).await, Ok((3, 0, 0x3FBF_FFBB, all)));
    let file = guest.open(ROOT, "f", CREATE, READ_WRITE).await.unwrap();
    assert_eq!(guest.fdstat(file).await, Ok((4, 0, all, all)));
    // To create or cut a file is not to write to it.
    for oflags in [CREATE, TRUNCATE] {
        let file = guest.open(ROOT, "f", oflags, READ).await.unwrap();
        assert_eq!(guest.fdstat(file).await, Ok((4, 0, all & !WRITE, all & !WRITE)));
        assert_eq!(guest.write(file, b"x").await, Err(NOTCAPABLE));
    }
    let file = guest.open(ROOT, "f", 0, READ).await.unwrap();
    assert_eq!(guest.fdstat(file).await, Ok((4, 0, all & !WRITE, all & !WRITE)));
    let file = guest.open_with(ROOT, 1, "f", 0, WRITE, 1).await.unwrap();
    let no_read = all & !READ & !(1 << 14);
    assert_eq!(guest.fdstat(file).await, Ok((4, 1, no_read, no_read)));
    assert_eq!(guest.fdstat(99).await, Err(BADF));
}

#[tokio::test]
async fn flags_change_on_everything_but_directories() {
    let mut guest = Guest::new();
    let file = guest.open(ROOT, "f", CREATE, READ_WRITE).await.unwrap();
    let set = |fd: u32, flags: u32| [n(fd), n(flags)];
    guest.call(FunctionId::fd_fdstat_set_flags, &set(file, 5)).await.unwrap();
    assert_eq!(guest.fdstat(file).await.unwrap().1, 5);
    guest.call(FunctionId::fd_fdstat_set_flags, &set(file, 0)).await.unwrap();
    assert_eq!(guest.fdstat(file).await.unwrap().1, 0);
    for flags in [2, 8, 16, 32, 0x1_0000] {
        assert_eq!(guest.call(FunctionId::fd_fdstat_set_flags, &set(file, flags)).await, Err(INVAL));
    }
    for fd in [ROOT, 99] {
        assert_eq!(guest.set_flags(fd, 0).await, Err(BADF));
    }
    // A stream can wait or not; nothing else can be said of it.
    for fd in [0, 1, 2] {
        guest.set_flags(fd, 4).await.unwrap();
        assert_eq!(guest.fdstat(fd).await.unwrap().1, 4);
        guest.set_flags(fd, 0).await.unwrap();
        assert_eq!(guest.fdstat(fd).await.unwrap().1, 0);
        assert_eq!(guest.set_flags(fd, 1).await, Err(INVAL));
    }
}

#[tokio::test]
async fn rights_only_become_fewer() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.host("d")).unwrap();
    std::fs::write(guest.host("d/f"), "text").unwrap();
    let directory = guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    let (_, _, base, inheriting) = guest.fdstat(directory).await.unwrap();
    assert_eq!(guest.set_rights(directory, 1 << 30, 0).await, Err(INVAL));
    // What it cannot do, it cannot be given: a directory is not written.
    assert_eq!(guest.set_rights(directory, base | WRITE, inheriting).await, Err(NOTCAPABLE));
    guest.set_rights(directory, base, inheriting).await.unwrap();
    let before = guest.open(directory, "f", 0, READ_WRITE).await.unwrap();
    guest.set_rights(directory, base, inheriting & !WRITE).await.unwrap();
    assert_eq!(guest.fdstat(directory).await, Ok((3, 0, base, inheriting & !WRITE)));
    assert_eq!(guest.set_rights(directory, base, inheriting).await, Err(NOTCAPABLE));
    // For what is opened through it from here on, also by way of another directory.
    assert_eq!(guest.open(directory, "f", 0, READ_WRITE).await, Err(NOTCAPABLE));
    assert_eq!(guest.open(directory, "f", 0, WRITE).await, Err(NOTCAPABLE));
    let file = guest.open(directory, "f", 0, READ).await.unwrap();
    assert_eq!(guest.fdstat(file).await.unwrap().2 & WRITE, 0);
    assert_eq!(guest.write(file, b"x").await, Err(NOTCAPABLE));
    let below = guest.open(directory, ".", DIRECTORY, READ).await.unwrap();
    assert_eq!(guest.open(below, "f", 0, WRITE).await, Err(NOTCAPABLE));
    assert_eq!(guest.write(before, b"x").await, Ok(1));
    // The rights move with the descriptor, and go with it.
    let other = guest.open(ROOT, "d/f", 0, READ).await.unwrap();
    guest.give_up(other, READ).await;
    guest.call(FunctionId::fd_renumber, &[n(other), n(before)]).await.unwrap();
    assert_eq!(guest.read(before, 1).await, Err(NOTCAPABLE));
    assert_eq!(guest.open(ROOT, "d/f", 0, READ).await, Ok(other));
    assert_eq!(guest.read(other, 1).await.unwrap(), b"x");
    guest.call(FunctionId::fd_renumber, &[n(other), n(before)]).await.unwrap();
    assert_eq!(guest.read(before, 1).await.unwrap(), b"e");
    // Nothing is left that could be regained by taking a number again.
    guest.give_up(0, READ).await;
    assert_eq!(guest.read(0, 1).await, Err(NOTCAPABLE));
    assert_eq!(guest.set_rights(0, READ, READ).await, Err(NOTCAPABLE));
}

#[tokio::test]
async fn what_is_no_socket_is_not_used_as_one() {
    let mut guest = Guest::new();
    for (fd, errno) in [(0, NOTSOCK), (ROOT, NOTSOCK), (99, BADF)] {
        let calls: [(FunctionId, &[Value<'_>]); 4] = [
            (FunctionId::sock_accept, &[n(fd), n(0u32), Value::Result]),
            (FunctionId::sock_recv, &[n(fd), Value::Room(1), n(0u32), Value::Result, Value::Result]),
            (FunctionId::sock_send, &[n(fd), s("x"), n(0u32), Value::Result]),
            (FunctionId::sock_shutdown, &[n(fd), n(1u32)]),
        ];
        for (function, values) in calls {
            assert_eq!(guest.call(function, values).await, Err(errno), "{function:?}");
        }
    }
    assert_eq!(guest.call(FunctionId::proc_raise, &[n(6u32)]).await, Err(NOTSUP));
}

/// Every function, with every argument zero, then all ones: an answer, whatever it is.
#[tokio::test]
async fn every_function_answers_hostile_arguments() {
    for (number, declaration) in FUNCTIONS.iter().enumerate() {
        for word in [0, u64::MAX, 1 << 63, 0xFFFF_FFFF] {
            let mut guest = Guest::with_read_only();
            let values: Vec<_> = declaration
                .args
                .iter()
                .map(|arg| match arg {
                    Arg::Value(_) => n(word),
                    Arg::Result { .. } => Value::Result,
                    _ => Value::Room(0),
                })
                .collect();
            let function = FunctionId::from_number(number as u32).unwrap();
            let (answer, _) = guest.answer(function, &values).await;
            let Answer::Done { errno, written: 0 } = answer else { panic!("{function:?}: {answer:?}") };
            // Instances without a time-stamp counter ask for the time here.
            if declaration.place == Place::Instance && function != FunctionId::clock_time_get {
                assert_eq!(errno, 52, "{function:?} is not answered here");
            }
            assert!(errno <= 76);
        }
    }
}

#[test]
fn what_a_guest_cannot_get_is_said() {
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("f"), "").unwrap();
    let file = preopen(&files.path().join("f"), "/f", false);
    let error = WasiContext::new(config(vec![file])).unwrap_err();
    assert!(
        matches!(&error, WasiError::PreopenIsNoDirectory { guest_path } if guest_path == "/f"),
        "{error}"
    );
    let mut too_many = config(vec![preopen(files.path(), "/a", false), preopen(files.path(), "/b", false)]);
    too_many.max_handles = 4;
    let error = WasiContext::new(too_many).unwrap_err();
    assert!(matches!(error, WasiError::TooManyHandles { passed: 5, max: 4 }), "{error}");
}
