//! What a hostile guest has around it, and what is not its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use compiler::{Artifact, Options};
use interface::{Lowered, LoweredFunction, Reply, Value, WasmType};
use ipc::report::Value as Bare;
use supervisor::{Extern, HostFunction, Imports, Service, ValType};

/// Whatever belongs to somebody else has this in it.
pub const CANARY: &[u8; 24] = b"\xc5SOMEBODY-ELSES-SECRET\xa9\x7f";
/// No file becomes larger, bytes.
const FILE_MAX: u64 = 8 << 20;
/// Imports of bare values: what they take and return.
const BARE: &str = r#"(import "m" "f" (func (param i32 f64) (result i64))) (import "m" "g" (func))"#;

/// Directories, and files that belong to somebody else.
#[derive(Debug)]
pub struct Files {
    _root: tempfile::TempDir,
    outer: PathBuf,
    /// The hostile guest's directory.
    pub inner: PathBuf,
    /// That of the other tenant, with a file `own` that is [`CANARY`].
    pub honest: PathBuf,
}

impl Files {
    /// New ones, in a temporary directory.
    pub fn create() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let outer = root.path().join("outer");
        let (inner, honest) = (outer.join("inner"), root.path().join("honest"));
        fs::create_dir_all(&outer).expect("a directory");
        fs::create_dir_all(&honest).expect("a directory");
        for file in [outer.join("secret"), honest.join("own")] {
            fs::write(&file, CANARY).expect("a file");
            fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("its owner is this process");
        }
        let files = Self { _root: root, outer, inner, honest };
        files.fill();
        files
    }

    /// What the hostile guest finds.
    fn fill(&self) {
        let (inner, secret) = (&self.inner, self.outer.join("secret"));
        fs::create_dir(inner).expect("a directory");
        fs::create_dir(inner.join("d")).expect("a directory");
        fs::write(inner.join("a"), "content of a").expect("a file");
        fs::write(inner.join("d/b"), [b'b'; 5000]).expect("a file");
        symlink("../secret", inner.join("escape")).expect("a link");
        symlink(secret, inner.join("absolute")).expect("a link");
        symlink("../..", inner.join("d/up")).expect("a link");
        symlink("loop", inner.join("loop")).expect("a link");
        let fifo = std::ffi::CString::new(inner.join("fifo").into_os_string().into_encoded_bytes());
        // SAFETY: a string that lives through the call.
        let made = unsafe { libc::mkfifo(fifo.expect("a path").as_ptr(), 0o600) };
        assert_eq!(made, 0, "a fifo");
    }

    /// The hostile guest's directory as it was at first.
    pub fn renew(&self) {
        fs::remove_dir_all(&self.inner).expect("it can be removed");
        self.fill();
    }

    /// Nothing of somebody else's has changed.
    pub fn check(&self) {
        let names = |path: &Path| {
            let entries = fs::read_dir(path).expect("a directory");
            let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.outer), ["inner", "secret"], "something is beside the directory");
        assert_eq!(names(&self.honest), ["own"], "something is in another tenant's directory");
        for file in [self.outer.join("secret"), self.honest.join("own")] {
            assert_eq!(fs::read(&file).expect("it is there"), CANARY, "another's file was changed");
            let found = fs::metadata(&file).expect("it is there");
            assert!(found.nlink() == 1 && found.mode() & 0o777 == 0o644, "another's file was changed");
        }
    }
}

/// The typed functions. Arguments are what the interface says, or this panics.
fn service(lowered: &Lowered) -> Service {
    let lowered = Lowered::from_bytes(&lowered.interface().to_bytes().expect("bytes")).expect("the same");
    let mut service = Service::new(lowered);
    let both = |handle: Value| Value::Record(vec![Value::U8(1), Value::U64(2), Value::Enum(1), handle]);
    service
        .function("scalars", |_, arguments| async move {
            match &*arguments {
                [Value::Flags(0..=7), Value::F64(_), Value::Bool(_), Value::S8(_)] => {}
                other => panic!("{other:?}"),
            }
            Ok(Reply::Values(Vec::new()))
        })
        .expect("declared")
        .function("full", move |context, arguments| async move {
            let (text, list, handle) = match &*arguments {
                [
                    Value::String(text),
                    Value::List(list),
                    Value::Record(fields),
                    handle @ Value::Handle(_),
                ] if fields.len() == 4 => (text, list, handle),
                other => panic!("{other:?}"),
            };
            // It was open when the call came, and of its kind.
            let thing = context.get::<u64>(handle).expect("an open handle");
            match text.len() % 4 {
                0 => return Ok(Reply::Error(0)),
                1 => drop(context.remove::<u64>(handle)?),
                2 => return Err("it does not want to".into()),
                _ => {}
            }
            let other = context.insert("thing", *thing + 1)?;
            let bytes = Value::Bytes(vec![7; 3 * text.len() + list.len()]);
            Ok(Reply::Values(vec![bytes, Value::U16(9), both(other)]))
        })
        .expect("declared")
        .function("lists", move |context, _| async move {
            let things = (0..2).map(|thing| context.insert("thing", 100u64 + thing));
            let things: Vec<_> = things.collect::<Result<_, _>>()?;
            let all = things.iter().cloned().map(both).collect();
            let words = Value::String("words".to_owned());
            Ok(Reply::Values(vec![Value::List(all), words, Value::List(things)]))
        })
        .expect("declared")
        .function("numbers", |_, _| async {
            let all = Value::List((0..5).map(Value::S16).collect());
            Ok(Reply::Values(vec![all, Value::List(vec![Value::Flags(5)])]))
        })
        .expect("declared");
    service
}

/// A module that imports all functions of the interface and of [`BARE`], and what it is provided with.
pub fn provided(lowered: &Lowered) -> (Artifact<Vec<u8>>, Imports) {
    let types = |word: &str, types: &[WasmType]| {
        let types: String = types.iter().map(|ty| format!(" {}", format!("{ty:?}").to_lowercase())).collect();
        format!("({word}{types})")
    };
    let import = |function: &LoweredFunction| {
        let (params, results) = (types("param", function.params()), types("result", function.results()));
        format!("(import \"k\" \"{}\" (func {params} {results}))", function.declaration().name)
    };
    let typed: String = lowered.functions().iter().map(import).collect();
    let wasm = compiler::parse_text(format!("(module {typed} {BARE})").as_bytes()).expect("a module");
    let options = Options { open_imports: true, ..Options::default() };
    let artifact = Artifact::parse(compiler::compile(&wasm, &options).expect("it compiles")).expect("sound");
    let mut imports = Imports::default();
    imports.serve(&service(lowered)).expect("all are served");
    let f = HostFunction::immediate([ValType::I32, ValType::F64], [ValType::I64], |values| match values {
        [Bare::I32(number), Bare::F64(_)] => Ok(vec![Bare::I64(i64::from(*number))]),
        other => panic!("{other:?}"),
    });
    let g = HostFunction::immediate([], [], |_| Err("no".into()));
    imports.define("m", "f", Extern::Function(f)).define("m", "g", Extern::Function(g));
    (artifact, imports)
}

/// Whatever a guest asks for, files of this process stay small, and it is told so by errors.
pub fn limit_files() {
    let limit = libc::rlimit { rlim_cur: FILE_MAX, rlim_max: FILE_MAX };
    // SAFETY: a limit that lives through the call; and a signal that nobody handles.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
        assert_ne!(libc::signal(libc::SIGXFSZ, libc::SIG_IGN), libc::SIG_ERR);
    }
}
