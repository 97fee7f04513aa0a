//! A host app that offers the interface kv to a guest:
//!
//!     cargo run -p sandboxd-supervisor --example key_value -- examples/host-functions/guest_c.wasm

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use compiler::Options;
use policies::Policy;
use supervisor::interface::{Interface, Reply, Value};
use supervisor::{CallContext, Config, HostError, Job, ModuleSource, Outcome, Service, Supervisor};

/// Numbers of `kv_error`.
const NOT_FOUND: u32 = 1;
const EXISTS: u32 = 2;
const FULL: u32 = 3;
/// Number of a case of `order`.
const DESCENDING: u32 = 1;
/// Bits of `put_flags`.
const CREATE_NEW: u64 = 1;
const READ_ONLY: u64 = 2;

#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    read_only: bool,
}

#[derive(Debug)]
struct Store {
    keys_max: usize,
    entries: Mutex<BTreeMap<String, Entry>>,
}

impl Store {
    /// Does something with the entries. No function leaves them half changed, so a lock that is poisoned is none.
    fn with<T>(&self, run: impl FnOnce(&mut BTreeMap<String, Entry>) -> T) -> T {
        run(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, key: String, value: Vec<u8>, flags: u64) -> Reply {
        self.with(|entries| {
            let old = entries.get(&key);
            if old.is_some_and(|old| old.read_only || flags & CREATE_NEW != 0) {
                return Reply::Error(EXISTS);
            }
            if old.is_none() && entries.len() >= self.keys_max {
                return Reply::Error(FULL);
            }
            entries.insert(key, Entry { value, read_only: flags & READ_ONLY != 0 });
            Reply::Values(Vec::new())
        })
    }

    fn get(&self, key: &str) -> Reply {
        // One that is longer than the guest's room becomes `too_small` by itself.
        self.with(|entries| match entries.get(key) {
            Some(entry) => vec![Value::Bytes(entry.value.clone())].into(),
            None => Reply::Error(NOT_FOUND),
        })
    }

    fn nth(&self, order: u32, position: usize) -> Reply {
        self.with(|entries| {
            let found = match order {
                DESCENDING => entries.iter().rev().nth(position),
                _ => entries.iter().nth(position),
            };
            match found {
                Some((key, entry)) => {
                    vec![Value::String(key.clone()), Value::U32(entry.value.len() as u32)].into()
                }
                None => Reply::Error(NOT_FOUND),
            }
        })
    }

    fn sum(&self, weights: &[Value]) -> Reply {
        let weight = |weight: &Value| if let Value::S64(weight) = weight { *weight } else { 0 };
        let number = |entry: &Entry| str::from_utf8(&entry.value).ok()?.parse::<i64>().ok();
        let total = self.with(|entries| {
            entries.values().zip(weights).fold(0i64, |total, (entry, by)| {
                total.wrapping_add(number(entry).unwrap_or(0).wrapping_mul(weight(by)))
            })
        });
        vec![Value::S64(total)].into()
    }

    fn usage(&self) -> Reply {
        self.with(|entries| {
            let bytes: usize = entries.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
            let is_full = entries.len() >= self.keys_max;
            let fields = [Value::U32(entries.len() as u32), Value::U64(bytes as u64), Value::Bool(is_full)];
            vec![Value::Record(fields.into())].into()
        })
    }
}

/// Serves a function: `serve` gets the store that its first argument is a handle of, and the other arguments.
fn on_store(
    service: &mut Service,
    name: &str,
    serve: impl Fn(&Store, &[Value]) -> Option<Reply> + Send + Sync + 'static,
) -> Result<(), Box<dyn Error>> {
    let serve = move |context: CallContext, arguments: Vec<Value>| {
        let reply = match arguments.split_first() {
            Some((handle, rest)) => context.get::<Arc<Store>>(handle).map(|store| serve(&store, rest)),
            None => Ok(None),
        };
        // The supervisor has checked number and types of the arguments.
        std::future::ready(reply.and_then(|reply| reply.ok_or_else(|| HostError::from("other arguments"))))
    };
    service.function(name, serve)?;
    Ok(())
}

/// All functions of the interface, on stores that are there as long as the service is.
fn service() -> Result<Service, Box<dyn Error>> {
    let mut service = Service::new(Interface::parse(include_str!("kv.toml"), "kv.toml")?);
    let stores: Mutex<HashMap<String, Arc<Store>>> = Mutex::default();
    service.function("open", move |context, arguments| {
        let opened = match arguments.as_slice() {
            [Value::String(name), Value::U32(keys_max)] => {
                let new = || Store { keys_max: *keys_max as usize, entries: Mutex::default() };
                let mut stores = stores.lock().unwrap_or_else(PoisonError::into_inner);
                let store = stores.entry(name.clone()).or_insert_with(|| Arc::new(new()));
                context.insert("store", Arc::clone(store))
            }
            _ => Err("other arguments".into()),
        };
        std::future::ready(opened.map(|opened| Reply::Values(vec![opened])))
    })?;
    on_store(&mut service, "put", |store, arguments| match arguments {
        [Value::String(key), Value::Bytes(value), Value::Flags(flags)] => {
            Some(store.put(key.clone(), value.clone(), *flags))
        }
        _ => None,
    })?;
    on_store(&mut service, "get", |store, arguments| match arguments {
        [Value::String(key)] => Some(store.get(key)),
        _ => None,
    })?;
    on_store(&mut service, "nth", |store, arguments| match arguments {
        [Value::Enum(order), Value::U32(position)] => Some(store.nth(*order, *position as usize)),
        _ => None,
    })?;
    on_store(&mut service, "sum", |store, arguments| match arguments {
        [Value::List(weights)] => Some(store.sum(weights)),
        _ => None,
    })?;
    on_store(&mut service, "usage_of", |store, _| Some(store.usage()))?;
    service.function("close", |context, arguments| {
        let closed = arguments.first().map(|handle| context.remove::<Arc<Store>>(handle));
        let closed = closed.unwrap_or_else(|| Err("other arguments".into()));
        std::future::ready(closed.map(|_| Reply::Values(Vec::new())))
    })?;
    Ok(service)
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: key_value MODULE")?;
    let wasm = std::fs::read(path)?;
    let compile = Options { open_imports: true, ..Options::default() };
    let supervisor = Supervisor::start(Config { compile, shards: 1, ..Config::default() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let module = supervisor.load(ModuleSource::Wasm(wasm)).await?;
        let mut job = Job::command(module, Arc::new(Policy::builtin("default")?));
        job.stdio[1] = Some(std::io::stdout().as_fd().try_clone_to_owned()?);
        job.stdio[2] = Some(std::io::stderr().as_fd().try_clone_to_owned()?);
        job.imports.serve(&service()?)?;
        Ok::<_, Box<dyn Error>>(supervisor.run(job).await?)
    })?;
    match report.outcome {
        Outcome::Exited { code: 0, .. } => Ok(()),
        other => Err(format!("the guest did not end well: {other:?}").into()),
    }
}
