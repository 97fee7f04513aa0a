//! The fork server.
//!
//! Started once per supervisor (or shard) by `fexecve` of an image that the supervisor carries inside itself.
//! One thread, no libc, no allocator, no threads: so that `fork` copies little and nothing can be locked.
//!
//! * *root zygote* ([`root`]): confines itself ([`confine`]) and forks module zygotes.
//! * *module zygote* ([`module`]): maps one artifact ([`image`]) and the call gate ([`gate`]), installs the
//!   policy's controls of speculation ([`speculation`]) and seccomp filter, and forks instances.
//! * *instance* ([`instance`]): maps its ring, waits for its job, drops the gate and enters the shim.
//!
//! Everything is inherited downwards, so an instance costs a fork and a handful of system calls. When the
//! control socket of a zygote closes, the zygote exits, and with the module zygote, which is process 1 of its
//! PID namespace, every instance dies.
#![no_std]
#![no_main]

mod arch;
mod confine;
mod control;
mod gate;
mod image;
mod instance;
mod module;
mod root;
mod runtime;
mod speculation;
mod start;
mod sys;
