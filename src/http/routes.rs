//! The routes: one list of paths and methods, and the filter around it.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderValue};
use hyper::service::{Service, service_fn};
use tower_service::Service as _;
use warp::Filter;
use warp::reply::Response;

use super::app::{App, Ready};
use super::body::{Incoming, Payload};
use super::caught::{Panicked, caught, caught_now};
use super::condition;
use super::links::{self, LinkPath, Style};
use super::refusal::Refusal;
use super::request::{Handover, Head, Request};
use super::{admin, answer, batch, find, key_value, session, status};
use crate::store::{Awaited, Started};

/// What a path stands for; keys are still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'a> {
    Get(&'a str),
    Set(&'a str),
    Delete(&'a str),
    BatchGet,
    BatchSet,
    BatchDelete,
    Clear,
    Find,
    /// The links of a key.
    Links(&'a str),
    /// The same for older clients.
    LinksNamed(&'a str),
    /// One link.
    Link(LinkPath<'a>),
    /// A link that the body names, for older clients.
    LinkNamed,
    UnlinkNamed,
    Token,
    Compact,
    Health,
    Live,
    Ready,
}

impl<'a> Route<'a> {
    /// The route of a path, the busiest first.
    fn find(path: &'a str) -> Result<Self, Refusal> {
        if let Some(key) = path.strip_prefix("/api/kv/get/") {
            return segment(key).map(Self::Get);
        }
        if let Some(key) = path.strip_prefix("/api/kv/set/") {
            return segment(key).map(Self::Set);
        }
        if let Some(key) = path.strip_prefix("/api/kv/delete/") {
            return segment(key).map(Self::Delete);
        }
        match path {
            "/api/kv/batch/get" => Ok(Self::BatchGet),
            "/api/kv/batch/set" => Ok(Self::BatchSet),
            "/api/kv/batch/delete" => Ok(Self::BatchDelete),
            "/api/kv/find" => Ok(Self::Find),
            "/api/kv/clear" => Ok(Self::Clear),
            "/api/kv/link" => Ok(Self::LinkNamed),
            "/api/kv/unlink" => Ok(Self::UnlinkNamed),
            "/api/auth/token" => Ok(Self::Token),
            "/api/admin/compact" => Ok(Self::Compact),
            "/api/health" => Ok(Self::Health),
            "/livez" => Ok(Self::Live),
            "/readyz" => Ok(Self::Ready),
            _ => Self::linked(path),
        }
    }

    /// The route of a path about links. A verb wins: a key named `get`, `set`, `delete` or `links`
    /// needs an escape here (`%67et`).
    fn linked(path: &'a str) -> Result<Self, Refusal> {
        let rest = path.strip_prefix("/api/kv/").ok_or(Refusal::UnknownRoute)?;
        if let Some(key) = rest.strip_prefix("links/") {
            return segment(key).map(Self::LinksNamed);
        }
        let mut segments = rest.split('/');
        let key = segments.next().unwrap_or_default();
        if segments.next() != Some("links") {
            return Err(Refusal::UnknownRoute);
        }
        match (segments.next(), segments.next(), segments.next()) {
            (None, ..) => Ok(Self::Links(key)),
            (Some(collection), Some(record_id), None) => Ok(Self::Link(LinkPath {
                key,
                collection,
                record_id,
            })),
            (Some(""), None, _) | (_, _, Some(_)) => Err(Refusal::ExtraSegment),
            _ => Err(Refusal::UnknownRoute),
        }
    }

    fn methods(self) -> Methods {
        match self {
            Self::Get(_)
            | Self::Links(_)
            | Self::LinksNamed(_)
            | Self::Health
            | Self::Live
            | Self::Ready => Methods::Reading,
            Self::Set(_)
            | Self::BatchGet
            | Self::BatchSet
            | Self::Find
            | Self::LinkNamed
            | Self::UnlinkNamed
            | Self::Compact
            | Self::Token => Methods::Post,
            Self::Delete(_) | Self::Clear => Methods::Delete,
            Self::BatchDelete | Self::Link(_) => Methods::DeleteOrPost,
        }
    }

    /// Whether it changes keys and knows no conditions. A read that ignores one does no harm.
    fn is_unconditional_write(self) -> bool {
        matches!(
            self,
            Self::BatchSet
                | Self::BatchDelete
                | Self::Clear
                | Self::Link(_)
                | Self::LinkNamed
                | Self::UnlinkNamed
        )
    }

    fn check(self, method: &Method) -> Result<(), Refusal> {
        let methods = self.methods();
        if methods.contain(method) {
            Ok(())
        } else {
            Err(Refusal::Method {
                allow: methods.names(),
            })
        }
    }
}

/// The methods of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Methods {
    Reading,
    Post,
    Delete,
    DeleteOrPost,
}

impl Methods {
    fn contain(self, method: &Method) -> bool {
        match self {
            Self::Reading => *method == Method::GET || *method == Method::HEAD,
            Self::Post => *method == Method::POST,
            Self::Delete => *method == Method::DELETE,
            Self::DeleteOrPost => *method == Method::DELETE || *method == Method::POST,
        }
    }

    /// As `Allow` lists them.
    fn names(self) -> &'static str {
        match self {
            Self::Reading => "GET, HEAD",
            Self::Post => "POST",
            Self::Delete => "DELETE",
            Self::DeleteOrPost => "DELETE, POST",
        }
    }
}

/// The rest of a path, if it is one segment.
fn segment(rest: &str) -> Result<&str, Refusal> {
    if rest.contains('/') {
        Err(Refusal::ExtraSegment)
    } else {
        Ok(rest)
    }
}

/// What answers the requests of the connection from `peer`, one after the other as HTTP/1 has them: warp's
/// service around one filter, which takes every request and never rejects.
pub fn service<B: Incoming>(
    app: Arc<App>,
    peer: SocketAddr,
) -> impl Service<hyper::Request<B>, Response = Response, Error = Infallible, Future: Send>
+ Send
+ Sync
+ 'static {
    let handover = Arc::new(Handover::new(app, peer));
    let taking = Arc::clone(&handover);
    let filtered = warp::service(warp::any().then(move || Responding {
        handover: Arc::clone(&taking),
        waits: None,
    }));
    service_fn(move |request| {
        look_ahead(&handover.app, &request);
        handover.put(request);
        // Always ready: there is nothing to wait for before the call.
        filtered
            .clone()
            .call(hyper::Request::new(Empty::<Bytes>::new()))
    })
}

/// Has memory fetched for the key that a request is about as soon as that is known: what comes before its
/// command takes about as long as memory does. A key that is escaped in its path is taken for another one, in
/// vain. Who shows no token takes nothing that others share.
fn look_ahead<B>(app: &App, request: &hyper::Request<B>) {
    if let Ok(Route::Get(key) | Route::Set(key) | Route::Delete(key)) =
        Route::find(request.uri().path())
        && key.len() <= app.limits.key_bytes
        && request.headers().contains_key(AUTHORIZATION)
        && let Ok(ready) = app.ready()
    {
        ready.store.prefetch(key);
    }
}

/// The answer to a request, whatever happens; there is always one.
///
/// Most reads are answered at once. What waits has a box: futures are moved about several times before they are
/// polled, so this one is small.
struct Responding<B> {
    handover: Arc<Handover<B>>,
    waits: Option<Waits>,
}

type Waits = Pin<Box<dyn Future<Output = Response> + Send>>;

impl<B: Incoming> Future for Responding<B> {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response> {
        let waits = match self.waits.take() {
            Some(waits) => waits,
            None => match respond(&self.handover) {
                Responded::Now(response) => return Poll::Ready(response),
                Responded::Later(waits) => waits,
            },
        };
        self.waits.insert(waits).as_mut().poll(context)
    }
}

/// What is known of an answer.
enum Responded {
    Now(Response),
    Later(Waits),
}

/// Answers a request, or begins to.
fn respond<B: Incoming>(handover: &Arc<Handover<B>>) -> Responded {
    let app = &handover.app;
    let mut place = handover.place();
    let Some(request) = &*place else {
        return Responded::Now(last(Refusal::Internal.response()));
    };
    let unanswered = match caught_now(|| begin(app, &request.head)) {
        Ok(Ok(response)) => {
            *place = None;
            return Responded::Now(response);
        }
        Ok(Err(unanswered)) => Ok(unanswered),
        Err(panicked) => Err(panicked),
    };
    let Some(mut request) = place.take() else {
        return Responded::Now(last(Refusal::Internal.response()));
    };
    drop(place);
    match unanswered {
        Ok(Unanswered::Reading(reply)) => {
            let handover = Arc::clone(handover);
            Responded::Later(Box::pin(async move {
                let app = &handover.app;
                let read = pin!(async { key_value::answer_get(app, reply.outcome().await) });
                conclude(app, caught(read).await, request)
            }))
        }
        Ok(Unanswered::Admitted) => {
            let handover = Arc::clone(handover);
            Responded::Later(Box::pin(async move {
                let app = &handover.app;
                let outcome = caught(pin!(handle(app, &mut request))).await;
                conclude(app, outcome, request)
            }))
        }
        Ok(Unanswered::Refused(refusal)) => {
            Responded::Now(conclude(app, Ok(Err(refusal)), request))
        }
        Err(panicked) => Responded::Now(conclude(app, Err(panicked), request)),
    }
}

/// Ends a request with what has come of it.
fn conclude<B: Incoming>(
    app: &App,
    outcome: Result<Result<Response, Refusal>, Panicked>,
    request: Request<B>,
) -> Response {
    let refusal = match outcome {
        Ok(Ok(response)) => return response,
        Ok(Err(refusal)) => refusal,
        Err(Panicked) => {
            tracing::error!(panics = app.count_panic(), "a request handler panicked");
            Refusal::Internal
        }
    };
    let mut response = refusal.response();
    // Who shows no token is not told how much is written here.
    if request.head.path().starts_with("/api/kv/")
        && let Ok(ready) = app.ready()
        && request.head.authorize(app, ready).is_ok()
    {
        answer::place_if_nowhere(&mut response, ready.store.released());
    }
    if request.payload.dismiss() {
        response
    } else {
        last(response)
    }
}

/// An answer behind which the connection is closed.
fn last(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Why a request has no answer yet, or a refusal for one.
enum Unanswered {
    Refused(Refusal),
    /// It reads a key, and its answer waits for the log.
    Reading(Awaited),
    /// It may go on, see [`handle`].
    Admitted,
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// All that a request must pass before it is handled; and what needs neither its body nor to wait.
fn begin(app: &App, head: &Head) -> Result<Response, Unanswered> {
    head.check_headers()?;
    let route = Route::find(head.path());
    if let Ok(route @ (Route::Health | Route::Live | Route::Ready)) = route {
        route.check(head.method())?;
        return match route {
            Route::Health => Ok(status::health(app)),
            Route::Live => Ok(status::live()),
            _ => Ok(status::ready(app)?),
        };
    }
    let ready = app.ready()?;
    let route = route?;
    route.check(head.method())?;
    match route {
        Route::Token => return Err(Unanswered::Admitted),
        Route::Clear | Route::Compact => head.authorize_admin(app, ready)?,
        _ => {
            head.authorize(app, ready)?;
        }
    }
    if route.is_unconditional_write() {
        condition::untaken(head.conditions())?;
    }
    let Route::Get(key) = route else {
        return Err(Unanswered::Admitted);
    };
    match key_value::start_get(app, ready, head, key)? {
        Started::Now(outcome) => Ok(key_value::answer_get(app, outcome)?),
        Started::Later(reply) => Err(Unanswered::Reading(reply)),
    }
}

/// Handles a request that was admitted.
async fn handle<B: Incoming>(app: &App, request: &mut Request<B>) -> Result<Response, Refusal> {
    let Request { head, payload } = request;
    let (route, ready) = (Route::find(head.path())?, app.ready()?);
    match route {
        Route::Set(key) => key_value::set(app, ready, head, key, payload).await,
        Route::Delete(key) => key_value::delete(app, ready, head, key).await,
        // What handles the others takes more room.
        other => Box::pin(handle_other(app, ready, head, payload, other)).await,
    }
}

/// The routes that are not about one key's value.
async fn handle_other<B: Incoming>(
    app: &App,
    ready: &Ready,
    head: &Head,
    payload: &mut Payload<B>,
    route: Route<'_>,
) -> Result<Response, Refusal> {
    match route {
        Route::BatchGet => batch::get(app, ready, payload).await,
        Route::BatchSet => batch::set(app, ready, payload).await,
        Route::BatchDelete => batch::delete(app, ready, payload).await,
        Route::Clear => key_value::clear(ready).await,
        Route::Compact => admin::compact(ready).await,
        Route::Find => find::find(app, ready, payload).await,
        Route::Token => session::token(app, ready, head, payload).await,
        Route::Links(key) => links::list(app, ready, key, Style::Plain).await,
        Route::LinksNamed(key) => links::list(app, ready, key, Style::Object).await,
        Route::Link(path) if *head.method() == Method::DELETE => {
            links::unlink(app, ready, path).await
        }
        Route::Link(path) => links::link(app, ready, path, payload).await,
        Route::LinkNamed => links::link_named(app, ready, payload).await,
        Route::UnlinkNamed => links::unlink_named(app, ready, payload).await,
        // Answered before.
        Route::Get(_) | Route::Set(_) | Route::Delete(_) => Err(Refusal::Internal),
        Route::Health | Route::Live | Route::Ready => Err(Refusal::Internal),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::Config;

    fn link<'a>(key: &'a str, collection: &'a str, record_id: &'a str) -> Route<'a> {
        Route::Link(LinkPath {
            key,
            collection,
            record_id,
        })
    }

    #[test]
    fn fixed_verbs_win_and_keys_are_one_segment() {
        for (path, route) in [
            ("/api/kv/get/a", Route::Get("a")),
            ("/api/kv/get/", Route::Get("")),
            ("/api/kv/get/links", Route::Get("links")),
            ("/api/kv/set/get", Route::Set("get")),
            ("/api/kv/delete/a%2Fb", Route::Delete("a%2Fb")),
            ("/api/kv/batch/get", Route::BatchGet),
            ("/api/health", Route::Health),
            ("/api/kv/find", Route::Find),
            ("/api/kv/link", Route::LinkNamed),
            ("/api/kv/a/links", Route::Links("a")),
            ("/api/kv//links", Route::Links("")),
            ("/api/kv/find/links", Route::Links("find")),
            ("/api/kv/batch/links", Route::Links("batch")),
            ("/api/kv/%67et/links", Route::Links("%67et")),
            ("/api/kv/links/a", Route::LinksNamed("a")),
            ("/api/kv/links/links", Route::LinksNamed("links")),
            ("/api/kv/a%2Fb/links/c/d", link("a%2Fb", "c", "d")),
            ("/api/kv/a/links//", link("a", "", "")),
            ("/api/kv/a/links/links/links", link("a", "links", "links")),
        ] {
            assert_eq!(Route::find(path).unwrap(), route);
        }
        for path in [
            "/api/kv/get/a/",
            "/api/kv/set/a/b",
            "/api/kv/delete//",
            "/api/kv/get/links/c/d",
            "/api/kv/links/a/b",
            "/api/kv/a/links/",
            "/api/kv/a/links/c/d/",
        ] {
            assert!(
                matches!(Route::find(path), Err(Refusal::ExtraSegment)),
                "{path}"
            );
        }
        for path in [
            "/",
            "",
            "*",
            "/api/kv/get",
            "/API/kv/get/a",
            "/api/kv/batch/get/",
            "/api/kv/find/",
            "/api/kv/links",
            "/api/kv/a/links/c",
            "/api/kv/a/link",
            "/api/kv/a/LINKS",
            "/livez/",
        ] {
            assert!(
                matches!(Route::find(path), Err(Refusal::UnknownRoute)),
                "{path}"
            );
        }
    }

    /// Status, `Retry-After` and body of an answer while nothing is loaded.
    async fn answer(method: &str, path: &str) -> (u16, Option<String>, String) {
        let app = Arc::new(App::new(&Config::default(), Arc::new(ManualClock::new(0))));
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let service = service(app, peer);
        let request = hyper::Request::builder().method(method).uri(path);
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let response = service.call(request).await.unwrap();
        let status = response.status().as_u16();
        let retry = response
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, retry, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn until_the_store_is_loaded_only_the_state_of_the_server_is_told() {
        assert_eq!(answer("GET", "/livez").await.0, 200);
        let (status, _, body) = answer("GET", "/api/health").await;
        assert_eq!(status, 200);
        assert!(
            body.starts_with(r#"{"status":"degraded","integrity_ok":true,"#),
            "{body}"
        );
        for (method, path) in [
            ("GET", "/readyz"),
            ("GET", "/api/kv/get/a"),
            ("POST", "/api/kv/set/a"),
            ("POST", "/api/auth/token"),
            ("GET", "/nowhere"),
            ("PUT", "/api/kv/clear"),
        ] {
            let (status, retry, body) = answer(method, path).await;
            assert_eq!((status, retry.as_deref()), (503, Some("1")), "{path}");
            assert!(body.contains(r#""error":"loading""#), "{body}");
        }
    }

    #[test]
    fn what_becomes_of_a_request_takes_little_room() {
        let app = Arc::new(App::new(&Config::default(), Arc::new(ManualClock::new(0))));
        let service = service(app, SocketAddr::from(([127, 0, 0, 1], 1)));
        let future = service.call(hyper::Request::new(Full::new(Bytes::new())));
        let bytes = size_of_val(&future);
        assert!(
            bytes <= 320,
            "{bytes} bytes are moved about for each request"
        );
    }
}
