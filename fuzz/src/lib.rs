//! What the fuzz targets and the differential tests share: modules from random bytes ([`generate`]), running them in
//! Wasmtime ([`peer`]) and as artifacts of ours ([`ours`]), and comparing what is seen ([`differential`]).

pub mod differential;
pub mod generate;
pub mod ours;
pub mod peer;
pub mod seen;

#[path = "../../compiler/tests/run/loader.rs"]
pub mod loader;
