//! What runs inside an instance: entry, traps, local host calls, the ring client.
//!
//! The shim is linked into the zygote's binary and is the only code of ours that shares an address space
//! with a guest. It needs no standard library, allocates nothing, takes no lock and keeps its state in the
//! instance context, in the shared memory and in [`state`]. It protects nobody but the guest from itself:
//! the checks here give WebAssembly's semantics (errors instead of crashes); confinement does not depend
//! on them, because the supervisor believes nothing that this process says.
//!
//! * [`entry`]: from the job header to the guest's first instruction, and the ways back.
//! * [`host_call`]: what compiled code calls for an import; local answers in [`local`].
//! * [`descriptors`]: what need not be asked about the guest's descriptors.
//! * [`direct`]: files that the instance reads and writes itself.
//! * [`imports`]: globals, memories, tables and functions that the host side provides.
//! * `typed`: the host app's typed functions, by the table that the supervisor writes.
//! * [`marshal`]: from a guest's parameters to a ring submission and back, by the interface table.
//! * [`output`]: writes to standard output and error that nobody waits for.
//! * [`ring_client`]: submit, wait.
//! * [`exceptions`]: the arena of exceptions, and the way from a throw to its handler.
//! * [`session`]: several calls on one instance, by the supervisor's command.
//! * [`fuel`]: the counter that code compiled with fuel counts down.
//! * [`growth`]: `memory.grow`, `table.grow`, and the bulk builtins.
//! * [`signals`]: faults and refused system calls.
//! * [`arch`]: everything that depends on the processor.
#![no_std]

pub mod arch;
pub mod descriptors;
pub mod direct;
pub mod entry;
pub mod exceptions;
pub mod fuel;
pub mod growth;
pub mod guest_memory;
pub mod host_call;
pub mod imports;
pub mod local;
pub mod marshal;
pub mod output;
pub mod ring_client;
pub mod session;
pub mod signals;
pub mod state;
pub(crate) mod typed;
pub mod vdso;
