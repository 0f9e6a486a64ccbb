//! An answer's body that gives its reservation back once it has left.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};

use super::budget::Reservation;

/// A body together with the reservation of its memory, if it has one.
pub struct Held<B> {
    body: B,
    _reservation: Option<Arc<Reservation>>,
}

/// Ties the reservation that a handler left with a response to the response's body.
pub fn held<B>(mut response: Response<B>) -> Response<Held<B>> {
    let reservation = response.extensions_mut().remove::<Arc<Reservation>>();
    response.map(|body| Held {
        body,
        _reservation: reservation,
    })
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
