//! A hostile peer against the real [`Server`], in one process: it writes to the ring what an instance could, much faster than instances
//! can be forked. Beside it an honest peer is served on the same thread, and must get its own answers and nothing else.
//!
//! `SANDBOXD_FUZZ_SECONDS` makes it go on that long, `SANDBOXD_FUZZ_SEED` begins elsewhere. The same with confined instances:
//! `tests/tests/hostile_ring.rs`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::mem::offset_of;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc as threads};
use std::time::{Duration, Instant};

use compiler::ValType;
use compiler::metadata::Entry;
use ipc::imports::FUNCTIONS as IMPORTS;
use ipc::interface::{FUNCTIONS, FunctionId};
use ipc::job::{
    ARENA_BYTES, COMPLETIONS_OFFSET, EXIT_OFFSET, INDICES_OFFSET, RING_BYTES, SUBMISSIONS_OFFSET,
};
use ipc::report::{Outcome, Trap, Usage, Value, Violation};
use ipc::ring::instance::{self, InstanceEnd};
use ipc::ring::{
    Completion, FINISHED, Indices, OUTPUT_HALF, SLOTS, Slot, Submission, pack_output, pack_range,
};
use ipc::session::REPLY;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use policies::Policy;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::conversation::{Answer, Conversation, Operation, Request, UnderWay};
use super::provided::Provided;
use super::seat::Seat;
use super::serve::{Ended, Server};
use crate::hostcall::SharedRegion;
use crate::imports::{Extern, HostFunction, Imports};
use crate::job::Preopen;
use crate::observed::Calls;
use crate::wasi::{WasiConfig, WasiContext};

/// Programs that a plain run tries.
const PROGRAMS: u64 = 2000;
/// After this time a peer that is silent, or in a call that waits, is given up.
const PATIENCE: Duration = Duration::from_millis(20);
/// A program that takes longer has blocked the thread that serves everybody.
const BLOCKED: Duration = Duration::from_secs(30);
/// Calls that a hostile peer may make.
const CALLS_MAX: u64 = 300;
/// By how much this process may grow, KiB.
const ROOM_KIB: u64 = 64 << 10;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn word(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(8),
            1 => self.next(),
            2 => self.next() & 0xffff_ffff,
            3 => 1u64.wrapping_shl(self.next() as u32).wrapping_sub(self.below(3)),
            _ => self.below(3).wrapping_sub(2),
        }
    }
}

/// The ring as an instance has it: a mapping of its own.
struct Mapping {
    start: *mut u8,
}

// SAFETY: the memory is shared and only written by volatile and atomic accesses of both sides.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(seat: &Seat) -> Self {
        let length = NonZeroUsize::new(RING_BYTES).expect("not empty");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, seat.shared.file(), 0) };
        Self { start: start.expect("a mapping").cast().as_ptr() }
    }

    fn poke(&self, offset: usize, value: u64) {
        let offset = offset.min(RING_BYTES - 8) & !7;
        // SAFETY: an aligned word of the mapping, which other sides access as their own accesses allow.
        unsafe { AtomicU64::from_ptr(self.start.add(offset).cast()) }.store(value, Ordering::Relaxed);
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset <= RING_BYTES - 4 && offset.is_multiple_of(4));
        // SAFETY: an aligned word of the mapping, which lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.start.add(offset).cast()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping of `of`; nothing refers to it any more.
        let _ = unsafe { munmap(std::ptr::NonNull::new(self.start.cast()).expect("mapped"), RING_BYTES) };
    }
}

const TAIL: usize = INDICES_OFFSET + offset_of!(Indices, submission_tail);
const SERVED: usize = INDICES_OFFSET + offset_of!(Indices, submission_head);
const COMPLETED: usize = INDICES_OFFSET + offset_of!(Indices, completion_tail);
const TAKEN: usize = INDICES_OFFSET + offset_of!(Indices, completion_head);
const OUTPUT: usize = INDICES_OFFSET + offset_of!(Indices, output);

/// An instance's end.
struct Peer<'p> {
    ring: &'p Mapping,
    doorbell: &'p AsyncFd<OwnedFd>,
}

impl InstanceEnd for Peer<'_> {
    type Word = AtomicU32;
    type Wide = AtomicU64;

    fn indices(&self) -> &Indices {
        // SAFETY: aligned, inside the mapping, and made of atomics only.
        unsafe { &*self.ring.start.add(INDICES_OFFSET).cast() }
    }

    fn write_submission(&self, slot: Slot, submission: &Submission) {
        let to = SUBMISSIONS_OFFSET + slot.number() * size_of::<Submission>();
        // SAFETY: a slot of the mapping.
        unsafe { self.ring.start.add(to).cast::<Submission>().write_volatile(*submission) };
    }

    fn read_completion(&self, slot: Slot) -> Completion {
        let from = COMPLETIONS_OFFSET + slot.number() * size_of::<Completion>();
        // SAFETY: a slot of the mapping; any bytes are a completion.
        unsafe { self.ring.start.add(from).cast::<Completion>().read_volatile() }
    }

    fn ring_doorbell(&self) {
        let _ = nix::unistd::write(self.doorbell.get_ref(), &1u64.to_ne_bytes());
    }

    fn wait(&self, _: &AtomicU32, _: u32) {
        unreachable!("the completion is there");
    }

    fn fence(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    fn pause(&self) {
        std::hint::spin_loop();
    }
}

impl Peer<'_> {
    /// An honest call.
    async fn call(&self, submission: &Submission) -> Completion {
        instance::submit(self, submission);
        while self.indices().completion_tail.0.load(Ordering::Acquire)
            == self.indices().completion_head.0.load(Ordering::Relaxed)
        {
            tokio::task::yield_now().await;
        }
        instance::take(self)
    }
}

/// What the supervisor's side of one instance needs besides its ring.
struct Side {
    policy: Policy,
    provided: Provided,
    failure: RefCell<Option<String>>,
    calls: Cell<u64>,
    seen: Calls,
    heard: Cell<bool>,
    output: Cell<Option<super::serve::Taken>>,
}

impl Side {
    fn new() -> Self {
        let text =
            br#"(module (import "m" "f" (func (param i32 f64) (result i64))) (import "m" "g" (func)))"#;
        let module = compiler::parse_text(text).expect("a module");
        let options = compiler::Options { open_imports: true, ..Default::default() };
        let image = compiler::compile(&module, &options).expect("compiles");
        let artifact = compiler::Artifact::parse(image).expect("an artifact");
        let mut imports = Imports::default();
        let f =
            HostFunction::immediate([ValType::I32, ValType::F64], [ValType::I64], |values| match values {
                [Value::I32(number), Value::F64(_)] => Ok(vec![Value::I64(i64::from(*number))]),
                // Whatever lies in the ring, these are the types.
                other => panic!("{other:?}"),
            });
        let g = HostFunction::immediate([], [], |_| Err("no".into()));
        imports.define("m", "f", Extern::Function(f)).define("m", "g", Extern::Function(g));
        Self {
            policy: Policy::builtin("wasi-direct").expect("the profile"),
            provided: Provided::new(artifact.metadata(), &imports).expect("provided"),
            failure: RefCell::new(None),
            calls: Cell::new(0),
            seen: Calls::new(),
            heard: Cell::new(false),
            output: Cell::new(None),
        }
    }

    fn server<'s>(&'s self, seat: &'s Seat, calls_max: u64) -> Server<'s> {
        self.calls.set(0);
        self.output.set(None);
        Server {
            shared: &seat.shared,
            doorbell: &seat.doorbell,
            policy: &self.policy,
            provided: &self.provided,
            failure: &self.failure,
            waits_at_end: true,
            calls_max: Some(calls_max),
            calls: &self.calls,
            seen: &self.seen,
            heard: &self.heard,
            output: &self.output,
        }
    }
}

fn wasi(directory: Option<&File>, stdio: [Option<OwnedFd>; 3]) -> WasiContext {
    let preopen = |directory: &File| Preopen {
        directory: directory.try_clone().expect("a copy").into(),
        guest_path: String::from("/"),
        read_only: true,
    };
    let config = WasiConfig {
        stdio,
        preopens: directory.map(preopen).into_iter().collect(),
        sockets: Vec::new(),
        max_handles: 16,
        max_output_bytes: Some(1 << 20),
        clock_resolution_ns: 1,
        monotonic_offset: 0,
        deterministic: false,
    };
    WasiContext::new(config).expect("a context")
}

fn submission(random: &mut Random) -> Submission {
    let function = match random.below(12) {
        0 => random.next() as u32,
        1 => REPLY,
        2 => FINISHED,
        3 | 4 => IMPORTS + random.below(3) as u32,
        _ => random.below(FUNCTIONS.len() as u64) as u32,
    };
    let mut submission = Submission { function, sequence: random.next() as u32, ..Submission::default() };
    for arg in &mut submission.args {
        *arg = match random.below(8) {
            0..=3 => random.below(6),
            4 | 5 => {
                let length = random.one_of(&[0, 1, 8, 16, 24, 32, 48, 64, 4096, ARENA_BYTES as u32]);
                pack_range(random.below(ARENA_BYTES as u64) as u32 & !7, length)
            }
            6 => pack_range(random.next() as u32, random.next() as u32),
            _ => random.word(),
        };
    }
    if function == REPLY {
        submission.args[0] = random.below(5);
    }
    if random.below(8) == 0 {
        (submission.flags, submission.position) = (random.word(), random.word());
    }
    submission
}

/// The hostile peer's program: random steps, with the server's turns in between; then a step that is a violation for certain.
async fn attack(peer: &Peer<'_>, random: &mut Random) {
    for _ in 0..random.below(24) {
        match random.below(10) {
            0..=3 => {
                let count = if random.below(4) == 0 { random.below(SLOTS as u64 + 2) } else { 1 };
                for _ in 0..count {
                    instance::submit(peer, &submission(random));
                }
            }
            4 => peer
                .ring
                .word(TAKEN)
                .store(peer.ring.word(COMPLETED).load(Ordering::Relaxed), Ordering::Relaxed),
            5 => {
                let index = random.one_of(&[TAIL, TAKEN, COMPLETED, SERVED]);
                let by = random.one_of(&[1, 1, 2, 63, 64, 65, u32::MAX, u32::MAX - 1, 0x8000_0000]);
                peer.ring.word(index).fetch_add(by, Ordering::Relaxed);
            }
            6 => {
                let half = OUTPUT_HALF as u32;
                let length = random.one_of(&[0, 1, half, half, half + 1, u32::MAX]);
                let output = pack_output(random.below(4) as u32, random.below(2) as u32, length);
                peer.ring.poke(OUTPUT, if random.below(8) == 0 { random.next() } else { output });
            }
            7 => {
                let part =
                    random.one_of(&[0, EXIT_OFFSET, INDICES_OFFSET, SUBMISSIONS_OFFSET, COMPLETIONS_OFFSET]);
                peer.ring.poke(part + random.below(0x400) as usize * 8, random.word());
            }
            8 => peer.ring_doorbell(),
            _ => {}
        }
        for _ in 0..random.below(4) {
            tokio::task::yield_now().await;
        }
    }
    peer.ring.word(TAIL).fetch_add(0x4000_0000, Ordering::Relaxed);
    peer.ring_doorbell();
}

/// The host app of a session: what it is answered must be what it asked for.
async fn converse(requests: &mpsc::UnboundedSender<Request>, random: &mut Random) {
    let entry = Entry { function: 0, code: 1, trampoline: 2 };
    loop {
        let length = random.one_of(&[0, 1, 4096, ARENA_BYTES]);
        let operation = match random.below(5) {
            0 => Operation::Call {
                entry,
                values: vec![[1, 2]; 3],
                results: 3,
                chain: crate::call_chain::CallChain::default(),
            },
            1 => Operation::Read { address: random.next(), length },
            2 => Operation::Write { address: random.next(), bytes: vec![7; length] },
            3 => Operation::Descriptors,
            _ => Operation::Usage,
        };
        let is_call = matches!(operation, Operation::Call { .. });
        let wanted = if matches!(operation, Operation::Read { .. }) { length } else { 0 };
        let (answer, answered) = oneshot::channel();
        if requests.send(Request { operation, timeout: None, answer }).is_err() {
            return;
        }
        match answered.await {
            Ok(Answer::Returned(values)) => assert!(is_call && values.len() == 3),
            Ok(Answer::Trapped(_)) => assert!(is_call),
            Ok(Answer::Bytes(bytes)) => assert!(!is_call && bytes.len() == wanted),
            Ok(Answer::Descriptors(descriptors)) => assert!(descriptors.len() <= 64),
            Ok(Answer::Usage(usage)) => assert!(!is_call && usage.host_calls <= CALLS_MAX),
            Err(_) => return,
        }
    }
}

/// The honest peer writes marked pieces to a file of its own and checks every answer; as long as it is polled.
async fn honest(peer: &Peer<'_>, random: &mut Random, written: &RefCell<Vec<u8>>, answered: &Cell<u64>) {
    // SAFETY: the arena is the start of the ring, mapped as long as the peer.
    let arena = unsafe { SharedRegion::new(peer.ring.start, ARENA_BYTES) };
    loop {
        let sequence = random.next() as u32;
        let piece: Vec<u8> = (0..1 + random.below(300)).map(|_| random.next() as u8).collect();
        arena.write(64, &piece);
        let args = [1, pack_range(64, piece.len() as u32), pack_range(0, 4), 0];
        let mut submission =
            Submission { function: FunctionId::fd_write.number(), sequence, ..Submission::default() };
        submission.args[..args.len()].copy_from_slice(&args);
        // What is written before the answer comes may be there without it.
        let mark = written.borrow().len();
        written.borrow_mut().extend_from_slice(&piece);
        let completion = peer.call(&submission).await;
        assert_eq!((completion.sequence, completion.errno), (sequence, 0), "{completion:?}");
        assert!(written.borrow().len() == mark + piece.len());
        answered.set(answered.get() + 1);
    }
}

/// Writes anywhere in the ring while it is served.
fn race(ring: &Mapping, stop: &AtomicBool, seed: u64) {
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        let part =
            random.one_of(&[0, EXIT_OFFSET, SUBMISSIONS_OFFSET, SUBMISSIONS_OFFSET, COMPLETIONS_OFFSET]);
        ring.poke(part + random.below(0x400) as usize * 8, random.word());
        if random.below(64) == 0 {
            ring.poke(OUTPUT, pack_output(1 + random.below(2) as u32, random.below(2) as u32, 100));
        }
    }
}

/// What came of a program.
fn kind(ended: Option<Ended>) -> String {
    match ended {
        None => String::from("waits"),
        Some(Ended::Finished(..)) => String::from("finished"),
        Some(Ended::Limit(reached)) => format!("limit: {:?}", reached.limit),
        Some(Ended::Violation(Violation::Ring { rule })) => {
            assert!(rule.len() > 10 && rule.chars().any(|c| c.is_ascii_digit()), "{rule}");
            rule.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default().to_owned()
        }
        Some(Ended::Violation(other)) => panic!("{other:?}"),
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.split_whitespace().find_map(|word| word.parse().ok()).expect("a number")
}

struct Fuzz {
    hostile: (Seat, Side),
    honest: (Seat, Side),
    directory: File,
    /// Read by nobody, written by nobody.
    silent: (std::io::PipeReader, std::io::PipeWriter),
    /// Calls of the honest peer that were answered.
    answered: Cell<u64>,
}

impl Fuzz {
    async fn program(&self, seed: u64) -> String {
        let random = &mut Random(seed);
        let ((seat, side), (honest_seat, honest_side)) = (&self.hostile, &self.honest);
        // Both are used again and again, as those of dead instances are.
        seat.renew().expect("renewed");
        honest_seat.renew().expect("renewed");
        let stdin = (random.below(16) == 0).then(|| self.silent.0.try_clone().expect("a copy").into());
        let mut hostile_wasi = wasi(Some(&self.directory), [stdin, None, None]);
        let mut own = tempfile::tempfile().expect("a file");
        let mut honest_wasi = wasi(None, [None, Some(own.try_clone().expect("a copy").into()), None]);
        let (mapping, honest_mapping) = (Arc::new(Mapping::of(seat)), Mapping::of(honest_seat));
        let stop = Arc::new(AtomicBool::new(false));
        let racer = seed.is_multiple_of(8).then(|| {
            let (mapping, stop, seed) = (Arc::clone(&mapping), Arc::clone(&stop), random.next());
            std::thread::spawn(move || race(&mapping, &stop, seed))
        });
        let (requests, mut received) = mpsc::unbounded_channel();
        let (ready, _started) = oneshot::channel();
        let under_way = UnderWay::default();
        let mut conversation = seed.is_multiple_of(3).then(|| Conversation {
            requests: &mut received,
            ready: Some(ready),
            under_way: &under_way,
            explain: &|record| {
                Outcome::Trapped(Trap { message: record.kind.to_string(), backtrace: Vec::new() })
            },
            measure: &|_, output_bytes| Usage { output_bytes, ..Usage::default() },
        });
        let written = RefCell::new(Vec::new());
        let (mut attacks, mut converses, mut writes) =
            (Random(random.next()), Random(random.next()), Random(random.next()));
        let peer = Peer { ring: &mapping, doorbell: &seat.doorbell };
        let server = side.server(seat, CALLS_MAX);
        let honest_server = honest_side.server(honest_seat, u64::MAX);
        let honest_peer = Peer { ring: &honest_mapping, doorbell: &honest_seat.doorbell };
        let others = async {
            let attack = async {
                attack(&peer, &mut attacks).await;
                std::future::pending().await
            };
            let converse = async {
                converse(&requests, &mut converses).await;
                std::future::pending().await
            };
            let honest = honest(&honest_peer, &mut writes, &written, &self.answered);
            tokio::select! {
                () = attack => {},
                () = converse => {},
                () = honest => {},
                ended = honest_server.run(&mut honest_wasi, None, None) => panic!("the honest peer: {ended:?}"),
            }
        };
        let ended = tokio::select! {
            ended = server.run(&mut hostile_wasi, conversation.as_mut(), None) => Some(ended),
            () = others => None,
            () = tokio::time::sleep(PATIENCE) => None,
        };
        stop.store(true, Ordering::Relaxed);
        if let Some(racer) = racer {
            racer.join().expect("the racer ends");
        }
        assert!(side.calls.get() <= CALLS_MAX, "seed {seed}");
        // The honest peer's file has what it wrote, but for a last piece that was not answered yet.
        let (written, mut found) = (written.into_inner(), Vec::new());
        own.rewind().expect("rewound");
        own.read_to_end(&mut found).expect("read");
        assert!(written.starts_with(&found) && found.len() + 300 >= written.len(), "seed {seed}");
        kind(ended)
    }
}

#[test]
fn a_hostile_peer_ends_with_what_it_did_and_costs_nobody_else_anything() {
    let variable = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = variable("SANDBOXD_FUZZ_SEED").unwrap_or(0);
    let seconds = variable("SANDBOXD_FUZZ_SECONDS").map(Duration::from_secs);
    // A thread of this process tells when the serving one no longer does anything.
    let (progress, seen) = threads::channel::<u64>();
    let watchdog = std::thread::spawn(move || {
        let mut last = None;
        loop {
            match seen.recv_timeout(BLOCKED) {
                Ok(seed) => last = Some(seed),
                Err(threads::RecvTimeoutError::Disconnected) => return,
                Err(threads::RecvTimeoutError::Timeout) => {
                    eprintln!("blocked after seed {last:?}");
                    std::process::abort();
                }
            }
        }
    });
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("a"), "readable").expect("a file");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut kinds = BTreeMap::<String, u64>::new();
    let started = Instant::now();
    let answered = runtime.block_on(async {
        let fuzz = Fuzz {
            hostile: (Seat::new().expect("a seat"), Side::new()),
            honest: (Seat::new().expect("a seat"), Side::new()),
            directory: File::open(directory.path()).expect("the directory"),
            silent: std::io::pipe().expect("a pipe"),
            answered: Cell::new(0),
        };
        let mut before = 0;
        for seed in first.. {
            let goes_on = seconds.map_or(seed < first + PROGRAMS, |seconds| started.elapsed() < seconds);
            if !goes_on {
                break;
            }
            *kinds.entry(fuzz.program(seed).await).or_default() += 1;
            let _ = progress.send(seed);
            if seed == first + PROGRAMS / 4 {
                before = resident_kib();
            }
        }
        let now = resident_kib();
        assert!(now < before + ROOM_KIB, "resident KiB: {now} after {before}");
        fuzz.answered.get()
    });
    drop(progress);
    watchdog.join().expect("the watchdog ends");
    let programs: u64 = kinds.values().sum();
    println!(
        "{programs} programs in {:?}, {answered} honest calls beside them: {kinds:#?}",
        started.elapsed()
    );
    assert!(answered > programs, "the honest peer is served");
    assert!(kinds.len() >= 12, "in different ways");
    assert!(kinds.get("waits").copied().unwrap_or(0) < programs / 2, "most end");
    let violations: u64 = kinds
        .iter()
        .filter(|(kind, _)| !["waits", "finished"].contains(&kind.as_str()))
        .map(|(_, n)| n)
        .sum();
    assert!(violations > programs / 2, "most with a violation");
}
