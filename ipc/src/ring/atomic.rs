//! Atomics of the ring, those of the processor or those of a model checker.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// An atomic word that both sides share. The protocol is written over this trait, so that a model checker runs the very code that
/// instances and the supervisor run (`ipc/tests/ring_model`).
pub trait Atomic<V> {
    /// As [`AtomicU32::load`].
    fn load(&self, order: Ordering) -> V;
    /// As [`AtomicU32::store`].
    fn store(&self, value: V, order: Ordering);
    /// As [`AtomicU32::swap`].
    fn swap(&self, value: V, order: Ordering) -> V;
    /// As [`AtomicU32::fetch_add`].
    fn fetch_add(&self, value: V, order: Ordering) -> V;
    /// As [`AtomicU32::compare_exchange`].
    fn compare_exchange(&self, current: V, new: V, success: Ordering, failure: Ordering) -> Result<V, V>;
}

macro_rules! atomic {
    ($atomic:ty, $value:ty) => {
        impl Atomic<$value> for $atomic {
            #[inline(always)]
            fn load(&self, order: Ordering) -> $value {
                self.load(order)
            }
            #[inline(always)]
            fn store(&self, value: $value, order: Ordering) {
                self.store(value, order);
            }
            #[inline(always)]
            fn swap(&self, value: $value, order: Ordering) -> $value {
                self.swap(value, order)
            }
            #[inline(always)]
            fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                self.fetch_add(value, order)
            }
            #[inline(always)]
            fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
