//! A host app that offers the interface kv to a guest:
//!
//!     cargo run -p sandboxd-supervisor --example key_value -- examples/host-functions/guest_c.wasm
//!
//! With `--interface` it prints its interface, which is that of kv.toml.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use compiler::Options;
use policies::Policy;
use supervisor::{
    Config, Handle, HostError, HostType, Job, ModuleSource, Outcome, Supervisor, host_functions,
};

/// In which order keys are listed.
#[derive(HostType)]
enum Order {
    /// Byte by byte.
    Ascending,
    /// The other way round.
    Descending,
}

/// What a value is.
#[derive(HostType)]
enum Content {
    /// Decimal text, which `sum` adds up.
    Number,
    /// Anything else.
    Other,
}

/// Why a store does not do what it is asked for.
#[derive(HostType)]
#[host(error)]
enum KvError {
    /// There is no such key.
    NotFound,
    /// There is such a key, and `put_flags` says that there must not be.
    Exists,
    /// The store has as many keys as it can have.
    Full,
    /// The result is longer than the guest's room for it.
    TooSmall,
}

/// What `put` minds.
#[derive(HostType)]
#[host(flags)]
struct PutFlags {
    /// The key must be new.
    create_new: bool,
    /// The value cannot be replaced later.
    read_only: bool,
}

/// What a store has for a key.
#[derive(HostType)]
struct Entry {
    /// Bytes of the value.
    value_bytes: u32,
    /// Whether the value cannot be replaced.
    read_only: bool,
    /// What the value is.
    content: Content,
}

/// What is in a store.
#[derive(HostType)]
struct Usage {
    /// Number of keys.
    keys: u32,
    /// Bytes of all keys and values.
    bytes_used: u64,
    /// Whether another key would be refused.
    is_full: bool,
}

/// Stores of keys and values, which live as long as the guest's job.
#[host_functions]
trait Kv {
    /// Opens the store of this name, which is made if there is none.
    #[host(results("opened"))]
    fn open(
        &self,
        name: String,
        /// Keys that it can have.
        keys_max: u32,
    ) -> Handle<Store>;
    /// Stores a value.
    fn put(&self, to: &Handle<Store>, key: String, value: Vec<u8>, how: PutFlags) -> Result<(), KvError>;
    /// Reads a value.
    #[host(results("value"), overflow = "too_small", deadline = "1s")]
    fn get(&self, from: &Handle<Store>, key: &str) -> Result<Vec<u8>, KvError>;
    /// Tells which key is at a position, and how long its value is.
    #[host(results("key", "value_bytes"), overflow = "too_small")]
    fn nth(
        &self,
        from: &Handle<Store>,
        sorted: Order,
        /// From 0.
        position: u32,
    ) -> Result<(String, u32), KvError>;
    /// Lists what there is for each key.
    #[host(results("entries"), overflow = "too_small")]
    fn entries(
        &self,
        from: &Handle<Store>,
        /// Of the keys.
        sorted: Order,
    ) -> Result<Vec<Entry>, KvError>;
    /// Adds up numbers that are stored as decimal text, as far as they are there.
    #[host(results("total"))]
    fn sum(
        &self,
        from: &Handle<Store>,
        /// Of the keys, in ascending order.
        weights: &[i64],
    ) -> i64;
    /// Tells what is in a store.
    #[host(results("found"))]
    fn usage_of(&self, of: &Handle<Store>) -> Usage;
    /// Closes a store. What is in it stays until the job ends.
    fn close(&self, closed: Handle<Store>) -> Result<(), HostError>;
}

struct Stored {
    value: Vec<u8>,
    read_only: bool,
}

impl Stored {
    fn number(&self) -> Option<i64> {
        str::from_utf8(&self.value).ok()?.parse().ok()
    }
}

/// An open store.
#[derive(HostType)]
#[host(handle)]
struct Store {
    keys_max: usize,
    values: Mutex<BTreeMap<String, Stored>>,
}

impl Store {
    /// Does something with the values. No function leaves them half changed, so a lock that is poisoned is none.
    fn with<T>(&self, run: impl FnOnce(&mut BTreeMap<String, Stored>) -> T) -> T {
        run(&mut self.values.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same with keys and values in this order.
    fn in_order<T>(
        &self,
        sorted: Order,
        run: impl FnOnce(&mut dyn Iterator<Item = (&String, &Stored)>) -> T,
    ) -> T {
        self.with(|values| match sorted {
            Order::Ascending => run(&mut values.iter()),
            Order::Descending => run(&mut values.iter().rev()),
        })
    }
}

/// All stores, by name.
#[derive(Default)]
struct Stores(Mutex<HashMap<String, Handle<Store>>>);

// Results beyond the guest's room become `too_small` by themselves.
impl Kv for Stores {
    fn open(&self, name: String, keys_max: u32) -> Handle<Store> {
        let new = || Handle::new(Store { keys_max: keys_max as usize, values: Mutex::default() });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert_with(new).clone()
    }

    fn put(&self, to: &Handle<Store>, key: String, value: Vec<u8>, how: PutFlags) -> Result<(), KvError> {
        to.with(|values| match values.get(&key) {
            Some(old) if old.read_only || how.create_new => Err(KvError::Exists),
            None if values.len() >= to.keys_max => Err(KvError::Full),
            _ => {
                values.insert(key, Stored { value, read_only: how.read_only });
                Ok(())
            }
        })
    }

    fn get(&self, from: &Handle<Store>, key: &str) -> Result<Vec<u8>, KvError> {
        from.with(|values| values.get(key).map(|stored| stored.value.clone()).ok_or(KvError::NotFound))
    }

    fn nth(&self, from: &Handle<Store>, sorted: Order, position: u32) -> Result<(String, u32), KvError> {
        let found = from.in_order(sorted, |all| {
            all.nth(position as usize).map(|(key, stored)| (key.clone(), stored.value.len() as u32))
        });
        found.ok_or(KvError::NotFound)
    }

    fn entries(&self, from: &Handle<Store>, sorted: Order) -> Result<Vec<Entry>, KvError> {
        let entry = |stored: &Stored| Entry {
            value_bytes: stored.value.len() as u32,
            read_only: stored.read_only,
            content: if stored.number().is_some() { Content::Number } else { Content::Other },
        };
        Ok(from.in_order(sorted, |all| all.map(|(_, stored)| entry(stored)).collect()))
    }

    fn sum(&self, from: &Handle<Store>, weights: &[i64]) -> i64 {
        from.with(|values| {
            values.values().zip(weights).fold(0i64, |total, (stored, by)| {
                total.wrapping_add(stored.number().unwrap_or(0).wrapping_mul(*by))
            })
        })
    }

    fn usage_of(&self, of: &Handle<Store>) -> Usage {
        of.with(|values| Usage {
            keys: values.len() as u32,
            bytes_used: values.iter().map(|(key, stored)| (key.len() + stored.value.len()) as u64).sum(),
            is_full: values.len() >= of.keys_max,
        })
    }

    fn close(&self, closed: Handle<Store>) -> Result<(), HostError> {
        closed.close().map(|_| ())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let argument = std::env::args_os().nth(1).ok_or("usage: key_value MODULE | --interface")?;
    if argument == "--interface" {
        print!("{}", Stores::interface()?.interface().to_toml());
        return Ok(());
    }
    let wasm = std::fs::read(argument)?;
    let compile = Options { open_imports: true, ..Options::default() };
    let supervisor = Supervisor::start(Config { compile, shards: 1, ..Config::default() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let module = supervisor.load(ModuleSource::Wasm(wasm)).await?;
        let mut job = Job::command(module, Arc::new(Policy::builtin("default")?));
        job.stdio[1] = Some(std::io::stdout().as_fd().try_clone_to_owned()?);
        job.stdio[2] = Some(std::io::stderr().as_fd().try_clone_to_owned()?);
        job.imports.serve(&Stores::default().service()?)?;
        Ok::<_, Box<dyn Error>>(supervisor.run(job).await?)
    })?;
    match report.outcome {
        Outcome::Exited { code: 0, .. } => Ok(()),
        other => Err(format!("the guest did not end well: {other:?}").into()),
    }
}
