//! The interfaces that clients' jobs have: each once for a user, however many jobs have it, and no more than a user may make this process
//! keep. A checked interface takes up to a hundred times what its bytes take on the wire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use interface::{DataError, Lowered};
use ipc::protocol::{Bytes, INTERFACES_BYTES_MAX, INTERFACES_MAX};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Bytes of memory that the interfaces of one user's jobs may take together: twice what those of one job can take, and hundreds of times
/// what those of a job usually do.
pub(super) const MEMORY_MAX: usize = 64 << 20;

/// Requests whose interfaces are read at the same time: nothing of them is counted until they are.
const READERS: usize = 2;

/// What is wrong with the interfaces of a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum InterfacesError {
    #[error("{0} interfaces are served; a job or session may have {INTERFACES_MAX}")]
    TooMany(usize),
    #[error("interfaces have {0} bytes together; a job or session may have {INTERFACES_BYTES_MAX}")]
    TooLong(usize),
    #[error("interface {index} of the request: {source}")]
    Unsound { index: usize, source: DataError },
    #[error(
        "interface {index} of the request takes {bytes} bytes of the daemon's memory, and those of the jobs and sessions that this user \
         has take {held} already; a user's may take {MEMORY_MAX}: one interface is kept once for any number of jobs, so use fewer \
         different ones, or end jobs or sessions first"
    )]
    Memory { index: usize, bytes: usize, held: usize },
}

/// All interfaces that jobs have.
#[derive(Debug)]
pub(super) struct Interfaces {
    readers: Arc<Semaphore>,
    users: Arc<Users>,
}

/// By the user's id.
#[derive(Debug, Default)]
struct Users(Mutex<HashMap<u32, Held>>);

/// The interfaces of a user.
#[derive(Debug, Default)]
struct Held {
    /// By the hash of their wire form.
    known: HashMap<blake3::Hash, Known>,
    /// What they take together.
    bytes: usize,
}

#[derive(Debug)]
struct Known {
    /// Gone with the last job that has it.
    interface: Weak<Lowered>,
    bytes: usize,
}

/// Right to read the interfaces of one request.
#[derive(Debug)]
pub(super) struct Reading {
    users: Arc<Users>,
    _permit: OwnedSemaphorePermit,
}

impl Interfaces {
    pub(super) fn new() -> Self {
        Self { readers: Arc::new(Semaphore::new(READERS)), users: Arc::default() }
    }

    /// Waits for the right to read.
    pub(super) async fn reading(&self) -> Result<Reading, AcquireError> {
        let _permit = Arc::clone(&self.readers).acquire_owned().await?;
        Ok(Reading { users: Arc::clone(&self.users), _permit })
    }
}

impl Reading {
    /// Reads and checks the interfaces of a request of this user, which can take a while.
    pub(super) fn read(&self, user: u32, all: &[Bytes]) -> Result<Vec<Arc<Lowered>>, InterfacesError> {
        if all.len() > INTERFACES_MAX {
            return Err(InterfacesError::TooMany(all.len()));
        }
        let bytes = all.iter().map(|Bytes(bytes)| bytes.len()).sum();
        if bytes > INTERFACES_BYTES_MAX {
            return Err(InterfacesError::TooLong(bytes));
        }
        let read = |(index, Bytes(bytes)): (usize, &Bytes)| self.one(user, index, bytes);
        all.iter().enumerate().map(read).collect()
    }

    fn one(&self, user: u32, index: usize, wire: &[u8]) -> Result<Arc<Lowered>, InterfacesError> {
        let hash = blake3::hash(wire);
        if let Some(known) = self.users.with(user, |held| held.find(&hash)) {
            return Ok(known);
        }
        let lowered =
            Lowered::from_bytes(wire).map_err(|source| InterfacesError::Unsound { index, source })?;
        let (lowered, bytes) = (Arc::new(lowered), wire.len());
        let kept = self.users.with(user, |held| held.keep(hash, lowered, bytes));
        kept.map_err(|(bytes, held)| InterfacesError::Memory { index, bytes, held })
    }
}

impl Users {
    fn with<T>(&self, user: u32, what: impl FnOnce(&mut Held) -> T) -> T {
        // A poisoned lock only means that another thread panicked between two complete states.
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = what(users.entry(user).or_default());
        // Users whose jobs have no interfaces are forgotten.
        users.retain(|_, held| !held.known.is_empty());
        result
    }
}

impl Held {
    fn find(&self, hash: &blake3::Hash) -> Option<Arc<Lowered>> {
        self.known.get(hash)?.interface.upgrade()
    }

    /// Keeps an interface, or that of another request which is the same. Else what it would take, and what others take.
    fn keep(
        &mut self,
        hash: blake3::Hash,
        interface: Arc<Lowered>,
        wire: usize,
    ) -> Result<Arc<Lowered>, (usize, usize)> {
        self.known.retain(|_, known| known.interface.strong_count() > 0);
        self.bytes = self.known.values().map(|known| known.bytes).sum();
        if let Some(known) = self.find(&hash) {
            return Ok(known);
        }
        // What a job has for it besides, and the entry here, are less than this.
        let bytes = interface.memory() + wire.max(1024);
        if bytes > MEMORY_MAX.saturating_sub(self.bytes) {
            return Err((bytes, self.bytes));
        }
        self.known.insert(hash, Known { interface: Arc::downgrade(&interface), bytes });
        self.bytes += bytes;
        Ok(interface)
    }
}

#[cfg(test)]
mod tests {
    use interface::{Field, Function, Interface};

    use super::*;

    /// An interface that takes about 1 MiB.
    fn large(name: &str) -> Bytes {
        let field =
            |n: usize| Field { name: format!("p{n}"), doc: String::new(), ty: "u8".to_owned().into() };
        let params: Vec<_> = (0..10).map(field).collect();
        let function =
            |n: usize| Function { name: format!("f{n}"), params: params.clone(), ..Function::default() };
        let functions = (0..400).map(function).collect();
        let interface = Interface { name: name.into(), functions, ..Interface::default() };
        Bytes(interface.to_bytes().expect("bytes"))
    }

    #[tokio::test]
    async fn an_interface_is_kept_once_for_a_user_and_as_long_as_a_job_has_it() {
        let interfaces = Interfaces::new();
        let reading = interfaces.reading().await.expect("it goes on");
        let first = reading.read(1, &[large("a"), large("b")]).expect("sound");
        let second = reading.read(1, &[large("b")]).expect("sound");
        assert!(Arc::ptr_eq(&first[1], &second[0]));
        let other = reading.read(2, &[large("b")]).expect("sound");
        assert!(!Arc::ptr_eq(&other[0], &second[0]), "users share nothing");
        drop((first, second));
        let bytes = |user: u32| interfaces.users.with(user, |held| held.bytes);
        let one = bytes(2);
        assert!(one >= other[0].memory(), "{one}");
        // Those of the first user are gone, and counted until somebody looks.
        let _third = reading.read(1, &[large("c")]).expect("sound");
        assert_eq!(bytes(1), one);
        drop(other);
    }

    #[tokio::test]
    async fn what_a_user_can_make_the_daemon_keep_has_an_end() {
        let interfaces = Interfaces::new();
        let reading = interfaces.reading().await.expect("it goes on");
        let mut held = Vec::new();
        let error = loop {
            assert!(held.len() < 1000, "no end");
            match reading.read(1, &[large(&format!("i{}", held.len()))]) {
                Ok(interface) => held.push(interface),
                Err(error) => break error,
            }
        };
        assert!(held.len() > 10);
        let kept: usize = held.iter().flatten().map(|interface| interface.memory()).sum();
        assert!(kept <= MEMORY_MAX && kept > MEMORY_MAX / 2, "{kept}");
        let InterfacesError::Memory { index: 0, .. } = error else { panic!("{error}") };
        // What is known already, and another user's, there is room for; and for more once there is less.
        assert!(reading.read(1, &[large("i0")]).is_ok());
        assert!(reading.read(2, &[large("fresh")]).is_ok());
        assert!(reading.read(1, &[large("fresh")]).is_err());
        held.truncate(5);
        assert!(reading.read(1, &[large("fresh")]).is_ok());
    }

    #[tokio::test]
    async fn the_worst_request_fits() {
        // The shortest names and types: the most memory for a byte.
        let names = || {
            ('a'..='z')
                .flat_map(|a| ('a'..='z').map(move |b| format!("{a}{b}")))
                .filter(|n| interface::is_name(n))
        };
        let field = |name| Field { name, doc: String::new(), ty: "u8".to_owned().into() };
        let params: Vec<_> = names().take(10).map(field).collect();
        let functions = names().map(|name| Function { name, params: params.clone(), ..Function::default() });
        let functions: Vec<_> = functions.take(512).collect();
        let all = (0..INTERFACES_MAX).map(|n| {
            let interface =
                Interface { name: format!("i{n}"), functions: functions.clone(), ..Interface::default() };
            Bytes(interface.to_bytes().expect("bytes"))
        });
        let mut left = INTERFACES_BYTES_MAX;
        let fitting: Vec<_> = all
            .take_while(|Bytes(bytes)| {
                let fits = bytes.len() <= left;
                left = left.saturating_sub(bytes.len());
                fits
            })
            .collect();
        assert!(fitting.len() > 3);
        let interfaces = Interfaces::new();
        let reading = interfaces.reading().await.expect("it goes on");
        let read = reading.read(1, &fitting).expect("it fits");
        let memory: usize = read.iter().map(|interface| interface.memory()).sum();
        assert!(memory < MEMORY_MAX / 2, "{memory}");
    }
}
