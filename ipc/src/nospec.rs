//! Indices that stay in range also where the processor runs ahead of the check (Spectre variant 1).
//!
//! A bounds check is a branch, and a branch is predicted: behind one that was right often enough, the processor goes on with
//! an index that is out of bounds, and what it loads there leaves traces in the caches before it notices. So an index or a
//! length that another process chooses is checked as always, and then clamped by arithmetic on the way to the access. No branch is
//! in that, and the compiler cannot make one: the arithmetic is assembly.

/// `value`, which was checked to be below `bound`; 0 where the processor has not noticed yet that it is not.
#[inline(always)]
pub fn below(value: usize, bound: usize) -> usize {
    // A branch, not arithmetic: that would still wait for the bound, which is half of what the mask does.
    #[cfg(all(feature = "weakened", debug_assertions))]
    if weakened::is_off() {
        return value;
    }
    value & arch::mask(value, bound)
}

/// The smaller of the two.
#[inline(always)]
pub fn at_most(value: usize, most: usize) -> usize {
    most ^ ((most ^ value) & arch::mask(value, most))
}

/// `mask(value, bound)`: all ones if `value < bound`, else 0.
#[cfg(target_arch = "x86_64")]
mod arch {
    /// The borrow of a comparison, spread over a register. Linux does the same (`array_index_mask_nospec`).
    #[inline(always)]
    pub(super) fn mask(value: usize, bound: usize) -> usize {
        let mask: usize;
        // SAFETY: arithmetic on registers. The inputs are read before the output is written.
        unsafe {
            core::arch::asm!("cmp {value}, {bound}", "sbb {mask}, {mask}",
                value = in(reg) value, bound = in(reg) bound, mask = lateout(reg) mask,
                options(pure, nomem, nostack));
        }
        mask
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod arch {
    /// In plain arithmetic: that the compiler makes no branch of it is a hope here, not a promise.
    #[inline(always)]
    pub(super) fn mask(value: usize, bound: usize) -> usize {
        usize::from(core::hint::black_box(value.overflowing_sub(bound).1)).wrapping_neg()
    }
}

/// [`below`] can be switched off: what an attack is tried against, to show what the mask is good for. For tests only, and only with
/// assertions: a build of the whole workspace has every feature that a test asks for, and no program should have this.
#[cfg(feature = "weakened")]
pub mod weakened {
    use core::sync::atomic::{AtomicBool, Ordering};

    static OFF: AtomicBool = AtomicBool::new(false);

    #[cfg(debug_assertions)]
    #[inline(always)]
    pub(super) fn is_off() -> bool {
        OFF.load(Ordering::Relaxed)
    }

    /// Switches it off, or on again, in this whole process. `false` if this build cannot.
    pub fn switch_off(off: bool) -> bool {
        OFF.store(off, Ordering::Relaxed);
        cfg!(debug_assertions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [usize; 9] = [0, 1, 2, 63, 64, 65, usize::MAX / 2, usize::MAX - 1, usize::MAX];

    #[test]
    fn values_in_range_stay_and_others_do_not() {
        for value in VALUES {
            for bound in VALUES {
                assert_eq!(below(value, bound), if value < bound { value } else { 0 }, "{value} {bound}");
                assert_eq!(at_most(value, bound), value.min(bound), "{value} {bound}");
            }
        }
    }
}
