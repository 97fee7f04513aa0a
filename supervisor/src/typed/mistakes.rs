//! What the compiler must refuse of what the macros generate. The mistakes that they see themselves are in their own tests.
//!
//! Without a mistake it compiles, with each of the others it does not:
//!
//! ```
//! use supervisor::{Handle, HostType, host_functions};
//! #[derive(HostType)]
//! #[host(error)]
//! enum Fault { TooSmall }
//! #[derive(HostType)]
//! struct Point { x: u32 }
//! #[derive(HostType)]
//! #[host(handle)]
//! struct Thing;
//! #[host_functions]
//! trait Kv {
//!     #[host(overflow = "too_small")]
//!     fn f(&self, points: Vec<Point>, thing: Handle<Thing>) -> Result<String, Fault>;
//! }
//! ```
//!
//! A type that is none:
//! ```compile_fail,E0277
//! use supervisor::{HostType, host_functions};
//! struct Point;
//! #[host_functions]
//! trait Kv { fn f(&self, a: Point); }
//! ```
//! A list of lists, of texts, of bytes:
//! ```compile_fail,E0277
//! use supervisor::host_functions;
//! #[host_functions]
//! trait Kv { fn f(&self, a: Vec<Vec<u32>>); }
//! ```
//! ```compile_fail,E0277
//! use supervisor::host_functions;
//! #[host_functions]
//! trait Kv { fn f(&self, a: &[String]); }
//! ```
//! A result that is none:
//! ```compile_fail,E0277
//! use supervisor::host_functions;
//! struct Point;
//! #[host_functions]
//! trait Kv { fn f(&self) -> Point; }
//! ```
//! An error that is none; one among the values:
//! ```compile_fail,E0277
//! use supervisor::host_functions;
//! #[host_functions]
//! trait Kv { fn f(&self) -> Result<u32, String>; }
//! ```
//! ```compile_fail,E0277
//! use supervisor::{HostType, host_functions};
//! #[derive(HostType)]
//! #[host(error)]
//! enum Fault { Gone }
//! #[host_functions]
//! trait Kv { fn f(&self, a: Fault); }
//! ```
//! A record, a text or bytes in a record:
//! ```compile_fail,E0277
//! use supervisor::HostType;
//! #[derive(HostType)]
//! struct Point { x: u32 }
//! #[derive(HostType)]
//! struct Line { from: Point }
//! ```
//! ```compile_fail,E0277
//! #[derive(supervisor::HostType)]
//! struct Named { name: String }
//! ```
//! A thing that is not behind a handle, and a handle to what is no thing:
//! ```compile_fail,E0277
//! use supervisor::{HostType, host_functions};
//! #[derive(HostType)]
//! #[host(handle)]
//! struct Thing;
//! #[host_functions]
//! trait Kv { fn f(&self, a: Thing); }
//! ```
//! ```compile_fail,E0277
//! use supervisor::{Handle, host_functions};
//! struct Thing;
//! #[host_functions]
//! trait Kv { fn f(&self, a: Handle<Thing>); }
//! ```
//! A name that is a word of C; a name with large letters:
//! ```compile_fail,E0080
//! #[supervisor::host_functions]
//! trait Kv { fn f(&self, register: u32); }
//! ```
//! ```compile_fail,E0080
//! #[supervisor::host_functions(name = "Kv")]
//! trait Kv { fn f(&self); }
//! ```
//! A case of which its error has none:
//! ```compile_fail,E0080
//! use supervisor::{HostType, host_functions};
//! #[derive(HostType)]
//! #[host(error)]
//! enum Fault { Gone }
//! #[host_functions]
//! trait Kv {
//!     #[host(overflow = "too_small")]
//!     fn f(&self) -> Result<String, Fault>;
//! }
//! ```
//! More parameters than there can be:
//! ```compile_fail,E0080
//! #[supervisor::host_functions]
//! trait Kv { fn f(&self, a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8, i: u8, j: u8) -> u8; }
//! ```
//! As many names of results as there are not:
//! ```compile_fail,E0080
//! #[supervisor::host_functions]
//! trait Kv {
//!     #[host(results("a"))]
//!     fn f(&self) -> (u8, u8);
//! }
//! ```
//! A thread's thing, a thread's future:
//! ```compile_fail,E0277
//! use supervisor::HostType;
//! #[derive(HostType)]
//! #[host(handle)]
//! struct Thing(std::rc::Rc<u32>);
//! ```
//! ```compile_fail
//! #[supervisor::host_functions]
//! trait Kv { async fn f(&self); }
//! struct Mine;
//! impl Kv for Mine {
//!     async fn f(&self) {
//!         let local = std::rc::Rc::new(1);
//!         tokio::task::yield_now().await;
//!         drop(local);
//!     }
//! }
//! ```
