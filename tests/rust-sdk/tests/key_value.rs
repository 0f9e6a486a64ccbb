//! kv_set, kv_get, kv_exists and kv_delete: every value, every key, every refusal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::iter;

use ekodb_client::{Client, Error};
use harness::Server;
use serde_json::{Value, json};

/// Keys that a URL, a router or a parser may take for something else. Not `.` and `..`: the SDK's
/// URL builder leaves such segments out, so they never arrive.
const AWKWARD_KEYS: [&str; 40] = [
    "plain",
    "a/b",
    "/",
    "//",
    "/leading",
    "trailing/",
    "a b",
    " ",
    "a%20b",
    "%",
    "50%",
    "%2F",
    "%zz",
    "a?b=c",
    "?",
    "a#b",
    "a+b",
    "a:b:c",
    "a&b=c",
    "a;b,c",
    "a@b",
    "a|b^c`d",
    "\"quoted\"",
    "back\\slash",
    "<tag>",
    "{\"json\":1}",
    "...",
    "🦀",
    "👩‍👩‍👧 family",
    "caf\u{e9}",
    "cafe\u{301}",
    "nul\u{0}byte",
    "get",
    "set",
    "links",
    "batch",
    "batch/get",
    "clear",
    "find",
    "../etc/passwd",
];

fn values() -> Vec<Value> {
    let mut deep = json!(1);
    for _ in 0..100 {
        deep = json!([deep]);
    }
    vec![
        json!("text"),
        json!(""),
        json!("null"),
        json!("line\nfeed, \"quotes\", \\, \u{0}, \u{7f}, é, 🦀, \u{2028}"),
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(29.99),
        json!(1e300),
        json!(5e-324),
        json!(0.1),
        json!(true),
        json!(false),
        json!([]),
        json!([1, "two", null, [true], {"five": 5}]),
        json!({}),
        json!({"name": "Ada", "tags": ["a", "b"], "address": {"city": "London", "zip": null}}),
        // Data that looks like the envelope it travels in.
        json!({"value": 1}),
        json!({"value": {"value": {"value": "x"}}}),
        json!({"value": 1, "ttl": "1s"}),
        json!({"ttl": 1}),
        json!({"": "", "key": "k", "deleted": true}),
        deep,
    ]
}

async fn get(client: &Client, key: &str) -> Option<Value> {
    client
        .kv_get(key)
        .await
        .unwrap_or_else(|error| panic!("kv_get of {key:?}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_every_json_type_comes_back_as_it_was_set() {
    let server = Server::start();
    let client = server.client();
    for (number, value) in values().into_iter().enumerate() {
        let key = format!("value:{number}");
        client.kv_set(&key, value.clone(), None).await.unwrap();
        assert_eq!(get(&client, &key).await, Some(value), "{key}");
        assert!(client.kv_exists(&key).await.unwrap(), "{key}");
    }
    for (number, value) in values().into_iter().enumerate() {
        let key = format!("value:{number}");
        assert_eq!(get(&client, &key).await, Some(value), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn null_is_stored_though_kv_get_cannot_show_it() {
    let server = Server::start();
    let client = server.client();
    client.kv_set("nothing", json!(null), None).await.unwrap();

    // The SDK decodes the value into an Option: null and no value are the same to it.
    assert_eq!(get(&client, "nothing").await, None);
    let keys = vec!["nothing".to_owned(), "never set".to_owned()];
    let records = client.kv_batch_get(keys).await.unwrap();
    let found = serde_json::to_value(records).unwrap();
    assert_eq!(found, json!([{"value": null}, {}]));
    let keys = vec!["nothing".to_owned()];
    let deleted = client.kv_batch_delete(keys).await.unwrap();
    assert_eq!(deleted, [("nothing".to_owned(), true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_none_and_deleting_it_is_no_error() {
    let server = Server::start();
    let client = server.client();
    assert_eq!(get(&client, "missing").await, None);
    assert!(!client.kv_exists("missing").await.unwrap());
    client.kv_delete("missing").await.unwrap();

    client.kv_set("key", json!("first"), None).await.unwrap();
    client.kv_set("key", json!({"n": 2}), None).await.unwrap();
    assert_eq!(get(&client, "key").await, Some(json!({"n": 2})));
    client.kv_delete("key").await.unwrap();
    assert_eq!(get(&client, "key").await, None);
    assert!(!client.kv_exists("key").await.unwrap());
    client.kv_delete("key").await.unwrap();

    client.kv_set("key", json!("again"), None).await.unwrap();
    assert_eq!(get(&client, "key").await, Some(json!("again")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_is_itself_in_paths_and_in_bodies() {
    let server = Server::start();
    let client = server.client();
    let longest = "k".repeat(1024);
    let keys: Vec<&str> = AWKWARD_KEYS.into_iter().chain([longest.as_str()]).collect();
    for key in &keys {
        client
            .kv_set(key, json!({ "key": key }), None)
            .await
            .unwrap_or_else(|error| panic!("kv_set of {key:?}: {error}"));
    }
    for key in &keys {
        assert_eq!(get(&client, key).await, Some(json!({ "key": key })));
    }
    // In a body no key is encoded: the same keys there show that paths are decoded, and once.
    let owned: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
    let records = client.kv_batch_get(owned).await.unwrap();
    let expected: Vec<Value> = keys.iter().map(|key| json!({ "key": key })).collect();
    assert_eq!(serde_json::to_value(records).unwrap(), json!(expected));

    for (number, key) in keys.iter().enumerate() {
        client.kv_delete(key).await.unwrap();
        assert_eq!(get(&client, key).await, None, "{key:?}");
        if let Some(next) = keys.get(number + 1) {
            let kept = Some(json!({ "key": next }));
            assert_eq!(
                get(&client, next).await,
                kept,
                "{key:?} took {next:?} along"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_1_mib_comes_back_whole() {
    let server = Server::start();
    let client = server.client();
    // No period that a lost or doubled block would keep.
    let text: String = iter::successors(Some(1_u32), |n| Some(n.wrapping_mul(1_664_525) ^ 0x5bd1))
        .flat_map(|n| char::from_digit(n >> 27, 32))
        .take(1 << 20)
        .collect();
    assert_eq!(text.len(), 1 << 20);
    let value = json!(text);
    client.kv_set("large", value.clone(), None).await.unwrap();
    // Not assert_eq: a failure would print both.
    assert!(get(&client, "large").await == Some(value));

    let value = json!({ "blob": text, "size": text.len() });
    client.kv_set("large", value.clone(), None).await.unwrap();
    assert!(get(&client, "large").await == Some(value.clone()));
    let records = client.kv_batch_get(vec!["large".to_owned()]).await;
    assert!(serde_json::to_value(records.unwrap()).unwrap() == json!([value]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_arrives_with_its_status_and_reason_and_stores_nothing() {
    let server = Server::start();
    let client = server.client();
    let longer_than_a_value = json!("x".repeat(1536 << 10));
    let longer_than_a_body = json!("x".repeat(3 << 20));
    let long_key = "k".repeat(1025);
    let refused = [
        ("long value", longer_than_a_value, None, 413, "value"),
        ("long body", longer_than_a_body, None, 413, "body"),
        ("no such unit", json!(1), Some("5 parsecs"), 400, "ttl"),
        ("no time", json!(1), Some("0"), 400, "ttl"),
        ("negative", json!(1), Some("-5s"), 400, "ttl"),
        (long_key.as_str(), json!(1), None, 400, "key"),
        ("", json!(1), None, 400, "key"),
    ];
    for (key, value, ttl, status, reason) in refused {
        match client.kv_set(key, value, ttl).await {
            Err(Error::Api { code, message }) => {
                assert_eq!(code, status, "{key}: {message}");
                let told = message.to_lowercase().contains(reason);
                assert!(told, "{key}: {message:?} does not name the {reason}");
            }
            other => panic!("{key}: {status} is expected, not {other:?}"),
        }
    }
    for key in [
        "long value",
        "long body",
        "no such unit",
        "no time",
        "negative",
    ] {
        assert_eq!(get(&client, key).await, None, "{key}");
    }
    // The connections of the SDK's pool are as good as before.
    client.kv_set("key", json!(1), None).await.unwrap();
    assert_eq!(get(&client, "key").await, Some(json!(1)));
}
