//! The standard library's collections: ordered map, hash map with its SipHash, heap, and a stable sort of strings.
mod common;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

fn main() {
    let mut random = common::Random::new();
    let mut sum = 0;

    let mut tree = BTreeMap::new();
    for _ in 0..500_000 {
        let key = random.below(60_000) as u32;
        match random.below(3) {
            0 => drop(tree.remove(&key)),
            1 => *tree.entry(key).or_insert(0u64) += 1,
            _ => sum += tree.range(key..).next().map_or(0, |(k, v)| u64::from(*k) + v),
        }
    }
    // With the fixed keys of `BuildHasherDefault`, as nothing here may be random.
    type Hasher = std::hash::BuildHasherDefault<std::collections::hash_map::DefaultHasher>;
    let mut counts: HashMap<String, u64, Hasher> = HashMap::default();
    for _ in 0..400_000 {
        *counts.entry(format!("key-{}", random.below(20_000))).or_default() += 1;
    }
    let mut words: Vec<(String, u64)> = counts.into_iter().collect();
    words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    for (word, count) in words.iter().step_by(37) {
        sum = common::mix(sum, count + word.len() as u64);
    }

    // Shortest paths in a grid with random weights.
    const SIDE: usize = 400;
    let weights: Vec<u32> = (0..SIDE * SIDE).map(|_| 1 + random.below(9) as u32).collect();
    let mut distance = vec![u32::MAX; SIDE * SIDE];
    let mut queue = BinaryHeap::from([Reverse((0u32, 0usize))]);
    distance[0] = 0;
    while let Some(Reverse((d, at))) = queue.pop() {
        if d > distance[at] {
            continue;
        }
        let (row, column) = (at / SIDE, at % SIDE);
        let mut visit = |to: usize| {
            let d = d + weights[to];
            if d < distance[to] {
                distance[to] = d;
                queue.push(Reverse((d, to)));
            }
        };
        if row > 0 { visit(at - SIDE) }
        if row + 1 < SIDE { visit(at + SIDE) }
        if column > 0 { visit(at - 1) }
        if column + 1 < SIDE { visit(at + 1) }
    }
    for d in distance.iter().step_by(97) {
        sum = common::mix(sum, u64::from(*d));
    }
    common::report(sum);
}
