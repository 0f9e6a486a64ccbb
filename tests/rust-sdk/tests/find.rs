//! kv_find and kv_query: patterns, the shape and the order of records, expired keys, large answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::time::{Duration, Instant};

use ekodb_client::{Client, Error, Record};
use harness::Server;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long an expiry may take before the test fails.
const EXPIRY_TIME_MAX: Duration = Duration::from_secs(30);

/// Sets keys in one batch; the value of each tells its key.
async fn set(client: &Client, keys: &[&str]) {
    let values = keys.iter().map(|key| Record::new().field("is", *key));
    let owned = keys.iter().map(|key| (*key).to_owned()).collect();
    let done = client.kv_batch_set(owned, values.collect(), None).await;
    assert!(done.unwrap().iter().all(|(_, set)| *set));
}

fn key(record: &Value) -> &str {
    record["key"].as_str().expect("a record has a key")
}

/// The keys that a pattern finds, under both names of the call.
async fn found(client: &Client, pattern: Option<&str>) -> Vec<String> {
    let records = client.kv_find(pattern, false).await.unwrap();
    assert_eq!(client.kv_query(pattern, false).await.unwrap(), records);
    records
        .iter()
        .map(|record| key(record).to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_finds_the_keys_that_it_matches_in_byte_order() {
    let server = Server::start();
    let client = server.client();
    assert_eq!(found(&client, None).await, [""; 0]);
    set(
        &client,
        &["user:2", "user:10", "user/1", "über:1", "user:1", "group:1"],
    )
    .await;
    for (pattern, expected) in [
        (
            None,
            &["group:1", "user/1", "user:1", "user:10", "user:2", "über:1"][..],
        ),
        (
            Some(""),
            &["group:1", "user/1", "user:1", "user:10", "user:2", "über:1"],
        ),
        // The form that the SDK's documentation shows.
        (Some("user:.*"), &["user:1", "user:10", "user:2"]),
        (Some("^user:[0-9]$"), &["user:1", "user:2"]),
        // It matches anywhere, and its case counts.
        (Some("er:1"), &["user:1", "user:10", "über:1"]),
        (Some("USER"), &[]),
        (Some("(?i)^USER.1$"), &["user/1", "user:1"]),
        (Some("^(group|über)"), &["group:1", "über:1"]),
        (Some(r"^\p{Alphabetic}+/\d$"), &["user/1"]),
    ] {
        assert_eq!(found(&client, pattern).await, expected, "{pattern:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_the_value_as_it_is_the_version_and_the_deadline() {
    let server = Server::start();
    let client = server.client();
    client.kv_set("text", json!("x"), None).await.unwrap();
    client
        .kv_set("aged", json!({"n": 1}), Some("1h"))
        .await
        .unwrap();
    set(&client, &["batch"]).await;

    let records = client.kv_find(None, false).await.unwrap();
    let version = records[1]["version"]
        .as_u64()
        .expect("a version is a number");
    let expires_at = records[0]["expires_at"].as_str().expect("a time is a text");
    assert!(expires_at.ends_with('Z'), "{expires_at}");
    assert_eq!(
        json!(records),
        json!([
            {"key": "aged", "value": {"n": 1}, "version": version - 1, "expires_at": expires_at},
            // Never wrapped, whether it came in an envelope or in a batch.
            {"key": "batch", "value": {"is": "batch"}, "version": version},
            {"key": "text", "value": "x", "version": version - 2},
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_keys_are_found_only_when_asked_for_and_without_a_value() {
    let server = Server::start();
    let client = server.client();
    client.kv_set("kept", json!(1), None).await.unwrap();
    client
        .kv_set("short", json!(2), Some("100ms"))
        .await
        .unwrap();
    let begin = Instant::now();
    while client.kv_exists("short").await.unwrap() {
        assert!(begin.elapsed() < EXPIRY_TIME_MAX, "the key does not expire");
        // There is nothing to wait for: expiry is seen by those who ask.
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(found(&client, None).await, ["kept"]);
    let records = client.kv_query(None, true).await.unwrap();
    assert_eq!(
        records.iter().map(key).collect::<Vec<_>>(),
        ["kept", "short"]
    );
    assert!(records[0].get("expired").is_none());
    assert_eq!(records[1]["expired"], true);
    assert!(records[1]["expires_at"].is_string());
    assert!(records[1].get("value").is_none());
    assert_eq!(
        client.kv_find(Some("^short$"), true).await.unwrap(),
        records[1..]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_that_is_not_one_is_refused_with_a_reason() {
    let server = Server::start();
    let client = server.client();
    for pattern in ["user:(", "[z-a]", "(a{1000}){1000}", &"x".repeat(5000)] {
        match client.kv_find(Some(pattern), false).await {
            Err(Error::Api { code, message }) => {
                assert_eq!(code, 400, "{message}");
                assert!(message.contains("pattern"), "{message}");
            }
            other => panic!("400 is expected, not {other:?}"),
        }
    }
    // Linear time: this one takes ages where it is tried by going back.
    client
        .kv_set(&"a".repeat(1000), json!(1), None)
        .await
        .unwrap();
    assert_eq!(found(&client, Some("^(a+)+$")).await.len(), 1);
    assert_eq!(found(&client, Some("^(a+)+b$")).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_comes_whole_while_keys_change() {
    const KEYS: usize = 20_000;
    let server = Server::start();
    let client = server.client();
    let name = |n: usize| format!("stays:{n:05}");
    for begin in (0..KEYS).step_by(5_000) {
        let keys: Vec<_> = (begin..begin + 5_000).map(name).collect();
        let values = keys
            .iter()
            .map(|key| Record::new().field("is", key.as_str()));
        let done = client
            .kv_batch_set(keys.clone(), values.collect(), None)
            .await;
        assert!(done.unwrap().iter().all(|(_, set)| *set));
    }
    // Others come and go on both sides of those that stay, and in between.
    let mut writers = JoinSet::new();
    for (number, prefix) in ["a", "stays:1", "z"].into_iter().enumerate() {
        let client = server.client();
        writers.spawn(async move {
            for turn in 0..50 {
                let key = format!("{prefix} passing {number}/{turn}");
                client.kv_set(&key, json!(turn), None).await.unwrap();
                client.kv_delete(&key).await.unwrap();
            }
        });
    }
    let mut finds = 0;
    while !writers.is_empty() || finds < 3 {
        let records = client.kv_find(None, false).await.unwrap();
        let keys: Vec<_> = records.iter().map(key).collect();
        assert!(keys.is_sorted(), "the keys are in order");
        let stays = records
            .iter()
            .filter(|record| key(record).starts_with("stays:") && !key(record).contains(' '));
        let mut count = 0;
        for (number, record) in stays.enumerate() {
            assert_eq!(key(record), name(number), "each is there exactly once");
            assert_eq!(record["value"]["is"], key(record));
            count += 1;
        }
        assert_eq!(count, KEYS);
        finds += 1;
        while let Some(done) = writers.try_join_next() {
            done.unwrap();
        }
    }
    assert_eq!(found(&client, Some("passing")).await, [""; 0]);
}
