//! kv_link, kv_unlink and kv_get_links: what is listed, and what takes links away.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod harness;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use ekodb_client::{Client, Error, Record};
use harness::Server;
use serde_json::{Value, json};
use tokio::time::sleep;

/// How long an expiry may take before the test fails.
const EXPIRY_TIME_MAX: Duration = Duration::from_secs(30);

/// Collection and document of each link of a key, as they are listed.
async fn links(client: &Client, key: &str) -> Vec<(String, String)> {
    let listed = client.kv_get_links(key).await.unwrap();
    let listed = listed.as_array().expect("links are a list");
    let text = |link: &Value, name: &str| link[name].as_str().expect(name).to_owned();
    let ends = |link| (text(link, "collection"), text(link, "document_id"));
    listed.iter().map(ends).collect()
}

async fn link(client: &Client, key: &str, collection: &str, document: &str) {
    let answer = client.kv_link(key, collection, document).await;
    assert_eq!(answer.unwrap(), Value::Null, "{key}");
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = expected
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    owned.collect()
}

fn not_found<T: Debug>(outcome: Result<T, Error>) {
    assert!(matches!(outcome, Err(Error::NotFound)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lists_its_links_until_they_are_taken_away() {
    let server = Server::start();
    let client = server.client();
    client.kv_set("cart", json!({"n": 1}), None).await.unwrap();
    assert_eq!(client.kv_get_links("cart").await.unwrap(), json!([]));

    // Twice is once.
    for (collection, document) in [("users", "ada"), ("orders", "a/b 1"), ("users", "ada")] {
        link(&client, "cart", collection, document).await;
    }
    let listed = client.kv_get_links("cart").await.unwrap();
    let created_at = [&listed[0], &listed[1]].map(|link| link["created_at"].clone());
    assert!(created_at.iter().all(Value::is_string), "{listed}");
    let expected = json!([
        {"collection": "orders", "record_id": "a/b 1", "document_id": "a/b 1", "metadata": {},
         "created_at": created_at[0]},
        {"collection": "users", "record_id": "ada", "document_id": "ada", "metadata": {},
         "created_at": created_at[1]},
    ]);
    assert_eq!(listed, expected);

    let answer = client.kv_unlink("cart", "orders", "a/b 1").await;
    assert_eq!(answer.unwrap(), Value::Null);
    assert_eq!(links(&client, "cart").await, pairs(&[("users", "ada")]));
    let value = client.kv_get("cart").await.unwrap();
    assert_eq!(value, Some(json!({"n": 1})), "links do not touch the value");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let server = Server::start();
    let client = server.client();
    not_found(client.kv_link("missing", "users", "ada").await);
    not_found(client.kv_get_links("missing").await);
    not_found(client.kv_unlink("missing", "users", "ada").await);
    assert!(
        !client.kv_exists("missing").await.unwrap(),
        "a link makes no key"
    );

    client.kv_set("key", json!(1), None).await.unwrap();
    not_found(client.kv_unlink("key", "users", "ada").await);
    link(&client, "key", "users", "ada").await;
    not_found(client.kv_unlink("key", "users", "bob").await);
    not_found(client.kv_unlink("key", "orders", "ada").await);
    client.kv_unlink("key", "users", "ada").await.unwrap();
    not_found(client.kv_unlink("key", "users", "ada").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_survive_an_overwrite_and_go_with_the_key() {
    let server = Server::start();
    let client = server.client();
    let keys = ["deleted", "batch deleted", "cleared", "expired"];
    for key in keys {
        client.kv_set(key, json!(1), None).await.unwrap();
        link(&client, key, "users", key).await;
        client.kv_set(key, json!(2), None).await.unwrap();
        assert_eq!(links(&client, key).await, pairs(&[("users", key)]));
        let values = vec![Record::new().field("n", 3)];
        let done = client
            .kv_batch_set(vec![key.to_owned()], values, None)
            .await;
        assert_eq!(done.unwrap(), [(key.to_owned(), true)]);
        assert_eq!(links(&client, key).await, pairs(&[("users", key)]));
    }
    client.kv_delete("deleted").await.unwrap();
    let keys_deleted = vec!["batch deleted".to_owned()];
    client.kv_batch_delete(keys_deleted).await.unwrap();
    client
        .kv_set("expired", json!(4), Some("50ms"))
        .await
        .unwrap();
    let begin = Instant::now();
    while client.kv_exists("expired").await.unwrap() {
        assert!(begin.elapsed() < EXPIRY_TIME_MAX, "the key does not expire");
        // There is nothing to wait for: expiry is seen by those who ask.
        sleep(Duration::from_millis(10)).await;
    }
    for key in ["deleted", "batch deleted", "expired"] {
        not_found(client.kv_get_links(key).await);
        not_found(client.kv_link(key, "users", "ada").await);
    }
    assert_eq!(
        links(&client, "cleared").await,
        pairs(&[("users", "cleared")])
    );
    client.kv_clear().await.unwrap();
    for key in keys {
        not_found(client.kv_get_links(key).await);
        // What comes back under the same name is another key.
        client.kv_set(key, json!("again"), None).await.unwrap();
        assert_eq!(links(&client, key).await, [], "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_is_itself_in_a_path_of_links() {
    let server = Server::start();
    let client = server.client();
    // Not `get`, `set`, `delete` and `links` as keys: in this path a verb comes first.
    let names = [
        "plain",
        "a/b",
        "/",
        " ",
        "%",
        "a%2Fb",
        "?",
        "#",
        "a+b",
        ":",
        "🦀",
        "...",
        "batch",
        "find",
        "link",
        "clear",
        "\"\\\u{0}",
    ];
    let documents = ["get", "links", "delete"];
    for key in names {
        client.kv_set(key, json!(1), None).await.unwrap();
        for name in names.into_iter().chain(documents) {
            link(&client, key, name, key).await;
            link(&client, key, "to", name).await;
        }
    }
    for key in names {
        let mut expected: Vec<_> = names
            .into_iter()
            .chain(documents)
            .flat_map(|name| [(name, key), ("to", name)])
            .collect();
        expected.sort_unstable();
        assert_eq!(links(&client, key).await, pairs(&expected), "{key:?}");
        for (collection, document) in expected {
            client.kv_unlink(key, collection, document).await.unwrap();
        }
        assert_eq!(links(&client, key).await, [], "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_as_durable_as_values() {
    let mut server = Server::start();
    let client = server.client();
    client.kv_set("key", json!(1), Some("1h")).await.unwrap();
    let mut expected = Vec::new();
    for turn in 0..3 {
        let document = format!("document {turn}");
        link(&client, "key", "documents", &document).await;
        link(&client, "key", "passing", &document).await;
        client.kv_unlink("key", "passing", &document).await.unwrap();
        expected.push(("documents".to_owned(), document));
        let before = client.kv_get_links("key").await.unwrap();
        server.kill();
        server.start_again();
        assert_eq!(client.kv_get_links("key").await.unwrap(), before);
        assert_eq!(links(&client, "key").await, expected);
    }
    server.stop();
    server.start_again();
    assert_eq!(links(&client, "key").await, expected);
}
