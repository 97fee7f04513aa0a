//! Native code at work: an instance that has been taken over, and does one thing after the other.

use ipc::control::layer;
use ipc::interface::FunctionId;
use ipc::layout::MEMORY_BASE;
use ipc::report::{Outcome, Report, Value, Violation};
use ipc::ring::{Completion, Submission};
use policies::Policy;
use supervisor::{CallOutcome, Session};
use zerocopy::{FromBytes, IntoBytes};

use crate::attacker::{Attacker, weapon};

/// Every layer of the default profile but the filter: system calls get through to the layers below.
pub const ALL_BUT_SECCOMP: u64 = {
    let (mut all, mut index) = (0, 0);
    while index < layer::ALL.len() {
        all |= layer::ALL[index].0;
        index += 1;
    }
    all & !layer::SECCOMP & !layer::EXTRA
};

/// A policy under which exactly these layers are in force.
pub fn only(layers: u64) -> Policy {
    Policy::builtin("default").expect("the default profile").without_layers(!layers)
}

/// A session with the attacker.
#[derive(Debug)]
pub struct Native {
    session: Session,
    /// Bytes of guest memory in use.
    used: u64,
}

impl Native {
    /// An instance under exactly these layers.
    pub async fn under(attacker: &Attacker, layers: u64) -> Self {
        Self::of(attacker.with_policy(only(layers)).session().await)
    }

    /// What a session's attacker can do.
    pub fn of(session: Session) -> Self {
        Self { session, used: 0 }
    }

    /// Makes a system call with up to five arguments. Answers as the kernel does: a negative number is an error.
    pub async fn syscall(&mut self, number: i64, args: &[u64]) -> i64 {
        let mut all = vec![number as u64];
        all.extend(args);
        self.call("syscall", &all).await
    }

    /// Uses a weapon that comes back.
    pub async fn call(&mut self, name: &str, args: &[u64]) -> i64 {
        match weapon(&mut self.session, name, args).await {
            CallOutcome::Returned(values) => match values[..] {
                [Value::I64(value)] => value,
                _ => panic!("{name} {args:x?}: {values:?}"),
            },
            other => panic!("{name} {args:x?}: {other:?}"),
        }
    }

    /// Uses a weapon that may not come back.
    pub async fn try_call(&mut self, name: &str, args: &[u64]) -> CallOutcome {
        weapon(&mut self.session, name, args).await
    }

    /// Makes a host call over the ring; its words are what [`Submission::args`] says. Its completion, or how the instance ended.
    pub async fn host_call(&mut self, function: FunctionId, args: &[u64]) -> Result<Completion, CallOutcome> {
        let mut submission = Submission { function: function.number(), ..Submission::default() };
        submission.args[..args.len()].copy_from_slice(args);
        let at = self.put(submission.as_bytes()).await;
        match self.try_call("host-call", &[at]).await {
            CallOutcome::Returned(_) => {}
            other => return Err(other),
        }
        let bytes = self.get(at, size_of::<Completion>()).await;
        Ok(Completion::read_from_bytes(&bytes).expect("a completion"))
    }

    /// Puts bytes into guest memory, for system calls to read or write. Returns their address.
    pub async fn put(&mut self, bytes: &[u8]) -> u64 {
        let offset = self.used;
        self.used += (bytes.len() as u64).next_multiple_of(16);
        self.session.write_memory(0, offset, bytes).await.expect("guest memory");
        MEMORY_BASE + offset
    }

    /// The same for a zero-terminated string.
    pub async fn put_string(&mut self, text: impl AsRef<[u8]>) -> u64 {
        let mut bytes = text.as_ref().to_vec();
        bytes.push(0);
        self.put(&bytes).await
    }

    /// Reads guest memory back.
    pub async fn get(&mut self, address: u64, length: usize) -> Vec<u8> {
        self.session.read_memory(0, address - MEMORY_BASE, length).await.expect("guest memory")
    }

    /// What the file at `path` holds at its start, or the error number of opening it.
    pub async fn read_file(&mut self, path: &str) -> Result<String, i32> {
        let path = self.put_string(path).await;
        let fd = self.syscall(libc::SYS_open, &[path, libc::O_RDONLY as u64]).await;
        if fd < 0 {
            return Err(-fd as i32);
        }
        let buffer = self.put(&[0; 4096]).await;
        let length = self.syscall(libc::SYS_read, &[fd as u64, buffer, 4096]).await;
        self.syscall(libc::SYS_close, &[fd as u64]).await;
        assert!(length >= 0, "read: {length}");
        Ok(String::from_utf8_lossy(&self.get(buffer, length as usize).await).into_owned())
    }

    /// Ends the session.
    pub async fn end(self) -> Report {
        self.session.end().await.expect("a report")
    }
}

/// That a report lists exactly these layers as in force, and every other one (that a policy need not ask for) as missing, with a
/// reason.
#[track_caller]
pub fn assert_reported(report: &Report, layers: u64) {
    let name = |wanted: bool| {
        let extra = if wanted { 0 } else { layer::EXTRA };
        let of = layer::ALL.iter().filter(move |(bit, _)| bit & extra == 0);
        let chosen = of.filter(move |(bit, _)| (layers & bit != 0) == wanted);
        chosen.map(|(_, name)| *name).collect::<Vec<_>>()
    };
    assert_eq!(*report.layers, name(true));
    let missing: Vec<&str> = report.missing_layers.iter().map(|m| m.layer.as_str()).collect();
    let mut expected = name(false);
    let mut sorted = missing.clone();
    expected.sort_unstable();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert!(report.missing_layers.iter().all(|m| !m.reason.is_empty()));
}

/// That the filter refuses a call whatever its arguments are, and that the report names it.
pub async fn assert_refused(attacker: &Attacker, number: i64) {
    let attacker = attacker.with_policy(Policy::builtin("default").expect("the default profile"));
    let report = attacker.attack("syscall", &[number as u64]).await;
    let expected = syscalls::x86_64::Sysno::new(number as usize).expect("a system call").name();
    match &report.outcome {
        Outcome::Violated(Violation::Syscall { name, policy, .. }) => {
            assert_eq!((name.as_str(), policy.as_str()), (expected, "default"));
        }
        other => panic!("{expected}: {other:?}"),
    }
}
