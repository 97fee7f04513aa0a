//! A daemon that has been taken over: confines itself as `sandboxd` does, with some layers or all, and then does one thing.
//!
//! `confined-attacker LAYERS DIRECTORY|- ATTACK [ARGUMENT]`: LAYERS are bits of `ipc::control::layer`, DIRECTORY is the only place of clients'
//! directories (`-`: they may lie anywhere). Prints `done`, or the error number of what was refused.

use std::fs::File;
use std::io::{self, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use supervisor::Config;
use supervisor::confine::{Confinement, Places};

#[expect(clippy::zombie_processes, reason = "a confined process may not be able to end it, so the test does")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [layers, directory, attack, rest @ ..] = &arguments[..] else { panic!("{arguments:?}") };
    let layers: u64 = layers.parse().expect("layers");
    let argument = rest.first().map_or("", String::as_str);
    // Before anything is in force: of those that are there already, and that this one started itself.
    let mut victim = Command::new("sleep");
    // Who reads what this one writes must not wait for it.
    victim.arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let victim = victim.spawn().expect("sleep");
    if attack == "mount" {
        own_mounts();
    }
    if layers != 0 {
        let confinement = Confinement::begin(layers, &Config::default()).expect("the confinement begins");
        let directories = (directory != "-").then(|| vec![directory.into()]);
        let places = Places { directories, ..Places::default() };
        let in_force = confinement.finish(&places).expect("the confinement is put in force");
        assert_eq!(in_force.layers, layers, "{in_force}");
    }
    let result = act(attack, argument, &victim);
    match result {
        Ok(()) => println!("done"),
        Err(error) => println!("{}", error.raw_os_error().expect("an error number")),
    }
    println!("{}", victim.id());
}

/// So that a mount reaches nobody else; an ordinary user needs a user namespace for it.
fn own_mounts() {
    // SAFETY: flags; then zero-terminated strings.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNS) != 0 {
            assert_eq!(
                libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS),
                0,
                "{}",
                io::Error::last_os_error()
            );
        }
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let null = std::ptr::null();
        assert_eq!(libc::mount(null, c"/".as_ptr(), null, private, null.cast()), 0);
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn act(attack: &str, argument: &str, victim: &Child) -> io::Result<()> {
    let pid = victim.id() as i32;
    match attack {
        // Comes back only if it fails.
        "execute" => Err(Command::new("/bin/sh").args(["-c", &format!("echo done; echo {pid}")]).exec()),
        "fork" => {
            // SAFETY: as fork; the child ends at once.
            let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
            if child == 0 {
                // SAFETY: ends the process.
                unsafe { libc::_exit(0) }
            }
            check(child)
        }
        // SAFETY: numbers.
        "trace" => check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) }),
        "memory" => {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
            let start = maps.split('-').next().and_then(|text| u64::from_str_radix(text, 16).ok());
            File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut [0; 4], start.expect("an address"))
        }
        // SAFETY: numbers.
        "kill" => check(unsafe { libc::kill(pid, libc::SIGKILL) }.into()),
        "mount" => {
            let name = std::ffi::CString::new(argument).expect("a path");
            let kind = c"tmpfs".as_ptr();
            // SAFETY: zero-terminated strings.
            check(unsafe { libc::mount(kind, name.as_ptr(), kind, 0, std::ptr::null()) }.into())
        }
        "connect" => std::net::TcpStream::connect(argument).map(drop),
        "listen" => std::net::TcpListener::bind("127.0.0.1:0").map(drop),
        "abstract" => UnixStream::connect_addr(&SocketAddr::from_abstract_name(argument)?).map(drop),
        "read" => File::open(argument)?.read(&mut [0; 16]).map(drop),
        "write" => std::fs::write(argument, "x"),
        "code" => {
            let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: new memory that nobody uses.
            let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, all, flags, -1, 0) };
            check(if mapped == libc::MAP_FAILED { -1 } else { 0 })
        }
        // SAFETY: takes numbers.
        "become" => check(unsafe { libc::setresuid(1234, 1234, 1234) }.into()),
        "own-mount-namespace" => {
            // SAFETY: flags.
            check(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) }.into())
        }
        other => panic!("unknown attack {other}"),
    }
}
