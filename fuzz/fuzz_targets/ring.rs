//! A hostile instance against the supervisor's real end of the ring, in one process: well-formed calls of every function with a real
//! directory behind them, typed calls, submissions of any words, indices that jump and go backwards, floods, queued output, bytes that change
//! after they were looked at, a thread that writes all the time.
//!
//! What must hold: no panic; the other tenant's calls are answered within some turns, as they must be; nothing outside of the directory
//! changes; when a program has ended, the bytes of another tenant, and of a file beside the directory, are nowhere in the ring or the
//! output; calls, output and descriptors are within their limits; a violation says what was done. A well-formed call that is made in step
//! and answered within some turns is looked at further, unless a thread or changed bytes disturb it: the answer is one that the
//! declaration allows, changed no byte of [`WINDOWS`] but where it may, and no byte of the ring was looked at twice. Calls without such
//! an answer are given up and not judged.
//!
//! Not tried: watching a ring, and serving it from a second processor.
#![no_main]

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arbitrary::Unstructured;
use compiler::Artifact;
use interface::{Interface, Lowered};
use ipc::imports::FUNCTIONS as IMPORTS;
use ipc::interface::{FUNCTIONS, FunctionId};
use ipc::job::{
    ARENA_BYTES, COMPLETIONS_OFFSET, EXIT_OFFSET, HEAD_OFFSET, INDICES_OFFSET, RING_BYTES, SUBMISSIONS_OFFSET,
};
use ipc::report::{Limit, Violation};
use ipc::ring::instance::{self, InstanceEnd};
use ipc::ring::{Completion, Indices, OUTPUT_HALF, SLOTS, Slot, Submission, pack_output, pack_range};
use libfuzzer_sys::fuzz_target;
use policies::Policy;
use sandboxd_fuzz::ring::Peer;
use sandboxd_fuzz::ring::calls::{Call, Room, any_submission, import_call, value, wasi_call};
use sandboxd_fuzz::ring::surroundings::{CANARY, Files, limit_files, provided};
use supervisor::fuzzing::{self, End, Guest, Ring, Used};
use supervisor::{Imports, Preopen};

/// Where the ranges of well-formed calls are, and where an access behind the arena would be.
const WINDOWS: [Range<usize>; 2] = [0..0x8000, ARENA_BYTES - 0x2000..ARENA_BYTES + 0x2000];
/// Turns of the runtime after which a guest is given up that has broken a rule and is not ended: it is in a call that waits.
const GIVEN_UP_AFTER: usize = 4096;
/// Turns within which every call of the other tenant is answered: none of them goes to another thread.
const ANSWERED_WITHIN: usize = 1000;
const OUTPUT_MAX: u64 = 64 << 10;
const HANDLES_MAX: u32 = 16;
/// Programs between two looks at how many descriptors this process has.
const LOOK_EVERY: u64 = 256;

const TAIL: usize = INDICES_OFFSET + offset_of!(Indices, submission_tail);
const SERVED: usize = INDICES_OFFSET + offset_of!(Indices, submission_head);
const COMPLETED: usize = INDICES_OFFSET + offset_of!(Indices, completion_tail);
const TAKEN: usize = INDICES_OFFSET + offset_of!(Indices, completion_head);
const OUTPUT: usize = INDICES_OFFSET + offset_of!(Indices, output);

/// What happens after bytes of the ring were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterRead {
    Nothing,
    /// No byte may be looked at again before the next call.
    Once,
    /// They change.
    Change,
}

thread_local! {
    static AFTER_READ: Cell<AfterRead> = const { Cell::new(AfterRead::Nothing) };
    static READ: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
    static WORLD: World = World::new();
}

/// What lasts from one input to the next, as a shard does.
struct World {
    runtime: tokio::runtime::Runtime,
    files: Files,
    ring: Ring,
    peer: Arc<Peer>,
    honest_ring: Ring,
    honest_peer: Peer,
    artifact: Artifact<Vec<u8>>,
    interface: Lowered,
    imports: Imports,
    policies: [Policy; 2],
    programs: Cell<u64>,
    descriptors: Cell<usize>,
}

impl World {
    fn new() -> Self {
        limit_files();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (ring, honest_ring) = {
            let _inside = runtime.enter();
            (Ring::new().expect("a ring"), Ring::new().expect("a ring"))
        };
        let peer = |ring: &Ring| Peer::new(ring.memory(), ring.doorbell()).expect("a mapping");
        let (peer, honest_peer) = (Arc::new(peer(&ring)), peer(&honest_ring));
        let (start, changed) = (ring.start() as usize, Arc::clone(&peer));
        fuzzing::on_read(Some(Box::new(move |from, bytes| {
            after_read(&changed, start, from as usize, bytes)
        })));
        let interface =
            Interface::parse(include_str!("interface.toml"), "interface.toml").expect("an interface");
        let (artifact, imports) = provided(&interface);
        let narrow = r#"
            version = 1
            extends = "default"
            [host_calls]
            allow = ["fd_read", "fd_pread", "path_open", "fd_prestat_get", "fd_close", "fd_seek", "fd_fdstat_get"]
        "#;
        let narrow = Policy::parse(narrow, "narrow.toml").expect("a policy");
        Self {
            runtime,
            files: Files::create(),
            ring,
            peer,
            honest_ring,
            honest_peer,
            artifact,
            interface,
            imports,
            policies: [Policy::builtin("wasi-direct").expect("a profile"), narrow],
            programs: Cell::new(0),
            descriptors: Cell::new(0),
        }
    }
}

/// Bytes of a ring were copied to be looked at; if they are of the hostile one, which is mapped at `start` there.
fn after_read(peer: &Peer, start: usize, from: usize, bytes: usize) {
    let Some(offset) = from.checked_sub(start).filter(|offset| *offset < RING_BYTES) else { return };
    if bytes == 0 {
        return;
    }
    assert!(offset + bytes <= RING_BYTES, "more than the ring was read");
    let read = offset..offset + bytes;
    match AFTER_READ.get() {
        AfterRead::Nothing => {}
        AfterRead::Once => READ.with_borrow_mut(|earlier| {
            let again = earlier.iter().find(|range| range.start < read.end && read.start < range.end);
            assert!(again.is_none(), "{again:x?} was looked at, and then {read:x?}");
            earlier.push(read);
        }),
        AfterRead::Change => peer.write(offset, &vec![0xff; bytes.min(0x4000)]),
    }
}

/// The hostile guest.
struct Hostile<'h> {
    peer: &'h Peer,
    interface: &'h Lowered,
    after_read: AfterRead,
    /// Somebody else writes to the ring too.
    raced: bool,
    /// Indices are as the rules say, and nothing is on its way.
    in_step: bool,
}

impl Hostile<'_> {
    async fn steps(&mut self, u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
        while !u.is_empty() {
            match u.int_in_range(0..=15)? {
                0..=6 => self.call(u, false).await?,
                7 | 8 => self.call(u, true).await?,
                9 => {
                    // A flood, more than there is room for.
                    let submission = any_submission(u)?;
                    for _ in 0..u.int_in_range(1..=SLOTS + 2)? {
                        instance::submit(self.peer, &submission);
                    }
                    self.in_step = false;
                }
                10 => {
                    instance::submit(self.peer, &any_submission(u)?);
                    self.in_step = false;
                }
                11 => {
                    let completed = self.peer.word(COMPLETED).load(Ordering::Relaxed);
                    self.peer.word(TAKEN).store(completed, Ordering::Relaxed);
                }
                12 => {
                    let index = *u.choose(&[TAIL, TAKEN, COMPLETED, SERVED])?;
                    let by = *u.choose(&[1, 2, 63, 64, 65, u32::MAX, u32::MAX - 1, 0x8000_0000])?;
                    self.peer.word(index).fetch_add(by, Ordering::Relaxed);
                    self.in_step = false;
                }
                13 => {
                    let half = OUTPUT_HALF as u32;
                    let length = *u.choose(&[0, 1, 100, half, half + 1, u32::MAX])?;
                    let output = pack_output(u.int_in_range(0..=3)?, u.int_in_range(0..=1)?, length);
                    self.peer.poke(OUTPUT, if u.ratio(1, 8)? { u.arbitrary()? } else { output });
                    self.peer.ring_doorbell();
                }
                14 => {
                    let parts =
                        [0, HEAD_OFFSET, EXIT_OFFSET, INDICES_OFFSET, SUBMISSIONS_OFFSET, COMPLETIONS_OFFSET];
                    let part = u.choose(&parts)? + usize::from(u.arbitrary::<u16>()? & 0x1fff);
                    self.peer.poke(part, value(u)?);
                    self.in_step = false;
                }
                _ => {
                    for _ in 0..u.int_in_range(1..=8)? {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
        Ok(())
    }

    /// A well-formed call, and what must hold of its answer.
    async fn call(&mut self, u: &mut Unstructured<'_>, import: bool) -> arbitrary::Result<()> {
        let mut room = Room { at: *u.choose(&[0, 8, 0xff8])? };
        let mut call = match import {
            true => import_call(u, self.interface, self.peer, &mut room)?,
            false => wasi_call(u, self.peer, &mut room)?,
        };
        call.submission.sequence = u.arbitrary()?;
        let watched = self.in_step && !self.raced && self.after_read == AfterRead::Once;
        let mut before = Vec::new();
        if watched {
            WINDOWS.iter().for_each(|window| self.peer.read(window.start, window.len(), &mut before));
            READ.with_borrow_mut(Vec::clear);
        }
        AFTER_READ.set(match self.after_read {
            AfterRead::Once if !watched => AfterRead::Nothing,
            other => other,
        });
        instance::submit(self.peer, &call.submission);
        let indices = self.peer.indices();
        let head = indices.completion_head.0.load(Ordering::Relaxed);
        // Calls that go to another thread, or wait, may take longer: then nothing more is known of this ring.
        for _ in 0..if self.in_step { 2000 } else { 4 } {
            if indices.completion_tail.0.load(Ordering::Acquire) != head {
                let completion = self.peer.read_completion(Slot::of(head));
                indices.completion_head.0.store(head.wrapping_add(1), Ordering::Release);
                if watched {
                    self.check(&call, &completion, &before);
                }
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        self.in_step = false;
        // The answer may still come, to bytes that the calls that follow use as well.
        if self.after_read == AfterRead::Once {
            AFTER_READ.set(AfterRead::Nothing);
        }
        Ok(())
    }

    fn check(&self, call: &Call, completion: &Completion, before: &[u8]) {
        AFTER_READ.set(AfterRead::Nothing);
        let submission = &call.submission;
        assert_eq!(completion.sequence, submission.sequence, "another call's answer");
        assert_eq!(completion.reserved, [0; 2]);
        if submission.function < IMPORTS {
            let name = FUNCTIONS[submission.function as usize].name;
            assert!(completion.errno <= 76, "{name}: no error number of WASI: {completion:?}");
            let most = if completion.errno == 0 { call.counted as u64 } else { 0 };
            assert!(completion.written <= most, "{name}: wrote more than there is room for: {completion:?}");
        } else {
            assert!(completion.errno <= 1 && (call.typed || completion.written == 0), "{completion:?}");
        }
        let mut after = Vec::with_capacity(before.len());
        WINDOWS.iter().for_each(|window| self.peer.read(window.start, window.len(), &mut after));
        let places = WINDOWS.iter().cloned().flatten();
        for (place, (now, then)) in places.zip(after.iter().zip(before)) {
            let may = now == then || call.writable.iter().any(|range| range.contains(&place));
            assert!(may, "byte {place:#x} of the ring was written by the answer to {submission:?}");
        }
    }

    /// Breaks a rule for certain.
    async fn end(&self) {
        for _ in 0..32 {
            tokio::task::yield_now().await;
        }
        self.peer.word(TAIL).fetch_add(0x4000_0000, Ordering::Relaxed);
        self.peer.ring_doorbell();
    }
}

/// Another tenant, whose every call must do what it says.
async fn honest(peer: &Peer, written: &Cell<usize>) {
    let call = async |function: FunctionId, args: &[u64]| -> Completion {
        let mut submission = Submission { function: function.number(), sequence: 7, ..Submission::default() };
        submission.args[..args.len()].copy_from_slice(args);
        instance::submit(peer, &submission);
        let indices = peer.indices();
        let mut turns = 0;
        while indices.completion_tail.0.load(Ordering::Acquire)
            == indices.completion_head.0.load(Ordering::Relaxed)
        {
            turns += 1;
            assert!(turns <= ANSWERED_WITHIN, "the other tenant's {function:?} is not answered");
            tokio::task::yield_now().await;
        }
        let completion = instance::take(peer);
        assert_eq!((completion.sequence, completion.errno), (7, 0), "{function:?}: {completion:?}");
        completion
    };
    peer.write(0, b"own");
    // Read and seek.
    let args = [3, 0, pack_range(0, 3), 0, 6, 0, 0, pack_range(8, 4)];
    let fd = call(FunctionId::path_open, &args).await.value;
    loop {
        peer.write(64, CANARY);
        written.set(written.get() + 1);
        let bytes = pack_range(64, CANARY.len() as u32);
        call(FunctionId::fd_write, &[1, bytes, pack_range(8, 4)]).await;
        let into = pack_range(128, 100);
        let read = call(FunctionId::fd_pread, &[fd, into, 0, pack_range(8, 4)]).await;
        assert!(read.written == CANARY.len() as u64 && peer.has(128, CANARY.len(), CANARY));
        tokio::task::yield_now().await;
    }
}

/// Writes anywhere in the ring while it is served.
fn race(peer: &Peer, stop: &AtomicBool, seed: u64) {
    let mut state = seed;
    while !stop.load(Ordering::Relaxed) {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let parts = [0, EXIT_OFFSET, SUBMISSIONS_OFFSET, COMPLETIONS_OFFSET];
        let part = parts[(state >> 62) as usize] + (state >> 40) as usize % 0x2000;
        peer.poke(part, if state & 0x100_0000 == 0 { state >> 32 } else { state >> 61 });
    }
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).expect("it is there").into()
}

fn pipe_with(bytes: &[u8]) -> OwnedFd {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(bytes).expect("there is room");
    reader.into()
}

impl World {
    fn run(&self, data: &[u8]) {
        let mut u = Unstructured::new(data);
        let Ok(settings) = u.arbitrary::<u16>() else { return };
        let bit = |bit: u32| settings >> bit & 1 == 1;
        let after_read = if bit(0) && bit(1) { AfterRead::Change } else { AfterRead::Once };
        let raced = bit(2) && bit(3) && bit(4) && bit(5);
        let max_calls = if bit(6) && bit(7) { 5 } else { 200 };
        let policy = &self.policies[usize::from(bit(8) && bit(9))];
        self.ring.renew().expect("renewed");
        self.honest_ring.renew().expect("renewed");
        let mut output = tempfile::tempfile().expect("a file");
        let mut own_output = tempfile::tempfile().expect("a file");
        let (socket, mut other_end) = UnixStream::pair().expect("sockets");
        other_end.write_all(b"from the other end").expect("there is room");
        // What is accepted on a thread may outlive its program.
        let name = format!("fuzz-ring-{}-{}", std::process::id(), self.programs.get());
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("a socket");
        let _asking = UnixStream::connect_addr(&address).expect("it listens");
        let copy = |file: &File| Some(file.try_clone().expect("a copy").into());
        let guest = Guest {
            stdio: match bit(10) {
                true => [Some(pipe_with(b"input")), copy(&output), copy(&output)],
                false => [None, None, None],
            },
            preopens: vec![Preopen {
                directory: open(&self.files.inner),
                guest_path: String::from("/"),
                read_only: bit(11),
            }],
            sockets: vec![socket.into(), listener.into()],
            max_handles: HANDLES_MAX,
            max_output_bytes: OUTPUT_MAX,
            max_calls,
            deterministic: bit(12),
        };
        let own = Guest {
            stdio: [None, copy(&own_output), None],
            preopens: vec![Preopen {
                directory: open(&self.files.honest),
                guest_path: String::from("/"),
                read_only: true,
            }],
            max_handles: HANDLES_MAX,
            max_output_bytes: u64::MAX,
            max_calls: u64::MAX,
            ..Guest::default()
        };
        let stop = Arc::new(AtomicBool::new(false));
        let racer = raced.then(|| {
            let (peer, stop) = (Arc::clone(&self.peer), Arc::clone(&stop));
            std::thread::spawn(move || race(&peer, &stop, settings.into()))
        });
        AFTER_READ.set(if after_read == AfterRead::Change { after_read } else { AfterRead::Nothing });
        let (used, own_used, written) = (Cell::default(), Cell::default(), Cell::new(0));
        let mut hostile =
            Hostile { peer: &self.peer, interface: &self.interface, after_read, raced, in_step: true };
        let ended = self.runtime.block_on(async {
            let metadata = self.artifact.metadata();
            let serving = self.ring.serve(guest, policy, metadata, &self.imports, &used);
            let beside = self.honest_ring.serve(own, &self.policies[0], metadata, &self.imports, &own_used);
            let attack = async {
                // Whatever is left of the input when it no longer makes sense.
                let _ = hostile.steps(&mut u).await;
                hostile.end().await;
                for _ in 0..GIVEN_UP_AFTER {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                ended = serving => Some(ended.expect("served")),
                () = attack => None,
                () = honest(&self.honest_peer, &written) => None,
                ended = beside => panic!("the other tenant's end: {ended:?}"),
            }
        });
        AFTER_READ.set(AfterRead::Nothing);
        stop.store(true, Ordering::Relaxed);
        if let Some(racer) = racer {
            racer.join().expect("the racer ends");
        }
        // The first three calls have been answered then, and it is in the second round.
        assert!(ended.is_some() || written.get() >= 2, "the other tenant wrote {} times", written.get());
        explained(ended);
        let used: Used = used.get();
        assert!(used.calls <= max_calls && used.output_bytes <= OUTPUT_MAX, "{used:?}");
        let length = |file: &File| file.metadata().expect("a file").len();
        assert!(length(&output) <= OUTPUT_MAX);
        assert!(!self.peer.has(0, RING_BYTES, CANARY), "another's bytes are in the ring");
        let mut found = Vec::new();
        output.rewind().expect("rewound");
        output.read_to_end(&mut found).expect("read");
        assert!(
            !found.windows(CANARY.len()).any(|bytes| bytes == CANARY),
            "another's bytes are in the output"
        );
        found.clear();
        own_output.rewind().expect("rewound");
        own_output.read_to_end(&mut found).expect("read");
        assert!(found.chunks(CANARY.len()).all(|piece| piece == CANARY), "the other tenant's output");
        // A last piece may have been written without an answer, or not.
        let pieces = found.len() / CANARY.len();
        assert!(pieces == written.get() || pieces + 1 == written.get(), "{pieces} of {}", written.get());
        self.files.check();
        self.files.renew();
        self.look();
    }

    /// Descriptors do not become more.
    fn look(&self) {
        self.programs.set(self.programs.get() + 1);
        if self.programs.get() % LOOK_EVERY == 1 {
            let open = fs::read_dir("/proc/self/fd").expect("this process").count();
            let most = self.descriptors.get();
            assert!(most == 0 || open <= most + 8, "{open} descriptors after {most}");
            self.descriptors.set(if most == 0 { open } else { most });
        }
    }
}

/// Whatever ended it says what it was.
fn explained(ended: Option<End>) {
    match ended {
        None | Some(End::Finished) => {}
        Some(End::Limit(reached)) => {
            assert!(matches!(reached.limit, Limit::HostCalls | Limit::Output), "{reached:?}")
        }
        Some(End::Violation(Violation::Ring { rule })) => {
            let says_what =
                rule.contains("policy \"") || FUNCTIONS.iter().any(|function| rule.contains(function.name));
            let says_how_much = rule.chars().any(|c| c.is_ascii_digit());
            assert!(rule.len() > 10 && (says_what || says_how_much) && !rule.contains('\n'), "{rule}");
        }
        Some(End::Violation(other)) => panic!("{other:?}"),
    }
}

fuzz_target!(|data: &[u8]| WORLD.with(|world| world.run(data)));
