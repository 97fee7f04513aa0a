//! What the fork server of sandboxd shares with the compile zygote: system calls and the layers of confinement. The fork
//! server itself is a freestanding binary, see `main.rs`; it is built into the supervisor.
#![no_std]

pub mod arch;
pub mod confine;
pub mod sys;
