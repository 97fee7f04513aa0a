//! What the fuzz targets and the differential tests share: modules from random bytes ([`generate`], [`rewrite`]), running them
//! in Wasmtime ([`peer`]) and as artifacts of ours ([`ours`], [`confined`]) in different [`mode`]s, and comparing what is
//! [`seen`] ([`differential`]); and the hostile end of a [`ring`].

#[cfg(feature = "confined")]
pub mod confined;
pub mod differential;
pub mod generate;
pub mod mode;
pub mod ours;
pub mod peer;
#[cfg(test)]
mod planted;
pub mod rewrite;
#[cfg(feature = "confined")]
pub mod ring;
pub mod seen;

#[path = "../../compiler/tests/run/loader.rs"]
pub mod loader;
