//! The policies that have names: the built-in ones, and those of a directory.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Source as Text, quote, read_text};
use crate::error::{DocumentKind, Error};
use crate::policy::{Named, Origin, Policy, builtins, is_taken, named, says_extends};

/// Policy files that a directory may have.
pub const DIRECTORY_FILES_MAX: usize = 1024;
/// Bytes of a name.
const NAME_MAX: usize = 64;

/// Policies by name. Immutable: a directory that has changed is loaded anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySet {
    policies: Named,
    directory: Option<PathBuf>,
}

impl PolicySet {
    /// The built-in policies.
    pub fn builtin() -> Result<Self, Error> {
        Ok(Self { policies: builtins()?.clone(), directory: None })
    }

    /// The built-in policies and those of a directory: `NAME.toml` is the policy `NAME`. Each may extend a built-in one or another
    /// one of the directory. Other files, hidden files and directories are passed over.
    ///
    /// The directory and its files must belong to this user or root, and nobody else may write them.
    ///
    /// # Errors
    /// Every file's first mistake. One mistake, and there is no set.
    pub fn load(directory: &Path) -> Result<Self, Vec<Error>> {
        let texts = read_directory(directory)?;
        let mut policies = builtins().map_err(|error| vec![error])?.clone();
        let mut errors = Vec::new();
        let extends: BTreeMap<&str, _> = texts
            .iter()
            .map(|(name, (file, text))| (&**name, says_extends(&Text::policy(text, file.clone()))))
            .collect();
        // A file comes after the one that it extends; what is left waits for something that is not there, has a mistake, or waits itself.
        let mut waiting: Vec<&Arc<str>> = texts.keys().collect();
        loop {
            let (ready, rest): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|name| match &extends[&***name] {
                    Some((base, _)) => policies.contains_key(&**base),
                    None => true,
                });
            waiting = rest;
            if ready.is_empty() {
                break;
            }
            for name in ready {
                match read(name, &texts[name], &policies) {
                    Ok(policy) => drop(policies.insert(Arc::clone(name), Arc::new(policy))),
                    Err(error) => errors.push(error),
                }
            }
        }
        for name in waiting {
            let Some((base, at)) = &extends[&**name] else { continue };
            errors.push(match (cycle(name, &extends), texts.contains_key(&**base)) {
                (Some(chain), _) => Error::Cycle { at: at.clone(), chain },
                (None, true) => Error::BrokenBase { at: at.clone(), base: Arc::from(base.as_str()) },
                // By now all names are known that could have been meant.
                (None, false) => match read(name, &texts[name], &policies) {
                    Ok(_) => continue,
                    Err(error) => error,
                },
            });
        }
        match errors.is_empty() {
            true => Ok(Self { policies, directory: Some(directory.to_path_buf()) }),
            false => Err(errors),
        }
    }

    /// The directory, for a set that was loaded from one.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// The policy with this name.
    pub fn get(&self, name: &str) -> Result<&Arc<Policy>, Error> {
        named(name, &self.policies)
    }

    /// Checks a policy's text, which may extend any policy of the set. `file_name` is its name in messages and reports.
    pub fn parse(&self, text: &str, file_name: &str) -> Result<Policy, Error> {
        Policy::parse_with(text, file_name, &self.policies)
    }
}

fn read(name: &Arc<str>, (file, text): &(Arc<str>, String), bases: &Named) -> Result<Policy, Error> {
    let source = Text::policy(text, file.clone());
    Policy::read(&source, Arc::clone(name), Origin::File(file.clone()), bases)
}

/// The names from `name` back to itself, if it extends itself.
fn cycle(name: &str, extends: &BTreeMap<&str, Option<(String, crate::Position)>>) -> Option<String> {
    let mut chain = vec![name];
    let mut at = name;
    for _ in 0..extends.len() {
        at = &extends.get(at)?.as_ref()?.0;
        chain.push(at);
        if at == name {
            // Enough to find it by.
            chain.truncate(8);
            return Some(chain.join(" extends "));
        }
    }
    None
}

/// Files by the names of their policies: what messages call the file, and its text.
type Texts = BTreeMap<Arc<str>, (Arc<str>, String)>;

/// The texts of the policies in a directory.
fn read_directory(directory: &Path) -> Result<Texts, Vec<Error>> {
    let shown: Arc<str> = Arc::from(quote(&directory.to_string_lossy()));
    let kind = DocumentKind::Policy;
    let failed =
        |error: std::io::Error| vec![Error::Read { kind, file: shown.clone(), reason: error.to_string() }];
    let opened = File::open(directory).map_err(failed)?;
    check_exposure(&opened.metadata().map_err(failed)?, &shown).map_err(|error| vec![error])?;
    let (mut texts, mut errors) = (Texts::new(), Vec::new());
    let mut files = 0;
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(file_name) = path.file_name().map(|name| name.to_string_lossy()) else { continue };
        let Some(name) = file_name.strip_suffix(".toml").filter(|_| !file_name.starts_with('.')) else {
            continue;
        };
        if files == DIRECTORY_FILES_MAX {
            return Err(vec![Error::TooManyFiles { directory: shown, limit: DIRECTORY_FILES_MAX }]);
        }
        files += 1;
        // Within its directory: a whole path could be too long for a message.
        let file: Arc<str> = Arc::from(quote(&file_name));
        match read_entry(&path, name, &file) {
            Ok(text) => drop(texts.insert(Arc::from(name), (file, text))),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(texts) } else { Err(errors) }
}

fn read_entry(path: &Path, name: &str, file: &Arc<str>) -> Result<String, Error> {
    let problem = |problem| Err(Error::FileName { file: file.clone(), problem });
    if is_taken(name) {
        return problem("that name is taken by this program");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) {
        return problem("a name is 1 to 64 letters, digits, '.', '_' or '-'");
    }
    let kind = DocumentKind::Policy;
    let failed = |reason: String| Error::Read { kind, file: file.clone(), reason };
    // A FIFO must not hold up whoever reads.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| failed(error.to_string()))?;
    let metadata = opened.metadata().map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() {
        return Err(failed("it is not a regular file".to_owned()));
    }
    check_exposure(&metadata, file)?;
    read_text(opened, kind, file)
}

/// Refuses what somebody else than this user and root can change.
fn check_exposure(metadata: &Metadata, file: &Arc<str>) -> Result<(), Error> {
    let exposed = |problem: String| Err(Error::Exposed { file: file.clone(), problem });
    // SAFETY: takes nothing, always succeeds (geteuid(2)).
    let own = unsafe { libc::geteuid() };
    if metadata.uid() != own && metadata.uid() != 0 {
        return exposed(format!("it belongs to user {}", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return exposed(format!("its mode is {:03o}", metadata.mode() & 0o777));
    }
    Ok(())
}
