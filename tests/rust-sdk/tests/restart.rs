//! A server that goes and comes back under clients that stay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::array;
use std::fs;

use ekodb_client::{Client, Error, Record};
use harness::{Server, Token};
use serde_json::json;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::JoinSet;

const WRITERS: usize = 8;
/// How many acknowledgements all writers together see before a kill.
const ACKNOWLEDGED_MIN: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_refreshed_by_the_client_that_holds_it() {
    let mut server = Server::start();
    let client = server.client();
    client.kv_set("before", json!(1), None).await.unwrap();
    let token = Token::fetch(&server);
    assert_eq!(token.status_of_get("before"), 200);
    let secret_path = server.data_dir().join("jwt-secret");
    let secret = fs::read(&secret_path).unwrap();

    server.stop();
    fs::remove_file(&secret_path).unwrap();
    server.start_again();
    assert_ne!(fs::read(&secret_path).unwrap(), secret, "the secret is new");
    assert_eq!(token.status_of_get("before"), 401, "an old token is void");

    // The client still holds such a token: each call can only have succeeded with another one.
    let mut calls = JoinSet::new();
    for number in 0..WRITERS {
        let client = client.clone();
        calls.spawn(async move {
            let key = format!("after {number}");
            client.kv_set(&key, json!(number), None).await.unwrap();
            assert_eq!(client.kv_get(&key).await.unwrap(), Some(json!(number)));
        });
    }
    while let Some(result) = calls.join_next().await {
        result.unwrap();
    }
    assert_eq!(client.kv_get("before").await.unwrap(), Some(json!(1)));
    let keys = vec!["before".to_owned(), "after 0".to_owned()];
    let deleted = client.kv_batch_delete(keys).await.unwrap();
    assert!(deleted.iter().all(|(_, there)| *there), "{deleted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_call_refreshes_a_refused_token() {
    let mut server = Server::start();
    let set = server.client();
    set.kv_set("key", json!(1), None).await.unwrap();
    let others = array::from_fn(|_| server.client());
    for client in &others {
        assert_eq!(client.kv_get("key").await.unwrap(), Some(json!(1)));
    }
    let [
        get,
        exists,
        delete,
        batch_get,
        batch_set,
        batch_delete,
        clear,
    ] = others;
    server.kill();
    fs::remove_file(server.data_dir().join("jwt-secret")).unwrap();
    server.start_again();

    let key = || vec!["key".to_owned()];
    set.kv_set("key", json!({"n": 2}), None).await.unwrap();
    assert_eq!(get.kv_get("key").await.unwrap(), Some(json!({"n": 2})));
    assert!(exists.kv_exists("key").await.unwrap());
    let records = batch_get.kv_batch_get(key()).await.unwrap();
    assert_eq!(serde_json::to_value(records).unwrap(), json!([{"n": 2}]));
    delete.kv_delete("key").await.unwrap();
    let values = vec![Record::new().field("n", 3)];
    let done = batch_set.kv_batch_set(key(), values, None).await.unwrap();
    assert_eq!(done, [("key".to_owned(), true)]);
    let done = batch_delete.kv_batch_delete(key()).await.unwrap();
    assert_eq!(done, [("key".to_owned(), true)]);
    set.kv_set("key", json!(4), None).await.unwrap();
    clear.kv_clear().await.unwrap();
    assert_eq!(get.kv_get("key").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_the_same_client_goes_on_and_finds_its_data() {
    let mut server = Server::start();
    let client = server.client();
    client.kv_set("cleared", json!(1), None).await.unwrap();
    client.kv_clear().await.unwrap();
    client.kv_set("deleted", json!(1), None).await.unwrap();
    client
        .kv_set("aged", json!("1h"), Some("1h"))
        .await
        .unwrap();
    client
        .kv_set("a/b 🦀", json!({"n": 1}), None)
        .await
        .unwrap();
    client.kv_delete("deleted").await.unwrap();
    let token = Token::fetch(&server);

    for round in 0..5 {
        let number = json!(round);
        let key = format!("round {round}");
        client.kv_set(&key, number.clone(), None).await.unwrap();
        let keys = vec![format!("batch {round}"), "latest".to_owned()];
        let values = keys.iter().map(|_| Record::new().field("round", round));
        let done = client
            .kv_batch_set(keys.clone(), values.collect(), None)
            .await;
        assert!(done.unwrap().iter().all(|(_, set)| *set));

        server.kill();
        let error = client.kv_get(&key).await.unwrap_err();
        assert!(matches!(error, Error::Http(_)), "{error:?}");
        server.start_again();

        assert_eq!(token.status_of_get("latest"), 200, "tokens outlive a crash");
        for earlier in 0..=round {
            let value = client.kv_get(&format!("round {earlier}")).await.unwrap();
            assert_eq!(value, Some(json!(earlier)));
            let value = client.kv_get(&format!("batch {earlier}")).await.unwrap();
            assert_eq!(value, Some(json!({"round": earlier})));
        }
        let value = client.kv_get("latest").await.unwrap();
        assert_eq!(value, Some(json!({"round": number})));
        assert_eq!(client.kv_get("cleared").await.unwrap(), None);
        assert_eq!(client.kv_get("deleted").await.unwrap(), None);
        assert_eq!(client.kv_get("aged").await.unwrap(), Some(json!("1h")));
        let value = client.kv_get("a/b 🦀").await.unwrap();
        assert_eq!(value, Some(json!({"n": 1})));
    }
}

/// Counts a key up until the server is gone: what was acknowledged last. Each acknowledgement is
/// told to `acknowledged`.
async fn count(client: Client, key: String, first: u64, acknowledged: UnboundedSender<()>) -> u64 {
    let mut last = first;
    loop {
        match client.kv_set(&key, json!(last + 1), None).await {
            Ok(()) => last += 1,
            Err(Error::Http(_)) => return last,
            Err(error) => panic!("{key}: {error}"),
        }
        // Nobody listens any more once the kill is under way.
        let _ = acknowledged.send(());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_concurrent_clients_loses_nothing_acknowledged() {
    let mut server = Server::start();
    let clients: Vec<Client> = (0..WRITERS).map(|_| server.client()).collect();
    let mut counts = [0; WRITERS];
    for round in 0..3 {
        let (sender, mut acknowledged) = mpsc::unbounded_channel();
        let mut writers = JoinSet::new();
        for (number, client) in clients.iter().enumerate() {
            let task = count(
                client.clone(),
                format!("w{number}"),
                counts[number],
                sender.clone(),
            );
            writers.spawn(async move { (number, task.await) });
        }
        for _ in 0..ACKNOWLEDGED_MIN {
            acknowledged.recv().await.expect("the writers write");
        }
        server.kill();
        let mut last = [0; WRITERS];
        while let Some(result) = writers.join_next().await {
            let (number, count) = result.unwrap();
            last[number] = count;
        }
        server.start_again();

        for (number, client) in clients.iter().enumerate() {
            let value = client.kv_get(&format!("w{number}")).await.unwrap();
            let found = value.as_ref().and_then(|value| value.as_u64()).unwrap_or(0);
            // The one write under way may have been stored without having been answered.
            let expected = last[number]..=last[number] + 1;
            assert!(
                expected.contains(&found),
                "round {round}: {found} for {expected:?}"
            );
            counts[number] = found;
        }
    }
    let total: u64 = counts.iter().sum();
    assert!(total >= 3 * ACKNOWLEDGED_MIN as u64, "{total}");
}
