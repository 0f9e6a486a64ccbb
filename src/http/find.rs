//! `POST /api/kv/find`: one text if all of it is there at once, else a stream of slices.

use std::sync::Arc;

use warp::reply::Response;

use super::answer;
use super::app::{App, Ready};
use super::body::{Incoming, Payload};
use super::find_body;
use super::found_text::{append, length};
use super::refusal::Refusal;
use super::slices::Slices;
use crate::state::find::Cursor;
use crate::store::{Answer, FindPace, Reply};

/// Finds keys.
pub(super) async fn find<B: Incoming>(
    app: &App,
    ready: &Ready,
    payload: &mut Payload<B>,
) -> Result<Response, Refusal> {
    let query = {
        let arrived = payload.read(app).await?;
        Arc::new(find_body::parse(arrived.bytes.as_slice())?)
    };
    let Reply { sequence, answer } = ready
        .store
        .find(
            Arc::clone(&query),
            Cursor::default(),
            &mut FindPace::default(),
        )
        .await?;
    let Answer::Slice(slice) = answer else {
        return Err(Refusal::Internal);
    };
    if slice.next.is_some() {
        let slices = Slices::new(ready.store.clone(), Arc::clone(&app.budget), query, slice)?;
        return Ok(answer::streamed(sequence, slices));
    }
    let length = slice
        .records
        .iter()
        .fold(2usize, |sum, record| sum.saturating_add(length(record)));
    let reservation = answer::reserve(&app.budget, length)?;
    let mut text = Vec::with_capacity(length);
    text.push(b'[');
    for (index, record) in slice.records.iter().enumerate() {
        if index > 0 {
            text.push(b',');
        }
        append(&mut text, record);
    }
    text.push(b']');
    let mut response = answer::at(sequence, text);
    answer::hold(&mut response, reservation);
    Ok(response)
}
