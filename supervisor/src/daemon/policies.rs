//! The policies that clients can name: the built-in ones and those of a directory, which can be read anew.
//!
//! A reload is all or nothing: every file of the directory is read and checked before any counts. A job has the policy that its name
//! stood for when it was asked for, and keeps it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ipc::protocol::{PolicyInfo, Reloaded, one_line};
use policies::{Origin, Policy, PolicySet};
use tokio::runtime::Handle;

/// The policies of a daemon.
#[derive(Debug)]
pub struct Policies {
    directory: Option<PathBuf>,
    current: Mutex<Arc<PolicySet>>,
    /// One reload at a time, so that the latest one counts.
    reloading: tokio::sync::Mutex<()>,
    /// Where one line about a reload goes.
    log: fn(&str),
}

/// Why the policies of a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}", summary(errors))]
pub struct PolicyErrors {
    /// The first mistake of every file that has one.
    pub errors: Vec<policies::Error>,
}

/// One line: the first mistakes, and how many more there are.
fn summary(errors: &[policies::Error]) -> String {
    const SHOWN: usize = 3;
    let mut text = errors.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    if let Some(more) = errors.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        text.push_str(&format!(" | and {more} more files"));
    }
    text
}

impl Policies {
    /// The built-in policies, and those of `directory`. `log` takes one line about each reload.
    ///
    /// # Errors
    /// All mistakes in the directory.
    pub fn load(directory: Option<PathBuf>, log: fn(&str)) -> Result<Self, PolicyErrors> {
        let set = read(directory.as_ref())?;
        Ok(Self {
            directory,
            current: Mutex::new(Arc::new(set)),
            reloading: tokio::sync::Mutex::new(()),
            log,
        })
    }

    /// Those that count now.
    pub(super) fn current(&self) -> Arc<PolicySet> {
        // Nothing panics while it holds the lock.
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the directory anew. After an error everything is as before. What comes of it is logged too.
    pub(super) async fn reload(&self, blocking: &Handle) -> Result<Reloaded, String> {
        let result = self.try_reload(blocking).await;
        match &result {
            Ok(reloaded) => (self.log)(&format!("policies reloaded: {}", describe(reloaded))),
            Err(reason) => (self.log)(&one_line(reason)),
        }
        result
    }

    async fn try_reload(&self, blocking: &Handle) -> Result<Reloaded, String> {
        let _turn = self.reloading.lock().await;
        let refused =
            |reason: &dyn std::fmt::Display| format!("policies not reloaded, the old ones stay: {reason}");
        let Some(directory) = self.directory.clone() else {
            return Err(refused(&"this daemon has no directory of policies; start it with --policy-dir"));
        };
        // The directory may lie on a file system that is slow, and this thread serves others.
        let read = blocking.spawn_blocking(move || read(Some(&directory)));
        let new = read.await.map_err(|error| refused(&error))?.map_err(|error| refused(&error))?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, Arc::new(new.clone()));
        drop(current);
        Ok(compare(&old, &new))
    }
}

fn read(directory: Option<&PathBuf>) -> Result<PolicySet, PolicyErrors> {
    match directory {
        Some(directory) => PolicySet::load(directory).map_err(|errors| PolicyErrors { errors }),
        None => PolicySet::builtin().map_err(|error| PolicyErrors { errors: vec![error] }),
    }
}

fn compare(old: &PolicySet, new: &PolicySet) -> Reloaded {
    let names = |from: &PolicySet, wanted: &dyn Fn(&Policy) -> bool| {
        from.iter().filter(|policy| wanted(policy)).map(|policy| policy.name().to_owned()).collect()
    };
    Reloaded {
        policies: u32::try_from(new.iter().count()).unwrap_or(u32::MAX),
        added: names(new, &|policy| old.get(policy.name()).is_err()),
        changed: names(new, &|policy| old.get(policy.name()).is_ok_and(|old| **old != *policy)),
        removed: names(old, &|policy| new.get(policy.name()).is_err()),
    }
}

/// What a reload has changed, on one line.
fn describe(reloaded: &Reloaded) -> String {
    let Reloaded { policies, added, changed, removed } = reloaded;
    let mut text = format!("{policies} policies");
    for (what, names) in [("new", added), ("changed", changed), ("gone", removed)] {
        if !names.is_empty() {
            text.push_str(&format!("; {what}: {}", names.join(", ")));
        }
    }
    text
}

/// What a list says about a policy, a daemon's or one that was read here.
pub fn policy_info(policy: &Policy) -> PolicyInfo {
    PolicyInfo {
        name: policy.name().to_owned(),
        file: match policy.origin() {
            Origin::Builtin => None,
            Origin::File(file) => Some(file.to_string()),
        },
        extends: policy.extends().map(str::to_owned),
        description: policy.description().map(str::to_owned),
        dangerous: !policy.dangers().is_empty(),
    }
}
