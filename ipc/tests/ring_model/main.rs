//! The ring under every interleaving that C11's memory model allows, by loom: the steps are those of production
//! (`ipc::ring::{instance, supervisor, output}`), over loom's atomics, and the kernel's part is modelled ([`world`]).
//!
//! loom fails when a thread waits for ever (a lost wake-up), when a slot is used by both sides at once (a missing acquire or
//! release), and when an assertion does. [`planted`] shows that it finds such bugs.

#![expect(clippy::arc_with_non_send_sync, reason = "loom's threads are coroutines of one thread")]

mod planted;
mod world;

use ipc::ring::instance::{self, InstanceEnd, wait_while};
use ipc::ring::supervisor::{SupervisorEnd, publish};
use ipc::ring::{Completion, SLOTS, Slot};
use loom::model::Builder;
use loom::thread;
use std::sync::Arc;

use world::{Guest, Serving, World, is_answer, submission};

/// Runs a model under all interleavings, or those with at most so many preemptions.
fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    builder.check(model);
}

/// Runs a guest and the supervisor beside each other, until `calls` are served and `pieces` written.
fn run(
    world: World,
    guest: impl Fn(&mut Guest<'_>) + Send + 'static,
    done: impl Fn(&Serving) -> bool,
) -> Serving {
    let world = Arc::new(world);
    let instance = thread::spawn({
        let world = Arc::clone(&world);
        move || guest(&mut Guest::new(&world))
    });
    let mut serving = Serving::default();
    while !done(&serving) {
        serving.turn(&world);
    }
    instance.join().expect("the guest ends");
    serving
}

/// Calls, one after the other.
fn calls(world: World, count: u32) {
    let guest = move |guest: &mut Guest<'_>| (0..count).for_each(|_| guest.call(0));
    let serving = run(world, guest, |serving| serving.calls == count);
    assert_eq!(serving.queues.completed(), count);
}

#[test]
fn every_call_is_answered_once() {
    explore(None, || calls(World::new(2), 1));
    explore(Some(3), || calls(World::new(2), 2));
    explore(Some(2), || calls(World::new(4), 4));
}

/// The supervisor watches, stops watching and watches again; the instance rings only when it must.
fn watched_calls(world: World, count: u32, turn: fn(&mut Serving, &World)) {
    let world = Arc::new(world);
    let instance = thread::spawn({
        let world = Arc::clone(&world);
        move || {
            let mut guest = Guest::new(&world);
            (0..count).for_each(|_| guest.call(0));
        }
    });
    let mut serving = Serving::default();
    while serving.calls < count {
        turn(&mut serving, &world);
    }
    instance.join().expect("the guest ends");
}

#[test]
fn a_watched_instance_need_not_ring() {
    explore(Some(3), || watched_calls(World::new(2), 1, Serving::watching_turn));
    explore(Some(2), || watched_calls(World::new(2), 2, Serving::watching_turn));
}

/// Signals.
#[test]
fn wake_ups_without_reason_do_no_harm() {
    explore(Some(3), || {
        let world = Arc::new(World::new(2));
        let signal = thread::spawn({
            let world = Arc::clone(&world);
            move || world.wake_without_reason()
        });
        let instance = thread::spawn({
            let world = Arc::clone(&world);
            move || {
                let mut guest = Guest::new(&world);
                guest.call(0);
                guest.call(0);
            }
        });
        let mut serving = Serving::default();
        while serving.calls < 2 {
            serving.turn(&world);
        }
        instance.join().expect("the guest ends");
        signal.join().expect("the signal ends");
    });
}

/// An instance may submit more before it takes what was completed.
#[test]
fn several_calls_may_be_on_their_way() {
    fn guest(guest: &mut Guest<'_>) {
        (1..=3).for_each(|number| instance::submit(guest.world, &submission(number, 0)));
        (1..=3).for_each(|number| is_answer(number, instance::take(guest.world)));
    }
    explore(Some(3), || {
        run(World::new(4), guest, |serving| serving.calls == 3);
    });
}

/// A slot is written again only when it was given back: with every slot full, the supervisor completes one more.
fn full_queue(world: World) {
    let world = Arc::new(world);
    let mut serving = Serving::default();
    for number in 1..=SLOTS as u32 {
        serving.answer(&world, submission(number, 0));
    }
    let supervisor = thread::spawn({
        let world = Arc::clone(&world);
        move || {
            let completion = Completion { sequence: SLOTS as u32 + 1, ..Completion::default() };
            match serving.queues.complete(&*world, &completion) {
                Ok(()) => {}
                // An instance that has not taken one yet breaks the rule of one call at a time.
                Err(broken) => assert_eq!(broken.to_string(), format!("{SLOTS} completions not taken")),
            }
        }
    });
    is_answer(1, instance::take(&*world));
    supervisor.join().expect("the supervisor ends");
}

#[test]
fn a_full_slot_is_not_written() {
    explore(None, || full_queue(World::new(SLOTS)));
}

/// Output, after which no call comes that would have it taken along.
fn output_alone(world: World, pieces: u32) {
    let guest = move |guest: &mut Guest<'_>| (1..=pieces).for_each(|piece| guest.write(piece));
    let serving = run(world, guest, |serving| serving.written.len() == pieces as usize);
    assert!(serving.written.is_sorted(), "{:?}", serving.written);
}

#[test]
fn all_output_is_written_once_and_in_order() {
    explore(None, || output_alone(World::new(2), 2));
    explore(Some(3), || output_alone(World::new(4), 4));
}

/// Output before, between and after calls.
fn output_and_calls(world: World) {
    fn guest(guest: &mut Guest<'_>) {
        guest.write(1);
        guest.call(2);
        guest.write(3);
        guest.write(4);
    }
    let serving = run(world, guest, |serving| serving.written.len() == 4);
    assert!(serving.written.is_sorted(), "{:?}", serving.written);
}

#[test]
fn output_is_written_before_the_calls_that_follow_it() {
    explore(Some(3), || output_and_calls(World::new(4)));
}

/// A parked instance gets its job: whether it looks before or after, all of it.
fn go(publish: impl Fn(&World, &dyn Fn(&World))) {
    let world = Arc::new(World::new(1));
    let instance = thread::spawn({
        let world = Arc::clone(&world);
        move || {
            wait_while(&world.indices.completion_tail.0, 0, |word, value| {
                world.wait(word, value);
            });
            assert_eq!(world.read_completion(Slot::of(0)).sequence, 7);
        }
    });
    publish(&world, &|world| {
        let job = Completion { sequence: 7, ..Completion::default() };
        world.write_completion(Slot::of(0), &job);
    });
    instance.join().expect("the instance ends");
}

#[test]
fn a_parked_instance_gets_its_job() {
    explore(None, || {
        go(|world, write| {
            write(world);
            publish(&world.indices.completion_tail.0, 1, |word| world.wake(word));
        });
    });
}
