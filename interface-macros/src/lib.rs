//! Interfaces of host functions as Rust traits. Host apps use these macros by way of the supervisor's crate, which re-exports them,
//! and to which what they generate refers (`::supervisor::typed`).
//!
//! * `functions`: a trait; `types`: enums, flags, records, errors and handles.
//! * `options`: what stands in `#[host(…)]`, and documentation.

mod functions;
mod options;
#[cfg(test)]
mod tests;
mod types;

use proc_macro::TokenStream;

/// Makes an interface of a trait: each of its functions is a host function that guests can import, with the parameters and results that its
/// types say and its documentation.
///
/// The trait gets two functions more. `service(self)` makes a service of an implementation, and `interface()` tells what it declares, as data:
/// `MyStore::interface()?.interface().to_toml()` is the file that `Interface::parse` reads.
///
/// ```
/// # async fn example(mut job: supervisor::Job) -> Result<(), Box<dyn std::error::Error>> {
/// use supervisor::{Handle, HostType, host_functions};
///
/// /// Values by key.
/// #[derive(HostType)]
/// #[host(handle)]
/// struct Store(std::collections::HashMap<String, Vec<u8>>);
///
/// #[derive(HostType)]
/// #[host(error)]
/// enum KvError {
///     NotFound,
///     /// The value does not fit the room.
///     TooSmall,
/// }
///
/// /// A store of keys and values.
/// #[host_functions]
/// trait Kv {
///     /// Opens a store.
///     async fn open(&self, name: &str) -> Result<Handle<Store>, KvError>;
///     /// The value of a key.
///     #[host(overflow = "too_small", deadline = "100ms")]
///     fn get(&self, from: &Handle<Store>, key: &str) -> Result<Vec<u8>, KvError>;
/// }
///
/// struct InMemory;
///
/// impl Kv for InMemory {
///     async fn open(&self, name: &str) -> Result<Handle<Store>, KvError> {
///         Ok(Handle::new(Store([("name".into(), name.into())].into())))
///     }
///     fn get(&self, from: &Handle<Store>, key: &str) -> Result<Vec<u8>, KvError> {
///         from.0.get(key).cloned().ok_or(KvError::NotFound)
///     }
/// }
///
/// job.imports.serve(&InMemory.service()?)?;
/// # Ok(())
/// # }
/// ```
///
/// `#[host_functions(name = "kv")]` names the interface, which is called like the trait otherwise, in snake case.
///
/// What implements it must be `Send + Sync + 'static`. A function takes `&self`, because several guests call it at the same time, and owned or borrowed parameters. An `async fn` runs on the
/// thread of the guest's shard, as does one that is not asynchronous: neither may compute or block for long. `#[host(…)]` says more of a
/// function:
///
/// * `blocking`: it has a thread of its own. It cannot be asynchronous.
/// * `deadline = "100ms"`: how long it may take; the guest's call traps after that.
/// * `overflow = "too_small"`: the case of its error that the guest gets when a result does not fit its room.
/// * `results("first", "second")`: how the results are called; without it `result`, or `result1`, `result2` and so on of a tuple.
///
/// It returns a type that derives [`HostType`](derive@HostType), a number, a `bool`, a `String`, a `Vec`, a `Handle`, or a tuple of them;
/// with an error enum `Result<T, E>`. With `Result<_, HostError>` around that it can fail as a host function fails: the guest's call traps.
#[proc_macro_attribute]
pub fn host_functions(attribute: TokenStream, item: TokenStream) -> TokenStream {
    functions::expand(attribute.into(), item.into()).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Makes a type one of an interface: an enum without fields is an enum, a struct with named fields is a record. `#[host(…)]` says otherwise:
///
/// * `error`: an enum is what functions fail with.
/// * `flags`: a struct whose fields are `bool`s are flags, the first of them bit 0.
/// * `handle`: guests get no values of this type, but handles to them: functions speak of `Handle<T>`. It can be any type that threads can
///   share.
///
/// The type, its cases and fields are called as in Rust, in snake case, or as `#[host(name = "…")]` says. A field of a record has a fixed size:
/// it is a number, a `bool`, an enum, flags or a handle.
#[proc_macro_derive(HostType, attributes(host))]
pub fn host_type(item: TokenStream) -> TokenStream {
    types::expand(item.into()).unwrap_or_else(|error| error.to_compile_error()).into()
}
