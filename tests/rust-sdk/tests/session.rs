//! What a client sees before and around its calls: health, API keys, and many clients at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use ekodb_client::{Client, Error, HEALTH_OK};
use harness::Server;
use serde_json::json;
use tokio::task::JoinSet;

const CLIENTS: usize = 50;
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn health_is_ok_without_a_valid_key_and_unreachable_without_a_server() {
    let mut server = Server::start();
    for client in [server.client(), server.client_with("no such key")] {
        let health = client.health_status().await;
        assert!(health.reachable);
        assert_eq!(health.status, HEALTH_OK);
        assert!(health.integrity_ok);
        let version = &health.detail.expect("the body")["version"];
        assert!(version.is_string(), "{version}");
        client.health().await.unwrap();
    }
    let client = server.client();
    server.kill();
    assert!(!client.health_status().await.reachable);
    client.health().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_an_authentication_error_for_every_call() {
    let server = Server::start();
    let right = server.admin_key();
    let good = server.client();
    good.kv_set("key", json!("value"), None).await.unwrap();

    let mut flipped = right.clone();
    let last = flipped.pop().unwrap();
    flipped.push(if last == 'x' { 'y' } else { 'x' });
    let longer = format!("{right}x");
    for wrong in ["wrong", "", flipped.as_str(), longer.as_str()] {
        let client = server.client_with(wrong);
        let keys = vec!["key".to_owned()];
        let errors = [
            client.kv_get("key").await.unwrap_err(),
            client
                .kv_set("key", json!("stolen"), None)
                .await
                .unwrap_err(),
            client.kv_delete("key").await.unwrap_err(),
            client.kv_batch_get(keys.clone()).await.unwrap_err(),
            client.kv_batch_delete(keys).await.unwrap_err(),
            client.kv_clear().await.unwrap_err(),
        ];
        for error in errors {
            let Error::Authentication(text) = &error else {
                panic!("an authentication error is expected, not {error:?}");
            };
            assert!(text.contains("401"), "{text}");
            assert!(!text.contains(&right), "the answer shows the key");
        }
    }
    // Neither the data nor who holds the right key has noticed.
    assert_eq!(good.kv_get("key").await.unwrap(), Some(json!("value")));
    let late = server.client();
    assert_eq!(late.kv_get("key").await.unwrap(), Some(json!("value")));
}

/// Sets and gets keys of this client's own, with one key that all write.
async fn work(client: Client, number: usize) {
    for round in 0..ROUNDS {
        let key = format!("client {number}/round {round}");
        let value = json!({"client": number, "round": round});
        client.kv_set(&key, value.clone(), None).await.unwrap();
        assert_eq!(client.kv_get(&key).await.unwrap(), Some(value), "{key}");
        client.kv_set("shared", json!(number), None).await.unwrap();
        let shared = client.kv_get("shared").await.unwrap();
        let writer = shared.as_ref().and_then(|value| value.as_u64());
        assert!(writer.is_some_and(|n| n < CLIENTS as u64), "{shared:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_at_once_each_read_what_they_wrote() {
    let server = Server::start();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(work(server.client(), number));
    }
    let mut done = 0;
    while let Some(result) = clients.join_next().await {
        result.unwrap();
        done += 1;
    }
    assert_eq!(done, CLIENTS);

    let client = server.client();
    for number in 0..CLIENTS {
        let keys = (0..ROUNDS).map(|round| format!("client {number}/round {round}"));
        let records = client.kv_batch_get(keys.collect()).await.unwrap();
        let expected: Vec<_> = (0..ROUNDS)
            .map(|round| json!({"client": number, "round": round}))
            .collect();
        assert_eq!(serde_json::to_value(records).unwrap(), json!(expected));
    }
}
