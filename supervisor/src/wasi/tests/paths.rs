use ipc::interface::FunctionId;

use super::*;

async fn guest() -> Guest {
    let guest = Guest::new();
    std::fs::create_dir_all(guest.host("d/e")).unwrap();
    std::fs::write(guest.host("f"), "file").unwrap();
    std::fs::write(guest.host("d/g"), "below").unwrap();
    std::os::unix::fs::symlink("f", guest.host("to-f")).unwrap();
    std::os::unix::fs::symlink("d", guest.host("to-d")).unwrap();
    std::os::unix::fs::symlink("loop", guest.host("loop")).unwrap();
    std::os::unix::fs::symlink("none", guest.host("dangling")).unwrap();
    guest
}

#[tokio::test]
async fn open_flags() {
    let mut guest = guest().await;
    assert_eq!(guest.open(ROOT, "new", 0, READ).await, Err(NOENT));
    let file = guest.open(ROOT, "new", CREATE | EXCLUSIVE, READ_WRITE).await.unwrap();
    guest.write(file, b"text").await.unwrap();
    assert_eq!(guest.open(ROOT, "new", CREATE | EXCLUSIVE, READ).await, Err(EXIST));
    guest.open(ROOT, "new", CREATE, READ).await.unwrap();
    assert_eq!(std::fs::read(guest.host("new")).unwrap(), b"text");
    guest.open(ROOT, "new", TRUNCATE, READ).await.unwrap();
    assert_eq!(std::fs::read(guest.host("new")).unwrap(), b"");
    // Without CREATE, EXCLUSIVE means nothing.
    guest.open(ROOT, "new", EXCLUSIVE, READ).await.unwrap();

    guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    guest.open(ROOT, "d", 0, READ).await.unwrap();
    assert_eq!(guest.open(ROOT, "f", DIRECTORY, READ).await, Err(NOTDIR));
    assert_eq!(guest.open(ROOT, "d", 0, READ_WRITE).await, Err(ISDIR));
    assert_eq!(guest.open(ROOT, "d", CREATE, READ).await, Err(ISDIR));
    for flags in [CREATE, EXCLUSIVE, TRUNCATE] {
        assert_eq!(guest.open(ROOT, "d", DIRECTORY | flags, READ).await, Err(INVAL));
    }
    for fdflags in [2, 8, 16] {
        assert_eq!(guest.open_with(ROOT, 1, "f", 0, READ, fdflags).await, Err(NOTSUP));
    }
    for (lookup, oflags, rights, fdflags) in
        [(2, 0, 0, 0), (0, 16, 0, 0), (0, 0x1_0000, 0, 0), (0, 0, 1 << 30, 0), (0, 0, 0, 32)]
    {
        assert_eq!(guest.open_with(ROOT, lookup, "f", oflags, rights, fdflags).await, Err(INVAL));
    }
    let file = guest.open(ROOT, "f", 0, READ).await.unwrap();
    assert_eq!(guest.open(file, "x", 0, READ).await, Err(NOTDIR));
    assert_eq!(guest.open(0, "x", 0, READ).await, Err(BADF));
    assert_eq!(guest.open(99, "x", 0, READ).await, Err(BADF));
}

#[tokio::test]
async fn links_are_followed_when_asked() {
    let mut guest = guest().await;
    guest.open_with(ROOT, 1, "to-f", 0, READ, 0).await.unwrap();
    assert_eq!(guest.open_with(ROOT, 0, "to-f", 0, READ, 0).await, Err(LOOP));
    // Only the last component is a matter of the flag.
    guest.open_with(ROOT, 0, "to-d/g", 0, READ, 0).await.unwrap();
    guest.open_with(ROOT, 0, "to-d/../f", 0, READ, 0).await.unwrap();
    assert_eq!(guest.open_with(ROOT, 1, "loop", 0, READ, 0).await, Err(LOOP));
    assert_eq!(guest.open_with(ROOT, 1, "loop/x", 0, READ, 0).await, Err(LOOP));
    assert_eq!(guest.open_with(ROOT, 1, "dangling", 0, READ, 0).await, Err(NOENT));
    assert_eq!(guest.stat(ROOT, "dangling", true).await, Err(NOENT));
    assert_eq!(guest.stat(ROOT, "dangling", false).await.unwrap().file_type(), 7);
    guest.open_with(ROOT, 1, "dangling", CREATE, READ, 0).await.unwrap();
    assert!(guest.host("none").exists());
    guest.set_times(ROOT, 0, "to-f", (5, 6), 5).await.unwrap();
    guest.set_times(ROOT, 1, "to-d", (7, 8), 5).await.unwrap();
    assert_eq!(guest.stat(ROOT, "to-f", false).await.unwrap().modified(), 6);
    assert_ne!(guest.stat(ROOT, "f", false).await.unwrap().modified(), 6);
    assert_eq!(guest.stat(ROOT, "d", false).await.unwrap().modified(), 8);
}

#[tokio::test]
async fn malformed_names() {
    let mut guest = guest().await;
    let long = "x".repeat(256);
    let longer = "d/".repeat(3000);
    for (path, errno) in [("", NOENT), ("a\0b", INVAL), (&long, NAMETOOLONG), (&longer, NAMETOOLONG)] {
        assert_eq!(guest.open(ROOT, path, CREATE, READ).await, Err(errno));
        assert_eq!(guest.stat(ROOT, path, true).await.err(), Some(errno));
        assert_eq!(guest.stat(ROOT, path, false).await.err(), Some(errno));
        assert_eq!(guest.mkdir(ROOT, path).await, Err(errno));
        assert_eq!(guest.rmdir(ROOT, path).await, Err(errno));
        assert_eq!(guest.unlink(ROOT, path).await, Err(errno));
        assert_eq!(guest.rename(ROOT, path, ROOT, "x").await, Err(errno));
        assert_eq!(guest.rename(ROOT, "f", ROOT, path).await, Err(errno));
        assert_eq!(guest.link(ROOT, path, ROOT, "x").await, Err(errno));
        assert_eq!(guest.link(ROOT, "f", ROOT, path).await, Err(errno));
        assert_eq!(guest.symlink("t", ROOT, path).await, Err(errno));
        assert_eq!(guest.readlink(ROOT, path, 9).await, Err(errno));
        assert_eq!(guest.set_times(ROOT, 0, path, (1, 1), 5).await, Err(errno));
    }
    let bad = Value::Bytes(b"\xFF");
    assert_eq!(guest.call(FunctionId::path_unlink_file, &[n(ROOT), bad]).await, Err(ILSEQ));
    assert_eq!(guest.symlink("", ROOT, "x").await, Err(NOENT));
    assert_eq!(guest.symlink("a\0b", ROOT, "x").await, Err(INVAL));
}

#[tokio::test]
async fn names_are_made_and_removed() {
    let mut guest = guest().await;
    guest.mkdir(ROOT, "new").await.unwrap();
    guest.mkdir(ROOT, "new/below").await.unwrap();
    assert_eq!(guest.mkdir(ROOT, "new").await, Err(EXIST));
    assert_eq!(guest.mkdir(ROOT, "f").await, Err(EXIST));
    assert_eq!(guest.mkdir(ROOT, "none/x").await, Err(NOENT));
    assert_eq!(guest.mkdir(ROOT, "f/x").await, Err(NOTDIR));
    assert_eq!(guest.rmdir(ROOT, "new").await, Err(NOTEMPTY));
    assert_eq!(guest.rmdir(ROOT, "f").await, Err(NOTDIR));
    assert_eq!(guest.rmdir(ROOT, "none").await, Err(NOENT));
    assert_eq!(guest.rmdir(ROOT, ".").await, Err(INVAL));
    assert_eq!(guest.unlink(ROOT, "new").await, Err(ISDIR));
    assert_eq!(guest.unlink(ROOT, "none").await, Err(NOENT));
    assert_eq!(guest.unlink(ROOT, ".").await, Err(ISDIR));
    guest.rmdir(ROOT, "new/below").await.unwrap();
    guest.rmdir(ROOT, "new").await.unwrap();
    guest.unlink(ROOT, "to-f").await.unwrap();
    assert!(guest.host("f").exists() && !guest.host("to-f").exists());
    for fd in [0, 99] {
        assert_eq!(guest.mkdir(fd, "x").await, Err(BADF));
        assert_eq!(guest.unlink(fd, "f").await, Err(BADF));
        assert_eq!(guest.stat(fd, "f", true).await.err(), Some(BADF));
    }
    // A descriptor of a directory further down is as good.
    let below = guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    guest.mkdir(below, "e/new").await.unwrap();
    assert!(guest.host("d/e/new").is_dir());
}

#[tokio::test]
async fn a_trailing_slash_demands_a_directory() {
    let mut guest = guest().await;
    guest.mkdir(ROOT, "new//").await.unwrap();
    guest.rmdir(ROOT, "new/").await.unwrap();
    assert_eq!(guest.rmdir(ROOT, "to-d/").await, Err(NOTDIR));
    assert_eq!(guest.unlink(ROOT, "f/").await, Err(NOTDIR));
    assert_eq!(guest.unlink(ROOT, "d/").await, Err(ISDIR));
    assert_eq!(guest.unlink(ROOT, "none/").await, Err(NOENT));
    assert_eq!(guest.open(ROOT, "f/", 0, READ).await, Err(NOTDIR));
    assert_eq!(guest.open(ROOT, "new/", CREATE, READ).await, Err(ISDIR));
    guest.open_with(ROOT, 0, "to-d/", 0, READ, 0).await.unwrap();
    assert_eq!(guest.stat(ROOT, "f/", false).await.err(), Some(NOTDIR));
    assert_eq!(guest.stat(ROOT, "to-d/", false).await.unwrap().file_type(), 3);
    assert_eq!(guest.rename(ROOT, "f/", ROOT, "x").await, Err(NOTDIR));
    assert_eq!(guest.rename(ROOT, "f", ROOT, "x/").await, Err(NOTDIR));
    guest.rename(ROOT, "d/", ROOT, "x/").await.unwrap();
    assert!(guest.host("x/e").is_dir());
    assert_eq!(guest.link(ROOT, "f/", ROOT, "y").await, Err(NOTDIR));
    assert_eq!(guest.link(ROOT, "f", ROOT, "y/").await, Err(NOENT));
    assert_eq!(guest.symlink("f", ROOT, "y/").await, Err(NOENT));
    assert_eq!(guest.symlink("f", ROOT, "x/").await, Err(EXIST));
    assert_eq!(guest.readlink(ROOT, "to-f/", 9).await, Err(NOTDIR));
}

#[tokio::test]
async fn rename() {
    let mut guest = guest().await;
    guest.rename(ROOT, "f", ROOT, "d/f").await.unwrap();
    assert!(!guest.host("f").exists());
    // Over an existing file; through two descriptors.
    let below = guest.open(ROOT, "d", DIRECTORY, READ).await.unwrap();
    guest.rename(below, "f", below, "g").await.unwrap();
    assert_eq!(std::fs::read(guest.host("d/g")).unwrap(), b"file");
    guest.rename(below, "g", ROOT, "f").await.unwrap();
    assert_eq!(guest.rename(ROOT, "none", ROOT, "x").await, Err(NOENT));
    assert_eq!(guest.rename(ROOT, "f", ROOT, "d").await, Err(ISDIR));
    assert_eq!(guest.rename(ROOT, "d", ROOT, "f").await, Err(NOTDIR));
    assert_eq!(guest.rename(ROOT, "d", ROOT, "d/e/x").await, Err(INVAL));
    guest.mkdir(ROOT, "full").await.unwrap();
    guest.mkdir(ROOT, "full/x").await.unwrap();
    assert_eq!(guest.rename(ROOT, "d", ROOT, "full").await, Err(NOTEMPTY));
    // A link is moved, not what it points to.
    guest.rename(ROOT, "to-d", ROOT, "moved").await.unwrap();
    assert_eq!(std::fs::read_link(guest.host("moved")).unwrap(), Path::new("d"));
}

#[tokio::test]
async fn link_symlink_readlink() {
    let mut guest = guest().await;
    guest.link(ROOT, "f", ROOT, "d/linked").await.unwrap();
    assert_eq!(guest.stat(ROOT, "f", true).await.unwrap().links(), 2);
    assert_eq!(guest.link(ROOT, "f", ROOT, "d/linked").await, Err(EXIST));
    assert_eq!(guest.link(ROOT, "d", ROOT, "x").await, Err(PERM));
    assert_eq!(guest.link(ROOT, "none", ROOT, "x").await, Err(NOENT));
    let follow = [n(ROOT), n(1u32), s("to-f"), n(ROOT), s("x")];
    assert_eq!(guest.call(FunctionId::path_link, &follow).await, Err(INVAL));

    guest.symlink("../f", ROOT, "d/up").await.unwrap();
    assert_eq!(guest.symlink("x", ROOT, "d/up").await, Err(EXIST));
    assert_eq!(guest.readlink(ROOT, "d/up", 100).await.unwrap(), b"../f");
    assert_eq!(guest.readlink(ROOT, "d/up", 2).await.unwrap(), b"..");
    assert_eq!(guest.readlink(ROOT, "d/up", 0).await.unwrap(), b"");
    assert_eq!(guest.readlink(ROOT, "f", 9).await, Err(INVAL));
    assert_eq!(guest.readlink(ROOT, "none", 9).await, Err(NOENT));
    let file = guest.open(ROOT, "d/up", 0, READ).await.unwrap();
    assert_eq!(guest.read(file, 9).await.unwrap(), b"file");
}
