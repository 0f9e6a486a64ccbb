//! Connections that do nothing, say nothing sensible, or go away: the others and the data never
//! notice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::process::Process;
use common::server::DataDir;
use common::{ADMIN_KEY, Client, Server};

/// All that comes back for some bytes, up to the end of the connection.
fn exchange(server: &Server, bytes: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn idle_connections_never_take_the_descriptors_that_the_log_needs() {
    let dir = DataDir::new();
    let process = Process::start_limited(dir.path(), "ulimit -n 160");
    let bearer = format!("Bearer {}", process.token());
    let mut client = Client::new(process.address);
    let value = format!("\"{}\"", "x".repeat(60_000));
    let mut set = |index: usize| {
        let target = format!("/api/kv/set/k{index}");
        let headers = [("Authorization", bearer.as_str())];
        let mut answer = client.request("POST", &target, &headers, value.as_bytes());
        // The next segment may not be ready yet: the writer comes back, as clients do.
        while answer.status == 429 {
            std::thread::yield_now();
            answer = client.request("POST", &target, &headers, value.as_bytes());
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    set(0);
    // More than there are descriptors; those beyond the cap wait in the kernel's queue.
    let idle: Vec<TcpStream> = (0..200)
        .map_while(|_| TcpStream::connect(process.address).ok())
        .collect();
    assert!(idle.len() > 160, "{} connections", idle.len());
    // Segments of 1 MiB: enough for several rotations, each of which opens, renames and syncs.
    for index in 1..80 {
        set(index);
    }
    let segments = fs::read_dir(dir.path().join("wal")).unwrap().count();
    assert!(segments >= 4, "{segments} files");
}

#[test]
fn a_target_without_a_path_is_answered_like_any_that_leads_nowhere() {
    let server = Server::start(|_| {});
    for target in ["GET livez", "GET x:80", "OPTIONS livez", "CONNECT x:80"] {
        let answer = exchange(&server, &format!("{target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{target}: {answer:?}");
        assert!(
            answer.contains(r#""error":"not_found""#),
            "{target}: {answer:?}"
        );
    }
    // What is sent behind it is answered as well.
    let answer = exchange(
        &server,
        "GET x:80 HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer:?}");
}

#[test]
fn a_client_that_has_said_all_it_has_to_say_gets_its_answer() {
    let server = Server::start(|_| {});
    let token = server.admin_token();
    let head = format!("Host: x\r\nAuthorization: Bearer {token}\r\n");
    let set = format!("POST /api/kv/set/k HTTP/1.1\r\n{head}Content-Length: 1\r\n\r\n7");
    let answer = exchange(&server, &set);
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n7"),
        "{answer:?}"
    );
    let answer = exchange(
        &server,
        &format!("GET /api/kv/get/k HTTP/1.1\r\n{head}\r\n"),
    );
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n7"),
        "{answer:?}"
    );
}

#[test]
fn the_data_dir_is_for_its_owner_alone() {
    let server = Server::start(|config| config.admin_key = None);
    let mode = |path: &str| {
        let metadata = fs::metadata(server.data_dir().join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("wal"), 0o700);
    for file in [
        "jwt-secret",
        "admin-key",
        "CURRENT",
        "lock",
        "wal/00000000000000000001.wal",
    ] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
}

#[test]
fn a_given_admin_key_leaves_the_file_that_holds_it_and_removes_one_that_is_void() {
    let mut server = Server::start(|config| config.admin_key = None);
    let file = server.data_dir().join("admin-key");
    let kept = fs::read_to_string(&file).unwrap();
    let key = |text: &str| Some(ekokv::config::Secret::new(text.trim()));
    server.restart_after(|config| config.admin_key = key(&kept));
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        kept,
        "the same key as before"
    );
    server.restart_after(|config| config.admin_key = key(ADMIN_KEY));
    assert!(!file.exists(), "the key in it is void");
}
