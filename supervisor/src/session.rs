//! Sessions: a host app holds one confined instance and makes several calls on it.

use std::time::Duration;

use compiler::metadata::{Entry as CompiledEntry, ExportItem, GlobalValue, Memory};
use ipc::context::MemoryDescriptor;
use ipc::job::ARENA_BYTES;
use ipc::layout::{WASM_PAGE, memory_base};
pub use ipc::report::CallOutcome;
use ipc::report::{Outcome, Report, Trap, Usage, Value};
use ipc::types::Export;
use tokio::sync::{mpsc, oneshot};

use crate::call_chain::{CallChain, SessionId};
use crate::error::Error;
use crate::instance::{Answer, Operation, Request};
use crate::job::{Entry, Job};
use crate::module::{Module, RawValue, ValueKind, raw_value};
use crate::supervisor::SessionHost;

/// How long an instance may take for what the shim does without the guest: copying bytes, ending.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which linear memory: that of an export, or by its index in the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryRef<'m> {
    /// The export's name.
    Export(&'m str),
    /// The index.
    Index(u32),
}

impl<'m> From<&'m str> for MemoryRef<'m> {
    fn from(name: &'m str) -> Self {
        Self::Export(name)
    }
}

impl From<u32> for MemoryRef<'_> {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}

/// One confined instance that a host app holds.
///
/// Nothing runs in it but what is asked for: first [`start`](Self::start), then any number of [calls](Self::call). Its
/// linear memories and globals can be read and written between calls. Limits count for the instance, as for a job: a
/// [`reset`](Self::reset), which gives a fresh one, renews them.
///
/// The session keeps descriptors of its streams, directories and sockets for further instances: whoever waits for the end of
/// a pipe to which the guest writes sees it when the session is gone, not when its instance is.
///
/// Dropping the session kills its instance. Dropping the future of an operation before it is done does so too, because guest
/// code cannot be stopped half-way and go on; [`end`](Self::end) then reports a cancelled session.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    /// What every instance of the session is made from.
    job: Job,
    host: SessionHost,
    module: Module,
    /// Bytes that all memories together may have.
    memory_limit: u64,
    connection: Connection,
    ended: Option<Report>,
    state: State,
    /// What earlier instances have used, if there were any.
    before: Option<Usage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Started,
    /// The start function trapped: nothing may be called.
    Failed,
}

/// The host app's ends of the channels to its session.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) requests: mpsc::UnboundedSender<Request>,
    /// `None` once it has come.
    pub(crate) report: Option<oneshot::Receiver<Result<Report, Error>>>,
    /// Dropping it cancels the session.
    pub(crate) canceller: Option<oneshot::Sender<()>>,
}

/// What an instance and those before it have used together.
fn together(before: Option<Usage>, usage: Usage) -> Usage {
    let Some(before) = before else { return usage };
    let sum = |of: fn(&Usage) -> u64| of(&before).saturating_add(of(&usage));
    Usage {
        wall_ns: sum(|u| u.wall_ns),
        cpu_us: sum(|u| u.cpu_us),
        peak_memory_bytes: before.peak_memory_bytes.max(usage.peak_memory_bytes),
        wasm_memory_bytes: usage.wasm_memory_bytes,
        refused_grows: sum(|u| u.refused_grows),
        host_calls: sum(|u| u.host_calls),
        local_host_calls: sum(|u| u.local_host_calls),
        output_bytes: sum(|u| u.output_bytes),
        // What one instance did not tell makes the sum unknown.
        fuel: before.fuel.zip(usage.fuel).map(|(before, now)| before.saturating_add(now)),
    }
}

impl Session {
    /// Opens a session for the job and waits until its instance is set up, or will never be.
    pub(crate) async fn open(job: Job, host: SessionHost) -> Result<Self, Error> {
        let (connection, ready) = host.instance(&job)?;
        let (module, memory_limit) = (job.module.clone(), job.memory_limit());
        let (ended, state, before) = (None, State::New, None);
        let id = SessionId::next();
        let mut session = Self { id, job, host, module, memory_limit, connection, ended, state, before };
        session.wait_for(ready).await?;
        Ok(session)
    }

    async fn wait_for(&mut self, ready: oneshot::Receiver<()>) -> Result<(), Error> {
        // Without it the report says why: an error, or a limit that was reached before there was an instance.
        if ready.await.is_err() {
            self.outcome().await?;
        }
        Ok(())
    }

    /// Goes back to the first state: the instance ends, and a fresh one takes its place, in which nothing has run. Call
    /// [`start`](Self::start) next.
    ///
    /// The new instance has the module, policy, limits, arguments, streams, directories, sockets and imports of the first. Its
    /// limits begin anew; what was used counts on in [`usage`](Self::usage) and in the report. What an instance has done
    /// outside of itself stays done: what it has read of its streams is gone, what it has written to files is there.
    ///
    /// It also works after the instance has ended, whatever ended it. It costs what a job costs, and takes a parked instance
    /// if there is one.
    ///
    /// # Errors
    /// Those of [`Supervisor::session`](crate::Supervisor::session); another reset may then be tried.
    pub async fn reset(&mut self) -> Result<(), Error> {
        if self.ended.is_none() {
            let _ = self.ask(Operation::End, Some(PATIENCE)).await;
            // One whose zygote died has no report, but is gone all the same; another zygote is started.
            let _ = self.outcome().await;
        }
        let (connection, ready) = self.host.instance(&self.job)?;
        // Nothing waits from here to the end of these lines: the session is never half of one instance and half of another.
        self.before = self.ended.take().map(|report| report.usage).or(self.before);
        self.connection = connection;
        self.state = State::New;
        self.wait_for(ready).await
    }

    /// What the session has used so far, earlier instances included: sums, but for the sizes of memory, of which the peak is the
    /// largest and the linear memory the present one's.
    ///
    /// CPU time and resident memory of a living instance are 0 where the supervisor cannot see it in `/proc`; everything but
    /// them is counted exactly, as of the last operation.
    pub async fn usage(&mut self) -> Result<Usage, Error> {
        if let Some(report) = &self.ended {
            return Ok(report.usage);
        }
        match self.ask(Operation::Usage, Some(PATIENCE)).await {
            Some(Answer::Usage(usage)) => Ok(together(self.before, usage)),
            _ => {
                self.outcome().await?;
                self.ended.as_ref().map(|report| report.usage).ok_or(Error::Stopped)
            }
        }
    }

    /// What the module exports, in its order.
    pub fn exports(&self) -> impl Iterator<Item = Export> {
        self.module.exports()
    }

    /// Instantiates the module: its active segments take effect and its start function runs, if it has one. To be called
    /// once, before everything else. When it traps, nothing can be called afterwards.
    ///
    /// A reactor's `_initialize` is an export like any other: call it next.
    pub async fn start(&mut self) -> Result<CallOutcome, Error> {
        self.start_within(None).await
    }

    /// The same with a limit of its own, see [`call_within`](Self::call_within).
    pub async fn start_within(&mut self, timeout: Option<Duration>) -> Result<CallOutcome, Error> {
        if self.state != State::New {
            return Err(Error::SessionState { what: "start a session a second time" });
        }
        self.state = State::Failed;
        if self.ended.is_some() {
            // It never came to an instance.
            return Ok(CallOutcome::Ended(self.outcome().await?));
        }
        let metadata = self.module.artifact().metadata();
        if let Some(kind) = metadata.start_trap {
            return Ok(CallOutcome::Trapped(Trap { message: kind.to_string(), backtrace: Vec::new() }));
        }
        let outcome = match metadata.start {
            Some(start) => self.run(start, Vec::new(), &[], timeout).await?,
            None => CallOutcome::Returned(Vec::new()),
        };
        if matches!(outcome, CallOutcome::Returned(_)) {
            self.state = State::Started;
        }
        Ok(outcome)
    }

    /// Calls an exported function.
    pub async fn call(&mut self, name: &str, args: &[Value]) -> Result<CallOutcome, Error> {
        self.call_within(name, args, None).await
    }

    /// Calls an exported function, which may take `timeout`. If it takes longer, the session ends with the wall time as the limit
    /// that was reached.
    pub async fn call_within(
        &mut self,
        name: &str,
        args: &[Value],
        timeout: Option<Duration>,
    ) -> Result<CallOutcome, Error> {
        let what = match self.state {
            State::Started => {
                let entry = Entry::Export { name: name.to_owned(), args: args.to_vec() };
                let point = self.module.entry_point(&entry)?;
                return self.run(point.entry, point.values, &point.results, timeout).await;
            }
            State::New => "call a function before the session is started",
            State::Failed => "call a function of a module whose start trapped",
        };
        Err(Error::SessionState { what })
    }

    /// Calls what a job calls before the export `name` and then that, which has neither parameters nor results.
    pub(crate) async fn initialise(&mut self, name: &str) -> Result<CallOutcome, Error> {
        let point = self.module.initialisation(name)?;
        let mut outcome = CallOutcome::Returned(Vec::new());
        for entry in point.init.into_iter().chain([point.entry]) {
            outcome = self.run(entry, Vec::new(), &[], None).await?;
            if !matches!(outcome, CallOutcome::Returned(_)) {
                break;
            }
        }
        Ok(outcome)
    }

    /// Descriptors that the guest has opened, or closed of those that it was given.
    pub(crate) async fn changed_descriptors(&mut self) -> Result<Vec<u32>, Error> {
        match self.ask(Operation::Descriptors, Some(PATIENCE)).await {
            Some(Answer::Descriptors(numbers)) => Ok(numbers),
            _ => Err(self.gone().await),
        }
    }

    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    pub(crate) fn module(&self) -> &Module {
        &self.module
    }

    async fn run(
        &mut self,
        entry: CompiledEntry,
        values: Vec<RawValue>,
        results: &[ValueKind],
        timeout: Option<Duration>,
    ) -> Result<CallOutcome, Error> {
        let chain = CallChain::served().and(self.id);
        let operation = Operation::Call { entry, values, results: results.len(), chain };
        Ok(match self.ask(operation, timeout).await {
            Some(Answer::Returned(raw)) => {
                CallOutcome::Returned(results.iter().zip(raw).map(|(kind, raw)| kind.value(raw)).collect())
            }
            Some(Answer::Trapped(trap)) => CallOutcome::Trapped(trap),
            Some(Answer::Bytes(_) | Answer::Descriptors(_) | Answer::Usage(_)) | None => {
                CallOutcome::Ended(self.outcome().await?)
            }
        })
    }

    /// The value of an exported global.
    pub async fn global(&mut self, name: &str) -> Result<Value, Error> {
        let global = self.exported_global(name)?;
        let kind = ValueKind::from(global.ty);
        Ok(match global.value {
            GlobalValue::Constant(bits) => kind.value([bits as u64, (bits >> 64) as u64]),
            GlobalValue::Address(address) => {
                let bytes = self.copy_out(address, kind.bytes()).await?;
                let word = |i: usize| bytes.get(i..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; 8]);
                kind.value([u64::from_le_bytes(word(0)), u64::from_le_bytes(word(8))])
            }
        })
    }

    /// Gives an exported mutable global another value of its type.
    pub async fn set_global(&mut self, name: &str, value: Value) -> Result<(), Error> {
        let global = self.exported_global(name)?;
        let (GlobalValue::Address(address), true) = (global.value, global.mutable) else {
            return Err(Error::GlobalImmutable { name: name.to_owned() });
        };
        let kind = ValueKind::from(global.ty);
        let raw = raw_value(&value).filter(|_| ValueKind::of(&value) == kind);
        let Some([low, high]) = raw else {
            return Err(Error::GlobalType { name: name.to_owned(), expected: global.ty });
        };
        let mut bytes = [low.to_le_bytes(), high.to_le_bytes()].concat();
        bytes.truncate(kind.bytes());
        self.copy_in(address, bytes).await
    }

    fn exported_global(&self, name: &str) -> Result<compiler::metadata::Global, Error> {
        let artifact = self.module.artifact();
        match artifact.export(name) {
            Some(ExportItem::Global(index)) => artifact.metadata().globals.get(*index as usize).copied(),
            _ => None,
        }
        .ok_or_else(|| Error::NoSuchGlobal { name: name.to_owned() })
    }

    /// Bytes that a memory has now.
    pub async fn memory_size(&mut self, memory: impl Into<MemoryRef<'_>>) -> Result<u64, Error> {
        let (_, memory) = self.memory(memory.into())?;
        self.size_of(&memory).await
    }

    async fn size_of(&mut self, memory: &Memory) -> Result<u64, Error> {
        let address = memory.descriptor + std::mem::offset_of!(MemoryDescriptor, bytes) as u64;
        let bytes = self.copy_out(address, 8).await?;
        let size = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        // By the instance's word; whatever it says, no memory has more.
        Ok(size.min(memory.max_pages.saturating_mul(WASM_PAGE)).min(self.memory_limit))
    }

    /// A copy of `length` bytes of a memory from `offset` on.
    pub async fn read_memory(
        &mut self,
        memory: impl Into<MemoryRef<'_>>,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut address = self.bytes_of_memory(memory.into(), offset, length).await?;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let part = self.copy_out(address, (length - bytes.len()).min(ARENA_BYTES)).await?;
            address += part.len() as u64;
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    /// Writes bytes to a memory from `offset` on.
    pub async fn write_memory(
        &mut self,
        memory: impl Into<MemoryRef<'_>>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let mut address = self.bytes_of_memory(memory.into(), offset, bytes.len()).await?;
        for part in bytes.chunks(ARENA_BYTES) {
            self.copy_in(address, part.to_vec()).await?;
            address += part.len() as u64;
        }
        Ok(())
    }

    /// The address of bytes that lie in the memory as it is now.
    async fn bytes_of_memory(
        &mut self,
        memory: MemoryRef<'_>,
        offset: u64,
        length: usize,
    ) -> Result<u64, Error> {
        let (index, memory) = self.memory(memory)?;
        let size = self.size_of(&memory).await?;
        match offset.checked_add(length as u64) {
            Some(end) if end <= size => Ok(memory_base(index) + offset),
            _ => Err(Error::MemoryRange { offset, length, size }),
        }
    }

    fn memory(&self, memory: MemoryRef<'_>) -> Result<(u32, Memory), Error> {
        let artifact = self.module.artifact();
        let index = match memory {
            MemoryRef::Index(index) => Some(index),
            MemoryRef::Export(name) => match artifact.export(name) {
                Some(ExportItem::Memory(index)) => Some(*index),
                _ => None,
            },
        };
        index
            .and_then(|index| artifact.metadata().memories.get(index as usize).map(|m| (index, *m)))
            .ok_or_else(|| Error::NoSuchMemory {
                memory: match memory {
                    MemoryRef::Export(name) => format!("exported as \"{name}\""),
                    MemoryRef::Index(index) => format!("number {index}"),
                },
            })
    }

    /// A copy of bytes of the instance, at most [`ARENA_BYTES`]. The address is from the artifact's metadata.
    pub(crate) async fn copy_out(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Error> {
        match self.ask(Operation::Read { address, length }, Some(PATIENCE)).await {
            Some(Answer::Bytes(bytes)) => Ok(bytes),
            _ => Err(self.gone().await),
        }
    }

    async fn copy_in(&mut self, address: u64, bytes: Vec<u8>) -> Result<(), Error> {
        match self.ask(Operation::Write { address, bytes }, Some(PATIENCE)).await {
            Some(Answer::Bytes(_)) => Ok(()),
            _ => Err(self.gone().await),
        }
    }

    /// Hands an operation over; `None` when the instance is gone.
    async fn ask(&mut self, operation: Operation, timeout: Option<Duration>) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.connection.requests.send(Request { operation, timeout, answer }).ok()?;
        answered.await.ok()
    }

    async fn gone(&mut self) -> Error {
        match self.outcome().await {
            Ok(outcome) => Error::SessionEnded { outcome: Box::new(outcome) },
            Err(error) => error,
        }
    }

    /// Ends the instance at once, as when the host app drops an operation, and says how it ended.
    pub(crate) async fn cancelled(&mut self) -> Result<Outcome, Error> {
        self.connection.canceller = None;
        self.outcome().await
    }

    /// How the session ended, once it is known to have.
    async fn outcome(&mut self) -> Result<Outcome, Error> {
        if let Some(report) = &self.ended {
            return Ok(report.outcome.clone());
        }
        let Some(receiver) = &mut self.connection.report else { return Err(Error::Stopped) };
        let report = receiver.await;
        // A receiver that has answered must not be asked again.
        self.connection.report = None;
        let mut report = report.unwrap_or(Err(Error::Stopped))?;
        report.usage = together(self.before, report.usage);
        Ok(self.ended.insert(report).outcome.clone())
    }

    /// Ends the session, if it has not ended yet, and reports. Its outcome is an exit with code 0 when nothing else ended it.
    pub async fn end(mut self) -> Result<Report, Error> {
        if self.ended.is_none() {
            // An instance that does not end, or answers instead, is killed.
            let _ = self.ask(Operation::End, Some(PATIENCE)).await;
            self.outcome().await?;
        }
        self.ended.ok_or(Error::Stopped)
    }
}
