//! The routes: one list of paths and methods, and the filter around it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Buf;
use hyper::Method;
use hyper::header::{CONNECTION, HeaderValue};
use warp::reply::Response;
use warp::{Filter, Stream};

use super::app::App;
use super::body::Payload;
use super::caught::caught;
use super::refusal::Refusal;
use super::request::{Head, Request};
use super::{batch, key_value, session, status};

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
    Token,
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
            "/api/kv/clear" => Ok(Self::Clear),
            "/api/auth/token" => Ok(Self::Token),
            "/api/health" => Ok(Self::Health),
            "/livez" => Ok(Self::Live),
            "/readyz" => Ok(Self::Ready),
            _ => Err(Refusal::UnknownRoute),
        }
    }

    /// The methods of the route, as `Allow` lists them.
    fn allow(self) -> &'static str {
        match self {
            Self::Get(_) | Self::Health | Self::Live | Self::Ready => "GET, HEAD",
            Self::Set(_) | Self::BatchGet | Self::BatchSet | Self::Token => "POST",
            Self::Delete(_) | Self::Clear => "DELETE",
            Self::BatchDelete => "DELETE, POST",
        }
    }

    fn check(self, method: &Method) -> Result<(), Refusal> {
        let allow = self.allow();
        if allow.split(", ").any(|allowed| allowed == method.as_str()) {
            Ok(())
        } else {
            Err(Refusal::Method { allow })
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

/// The filter that answers every request of the connection from `peer`. It never rejects.
pub fn filter(
    app: Arc<App>,
    peer: SocketAddr,
) -> impl Filter<Extract = (impl warp::Reply,), Error = Infallible> + Clone + Send + Sync + 'static
{
    let query = warp::query::raw()
        .map(Some)
        .or(warp::any().map(|| None))
        .unify();
    let authorization = warp::header::value("authorization")
        .map(Some)
        .or(warp::any().map(|| None))
        .unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(authorization)
        .and(warp::header::optional::<u64>("content-length"))
        .and(warp::header::optional::<String>("expect"))
        .and(warp::body::stream())
        .then(
            move |method,
                  path,
                  query,
                  authorization: Option<HeaderValue>,
                  declared,
                  expect: Option<String>,
                  stream| {
                let head = Head {
                    method,
                    path,
                    query,
                    authorization,
                    peer,
                };
                let payload = Payload::new(stream, declared, expect.is_some());
                respond(Arc::clone(&app), Request { head, payload })
            },
        )
        .recover(|_| async { Ok::<_, Infallible>(Refusal::Header.response()) })
}

/// The answer to a request, whatever happens.
async fn respond<S, B>(app: Arc<App>, mut request: Request<S>) -> Response
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin + Send + 'static,
    B: Buf + Send,
{
    let outcome = caught(handle(&app, &mut request))
        .await
        .unwrap_or_else(|_| {
            tracing::error!(panics = app.count_panic(), "a request handler panicked");
            Err(Refusal::Internal)
        });
    outcome.unwrap_or_else(|refusal| {
        let mut response = refusal.response();
        if !request.payload.dismiss() {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    })
}

async fn handle<S, B>(app: &App, request: &mut Request<S>) -> Result<Response, Refusal>
where
    S: Stream<Item = Result<B, warp::Error>> + Unpin + Send + 'static,
    B: Buf + Send,
{
    let Request { head, payload } = request;
    let route = Route::find(head.path.as_str());
    if let Ok(route @ (Route::Health | Route::Live | Route::Ready)) = route {
        route.check(&head.method)?;
        return match route {
            Route::Health => Ok(status::health(app)),
            Route::Live => Ok(status::live()),
            _ => status::ready(app),
        };
    }
    let ready = app.ready()?;
    let route = route?;
    route.check(&head.method)?;
    if route == Route::Token {
        return session::token(app, ready, head, payload).await;
    }
    if route == Route::Clear {
        head.authorize_admin(app, ready)?;
        return key_value::clear(ready).await;
    }
    head.authorize(app, ready)?;
    match route {
        Route::Get(key) => key_value::get(app, ready, key).await,
        Route::Set(key) => key_value::set(app, ready, key, head.query.as_deref(), payload).await,
        Route::Delete(key) => key_value::delete(app, ready, key).await,
        Route::BatchGet => batch::get(app, ready, payload).await,
        Route::BatchSet => batch::set(app, ready, payload).await,
        Route::BatchDelete => batch::delete(app, ready, payload).await,
        // Answered above.
        Route::Clear | Route::Token | Route::Health | Route::Live | Route::Ready => {
            Err(Refusal::Internal)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::Config;

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
        ] {
            assert_eq!(Route::find(path).unwrap(), route);
        }
        for path in ["/api/kv/get/a/", "/api/kv/set/a/b", "/api/kv/delete//"] {
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
        let service = TowerToHyperService::new(warp::service(filter(app, peer)));
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
}
