use std::collections::BTreeSet;

use ipc::interface::FunctionId;

use super::*;

/// Entries as (cookie of the next, type, name), the last possibly cut off.
fn entries(bytes: &[u8]) -> Vec<(u64, u8, String)> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while rest.len() > 24 {
        let length = u32_of(&rest[16..]) as usize;
        if rest.len() < 24 + length {
            break;
        }
        let name = String::from_utf8(rest[24..24 + length].to_vec()).unwrap();
        found.push((u64_of(rest), rest[20], name));
        rest = &rest[24 + length..];
    }
    found
}

impl Guest {
    async fn readdir(&mut self, fd: u32, room: usize, cookie: u64) -> Result<Vec<u8>, u16> {
        let values = [n(fd), Value::Room(room), n(cookie), Value::Result];
        let mut outputs = self.call(FunctionId::fd_readdir, &values).await?;
        assert_eq!(outputs[0].len(), u32_of(&outputs[1]) as usize);
        Ok(outputs.swap_remove(0))
    }

    /// Reads on as a C library does: until a buffer is not filled.
    async fn list(&mut self, fd: u32, room: usize) -> Vec<(u64, u8, String)> {
        let mut all = Vec::new();
        let mut cookie = 0;
        loop {
            let bytes = self.readdir(fd, room, cookie).await.unwrap();
            let found = entries(&bytes);
            cookie = found.last().map_or(cookie, |last| last.0);
            all.extend(found);
            if bytes.len() < room {
                return all;
            }
        }
    }
}

#[tokio::test]
async fn entries_have_types_cookies_and_the_numbers_of_filestat() {
    let mut guest = Guest::new();
    std::fs::write(guest.host("file"), "").unwrap();
    std::fs::create_dir(guest.host("dir")).unwrap();
    std::os::unix::fs::symlink("file", guest.host("link")).unwrap();
    nix::unistd::mkfifo(&guest.host("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bytes = guest.readdir(ROOT, 4096, 0).await.unwrap();
    let found = entries(&bytes);
    assert_eq!(found.iter().map(|e| e.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!((found[0].1, found[0].2.as_str()), (3, "."));
    assert_eq!((found[1].1, found[1].2.as_str()), (3, ".."));
    let rest: BTreeSet<_> = found[2..].iter().map(|e| (e.1, e.2.as_str())).collect();
    assert_eq!(rest, BTreeSet::from([(4, "file"), (3, "dir"), (7, "link"), (0, "fifo")]));
    assert_eq!(u64_of(&bytes[8..]), guest.filestat(ROOT).await.unwrap().inode());
    let first = &found[2].2;
    assert_eq!(u64_of(&bytes[25 + 26 + 8..]), guest.stat(ROOT, first, false).await.unwrap().inode());
    // From each cookie on, whatever was read before.
    for skip in [3, 0, 5, 1, 2, 4, 6] {
        assert_eq!(entries(&guest.readdir(ROOT, 4096, skip).await.unwrap()), found[skip as usize..]);
    }
    for cookie in [7, 1000, u64::MAX - 1, u64::MAX] {
        assert_eq!(guest.readdir(ROOT, 4096, cookie).await.unwrap(), b"");
    }
}

#[tokio::test]
async fn a_buffer_that_is_too_small_cuts_the_last_entry() {
    let mut guest = Guest::new();
    std::fs::write(guest.host("name"), "").unwrap();
    let whole = guest.readdir(ROOT, 4096, 0).await.unwrap();
    assert_eq!(whole.len(), 25 + 26 + 28);
    for room in 0..whole.len() + 2 {
        let cut = guest.readdir(ROOT, room, 0).await.unwrap();
        assert_eq!(cut, whole[..room.min(whole.len())]);
    }
}

#[tokio::test]
async fn each_name_comes_once_whatever_the_buffer() {
    let mut guest = Guest::new();
    let names: BTreeSet<String> = (0..1500).map(|i| format!("{i:0width$}", width = 4 + i % 40)).collect();
    for name in &names {
        std::fs::write(guest.host(name), "").unwrap();
    }
    for room in [68, 100, 4096, 1 << 20] {
        let found = guest.list(ROOT, room).await;
        assert_eq!(found.len(), names.len() + 2);
        assert_eq!(
            found.iter().map(|e| e.2.clone()).filter(|n| !n.starts_with('.')).collect::<BTreeSet<_>>(),
            names
        );
    }
}

#[tokio::test]
async fn removing_what_was_read_does_not_disturb_the_listing() {
    let mut guest = Guest::new();
    for i in 0..500 {
        std::fs::write(guest.host(&format!("file{i}")), "").unwrap();
    }
    let mut removed = 0;
    let mut cookie = 0;
    loop {
        let bytes = guest.readdir(ROOT, 200, cookie).await.unwrap();
        for (next, _, name) in entries(&bytes) {
            cookie = next;
            if name.starts_with("file") {
                guest.unlink(ROOT, &name).await.unwrap();
                removed += 1;
            }
        }
        if bytes.len() < 200 {
            break;
        }
    }
    assert_eq!(removed, 500);
    assert_eq!(entries(&guest.readdir(ROOT, 200, 0).await.unwrap()).len(), 2);
}

#[tokio::test]
async fn descriptors_of_one_directory_are_read_independently() {
    let mut guest = Guest::new();
    for i in 0..50 {
        std::fs::create_dir(guest.host(&format!("d{i}"))).unwrap();
    }
    let second = guest.open(ROOT, ".", DIRECTORY, READ).await.unwrap();
    let first_half = guest.readdir(ROOT, 700, 0).await.unwrap();
    assert_eq!(guest.list(second, 300).await.len(), 52);
    let at = entries(&first_half).last().unwrap().0;
    assert_eq!(entries(&guest.readdir(ROOT, 1 << 16, at).await.unwrap()).len() as u64, 52 - at);
    // Starting over shows what is new.
    std::fs::create_dir(guest.host("new")).unwrap();
    assert_eq!(guest.list(ROOT, 300).await.len(), 53);
}

#[tokio::test]
async fn only_directories_are_listed_and_names_are_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let mut guest = Guest::new();
    let file = guest.open(ROOT, "f", CREATE, READ).await.unwrap();
    for fd in [0, file, 99] {
        assert_eq!(guest.readdir(fd, 100, 0).await, Err(BADF));
    }
    std::fs::create_dir(guest.host("d")).unwrap();
    std::fs::write(guest.host("d").join(OsStr::from_bytes(b"\xFF")), "").unwrap();
    let directory = guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    assert_eq!(guest.readdir(directory, 100, 0).await, Err(ILSEQ));
}
