//! What is spoken to an upstream, and the limits of a connection that carries many requests.

use std::num::NonZeroU32;
use std::time::Duration;

use super::url::Url;
use crate::settings::{ByteSize, Node, Rate, Value, settings};

/// Which HTTP an upstream is spoken to in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// Over TLS what the upstream chooses, else HTTP/1.1.
    Auto,
    Http1,
    /// Over TLS only if the upstream chooses it; in clear text without asking ("prior knowledge").
    Http2,
}

impl Value for Protocol {
    fn read(node: &Node<'_>) -> Option<Self> {
        match node.text()?.as_str() {
            "auto" => Some(Self::Auto),
            "http1" => Some(Self::Http1),
            "http2" => Some(Self::Http2),
            _ => node.problem(format!("{} must be \"auto\", \"http1\" or \"http2\"", node.path())),
        }
    }
}

impl Protocol {
    /// Whether a connection to `url` may turn out to be HTTP/2.
    pub fn may_be_http2(self, url: &Url) -> bool {
        match self {
            Self::Auto => url.is_https(),
            Self::Http1 => false,
            Self::Http2 => true,
        }
    }
}

settings! {
    /// `[upstream.NAME.http2]`: the limits of one HTTP/2 connection.
    pub struct Http2 {
        /// Requests at a time; fewer if the upstream says so. What is more takes another connection.
        pub streams_max: NonZeroU32 = NonZeroU32::new(100).unwrap_or(NonZeroU32::MIN),
        /// How much of one response may wait here for its client. A connection holds that much for each of
        /// `streams_max`, so that a slow client keeps nothing from the others.
        pub stream_window: Window = Window(256 << 10),
        /// How often a connection is asked for a sign of life while requests are on it; `None`: when an answer takes
        /// longer than `ping_timeout` and its request is given up.
        pub ping_interval: Option<Duration> = None,
        /// How long a sign of life may take; then the connection is dropped.
        pub ping_timeout: Duration = Duration::from_secs(10),
        /// How many requests that were given up are remembered at a time: what still comes for them is ignored.
        pub resets_max: NonZeroU32 = NonZeroU32::new(1_000).unwrap_or(NonZeroU32::MIN),
        /// Pings and settings, each of which takes an answer, beyond a ping for each piece of a request. Ten seconds'
        /// worth may come at once; an upstream that sends more loses the connection.
        pub control_frames: Rate = Rate::per_second(1_000).expect("not zero"),
    }
}

/// Bytes of a flow control window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window(pub u32);

/// RFC 9113 §6.9.1.
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// RFC 9113 §6.5.2: what a stream begins with unless it is told otherwise. Less would be slow for nothing.
const WINDOW_MIN: u32 = 65_535;

impl Window {
    /// A window for so many of this size.
    pub(super) fn times(self, count: NonZeroU32) -> u32 {
        self.0.saturating_mul(count.get()).min(WINDOW_MAX)
    }
}

impl Value for Window {
    fn read(node: &Node<'_>) -> Option<Self> {
        let bytes = ByteSize::read(node)?.0;
        match u32::try_from(bytes) {
            Ok(bytes) if (WINDOW_MIN..=WINDOW_MAX).contains(&bytes) => Some(Self(bytes)),
            _ => node.problem(format!("{} must be from 64KiB to less than 2GiB", node.path())),
        }
    }
}
