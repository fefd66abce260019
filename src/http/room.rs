//! Room for reading that all connections of a thread share, so that an idle one has no buffer of its own.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// What is read at a time: so much at most is in hand of what a slow receiver does not take. 32 and 64 KiB cost alike, 16
/// about a tenth more for large responses.
const ROOM_BYTES: usize = 24 * 1024;
/// So much content to come is read to where it stays.
const DIRECT_BYTES_MIN: u64 = 8 * 1024;

thread_local! {
    static ROOM: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM_BYTES]);
}

/// Reads into the thread's room and keeps of it what `keep` keeps: nothing was read at the end of the stream.
///
/// # Errors
/// The reader's.
pub fn poll_through<R: AsyncRead + Unpin, T>(
    reader: &mut R,
    cx: &mut Context<'_>,
    keep: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    ROOM.with_borrow_mut(|room| {
        let mut buf = ReadBuf::new(room);
        ready!(Pin::new(reader).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(keep(buf.filled())))
    })
}

/// Reads some content of which `left` bytes are to come, if that is known. Empty at the end of the stream.
///
/// # Errors
/// The reader's.
pub fn poll_content<R: AsyncRead + Unpin>(
    reader: &mut R,
    cx: &mut Context<'_>,
    left: Option<u64>,
) -> Poll<io::Result<Bytes>> {
    match left {
        Some(left) if left >= DIRECT_BYTES_MIN => {
            let capacity = usize::try_from(left).unwrap_or(usize::MAX).min(ROOM_BYTES);
            let mut piece = BytesMut::with_capacity(capacity);
            ready!(pin!(reader.read_buf(&mut piece)).poll(cx))?;
            // What waits for a slow receiver keeps no room that it does not fill.
            let is_loose = piece.len() < capacity / 2;
            Poll::Ready(Ok(if is_loose { Bytes::copy_from_slice(&piece) } else { piece.freeze() }))
        }
        _ => poll_through(reader, cx, Bytes::copy_from_slice),
    }
}
