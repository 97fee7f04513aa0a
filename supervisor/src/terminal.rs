//! What programs show on a terminal: a bar that tells how far a compilation is.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::CompileProgress;

/// A compilation shorter than this shows no bar.
const DELAY: Duration = Duration::from_millis(500);
const INTERVAL: Duration = Duration::from_millis(100);
/// Characters of the bar itself.
const WIDTH: u64 = 30;
/// Goes to the beginning of the line and erases it.
const ERASE: &str = "\r\x1b[K";

/// A progress bar on stderr, if that is a terminal. It appears after half a second; dropping it takes it away.
#[derive(Debug)]
pub struct Bar(Option<(Sender<()>, JoinHandle<()>)>);

impl Bar {
    /// Shows from time to time how far a compilation is.
    pub fn start(progress: &CompileProgress) -> Self {
        if !io::stderr().is_terminal() {
            return Bar(None);
        }
        let progress = progress.clone();
        Self::start_on(io::stderr(), DELAY, move || progress.get())
    }

    fn start_on(
        mut out: impl Write + Send + 'static,
        delay: Duration,
        progress: impl Fn() -> (u64, u64) + Send + 'static,
    ) -> Self {
        let (sender, ended) = mpsc::channel::<()>();
        let draw = move || {
            let (mut wait, mut shown) = (delay, false);
            while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                wait = INTERVAL;
                // Nobody may be reading; then there is nothing to show.
                if let Some(line) = line(progress()) {
                    shown = true;
                    let _ = write!(out, "{ERASE}{line}").and_then(|()| out.flush());
                }
            }
            if shown {
                let _ = write!(out, "{ERASE}").and_then(|()| out.flush());
            }
        };
        // Without a thread there is no bar.
        Bar(std::thread::Builder::new()
            .name("progress".into())
            .spawn(draw)
            .ok()
            .map(|thread| (sender, thread)))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.0.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

/// The line to show; none before it is known how much there is to do.
fn line((done, total): (u64, u64)) -> Option<String> {
    let part = |of: u64| (u128::from(done.min(total)) * u128::from(of)).checked_div(total.into());
    let (filled, percent) = (part(WIDTH)? as usize, part(100)?);
    let (full, empty) = ("#".repeat(filled), "-".repeat(WIDTH as usize - filled));
    Some(format!("compiling [{full}{empty}] {percent:>3} %, {done} of {total} functions"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_line_tells_how_far_it_is() {
        assert_eq!(line((0, 0)), None);
        assert_eq!(
            line((1, 2)).unwrap(),
            "compiling [###############---------------]  50 %, 1 of 2 functions"
        );
        assert!(line((u64::MAX, u64::MAX)).unwrap().contains("100 %"));
    }

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_is_gone_when_it_is_dropped_and_none_is_shown_for_what_is_quick() {
        let (asked, was_asked) = mpsc::channel();
        let progress = move || {
            let _ = asked.send(());
            (1, 4)
        };
        let screen = Screen::default();
        let bar = Bar::start_on(screen.clone(), Duration::ZERO, progress);
        // Twice: the first line is written by then.
        was_asked.recv().unwrap();
        was_asked.recv().unwrap();
        drop(bar);
        let text = String::from_utf8(screen.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("25 %") && text.ends_with(ERASE), "{text:?}");

        let screen = Screen::default();
        drop(Bar::start_on(screen.clone(), Duration::MAX, || (1, 4)));
        assert!(screen.0.lock().unwrap().is_empty());
    }
}
