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
async fn fdstat_says_what_wasmtime_says() {
    let mut guest = Guest::new();
    std::fs::create_dir(guest.host("d")).unwrap();
    assert_eq!(guest.fdstat(0).await, Ok((0, 0, READ, READ)));
    assert_eq!(guest.fdstat(1).await, Ok((0, 0, WRITE, WRITE)));
    assert_eq!(
        guest.fdstat(ROOT).await,
        Ok((3, 0, 0x07BF_FE00 & !(1 << 19) & !(1 << 22), 0x0FFF_FFFF & !(1 << 19)))
    );
    let directory = guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    assert_eq!(guest.fdstat(directory).await, Ok((3, 0, 0x3FB7_FFBB, 0x3FB7_FFBB)));
    let all = 0x3FFF_FFFF;
    let file = guest.open(ROOT, "f", CREATE, READ).await.unwrap();
    assert_eq!(guest.fdstat(file).await, Ok((4, 0, all, all)));
    let file = guest.open(ROOT, "f", 0, READ).await.unwrap();
    assert_eq!(guest.fdstat(file).await, Ok((4, 0, all & !WRITE, all & !WRITE)));
    let file = guest.open_with(ROOT, 1, "f", 0, WRITE, 1).await.unwrap();
    let no_read = all & !READ & !(1 << 14);
    assert_eq!(guest.fdstat(file).await, Ok((4, 1, no_read, no_read)));
    assert_eq!(guest.fdstat(99).await, Err(BADF));
}

#[tokio::test]
async fn flags_change_on_files_only() {
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
    for fd in [0, 1, ROOT, 99] {
        assert_eq!(guest.call(FunctionId::fd_fdstat_set_flags, &set(fd, 0)).await, Err(BADF));
    }
    let rights = |fd: u32, rights: u64| [n(fd), n(rights), n(0u32)];
    assert_eq!(guest.call(FunctionId::fd_fdstat_set_rights, &rights(file, READ)).await, Err(NOTSUP));
    assert_eq!(guest.call(FunctionId::fd_fdstat_set_rights, &rights(0, READ)).await, Err(BADF));
    assert_eq!(guest.call(FunctionId::fd_fdstat_set_rights, &rights(file, 1 << 30)).await, Err(INVAL));
}

#[tokio::test]
async fn sockets_and_signals_do_not_exist() {
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
