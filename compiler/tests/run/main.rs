//! Runs compiled code: the specification's tests, and our own of what they do not cover.

mod calls;
mod exceptions;
mod loader;
mod memories;
mod options;
mod own;
mod spec;
