//! The artifact cache: a directory of artifacts, named by what they were made from.
//!
//! An entry's name is a hash of the module, of the compiler's version and of every option that changes its output.
//! Its contents are authenticated with a key that belongs to the directory, so a changed byte, a truncated file
//! or a file put there by somebody who cannot read the key is detected, and the module compiled again. Entries
//! appear by `rename(2)` only, so a reader never sees half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::module::Image;

/// Leads every entry; the number is the format's.
const MAGIC: [u8; 16] = *b"sandboxd cache 1";
const HASH_BYTES: usize = blake3::OUT_LEN;
const KEY_BYTES: usize = blake3::KEY_LEN;
/// Bytes that an entry may have. The compiler's own cap on images is lower.
const ENTRY_BYTES_MAX: u64 = 4 << 30;

/// An opened cache directory.
#[derive(Debug)]
pub(crate) struct Cache {
    artifacts: PathBuf,
    key: [u8; KEY_BYTES],
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
    /// Opens the cache in `state_dir`, which is created if need be, for its owner only.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, Error> {
        let artifacts = state_dir.join("artifacts");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&artifacts)
            .map_err(failed(&artifacts, "create the directory"))?;
        let key = key(&state_dir.join("key"))?;
        Ok(Self { artifacts, key })
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
        let Ok(image) = Image::from_reader(&mut file, (length - header_bytes) as usize) else {
            return Ok(None);
        };
        let whole = self.authenticate(name, image.view()?.as_ref()) == blake3::Hash::from_bytes(hash);
        Ok(whole.then_some(image))
    }

    /// Keeps an artifact.
    pub(crate) fn put(&self, name: EntryName, artifact: &[u8]) -> Result<(), Error> {
        let path = self.path(name);
        let mut random = [0u8; 8];
        fill_random(&mut random).map_err(failed(&path, "get random bytes for a temporary name"))?;
        let temporary = self.artifacts.join(format!(".new-{:016x}", u64::from_ne_bytes(random)));
        let written = self.write(&temporary, name, artifact).and_then(|()| fs::rename(&temporary, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&temporary);
            failed(&path, "write the entry")(error)
        })
    }

    fn write(&self, path: &Path, name: EntryName, artifact: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&MAGIC)?;
        file.write_all(self.authenticate(name, artifact).as_bytes())?;
        file.write_all(artifact)
    }

    fn authenticate(&self, name: EntryName, artifact: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(name.0.as_bytes());
        hasher.update(artifact);
        hasher.finalize()
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
    File::open("/dev/urandom")?.read_exact(bytes)
}

fn failed<'p>(path: &'p Path, what: &'static str) -> impl Fn(io::Error) -> Error + 'p {
    move |source| Error::Cache { path: path.to_owned(), what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(image: &Image) -> Vec<u8> {
        image.view().unwrap().as_ref().to_vec()
    }

    #[test]
    fn an_entry_comes_back_until_a_bit_of_it_is_flipped() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
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
        let (cache, other) = (Cache::open(one.path()).unwrap(), Cache::open(two.path()).unwrap());
        let (a, b) = (EntryName::new(b"a", b"options"), EntryName::new(b"b", b"options"));
        cache.put(a, b"artifact of a").unwrap();
        fs::copy(cache.path(a), cache.path(b)).unwrap();
        assert!(cache.get(b).unwrap().is_none(), "an entry was accepted under another name");
        fs::copy(cache.path(a), other.path(a)).unwrap();
        assert!(other.get(a).unwrap().is_none(), "an entry made with another key was accepted");
        assert!(Cache::open(one.path()).unwrap().get(a).unwrap().is_some(), "the key did not last");
    }

    #[test]
    fn names_depend_on_module_and_options() {
        let name = |module: &[u8], options: &[u8]| EntryName::new(module, options);
        assert_ne!(name(b"m", b"x"), name(b"m", b"y"));
        assert_ne!(name(b"m", b"x"), name(b"n", b"x"));
        assert_ne!(name(b"xm", b"x"), name(b"m", b"xx"), "the border between options and module counts");
    }
}
