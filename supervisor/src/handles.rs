//! Handles: what a guest holds of the host app's things, by number.
//!
//! Where the host app is a client of the daemon there are two tables of them: the client's, which has the things, and the daemon's, which
//! follows it and decides what reaches the client.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interface::{HandleCheck, Interface, TypeKind};
use ipc::protocol::{HandleChanges, OpenedHandle};

/// Places for handles that a job uses, at most, over all interfaces: a place serves one handle after the other, of the same interface.
pub const HANDLES_MAX: usize = 65_535;

/// Places for handles that the tables of one job have together. A place stays when its handle is removed, for its generation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<AtomicUsize>);

impl Places {
    /// One more; an error says that there is none.
    fn take(&self) -> Result<(), String> {
        let more = |taken: usize| (taken < HANDLES_MAX).then_some(taken + 1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map(|_| ()).map_err(|_| {
            format!("the job's interfaces use {HANDLES_MAX} places for handles together, which is the limit")
        })
    }
}

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
    /// No more than were used: a client chooses the places of the table that follows its own.
    places: BTreeMap<u16, Slot>,
    /// Places that hold nothing and can be used again.
    free: Vec<u16>,
    closed: bool,
    /// Of the job.
    job: Places,
    /// What is to be told to the table that follows this one, if one does.
    untold: Option<Untold>,
}

/// Changes since the last that were told.
#[derive(Default)]
struct Untold {
    /// Of those that were told of.
    closed: Vec<u32>,
    /// Handles with their kinds.
    opened: HashMap<u32, usize>,
}

struct Slot {
    /// Of the thing that is here, else of the next; beyond 16 bits when there is none.
    generation: u32,
    /// A number of the interface's types, and the thing.
    thing: Option<(usize, Thing)>,
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let open = state.places.values().filter(|slot| slot.thing.is_some()).count();
        f.debug_struct("Handles").field("open", &open).field("closed", &state.closed).finish()
    }
}

impl Handles {
    /// A table of the job that has these places.
    pub(crate) fn new(job: &Places) -> Self {
        Self(Mutex::new(State { job: job.clone(), ..State::default() }))
    }

    /// The same, whose changes are told to another ([`changes`](Self::changes)).
    pub(crate) fn followed(job: &Places) -> Self {
        let untold = Some(Untold::default());
        Self(Mutex::new(State { job: job.clone(), untold, ..State::default() }))
    }

    /// How many are open.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.lock().places.values().filter(|slot| slot.thing.is_some()).count()
    }

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
            None => {
                state.job.take()?;
                // Less than the job's limit, so that it fits.
                let place = state.places.len() as u16;
                state.places.insert(place, Slot { generation: 1, thing: None });
                place
            }
        };
        let slot = state.places.get_mut(&place).ok_or("a place that does not exist")?;
        slot.thing = Some((kind, thing));
        let handle = slot.generation << 16 | u32::from(place);
        if let Some(untold) = &mut state.untold {
            untold.opened.insert(handle, kind);
        }
        Ok(handle)
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
        let (thing, next) = state.take(handle)?;
        if next <= GENERATION_MAX {
            state.free.push(handle as u16);
        }
        if let Some(untold) = &mut state.untold
            && untold.opened.remove(&handle).is_none()
        {
            untold.closed.push(handle);
        }
        Ok(thing)
    }

    /// What the table that follows this one does not know yet.
    pub(crate) fn changes(&self) -> HandleChanges {
        let mut state = self.lock();
        let Some(untold) = state.untold.as_mut().map(std::mem::take) else { return HandleChanges::default() };
        let opened = |(handle, kind): (u32, usize)| OpenedHandle { handle, kind: kind as u32 };
        HandleChanges { closed: untold.closed, opened: untold.opened.into_iter().map(opened).collect() }
    }

    /// Follows another table, of the same interface, by what a client says of it. An error says what is impossible.
    pub(crate) fn follow(&self, interface: &Interface, changes: &HandleChanges) -> Result<(), String> {
        if changes.is_empty() {
            return Ok(());
        }
        let nothing: Thing = Arc::new(());
        let mut state = self.lock();
        if state.closed {
            return Ok(());
        }
        for handle in &changes.closed {
            state.take(*handle).map_err(|why| format!("it closes the handle {handle:#x}: {why}"))?;
        }
        for OpenedHandle { handle, kind } in &changes.opened {
            let kind = *kind as usize;
            if interface.types.get(kind).is_none_or(|ty| ty.kind != TypeKind::Handle) {
                return Err(format!("it opens the handle {handle:#x} of the kind {kind}, which is none"));
            }
            state
                .put(*handle, kind, Arc::clone(&nothing))
                .map_err(|why| format!("it opens the handle {handle:#x}: {why}"))?;
        }
        Ok(())
    }

    /// Drops everything; nothing can be inserted any more.
    pub(crate) fn close(&self) {
        let places = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.places)
        };
        for slot in places.into_values() {
            // What a destructor of the host app's does is its own affair.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(slot)));
        }
    }
}

const STALE: &str = "it was removed";
const GENERATION_MAX: u32 = u16::MAX as u32;

impl State {
    fn find(&self, handle: u32) -> Result<&(usize, Thing), String> {
        let generation = handle >> 16;
        match self.places.get(&(handle as u16)) {
            Some(Slot { generation: current, thing: Some(thing) }) if *current == generation => Ok(thing),
            Some(slot) if generation != 0 && generation <= slot.generation => Err(STALE.to_owned()),
            _ => Err("the job was given no such handle".to_owned()),
        }
    }

    /// Takes the thing of a handle out; the next generation of its place.
    fn take(&mut self, handle: u32) -> Result<(Thing, u32), String> {
        self.find(handle)?;
        let slot = self.places.get_mut(&(handle as u16)).ok_or(STALE)?;
        let (_, thing) = slot.thing.take().ok_or(STALE)?;
        slot.generation += 1;
        Ok((thing, slot.generation))
    }

    /// Puts a thing behind a handle that another table has chosen: of a place that is free, and never used before.
    fn put(&mut self, handle: u32, kind: usize, thing: Thing) -> Result<(), String> {
        let (generation, place) = (handle >> 16, handle as u16);
        if usize::from(place) >= HANDLES_MAX {
            return Err(format!("its place is beyond {HANDLES_MAX}, which is the limit"));
        }
        let first_free = match self.places.get(&place) {
            None => Some(1),
            Some(Slot { generation, thing: None }) => Some(*generation),
            Some(_) => None,
        };
        match first_free {
            Some(first) if generation >= first => {
                if !self.places.contains_key(&place) {
                    self.job.take()?;
                }
                self.places.insert(place, Slot { generation, thing: Some((kind, thing)) });
                Ok(())
            }
            _ => Err("its place is taken, or its generation was used before".to_owned()),
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

    /// An interface with a handle type at 1.
    fn interface() -> Interface {
        let ty = |name: &str, kind| interface::TypeDef { name: name.into(), doc: String::new(), kind };
        let types = vec![ty("e", TypeKind::Enum(vec![])), ty("h", TypeKind::Handle)];
        Interface { types, ..Interface::default() }
    }

    #[test]
    fn a_table_that_follows_another_has_the_same_handles() {
        let (table, follower, interface) =
            (Handles::followed(&Places::default()), Handles::default(), interface());
        let mut open = Vec::new();
        for round in 0..100 {
            // Some are closed before the other table has heard of them, so that it misses a generation or a place.
            for _ in 0..round % 7 {
                open.push(table.insert(1, Arc::new(())).unwrap());
            }
            while open.len() > 5 {
                table.remove(open.swap_remove(round % open.len())).unwrap();
            }
            follower.follow(&interface, &table.changes()).unwrap();
            assert!(table.changes().is_empty());
            open.iter().for_each(|handle| assert_eq!(follower.refuse(*handle, 1), None));
        }
        let closed = open.pop().unwrap();
        table.remove(closed).unwrap();
        follower.follow(&interface, &table.changes()).unwrap();
        assert!(follower.refuse(closed, 1).unwrap().contains("removed"));
        assert!(follower.lock().free.is_empty(), "it chooses no places, and must not remember them");
        let far =
            HandleChanges { closed: Vec::new(), opened: vec![OpenedHandle { handle: 0x1_fffe, kind: 1 }] };
        let places = follower.lock().places.len();
        follower.follow(&interface, &far).unwrap();
        assert_eq!(follower.lock().places.len(), places + 1, "one message takes no more than it says");
    }

    #[test]
    fn a_table_follows_no_impossible_change() {
        let (follower, interface) = (Handles::default(), interface());
        let changes = |closed: &[u32], opened: &[(u32, u32)]| {
            let opened = opened.iter().map(|(handle, kind)| OpenedHandle { handle: *handle, kind: *kind });
            HandleChanges { closed: closed.to_vec(), opened: opened.collect() }
        };
        follower.follow(&interface, &changes(&[], &[(0x2_0001, 1)])).unwrap();
        for (closed, opened, why) in [
            (&[][..], &[(0x2_0001, 1)][..], "its place is taken"),
            (&[], &[(0x3_0001, 1)], "its place is taken"),
            (&[], &[(0, 1)], "used before"),
            (&[], &[(0x0_0005, 1)], "used before"),
            (&[], &[(0x1_ffff, 1)], "beyond 65535"),
            (&[], &[(0x1_0002, 0)], "of the kind 0, which is none"),
            (&[], &[(0x1_0002, 2)], "of the kind 2, which is none"),
            (&[], &[(0x1_0002, u32::MAX)], "which is none"),
            (&[0], &[], "no such handle"),
            (&[0x1_0001], &[], "was removed"),
            (&[0x3_0001], &[], "no such handle"),
            (&[0x1_ffff], &[], "no such handle"),
        ] {
            let error = follower.follow(&interface, &changes(closed, opened)).unwrap_err();
            assert!(error.contains(why), "{why:?} expected in: {error}");
        }
        follower.follow(&interface, &changes(&[0x2_0001], &[(0xffff_0001, 1)])).unwrap();
        assert!(follower.refuse(0x2_0001, 1).unwrap().contains("removed"));
        // A place whose generations are used up.
        follower.follow(&interface, &changes(&[0xffff_0001], &[])).unwrap();
        let error = follower.follow(&interface, &changes(&[], &[(0xffff_0001, 1)])).unwrap_err();
        assert!(error.contains("used before"), "{error}");
        assert!(follower.refuse(0xffff_0001, 1).unwrap().contains("removed"));
        follower.close();
        follower.follow(&interface, &changes(&[7], &[(7, 7)])).unwrap();
    }

    #[test]
    fn tables_of_a_job_have_one_limit_together() {
        let job = Places::default();
        let [own, other, elsewhere] = [Handles::new(&job), Handles::followed(&job), Handles::default()];
        let first = own.insert(0, Arc::new(())).unwrap();
        for _ in 1..HANDLES_MAX {
            other.insert(0, Arc::new(())).unwrap();
        }
        for table in [&own, &other] {
            assert!(table.insert(0, Arc::new(())).unwrap_err().contains("use 65535 places for handles"));
        }
        elsewhere.insert(0, Arc::new(())).unwrap();
        // A place is used again by its own table.
        own.remove(first).unwrap();
        assert!(other.insert(0, Arc::new(())).is_err());
        own.insert(0, Arc::new(())).unwrap();
        // The same for what a client says.
        let job = Places::default();
        let [one, two] = [Handles::new(&job), Handles::new(&job)];
        let opened = |places: std::ops::Range<u32>| {
            let opened = places.map(|place| OpenedHandle { handle: 0x1_0000 | place, kind: 1 }).collect();
            HandleChanges { closed: Vec::new(), opened }
        };
        one.follow(&interface(), &opened(0..65_000)).unwrap();
        two.follow(&interface(), &opened(0..535)).unwrap();
        let error = two.follow(&interface(), &opened(535..536)).unwrap_err();
        assert!(error.contains("use 65535 places for handles"), "{error}");
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
