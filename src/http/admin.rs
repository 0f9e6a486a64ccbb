//! What an operator asks of a running server.

use warp::reply::Response;

use super::answer;
use super::app::Ready;
use super::refusal::Refusal;

/// `POST /api/admin/compact`: folds the log into a snapshot; answers when it is published.
pub(super) async fn compact(ready: &Ready) -> Result<Response, Refusal> {
    let last_sequence = ready.store.compact().await?;
    Ok(answer::json(format!(
        r#"{{"message":"compacted","last_sequence":{last_sequence}}}"#
    )))
}
