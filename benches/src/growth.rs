//! How the cost of a parked job grows with the number of parked instances, the size of the image and that of the memory.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use supervisor::PoolLimits;

use crate::family::Family;
use crate::soak::settled;
use crate::stats::Summary;
use crate::{Failure, library, one_by_one};

/// Jobs per row.
const COUNT: usize = 300;
/// Pause between jobs.
const GAP: Duration = Duration::from_millis(1);
/// Instances whose memory is looked at.
const LOOKED_AT: usize = 20;

/// All rows.
pub async fn growth() -> Result<Value, Failure> {
    let mut rows = Vec::new();
    for parked in [1, 100, 1000] {
        rows.push(row(json!({ "parked": parked }), parked, wat(1, 0)).await?);
    }
    for megabytes in [1, 10, 100] {
        rows.push(row(json!({ "image_mb": megabytes }), 2, wat(megabytes * 16, megabytes << 20)).await?);
    }
    for mebibytes in [1, 64, 1024] {
        rows.push(row(json!({ "memory_mib": mebibytes }), 2, wat(mebibytes * 16, 0)).await?);
    }
    Ok(json!({ "count": COUNT, "gap_us": GAP.as_micros() as u64, "rows": rows }))
}

/// A module that does nothing, with so many pages of memory and so many bytes of data.
fn wat(pages: usize, data: usize) -> String {
    let data = "x".repeat(data);
    format!(
        r#"(module (memory (export "memory") {pages}) (data (i32.const 0) "{data}") (func (export "_start")))"#
    )
}

async fn row(what: Value, parked: usize, wat: String) -> Result<Value, Failure> {
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            let pool = PoolLimits { min: parked, max: parked };
            let mut local = library::Local::new(wat::parse_str(&wat)?, None, "default", pool).await?;
            drop(wat);
            // The first parks the others.
            one_by_one(&mut local, 1, GAP).await?;
            let mut family = Family::default();
            settled("all are parked", || {
                family = Family::now();
                family.instances.len() >= parked
            })
            .await?;
            let mut private: Vec<Private> =
                family.instances.iter().take(LOOKED_AT).filter_map(|pid| Private::of(*pid)).collect();
            private.sort_by_key(Private::kib);
            let private = private.get(private.len() / 2).map(Private::json);
            let times = one_by_one(&mut local, COUNT, GAP).await?;
            Ok(json!({ "what": what, "latency": Summary::of(times), "private_kib_each": private }))
        })
        .await
}

/// What the kernel keeps for one process alone.
struct Private {
    /// Pages of its own.
    pages_kib: u64,
    /// Page tables.
    tables_kib: u64,
}

/// A kernel stack (`THREAD_SIZE` on x86-64).
const KERNEL_STACK_KIB: u64 = 16;

impl Private {
    /// `None` if it cannot be looked at.
    fn of(pid: i32) -> Option<Self> {
        let pages_kib =
            field(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Private_Dirty:")?;
        let tables_kib = field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmPTE:")?;
        Some(Self { pages_kib, tables_kib })
    }

    fn kib(&self) -> u64 {
        self.pages_kib + self.tables_kib + KERNEL_STACK_KIB
    }

    fn json(&self) -> Value {
        json!({ "pages": self.pages_kib, "page_tables": self.tables_kib, "kernel_stack": KERNEL_STACK_KIB, "all": self.kib() })
    }
}

/// A line of `/proc`, in KiB.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
