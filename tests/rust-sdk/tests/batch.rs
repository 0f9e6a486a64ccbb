//! kv_batch_set, kv_batch_get, kv_batch_delete and kv_clear, and how they and the single calls see
//! each other's keys.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use ekodb_client::{Client, Error, Record};
use harness::Server;
use serde_json::{Value, json};

fn owned(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn record(value: Value) -> Record {
    serde_json::from_value(value).unwrap()
}

async fn set(client: &Client, entries: &[(&str, Value)]) -> Vec<(String, bool)> {
    let keys = entries.iter().map(|(key, _)| (*key).to_owned()).collect();
    let values = entries.iter().map(|(_, value)| record(value.clone()));
    client
        .kv_batch_set(keys, values.collect(), None)
        .await
        .unwrap()
}

/// The records of `keys` as one array.
async fn get(client: &Client, keys: &[&str]) -> Value {
    let records = client.kv_batch_get(owned(keys)).await.unwrap();
    serde_json::to_value(records).unwrap()
}

fn answer(expected: &[(&str, bool)]) -> Vec<(String, bool)> {
    let expected = expected.iter();
    expected
        .map(|(key, done)| ((*key).to_owned(), *done))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_batch_sets_is_found_by_single_gets_and_by_batch_gets() {
    let server = Server::start();
    let client = server.client();
    let ada = json!({"name": "Ada", "age": 36, "score": 1.5, "tags": ["x", null, {"y": true}]});
    let entries = [
        ("user:1", ada.clone()),
        ("empty", json!({})),
        ("a/b c%", json!({"key": "awkward"})),
        ("with ttl", json!({"name": "data", "ttl": "1s", "value": 1})),
        ("ttl alone", json!({"ttl": 1})),
    ];
    let set = set(&client, &entries).await;
    let keys = entries.each_ref().map(|(key, _)| *key);
    assert_eq!(set, answer(&keys.map(|key| (key, true))));

    for (key, value) in &entries {
        let found = client.kv_get(key).await.unwrap();
        assert_eq!(found.as_ref(), Some(value), "{key}");
        assert!(client.kv_exists(key).await.unwrap(), "{key}");
    }
    let values = entries.each_ref().map(|(_, value)| value.clone());
    assert_eq!(get(&client, &keys).await, json!(values));

    // In the order of the question, as often as asked, with an empty record for what is missing.
    let mixed = get(&client, &["a/b c%", "missing", "user:1", "user:1"]).await;
    assert_eq!(mixed, json!([{"key": "awkward"}, {}, ada, ada]));

    let records = client.kv_batch_get(owned(&["user:1"])).await.unwrap();
    assert_eq!(*records[0], *record(ada), "typed fields are the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_in_a_batch_is_unwrapped_as_in_a_single_set() {
    let server = Server::start();
    let client = server.client();
    let entries = [
        ("number", json!({"value": 7})),
        ("object", json!({"value": {"name": "Ada"}})),
        ("nested", json!({"value": {"value": 7}})),
        ("aged", json!({"value": [1], "ttl": "1h"})),
        ("aged null", json!({"value": true, "ttl": null})),
        ("other member", json!({"value": 7, "unit": "m"})),
    ];
    set(&client, &entries).await;
    let expected = [
        // (key, what kv_get finds, what kv_batch_get finds)
        ("number", json!(7), json!({"value": 7})),
        ("object", json!({"name": "Ada"}), json!({"name": "Ada"})),
        ("nested", json!({"value": 7}), json!({"value": 7})),
        ("aged", json!([1]), json!({"value": [1]})),
        ("aged null", json!(true), json!({"value": true})),
        (
            "other member",
            json!({"value": 7, "unit": "m"}),
            json!({"value": 7, "unit": "m"}),
        ),
    ];
    for (key, single, batch) in expected {
        assert_eq!(client.kv_get(key).await.unwrap(), Some(single), "{key}");
        assert_eq!(get(&client, &[key]).await, json!([batch]), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_get_finds_what_single_sets_and_batches_stored() {
    let server = Server::start();
    let client = server.client();
    let singles = [
        ("text", json!("hello")),
        ("integer", json!(42)),
        ("float", json!(29.99)),
        ("bool", json!(false)),
        ("null", json!(null)),
        ("array", json!([1, 2])),
        ("object", json!({"name": "Ada"})),
    ];
    for (key, value) in &singles {
        client.kv_set(key, value.clone(), None).await.unwrap();
    }
    set(&client, &[("batch", json!({"from": "batch"}))]).await;
    let keys = [
        "batch", "text", "integer", "missing", "float", "bool", "null", "array", "object",
    ];
    let expected = json!([
        {"from": "batch"},
        {"value": "hello"},
        {"value": 42},
        {},
        {"value": 29.99},
        {"value": false},
        {"value": null},
        {"value": [1, 2]},
        {"name": "Ada"},
    ]);
    assert_eq!(get(&client, &keys).await, expected);

    // One overwrites what the other stored, and the last form counts.
    set(&client, &[("text", json!({"now": "a record"}))]).await;
    client.kv_set("batch", json!(1), None).await.unwrap();
    let text = client.kv_get("text").await.unwrap();
    assert_eq!(text, Some(json!({"now": "a record"})));
    let both = get(&client, &["text", "batch"]).await;
    assert_eq!(both, json!([{"now": "a record"}, {"value": 1}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_for_each_key_in_its_order() {
    let server = Server::start();
    let client = server.client();
    let long = "k".repeat(1025);
    let entries = [
        ("twice", json!({"n": 1})),
        (long.as_str(), json!({"n": 2})),
        ("twice", json!({"n": 3})),
        ("", json!({"n": 4})),
        ("once", json!({"n": 5})),
    ];
    let done = set(&client, &entries).await;
    let expected = [
        ("twice", true),
        (&long, false),
        ("twice", true),
        ("", false),
        ("once", true),
    ];
    assert_eq!(done, answer(&expected));
    let found = get(&client, &["twice", "once"]).await;
    assert_eq!(found, json!([{"n": 3}, {"n": 5}]));

    assert_eq!(set(&client, &[]).await, []);
    assert_eq!(get(&client, &[]).await, json!([]));
    assert_eq!(client.kv_batch_delete(Vec::new()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_keys_and_values_do_not_pair_is_refused_whole() {
    let server = Server::start();
    let client = server.client();
    let values = vec![record(json!({"n": 1}))];
    match client.kv_batch_set(owned(&["a", "b"]), values, None).await {
        Err(Error::Api { code, .. }) => assert_eq!(code, 400),
        other => panic!("400 is expected, not {other:?}"),
    }
    for ttl in [0, -1] {
        let values = vec![record(json!({"n": 1}))];
        match client.kv_batch_set(owned(&["a"]), values, Some(ttl)).await {
            Err(Error::Api { code, .. }) => assert_eq!(code, 400, "ttl {ttl}"),
            other => panic!("400 is expected for ttl {ttl}, not {other:?}"),
        }
    }
    assert_eq!(get(&client, &["a", "b"]).await, json!([{}, {}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_delete_tells_what_was_there_and_takes_nothing_else() {
    let server = Server::start();
    let client = server.client();
    set(&client, &[("a", json!({"n": 1})), ("b/c", json!({"n": 2}))]).await;
    client.kv_set("single", json!(3), None).await.unwrap();
    client.kv_set("kept", json!(4), None).await.unwrap();

    let keys = owned(&["b/c", "missing", "single", "a"]);
    let deleted = client.kv_batch_delete(keys.clone()).await.unwrap();
    let expected = [
        ("b/c", true),
        ("missing", false),
        ("single", true),
        ("a", true),
    ];
    assert_eq!(deleted, answer(&expected));
    for key in &keys {
        assert_eq!(client.kv_get(key).await.unwrap(), None, "{key}");
    }
    assert_eq!(client.kv_get("kept").await.unwrap(), Some(json!(4)));

    let deleted = client.kv_batch_delete(keys).await.unwrap();
    let expected = expected.map(|(key, _)| (key, false));
    assert_eq!(deleted, answer(&expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clear_takes_everything_and_the_store_goes_on() {
    let server = Server::start();
    let client = server.client();
    client.kv_clear().await.unwrap();
    client.kv_set("single", json!(1), None).await.unwrap();
    client.kv_set("aged", json!(2), Some("1h")).await.unwrap();
    set(&client, &[("batch", json!({"n": 3}))]).await;

    client.kv_clear().await.unwrap();
    for key in ["single", "aged", "batch"] {
        assert_eq!(client.kv_get(key).await.unwrap(), None, "{key}");
        assert!(!client.kv_exists(key).await.unwrap(), "{key}");
    }
    let found = get(&client, &["single", "aged", "batch"]).await;
    assert_eq!(found, json!([{}, {}, {}]));
    let deleted = client.kv_batch_delete(owned(&["single"])).await.unwrap();
    assert_eq!(deleted, answer(&[("single", false)]));

    client.kv_set("single", json!("new"), None).await.unwrap();
    assert_eq!(client.kv_get("single").await.unwrap(), Some(json!("new")));
}
