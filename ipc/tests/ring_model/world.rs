//! The ring in the model checker: words and slots whose every access is checked, and what the kernel does.

use std::sync::atomic::Ordering;

use ipc::ring::atomic::Atomic;
use ipc::ring::instance::{self, InstanceEnd};
use ipc::ring::supervisor::{Next, Queues, SupervisorEnd, take_output, unwatch, watch};
use ipc::ring::{
    Completion, Index, Indices, OUTPUT_HALF, Output, Pending, Slot, Submission, output, unpack_output,
};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, AtomicU64};
use loom::sync::{Condvar, Mutex, MutexGuard};

/// What was planted in a word: orders that are weaker than what the protocol asks for.
#[derive(Clone, Copy, Default)]
pub struct Weak {
    /// Nothing that was written before is published.
    pub store: bool,
    /// Nothing that was published is seen.
    pub load: bool,
    /// Every load gives this, whatever was stored.
    pub reads: Option<u64>,
}

/// A word of the ring.
pub struct Word<A> {
    atomic: A,
    weak: Weak,
}

impl Weak {
    fn order(self, order: Ordering) -> Ordering {
        let order = match (order, self.store) {
            (Ordering::Release, true) => Ordering::Relaxed,
            (Ordering::AcqRel, true) => Ordering::Acquire,
            (order, _) => order,
        };
        match (order, self.load) {
            (Ordering::Acquire, true) => Ordering::Relaxed,
            (Ordering::AcqRel, true) => Ordering::Release,
            (order, _) => order,
        }
    }
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl Word<$atomic> {
            fn new() -> Self {
                Self { atomic: <$atomic>::new(0), weak: Weak::default() }
            }
            pub fn weaken(&mut self, weak: Weak) {
                self.weak = weak;
            }
        }
        impl Atomic<$value> for Word<$atomic> {
            fn load(&self, order: Ordering) -> $value {
                let value = self.atomic.load(self.weak.order(order));
                self.weak.reads.map_or(value, |reads| reads as $value)
            }
            fn store(&self, value: $value, order: Ordering) {
                self.atomic.store(value, self.weak.order(order));
            }
            fn swap(&self, value: $value, order: Ordering) -> $value {
                self.atomic.swap(value, self.weak.order(order))
            }
            fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                self.atomic.fetch_add(value, self.weak.order(order))
            }
            fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                let (success, failure) = (self.weak.order(success), self.weak.order(failure));
                self.atomic.compare_exchange(current, new, success, failure)
            }
        }
    };
}

word!(AtomicU32, u32);
word!(AtomicU64, u64);

/// What was planted in the kernel's part.
#[derive(Clone, Copy, Default)]
pub struct Kernel {
    /// `FUTEX_WAIT` that waits whatever the word is.
    pub waits_anyway: bool,
    /// No fences.
    pub no_fences: bool,
}

/// One ring, its doorbell, and the futex of its words.
pub struct World {
    pub indices: Indices<Word<AtomicU32>, Word<AtomicU64>>,
    submissions: Vec<UnsafeCell<Submission>>,
    completions: Vec<UnsafeCell<Completion>>,
    /// The halves of the arena's part for output, [`PIECES`] pieces each.
    halves: [[UnsafeCell<u32>; PIECES]; 2],
    doorbell: Doorbell,
    /// The kernel's hash bucket of every word: who waits is queued under its lock.
    bucket: Mutex<()>,
    waiters: Condvar,
    pub kernel: Kernel,
}

/// Pieces of output that fill one half.
pub const PIECES: usize = 2;
/// Bytes of one.
pub const PIECE: u32 = (OUTPUT_HALF / PIECES) as u32;

impl World {
    /// A new ring, of whose slots only the first so many are used.
    pub fn new(slots: usize) -> Self {
        let index = || Index(Word::<AtomicU32>::new());
        Self {
            indices: Indices {
                submission_tail: index(),
                submission_head: index(),
                completion_tail: index(),
                completion_head: index(),
                watched: index(),
                sleeping: index(),
                output: Output { pending: Pending(Word::<AtomicU64>::new()), refused: index() },
            },
            submissions: (0..slots).map(|_| UnsafeCell::default()).collect(),
            completions: (0..slots).map(|_| UnsafeCell::default()).collect(),
            halves: Default::default(),
            doorbell: Doorbell { edge: Mutex::new(false), rung: Condvar::new() },
            bucket: Mutex::new(()),
            waiters: Condvar::new(),
            kernel: Kernel::default(),
        }
    }

    /// Waits until the doorbell rings, as `supervisor/src/instance/serve.rs::wait` does.
    pub fn wait_for_doorbell(&self) {
        self.doorbell.wait();
    }

    /// Clears the doorbell's readiness without having waited, for a planted bug.
    pub fn forget_the_edge(&self) {
        *lock(&self.doorbell.edge) = false;
    }

    /// A signal, or a wake-up that was meant for an earlier wait.
    pub fn wake_without_reason(&self) {
        let _bucket = lock(&self.bucket);
        self.waiters.notify_one();
    }

    fn order_all(&self) {
        if !self.kernel.no_fences {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }

    /// The supervisor's copy of a half of the output.
    pub fn output(&self, half: u32, length: u32) -> Vec<u32> {
        let pieces = self.halves[half as usize].iter().take((length / PIECE) as usize);
        // SAFETY: the model checker fails if another thread writes the piece meanwhile.
        pieces.map(|piece| piece.with(|piece| unsafe { *piece })).collect()
    }
}

impl InstanceEnd for World {
    type Word = Word<AtomicU32>;
    type Wide = Word<AtomicU64>;

    fn indices(&self) -> &Indices<Self::Word, Self::Wide> {
        &self.indices
    }

    fn write_submission(&self, slot: Slot, submission: &Submission) {
        // SAFETY: the model checker fails if another thread uses the slot meanwhile.
        self.submissions[slot.number()].with_mut(|slot| unsafe { *slot = *submission });
    }

    fn read_completion(&self, slot: Slot) -> Completion {
        // SAFETY: as above, if it writes.
        self.completions[slot.number()].with(|slot| unsafe { *slot })
    }

    fn ring_doorbell(&self) {
        self.doorbell.ring();
    }

    /// `FUTEX_WAIT`: compares and queues under the bucket's lock. One wait only, as the kernel's.
    fn wait(&self, word: &Self::Word, value: u32) {
        let bucket = lock(&self.bucket);
        if self.kernel.waits_anyway || word.load(Ordering::Relaxed) == value {
            drop(self.waiters.wait(bucket).expect("no thread panicked"));
        }
    }

    fn fence(&self) {
        self.order_all();
    }

    fn pause(&self) {
        loom::thread::yield_now();
    }
}

impl SupervisorEnd for World {
    type Word = Word<AtomicU32>;
    type Wide = Word<AtomicU64>;

    fn indices(&self) -> &Indices<Self::Word, Self::Wide> {
        &self.indices
    }

    fn read_submission(&self, slot: Slot) -> Submission {
        // SAFETY: the model checker fails if another thread writes the slot meanwhile.
        self.submissions[slot.number()].with(|slot| unsafe { *slot })
    }

    fn write_completion(&self, slot: Slot, completion: &Completion) {
        // SAFETY: as above, if it uses it at all.
        self.completions[slot.number()].with_mut(|slot| unsafe { *slot = *completion });
    }

    /// `FUTEX_WAKE`.
    fn wake(&self, _: &Self::Word) {
        let _bucket = lock(&self.bucket);
        self.waiters.notify_one();
    }

    fn fence(&self) {
        self.order_all();
    }
}

/// An eventfd under edge-triggered epoll and tokio's readiness. Every write makes an edge, which stays until it is waited for:
/// in the kernel's list of ready files, then in the readiness. On one thread, nothing comes between seeing the readiness and
/// clearing it. Edges that nobody waited for are one.
struct Doorbell {
    edge: Mutex<bool>,
    rung: Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *lock(&self.edge) = true;
        self.rung.notify_one();
    }

    fn wait(&self) {
        let mut edge = lock(&self.edge);
        while !*edge {
            edge = self.rung.wait(edge).expect("no thread panicked");
        }
        *edge = false;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panicked")
}

/// The submission of call number `number`, which carries `piece`.
pub fn submission(number: u32, piece: u32) -> Submission {
    Submission { sequence: number, position: piece.into(), ..Submission::default() }
}

/// What a guest does: calls that are checked, and output.
pub struct Guest<'w> {
    pub world: &'w World,
    pub calls: u32,
    begun: u32,
}

impl<'w> Guest<'w> {
    pub fn new(world: &'w World) -> Self {
        Self { world, calls: 0, begun: 0 }
    }

    /// Goes on in the half that was used last, for a planted bug.
    pub fn forget_the_half(&mut self) {
        self.begun = 0;
    }

    /// Makes a call.
    pub fn call(&mut self, piece: u32) {
        self.calls += 1;
        is_answer(self.calls, instance::call(self.world, &submission(self.calls, piece)));
    }

    /// Writes a piece of output, by a call if it cannot be queued.
    pub fn write(&mut self, piece: u32) {
        let copy = |half: u32, at: u32| {
            let place = &self.world.halves[half as usize][(at / PIECE) as usize];
            // SAFETY: the model checker fails if another thread uses the piece meanwhile.
            place.with_mut(|place| unsafe { *place = piece });
            Some(())
        };
        let ring = || self.world.doorbell.ring();
        if output::queue(&self.world.indices.output, &mut self.begun, 1, PIECE, copy, ring).is_none() {
            self.call(piece);
        }
    }
}

/// Fails unless this is the answer to call number `number`.
pub fn is_answer(number: u32, completion: Completion) {
    assert_eq!((completion.sequence, completion.value), (number, answer(number)));
}

/// The value that is answered to call number `number`.
pub fn answer(number: u32) -> u64 {
    0x1000 + u64::from(number)
}

/// The supervisor: what it was told so far, and what was written.
#[derive(Default)]
pub struct Serving {
    pub queues: Queues,
    pub calls: u32,
    pub written: Vec<u32>,
}

impl Serving {
    /// One turn of the loop `supervisor/src/instance/serve.rs::Server::run`.
    pub fn turn(&mut self, world: &World) {
        match self.queues.look(world).expect("an honest peer") {
            Next::Nothing => world.wait_for_doorbell(),
            Next::Output => self.output(world),
            Next::Call => {
                self.output(world);
                let submission = self.queues.take(world).expect("it was there");
                self.answer(world, submission);
            }
        }
    }

    /// The same while this side watches: it looks once more than needed, then stops watching, looks, and waits.
    pub fn watching_turn(&mut self, world: &World) {
        watch(world, 1);
        if self.queues.look(world).expect("an honest peer") == Next::Nothing {
            loom::thread::yield_now();
            if self.queues.look(world).expect("an honest peer") == Next::Nothing {
                // With looks one time, without another.
                unwatch(world, self.calls & 1);
            }
        }
        self.turn(world);
    }

    pub fn answer(&mut self, world: &World, submission: Submission) {
        self.calls += 1;
        assert_eq!(submission.sequence, self.calls, "each call once, in order");
        // Without a piece of output it is another call.
        self.written.extend(u32::try_from(submission.position).ok().filter(|piece| *piece != 0));
        let completion =
            Completion { sequence: self.calls, value: answer(self.calls), ..Completion::default() };
        self.queues.complete(world, &completion).expect("an honest peer");
    }

    pub fn output(&mut self, world: &World) {
        let (stream, half, length) = unpack_output(take_output(world));
        if stream != 0 {
            self.written.extend(world.output(half, length));
        }
    }
}
