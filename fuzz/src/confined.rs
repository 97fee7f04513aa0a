//! The same calls in confined instances, through sessions of the supervisor.

use std::sync::Arc;

use compiler::metadata::ExportItem;
use compiler::{Artifact, TrapKind, ValType};
use ipc::report::{Trap, Value as Crossing};
use policies::Policy;
use supervisor::{CallOutcome, Config, Job, JobLimits, Module, ModuleSource, Session, Supervisor};
use tokio::runtime::Runtime;

use crate::loader::hash;
use crate::mode::FUEL;
use crate::seen::{Call, Ended, Exported, Seen, Value};

type Error = Box<dyn std::error::Error>;

/// A supervisor that instances run under.
pub struct Confined {
    runtime: Runtime,
    supervisor: Supervisor,
    policy: Arc<Policy>,
}

impl Confined {
    /// Starts one.
    pub fn start() -> Result<Self, Error> {
        // Each module has a fork server with a system call filter of its own: few at a time.
        let config = Config { module_zygotes: 8, pin_shards: false, ..Config::default() };
        Ok(Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            supervisor: Supervisor::start(config)?,
            policy: Arc::new(Policy::builtin("default")?),
        })
    }

    /// Takes over an artifact.
    pub fn load(&self, artifact: &Artifact<Vec<u8>>) -> Result<Module, Error> {
        let source = ModuleSource::Artifact(artifact.bytes().to_vec());
        Ok(self.runtime.block_on(self.supervisor.load(source))?)
    }

    /// What is seen after the start and after each of `calls` in a fresh instance. Sizes of tables are not.
    pub fn run(
        &self,
        artifact: &Artifact<Vec<u8>>,
        module: &Module,
        calls: &[Call],
    ) -> Result<(Option<Seen>, Vec<Seen>), Error> {
        let fuel = artifact.metadata().options.fuel.then_some(FUEL as u64);
        let limits = JobLimits { fuel, ..JobLimits::default() };
        let job = Job { limits, ..Job::command(module.clone(), Arc::clone(&self.policy)) };
        self.runtime.block_on(async {
            let mut session = self.supervisor.session(job).await?;
            let ended = ended(session.start().await?);
            if !matches!(ended, Ended::Returned(_)) {
                return Ok((Some(Seen { ended, state: Vec::new(), fuel: None }), Vec::new()));
            }
            let started = Seen { ended, state: state(artifact, &mut session).await?, fuel: None };
            let mut seen = Vec::new();
            for call in calls {
                let Some(ExportItem::Function { params, .. }) = artifact.export(&call.export) else { break };
                let arguments: Vec<_> =
                    params.iter().zip(&call.arguments).map(|(ty, value)| crossing(*value, *ty)).collect();
                let ended = self::ended(session.call(&call.export, &arguments).await?);
                if matches!(ended, Ended::Broken(_)) {
                    // Nothing is left to be looked at.
                    seen.push(Seen { ended, state: Vec::new(), fuel: None });
                    break;
                }
                seen.push(Seen { ended, state: state(artifact, &mut session).await?, fuel: None });
            }
            session.end().await?;
            Ok((Some(started), seen))
        })
    }
}

async fn state(
    artifact: &Artifact<Vec<u8>>,
    session: &mut Session,
) -> Result<Vec<(String, Exported)>, supervisor::Error> {
    let mut state = Vec::new();
    for export in &artifact.metadata().exports {
        let exported = match export.item {
            ExportItem::Global(_) => Exported::Global(value(&session.global(&export.name).await?)),
            ExportItem::Memory(_) => {
                let size = session.memory_size(export.name.as_str()).await?;
                let bytes = session.read_memory(export.name.as_str(), 0, size as usize).await?;
                Exported::Memory(size, hash(&bytes))
            }
            _ => continue,
        };
        state.push((export.name.clone(), exported));
    }
    Ok(state)
}

fn ended(outcome: CallOutcome) -> Ended {
    match outcome {
        CallOutcome::Returned(values) => Ended::Returned(values.iter().map(value).collect()),
        CallOutcome::Trapped(Trap { message, backtrace }) => {
            match TrapKind::ALL.into_iter().find(|kind| kind.to_string() == message) {
                Some(kind) => Ended::Trapped(kind),
                None => Ended::Broken(format!("{message}: {backtrace:?}")),
            }
        }
        CallOutcome::Ended(outcome) => Ended::Broken(format!("{outcome:?}")),
    }
}

fn value(value: &Crossing) -> Value {
    match *value {
        Crossing::I32(value) => Value::Bits(u128::from(value as u32)),
        Crossing::I64(value) => Value::Bits(u128::from(value as u64)),
        Crossing::F32(bits) => Value::Bits(bits.into()),
        Crossing::F64(bits) => Value::Bits(bits.into()),
        Crossing::V128(bits) => Value::Bits(bits),
        Crossing::FuncRef(there) => Value::Function(there),
        Crossing::ExternRef(host) => Value::Host(host),
        Crossing::ExnRef(there) => Value::Exception(there),
    }
}

fn crossing(value: Value, ty: ValType) -> Crossing {
    let bits = value.slot();
    match ty {
        ValType::I32 => Crossing::I32(bits as u32 as i32),
        ValType::I64 => Crossing::I64(bits as i64),
        ValType::F32 => Crossing::F32(bits as u32),
        ValType::F64 => Crossing::F64(bits as u64),
        ValType::V128 => Crossing::V128(bits),
        ValType::FuncRef => Crossing::FuncRef(false),
        ValType::ExnRef => Crossing::ExnRef(false),
        ValType::ExternRef => match value {
            Value::Host(host) => Crossing::ExternRef(host),
            _ => Crossing::ExternRef(None),
        },
    }
}
