//! The supervisor's handle: loading modules, running jobs.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipc::report::Report;
use tokio::sync::oneshot;

use crate::cache::{Cache, EntryName};
use crate::config::Config;
use crate::error::{Error, system};
use crate::job::Job;
use crate::module::{Image, Module, ModuleSource};
use crate::shard::{Request, Shard};

/// A running supervisor. Clones are handles to the same one; dropping the last ends its jobs and processes.
#[derive(Clone, Debug)]
pub struct Supervisor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    shards: Vec<Shard>,
    /// Spreads jobs over shards.
    next: AtomicUsize,
    cache: Option<Arc<Cache>>,
    cache_problem: Option<String>,
}

impl Supervisor {
    /// Starts the shards. Zygotes start with the first job that needs them. A cache directory that cannot be used is
    /// no error: modules are compiled anew each time, and [`Module::cache_problem`] says why.
    pub fn start(config: Config) -> Result<Self, Error> {
        let shards =
            (0..config.shards.max(1)).map(|i| Shard::start(i, &config)).collect::<Result<Vec<_>, _>>()?;
        let (cache, cache_problem) = match config.state_dir.as_deref().map(Cache::open) {
            Some(Ok(cache)) => (Some(Arc::new(cache)), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        Ok(Self(Arc::new(Inner { config, shards, next: AtomicUsize::new(0), cache, cache_problem })))
    }

    /// Loads a module: compiles it, or takes it from the cache, and checks the artifact.
    ///
    /// The work is done on a thread of its own, so the caller's executor is not held up.
    pub async fn load(&self, source: ModuleSource) -> Result<Module, Error> {
        let inner = Arc::clone(&self.0);
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new()
            .name("load".into())
            .spawn(move || {
                let _ = sender.send(inner.load(source));
            })
            .map_err(system("start a thread that loads the module"))?;
        receiver.await.unwrap_or(Err(Error::Stopped))
    }

    /// Runs a job and reports. Dropping the future cancels the job: its instance is killed.
    pub async fn run(&self, job: Job) -> Result<Report, Error> {
        self.run_until(job, std::future::pending()).await
    }

    /// Runs a job until it ends or `cancel` is ready; then its outcome is [`ipc::report::Outcome::Cancelled`].
    pub async fn run_until(&self, job: Job, cancel: impl Future<Output = ()>) -> Result<Report, Error> {
        let index = self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.shards.len();
        let (report, mut reported) = oneshot::channel();
        let (canceller, cancelled) = oneshot::channel();
        let shard = self.0.shards.get(index).ok_or(Error::Stopped)?;
        shard.submit(Request { job: Box::new(job), report, cancel: cancelled })?;
        let mut cancel = pin!(cancel);
        tokio::select! {
            biased;
            report = &mut reported => return report.unwrap_or(Err(Error::Stopped)),
            () = &mut cancel => {}
        }
        let _ = canceller.send(());
        reported.await.unwrap_or(Err(Error::Stopped))
    }
}

impl Inner {
    fn load(&self, source: ModuleSource) -> Result<Module, Error> {
        match source {
            ModuleSource::Artifact(bytes) => Module::new(Image::from_bytes(&bytes)?, false, None),
            ModuleSource::Wasm(bytes) => self.load_wasm(bytes),
        }
    }

    fn load_wasm(&self, bytes: Vec<u8>) -> Result<Module, Error> {
        let compile = &self.config.compile;
        let Some(cache) = &self.cache else {
            let artifact = compiler::compile(&binary(bytes)?, compile)?;
            return Module::new(Image::from_bytes(&artifact)?, false, self.cache_problem.clone());
        };
        let name = EntryName::new(&bytes, &compile.fingerprint()?);
        let problem = match cache.get(name) {
            // An entry that is whole but is refused was made by something else; it is replaced.
            Ok(Some(image)) => match Module::new(image, true, None) {
                Ok(module) => return Ok(module),
                Err(_) => None,
            },
            Ok(None) => None,
            Err(error) => Some(error.to_string()),
        };
        let artifact = compiler::compile(&binary(bytes)?, compile)?;
        let problem = problem.or_else(|| cache.put(name, &artifact).err().map(|e| e.to_string()));
        Module::new(Image::from_bytes(&artifact)?, false, problem)
    }
}

/// The binary form of a module that may be text.
fn binary(module: Vec<u8>) -> Result<Vec<u8>, Error> {
    const MAGIC: &[u8] = b"\0asm";
    if module.starts_with(MAGIC) { Ok(module) } else { Ok(compiler::parse_text(&module)?) }
}
