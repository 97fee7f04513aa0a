//! Compiling in processes of their own.
//!
//! Neither the supervisor nor any of the programs parses a module. For each compilation a confined *worker* is forked that does
//! it, ends, and leaves what it made in a memory file, which is sealed, and checked before anything uses it. A worker that
//! crashes, hangs, is killed or writes garbage costs that one compilation an error.
//!
//! * [`zygote`]: the process that workers are forked from; [`start`] starts it with the first compilation, and anew when it died.
//! * [`worker`]: what one compilation runs in.
//! * [`attempt`]: one worker, seen from here: what it is asked for, and what its end means.
//! * [`imports`]: what a module imports, and whether interfaces have it.
//! * [`progress`]: how far a worker says it is.
//! * [`wire`]: what they say to each other.

mod attempt;
mod imports;
mod progress;
mod start;
mod wire;
mod worker;
mod zygote;

use std::sync::{Mutex, MutexGuard, PoisonError};

use compiler::{Artifact, Listing};

use crate::config::{CompileLimits, Config};
use crate::error::Error;
use crate::image::{Image, View};
use attempt::{Failure, Work};
pub use imports::{ImportList, mismatches};
pub use progress::CompileProgress;
pub(crate) use start::{PATIENCE, confined};
use start::{Zygote, died};
use wire::Make;

/// Compiles modules, each in a confined worker process that is used once.
///
/// Modules are WebAssembly in binary or text form. The first call starts the process that workers are forked from; dropping
/// the compiler ends it. [`crate::Supervisor`] has one of its own.
///
/// ```no_run
/// # fn example(wasm: &[u8]) -> Result<(), supervisor::Error> {
/// use supervisor::{CompileProgress, Compiler, Config};
///
/// let compiler = Compiler::new(&Config::default());
/// let options = compiler::Options { fuel: true, ..compiler::Options::default() };
/// let artifact = compiler.compile(wasm, &options, &CompileProgress::default())?;
/// println!("{} bytes", artifact.bytes().len());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Compiler {
    config: Config,
    /// Threads of a compilation that does not say how many.
    threads: usize,
    zygote: Mutex<Option<Zygote>>,
    #[cfg(test)]
    hook: Mutex<Option<tests::Hook>>,
    /// Workers that are known to run, or to have run.
    #[cfg(test)]
    spawned: std::sync::atomic::AtomicUsize,
}

impl Compiler {
    /// Starts nothing yet. Of the configuration, [`Config::compile_limits`], [`Config::worker_program`] and
    /// [`Config::sandbox_id`] count.
    pub fn new(config: &Config) -> Self {
        // Keeps the linker from leaving the zygote's entry point out of programs that contain this library.
        std::hint::black_box(&raw const zygote::BEFORE_MAIN);
        Self {
            config: config.clone(),
            // The worker has no file system to find out in, and neither may this process have one later.
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            zygote: Mutex::new(None),
            #[cfg(test)]
            hook: Mutex::new(None),
            #[cfg(test)]
            spawned: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    /// Compiles a module to an artifact, which has been checked like one from anywhere.
    pub fn compile(
        &self,
        module: &[u8],
        options: &compiler::Options,
        progress: &CompileProgress,
    ) -> Result<Artifact<View>, Error> {
        let image = self.image(module, options, progress)?;
        Artifact::parse(image.view()?).map_err(|source| Error::CompilerOutput { source })
    }

    /// Checks a module as [`Self::compile`] does before it generates code.
    pub fn validate(&self, module: &[u8], options: &compiler::Options) -> Result<(), Error> {
        self.make(Make::Nothing, module, options, &CompileProgress::default()).map(|_| ())
    }

    /// Writes down every function of a module for people to read. The text is what the worker wrote, of at most
    /// `options.caps.image_bytes` bytes; nothing has been checked about it.
    pub fn list(
        &self,
        module: &[u8],
        options: &compiler::Options,
        listing: Listing,
        progress: &CompileProgress,
    ) -> Result<View, Error> {
        self.make(Make::Listing(listing), module, options, progress)?.view()
    }

    /// Compiles a module to a sealed image. The image is what the worker wrote: not checked yet.
    pub(crate) fn image(
        &self,
        module: &[u8],
        options: &compiler::Options,
        progress: &CompileProgress,
    ) -> Result<Image, Error> {
        self.make(Make::Artifact, module, options, progress)
    }

    fn make(
        &self,
        make: Make,
        module: &[u8],
        options: &compiler::Options,
        progress: &CompileProgress,
    ) -> Result<Image, Error> {
        let mut options = *options;
        if options.threads == 0 {
            options.threads = self.threads;
        }
        let input = Image::from_bytes(module)?;
        let work = Work { make, input: &input, input_bytes: module.len(), options, progress };
        match self.attempt(&work) {
            Ok(image) => Ok(image),
            Err(Failure::Error(error)) => Err(error),
            Err(Failure::BeforeFork(_)) => match self.attempt(&work) {
                Ok(image) => Ok(image),
                Err(Failure::Error(error)) => Err(error),
                Err(Failure::BeforeFork(detail)) => Err(died(detail)),
            },
        }
    }

    fn limits(&self) -> &CompileLimits {
        &self.config.compile_limits
    }

    fn locked(&self) -> MutexGuard<'_, Option<Zygote>> {
        // A poisoned lock only means that another thread panicked between two complete states.
        self.zygote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the zygote with this process id, unless another has taken its place already.
    fn discard(&self, pid: u32) {
        let mut zygote = self.locked();
        if zygote.as_ref().is_some_and(|z| z.process.id() == pid) {
            *zygote = None;
        }
    }

    /// The zygote, started if there is none that lives.
    fn zygote(&self) -> Result<MutexGuard<'_, Option<Zygote>>, Error> {
        let mut zygote = self.locked();
        let lives = zygote.as_mut().is_some_and(|z| z.process.is_alive());
        if !lives {
            // First the old one, which holds a seccomp filter.
            *zygote = None;
            *zygote = Some(start::zygote(&self.config)?);
        }
        Ok(zygote)
    }
}

#[cfg(test)]
mod tests;
