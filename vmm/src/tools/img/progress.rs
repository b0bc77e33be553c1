//! How far a command is: qemu-img's percentages, a bar on a terminal, or JSON.
use super::text::human_size;
use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// Not at all.
    #[default]
    Nothing,
    /// `    (12.34/100%)` and a carriage return, as qemu-img does; on a terminal with a bar, the
    /// rate and the time left.
    Percent,
    /// One JSON object a line.
    Json,
}

/// The shortest time between two lines on a terminal or of JSON.
const PAUSE: Duration = Duration::from_millis(100);
/// Characters of the bar.
const BAR: usize = 24;

/// Progress on its way. Written to standard output, or to the error stream where that takes data.
pub struct Progress {
    show: Show,
    beside: bool,
    terminal: bool,
    total: u64,
    began: Instant,
    state: RefCell<State>,
}

struct State {
    done: u64,
    /// In hundredths of a percent, as last shown.
    shown: Option<u64>,
    last: Instant,
}

impl Progress {
    /// Progress towards `total` bytes; shows that it begins.
    #[must_use]
    pub fn new(show: Show, total: u64) -> Self {
        Self::on(show, total, false)
    }

    /// The same on the error stream: standard output may be where the data goes.
    #[must_use]
    pub fn beside_data(show: Show, total: u64) -> Self {
        Self::on(show, total, true)
    }

    fn on(show: Show, total: u64, beside: bool) -> Self {
        let now = Instant::now();
        let state = RefCell::new(State { done: 0, shown: None, last: now });
        let terminal = if beside { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        let progress = Self { show, beside, terminal, total, began: now, state };
        progress.print(0);
        progress
    }

    /// `bytes` more are done.
    pub fn advance(&self, bytes: u64) {
        let mut state = self.state.borrow_mut();
        // Where the total is not known, it is 0.
        let most = if self.total > 0 { self.total } else { u64::MAX };
        state.done = state.done.saturating_add(bytes).min(most);
        if self.show == Show::Nothing {
            return;
        }
        let now = self.hundredths(state.done);
        let enough = if self.terminal || self.show == Show::Json {
            state.last.elapsed() >= PAUSE
        } else {
            state.shown.is_none_or(|shown| now >= shown + 100)
        };
        if enough {
            state.shown = Some(now);
            state.last = Instant::now();
            let done = state.done;
            drop(state);
            self.print(done);
        }
    }

    /// All is done.
    pub fn finish(&self) {
        self.print(self.total);
        if self.show == Show::Percent {
            self.write("\n");
        }
    }

    fn hundredths(&self, done: u64) -> u64 {
        if self.total == 0 {
            return 10_000;
        }
        u64::try_from(u128::from(done) * 10_000 / u128::from(self.total)).unwrap_or(10_000)
    }

    fn print(&self, done: u64) {
        let line = match self.show {
            Show::Nothing => return,
            Show::Percent if self.terminal => {
                bar(done, self.hundredths(done), self.total, self.began.elapsed())
            }
            Show::Percent => percent(self.hundredths(done)),
            Show::Json => json(done, self.hundredths(done), self.total, self.began.elapsed()),
        };
        self.write(&line);
    }

    /// A reader that has gone away is no reason to stop.
    fn write(&self, text: &str) {
        let mut out: Box<dyn Write> =
            if self.beside { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn percent(hundredths: u64) -> String {
    format!("    ({}.{:02}/100%)\r", hundredths / 100, hundredths % 100)
}

/// Bytes in a second, and the seconds left where they can be known.
fn pace(done: u64, total: u64, elapsed: Duration) -> (u64, Option<u64>) {
    let seconds = elapsed.as_secs_f64();
    if seconds <= 0.0 || done == 0 {
        return (0, None);
    }
    let rate = done as f64 / seconds;
    let left = total.saturating_sub(done) as f64 / rate;
    (rate as u64, Some(left.ceil() as u64))
}

fn bar(done: u64, hundredths: u64, total: u64, elapsed: Duration) -> String {
    let filled = usize::try_from(hundredths).unwrap_or(0) * BAR / 10_000;
    let (rate, left) = pace(done, total, elapsed);
    let left = left.map_or("--:--".to_owned(), |s| format!("{}:{:02}", s / 60, s % 60));
    format!(
        "    ({}.{:02}/100%) [{}{}] {}/s {left} \x1b[K\r",
        hundredths / 100,
        hundredths % 100,
        "=".repeat(filled.min(BAR)),
        " ".repeat(BAR - filled.min(BAR)),
        human_size(rate),
    )
}

fn json(done: u64, hundredths: u64, total: u64, elapsed: Duration) -> String {
    let (rate, left) = pace(done, total, elapsed);
    let value = serde_json::json!({
        "offset": done,
        "total": total,
        "percent": hundredths as f64 / 100.0,
        "bytes-per-second": rate,
        "seconds-left": left,
    });
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_how_fast_and_how_long() {
        assert_eq!(percent(0), "    (0.00/100%)\r");
        assert_eq!(percent(10_000), "    (100.00/100%)\r");
        let half = bar(1 << 20, 5000, 2 << 20, Duration::from_secs(1));
        assert!(half.contains("(50.00/100%) [============            ] 1 MiB/s 0:01"), "{half}");
        assert!(bar(0, 0, 5, Duration::ZERO).contains("--:--"));
        let line = json(1 << 20, 5000, 2 << 20, Duration::from_secs(1));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["percent"], &value["seconds-left"]), (&50.0.into(), &1.into()));
        let nothing = Progress::new(Show::Nothing, 0);
        nothing.advance(7);
        assert_eq!(nothing.hundredths(7), 10_000);
    }
}
