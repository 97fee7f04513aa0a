//! Spectre variant 1, tried: in this process, from an instance against its neighbour's memory, and against what the supervisor does
//! with an instance's submissions. How much an attack recovers depends on the processor and is printed (`--nocapture`);
//! what is asserted holds on any.

use std::hint::black_box;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc::interface::{FUNCTIONS, FunctionId};
use ipc::job::{ARENA_BYTES, ARENA_OFFSET};
use ipc::layout::{MEMORY_BASE, PAGE, RING_BASE};
use ipc::nospec;
use ipc::ring::{Submission, pack_range};
use policies::Policy;
use supervisor::PoolLimits;
use supervisor::hostcall::{HostCall, SharedRegion};
use whole_system_tests::attacker::{Attacker, address_of};
use whole_system_tests::native::Native;
use whole_system_tests::side_channel::{
    ATTEMPTS, GADGET, Gadget, MASKED_GADGET, Order, STRIDE, flush, threshold, time,
};

/// One at a time: they measure, and the mask is switched for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same for what runs instances.
fn run_alone(attack: impl Future<Output = ()>) {
    let _alone = alone();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(attack);
}

/// The mask is off as long as this lives.
struct Unmasked;

impl Unmasked {
    fn new() -> Self {
        if !nospec::weakened::switch_off(true) {
            println!(
                "NOT CHECKED: a build without assertions cannot be without the mask; what follows has it"
            );
        }
        Self
    }
}

impl Drop for Unmasked {
    fn drop(&mut self) {
        nospec::weakened::switch_off(false);
    }
}

/// Bits that nobody can guess.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let file = std::fs::File::open("/dev/urandom").expect("/dev/urandom");
    std::io::Read::read_exact(&mut &file, &mut bytes).expect("random bytes");
    bytes
}

/// What an attack on a secret saw: attempts in which the line of a one was near, for the ones and for the zeros of the secret.
#[derive(Default)]
struct Seen {
    ones: Vec<u32>,
    zeros: Vec<u32>,
}

impl Seen {
    fn put(&mut self, bit: bool, hits: u32) {
        if bit { &mut self.ones } else { &mut self.zeros }.push(hits);
    }

    /// Bits that are told right if one attempt in 32 makes a one, of how many.
    fn right(&self) -> (usize, usize) {
        let is_one = |hits: &&u32| **hits >= ATTEMPTS / 32;
        let ones = self.ones.iter().filter(is_one).count();
        let zeros = self.zeros.len() - self.zeros.iter().filter(is_one).count();
        (ones + zeros, self.ones.len() + self.zeros.len())
    }

    fn print(&self, what: &str) {
        let share = |hits: &[u32]| {
            100.0 * f64::from(hits.iter().sum::<u32>()) / (hits.len().max(1) as f64 * f64::from(ATTEMPTS))
        };
        let (right, of) = self.right();
        println!(
            "{what}: {right} of {of} bits right; the line of a one near in {:.2} % of attempts on ones, {:.2} % on zeros",
            share(&self.ones),
            share(&self.zeros)
        );
    }

    /// The same for an attack that nothing is done against. Where it does not succeed, that it does not elsewhere shows little.
    fn print_open(&self, what: &str) {
        self.print(what);
        let (right, of) = self.right();
        if right < of * 9 / 10 {
            println!("NOT CHECKED: {what}: the attack does not work on this processor");
        }
    }

    /// That ones do not look different from zeros: a secret cannot be read from that.
    #[track_caller]
    fn assert_nothing(&self) {
        let seen = |hits: &[u32]| {
            hits.iter().filter(|hits| **hits >= ATTEMPTS / 32).count() as f64 / hits.len().max(1) as f64
        };
        let (ones, zeros) = (seen(&self.ones), seen(&self.zeros));
        assert!(ones - zeros < 0.25, "{ones} of the ones, {zeros} of the zeros: {:?}", self.ones);
    }
}

/// Memory of this process with everything that an attack needs, each on pages of its own.
struct Arena(Vec<u8>);

impl Arena {
    const PAGE: usize = PAGE as usize;

    fn new() -> Self {
        Self(vec![0; 10 * Self::PAGE])
    }

    fn page(&self, number: usize) -> *mut u8 {
        let start = self.0.as_ptr().addr().next_multiple_of(Self::PAGE) - self.0.as_ptr().addr();
        self.0.as_ptr().wrapping_add(start + number * Self::PAGE).cast_mut()
    }

    fn bound(&self) -> *mut u64 {
        self.page(0).cast()
    }

    fn table(&self) -> *mut u8 {
        self.page(2)
    }

    fn secret(&self) -> *mut u8 {
        self.page(4)
    }

    fn probe(&self) -> *mut u8 {
        self.page(6)
    }
}

/// A secret behind a bounds check in this very process: that this processor can be attacked in this way at all, and that the
/// mask stops it.
#[test]
fn a_bounds_check_of_this_process_leaks_without_the_mask_and_not_with_it() {
    let _alone = alone();
    let threshold = threshold() as u32;
    println!("threshold: {threshold} cycles");
    let secret = random::<16>();
    let memory = Arena::new();
    // SAFETY: inside the memory, which nothing else refers to.
    unsafe {
        memory.bound().write_volatile(8);
        memory.secret().copy_from_nonoverlapping(secret.as_ptr(), secret.len());
    }
    let attack = |gadget: Gadget| {
        let mut seen = Seen::default();
        for (at, byte) in secret.iter().enumerate() {
            let index = memory.secret().addr() + at - memory.table().addr();
            for bit in 0..8 {
                // SAFETY: the bound is 8, and the table has 8 bytes and more; the index is beyond it, so no byte is read there but
                // in vain.
                let hits =
                    unsafe { gadget(memory.bound(), memory.table(), index, memory.probe(), bit, threshold) };
                seen.put(byte >> bit & 1 == 1, hits);
            }
        }
        seen
    };
    let open = attack(GADGET);
    open.print_open("own process, no mask");
    let masked = attack(MASKED_GADGET);
    masked.print("own process, masked");
    masked.assert_nothing();

    // The same against the very function that the supervisor uses.
    let attack = || {
        let mut seen = Seen::default();
        for (at, byte) in secret.iter().enumerate() {
            let index = memory.secret().addr() + at - memory.table().addr();
            for bit in 0..8 {
                seen.put(byte >> bit & 1 == 1, attack_rust(&memory, index, bit, threshold));
            }
        }
        seen
    };
    let unmasked = Unmasked::new();
    let open = attack();
    drop(unmasked);
    open.print_open("nospec::below, switched off");
    let masked = attack();
    masked.print("nospec::below");
    masked.assert_nothing();
}

fn attack_rust(memory: &Arena, index: usize, bit: u32, threshold: u32) -> u32 {
    let (bound, table, probe) = (memory.bound(), memory.table(), memory.probe());
    let one = probe.wrapping_add(STRIDE);
    let mut hits = 0;
    let mut order = Order::default();
    for _ in 0..ATTEMPTS * 8 {
        flush(bound.cast());
        flush(one);
        let inside = order.draw() as usize;
        let outside = usize::from(inside == 0).wrapping_neg();
        victim(bound, table, inside ^ ((inside ^ index) & outside), probe, bit);
        if inside == 0 {
            hits += u32::from(time(one) < u64::from(threshold));
        }
    }
    hits
}

/// Written so that little stands between check and access, also where nothing is optimised: a processor runs ahead by some hundred
/// instructions only.
#[inline(never)]
fn victim(bound: *const u64, table: *const u8, index: usize, probe: *const u8, bit: u32) {
    // SAFETY: the bound is readable; the index is below it, as far as programs can see, and the table and the probe are as large.
    unsafe {
        let bound = *bound as usize;
        if index < bound {
            let value = *table.wrapping_add(nospec::below(index, bound)) as usize >> bit & 1;
            black_box(*probe.wrapping_add(value * STRIDE));
        }
    }
}

/// Parks nothing: nobody else works while this measures.
async fn attacker() -> Attacker {
    Attacker::with_pool(Policy::builtin("default").unwrap(), PoolLimits { min: 0, max: 0 }).await
}

/// An attack from inside of an instance finds what is mapped there, and of its neighbour's memory nothing, although it is at the
/// same address: there is no translation for it.
#[test]
fn a_neighbours_memory_is_out_of_reach() {
    run_alone(attack_neighbour());
}

async fn attack_neighbour() {
    const BOUND: u64 = MEMORY_BASE + 0x1000;
    const TABLE: u64 = MEMORY_BASE + 0x3000;
    const OWN: u64 = MEMORY_BASE + 0x5000;
    const PROBE: u64 = MEMORY_BASE + 0x8000;
    // Of the second page of a memory that may have two.
    const OTHERS: u64 = MEMORY_BASE + 0x1_0000;
    const RW: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let attacker = attacker().await;
    let mut native = Native::of(attacker.session_of("one").await);
    let mut neighbour = Native::of(attacker.session_of("two").await);
    let secret = random::<8>();
    let word = u64::from_le_bytes(secret);
    assert_eq!(neighbour.syscall(libc::SYS_mprotect, &[OTHERS, 0x1_0000, RW]).await, 0);
    neighbour.call("poke", &[OTHERS, word]).await;
    native.call("poke", &[BOUND, 8]).await;
    native.call("poke", &[OWN, word]).await;
    native.call("poke", &[PROBE, 0]).await;
    native.call("poke", &[PROBE + STRIDE as u64, 0]).await;
    let threshold = native.call("threshold", &[PROBE]).await as u64;
    println!("threshold in an instance: {threshold} cycles");
    let mut attack = async |address: u64| {
        let mut seen = Seen::default();
        for (at, byte) in (0u64..).zip(secret) {
            for bit in 0..8 {
                // The neighbour uses its secret, so it is in the caches.
                assert_eq!(neighbour.call("peek", &[OTHERS]).await as u64, word);
                let index = address + at - TABLE;
                let args = [BOUND, TABLE, index, PROBE, bit, threshold];
                seen.put(byte >> bit & 1 == 1, native.call("gadget", &args).await as u32);
            }
        }
        seen
    };
    let own = attack(OWN).await;
    own.print_open("instance, its own memory");
    let others = attack(OTHERS).await;
    others.print("instance, its neighbour's memory");
    others.assert_nothing();
}

/// How well two groups of times can be told apart: a threshold is taken from the first half, and the second half is told by it.
fn told_apart(trials: &[(bool, u64)]) -> (u64, u64, f64) {
    let (first, second) = trials.split_at(trials.len() / 2);
    let median = |touched: bool| {
        let mut times: Vec<u64> =
            first.iter().filter(|trial| trial.0 == touched).map(|trial| trial.1).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(0)
    };
    let (near, far) = (median(true), median(false));
    let right = second.iter().filter(|(touched, time)| (*time < near.midpoint(far)) == *touched).count();
    (near, far, right as f64 / second.len() as f64)
}

/// Whether one instance sees what the code of another touches: only where they have the same physical page.
#[test]
fn flush_and_reload_needs_a_shared_page_and_tenants_have_none() {
    run_alone(spy_on_code());
}

async fn spy_on_code() {
    let attacker = attacker().await;
    let line = address_of("lines") + 4096;
    let spy_on = async |tenant: &str| {
        let mut spy = Native::of(attacker.session_of("one").await);
        let mut victim = Native::of(attacker.session_of(tenant).await);
        let mut trials = Vec::new();
        for bits in random::<100>() {
            for bit in 0..8 {
                let touches = bits >> bit & 1 == 1;
                spy.call("time", &[line]).await;
                victim.call("peek", &[if touches { line } else { MEMORY_BASE }]).await;
                trials.push((touches, spy.call("time", &[line]).await as u64));
            }
        }
        let (near, far, right) = told_apart(&trials);
        println!(
            "flush and reload on tenant {tenant:?} from \"one\": median {near} cycles touched, {far} not; {:.1} % right",
            100.0 * right
        );
        right
    };
    if spy_on("one").await < 0.9 {
        println!("NOT CHECKED: flush and reload does not work between instances with shared pages either");
    }
    let right = spy_on("two").await;
    assert!(right < 0.65, "{right}");
}

/// The one check of the ring whose index an instance chooses freely and once: the number of the function. Tried in this process, with
/// everything laid out for the attacker as no instance can have it.
#[test]
fn the_check_of_a_submission_leaks_nothing() {
    let _alone = alone();
    // Functions that lie far apart in the table that is indexed by what the first table held.
    const ZERO: u32 = 5;
    const ONE: u32 = 40;
    static SECRET: [std::sync::atomic::AtomicU32; 256] =
        [const { std::sync::atomic::AtomicU32::new(ZERO) }; 256];
    let secret = &SECRET[128];
    let numbers = ipc::interface::weakened::numbers();
    let distance = secret.as_ptr().addr().checked_sub(numbers.as_ptr().addr());
    let Some(outside) = distance.and_then(|distance| u32::try_from(distance / size_of::<FunctionId>()).ok())
    else {
        println!("NOT CHECKED: nothing of this process lies where the table of functions leads");
        return;
    };
    let threshold = threshold();
    let mut bytes = vec![0u8; ARENA_BYTES];
    // SAFETY: the bytes live as long as the region, and nothing else refers to them.
    let arena = unsafe { SharedRegion::new(bytes.as_mut_ptr(), bytes.len()) };
    // What a check looks at first.
    let line = (&raw const FUNCTIONS[ONE as usize].args).cast::<u8>();
    let touched = (0..ATTEMPTS).filter(|_| {
        flush(line);
        let call = Submission { function: ONE, ..Submission::default() };
        let _ = black_box(HostCall::check(black_box(&call), arena));
        time(line) < threshold
    });
    println!(
        "number of a function, called by its number: near in {} of {ATTEMPTS} attempts",
        touched.count()
    );
    let attack = || {
        let mut seen = Seen::default();
        for value in [ZERO, ONE].repeat(16) {
            secret.store(value, std::sync::atomic::Ordering::Relaxed);
            let mut hits = 0;
            let mut order = Order::default();
            for _ in 0..ATTEMPTS * 8 {
                let inside = order.draw();
                let is_outside = u32::from(inside == 0).wrapping_neg();
                let function = inside ^ ((inside ^ outside) & is_outside);
                let submission = Submission { function, ..Submission::default() };
                black_box(secret.load(std::sync::atomic::Ordering::Relaxed));
                flush(line);
                let checked = black_box(HostCall::check(black_box(&submission), arena));
                if inside == 0 {
                    hits += u32::from(time(line) < threshold);
                    assert!(checked.is_err());
                }
            }
            seen.put(value == ONE, hits);
        }
        seen
    };
    let unmasked = Unmasked::new();
    attack().print("number of a function, no mask");
    drop(unmasked);
    let masked = attack();
    masked.print("number of a function, masked");
    masked.assert_nothing();
}

/// The check that an instance can train: the number of a descriptor, which may be wrong as often as it likes. What would be touched
/// behind it, a place in the arena of the instance's choice, it can watch.
#[test]
fn a_trained_check_of_descriptors_shows_nothing_on_the_ring() {
    run_alone(train_descriptors());
}

async fn train_descriptors() {
    let attacker = attacker().await;
    let mut native = Native::of(attacker.session().await);
    let arena = RING_BASE + ARENA_OFFSET as u64;
    let fdstat = u64::from(FunctionId::fd_fdstat_get.number());
    // Where the answer goes, and elsewhere.
    let (watched, elsewhere) = (1u32 << 20, 2u32 << 20);
    let mut ask = async |descriptor: u64, at: u32, bytes: usize| {
        let args = [fdstat, descriptor, pack_range(at, 24), arena + u64::from(watched), bytes as u64];
        let answer = native.call("ask", &args).await as u64;
        (answer >> 32, answer & 0xffff_ffff)
    };
    const BAD: u64 = 8;
    let (good, bad) = ((1, 0), (1000, BAD));
    // What is watched after seven calls that teach the check what to expect.
    let mut after = async |training: (u64, u64), watched_call: (u64, u64)| {
        for _ in 0..7 {
            assert_eq!(ask(training.0, elsewhere, 0).await.0, training.1);
        }
        let (answer, time) = ask(watched_call.0, watched, ARENA_BYTES).await;
        assert_eq!(answer, watched_call.1);
        time
    };
    // In turns, so that whatever else the machine does is the same for all of them.
    let (mut touched, mut untouched, mut open, mut masked) = (vec![], vec![], vec![], vec![]);
    for _ in 0..200 {
        touched.push(after(good, good).await);
        untouched.push(after(bad, bad).await);
        let unmasked = Unmasked::new();
        open.push(after(good, bad).await);
        drop(unmasked);
        masked.push(after(good, bad).await);
    }
    let median = |times: &[u64]| {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let (near, far) = (median(&touched), median(&untouched));
    let share = |times: &[u64]| {
        times.iter().filter(|time| **time < near.midpoint(far)).count() as f64 / times.len() as f64
    };
    println!("median {near} cycles where the supervisor wrote, {far} where it did not");
    let (touched, untouched) = (share(&touched), share(&untouched));
    let (open, masked) = (share(&open), share(&masked));
    println!(
        "the watched line was near: {:.1} % when written, {:.1} % when not; refused after training, {:.1} % without the mask, {:.1} % \
         with it",
        100.0 * touched,
        100.0 * untouched,
        100.0 * open,
        100.0 * masked
    );
    if touched < 0.8 || untouched > 0.2 {
        println!("NOT CHECKED: the instance cannot tell whether the supervisor has touched a line");
        return;
    }
    assert!(masked - untouched < 0.25, "{masked} near, {untouched} where nothing was touched");
}

/// What this program is asked to show of its own machine code.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sandboxd_test_shape_below(value: usize, bound: usize) -> usize {
    nospec::below(value, bound)
}

/// The same.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sandboxd_test_shape_at_most(value: usize, most: usize) -> usize {
    nospec::at_most(value, most)
}

/// A mask that the compiler has made a branch of would be predicted, and no use.
#[test]
fn the_mask_is_arithmetic_in_the_machine_code() {
    black_box((sandboxd_test_shape_below(1, 2), sandboxd_test_shape_at_most(1, 2)));
    for (symbol, branches) in [
        // One: whether the mask is switched off, which only tests can.
        ("sandboxd_test_shape_below", usize::from(cfg!(debug_assertions))),
        ("sandboxd_test_shape_at_most", 0),
    ] {
        let mut objdump = std::process::Command::new("objdump");
        objdump.args(["--no-show-raw-insn", &format!("--disassemble={symbol}")]);
        let Ok(output) = objdump.arg(std::env::current_exe().unwrap()).output() else {
            println!("NOT CHECKED: there is no objdump");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mnemonics: Vec<&str> =
            text.lines().filter_map(|line| line.split_once(":\t")?.1.split_whitespace().next()).collect();
        assert!(mnemonics.contains(&"sbb"), "{text}");
        let jumps = mnemonics.iter().filter(|name| name.starts_with('j') && **name != "jmp").count();
        assert!(jumps <= branches, "{text}");
    }
}
