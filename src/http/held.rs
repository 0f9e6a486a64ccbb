//! An answer's body with what must last as long as it does: the reservation of its memory, and a
//! guard of whoever serves it.
//!
//! - The reservation goes with the bytes: a connection takes a whole body at once and lets it go long
//!   before a slow reader has read it.
//! - The guard goes with the body: it is dropped when all of it has been taken, or nobody wants it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};

use super::budget::Reservation;

/// A body together with the reservation of its memory, if it has one, and a guard.
pub struct Held<B, G> {
    body: B,
    reservation: Option<Arc<Reservation>>,
    _guard: G,
}

/// Ties the reservation that a handler left with a response, and `guard`, to the response's body.
pub fn held<B, G>(mut response: Response<B>, guard: G) -> Response<Held<B, G>> {
    let reservation = response.extensions_mut().remove::<Arc<Reservation>>();
    response.map(|body| Held {
        body,
        reservation,
        _guard: guard,
    })
}

impl<B, G> Body for Held<B, G>
where
    B: Body<Data = Bytes> + Unpin,
    G: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &self.reservation {
            None => frame,
            Some(reservation) => frame.map_ok(|frame| {
                frame.map_data(|bytes| {
                    Bytes::from_owner(Reserved {
                        bytes,
                        _reservation: Arc::clone(reservation),
                    })
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes that keep their reservation until the last of them has left.
struct Reserved {
    bytes: Bytes,
    _reservation: Arc<Reservation>,
}

impl AsRef<[u8]> for Reserved {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::http::budget::Budget;

    #[tokio::test]
    async fn bytes_keep_their_reservation_when_their_body_is_gone() {
        let budget = Budget::new(10_000);
        let mut response = Response::new(Full::new(Bytes::from_static(b"text")));
        let reservation = Arc::new(budget.reserve(10_000).unwrap());
        response.extensions_mut().insert(reservation);
        let mut body = held(response, ()).into_body();
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(body.is_end_stream());
        drop(body);
        assert_eq!(bytes, "text");
        assert!(budget.reserve(10_000).is_none());
        drop(bytes);
        assert!(budget.reserve(10_000).is_some());
    }
}
