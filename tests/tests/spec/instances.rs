//! Instances and what they take from each other.
//!
//! Each instance is a process. A function of another instance is one of the host that calls into that instance's session; an
//! immutable global is its value; a tag is its type. A memory, a table or a mutable global cannot be shared, so a module that
//! imports one is checked against it and then not run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use compiler::Artifact;
use compiler::metadata::ExportItem;
use ipc::report::Value;
use supervisor::{CallOutcome, Extern, HostError, HostFunction, Imports, Module, Session};

use crate::directives::Verdict;
use crate::interface::Interface;

const SHARED: &str = "shares a memory, table or mutable global with another instance";
pub const TYPED: &str =
    "should not link for the type of function that a reference is to, of which the host knows nothing";
pub const CHANGED: &str = "depends on what something that is not run does to its instance";
const REENTRY: &str = "calls back into an instance that waits for its own call";
const EXCEPTION: &str = "throws an exception from one instance into another";
const REFERENCE: &str = "passes a reference to a function or an exception from one instance to another";

/// An instance of a module.
pub struct Instance {
    /// Why there is none, if there is none.
    pub live: Result<Live, Verdict>,
    has_state: bool,
    /// Instances whose state this one can change.
    reaches: Vec<Arc<Instance>>,
    /// Its state is not what it should be, because something was not run.
    changed: AtomicBool,
}

pub struct Live {
    module: Module,
    interface: Interface,
    /// Held while it is called: another call has to wait until then.
    pub session: tokio::sync::Mutex<Session>,
}

impl Live {
    pub fn new(module: Module, interface: Interface, session: Session) -> Self {
        Self { module, interface, session: tokio::sync::Mutex::new(session) }
    }

    fn artifact(&self) -> Artifact<&[u8]> {
        Artifact::parse(self.module.artifact_bytes()).expect("an artifact that was loaded")
    }

    /// Whether it exports a global of this name that can change.
    pub fn is_mutable(&self, global: &str) -> bool {
        let artifact = self.artifact();
        match artifact.export(global) {
            Some(ExportItem::Global(index)) => {
                artifact.metadata().globals.get(*index as usize).is_some_and(|global| global.mutable)
            }
            _ => false,
        }
    }
}

impl Instance {
    pub fn new(live: Result<Live, Verdict>, has_state: bool, reaches: Vec<Arc<Self>>) -> Self {
        Self { live, has_state, reaches, changed: AtomicBool::new(false) }
    }

    pub fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Something of it should have run and did not: nothing is known any more of what it could have changed.
    pub fn mark_changed(&self) {
        if self.has_state {
            self.changed.store(true, Ordering::Relaxed);
        }
        self.reaches.iter().for_each(|instance| instance.mark_changed());
    }
}

/// Instances that others may import from, by the name that they do so with.
pub type Registered = HashMap<String, Arc<Instance>>;

/// Why what runs between instances is not what it should be, once something could not be passed on.
#[derive(Clone, Default)]
pub struct Obstacle(Arc<Mutex<Option<&'static str>>>);

impl Obstacle {
    fn meet(&self, reason: &'static str) -> HostError {
        self.0.lock().expect("no panic").get_or_insert(reason);
        HostError::from(reason)
    }

    pub fn take(&self) -> Option<&'static str> {
        self.0.lock().expect("no panic").take()
    }
}

/// What other instances give a module.
pub struct Linked {
    pub imports: Imports,
    /// Why the module cannot run with it, though it may link.
    pub obstacle: Option<&'static str>,
}

/// Instances whose state a module can change.
pub fn reached(interface: &Interface, registered: &Registered) -> Vec<Arc<Instance>> {
    let reaching = interface.imports.iter().filter(|import| import.reaches);
    reaching.filter_map(|import| registered.get(&import.module)).map(Arc::clone).collect()
}

/// Adds what registered instances export to what the host provides, as far as a module imports it.
pub async fn link(
    interface: &Interface,
    registered: &Registered,
    host: &Imports,
    obstacle: &Obstacle,
) -> Result<Linked, Verdict> {
    let mut linked = Linked { imports: host.clone(), obstacle: None };
    for import in &interface.imports {
        let Some(exporter) = registered.get(&import.module) else { continue };
        let live = exporter.live.as_ref().map_err(Clone::clone)?;
        let Some((item, found)) = item(exporter, live, &import.name, obstacle).await else { continue };
        linked.imports.define(&import.module, &import.name, item);
        // One of its own is as good as a shared one to whom it makes no difference.
        let makes_no_difference = found == Some(SHARED) && !interface.can_tell && !exporter.is_changed();
        linked.obstacle = linked.obstacle.or(found.filter(|_| !makes_no_difference));
    }
    Ok(linked)
}

/// What an instance exports, and why somebody else cannot really have it.
async fn item(
    exporter: &Arc<Instance>,
    live: &Live,
    name: &str,
    obstacle: &Obstacle,
) -> Option<(Extern, Option<&'static str>)> {
    let artifact = live.artifact();
    let metadata = artifact.metadata();
    Some(match artifact.export(name)? {
        ExportItem::Function { params, results, .. } => {
            let (exporter, name, obstacle) = (Arc::clone(exporter), name.to_owned(), obstacle.clone());
            let function = HostFunction::new(params.clone(), results.clone(), move |values| {
                call(Arc::clone(&exporter), name.clone(), values, obstacle.clone())
            });
            (Extern::Function(function), None)
        }
        ExportItem::Global(index) => {
            let mutable = metadata.globals.get(*index as usize)?.mutable;
            let value = live.session.lock().await.global(name).await.expect("an exported global");
            let is_kept = !are_passable(&[value]);
            let found = if mutable { Some(SHARED) } else { is_kept.then_some(REFERENCE) };
            // Its type, which a null has too, is what remains to be checked.
            let value = match value {
                Value::FuncRef(_) => Value::FuncRef(false),
                Value::ExnRef(_) => Value::ExnRef(false),
                other => other,
            };
            (Extern::Global { value, mutable }, found)
        }
        ExportItem::Memory(index) => {
            let memory64 = metadata.memories.get(*index as usize)?.memory64;
            let bytes = live.session.lock().await.memory_size(name).await.expect("an exported memory");
            let max = *live.interface.memory_max.get(*index as usize)?;
            (Extern::Memory { pages: bytes / ipc::layout::WASM_PAGE, max, memory64 }, Some(SHARED))
        }
        ExportItem::Table(index) => {
            let table = metadata.tables.get(*index as usize)?;
            let max = *live.interface.table_max.get(*index as usize)?;
            // As it was at first: a session does not tell how many it has now.
            let item = Extern::Table { ty: table.ty, entries: table.size, max, table64: table.table64 };
            (item, Some(SHARED))
        }
        ExportItem::Tag(index) => {
            let params = metadata.tags.get(*index as usize)?.params.clone();
            (Extern::Tag { params }, None)
        }
    })
}

/// Values that can go from one instance to another.
fn are_passable(values: &[Value]) -> bool {
    !values.iter().any(|value| matches!(value, Value::FuncRef(true) | Value::ExnRef(true)))
}

/// A call from one instance into another.
async fn call(
    callee: Arc<Instance>,
    name: String,
    values: Vec<Value>,
    obstacle: Obstacle,
) -> Result<Vec<Value>, HostError> {
    let Ok(live) = &callee.live else { return Err("there is no such instance".into()) };
    if callee.is_changed() {
        return Err(obstacle.meet(CHANGED));
    }
    // Whoever holds it waits for this very call.
    let Ok(mut session) = live.session.try_lock() else { return Err(obstacle.meet(REENTRY)) };
    if !are_passable(&values) {
        return Err(obstacle.meet(REFERENCE));
    }
    match session.call(&name, &values).await.map_err(|error| error.to_string())? {
        CallOutcome::Returned(results) if are_passable(&results) => Ok(results),
        CallOutcome::Returned(_) => Err(obstacle.meet(REFERENCE)),
        CallOutcome::Trapped(trap) if trap.message == compiler::TrapKind::UncaughtException.to_string() => {
            Err(obstacle.meet(EXCEPTION))
        }
        CallOutcome::Trapped(trap) => Err(trap.into()),
        CallOutcome::Ended(outcome) => Err(format!("the instance ended: {outcome:?}").into()),
    }
}
