//! What only shows on the wire: refusals while a body is still being sent, the go-ahead of
//! `Expect`, the shared budget, clients that leave, finds that are streamed, stops under way, secrets
//! that change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::net::TcpStream;

use common::{ADMIN_KEY, Client, Response, Server};
use ekokv::config::Secret;

/// The head of a set, with `extra` header lines.
fn set_head(token: &str, key: &str, extra: &str) -> String {
    format!(
        "POST /api/kv/set/{key} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n{extra}\r\n"
    )
}

fn get(client: &mut Client, token: &str, key: &str) -> Response {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    client.request("GET", &format!("/api/kv/get/{key}"), &headers, b"")
}

/// Sets `key-00000` and so on, each to `value`.
fn fill(server: &Server, token: &str, keys: usize, value: &str) {
    let mut client = server.client();
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let batch = ((100 << 10) / value.len()).min(100);
    for first in (0..keys).step_by(batch) {
        let indexes = first..keys.min(first + batch);
        let names: Vec<_> = indexes
            .clone()
            .map(|index| format!("\"{}\"", key(index)))
            .collect();
        let body = format!(
            "{{\"keys\":[{}],\"values\":[{}]}}",
            names.join(","),
            vec![value; indexes.len()].join(",")
        );
        let answer = client.request("POST", "/api/kv/batch/set", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// So many large values are more than sockets hold, and far more than `--max-inflight-bytes`.
const MANY_KEYS: usize = 800;
/// A segment that holds them all: small ones would have to be made faster than disks are.
const MANY_BYTES: u64 = 64 << 20;

fn large_value() -> String {
    format!("\"{}\"", "v".repeat(48 << 10))
}

fn key(index: usize) -> String {
    format!("key-{index:05}")
}

/// Sends a find and reads the head of its answer.
fn begin_find(client: &mut Client, token: &str, body: &str) -> (String, Vec<String>) {
    let length = body.len();
    client.send(
        format!(
            "POST /api/kv/find HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .as_bytes(),
    );
    client.receive_head()
}

/// The keys of a whole answer to a find.
fn found_keys(text: &[u8]) -> Vec<String> {
    let records: Vec<serde_json::Value> = serde_json::from_slice(text).unwrap();
    let key = |record: &serde_json::Value| record["key"].as_str().unwrap().to_owned();
    records.iter().map(key).collect()
}

#[test]
fn a_large_find_is_streamed_as_one_list_of_every_key() {
    const KEYS: usize = 5_000;
    let server = Server::start(|_| {});
    let token = server.admin_token();
    fill(&server, &token, KEYS, "{\"n\": 1.50}");
    let mut client = server.client();
    let version = get(&mut client, &token, "nothing");
    let version = version.header("x-kv-version").unwrap().to_owned();
    for (body, expected) in [
        ("{}", (0..KEYS).collect::<Vec<_>>()),
        ("{\"reverse\":true}", (0..KEYS).rev().collect()),
        (
            "{\"suffix\":\"7\",\"offset\":100,\"limit\":300}",
            (7..KEYS).step_by(10).skip(100).take(300).collect(),
        ),
    ] {
        let (status, headers) = begin_find(&mut client, &token, body);
        assert_eq!(status, "HTTP/1.1 200 OK");
        for header in [
            "transfer-encoding: chunked",
            "content-type: application/json",
            &format!("x-kv-version: {version}"),
        ] {
            assert!(headers.iter().any(|found| found == header), "{headers:?}");
        }
        let mut text = Vec::new();
        while let Some(chunk) = client.chunk().unwrap() {
            text.extend_from_slice(&chunk);
        }
        assert!(text.ends_with(b"}]"));
        let expected: Vec<_> = expected.into_iter().map(key).collect();
        assert_eq!(found_keys(&text), expected, "{body}");
    }
    // The connection goes on.
    assert_eq!(
        get(&mut client, &token, &key(1)).text(),
        "{\"value\":{\"n\": 1.50}}"
    );
}

#[test]
fn readers_that_leave_a_find_cost_nothing() {
    let server = Server::start(|config| config.segment_bytes = MANY_BYTES);
    let token = server.admin_token();
    fill(&server, &token, MANY_KEYS, &large_value());
    for _ in 0..8 {
        let mut client = server.client();
        let (status, _) = begin_find(&mut client, &token, "{}");
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(client.chunk().unwrap().is_some());
        drop(client);
        assert_eq!(get(&mut server.client(), &token, "nothing").status, 404);
    }
    // What they had reserved is there again, or this could not be read to its end.
    let mut client = server.client();
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let all = client.request("POST", "/api/kv/find", &headers, b"{}");
    assert_eq!(all.status, 200);
    assert_eq!(found_keys(&all.body).len(), MANY_KEYS);
}

#[test]
fn keys_that_are_there_throughout_are_found_once_while_others_come_and_go() {
    let server = Server::start(|config| config.segment_bytes = MANY_BYTES);
    let token = server.admin_token();
    fill(&server, &token, MANY_KEYS, &large_value());
    let mut reader = server.client();
    begin_find(&mut reader, &token, "{}");
    let mut text = reader.chunk().unwrap().unwrap();

    // Nobody has read further: some of what follows is not even walked yet.
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let mut writer = server.client();
    for index in (1..MANY_KEYS).step_by(2) {
        let path = format!("/api/kv/delete/{}", key(index));
        assert_eq!(writer.request("DELETE", &path, &headers, b"").status, 200);
        let path = format!("/api/kv/set/{}-new", key(index));
        assert_eq!(writer.request("POST", &path, &headers, b"1").status, 200);
    }
    while let Some(chunk) = reader.chunk().unwrap() {
        text.extend_from_slice(&chunk);
    }
    let found = found_keys(&text);
    assert!(found.is_sorted_by(|one, other| one < other));
    for index in (0..MANY_KEYS).step_by(2) {
        assert!(found.contains(&key(index)), "{index}");
    }
    // The last one was deleted before the walk came to it.
    assert!(!found.contains(&key(MANY_KEYS - 1)));
}

#[test]
fn a_find_that_cannot_be_finished_is_cut() {
    let server = Server::start(|config| {
        config.max_value_bytes = config.max_body_bytes;
        config.max_inflight_bytes = config.max_body_bytes;
    });
    let token = server.admin_token();
    fill(&server, &token, 3_000, "1");
    // With what a record adds to it, there is no room for this one.
    let length = usize::try_from(server.config.max_body_bytes).unwrap();
    let value = format!("\"{}\"", "v".repeat(length - 2));
    let mut client = server.client();
    client.send(set_head(&token, "z", &format!("Content-Length: {length}\r\n")).as_bytes());
    client.send(value.as_bytes());
    assert_eq!(client.receive("POST").status, 200);

    begin_find(&mut client, &token, "{}");
    let mut text = Vec::new();
    let cut = loop {
        match client.chunk() {
            Ok(Some(chunk)) => text.extend_from_slice(&chunk),
            Ok(None) => panic!("closed: {}", text.len()),
            Err(error) => break error,
        }
    };
    assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof, "{cut}");
    assert!(text.starts_with(b"[{") && text.ends_with(b"}"));
    assert!(serde_json::from_slice::<serde_json::Value>(&text).is_err());

    // Its key can be found, and the others are.
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let mut client = server.client();
    let keys = client.request("POST", "/api/kv/find", &headers, b"{\"keys_only\":true}");
    assert_eq!(found_keys(&keys.body).len(), 3_001);
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending_and_the_connection_stays() {
    let server = Server::start(|_| {});
    let token = server.admin_token();
    let length = 8 << 20;
    let mut chunked = Vec::new();
    for _ in 0..128 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&vec![b'1'; 0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    for (token, extra, body, status) in [
        (
            token.as_str(),
            format!("Content-Length: {length}\r\n"),
            vec![b'1'; length],
            413,
        ),
        (
            &token,
            "Transfer-Encoding: chunked\r\n".to_owned(),
            chunked,
            413,
        ),
        (
            "wrong",
            format!("Content-Length: {length}\r\n"),
            vec![b'1'; length],
            401,
        ),
    ] {
        let mut client = server.client();
        client.send(set_head(token, "a", &extra).as_bytes());
        client.send(&body);
        let refusal = client.receive("POST");
        assert_eq!(refusal.status, status, "{extra}");
        assert_eq!(
            client.request("GET", "/livez", &[], b"").status,
            200,
            "{extra}"
        );
    }
}

#[test]
fn a_client_that_waits_for_a_go_ahead_gets_it_or_the_refusal() {
    let server = Server::start(|_| {});
    let token = server.admin_token();
    let expect = "Content-Length: 1\r\nExpect: 100-continue\r\n";
    let mut client = server.client();
    client.send(set_head(&token, "a", expect).as_bytes());
    assert_eq!(client.receive("POST").status, 100);
    client.send(b"7");
    let stored = client.receive("POST");
    assert_eq!((stored.status, stored.text().as_str()), (200, "7"));

    let mut refused = server.client();
    refused.send(set_head("wrong", "a", expect).as_bytes());
    // Whether the body still comes is for the sender to decide, so the connection cannot go on.
    let refusal = refused.receive("POST");
    assert_eq!(
        (refusal.status, refusal.header("connection")),
        (401, Some("close")),
        "{refusal:?}"
    );
    let too_large = "Content-Length: 99999999\r\nExpect: 100-continue\r\n";
    let mut refused = server.client();
    refused.send(set_head(&token, "a", too_large).as_bytes());
    assert_eq!(refused.receive("POST").status, 413);
}

#[test]
fn bodies_under_way_share_a_budget_and_the_next_one_is_told_to_come_back() {
    let server = Server::start(|config| config.max_inflight_bytes = 4 * config.max_body_bytes);
    let token = server.admin_token();
    let length = usize::try_from(server.config.max_body_bytes).unwrap();
    let head = set_head(
        &token,
        "a",
        &format!("Content-Length: {length}\r\nExpect: 100-continue\r\n"),
    );
    let mut holders: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for holder in &mut holders {
        holder.send(head.as_bytes());
        // The go-ahead comes after the reservation.
        assert_eq!(holder.receive("POST").status, 100);
    }
    let refuse = |status| {
        let mut client = server.client();
        client.send(head.as_bytes());
        let answer = client.receive("POST");
        assert_eq!(answer.status, status, "{answer:?}");
        answer
    };
    let busy = refuse(429);
    assert_eq!(busy.header("retry-after"), Some("1"));
    assert!(
        busy.text().contains("--max-inflight-bytes"),
        "{}",
        busy.text()
    );

    // Small requests and reads go on.
    let mut client = server.client();
    client.send(set_head(&token, "small", "Content-Length: 1\r\n").as_bytes());
    client.send(b"1");
    assert_eq!(client.receive("POST").status, 200);
    assert_eq!(get(&mut client, &token, "small").status, 200);

    // A body that has arrived makes room for the next one.
    let mut body = vec![b' '; length];
    body[0] = b'1';
    let mut done = holders.pop().unwrap();
    done.send(&body);
    assert_eq!(done.receive("POST").status, 200);
    // The reservation goes with the answer's body, which may be just after we have read it: the
    // same connection answers the next request only when the last answer has left.
    assert_eq!(done.request("GET", "/livez", &[], b"").status, 200);
    refuse(100);
}

#[test]
fn exchanges_are_small_and_take_nothing_from_the_budget() {
    let server = Server::start(|config| config.max_inflight_bytes = config.max_body_bytes);
    let token = server.admin_token();
    let head = |extra: &str| format!("POST /api/auth/token HTTP/1.1\r\nHost: test\r\n{extra}\r\n");
    // Nobody knows who these are, and they never send what they announce.
    let mut strangers: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for stranger in &mut strangers {
        stranger.send(head("Content-Length: 4096\r\nExpect: 100-continue\r\n").as_bytes());
        assert_eq!(stranger.receive("POST").status, 100);
    }
    let mut client = server.client();
    let length = server.config.max_body_bytes;
    let expect = format!("Content-Length: {length}\r\nExpect: 100-continue\r\n");
    client.send(set_head(&token, "a", &expect).as_bytes());
    assert_eq!(client.receive("POST").status, 100);

    // The budget is used up by now.
    assert!(!server.admin_token().is_empty());
    let chunks = format!("800\r\n{}\r\n", " ".repeat(0x800)).repeat(3);
    for (extra, body) in [
        ("Content-Length: 4097\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", chunks.as_str()),
    ] {
        let mut client = server.client();
        client.send(head(extra).as_bytes());
        client.send(body.as_bytes());
        let refusal = client.receive("POST");
        assert_eq!(refusal.status, 413, "{refusal:?}");
        let text = refusal.text();
        assert!(text.contains(r#""error":"body_too_large""#), "{text}");
        assert!(text.contains("4096") && !text.contains("--max"), "{text}");
    }
}

#[test]
fn answers_that_nobody_reads_fill_the_budget_until_they_are_read() {
    // Far more than the buffers of a socket.
    const VALUE_BYTES: usize = 8 << 20;
    let server = Server::start(|config| {
        config.segment_bytes = MANY_BYTES;
        config.max_value_bytes = 8 << 20;
        config.max_body_bytes = 8 << 20;
        config.max_inflight_bytes = 20 << 20;
    });
    let token = server.admin_token();
    let value = format!("\"{}\"", "v".repeat(VALUE_BYTES - 2));
    let mut client = server.client();
    client.send(set_head(&token, "a", &format!("Content-Length: {VALUE_BYTES}\r\n")).as_bytes());
    client.send(value.as_bytes());
    assert_eq!(client.receive("POST").status, 200);
    // What the set has taken is given back before its connection goes on.
    assert_eq!(client.request("GET", "/livez", &[], b"").status, 200);

    let request = format!(
        "GET /api/kv/get/a HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    let mut readers: Vec<Client> = (0..2).map(|_| server.client()).collect();
    let mut length = 0;
    for reader in &mut readers {
        reader.send(request.as_bytes());
        let (status, headers) = reader.receive_head();
        assert_eq!(status, "HTTP/1.1 200 OK");
        length = headers
            .iter()
            .find_map(|header| header.strip_prefix("content-length: "))
            .unwrap()
            .parse()
            .unwrap();
    }
    assert_eq!(length, VALUE_BYTES);
    let refusal = get(&mut client, &token, "a");
    assert_eq!(refusal.status, 429, "{:?}", refusal.headers);
    assert!(refusal.text().contains("--max-inflight-bytes"));

    let mut reader = readers.pop().unwrap();
    assert_eq!(reader.read(length), value.as_bytes());
    assert_eq!(reader.request("GET", "/livez", &[], b"").status, 200);
    assert_eq!(get(&mut client, &token, "a").text(), value);
}

#[test]
fn a_client_that_leaves_within_its_body_has_done_nothing() {
    let server = Server::start(|_| {});
    let token = server.admin_token();
    let mut client = server.client();
    client.send(
        set_head(
            &token,
            "a",
            "Content-Length: 10\r\nExpect: 100-continue\r\n",
        )
        .as_bytes(),
    );
    assert_eq!(client.receive("POST").status, 100);
    client.send(b"12345");
    drop(client);
    assert_eq!(get(&mut server.client(), &token, "a").status, 404);
}

#[test]
fn requests_sent_at_once_are_answered_in_order() {
    let server = Server::start(|_| {});
    let token = server.admin_token();
    let mut client = server.client();
    let mut bytes = String::new();
    for value in 0..20 {
        bytes += &set_head(&token, "a", "Content-Length: 2\r\n");
        bytes += &format!("{}", 10 + value);
        bytes += &format!(
            "GET /api/kv/get/a HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
    }
    client.send(bytes.as_bytes());
    for value in 0..20 {
        assert_eq!(client.receive("POST").text(), format!("{}", 10 + value));
        assert_eq!(client.receive("GET").text(), format!("{}", 10 + value));
    }
}

#[test]
fn reads_of_every_kind_follow_each_other_on_one_connection() {
    let server = Server::start(|_| {});
    let token = server.admin_token();
    let mut client = server.client();
    client.send(format!("{}7", set_head(&token, "a", "Content-Length: 1\r\n")).as_bytes());
    assert_eq!(client.receive("POST").status, 200);
    let host = "Host: test\r\n";
    let bearer = format!("{host}Authorization: Bearer {token}\r\n");
    let body = "Content-Length: 3\r\n\r\nabc";
    let long = "k".repeat(60_000);
    let kinds = [
        (
            "GET",
            format!("GET /api/kv/get/a HTTP/1.1\r\n{bearer}\r\n"),
            200,
        ),
        (
            "GET",
            format!("GET /api/kv/get/%61 HTTP/1.1\r\n{bearer}\r\n"),
            200,
        ),
        (
            "HEAD",
            format!("HEAD /api/kv/get/a HTTP/1.1\r\n{bearer}\r\n"),
            200,
        ),
        (
            "GET",
            format!("GET /api/kv/get/a HTTP/1.1\r\n{bearer}{body}"),
            200,
        ),
        (
            "GET",
            format!("GET /api/kv/get/b HTTP/1.1\r\n{bearer}{body}"),
            404,
        ),
        (
            "GET",
            format!("GET /api/kv/get/a HTTP/1.1\r\n{host}{body}"),
            401,
        ),
        (
            "GET",
            format!("GET /api/kv/get/a HTTP/1.1\r\n{host}Authorization: Bearer x\r\n\r\n"),
            401,
        ),
        (
            "GET",
            format!("GET /api/kv/get/{long} HTTP/1.1\r\n{bearer}\r\n"),
            400,
        ),
        (
            "GET",
            format!("GET /api/kv/get/{long} HTTP/1.1\r\n{host}\r\n"),
            401,
        ),
        (
            "GET",
            format!("GET /api/kv/set/a HTTP/1.1\r\n{bearer}\r\n"),
            405,
        ),
        (
            "GET",
            format!("GET /api/kv/get/a/b HTTP/1.1\r\n{bearer}\r\n"),
            404,
        ),
    ];
    for _ in 0..8 {
        let all: String = kinds
            .iter()
            .map(|(_, request, _)| request.as_str())
            .collect();
        client.send(all.as_bytes());
        for (method, request, status) in &kinds {
            let answer = client.receive(method);
            assert_eq!(answer.status, *status, "{request:.60}");
            if *status == 200 && *method == "GET" {
                assert_eq!(answer.text(), "7", "{request:.60}");
            }
        }
    }
}

#[test]
fn what_is_no_request_ends_its_connection_and_nothing_else() {
    let server = Server::start(|_| {});
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        let mut client = server.client();
        client.send(bytes);
        assert_eq!(
            client.receive("GET").status,
            400,
            "{}",
            bytes.escape_ascii()
        );
        assert!(client.is_closed(), "{}", bytes.escape_ascii());
    }
    for (request, status) in [
        (format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)), 414),
        (
            format!("GET / HTTP/1.1\r\nX-Long: {}", "a".repeat(1_000_000)),
            431,
        ),
        (
            format!("GET / HTTP/1.1\r\n{}\r\n", "X-Many: 1\r\n".repeat(1_000)),
            431,
        ),
    ] {
        let mut client = server.client();
        client.send(request.as_bytes());
        assert_eq!(client.receive("GET").status, status);
        assert!(client.is_closed());
    }
    assert_eq!(
        server.client().request("GET", "/livez", &[], b"").status,
        200
    );
}

#[test]
fn a_body_that_is_longer_than_announced_is_the_next_request() {
    let server = Server::start(|_| {});
    let token = server.admin_token();
    let mut client = server.client();
    client.send(set_head(&token, "a", "Content-Length: 2\r\n").as_bytes());
    client.send(b"12345\r\n\r\n");
    assert_eq!(client.receive("POST").text(), "12");
    assert_eq!(client.receive("POST").status, 400);
    assert!(client.is_closed());
    assert_eq!(get(&mut server.client(), &token, "a").text(), "12");
}

#[test]
fn a_body_that_is_framed_twice_is_framed_one_way_and_cannot_hide_a_request() {
    let server = Server::start(|_| {});
    let token = server.admin_token();
    let hidden = format!(
        "DELETE /api/kv/delete/kept HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    let mut client = server.client();
    client.send(set_head(&token, "kept", "Content-Length: 1\r\n").as_bytes());
    client.send(b"1");
    assert_eq!(client.receive("POST").status, 200);
    // A proxy in front that goes by the length takes the rest for a part of this body.
    let length = hidden.len() + 11;
    for framing in [
        format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"),
    ] {
        let mut client = server.client();
        client.send(set_head(&token, "a", &framing).as_bytes());
        client.send(format!("1\r\n7\r\n0\r\n\r\n{hidden}").as_bytes());
        let answer = client.receive("POST");
        assert!(matches!(answer.status, 200 | 400), "{answer:?}");
        assert!(client.is_closed(), "{framing}");
    }
    assert_eq!(get(&mut server.client(), &token, "kept").text(), "1");
}

#[test]
fn an_endless_body_is_refused_at_the_limit() {
    let server = Server::start(|_| {});
    let token = server.admin_token();
    for path in ["find", "a/links/c/d", "link", "batch/set", "set/a"] {
        let mut client = server.client();
        client.send(
            format!(
                "POST /api/kv/{path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\
                 Transfer-Encoding: chunked\r\n\r\n"
            )
            .as_bytes(),
        );
        let mut chunk = b"4000\r\n".to_vec();
        chunk.extend_from_slice(&[b' '; 0x4000]);
        chunk.extend_from_slice(b"\r\n");
        for _ in 0..16 {
            client.send(&chunk);
        }
        // It has not ended, and would not.
        let refusal = client.receive("POST");
        assert_eq!(refusal.status, 413, "{path}: {refusal:?}");
    }
    // Within the limit, one byte at a time.
    let mut client = server.client();
    client.send(set_head(&token, "a", "Transfer-Encoding: chunked\r\n").as_bytes());
    for byte in *b"[1, 2]" {
        client.send(&[b'1', b'\r', b'\n', byte, b'\r', b'\n']);
    }
    client.send(b"0\r\n\r\n");
    assert_eq!(client.receive("POST").text(), "[1, 2]");
}

#[test]
fn a_header_that_is_not_text_is_refused_as_json() {
    let server = Server::start(|_| {});
    let mut client = server.client();
    client.send(b"GET /livez HTTP/1.1\r\nHost: test\r\nExpect: \xff\r\n\r\n");
    let refusal = client.receive("GET");
    assert_eq!(refusal.status, 400);
    assert!(
        refusal.text().contains(r#""error":"bad_request""#),
        "{}",
        refusal.text()
    );
}

#[test]
fn a_stop_waits_for_what_is_under_way_and_accepts_nothing_new() {
    let mut server = Server::start(|_| {});
    let token = server.admin_token();
    let address = server.address();
    let mut idle = server.client();
    assert_eq!(idle.request("GET", "/livez", &[], b"").status, 200);
    let mut busy = server.client();
    busy.send(set_head(&token, "a", "Content-Length: 1\r\nExpect: 100-continue\r\n").as_bytes());
    assert_eq!(busy.receive("POST").status, 100);
    let ended = server.signal();
    // The stop has begun when idle connections are closed.
    assert!(idle.is_closed());
    assert!(
        TcpStream::connect(address).is_err(),
        "the port is still open"
    );
    busy.send(b"5");
    let stored = busy.receive("POST");
    assert_eq!((stored.status, stored.text().as_str()), (200, "5"));
    assert!(busy.is_closed());
    assert_eq!(ended.join().unwrap(), Ok(()));
}

#[test]
fn without_its_jwt_secret_a_data_dir_keeps_its_data_and_loses_its_tokens() {
    let mut server = Server::start(|_| {});
    let token = server.admin_token();
    let mut client = server.client();
    client.send(set_head(&token, "a", "Content-Length: 1\r\n").as_bytes());
    client.send(b"5");
    assert_eq!(client.receive("POST").status, 200);
    server.restart_after(|config| {
        std::fs::remove_file(config.data_dir.join("jwt-secret")).unwrap();
    });
    assert_eq!(get(&mut server.client(), &token, "a").status, 401);
    let token = server.admin_token();
    assert_eq!(get(&mut server.client(), &token, "a").text(), "5");
}

#[test]
fn a_new_admin_key_voids_the_old_one() {
    let mut server = Server::start(|_| {});
    let old = server.admin_token();
    let exchange = |server: &Server, key: &str| {
        let body = format!("{{\"api_key\":\"{key}\"}}");
        server
            .client()
            .request("POST", "/api/auth/token", &[], body.as_bytes())
            .status
    };
    assert_eq!(exchange(&server, ADMIN_KEY), 200);
    let other = "another-admin-key-0123456789-abcdef";
    server.restart_after(|config| config.admin_key = Some(Secret::new(other)));
    assert_eq!(exchange(&server, other), 200);
    assert_eq!(exchange(&server, ADMIN_KEY), 401);
    // So are the tokens that it was exchanged for.
    assert_eq!(get(&mut server.client(), &old, "a").status, 401);
    // Durably: it need not be given again.
    server.restart_after(|config| config.admin_key = None);
    assert_eq!(exchange(&server, other), 200);
    assert_eq!(get(&mut server.client(), &old, "a").status, 401);
    assert_eq!(exchange(&server, ADMIN_KEY), 401);
}

#[test]
fn beyond_its_memory_the_store_refuses_what_grows_it_and_nothing_else() {
    let server = Server::start(|config| config.max_memory_bytes = 1 << 20);
    let token = server.admin_token();
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let mut client = server.client();
    let value = format!("\"{}\"", "v".repeat(60_000));
    let mut set = |key: usize| {
        client.request(
            "POST",
            &format!("/api/kv/set/{key}"),
            &headers,
            value.as_bytes(),
        )
    };
    let full = (0..100)
        .map(&mut set)
        .find(|answer| answer.status != 200)
        .unwrap();
    assert_eq!(full.status, 507);
    assert!(
        full.text().contains(r#""error":"memory_full""#),
        "{}",
        full.text()
    );
    assert!(full.text().contains("--max-memory"), "{}", full.text());
    assert_eq!(get(&mut client, &token, "0").status, 200);
    assert_eq!(
        client
            .request("DELETE", "/api/kv/delete/0", &headers, b"")
            .status,
        200
    );
    assert_eq!(
        client
            .request("POST", "/api/kv/set/a", &headers, b"1")
            .status,
        200
    );
}
