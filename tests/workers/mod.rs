//! A runtime that has a worker to spare, so that lone writers of a store commit themselves.

use std::sync::LazyLock;

use tokio::runtime::{Handle, Runtime};

pub(crate) fn workers() -> Handle {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap()
    });
    RUNTIME.handle().clone()
}
