//! The fork server of sandboxd is a freestanding binary, see `main.rs`; it is built into the supervisor.
#![no_std]
