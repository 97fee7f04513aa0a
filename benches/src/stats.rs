//! Summaries of measured times.

use std::time::Duration;

use serde::Serialize;

/// What is said about a set of times, in microseconds.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// How many were measured.
    pub count: usize,
    /// The smallest.
    pub min_us: f64,
    /// The median.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// The largest.
    pub max_us: f64,
}

impl Summary {
    /// Summarises `times`; `None` when there are none.
    pub fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let (first, last) = (times.first()?, times.last()?);
        // Nearest rank: the smallest time that at least that share of all times does not exceed.
        let rank = |share: f64| {
            let position = (share * times.len() as f64).ceil() as usize;
            times[position.clamp(1, times.len()) - 1]
        };
        let us = |d: Duration| d.as_nanos() as f64 / 1000.0;
        Some(Self {
            count: times.len(),
            min_us: us(*first),
            p50_us: us(rank(0.50)),
            p99_us: us(rank(0.99)),
            max_us: us(*last),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let times = (1..=200).rev().map(Duration::from_micros).collect();
        let s = Summary::of(times).unwrap();
        assert_eq!((s.min_us, s.p50_us, s.p99_us, s.max_us), (1.0, 100.0, 198.0, 200.0));
        assert!(Summary::of(Vec::new()).is_none());
    }
}
