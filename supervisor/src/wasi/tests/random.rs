//! Random operations below a directory: against a model of what each must do, and beside somebody who renames directories.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// splitmix64, by Sebastiano Vigna: the same operations for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }

    fn of<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[self.below(choices.len())]
    }

    /// One to four components; some lead up, nowhere, or out.
    fn path(&mut self) -> String {
        const NAMES: [&str; 14] = ["a", "b", "c", "a", "b", "c", "a", "b", "c", "a", "b", "c", ".", ".."];
        let parts: Vec<_> = (0..*self.of(&[1, 1, 1, 1, 2, 2, 2, 3, 4])).map(|_| *self.of(&NAMES)).collect();
        let (before, after) = match self.below(12) {
            0 => ("", "/"),
            1 => ("/", ""),
            _ => ("", ""),
        };
        format!("{before}{}{after}", parts.join("/"))
    }

    fn operation(&mut self) -> Operation {
        let (path, other) = (self.path(), self.path());
        match self.below(15) {
            0 | 1 | 13 | 14 => Operation::MakeDirectory(path),
            2 => Operation::RemoveDirectory(path),
            3 => Operation::Unlink(path),
            4 | 5 => Operation::Rename(path, other),
            6 => Operation::Link(path, other),
            7 => Operation::Symlink(path.trim_end_matches('/').to_owned(), other),
            8 | 9 => Operation::Write(path, vec![b'g'; self.below(9)]),
            10 => Operation::Read(path),
            11 => Operation::List(path),
            _ => Operation::ReadLink(path),
        }
    }
}

#[derive(Clone, Debug)]
enum Operation {
    MakeDirectory(String),
    RemoveDirectory(String),
    Unlink(String),
    Rename(String, String),
    Link(String, String),
    Symlink(String, String),
    Write(String, Vec<u8>),
    Read(String),
    List(String),
    ReadLink(String),
}

/// What an operation that succeeds gives.
#[derive(Debug, PartialEq, Eq)]
enum Gave {
    Nothing,
    Bytes(Vec<u8>),
    Names(Vec<String>),
}

impl Guest {
    async fn perform(&mut self, fd: u32, operation: &Operation) -> Result<Gave, u16> {
        match operation {
            Operation::MakeDirectory(path) => self.mkdir(fd, path).await?,
            Operation::RemoveDirectory(path) => self.rmdir(fd, path).await?,
            Operation::Unlink(path) => self.unlink(fd, path).await?,
            Operation::Rename(old, new) => self.rename(fd, old, fd, new).await?,
            Operation::Link(old, new) => self.link(fd, old, fd, new).await?,
            Operation::Symlink(target, path) => self.symlink(target, fd, path).await?,
            Operation::Write(path, bytes) => {
                let file = self.open(fd, path, CREATE | TRUNCATE, WRITE).await?;
                self.write(file, bytes).await?;
                self.close(file).await?;
            }
            Operation::Read(path) => {
                let file = self.open(fd, path, 0, READ).await?;
                let bytes = match self.fdstat(file).await?.0 {
                    3 => Vec::new(),
                    _ => self.read(file, 99).await?,
                };
                self.close(file).await?;
                return Ok(Gave::Bytes(bytes));
            }
            Operation::List(path) => {
                let directory = self.open(fd, path, DIRECTORY, READ).await?;
                let names = self.names(directory).await?;
                self.close(directory).await?;
                return Ok(Gave::Names(names));
            }
            Operation::ReadLink(path) => return Ok(Gave::Bytes(self.readlink(fd, path, 99).await?)),
        }
        Ok(Gave::Nothing)
    }

    async fn names(&mut self, directory: u32) -> Result<Vec<String>, u16> {
        let values = [n(directory), Value::Room(4096), n(0u32), Value::Result];
        let listing = self.call(ipc::interface::FunctionId::fd_readdir, &values).await?.swap_remove(0);
        let (mut rest, mut names) = (listing.as_slice(), Vec::new());
        while let Some((header, after)) = rest.split_at_checked(24) {
            let (name, after) = after.split_at(u32_of(&header[16..]) as usize);
            names.push(String::from_utf8(name.to_vec()).unwrap());
            rest = after;
        }
        names.retain(|name| name != "." && name != "..");
        names.sort_unstable();
        Ok(names)
    }
}

#[derive(Clone, Debug)]
enum Node {
    Directory { entries: BTreeMap<String, usize>, removed: bool },
    File(Vec<u8>),
    Link(String),
}

/// What there should be. Nodes are never forgotten, so that a number means the same for ever.
struct Model(Vec<Node>);

/// Where a path leads: a directory, a name in it (none for the directory itself), and what is there.
struct Found {
    directory: usize,
    name: Option<String>,
    node: Option<usize>,
}

/// It fails.
struct Fails;

impl Model {
    fn entries(&self, directory: usize) -> Result<&BTreeMap<String, usize>, Fails> {
        match &self.0[directory] {
            Node::Directory { entries, .. } => Ok(entries),
            _ => Err(Fails),
        }
    }

    /// Makes, replaces or (with `None`) removes a name.
    fn put(&mut self, found: &Found, node: Option<usize>) -> Result<(), Fails> {
        let (Node::Directory { entries, removed }, Some(name)) = (&mut self.0[found.directory], &found.name)
        else {
            return Err(Fails);
        };
        match node {
            Some(_) if *removed => return Err(Fails),
            Some(node) => drop(entries.insert(name.clone(), node)),
            None => drop(entries.remove(name)),
        }
        // What had the name is gone, as far as it was a directory.
        if let Some(Node::Directory { removed, .. }) = found.node.map(|old| &mut self.0[old]) {
            *removed = true;
        }
        Ok(())
    }

    fn add(&mut self, found: &Found, node: Node) -> Result<(), Fails> {
        if found.name.is_none() || found.node.is_some() {
            return Err(Fails);
        }
        self.0.push(node);
        self.put(found, Some(self.0.len() - 1))
    }

    /// Walks as `openat2` with `RESOLVE_BENEATH` does. A slash at the end asks for a directory and follows a link.
    fn find(&self, base: usize, path: &str, follow: bool) -> Result<Found, Fails> {
        if path.is_empty() || path.starts_with('/') {
            return Err(Fails);
        }
        let wants_directory = path.ends_with('/');
        let mut left: VecDeque<String> =
            path.split('/').filter(|p| !p.is_empty()).map(String::from).collect();
        let (mut above, mut links) = (vec![base], 0);
        while let Some(name) = left.pop_front() {
            let directory = *above.last().ok_or(Fails)?;
            let entries = self.entries(directory)?;
            let last = left.is_empty();
            match name.as_str() {
                "." => continue,
                ".." if above.len() == 1 => return Err(Fails),
                ".." => {
                    above.pop();
                    continue;
                }
                _ => {}
            }
            let Some(&node) = entries.get(&name) else {
                return match last && !wants_directory {
                    true => Ok(Found { directory, name: Some(name), node: None }),
                    false => Err(Fails),
                };
            };
            match &self.0[node] {
                Node::Directory { .. } if last => {
                    return Ok(Found { directory, name: Some(name), node: Some(node) });
                }
                Node::Directory { .. } => above.push(node),
                Node::Link(target) if !last || follow || wants_directory => {
                    links += 1;
                    if links > 40 || target.starts_with('/') {
                        return Err(Fails);
                    }
                    for part in target.split('/').filter(|p| !p.is_empty()).rev() {
                        left.push_front(part.to_owned());
                    }
                }
                _ if !last || wants_directory => return Err(Fails),
                _ => return Ok(Found { directory, name: Some(name), node: Some(node) }),
            }
        }
        let directory = *above.last().ok_or(Fails)?;
        Ok(Found { directory, name: None, node: Some(directory) })
    }

    /// A name to make, remove or move, which is not followed. One that ends in `.` or `..` names nothing that could be.
    fn place(&self, base: usize, path: &str, slash_ignored: bool) -> Result<Found, Fails> {
        let trimmed = path.trim_end_matches('/');
        if trimmed.rsplit('/').next().is_some_and(|last| matches!(last, "" | "." | "..")) {
            return Err(Fails);
        }
        if trimmed.len() < path.len() && !slash_ignored {
            return Err(Fails);
        }
        self.find(base, trimmed, false)
    }

    fn is_directory(&self, node: usize) -> bool {
        matches!(self.0[node], Node::Directory { .. })
    }

    fn is_below(&self, node: usize, above: usize) -> bool {
        node == above
            || self
                .entries(above)
                .is_ok_and(|entries| entries.values().any(|&child| self.is_below(node, child)))
    }

    fn perform(&mut self, base: usize, operation: &Operation) -> Result<Gave, Fails> {
        match operation {
            Operation::MakeDirectory(path) => {
                let found = self.place(base, path, true)?;
                self.add(&found, Node::Directory { entries: BTreeMap::new(), removed: false })?;
            }
            Operation::RemoveDirectory(path) => {
                let found = self.place(base, path, true)?;
                let node = found.node.ok_or(Fails)?;
                if !self.entries(node)?.is_empty() {
                    return Err(Fails);
                }
                self.put(&found, None)?;
            }
            Operation::Unlink(path) => {
                let found = self.place(base, path, false)?;
                if self.is_directory(found.node.ok_or(Fails)?) {
                    return Err(Fails);
                }
                self.put(&found, None)?;
            }
            Operation::Rename(old, new) => {
                let (from, to) = (self.place(base, old, true)?, self.place(base, new, true)?);
                let node = from.node.ok_or(Fails)?;
                let moves_directory = self.is_directory(node);
                if (old.ends_with('/') || new.ends_with('/')) && !moves_directory {
                    return Err(Fails);
                }
                if let Some(replaced) = to.node {
                    if replaced == node {
                        return Ok(Gave::Nothing);
                    }
                    match (moves_directory, self.entries(replaced)) {
                        (true, Ok(entries)) if entries.is_empty() => {}
                        (false, Err(Fails)) => {}
                        _ => return Err(Fails),
                    }
                }
                if moves_directory && self.is_below(to.directory, node) {
                    return Err(Fails);
                }
                self.put(&to, Some(node))?;
                self.put(&Found { node: None, ..from }, None)?;
            }
            Operation::Link(old, new) => {
                let (from, to) = (self.place(base, old, false)?, self.place(base, new, false)?);
                let node = from.node.ok_or(Fails)?;
                if self.is_directory(node) || to.node.is_some() {
                    return Err(Fails);
                }
                self.put(&to, Some(node))?;
            }
            Operation::Symlink(target, path) => {
                if target.starts_with('/') || target.is_empty() {
                    return Err(Fails);
                }
                let found = self.place(base, path, false)?;
                self.add(&found, Node::Link(target.clone()))?;
            }
            Operation::Write(path, bytes) => {
                if path.ends_with('/') {
                    return Err(Fails);
                }
                let found = self.find(base, path, true)?;
                match found.node {
                    None => self.add(&found, Node::File(bytes.clone()))?,
                    Some(node) => match &mut self.0[node] {
                        Node::File(content) => *content = bytes.clone(),
                        _ => return Err(Fails),
                    },
                }
            }
            Operation::Read(path) => {
                return match &self.0[self.find(base, path, true)?.node.ok_or(Fails)?] {
                    Node::File(content) => Ok(Gave::Bytes(content.clone())),
                    _ => Ok(Gave::Bytes(Vec::new())),
                };
            }
            Operation::List(path) => {
                let node = self.find(base, path, true)?.node.ok_or(Fails)?;
                return Ok(Gave::Names(self.entries(node)?.keys().cloned().collect()));
            }
            Operation::ReadLink(path) => {
                return match &self.0[self.place(base, path, false)?.node.ok_or(Fails)?] {
                    Node::Link(target) => Ok(Gave::Bytes(target.clone().into_bytes())),
                    _ => Err(Fails),
                };
            }
        }
        Ok(Gave::Nothing)
    }

    /// Path by path, what there should be below a directory.
    fn tree(&self, directory: usize, prefix: &str, into: &mut BTreeMap<String, String>) {
        for (name, &node) in self.entries(directory).into_iter().flatten() {
            let path = format!("{prefix}/{name}");
            let what = match &self.0[node] {
                Node::Directory { .. } => String::from("directory"),
                Node::File(bytes) => format!("file of {}", bytes.len()),
                Node::Link(target) => format!("link to {target}"),
            };
            self.tree(node, &path, into);
            into.insert(path, what);
        }
    }
}

/// The same of what there is.
fn real_tree(directory: &Path, prefix: &str, into: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
        let metadata = entry.metadata().unwrap();
        let what = if metadata.is_symlink() {
            format!("link to {}", std::fs::read_link(entry.path()).unwrap().to_str().unwrap())
        } else if metadata.is_dir() {
            real_tree(&entry.path(), &path, into);
            String::from("directory")
        } else {
            format!("file of {}", metadata.len())
        };
        into.insert(path, what);
    }
}

const SEEDS: u64 = 40;
const STEPS: usize = 250;

#[tokio::test]
async fn random_operations_do_what_a_model_of_them_does() {
    let mut succeeded = 0;
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut guest = Guest::new();
        let mut model = Model(vec![Node::Directory { entries: BTreeMap::new(), removed: false }]);
        // Descriptors of directories, which may be moved or removed meanwhile, and what they are in the model.
        let mut directories = vec![(ROOT, 0)];
        for step in 0..STEPS {
            let (fd, base) = *random.of(&directories);
            let operation = random.operation();
            let expected = model.perform(base, &operation).ok();
            let found = guest.perform(fd, &operation).await;
            let what = format!("seed {seed}, step {step}, {operation:?} below descriptor {fd}: {found:?}");
            succeeded += usize::from(expected.is_some());
            assert_eq!(found.ok(), expected, "{what}");
            let (mut should_be, mut is) = (BTreeMap::new(), BTreeMap::new());
            model.tree(0, "", &mut should_be);
            real_tree(&guest.host(""), "", &mut is);
            assert_eq!(is, should_be, "{what}");
            if directories.len() < 6
                && let path = random.path()
                && let Ok(Found { node: Some(node), .. }) = model.find(base, &path, true)
                && model.is_directory(node)
            {
                directories.push((guest.open(fd, &path, DIRECTORY, READ).await.unwrap(), node));
            }
        }
        assert_eq!(std::fs::read(guest.files.path().join("outside/secret")).unwrap(), b"secret");
        assert_eq!(std::fs::read_dir(guest.files.path().join("outside")).unwrap().count(), 1);
    }
    // Not all of it is nonsense.
    assert!(succeeded > SEEDS as usize * STEPS / 10, "{succeeded}");
}

#[tokio::test]
async fn random_operations_change_nothing_below_a_read_only_directory() {
    let mut random = Random(5000);
    let mut guest = Guest::with_read_only();
    for _ in 0..STEPS {
        let operation = random.operation();
        let _ = guest.perform(ROOT, &operation).await;
    }
    let tree = |guest: &Guest| {
        let mut tree = BTreeMap::new();
        real_tree(&guest.host(""), "", &mut tree);
        tree
    };
    let before = tree(&guest);
    assert!(before.len() > 2, "{before:?}");
    let mut directories = vec![OTHER];
    let mut read = 0;
    for _ in 0..2000 {
        let fd = *random.of(&directories);
        let operation = random.operation();
        match guest.perform(fd, &operation).await {
            // It may only look, and renaming or linking something onto itself is refused, too.
            Ok(Gave::Nothing) => panic!("{operation:?} below descriptor {fd}"),
            Ok(_) => read += 1,
            Err(_) => {}
        }
        if directories.len() < 6
            && let Ok(directory) = guest.open(fd, &random.path(), DIRECTORY, READ).await
        {
            directories.push(directory);
        }
    }
    assert!(read > 20, "{read}");
    assert_eq!(tree(&guest), before);
}

/// Renames directories and links in the guest's tree, out of it and back, until told to stop.
fn rename_at_random(files: &Path, stop: &AtomicBool) {
    let mut random = Random(7);
    // One component below what the guest cannot reach: a link must not lead this one's own renames elsewhere.
    let places: Vec<_> = ["root/a", "root/b", "root/c", "root/link", "elsewhere/x", "elsewhere/y"]
        .iter()
        .map(|place| files.join(place))
        .collect();
    while !stop.load(Ordering::Relaxed) {
        let (from, to) = (random.of(&places), random.of(&places));
        let flags = *random
            .of(&[nix::fcntl::RenameFlags::RENAME_EXCHANGE, nix::fcntl::RenameFlags::RENAME_NOREPLACE]);
        // The guest works against it: what is not there, or in the way, is its doing.
        let _ = nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, from, nix::fcntl::AT_FDCWD, to, flags);
        let _ = symlink("../outside", files.join("root/link"));
    }
}

#[tokio::test]
async fn random_operations_stay_inside_whatever_is_renamed_meanwhile() {
    for seed in 0..4 {
        let mut random = Random(1000 + seed);
        let mut guest = Guest::new();
        let files = guest.files.path().to_owned();
        // Beside the guest's directory, as `outside` is: `..` of what is moved here leads to both.
        std::fs::create_dir(files.join("elsewhere")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let adversary = std::thread::spawn({
            let (files, stop) = (files.clone(), Arc::clone(&stop));
            move || rename_at_random(&files, &stop)
        });
        let mut directories = vec![ROOT];
        let mut outcomes = [0, 0];
        for _ in 0..3000 {
            let fd = *random.of(&directories);
            let mut operation = random.operation();
            if let (Operation::Read(path) | Operation::Unlink(path), true) =
                (&mut operation, random.below(3) == 0)
            {
                *path = format!("{path}/{}secret", random.of(&["", "../", "../outside/", "../../outside/"]));
            }
            let outcome = guest.perform(fd, &operation).await;
            outcomes[usize::from(outcome.is_ok())] += 1;
            match outcome {
                Ok(Gave::Bytes(bytes)) => assert_ne!(bytes, b"secret", "{operation:?}"),
                Ok(Gave::Names(names)) => assert!(!names.contains(&"secret".to_owned()), "{operation:?}"),
                Ok(Gave::Nothing) => {}
                // What a rename on the host disturbs too often is to be tried again; everything else says what it is.
                Err(errno) => assert!(
                    [6, 10, 20, 28, 31, 32, 44, 54, 55, 63].contains(&errno),
                    "{operation:?}: {errno}"
                ),
            }
            if directories.len() < 6
                && let Ok(directory) = guest.open(fd, &random.path(), DIRECTORY, READ).await
            {
                directories.push(directory);
            }
        }
        stop.store(true, Ordering::Relaxed);
        adversary.join().unwrap();
        assert!(outcomes.iter().all(|count| *count > 100), "{outcomes:?}");
        assert_eq!(std::fs::read(files.join("outside/secret")).unwrap(), b"secret");
        assert_eq!(std::fs::read_dir(files.join("outside")).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(&files).unwrap().count(), 3);
    }
}
