//! The way of a line to stderr: escaped, put into a bounded buffer, written by a thread of its own.
//!
//! Whoever logs only copies bytes under a short lock: a reader of stderr that is stuck or gone holds up that thread and
//! nobody else.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::Format;
use super::format::FormatChoice;

/// What may wait to be written. A line that does not fit is dropped and counted.
pub(super) const PENDING_BYTES_MAX: usize = 1 << 20;
/// How long the end of the process waits for what is pending.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);

/// Starts the thread that writes to `sink`.
///
/// # Errors
/// When the operating system gives no thread.
pub(super) fn start(format: FormatChoice, sink: impl Write + Send + 'static) -> io::Result<(Lines, Flush)> {
    let shared = Arc::new(Shared::default());
    let writer = Writer { shared: Arc::clone(&shared), sink };
    thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
    Ok((Lines { format, shared: Arc::clone(&shared) }, Flush { written: Written { shared } }))
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    drained: Condvar,
}

#[derive(Default)]
struct Queue {
    pending: Vec<u8>,
    /// Lines that found no room since the last ones that did.
    dropped: u64,
    writing: bool,
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry for lines. Never waits for the sink, never fails.
pub(super) struct Lines {
    format: FormatChoice,
    shared: Arc<Shared>,
}

impl Lines {
    pub(super) fn written(&self) -> Written {
        Written { shared: Arc::clone(&self.shared) }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// Takes one whole event with each call, as the layers of tracing-subscriber give it.
impl Write for &Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = one_line(&text, self.format.get());
        let mut queue = self.shared.queue();
        if queue.pending.len() + line.len() < PENDING_BYTES_MAX {
            queue.pending.extend_from_slice(line.as_bytes());
            queue.pending.push(b'\n');
            self.shared.filled.notify_one();
        } else {
            queue.dropped += 1;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells when all that was logged is written.
#[derive(Clone)]
pub(super) struct Written {
    shared: Arc<Shared>,
}

impl Written {
    /// Waits for it, for two seconds at most.
    pub(super) fn wait(&self) {
        let unwritten = |queue: &mut Queue| queue.writing || !queue.pending.is_empty();
        // Either all is written or time is up, and there is nobody left to tell.
        let _ = self.shared.drained.wait_timeout_while(self.shared.queue(), FLUSH_TIME_MAX, unwritten);
    }
}

/// Waits on drop until what was logged is written, for two seconds at most.
#[must_use = "dropping it ends the log"]
pub struct Flush {
    written: Written,
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.written.shared.queue().closed = true;
        self.written.shared.filled.notify_one();
        self.written.wait();
    }
}

struct Writer<S> {
    shared: Arc<Shared>,
    sink: S,
}

impl<S: Write> Writer<S> {
    fn run(mut self) {
        let mut batch = Vec::new();
        while let Some(dropped) = self.next(&mut batch) {
            // A sink that fails leaves nowhere to say so; the next batch may fare better.
            let _ = self.sink.write_all(&batch).and_then(|()| self.sink.flush());
            batch.clear();
            if dropped > 0 {
                tracing::warn!(dropped, "log lines were dropped, since stderr did not take them fast enough");
            }
        }
    }

    /// Swaps what is pending into the empty `batch` and returns how many lines were dropped meanwhile; `None` at the end.
    fn next(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let mut queue = self.shared.queue();
        queue.writing = false;
        if queue.pending.is_empty() {
            self.shared.drained.notify_all();
        }
        let idle = |queue: &mut Queue| queue.pending.is_empty() && !queue.closed;
        let mut queue = self.shared.filled.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
        if queue.pending.is_empty() {
            return None;
        }
        queue.writing = true;
        std::mem::swap(&mut queue.pending, batch);
        Some(std::mem::take(&mut queue.dropped))
    }
}

/// The event without its line end, and with everything escaped that could break a line or deceive its reader.
fn one_line(event: &str, format: Format) -> Cow<'_, str> {
    let event = event.strip_suffix('\n').unwrap_or(event);
    if !event.chars().any(deceives) {
        return Cow::Borrowed(event);
    }
    let mut line = String::with_capacity(event.len() + 16);
    for c in event.chars() {
        // Writing to a string cannot fail.
        let _ = match (deceives(c), format) {
            (false, _) => line.write_char(c),
            // Outside its strings JSON holds none of these, and in them `\uXXXX` is right for each: all are in the BMP.
            (true, Format::Json) => write!(line, "\\u{:04x}", u32::from(c)),
            (true, Format::Text) => write!(line, "{}", c.escape_default()),
        };
    }
    Cow::Owned(line)
}

/// Control characters, line and paragraph separators, and what is invisible or turns the direction of writing.
pub(crate) fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
