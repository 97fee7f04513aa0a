//! A proof by exhaustion of the queues' index arithmetic.
//!
//! The code is generic over the width of its counters. With 8 bits, everything there is is tried: every state of either side, every
//! index that a peer may claim, every number of slots from 1 to 128.
//!
//! Why that holds for 32 bits and [`SLOTS`] slots: of its counters the code takes differences modulo 2^w, adds one, compares
//! differences with each other and with the number of slots, and masks with slots - 1. Differences do not change when all counters are
//! moved by the same amount, so a state is its differences. All that is compared are differences of at most the number of slots, and
//! "more than that", whatever it is: which holds at any width w as long as slots < 2^w, and the mask commutes with the wrap because the
//! number of slots divides 2^w. [`wide_counters_decide_like_narrow_ones`] compares the two widths where they could differ.

use ipc::ring::counters::{Broken, Consumer, Counter, Producer, slot};
use ipc::ring::{SLOTS, Slot, pack_output, pack_range, unpack_output, unpack_range};

/// The consumer's side: every index that the producer may claim, `claimed` ahead of `base` modulo 2^8, after `seen` were seen there.
fn consumer<const S: usize>(base: u8, seen: usize) {
    let mut before = Consumer::<u8, S>::at(base);
    assert_eq!(before.look(base.wrapping_add(seen as u8)), Ok(seen));
    for claimed in 0..=usize::from(u8::MAX) {
        let mut consumer = before;
        let index = base.wrapping_add(claimed as u8);
        let looked = consumer.look(index);
        if claimed > S {
            assert_eq!(looked, Err(Broken::TooManySubmitted { index, served: base, slots: S }));
            assert_eq!(consumer, before, "a refused index leaves nothing");
        } else if claimed < seen {
            assert_eq!(looked, Err(Broken::SubmittedLess { index, before: base.wrapping_add(seen as u8) }));
            assert_eq!(consumer, before);
        } else {
            assert_eq!(looked, Ok(claimed));
            let mut afresh = Consumer::<u8, S>::at(base);
            assert_eq!(afresh.look(index), Ok(claimed));
            assert_eq!(consumer, afresh, "what was seen before is forgotten");
            if seen == 0 {
                take_all(consumer, base, claimed);
            }
        }
    }
}

/// Takes all that wait, each from the slot that the producer put it into, and no slot twice.
fn take_all<const S: usize>(mut consumer: Consumer<u8, S>, base: u8, waiting: usize) {
    let mut taken = [false; 128];
    for step in 0..waiting {
        assert_eq!(consumer.waiting(), waiting - step);
        let slot = slot::<u8, S>(consumer.next());
        assert!(slot < S && !taken[slot], "{base} {waiting} {S}");
        assert_eq!(slot, (usize::from(base) + step) % S);
        taken[slot] = true;
        consumer.advance();
    }
    let end = base.wrapping_add(waiting as u8);
    assert_eq!((consumer.waiting(), consumer.next()), (0, end));
    assert_eq!(consumer.look(end), Ok(0), "nothing twice");
}

/// The producer's side: every index that the consumer may claim, by which `claimed` are not taken modulo 2^8, when `full` were put from
/// `base` on and none was seen to be taken.
fn producer<const S: usize>(base: u8, full: usize) {
    let mut before = Producer::<u8, S>::at(base);
    for _ in 0..full {
        before.look(base).expect("there is room");
        before.advance();
    }
    let next = base.wrapping_add(full as u8);
    for claimed in 0..=usize::from(u8::MAX) {
        let mut producer = before;
        let index = next.wrapping_sub(claimed as u8);
        let looked = producer.look(index);
        if claimed > S {
            assert_eq!(looked, Err(Broken::TookTooMany { index, given: next }));
            assert_eq!(producer, before, "a refused index leaves nothing");
        } else if claimed > full {
            assert_eq!(looked, Err(Broken::TookLess { index, before: base }));
            assert_eq!(producer, before);
        } else if claimed == S {
            assert_eq!(looked, Err(Broken::NotTaken { slots: S }));
        } else {
            assert_eq!(looked, Ok(S - claimed));
            // The state is the index of either side, whatever was taken between.
            if claimed == full {
                fill_all(producer, index, claimed);
            }
        }
    }
}

/// Fills all slots that are free, none of which holds what is not taken.
fn fill_all<const S: usize>(mut producer: Producer<u8, S>, index: u8, full: usize) {
    let mut used = [false; 128];
    (0..full).for_each(|step| used[slot::<u8, S>(index.wrapping_add(step as u8))] = true);
    for _ in full..S {
        producer.look(index).expect("there is room");
        let slot = slot::<u8, S>(producer.next());
        assert!(slot < S && !used[slot], "{index} {full} {S}");
        used[slot] = true;
        producer.advance();
    }
    assert_eq!(producer.look(index), Err(Broken::NotTaken { slots: S }));
}

#[test]
fn every_index_that_a_peer_can_claim_is_served_or_refused_as_it_must() {
    fn every_state<const S: usize>() {
        for base in 0..=u8::MAX {
            for state in 0..=S {
                consumer::<S>(base, state);
                producer::<S>(base, state);
            }
        }
    }
    every_state::<1>();
    every_state::<2>();
    every_state::<4>();
    every_state::<8>();
    every_state::<16>();
    every_state::<32>();
    every_state::<64>();
    every_state::<128>();
}

/// Indices near each other, far from each other, and where 32 bits wrap and where 8 and 16 do.
#[test]
fn wide_counters_decide_like_narrow_ones() {
    const S: usize = SLOTS;
    fn outcome<N: Counter>(result: Result<usize, Broken<N>>) -> (usize, u8) {
        match result {
            Ok(count) => (count, 0),
            Err(Broken::TooManySubmitted { .. }) => (0, 1),
            Err(Broken::SubmittedLess { .. }) => (0, 2),
            Err(Broken::NotTaken { .. }) => (0, 3),
            Err(Broken::TookTooMany { .. }) => (0, 4),
            Err(Broken::TookLess { .. }) => (0, 5),
        }
    }
    fn consume<N: Counter>(base: N, state: N, claimed: N) -> (usize, u8) {
        let mut consumer = Consumer::<N, S>::at(base);
        consumer.look(base.forward(state)).expect("a state");
        outcome(consumer.look(base.forward(claimed)))
    }
    fn produce<N: Counter>(base: N, state: N, claimed: N) -> (usize, u8) {
        let mut producer = Producer::<N, S>::at(base);
        for _ in 0..state.to_usize() {
            producer.look(base).expect("there is room");
            producer.advance();
        }
        outcome(producer.look(base.forward(state).forward(N::ZERO.since(claimed))))
    }
    let bases =
        [0, 1, 63, 64, 65, 255, 256, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX - 64, u32::MAX];
    // Differences that 8 bits have, small and negative, and their equals of more bits.
    let narrow: Vec<u8> = (0..=u8::MAX).collect();
    for base in bases {
        for state in 0..=S as u8 {
            for claimed in &narrow {
                let wide = i32::from(*claimed as i8) as u32;
                let far = if usize::from(*claimed) > S { wide ^ 0x5a5a_0000 } else { wide };
                let medium = wide as u16;
                let (here, there) = (base as u8, base as u16);
                let expected = consume(here, state, *claimed);
                // 65..=127 is out of reach either way; more is behind.
                assert_eq!(consume(there, state.into(), medium), expected);
                assert_eq!(consume(base, state.into(), wide), expected);
                assert_eq!(consume(base, state.into(), far), expected);
                let expected = produce(here, state, *claimed);
                assert_eq!(produce(there, state.into(), medium), expected);
                assert_eq!(produce(base, state.into(), wide), expected);
                assert_eq!(produce(base, state.into(), far), expected);
            }
        }
    }
}

/// Neighbours have different slots, the same that a division would give, wherever the counter is.
#[test]
fn slots_are_in_range_and_follow_each_other() {
    for index in (0..=u32::MAX).step_by(0xfff1).chain([u32::MAX - 1, u32::MAX]) {
        let here = Slot::of(index).number();
        assert!(here < SLOTS);
        assert_eq!(here, index as usize % SLOTS);
        assert_eq!(Slot::of(index.wrapping_add(1)).number(), (here + 1) % SLOTS, "{index}");
    }
    for index in 0..=u16::MAX {
        assert_eq!(slot::<u16, SLOTS>(index), slot::<u32, SLOTS>(u32::from(index)));
    }
}

/// Fields with at most two bits, and those that lack at most two. The words are made and taken apart by shifts and masks alone: every bit
/// of a word comes from one bit of one field and goes back there, which single bits show; pairs show that none is in another's way.
fn fields() -> Vec<u32> {
    let bits = |n: u32| (0..n).flat_map(move |a| (0..n).map(move |b| 1u32 << a | 1 << b));
    let mut fields: Vec<u32> = bits(32).flat_map(|field| [field, !field]).chain([0, u32::MAX]).collect();
    fields.sort_unstable();
    fields.dedup();
    fields
}

#[test]
fn ranges_come_out_of_a_word_as_they_went_in() {
    for offset in fields() {
        for length in fields() {
            let word = pack_range(offset, length);
            assert_eq!(unpack_range(word), (offset, length));
            // The other way round: no two words are the same range.
            assert_eq!(word, u64::from(offset) << 32 | u64::from(length));
        }
    }
}

#[test]
fn output_comes_out_of_a_word_as_it_went_in() {
    for stream in 0..=255 {
        for half in 0..=1 {
            for length in fields() {
                let word = pack_output(stream, half, length);
                assert_eq!(unpack_output(word), (stream, half, length));
                assert_eq!(unpack_output(word | 0xffff_fe00), (stream, half, length), "other bits");
            }
        }
    }
    // A half is 0 or 1, a stream one byte, whatever the word.
    for low in fields() {
        for high in fields() {
            let (stream, half, length) = unpack_output(u64::from(high) << 32 | u64::from(low));
            assert!(stream <= 255 && half <= 1);
            assert_eq!(length, high);
            assert_eq!((stream, half), (low & 0xff, low >> 8 & 1));
        }
    }
    // The number of an output may be given as its half.
    for number in 0..=1 << 20 {
        assert_eq!(unpack_output(pack_output(1, number, 7)), (1, number & 1, 7));
    }
}

/// `nospec`: every value and bound of 10 bits, and around the powers of two.
#[test]
fn masks_keep_what_is_in_range_and_nothing_else() {
    let near = |bit: u32| [-1i8, 0, 1].map(|by| (1usize << bit).wrapping_add_signed(isize::from(by)));
    let values: Vec<usize> = (0..1024).chain((10..usize::BITS).flat_map(near)).chain([usize::MAX]).collect();
    for value in &values {
        for bound in &values {
            let inside = if value < bound { *value } else { 0 };
            assert_eq!(ipc::nospec::below(*value, *bound), inside, "{value} {bound}");
            assert_eq!(ipc::nospec::at_most(*value, *bound), *value.min(bound), "{value} {bound}");
        }
    }
}
