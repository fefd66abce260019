//! The look of an event, as text or as JSON, which can change from one line to the next.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Full, Json, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::Format;

/// The present format, shared by whoever has a part in writing a line.
#[derive(Clone, Debug)]
pub(super) struct FormatChoice {
    is_json: Arc<AtomicBool>,
}

impl FormatChoice {
    pub(super) fn new(format: Format) -> Self {
        Self { is_json: Arc::new(AtomicBool::new(format == Format::Json)) }
    }

    pub(super) fn get(&self) -> Format {
        if self.is_json.load(Ordering::Relaxed) { Format::Json } else { Format::Text }
    }

    pub(super) fn set(&self, format: Format) {
        self.is_json.store(format == Format::Json, Ordering::Relaxed);
    }
}

/// Formats each event as the choice says at that moment.
pub(super) struct EitherFormat {
    choice: FormatChoice,
    json: format::Format<Json>,
    text: format::Format<Full>,
}

impl EitherFormat {
    pub(super) fn new(choice: FormatChoice) -> Self {
        let json = format::Format::default().json().flatten_event(true).with_current_span(false).with_span_list(false);
        Self { choice, json, text: format::Format::default() }
    }
}

impl<S, N> FormatEvent<S, N> for EitherFormat
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        match self.choice.get() {
            Format::Json => self.json.format_event(context, writer, event),
            Format::Text => self.text.format_event(context, writer, event),
        }
    }
}
