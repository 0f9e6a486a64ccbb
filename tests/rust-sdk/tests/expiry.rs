//! TTLs: the SDK's strings and numbers, in real time.
//!
//! No test waits a fixed time. A key must be there as long as its TTL cannot be over, and must go
//! before a deadline that only a broken server misses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::time::{Duration, Instant};

use ekodb_client::{Client, Record};
use harness::Server;
use serde_json::{Value, json};
use tokio::time::sleep;

/// How long an expiry may take before the test fails.
const EXPIRY_TIME_MAX: Duration = Duration::from_secs(30);
/// What the server's wall clock and the test's clock may differ by over a second.
const CLOCK_SLACK: Duration = Duration::from_millis(50);

fn record(value: Value) -> Record {
    serde_json::from_value(value).unwrap()
}

/// Waits until `key`, set after `set` with a life of `ttl`, is gone, and asserts that it was not
/// gone earlier.
async fn expires(client: &Client, key: &str, set: Instant, ttl: Duration) {
    while let Some(value) = client.kv_get(key).await.unwrap() {
        assert_eq!(value, json!("short"), "{key}");
        assert!(set.elapsed() < EXPIRY_TIME_MAX, "{key} does not expire");
        // There is nothing to wait for: expiry is seen by those who ask.
        sleep(Duration::from_millis(10)).await;
    }
    let life = set.elapsed() + CLOCK_SLACK;
    assert!(life >= ttl, "{key} was gone after {life:?} of {ttl:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lives_as_long_as_its_ttl_and_no_longer() {
    let server = Server::start();
    let client = server.client();
    let second = Duration::from_secs(1);
    let begin = Instant::now();
    for (key, ttl) in [
        ("unit", "1s"),
        ("seconds", "1"),
        ("chain", "1s 100ms"),
        ("cleared", "1s"),
        ("prolonged", "1s"),
    ] {
        client.kv_set(key, json!("short"), Some(ttl)).await.unwrap();
    }
    let keys = vec!["batch".to_owned(), "own".to_owned()];
    let values = vec![
        record(json!({"value": "short"})),
        record(json!({"value": "stays", "ttl": "1h"})),
    ];
    client.kv_batch_set(keys, values, Some(1)).await.unwrap();
    let keys = vec!["element".to_owned()];
    let values = vec![record(json!({"value": "short", "ttl": "1s"}))];
    client.kv_batch_set(keys, values, None).await.unwrap();
    for ttl in ["1h", "1d", "1h 30m", "3600", "2w"] {
        client.kv_set(ttl, json!("stays"), Some(ttl)).await.unwrap();
    }
    // A set without a TTL clears the old one; a set with one replaces it.
    client
        .kv_set("cleared", json!("stays"), None)
        .await
        .unwrap();
    let hour = Some("1h");
    client
        .kv_set("prolonged", json!("stays"), hour)
        .await
        .unwrap();

    for key in ["unit", "seconds", "batch", "element"] {
        expires(&client, key, begin, second).await;
    }
    expires(&client, "chain", begin, second + Duration::from_millis(100)).await;

    for key in [
        "1h",
        "1d",
        "1h 30m",
        "3600",
        "2w",
        "cleared",
        "prolonged",
        "own",
    ] {
        let value = client.kv_get(key).await.unwrap();
        assert_eq!(value, Some(json!("stays")), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_a_missing_key() {
    let server = Server::start();
    let client = server.client();
    let begin = Instant::now();
    client
        .kv_set("key", json!("short"), Some("200ms"))
        .await
        .unwrap();
    expires(&client, "key", begin, Duration::from_millis(200)).await;

    assert!(!client.kv_exists("key").await.unwrap());
    let records = client.kv_batch_get(vec!["key".to_owned()]).await.unwrap();
    assert_eq!(serde_json::to_value(records).unwrap(), json!([{}]));
    let deleted = client
        .kv_batch_delete(vec!["key".to_owned()])
        .await
        .unwrap();
    assert_eq!(deleted, [("key".to_owned(), false)]);

    client.kv_set("key", json!("again"), None).await.unwrap();
    assert_eq!(client.kv_get("key").await.unwrap(), Some(json!("again")));
}
