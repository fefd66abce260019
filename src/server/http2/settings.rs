//! `[http2]`: what one client connection over HTTP/2 may take beside what `[client]` says.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::settings::{ByteSize, Node, Rate, Value, settings};

settings! {
    /// `[http2]`: limits of client connections that speak HTTP/2.
    pub struct Http2 {
        /// Whether clients may speak it without TLS, by starting with its preface.
        pub cleartext: bool = true,
        /// Requests at the same time on one connection; more are refused, and the client may repeat them.
        pub streams_max: NonZeroU32 = NonZeroU32::new(100).expect("not zero"),
        /// What may be on its way to here in the body of one request, before it was read.
        pub stream_window: Window = Window(ByteSize::kib(256)),
        /// The same for all requests of a connection together: as much memory as their bodies take.
        pub connection_window: Window = Window(ByteSize::mib(1)),
        /// The largest frame that is taken, from 16 KiB to 16 MiB - 1.
        pub frame_bytes_max: FrameBytes = FrameBytes(ByteSize::kib(16)),
        /// What is held of one response that its client does not take, beside the piece that was read last.
        pub send_buffer: Window = Window(ByteSize::kib(64)),
        /// How often to ask a client whether it is still there, `None`: never.
        pub ping_interval: Option<Duration> = Some(Duration::from_secs(30)),
        /// How long its answer may take.
        pub ping_timeout: Duration = Duration::from_secs(20),
        /// Requests that a client cancels. Ten seconds' worth may come at once.
        pub resets: Rate = Rate::per_second(50).expect("not zero"),
        /// Cancelled requests that nobody has looked at yet.
        pub resets_pending_max: NonZeroU32 = NonZeroU32::new(20).expect("not zero"),
        /// Requests of one connection that a client's own faults end.
        pub errors_max: NonZeroU32 = NonZeroU32::new(200).expect("not zero"),
        /// Frames that move nothing: pings, settings, priorities, and window updates beyond those that what was sent
        /// explains. Ten seconds' worth may come at once. Pings are counted apart, and each piece of a response
        /// explains one.
        pub control_frames: Rate = Rate::per_second(1_000).expect("not zero"),
    }
}

/// A number of bytes for flow control: 2 GiB - 1 at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window(pub ByteSize);

impl Window {
    const MAX: u32 = i32::MAX as u32;

    pub(super) fn get(self) -> u32 {
        u32::try_from(self.0.0).map_or(Self::MAX, |bytes| bytes.min(Self::MAX))
    }
}

impl Value for Window {
    fn read(node: &Node<'_>) -> Option<Self> {
        match ByteSize::read(node)? {
            size if size.0 <= u64::from(Self::MAX) => Some(Self(size)),
            _ => node.problem(format!("{} must be less than 2GiB", node.path())),
        }
    }
}

/// The size of a frame, within what RFC 9113 §6.5.2 allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameBytes(pub ByteSize);

impl FrameBytes {
    const MIN: u32 = 1 << 14;
    const MAX: u32 = (1 << 24) - 1;

    pub(super) fn get(self) -> u32 {
        u32::try_from(self.0.0).map_or(Self::MAX, |bytes| bytes.clamp(Self::MIN, Self::MAX))
    }
}

impl Value for FrameBytes {
    fn read(node: &Node<'_>) -> Option<Self> {
        match ByteSize::read(node)? {
            size if (u64::from(Self::MIN)..=u64::from(Self::MAX)).contains(&size.0) => Some(Self(size)),
            _ => node.problem(format!("{} must be at least 16KiB and less than 16MiB", node.path())),
        }
    }
}
