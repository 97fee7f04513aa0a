//! The artifact cache: a directory of artifacts, named by what they were made from.
//!
//! An entry's name is a hash of the module, of the compiler's version and of every option that changes its output.
//! Its contents are authenticated with a key that belongs to the directory, so a changed byte, a truncated file
//! or a file put there by somebody who cannot read the key is detected, and the module compiled again. Entries
//! appear by `rename(2)` only, so a reader never sees half of one.
//!
//! The directory has a size limit. Whoever adds an entry removes the least recently used ones beyond it: using an entry
//! sets its modification time. Several supervisors may share a directory. None of them needs a lock for that: an
//! entry that another removes first is gone either way, and one that is removed while it is read stays readable. A
//! temporary file is locked (flock(2)) by its writer for as long as that lives, so that what a killed writer left is
//! told from what is being written, and removed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::Error;
use crate::image::Image;

/// Leads every entry; the number is the format's.
const MAGIC: [u8; 16] = *b"sandboxd cache 1";
const HASH_BYTES: usize = blake3::OUT_LEN;
const KEY_BYTES: usize = blake3::KEY_LEN;
/// Bytes that an entry may have. The compiler's own cap on images is lower.
const ENTRY_BYTES_MAX: u64 = 4 << 30;

/// How often an entry is written when another supervisor removes its temporary file.
const PUT_ATTEMPTS: usize = 8;
/// Leads the names of temporary files.
const TEMPORARY: &str = ".new-";

/// An opened cache directory.
#[derive(Debug)]
pub(crate) struct Cache {
    artifacts: PathBuf,
    key: [u8; KEY_BYTES],
    /// Bytes that all entries together may have.
    bytes_max: u64,
}

/// An entry's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryName(blake3::Hash);

impl EntryName {
    /// The name for a module compiled with options of this fingerprint.
    pub(crate) fn new(module: &[u8], fingerprint: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(fingerprint.len() as u64).to_le_bytes());
        hasher.update(fingerprint);
        hasher.update(module);
        Self(hasher.finalize())
    }
}

impl Cache {
    /// Opens the cache in `state_dir`, which is created if need be, for its owner only. Removes what killed writers left, and
    /// what is beyond `bytes_max`.
    pub(crate) fn open(state_dir: &Path, bytes_max: u64) -> Result<Self, Error> {
        let artifacts = state_dir.join("artifacts");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&artifacts)
            .map_err(failed(&artifacts, "create the directory"))?;
        let key = key(&state_dir.join("key"))?;
        let cache = Self { artifacts, key, bytes_max };
        cache.tidy()?;
        Ok(cache)
    }

    fn path(&self, name: EntryName) -> PathBuf {
        self.artifacts.join(name.0.to_hex().as_str())
    }

    /// The entry, if there is one that is whole.
    pub(crate) fn get(&self, name: EntryName) -> Result<Option<Image>, Error> {
        let path = self.path(name);
        let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, "open the entry")(error)),
        };
        let length = file.metadata().map_err(failed(&path, "examine the entry"))?.len();
        let header_bytes = (MAGIC.len() + HASH_BYTES) as u64;
        if length < header_bytes || length > ENTRY_BYTES_MAX {
            return Ok(None);
        }
        let mut magic = [0; MAGIC.len()];
        let mut hash = [0; HASH_BYTES];
        let header = file.read_exact(&mut magic).and_then(|()| file.read_exact(&mut hash));
        header.map_err(failed(&path, "read the entry"))?;
        if magic != MAGIC {
            return Ok(None);
        }
        // Copied into memory that nobody can change before it is checked: what is checked is what is mapped.
        let mut hasher = self.authenticator(name);
        let artifact_bytes = (length - header_bytes) as usize;
        let Ok(image) = Image::copied(&file, header_bytes, artifact_bytes, &mut hasher) else {
            return Ok(None);
        };
        let whole = hasher.finalize() == blake3::Hash::from_bytes(hash);
        if whole {
            // Used: the last to go. Without it (a read-only file system) the entry only goes earlier.
            let _ = file.set_modified(SystemTime::now());
        }
        Ok(whole.then_some(image))
    }

    /// Keeps an artifact, and removes the least recently used others beyond the size limit. One that is larger than the limit
    /// is not kept.
    pub(crate) fn put(&self, name: EntryName, artifact: &[u8]) -> Result<(), Error> {
        let path = self.path(name);
        if ((MAGIC.len() + HASH_BYTES) as u64).saturating_add(artifact.len() as u64) > self.bytes_max {
            return Ok(());
        }
        let mut result = self.put_once(&path, name, artifact);
        for _ in 1..PUT_ATTEMPTS {
            match result {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    result = self.put_once(&path, name, artifact)
                }
                _ => break,
            }
        }
        result.map_err(failed(&path, "write the entry"))?;
        self.tidy()
    }

    /// Fails with `NotFound` when another supervisor took the temporary file for a dead writer's, before it was locked.
    fn put_once(&self, path: &Path, name: EntryName, artifact: &[u8]) -> io::Result<()> {
        let mut random = [0u8; 8];
        fill_random(&mut random)?;
        let temporary = self.artifacts.join(format!("{TEMPORARY}{:016x}", u64::from_ne_bytes(random)));
        let written = self.write(&temporary, name, artifact).and_then(|file| {
            fs::rename(&temporary, path)?;
            // Its lock lasts until it has its name.
            drop(file);
            Ok(())
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Writes a locked temporary file.
    fn write(&self, path: &Path, name: EntryName, artifact: &[u8]) -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.lock()?;
        file.write_all(&MAGIC)?;
        file.write_all(self.authenticator(name).update(artifact).finalize().as_bytes())?;
        file.write_all(artifact)?;
        Ok(file)
    }

    /// Removes temporary files whose writers are gone, and the least recently used entries beyond the size limit. Files of other
    /// names are left alone.
    fn tidy(&self) -> Result<(), Error> {
        let list = failed(&self.artifacts, "list the directory");
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.artifacts).map_err(&list)? {
            let entry = entry.map_err(&list)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(TEMPORARY) {
                remove_if_abandoned(&entry.path());
            } else if blake3::Hash::from_hex(name).is_ok()
                && let Ok(metadata) = entry.metadata()
                && metadata.is_file()
            {
                // With its nanoseconds; the name makes the order the same for everybody.
                entries.push(((metadata.mtime(), metadata.mtime_nsec()), entry.path(), metadata.len()));
            }
        }
        entries.sort();
        let mut bytes = entries.iter().fold(0u64, |sum, (_, _, length)| sum.saturating_add(*length));
        for (_, path, length) in entries {
            if bytes <= self.bytes_max {
                break;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&path, "remove the least recently used entry")(error));
                }
                // Removed, here or by another supervisor.
                _ => bytes = bytes.saturating_sub(length),
            }
        }
        Ok(())
    }

    /// Authenticates the bytes of an entry that it is given.
    fn authenticator(&self, name: EntryName) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(name.0.as_bytes());
        hasher
    }
}

/// Removes a temporary file that nobody is writing. Best effort: what cannot be removed only takes up room.
fn remove_if_abandoned(path: &Path) {
    let Ok(file) = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path) else { return };
    match file.try_lock() {
        Ok(()) => drop(fs::remove_file(path)),
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
    }
}

/// Reads the directory's key, or makes one. Two supervisors that start at once agree on one key: the file
/// appears complete, by `link(2)`, and only once.
fn key(path: &Path) -> Result<[u8; KEY_BYTES], Error> {
    if let Some(key) = read_key(path)? {
        return Ok(key);
    }
    let mut key = [0u8; KEY_BYTES];
    fill_random(&mut key).map_err(failed(path, "get random bytes for the key"))?;
    let temporary = path.with_file_name(format!(".key-{}", blake3::hash(&key).to_hex()));
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(&key))
        .and_then(|()| match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        });
    let _ = fs::remove_file(&temporary);
    made.map_err(failed(path, "make the key"))?;
    read_key(path)?.ok_or_else(|| {
        failed(path, "read the key")(io::Error::new(
            io::ErrorKind::InvalidData,
            "not 32 bytes; remove the file",
        ))
    })
}

/// `None`: there is no key yet.
fn read_key(path: &Path) -> Result<Option<[u8; KEY_BYTES]>, Error> {
    let mut key = Vec::with_capacity(KEY_BYTES + 1);
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => {
            file.take(KEY_BYTES as u64 + 1).read_to_end(&mut key).map_err(failed(path, "read the key"))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, "open the key")(error)),
    };
    key.try_into().map(Some).map_err(|_| {
        let error = io::Error::new(
            io::ErrorKind::InvalidData,
            "it does not have 32 bytes; remove it to have a new one",
        );
        failed(path, "read the key")(error)
    })
}

fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: writable for its length. Up to 256 bytes come whole (getrandom(2)).
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(filled) == Ok(bytes.len()) { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn failed<'p>(path: &'p Path, what: &'static str) -> impl Fn(io::Error) -> Error + 'p {
    move |source| Error::Cache { path: path.to_owned(), what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A limit that no test reaches.
    const MANY: u64 = 1 << 30;

    fn contents(image: &Image) -> Vec<u8> {
        image.view().unwrap().as_ref().to_vec()
    }

    #[test]
    fn an_entry_comes_back_until_a_bit_of_it_is_flipped() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), MANY).unwrap();
        let name = EntryName::new(b"module", b"options");
        assert!(cache.get(name).unwrap().is_none());
        cache.put(name, b"an artifact").unwrap();
        assert_eq!(contents(&cache.get(name).unwrap().unwrap()), b"an artifact");

        let path = cache.path(name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(&path, &changed).unwrap();
            assert!(cache.get(name).unwrap().is_none(), "a flipped bit in byte {at} went unnoticed");
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(cache.get(name).unwrap().is_none(), "a file cut to {length} bytes went unnoticed");
        }
        cache.put(name, b"an artifact").unwrap();
        assert_eq!(contents(&cache.get(name).unwrap().unwrap()), b"an artifact");
        let left: Vec<_> = fs::read_dir(dir.path().join("artifacts")).unwrap().collect();
        assert_eq!(left.len(), 1, "temporary files stay behind: {left:?}");
    }

    #[test]
    fn an_entry_is_bound_to_its_name_and_to_its_directory() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cache, other) = (Cache::open(one.path(), MANY).unwrap(), Cache::open(two.path(), MANY).unwrap());
        let (a, b) = (EntryName::new(b"a", b"options"), EntryName::new(b"b", b"options"));
        cache.put(a, b"artifact of a").unwrap();
        fs::copy(cache.path(a), cache.path(b)).unwrap();
        assert!(cache.get(b).unwrap().is_none(), "an entry was accepted under another name");
        fs::copy(cache.path(a), other.path(a)).unwrap();
        assert!(other.get(a).unwrap().is_none(), "an entry made with another key was accepted");
        assert!(Cache::open(one.path(), MANY).unwrap().get(a).unwrap().is_some(), "the key did not last");
    }

    #[test]
    fn names_depend_on_module_and_options() {
        let name = |module: &[u8], options: &[u8]| EntryName::new(module, options);
        assert_ne!(name(b"m", b"x"), name(b"m", b"y"));
        assert_ne!(name(b"m", b"x"), name(b"n", b"x"));
        assert_ne!(name(b"xm", b"x"), name(b"m", b"xx"), "the border between options and module counts");
    }

    /// Bytes of an entry with the artifact of `entry`.
    const ENTRY: u64 = (MAGIC.len() + HASH_BYTES) as u64 + 1000;

    fn entry(index: u32) -> (EntryName, Vec<u8>) {
        (EntryName::new(&index.to_le_bytes(), b"options"), vec![index as u8; 1000])
    }

    /// Makes an entry look as if it had been used `seconds` after the epoch.
    fn used_at(cache: &Cache, name: EntryName, seconds: u64) {
        let file = File::options().write(true).open(cache.path(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn the_least_recently_used_entries_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 3 * ENTRY).unwrap();
        let is_there = |index| cache.path(entry(index).0).exists();
        for index in 0..3 {
            let (name, artifact) = entry(index);
            cache.put(name, &artifact).unwrap();
            used_at(&cache, name, 1000 + u64::from(index));
        }
        assert!((0..3).all(is_there), "what fits stays");
        // The oldest is used, so the second goes.
        assert!(cache.get(entry(0).0).unwrap().is_some());
        cache.put(entry(3).0, &entry(3).1).unwrap();
        assert_eq!([0, 1, 2, 3].map(is_there), [true, false, true, true]);
        // A single artifact that is larger than the limit removes nothing.
        cache.put(entry(4).0, &vec![0; 3 * ENTRY as usize]).unwrap();
        assert_eq!([0, 2, 3, 4].map(is_there), [true, true, true, false]);
        // A lower limit holds as soon as the directory is opened with it. Other files are not touched.
        fs::write(cache.artifacts.join("note"), vec![0; 5000]).unwrap();
        used_at(&cache, entry(3).0, 5);
        let smaller = Cache::open(dir.path(), 2 * ENTRY).unwrap();
        assert_eq!([0, 2, 3].map(is_there), [true, true, false]);
        assert!(smaller.artifacts.join("note").exists());
    }

    #[test]
    fn what_a_dead_writer_left_is_removed_and_what_is_being_written_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), MANY).unwrap();
        let (name, artifact) = entry(0);
        let (dead, alive) = (cache.artifacts.join(".new-dead"), cache.artifacts.join(".new-alive"));
        // The lock goes with the writer's last descriptor, as when it is killed.
        drop(cache.write(&dead, name, &artifact).unwrap());
        let writer = cache.write(&alive, name, &artifact).unwrap();
        Cache::open(dir.path(), MANY).unwrap();
        assert!(!dead.exists() && alive.exists());
        drop(writer);
        Cache::open(dir.path(), MANY).unwrap();
        assert!(!alive.exists());
    }

    /// Puts and gets entries in turn, far beyond the limit; whatever is got must be whole.
    fn churn(cache: &Cache, first: u32, rounds: u32) {
        for round in 0..rounds {
            let (name, artifact) = entry((first + round) % 7);
            cache.put(name, &artifact).unwrap();
            let (name, artifact) = entry((first + 3 * round) % 7);
            if let Some(image) = cache.get(name).unwrap() {
                assert_eq!(contents(&image), artifact);
            }
        }
    }

    fn bytes_in(cache: &Cache) -> u64 {
        let entries = fs::read_dir(&cache.artifacts).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn two_supervisors_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for first in [0, 4] {
                let path = dir.path();
                scope.spawn(move || churn(&Cache::open(path, 3 * ENTRY).unwrap(), first, 300));
            }
        });
        let cache = Cache::open(dir.path(), 3 * ENTRY).unwrap();
        assert!((ENTRY..=3 * ENTRY).contains(&bytes_in(&cache)), "{} bytes", bytes_in(&cache));
    }

    /// Not a test of its own: what the child of the next one does until it is killed.
    #[test]
    fn churn_until_killed() {
        let Some(path) = std::env::var_os(CHURN_IN) else { return };
        let cache = Cache::open(Path::new(&path), 3 * ENTRY).unwrap();
        println!("{READY}");
        churn(&cache, 0, u32::MAX);
    }

    const CHURN_IN: &str = "SANDBOXD_TEST_CHURN_IN";
    const READY: &str = "churning";

    #[test]
    fn a_writer_killed_at_any_point_leaves_nothing_behind() {
        use std::io::BufRead;
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20u64 {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cache::tests::churn_until_killed", "--nocapture"])
                .env(CHURN_IN, dir.path())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut output = io::BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            while !line.contains(READY) {
                line.clear();
                assert!(output.read_line(&mut line).unwrap() > 0, "the child ended early");
            }
            // Another point of its work each time: this process does some of the same work first.
            let other = Cache::open(dir.path(), 3 * ENTRY).unwrap();
            churn(&other, 0, round as u32);
            child.kill().unwrap();
            child.wait().unwrap();
            let cache = Cache::open(dir.path(), 3 * ENTRY).unwrap();
            for index in 0..7 {
                let (name, artifact) = entry(index);
                if cache.path(name).exists() {
                    assert_eq!(contents(&cache.get(name).unwrap().expect("a whole entry")), artifact);
                }
            }
            let names: Vec<_> =
                fs::read_dir(&cache.artifacts).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{names:?}");
            assert!(bytes_in(&cache) <= 3 * ENTRY);
        }
    }
}
