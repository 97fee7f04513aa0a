//! Runs compiled code: the specification's tests, and our own of what they do not cover.

mod exceptions;
mod loader;
mod options;
mod own;
mod spec;
