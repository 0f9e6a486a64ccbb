//! How the server is: for people, for load balancers, for whoever restarts it. No token needed.

use warp::reply::Response;

use super::answer;
use super::app::App;
use super::refusal::Refusal;
use crate::store::Health;

/// `GET /api/health`: always 200, so that clients can read what it says.
pub(super) fn health(app: &App) -> Response {
    // While loading nothing is known to be damaged; damage found then ends the start.
    let health = app.ready().map_or(
        Health {
            degraded: true,
            integrity_ok: true,
        },
        |ready| ready.store.health(),
    );
    let status = if health.degraded { "degraded" } else { "ok" };
    let (integrity_ok, version) = (health.integrity_ok, env!("CARGO_PKG_VERSION"));
    answer::json(format!(
        r#"{{"status":"{status}","integrity_ok":{integrity_ok},"version":"{version}"}}"#
    ))
}

/// `GET /livez`: the process answers.
pub(super) fn live() -> Response {
    answer::json(&br#"{"status":"ok"}"#[..])
}

/// `GET /readyz`: the store is loaded and the process is not going away.
pub(super) fn ready(app: &App) -> Result<Response, Refusal> {
    app.ready()?;
    if app.is_stopping() {
        Err(Refusal::Stopping)
    } else {
        Ok(live())
    }
}
