//! Bugs that the models must find: orders that are too weak, steps in the wrong order, a look that is missing.

use std::sync::atomic::Ordering;

use ipc::ring::atomic::Atomic;
use ipc::ring::instance::{self, InstanceEnd, wait_while};
use ipc::ring::supervisor::{Next, SupervisorEnd, unwatch, watch};
use ipc::ring::{Completion, Slot};

use super::world::{Guest, Kernel, Serving, Weak, World, is_answer, submission};
use super::{calls, explore, full_queue, go, output_alone, run, watched_calls};

/// The slots or pieces of which one side's use is not ordered with the other's.
macro_rules! weak {
    ($($name:ident: $($word:ident).+ $what:ident, $model:expr;)*) => { $(
        #[test]
        #[should_panic(expected = "Causality violation")]
        fn $name() {
            explore(Some(3), || {
                let mut world = World::new(ipc::ring::SLOTS);
                world.indices.$($word).+.0.weaken(Weak { $what: true, ..Weak::default() });
                let model: fn(World) = $model;
                model(world);
            });
        }
    )* };
}

weak! {
    submissions_that_are_not_released: submission_tail store, |world| calls(world, 1);
    submissions_that_are_not_acquired: submission_tail load, |world| calls(world, 1);
    completions_that_are_not_released: completion_tail store, |world| calls(world, 1);
    completions_that_are_not_acquired: completion_tail load, |world| calls(world, 1);
    completions_that_are_not_given_back: completion_head store, full_queue;
    completions_that_are_not_got_back: completion_head load, full_queue;
    output_that_is_not_released: output.pending store, |world| output_alone(world, 2);
    output_that_is_not_acquired: output.pending load, |world| output_alone(world, 2);
    output_that_is_not_given_back: output.pending store, |world| output_alone(world, 4);
    output_that_is_not_got_back: output.pending load, |world| output_alone(world, 4);
}

/// Runs guest and supervisor with another step of one of them.
fn with_guest(guest: fn(&mut Guest<'_>), count: u32) {
    explore(Some(3), move || {
        run(World::new(4), guest, |serving| serving.calls == count);
    });
}

fn with_turn(turn: fn(&mut Serving, &World), count: u32) {
    explore(Some(3), move || {
        let world = std::sync::Arc::new(World::new(4));
        let instance = loom::thread::spawn({
            let world = std::sync::Arc::clone(&world);
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
    });
}

/// `take` without a loop around the wait.
fn take_without_looking_again(world: &World) -> Completion {
    let head = world.indices.completion_head.0.load(Ordering::Relaxed);
    if world.indices.completion_tail.0.load(Ordering::Acquire) == head {
        world.indices.sleeping.0.store(1, Ordering::Relaxed);
        InstanceEnd::fence(world);
        world.wait(&world.indices.completion_tail.0, head);
        world.indices.sleeping.0.store(0, Ordering::Relaxed);
    }
    let completion = world.read_completion(Slot::of(head));
    world.indices.completion_head.0.store(head.wrapping_add(1), Ordering::Release);
    completion
}

/// The wake-up for the first answer, which was seen without waiting, ends the wait for the second.
#[test]
#[should_panic(expected = "Causality violation")]
fn a_wait_that_does_not_look_again() {
    with_guest(
        |guest| {
            for number in 1..=2 {
                instance::submit(guest.world, &submission(number, 0));
                is_answer(number, take_without_looking_again(guest.world));
            }
        },
        2,
    );
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_futex_that_does_not_compare() {
    explore(Some(3), || {
        let mut world = World::new(2);
        world.kernel = Kernel { waits_anyway: true, ..Kernel::default() };
        calls(world, 1);
    });
}

/// `take` that does not say that it sleeps.
fn take_without_a_word(world: &World) -> Completion {
    let head = world.indices.completion_head.0.load(Ordering::Relaxed);
    wait_while(&world.indices.completion_tail.0, head, |word, value| world.wait(word, value));
    let completion = world.read_completion(Slot::of(head));
    world.indices.completion_head.0.store(head.wrapping_add(1), Ordering::Release);
    completion
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_sleep_that_is_not_told() {
    with_guest(
        |guest| {
            instance::submit(guest.world, &submission(1, 0));
            is_answer(1, take_without_a_word(guest.world));
        },
        1,
    );
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_sleep_that_is_told_without_a_fence() {
    explore(Some(3), || {
        let mut world = World::new(2);
        world.kernel = Kernel { no_fences: true, ..Kernel::default() };
        calls(world, 1);
    });
}

/// The supervisor looks whether the instance sleeps before it publishes the completion.
#[test]
#[should_panic(expected = "deadlock")]
fn a_completion_that_is_published_after_the_look_for_sleepers() {
    with_turn(
        |serving, world| match serving.queues.look(world).expect("an honest peer") {
            Next::Call => {
                let submission = serving.queues.take(world).expect("it was there");
                let completion =
                    Completion { sequence: submission.sequence, value: 0x1001, ..Completion::default() };
                let sleeps = world.indices.sleeping.0.load(Ordering::Relaxed) != 0;
                world.write_completion(Slot::of(0), &completion);
                world.indices.completion_tail.0.store(1, Ordering::Release);
                if sleeps {
                    world.wake(&world.indices.completion_tail.0);
                }
                serving.calls += 1;
            }
            _ => world.wait_for_doorbell(),
        },
        1,
    );
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_doorbell_that_rings_before_the_submission() {
    with_guest(
        |guest| {
            let world = guest.world;
            world.write_submission(Slot::of(0), &submission(1, 0));
            world.ring_doorbell();
            world.indices.submission_tail.0.store(1, Ordering::Release);
            is_answer(1, instance::take(world));
        },
        1,
    );
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_submission_that_is_published_before_it_is_written() {
    with_guest(
        |guest| {
            let world = guest.world;
            world.indices.submission_tail.0.store(1, Ordering::Release);
            world.write_submission(Slot::of(0), &submission(1, 0));
            world.ring_doorbell();
            is_answer(1, instance::take(world));
        },
        1,
    );
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_wake_up_before_the_completion() {
    explore(Some(3), || {
        go(|world, write| {
            write(world);
            world.wake(&world.indices.completion_tail.0);
            world.indices.completion_tail.0.store(1, Ordering::Release);
        });
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_completion_without_a_wake_up() {
    explore(Some(3), || {
        go(|world, write| {
            write(world);
            world.indices.completion_tail.0.store(1, Ordering::Release);
        });
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_completion_that_is_published_before_it_is_written() {
    explore(Some(3), || {
        go(|world, write| {
            world.indices.completion_tail.0.store(1, Ordering::Release);
            world.wake(&world.indices.completion_tail.0);
            write(world);
        });
    });
}

/// What rang between the look and the clearing is forgotten.
#[test]
#[should_panic(expected = "deadlock")]
fn a_doorbell_that_is_cleared_after_the_look() {
    with_turn(
        |serving, world| match serving.queues.look(world).expect("an honest peer") {
            Next::Nothing => {
                world.forget_the_edge();
                world.wait_for_doorbell();
            }
            _ => {
                let submission = serving.queues.take(world).expect("it was there");
                serving.answer(world, submission);
            }
        },
        1,
    );
}

/// What was submitted while it still watched was not rung for.
#[test]
#[should_panic(expected = "deadlock")]
fn a_watch_that_ends_without_another_look() {
    explore(Some(3), || {
        watched_calls(World::new(2), 1, |serving, world| {
            watch(world, 1);
            if serving.queues.look(world).expect("an honest peer") == Next::Nothing {
                unwatch(world, 0);
                world.wait_for_doorbell();
            } else {
                serving.turn(world);
            }
        });
    });
}

/// Every completion wakes: what is lost without fences is the doorbell alone.
#[test]
#[should_panic(expected = "deadlock")]
fn a_watch_that_ends_without_a_fence() {
    explore(Some(3), || {
        let mut world = World::new(2);
        world.indices.sleeping.0.weaken(Weak { reads: Some(1), ..Weak::default() });
        world.kernel = Kernel { no_fences: true, ..Kernel::default() };
        watched_calls(world, 1, Serving::watching_turn);
    });
}

/// The supervisor does not look for output before it waits for the doorbell, which rings once for all that is added.
#[test]
#[should_panic(expected = "deadlock")]
fn output_that_is_not_looked_for() {
    explore(Some(3), || {
        let world = std::sync::Arc::new(World::new(4));
        let instance = loom::thread::spawn({
            let world = std::sync::Arc::clone(&world);
            move || Guest::new(&world).write(1)
        });
        let mut serving = Serving::default();
        while serving.written.is_empty() {
            match serving.queues.look(&*world).expect("an honest peer") {
                Next::Call => serving.output(&world),
                _ => world.wait_for_doorbell(),
            }
        }
        instance.join().expect("the guest ends");
    });
}

/// The call overtakes what was queued before it.
#[test]
#[should_panic(expected = "[2, 1")]
fn calls_that_are_served_before_the_output() {
    explore(Some(3), || output_and_calls_late(World::new(4)));
}

fn output_and_calls_late(world: World) {
    let world = std::sync::Arc::new(world);
    let instance = loom::thread::spawn({
        let world = std::sync::Arc::clone(&world);
        move || {
            let mut guest = Guest::new(&world);
            guest.write(1);
            guest.call(2);
        }
    });
    let mut serving = Serving::default();
    while serving.written.len() < 2 {
        match serving.queues.look(&*world).expect("an honest peer") {
            Next::Nothing => world.wait_for_doorbell(),
            Next::Output => serving.output(&world),
            Next::Call => {
                let submission = serving.queues.take(&*world).expect("it was there");
                serving.answer(&world, submission);
                serving.output(&world);
            }
        }
    }
    instance.join().expect("the guest ends");
    assert!(serving.written.is_sorted(), "{:?}", serving.written);
}

/// The guest goes on in the half that is being written.
#[test]
#[should_panic(expected = "Causality violation")]
fn output_in_the_same_half() {
    explore(Some(3), || {
        run(
            World::new(4),
            |guest| {
                guest.write(1);
                guest.forget_the_half();
                guest.write(2);
            },
            |serving| serving.written.len() == 2,
        );
    });
}
