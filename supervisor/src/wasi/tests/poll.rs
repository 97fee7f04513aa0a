use std::io::Write;

use ipc::interface::FunctionId;

use super::*;

/// One subscription of the guest.
#[derive(Clone, Copy)]
pub(super) enum On {
    /// Clock, timeout, flags.
    Clock(u32, u64, u16),
    Read(u32),
    Write(u32),
}

/// (user data, error, type, nbytes, flags) of an event.
pub(super) type Event = (u64, u16, u8, u64, u16);

fn subscriptions(on: &[On]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, on) in on.iter().enumerate() {
        let mut one = [0; 48];
        one[..8].copy_from_slice(&(100 + i as u64).to_le_bytes());
        match *on {
            On::Clock(id, timeout, flags) => {
                one[16..20].copy_from_slice(&id.to_le_bytes());
                one[24..32].copy_from_slice(&timeout.to_le_bytes());
                one[40..42].copy_from_slice(&flags.to_le_bytes());
            }
            On::Read(fd) | On::Write(fd) => {
                one[8] = if matches!(on, On::Read(_)) { 1 } else { 2 };
                one[16..20].copy_from_slice(&fd.to_le_bytes());
            }
        }
        bytes.extend_from_slice(&one);
    }
    bytes
}

impl Guest {
    pub(super) async fn poll(&mut self, on: &[On]) -> Result<Vec<Event>, u16> {
        let bytes = subscriptions(on);
        let values = [Value::Bytes(&bytes), Value::Room(32 * on.len()), n(on.len() as u64), Value::Result];
        let outputs = self.call(FunctionId::poll_oneoff, &values).await?;
        let (events, rest) = outputs[0].as_chunks::<32>();
        assert!(rest.is_empty());
        assert_eq!(events.len(), u32_of(&outputs[1]) as usize);
        Ok(events
            .iter()
            .map(|e| {
                let short = |at: usize| u16::from_le_bytes([e[at], e[at + 1]]);
                (u64_of(e), short(8), e[10], u64_of(&e[16..]), short(24))
            })
            .collect())
    }
}

impl Guest {
    pub(super) async fn sleep(&mut self, nanoseconds: u64) {
        self.poll(&[On::Clock(1, nanoseconds, 0)]).await.unwrap();
    }
}

fn monotonic() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

const NEVER: u64 = u64::MAX;
const ABSOLUTE: u16 = 1;

#[tokio::test]
async fn sleeping_takes_at_least_the_time() {
    let mut guest = Guest::new();
    for clock in [0, 1] {
        let start = monotonic();
        assert_eq!(guest.poll(&[On::Clock(clock, 3_000_000, 0)]).await.unwrap(), [(100, 0, 0, 1, 0)]);
        assert!(monotonic() - start >= 3_000_000);
    }
    let start = monotonic();
    let events = guest.poll(&[On::Clock(1, NEVER, 0), On::Clock(1, 3_000_000, 0)]).await.unwrap();
    assert_eq!(events, [(101, 0, 0, 0, 0)]);
    assert!(monotonic() - start >= 3_000_000);
    assert_eq!(guest.poll(&[On::Clock(1, 0, 0), On::Clock(0, 0, 0)]).await.unwrap().len(), 2);
}

#[tokio::test]
async fn absolute_times_are_readings_of_the_guests_clocks() {
    // The guest's clock started an hour before it wraps, seen from the host's.
    let offset = 0u64.wrapping_sub(monotonic()).wrapping_sub(5_000_000_000);
    let mut guest = Guest::with(|config| config.monotonic_offset = offset);
    let guest_now = monotonic().wrapping_add(offset);
    assert!(guest_now > NEVER - 5_000_000_000);
    let target = guest_now + 3_000_000;
    guest.poll(&[On::Clock(1, target, ABSOLUTE)]).await.unwrap();
    assert!(monotonic().wrapping_add(offset) >= target);
    // Past times are due at once, beside one that never is.
    let past = [On::Clock(1, NEVER, 0), On::Clock(1, guest_now, ABSOLUTE), On::Clock(0, 1, ABSOLUTE)];
    let due: Vec<u64> = guest.poll(&past).await.unwrap().iter().map(|e| e.0).collect();
    assert_eq!(due, [101, 102]);
}

#[tokio::test]
async fn a_sleep_is_rounded_up_to_the_resolution() {
    let mut guest = Guest::with(|config| config.clock_resolution_ns = 4_000_000);
    let start = monotonic();
    guest.poll(&[On::Clock(1, 1, 0)]).await.unwrap();
    assert!(monotonic() - start >= 4_000_000);
    let target = monotonic() + 1;
    guest.poll(&[On::Clock(1, target, ABSOLUTE)]).await.unwrap();
    let read = monotonic();
    assert!(read - read % 4_000_000 >= target);
}

#[tokio::test]
async fn what_cannot_be_awaited() {
    let mut guest = Guest::new();
    assert_eq!(guest.poll(&[]).await, Err(INVAL));
    assert_eq!(guest.poll(&[On::Clock(4, 0, 0)]).await, Err(INVAL));
    assert_eq!(guest.poll(&[On::Clock(1, 0, 2)]).await, Err(INVAL));
    assert_eq!(guest.poll(&[On::Clock(2, 0, 0), On::Clock(1, 0, 0)]).await, Err(INVAL));
    assert_eq!(guest.poll(&[On::Clock(3, 0, ABSOLUTE)]).await, Err(INVAL));
    for on in [On::Read(1), On::Write(0), On::Read(ROOT), On::Write(ROOT), On::Read(99), On::Write(99)] {
        assert_eq!(guest.poll(&[On::Clock(1, 0, 0), on]).await, Err(BADF));
    }
}

#[tokio::test]
async fn ranges_and_number_must_agree() {
    let mut guest = Guest::new();
    let one = subscriptions(&[On::Clock(1, 0, 0)]);
    for (count, room) in [(0, 32), (2, 32), (1, 64), (1, 0), (u64::MAX, 32), (1 << 32, 32)] {
        let values = [Value::Bytes(&one), Value::Room(room), n(count), Value::Result];
        assert_eq!(guest.call(FunctionId::poll_oneoff, &values).await, Err(INVAL), "{count} {room}");
    }
}

#[tokio::test]
async fn files_are_always_ready() {
    let mut guest = Guest::with_read_only();
    std::fs::write(guest.host("f"), "ab").unwrap();
    let file = guest.open(ROOT, "f", 0, READ_WRITE).await.unwrap();
    let both = [On::Clock(1, NEVER, 0), On::Read(file), On::Write(file)];
    assert_eq!(guest.poll(&both).await.unwrap(), [(101, 0, 1, 1, 0), (102, 0, 2, 1, 0)]);
    guest.seek(file, 0, 2).await.unwrap();
    assert_eq!(guest.poll(&both[1..2]).await.unwrap(), [(100, 0, 1, 1, 1)]);
    let read_only = guest.open(OTHER, "f", 0, READ).await.unwrap();
    assert_eq!(guest.poll(&[On::Write(read_only)]).await, Err(PERM));
}

#[tokio::test]
async fn streams_are_awaited_beside_clocks() {
    let (reader, writer) = std::io::pipe().unwrap();
    let (full_reader, mut full_writer) = std::io::pipe().unwrap();
    full_writer.write_all(&vec![0; capacity(&full_writer)]).unwrap();
    let mut writer = Some(writer);
    let stdio = [Some(reader.into()), Some(full_writer.into()), None];
    let mut guest = Guest::with_stdio(stdio);
    let input = [On::Clock(1, NEVER, 0), On::Read(0), On::Write(1), On::Read(0)];
    // Not ready: the clock is.
    assert_eq!(
        guest.poll(&[On::Read(0), On::Write(1), On::Clock(1, 2_000_000, 0)]).await.unwrap(),
        [(102, 0, 0, 0, 0)]
    );
    for round in 0..50 {
        let (events, ()) = tokio::join!(guest.poll(&input), async {
            tokio::task::yield_now().await;
            writer.as_mut().unwrap().write_all(b"x").unwrap();
        });
        assert_eq!(events.unwrap(), [(101, 0, 1, 1, 0), (103, 0, 1, 1, 0)], "{round}");
        // Still ready: it was not read.
        assert_eq!(guest.poll(&input).await.unwrap().len(), 2);
        assert_eq!(guest.read(0, 10).await.unwrap(), b"x");
    }
    let (events, ()) = tokio::join!(guest.poll(&input), async {
        tokio::task::yield_now().await;
        writer = None;
    });
    assert_eq!(events.unwrap().len(), 2);
    assert_eq!(guest.read(0, 10).await.unwrap(), b"");
    // Nobody reads the full one any more: a write would not wait.
    let mut full_reader = Some(full_reader);
    let (events, ()) = tokio::join!(guest.poll(&[On::Write(1)]), async {
        tokio::task::yield_now().await;
        full_reader = None;
    });
    assert_eq!(events.unwrap(), [(100, 0, 2, 1, 0)]);
    assert!(writer.is_none() && full_reader.is_none());
}

#[tokio::test]
async fn absent_and_ordinary_streams_are_ready() {
    let null = File::open("/dev/null").unwrap();
    let mut guest = Guest::with_stdio([Some(null.into()), Some(tempfile::tempfile().unwrap().into()), None]);
    let all = [On::Read(0), On::Write(1), On::Write(2), On::Clock(1, NEVER, 0)];
    assert_eq!(guest.poll(&all).await.unwrap().len(), 3);
    let mut guest = Guest::new();
    assert_eq!(guest.poll(&all).await.unwrap().len(), 3);
}

#[tokio::test]
async fn many_subscriptions_of_one_stream() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut guest = Guest::with_stdio([Some(reader.into()), None, None]);
    let many = vec![On::Read(0); 4096];
    let (events, ()) = tokio::join!(guest.poll(&many), async {
        tokio::task::yield_now().await;
        writer.write_all(b"x").unwrap();
    });
    assert_eq!(events.unwrap().len(), 4096);
    assert_eq!(guest.poll(&vec![On::Read(0); 4097]).await, Err(INVAL));
}

#[tokio::test]
async fn many_subscriptions_of_files() {
    let mut guest = Guest::new();
    std::fs::write(guest.host("f"), "ab").unwrap();
    let start = guest.open(ROOT, "f", 0, READ).await.unwrap();
    let end = guest.open(ROOT, "f", 0, READ).await.unwrap();
    guest.seek(end, 0, 2).await.unwrap();
    let many: Vec<On> = (0..4096).map(|i| On::Read(if i % 2 == 0 { start } else { end })).collect();
    let events = guest.poll(&many).await.unwrap();
    assert_eq!(events.len(), 4096);
    for (i, event) in events.iter().enumerate() {
        assert_eq!(*event, (100 + i as u64, 0, 1, 1, (i % 2) as u16));
    }
}
