//! What all requests share: settings, budget and, once it is loaded, the store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::budget::Budget;
use super::refusal::Refusal;
use crate::auth::Tokens;
use crate::clock::Clock;
use crate::config::{Config, Values};
use crate::state::Form;
use crate::store::Store;

/// The largest sizes of what a request brings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of a key.
    pub(super) key_bytes: usize,
    /// Bytes of a value.
    pub(super) value_bytes: usize,
    /// Bytes of a body.
    pub(super) body_bytes: usize,
    /// Keys of a batch.
    pub(super) batch_keys: usize,
}

/// The store and what checks tokens for it.
pub(super) struct Ready {
    /// The store.
    pub(super) store: Store,
    /// Tokens under the data dir's secret.
    pub(super) tokens: Tokens,
}

/// The state of one HTTP service; shared by all its connections.
pub struct App {
    pub(super) limits: Limits,
    values: Values,
    pub(super) budget: Arc<Budget>,
    pub(super) clock: Arc<dyn Clock>,
    token_ttl: std::time::Duration,
    ready: OnceLock<Ready>,
    stopping: AtomicBool,
    panics: AtomicU64,
}

impl App {
    /// A service that is still loading: it answers 503 until [`App::serve`].
    #[must_use]
    pub fn new(config: &Config, clock: Arc<dyn Clock>) -> Self {
        let bytes = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        Self {
            limits: Limits {
                key_bytes: bytes(config.max_key_bytes),
                value_bytes: bytes(config.max_value_bytes),
                body_bytes: bytes(config.max_body_bytes),
                batch_keys: bytes(config.max_batch_keys),
            },
            values: config.values,
            budget: Budget::new(config.max_inflight_bytes),
            clock,
            token_ttl: config.token_ttl,
            ready: OnceLock::new(),
            stopping: AtomicBool::new(false),
            panics: AtomicU64::new(0),
        }
    }

    /// Serves this store from now on, with tokens under `jwt_secret`. Only the first call counts.
    pub fn serve(&self, store: Store, jwt_secret: &[u8]) {
        let tokens = Tokens::new(jwt_secret, self.token_ttl);
        // A second store is a defect of the caller; the first stays, as answers may depend on it.
        let first = self.ready.set(Ready { store, tokens }).is_ok();
        debug_assert!(first, "a service is given its store once");
    }

    /// Tells load balancers from now on that this process is going away.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether [`App::stop`] was called.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The store, once it is loaded.
    pub(super) fn ready(&self) -> Result<&Ready, Refusal> {
        self.ready.get().ok_or(Refusal::Loading)
    }

    /// The form in which a value is answered that came in as `form`.
    pub(super) fn shown(&self, form: Form) -> Form {
        match self.values {
            Values::AsStored => form,
            Values::Envelope => Form::Envelope,
        }
    }

    /// Counts a handler that panicked; how many there were, this one included.
    pub(super) fn count_panic(&self) -> u64 {
        self.panics
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }
}
