//! What the shim knows of the guest's descriptors, so that it need not ask: what kind each is, and where in a regular file.
//!
//! The supervisor tells what `path_open` opened, and answers every call that changes a descriptor before this table does. So
//! it says what the supervisor would say. A descriptor that is not in it is the supervisor's alone: all calls go there.

use core::cell::UnsafeCell;

use ipc::interface::FunctionId;

use crate::direct::{self, Way};
use crate::guest_memory::GuestMemory;
use crate::marshal::{self, Answer, errno};
use crate::{output, state};

/// Descriptors below this number can be known.
const KNOWN_MAX: usize = 256;

/// `filetype` of a regular file.
const REGULAR_FILE: u8 = 4;

/// Rights without which a position is not the shim's to tell.
const FD_SEEK: u64 = 1 << 2;
const FD_TELL: u64 = 1 << 5;

/// `whence` of `fd_seek`.
mod whence {
    pub const SET: u64 = 0;
    pub const CUR: u64 = 1;
}

/// What is known of one descriptor.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Its `fdstat`; all zero: nothing is known.
    stat: [u64; 3],
    /// Where in a regular file that the guest opened.
    position: u64,
    /// It is such a file.
    is_file: bool,
    /// How often its data was read or written through the supervisor. From [`WORTH_ASKING`] on it is not asked for any more.
    uses: u8,
}

const UNKNOWN: Known = Known { stat: [0; 3], position: 0, is_file: false, uses: 0 };

/// Reads and writes after which a file is asked for. Asking and giving back cost as much as two of them.
const WORTH_ASKING: u8 = 3;
const REFUSED: u8 = WORTH_ASKING;

impl Known {
    /// Whether it was opened to append, or set to.
    fn appends(&self) -> bool {
        // Bytes 2 and 3 of a `fdstat`.
        self.stat[0] >> 16 & 1 != 0
    }
}

struct Table(UnsafeCell<[Known; KNOWN_MAX]>);
// SAFETY: the process has one thread; the signal handler does not look here.
unsafe impl Sync for Table {}
// Among the initialised data, although it need not be: memory for what is not would be a mapping of its own, which every fork copies.
#[unsafe(link_section = ".data")]
static TABLE: Table = Table(UnsafeCell::new([UNKNOWN; KNOWN_MAX]));

/// The entry of a descriptor, if it can have one.
fn entry(fd: u64) -> Option<*mut Known> {
    let index = fd as u32 as usize;
    // SAFETY: `index` is below the length of the table.
    (index < KNOWN_MAX).then(|| unsafe { TABLE.0.get().cast::<Known>().add(index) })
}

fn get(fd: u64) -> Known {
    // SAFETY: an entry of the table, to which nobody has a reference.
    entry(fd).map_or(UNKNOWN, |known| unsafe { known.read() })
}

fn set(fd: u64, known: Known) {
    if let Some(entry) = entry(fd) {
        // SAFETY: as in `get`.
        unsafe { entry.write(known) };
    }
}

/// Makes a call that the supervisor serves, or answers it from what is known. Returns the WASI error number.
///
/// # Safety
/// `frame` must hold one readable word per parameter of `function`.
pub unsafe fn call(function: FunctionId, frame: *const u64) -> u32 {
    // SAFETY: only indices below the function's number of parameters are used in its arm below.
    let word = |index: usize| unsafe { frame.add(index).read() };
    // SAFETY: by the contract.
    let ask = |position| unsafe { marshal::call(function, frame, position) };
    match function {
        FunctionId::fd_fdstat_get => {
            let known = get(word(0));
            if known.stat == [0; 3] {
                return ask(None).errno;
            }
            state::with(|s| s.local_calls += 1);
            let bytes = size_of_val(&known.stat) as u64;
            // SAFETY: `stat` is that many readable bytes.
            let written =
                unsafe { GuestMemory::current().write(word(1) as u32, known.stat.as_ptr().cast(), bytes) };
            written.map_or(errno::FAULT, |()| 0)
        }
        FunctionId::fd_tell | FunctionId::fd_seek if get(word(0)).is_file => {
            let known = get(word(0));
            let (target, result) = match function {
                FunctionId::fd_tell => (Some(known.position), word(1)),
                _ => match word(2) as u32 as u64 {
                    whence::SET => (0u64.checked_add_signed(word(1) as i64), word(3)),
                    whence::CUR => (known.position.checked_add_signed(word(1) as i64), word(3)),
                    // The end of the file is the supervisor's to know.
                    _ => return at_position(word(0), known, ask),
                },
            };
            let memory = GuestMemory::current();
            if memory.check(result as u32, 8).is_err() {
                return errno::FAULT;
            }
            let Some(position) = target else { return errno::INVALID };
            state::with(|s| s.local_calls += 1);
            set(word(0), Known { position, ..known });
            memory.write_u64(result as u32, position).map_or(errno::FAULT, |()| 0)
        }
        FunctionId::fd_read | FunctionId::fd_write if get(word(0)).is_file => {
            let (fd, known) = (word(0), get(word(0)));
            let way = if function == FunctionId::fd_read { Way::Read } else { Way::Write };
            match directly(way, fd, word(1), word(2), known.position, word(3)) {
                Some(moved) => {
                    set(fd, Known { position: known.position + u64::from(moved), ..get(fd) });
                    0
                }
                None => at_position(fd, get(fd), ask),
            }
        }
        FunctionId::fd_write => {
            let result = word(3) as u32;
            let memory = GuestMemory::current();
            let queued = memory
                .check(result, 4)
                .ok()
                .and_then(|()| output::queue(word(0) as u32, word(1) as u32, word(2) as u32));
            let Some(bytes) = queued else { return ask(None).errno };
            state::with(|s| s.local_calls += 1);
            memory.write_u32(result, bytes).map_or(errno::FAULT, |()| 0)
        }
        FunctionId::fd_pread | FunctionId::fd_pwrite if get(word(0)).is_file => {
            let way = if function == FunctionId::fd_pread { Way::Read } else { Way::Write };
            match directly(way, word(0), word(1), word(2), word(3), word(4)) {
                Some(_) => 0,
                None => ask(None).errno,
            }
        }
        FunctionId::path_open => {
            let Answer { errno, value, opened } = ask(None);
            if errno == 0 {
                let is_file = opened[0] as u8 == REGULAR_FILE;
                // Without these rights the guest must be told so, which the supervisor does.
                let movable = opened[1] & (FD_SEEK | FD_TELL) == FD_SEEK | FD_TELL;
                set(
                    value,
                    if movable || !is_file { Known { stat: opened, is_file, ..UNKNOWN } } else { UNKNOWN },
                );
            }
            errno
        }
        FunctionId::fd_close => {
            direct::give_back(word(0) as u32);
            let errno = ask(None).errno;
            if errno == 0 {
                set(word(0), UNKNOWN);
                output::lose(word(0) as u32);
            }
            errno
        }
        FunctionId::fd_renumber => renumber(word(0), word(1), ask),
        FunctionId::fd_fdstat_set_rights => {
            // From here on every call may be refused, so the supervisor must see them all, and knows where the file is.
            direct::give_back(word(0) as u32);
            let known = get(word(0));
            let errno = ask(known.is_file.then_some(known.position)).errno;
            if errno == 0 {
                set(word(0), UNKNOWN);
                output::lose(word(0) as u32);
            }
            errno
        }
        FunctionId::fd_fdstat_set_flags => {
            let errno = ask(None).errno;
            // A stream that does not wait says how much it took.
            output::lose(word(0) as u32);
            let known = get(word(0));
            if errno == 0 && known.is_file {
                // Bytes 2 and 3 of a `fdstat`.
                let flags = u64::from(word(1) as u16) << 16;
                let first = known.stat[0] & !0xFFFF_0000 | flags;
                set(word(0), Known { stat: [first, known.stat[1], known.stat[2]], ..known });
            }
            errno
        }
        _ => ask(None).errno,
    }
}

/// Reads or writes a file without the supervisor, if it is here or worth asking for: how many bytes, which are also written to
/// `result`. `None`: it was not done.
fn directly(way: Way, fd: u64, array: u64, pairs: u64, offset: u64, result: u64) -> Option<u32> {
    let known = get(fd);
    if !direct::is_possible() || way == Way::Write && known.appends() {
        return None;
    }
    let number = direct::number(fd as u32).or_else(|| {
        let uses = known.uses.saturating_add(1);
        set(fd, Known { uses, ..known });
        if uses != WORTH_ASKING {
            return None;
        }
        let number = direct::obtain(fd as u32);
        // What makes room for another file is asked for again, what is refused never.
        set(fd, Known { uses: if number.is_some() { 0 } else { REFUSED }, ..known });
        number
    })?;
    let memory = GuestMemory::current();
    memory.check(result as u32, 4).ok()?;
    let moved = direct::transfer(way, number, offset, array as u32, pairs as u32)?;
    state::with(|s| s.local_calls += 1);
    memory.write_u32(result as u32, moved).ok()?;
    Some(moved)
}

/// A call about a file whose position is known, which it may move.
fn at_position(fd: u64, known: Known, ask: impl Fn(Option<u64>) -> Answer) -> u32 {
    let Answer { errno, value, .. } = ask(Some(known.position));
    if errno == 0 {
        set(fd, Known { position: value, ..known });
    }
    errno
}

/// `fd_renumber`: what is known moves along.
fn renumber(from: u64, to: u64, ask: impl Fn(Option<u64>) -> Answer) -> u32 {
    direct::give_back(from as u32);
    direct::give_back(to as u32);
    let known = get(from);
    // The position goes with the call: the descriptor may get a number that cannot be known.
    let errno = ask(known.is_file.then_some(known.position)).errno;
    if errno == 0 && from as u32 != to as u32 {
        set(from, UNKNOWN);
        set(to, known);
        output::lose(from as u32);
        output::lose(to as u32);
    }
    errno
}
