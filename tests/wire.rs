//! What only shows on the wire: refusals while a body is still being sent, the go-ahead of
//! `Expect`, the shared budget, clients that leave, stops under way, secrets that change.
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
    let mut client = server.client();
    let long = "a".repeat(70_000);
    client.send(format!("GET /{long} HTTP/1.1\r\n\r\n").as_bytes());
    assert_eq!(client.receive("GET").status, 414);
    assert_eq!(
        server.client().request("GET", "/livez", &[], b"").status,
        200
    );
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
    // Durably: it need not be given again.
    server.restart_after(|config| config.admin_key = None);
    assert_eq!(exchange(&server, other), 200);
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
