//! What a hostile guest tries with names: each attempt must end inside its directories.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use ipc::interface::FunctionId;

use super::*;

/// Every operation that resolves a name, on `path` below descriptor `fd`. The errors must be `errno` for each.
async fn every_operation_fails(guest: &mut Guest, fd: u32, path: &str, errno: u16) {
    let own = "own-file";
    let e = Err(errno);
    for (oflags, rights) in
        [(0, READ), (0, WRITE), (CREATE, READ_WRITE), (TRUNCATE, WRITE), (DIRECTORY, READ)]
    {
        for lookup in [0, 1] {
            let opened = guest.open_with(fd, lookup, path, oflags, rights, 0).await;
            assert_eq!(opened.map(drop), e, "open {path} {oflags} {lookup}");
        }
    }
    for follow in [false, true] {
        assert_eq!(guest.stat(fd, path, follow).await.map(drop), e, "stat {path}");
        assert_eq!(guest.set_times(fd, follow.into(), path, (1, 1), 5).await, e, "set_times {path}");
    }
    assert_eq!(guest.mkdir(fd, path).await, e, "mkdir {path}");
    assert_eq!(guest.rmdir(fd, path).await, e, "rmdir {path}");
    assert_eq!(guest.unlink(fd, path).await, e, "unlink {path}");
    assert_eq!(guest.rename(fd, path, fd, "stolen").await, e, "rename {path}");
    assert_eq!(guest.rename(fd, own, fd, path).await, e, "rename to {path}");
    assert_eq!(guest.link(fd, path, fd, "stolen").await, e, "link {path}");
    assert_eq!(guest.link(fd, own, fd, path).await, e, "link to {path}");
    assert_eq!(guest.symlink("own-file", fd, path).await, e, "symlink {path}");
    assert_eq!(guest.readlink(fd, path, 100).await.map(drop), e, "readlink {path}");
}

fn guest() -> Guest {
    let guest = Guest::new();
    std::fs::create_dir_all(guest.host("d/e")).unwrap();
    std::fs::write(guest.host("own-file"), "own").unwrap();
    guest
}

/// Nothing outside of the guest's directory changed.
fn assert_outside_untouched(guest: &Guest) {
    let outside = guest.files.path().join("outside");
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(guest.files.path()).unwrap().count(), 2);
    assert!(guest.host("own-file").exists() && !guest.host("stolen").exists());
}

#[tokio::test]
async fn dot_dot_and_absolute_paths_do_not_lead_outside() {
    let mut guest = guest();
    let absolute = guest.files.path().join("outside/secret").to_str().unwrap().to_owned();
    for path in [
        "../outside/secret",
        "d/../../outside/secret",
        "d/e/../../../outside/secret",
        "./../outside/secret",
        "..//outside/secret",
        "../root/own-file",
        "/etc/passwd",
        "//etc/passwd",
        absolute.as_str(),
    ] {
        every_operation_fails(&mut guest, ROOT, path, PERM).await;
    }
    let below = guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    for path in ["..", "../own-file", "e/../../own-file"] {
        assert_eq!(guest.open(below, path, 0, READ).await, Err(PERM), "{path}");
        assert_eq!(guest.stat(below, path, true).await.err(), Some(PERM), "{path}");
    }
    for path in ["..", "../", "d/../..", "/", "../..", "d/../../"] {
        assert_eq!(guest.open(ROOT, path, DIRECTORY, READ).await, Err(PERM), "{path}");
        assert_eq!(guest.stat(ROOT, path, false).await.err(), Some(PERM), "{path}");
        assert_eq!(guest.mkdir(ROOT, path).await, Err(PERM), "{path}");
        assert_eq!(guest.rmdir(ROOT, path).await, Err(PERM), "{path}");
        assert_eq!(guest.rename(ROOT, path, ROOT, "x").await, Err(PERM), "{path}");
    }
    assert_outside_untouched(&guest);
}

#[tokio::test]
async fn links_that_point_outside_are_not_followed() {
    let mut guest = guest();
    let outside = guest.files.path().join("outside");
    symlink(&outside, guest.host("absolute")).unwrap();
    symlink("../outside", guest.host("relative")).unwrap();
    symlink("../../outside", guest.host("d/deeper")).unwrap();
    symlink("relative", guest.host("twice")).unwrap();
    symlink("/", guest.host("slash")).unwrap();
    // The guest makes one itself; an absolute one it cannot make.
    guest.symlink("../outside", ROOT, "made").await.unwrap();
    assert_eq!(guest.symlink(outside.to_str().unwrap(), ROOT, "made-absolute").await, Err(PERM));
    for link in ["absolute", "relative", "d/deeper", "twice", "made", "slash"] {
        every_operation_fails(&mut guest, ROOT, &format!("{link}/secret"), PERM).await;
        for suffix in ["", "/", "/."] {
            let path = format!("{link}{suffix}");
            assert_eq!(guest.open(ROOT, &path, 0, READ).await, Err(PERM), "{path}");
            assert_eq!(guest.stat(ROOT, &path, true).await.err(), Some(PERM), "{path}");
            assert_eq!(guest.set_times(ROOT, 1, &path, (1, 1), 5).await, Err(PERM), "{path}");
        }
        // A slash behind it must not make the kernel follow it where names are not resolved by us.
        for path in [format!("{link}/"), format!("{link}/.")] {
            assert_eq!(guest.link(ROOT, &path, ROOT, "stolen").await, Err(PERM), "{path}");
            assert_eq!(guest.unlink(ROOT, &path).await, Err(PERM), "{path}");
            assert_eq!(guest.readlink(ROOT, &path, 9).await, Err(PERM), "{path}");
        }
        assert_eq!(guest.rmdir(ROOT, &format!("{link}/")).await, Err(NOTDIR));
        assert_eq!(guest.rename(ROOT, &format!("{link}/"), ROOT, "stolen").await, Err(NOTDIR));
        assert_eq!(guest.open(ROOT, link, CREATE | EXCLUSIVE, READ).await, Err(EXIST));
    }
    // What an absolute link says about the host is not told.
    assert_eq!(guest.readlink(ROOT, "absolute", 100).await, Err(PERM));
    assert_eq!(guest.readlink(ROOT, "made", 100).await.unwrap(), b"../outside");
    // A hard link to a link is that link again.
    guest.link(ROOT, "made", ROOT, "hard").await.unwrap();
    assert_eq!(guest.open(ROOT, "hard/secret", 0, READ).await, Err(PERM));
    assert_outside_untouched(&guest);
}

#[tokio::test]
async fn magic_links_are_not_followed() {
    let host = preopen(Path::new("/"), "/host", true);
    let mut guest = Guest::with(|config| config.preopens.push(host));
    for path in ["root", "root/etc/passwd", "cwd/..", "exe", "fd/0", "root/", "task/../root/etc"] {
        let path = &format!("proc/self/{path}");
        let error = guest.open(OTHER, path, 0, READ).await.unwrap_err();
        assert!([LOOP, PERM].contains(&error), "{path}: {error}");
        let error = guest.stat(OTHER, path, true).await.unwrap_err();
        assert!([LOOP, PERM].contains(&error), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_procfs_gives_nothing() {
    // `self` in it is the supervisor.
    for path in ["/proc", "/proc/self", "/proc/self/fd"] {
        let error = WasiContext::new(config(vec![preopen(Path::new(path), "/p", true)])).unwrap_err();
        assert!(matches!(error, WasiError::PreopenIsProcfs { .. }), "{path}: {error}");
    }
    let host = preopen(Path::new("/"), "/host", false);
    let mut guest = Guest::with(|config| config.preopens.push(host));
    for path in ["proc/self/mem", "proc/self/maps", "proc/thread-self/mem", "proc/self/../self/mem"] {
        for (oflags, rights) in [(0, READ), (0, WRITE), (0, READ_WRITE), (CREATE, READ), (TRUNCATE, READ)] {
            for lookup in [0, 1] {
                let opened = guest.open_with(OTHER, lookup, path, oflags, rights, 0).await;
                assert_eq!(opened, Err(PERM), "{path} {oflags} {lookup}");
            }
        }
        assert_eq!(guest.stat(OTHER, path, true).await.err(), Some(PERM), "{path}");
        assert_eq!(guest.stat(OTHER, path, false).await.err(), Some(PERM), "{path}");
        assert_eq!(guest.set_times(OTHER, 1, path, (1, 1), 5).await, Err(PERM), "{path}");
        assert_eq!(guest.unlink(OTHER, path).await, Err(PERM), "{path}");
        assert_eq!(guest.link(OTHER, path, ROOT, "stolen").await, Err(PERM), "{path}");
        assert_eq!(guest.rename(OTHER, path, ROOT, "stolen").await, Err(PERM), "{path}");
    }
    for path in ["proc", "proc/", "proc/self", "proc/self/", "proc/self/fd", "proc/self/task"] {
        assert_eq!(guest.open(OTHER, path, DIRECTORY, READ).await, Err(PERM), "{path}");
    }
    for path in ["proc/self", "proc/self/cwd", "proc/self/fd/0"] {
        assert_eq!(guest.readlink(OTHER, path, 100).await, Err(PERM), "{path}");
    }
    assert_eq!(guest.mkdir(OTHER, "proc/new").await, Err(PERM));
    // What is beside it stays open.
    guest.open(OTHER, "proc/../etc", DIRECTORY, READ).await.unwrap();
}

#[tokio::test]
async fn devices_pipes_and_sockets_are_not_opened() {
    let devices = preopen(Path::new("/dev"), "/dev", false);
    let mut guest = Guest::with(|config| config.preopens.push(devices));
    for device in ["null", "zero"] {
        assert_eq!(guest.open(OTHER, device, 0, READ).await, Err(PERM));
        assert_eq!(guest.open(OTHER, device, 0, READ_WRITE).await, Err(PERM));
        assert_eq!(guest.open(OTHER, device, DIRECTORY, READ).await, Err(NOTDIR));
    }
    nix::unistd::mkfifo(&guest.host("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(guest.host("socket")).unwrap();
    // Nobody has the other end: an open that waits would hang here.
    assert_eq!(guest.open(ROOT, "fifo", 0, READ).await, Err(PERM));
    assert_eq!(guest.open(ROOT, "fifo", 0, WRITE).await, Err(PERM));
    assert_eq!(guest.open(ROOT, "fifo", 0, READ_WRITE).await, Err(PERM));
    assert_eq!(guest.open(ROOT, "fifo", CREATE, READ).await, Err(PERM));
    assert_eq!(guest.open(ROOT, "socket", 0, READ).await, Err(PERM));
    assert_eq!(guest.stat(ROOT, "fifo", true).await.unwrap().file_type(), 0);
}

#[tokio::test]
async fn a_refused_pipe_was_not_opened_either() {
    use rustix::fs::inotify;
    let mut guest = Guest::new();
    nix::unistd::mkfifo(&guest.host("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::write(guest.host("file"), "").unwrap();
    let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&events, guest.host(""), inotify::WatchFlags::OPEN).unwrap();
    for rights in [READ, READ_WRITE] {
        assert_eq!(guest.open(ROOT, "fifo", 0, rights).await, Err(PERM));
    }
    guest.open(ROOT, "file", 0, READ).await.unwrap();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&events, &mut buffer);
    let mut opened = Vec::new();
    while let Ok(event) = events.next() {
        opened.push(event.file_name().unwrap().to_owned());
    }
    assert_eq!(opened, [c"file".to_owned()]);
}

#[tokio::test]
async fn nothing_changes_below_a_read_only_directory() {
    let mut guest = Guest::with_read_only();
    std::fs::create_dir_all(guest.host("d/e")).unwrap();
    std::fs::write(guest.host("f"), "file").unwrap();
    std::fs::write(guest.host("d/f"), "file").unwrap();
    symlink("f", guest.host("l")).unwrap();
    let below = guest.open(OTHER, "d", DIRECTORY, READ).await.unwrap();
    for fd in [OTHER, below] {
        for (oflags, rights) in
            [(0, WRITE), (0, READ_WRITE), (CREATE, READ), (TRUNCATE, READ), (CREATE | EXCLUSIVE, 0)]
        {
            for path in ["f", "new", "e/../f"] {
                assert_eq!(guest.open(fd, path, oflags, rights).await, Err(PERM), "{path} {oflags}");
            }
        }
        assert_eq!(guest.mkdir(fd, "new").await, Err(PERM));
        assert_eq!(guest.rmdir(fd, "e").await, Err(PERM));
        assert_eq!(guest.unlink(fd, "f").await, Err(PERM));
        assert_eq!(guest.symlink("f", fd, "new").await, Err(PERM));
        assert_eq!(guest.set_times(fd, 1, "f", (1, 1), 5).await, Err(PERM));
        // Both directions: a second name in a writable directory would make the file writable.
        for (from, to) in [(fd, fd), (fd, ROOT), (ROOT, fd)] {
            assert_eq!(guest.rename(from, "f", to, "new").await, Err(PERM));
            assert_eq!(guest.link(from, "f", to, "new").await, Err(PERM));
        }
        let times = [n(fd), n(1u32), n(1u32), n(5u32)];
        assert_eq!(guest.call(FunctionId::fd_filestat_set_times, &times).await, Err(PERM));
        let file = guest.open(fd, "f", 0, READ).await.unwrap();
        assert_eq!(guest.read(file, 9).await.unwrap(), b"file");
        assert_eq!(guest.write(file, b"x").await, Err(BADF));
        assert_eq!(guest.pwrite(file, b"x", 0).await, Err(BADF));
        assert_eq!(guest.call(FunctionId::fd_filestat_set_size, &[n(file), n(0u32)]).await, Err(PERM));
        assert_eq!(guest.call(FunctionId::fd_allocate, &[n(file), n(0u32), n(9u32)]).await, Err(PERM));
        let times = [n(file), n(1u32), n(1u32), n(5u32)];
        assert_eq!(guest.call(FunctionId::fd_filestat_set_times, &times).await, Err(PERM));
        guest.stat(fd, "f", true).await.unwrap();
    }
    assert_eq!(guest.readlink(OTHER, "l", 9).await.unwrap(), b"f");
    assert_eq!(std::fs::read(guest.host("f")).unwrap(), b"file");
    assert_eq!(std::fs::read_dir(guest.host("")).unwrap().count(), 3);
}

/// Runs `disturb` on a thread of its own, over and over, while `attempts` attempts are made.
async fn while_disturbed(
    disturb: impl Fn() + Send + 'static,
    attempts: usize,
    mut attempt: impl AsyncFnMut(),
) {
    struct Stop(std::sync::Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Stop(Default::default());
    let stopped = std::sync::Arc::clone(&stop.0);
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            disturb();
        }
    });
    for _ in 0..attempts {
        attempt().await;
    }
    drop(stop);
    thread.join().unwrap();
}

#[tokio::test]
async fn a_link_swapped_in_during_resolution_does_not_help() {
    let mut guest = guest();
    std::fs::create_dir(guest.host("swap")).unwrap();
    std::fs::write(guest.host("swap/secret"), "inside").unwrap();
    symlink("../outside", guest.host("link")).unwrap();
    let (a, b) = (guest.host("swap"), guest.host("link"));
    let exchange = move || {
        let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
        nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &a, nix::fcntl::AT_FDCWD, &b, flags).unwrap();
    };
    let mut outcomes = [0, 0];
    while_disturbed(exchange, 3000, async || match guest.open(ROOT, "swap/secret", 0, READ).await {
        Ok(file) => {
            assert_eq!(guest.read(file, 99).await.unwrap(), b"inside");
            guest.close(file).await.unwrap();
            outcomes[0] += 1;
        }
        Err(error) => {
            assert!([PERM, LOOP, NOENT, 6].contains(&error), "{error}");
            outcomes[1] += 1;
        }
    })
    .await;
    assert_eq!(outcomes[0] + outcomes[1], 3000);
    assert_outside_untouched(&guest);
}

#[tokio::test]
async fn a_directory_moved_away_during_resolution_does_not_help() {
    let mut guest = guest();
    // While the guest is in d/e, the directory is moved so that `..` leads to `outside`.
    let (inside, moved) = (guest.host("d/e"), guest.files.path().join("outside/e"));
    let host = moved.clone();
    let move_there_and_back = move || {
        std::fs::rename(&inside, &host).unwrap();
        std::fs::rename(&host, &inside).unwrap();
    };
    while_disturbed(move_there_and_back, 3000, async || {
        for path in ["d/e/../secret", "d/e/../../secret", "d/e/../../outside/secret"] {
            let error = guest.open(ROOT, path, 0, READ).await.unwrap_err();
            assert!([NOENT, PERM, 6].contains(&error), "{path}: {error}");
            let error = guest.unlink(ROOT, path).await.unwrap_err();
            assert!([NOENT, PERM, 6].contains(&error), "{path}: {error}");
        }
    })
    .await;
    assert!(!moved.exists());
    assert_outside_untouched(&guest);
}
