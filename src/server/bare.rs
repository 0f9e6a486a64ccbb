//! The measure of what the HTTP side costs without a store: one constant warp route behind the same
//! accept loop, socket and deadlines as the real server. Not part of what the crate offers; the
//! benchmarks alone call it.

use std::future::Future;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use warp::Filter;
use warp::reply::Response;

use super::accept;

/// As long as the values of the benchmarks, quotes included.
const VALUE: &[u8; 60] = b"\"a value like any other, the same whatever one is asked for\"";

/// Answers every `GET`, and every `POST` once its body is read and `keep` has kept it, with one value, until it
/// is dropped.
pub async fn serve_bare<F>(
    listener: TcpListener,
    keep: impl Fn(Bytes) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let get = warp::get().map(value);
    let post = warp::post().and(warp::body::bytes()).then(move |body| {
        let kept = keep(body);
        async {
            kept.await;
            value()
        }
    });
    let filtered = warp::service(get.or(post).unify());
    let service = service_fn(move |request| filtered.clone().call(request));
    accept::accept(
        listener,
        |_| service.clone(),
        TaskTracker::new(),
        CancellationToken::new(),
        CancellationToken::new(),
    )
    .await;
}

/// The one answer.
fn value() -> Response {
    let mut response = Response::new(Bytes::from_static(VALUE).into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
