//! Handles: what a guest holds of the host app's things, by number.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interface::HandleCheck;

/// Handles of one job that are open at the same time, at most.
pub const HANDLES_MAX: usize = 65_535;

type Thing = Arc<dyn Any + Send + Sync>;

/// The handles of one job to things of one interface.
///
/// A handle is a generation in its high half and a place in its low half. The generation of a place goes up with every handle that is
/// removed from it, and a place whose generations are used up is not used again: a stale handle is never another thing's. Generations begin
/// at 1, so 0 is no handle.
#[derive(Default)]
pub(crate) struct Handles(Mutex<State>);

#[derive(Default)]
struct State {
    places: Vec<Slot>,
    /// Places that hold nothing and can be used again.
    free: Vec<u16>,
    closed: bool,
}

struct Slot {
    generation: u16,
    /// A number of the interface's types, and the thing.
    thing: Option<(usize, Thing)>,
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let open = state.places.iter().filter(|slot| slot.thing.is_some()).count();
        f.debug_struct("Handles").field("open", &open).field("closed", &state.closed).finish()
    }
}

impl Handles {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock only means that another thread panicked between two complete states.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle to a thing; an error says why there is none.
    pub(crate) fn insert(&self, kind: usize, thing: Thing) -> Result<u32, String> {
        let mut state = self.lock();
        if state.closed {
            return Err("the job has ended, and its handles with it".to_owned());
        }
        let place = match state.free.pop() {
            Some(place) => place,
            None if state.places.len() < HANDLES_MAX => {
                state.places.push(Slot { generation: 1, thing: None });
                (state.places.len() - 1) as u16
            }
            None => return Err(format!("the job has {HANDLES_MAX} handles, which is the limit")),
        };
        let slot = state.places.get_mut(usize::from(place)).ok_or("a place that does not exist")?;
        slot.thing = Some((kind, thing));
        Ok(u32::from(slot.generation) << 16 | u32::from(place))
    }

    /// The thing behind a handle.
    pub(crate) fn get(&self, handle: u32) -> Result<Thing, String> {
        let state = self.lock();
        let (_, thing) = state.find(handle)?;
        Ok(Arc::clone(thing))
    }

    /// The same; the handle is stale from then on.
    pub(crate) fn remove(&self, handle: u32) -> Result<Thing, String> {
        let mut state = self.lock();
        state.find(handle)?;
        let slot = state.places.get_mut(usize::from(handle as u16)).ok_or(STALE)?;
        let (_, thing) = slot.thing.take().ok_or(STALE)?;
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            state.free.push(handle as u16);
        }
        Ok(thing)
    }

    /// Drops everything; nothing can be inserted any more.
    pub(crate) fn close(&self) {
        let places = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.places)
        };
        for slot in places {
            // What a destructor of the host app's does is its own affair.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(slot)));
        }
    }
}

const STALE: &str = "it was removed";

impl State {
    fn find(&self, handle: u32) -> Result<&(usize, Thing), String> {
        let (generation, place) = ((handle >> 16) as u16, usize::from(handle as u16));
        // The instance chooses the place.
        let known = place < self.places.len();
        let slot = self.places.get(ipc::nospec::below(place, self.places.len())).filter(|_| known);
        match slot {
            Some(Slot { generation: current, thing: Some(thing) }) if *current == generation => Ok(thing),
            Some(slot) if generation != 0 && generation <= slot.generation => Err(STALE.to_owned()),
            _ => Err("the job was given no such handle".to_owned()),
        }
    }
}

impl HandleCheck for Handles {
    fn refuse(&self, handle: u32, kind: usize) -> Option<String> {
        match self.lock().find(handle) {
            Ok((found, _)) if *found == kind => None,
            Ok(_) => Some("it is a handle of another kind".to_owned()),
            Err(why) => Some(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_handle_is_stale_also_when_its_place_is_used_again() {
        let handles = Handles::default();
        let first = handles.insert(3, Arc::new(1u8)).unwrap();
        assert_ne!(first, 0);
        assert_eq!(handles.refuse(first, 3), None);
        assert!(handles.refuse(first, 4).unwrap().contains("another kind"));
        handles.remove(first).unwrap();
        assert!(handles.remove(first).unwrap_err().contains("removed"));
        let second = handles.insert(3, Arc::new(2u8)).unwrap();
        assert_eq!(second as u16, first as u16, "the same place");
        assert!(handles.refuse(first, 3).unwrap().contains("removed"));
        for unknown in [0, 1, second + 1, second | 0x8000_0000, u32::MAX] {
            assert!(handles.refuse(unknown, 3).unwrap().contains("no such handle"), "{unknown:#x}");
        }
        assert_eq!(handles.get(second).unwrap().downcast_ref(), Some(&2u8));
    }

    #[test]
    fn a_place_is_given_up_when_its_generations_are_used_up() {
        let handles = Handles::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..u32::from(u16::MAX) + 10 {
            let handle = handles.insert(0, Arc::new(())).unwrap();
            assert!(seen.insert(handle), "{handle:#x} twice");
            handles.remove(handle).unwrap();
        }
        assert!(seen.iter().any(|handle| *handle as u16 == 1));
    }

    #[test]
    fn handles_have_a_limit_and_an_end() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("a destructor of a test panics");
            }
        }
        let handles = Handles::default();
        let dropped = Arc::new(());
        handles.insert(0, Arc::new(Panics)).unwrap();
        for _ in 1..HANDLES_MAX {
            handles.insert(0, Arc::clone(&dropped) as Thing).unwrap();
        }
        assert!(handles.insert(0, Arc::new(())).unwrap_err().contains("limit"));
        handles.close();
        assert_eq!(Arc::strong_count(&dropped), 1);
        assert!(handles.insert(0, Arc::new(())).unwrap_err().contains("has ended"));
    }
}
