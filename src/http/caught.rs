//! A future whose panic is an outcome: a defect in one handler ends its request, nothing else.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// The future panicked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Panicked;

/// Calls a function, whose panic is an outcome too.
pub(super) fn caught_now<T>(function: impl FnOnce() -> T) -> Result<T, Panicked> {
    // What a panic leaves half done belongs to this call alone: the store is reached by messages, and the
    // counters that requests share change in one step.
    catch_unwind(AssertUnwindSafe(function)).map_err(|_| Panicked)
}

/// Runs a future to its end or its panic. After a panic it is not polled again.
///
/// It is pinned by the caller: a future that is handed on by value takes its place twice.
pub(super) fn caught<F: Future>(
    mut future: Pin<&mut F>,
) -> impl Future<Output = Result<F::Output, Panicked>> {
    poll_fn(
        move |context| match caught_now(|| future.as_mut().poll(context)) {
            Ok(polled) => polled.map(Ok),
            Err(panicked) => Poll::Ready(Err(panicked)),
        },
    )
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_outcome_before_and_after_waiting() {
        assert_eq!(caught(pin!(async { 7 })).await, Ok(7));
        let waits = pin!(async {
            tokio::task::yield_now().await;
            8
        });
        assert_eq!(caught(waits).await, Ok(8));
        let panics = pin!(async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        assert_eq!(caught(panics).await, Err::<(), _>(Panicked));
        assert_eq!(caught_now(|| 9), Ok(9));
        assert_eq!(caught_now(|| panic!("on purpose")), Err::<(), _>(Panicked));
    }
}
