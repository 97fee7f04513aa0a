use std::io::Write;

use super::*;

fn guest(change: impl FnOnce(&mut WasiConfig)) -> Guest {
    Guest::with(|config| {
        config.deterministic = true;
        config.monotonic_offset = 5_000_000_000;
        change(config);
    })
}

impl Guest {
    async fn time(&mut self, clock: u32) -> Result<u64, u16> {
        let values = [n(clock), n(1u32), Value::Result];
        Ok(u64_of(&self.call(FunctionId::clock_time_get, &values).await?[0]))
    }
}

#[tokio::test]
async fn time_passes_only_by_what_the_guest_does() {
    let mut guest = guest(|config| config.clock_resolution_ns = 1_000_000);
    let start = 946_684_800_000_000_000;
    assert_eq!(guest.time(0).await, Ok(start));
    assert_eq!(guest.time(1).await, Ok(5_001_000_000));
    assert_eq!(guest.time(2).await, Err(BADF));
    assert_eq!(guest.time(4).await, Err(INVAL));
    // An hour takes no time; by the guest's clock it does.
    let hour = 3_600_000_000_000;
    guest.sleep(hour).await;
    assert_eq!(guest.time(1).await, Ok(5_002_000_000 + hour));
    assert_eq!(guest.time(0).await, Ok(start + 3_000_000 + hour));
}

#[tokio::test]
async fn input_comes_the_same_however_it_arrives() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut guest = guest(|config| config.stdio[0] = Some(reader.into()));
    guest.set_flags(0, 4).await.unwrap();
    let (read, ()) = tokio::join!(guest.read(0, 6), async {
        for byte in b"abcdef" {
            tokio::task::yield_now().await;
            writer.write_all(&[*byte]).unwrap();
        }
    });
    assert_eq!(read.unwrap(), b"abcdef");
    writer.write_all(b"gh").unwrap();
    drop(writer);
    assert_eq!(guest.read(0, 6).await.unwrap(), b"gh");
}

#[tokio::test]
async fn files_have_numbers_in_the_order_in_which_they_are_seen_and_no_times() {
    let mut runs = Vec::new();
    for round in 0..2 {
        let mut guest = guest(|_| {});
        // Other inodes than in the round before.
        for number in 0..round * 7 {
            std::fs::write(guest.host(&format!("x{number}")), "").unwrap();
        }
        let file = guest.open(ROOT, "new", CREATE, READ_WRITE).await.unwrap();
        let stats = [guest.filestat(file).await.unwrap(), guest.stat(ROOT, ".", true).await.unwrap()];
        assert_eq!(stats.each_ref().map(Stat::inode), [1, 2]);
        assert_eq!(stats.each_ref().map(Stat::modified), [0, 0]);
        assert_eq!(guest.stat(ROOT, "new", true).await.unwrap().inode(), 1);
        runs.push(stats[0].0.clone());
    }
    assert_eq!(runs[0], runs[1]);
}
