//! A find over a million keys, read slowly: each key exactly once, memory flat, and others served
//! meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::Client;
use common::process::Process;
use common::server::DataDir;

const KEYS: usize = 1_000_000;
const BATCH_KEYS: usize = 10_000;
/// The reader takes so much, then asks for something else.
const READ_BYTES: usize = 64 << 10;
/// What a find of some 70 MB may add to the memory of the process: a few slices, and what the
/// allocator keeps of them.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

fn key(index: usize) -> String {
    format!("key-{index:07}")
}

fn load(process: &Process, bearer: &str) {
    let mut client = Client::new(process.address);
    for first in (0..KEYS).step_by(BATCH_KEYS) {
        let mut body = String::from("{\"keys\":[");
        for index in first..first + BATCH_KEYS {
            let comma = if index > first { "," } else { "" };
            write!(body, "{comma}\"{}\"", key(index)).unwrap();
        }
        body.push_str("],\"values\":[");
        for index in first..first + BATCH_KEYS {
            let comma = if index > first { "," } else { "" };
            write!(body, "{comma}{{\"n\":{index}}}").unwrap();
        }
        body.push_str("]}");
        let headers = [("Authorization", bearer)];
        let answer = client.request("POST", "/api/kv/batch/set", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// Sends a find and reads the head of its answer.
fn begin(process: &Process, bearer: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(process.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let request = format!(
        "POST /api/kv/find HTTP/1.1\r\nHost: test\r\nAuthorization: {bearer}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::with_capacity(READ_BYTES, stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).unwrap();
    }
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(head.contains("x-kv-version: "), "{head}");
    reader
}

/// The next chunk of a body; empty at its end.
fn chunk(reader: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let length = usize::from_str_radix(line.trim(), 16).unwrap_or_else(|_| panic!("cut: {line:?}"));
    let mut bytes = vec![0; length + 2];
    reader.read_exact(&mut bytes).unwrap();
    bytes.truncate(length);
    bytes
}

#[test]
fn a_find_over_a_million_keys_is_not_felt_by_others_and_takes_no_memory() {
    let dir = DataDir::new();
    let process = Process::start_as_is(dir.path(), &["--durability", "os"]);
    let bearer = format!("Bearer {}", process.token());
    load(&process, &bearer);
    let mut others = Client::new(process.address);
    let mut get = |index: usize| {
        let started = Instant::now();
        let target = format!("/api/kv/get/{}", key(index));
        let answer = others.request("GET", &target, &[("Authorization", &bearer)], b"");
        assert_eq!(answer.text(), format!("{{\"value\":{{\"n\":{index}}}}}"));
        started.elapsed()
    };
    for index in 0..200 {
        get(index);
    }

    let before = process.resident_bytes();
    let mut most = before;
    let mut reader = begin(&process, &bearer, "{}");
    let mut rest = Vec::new();
    let mut next = 0;
    let mut bytes = 0;
    let mut latencies = Vec::new();
    loop {
        let chunk = chunk(&mut reader);
        if chunk.is_empty() {
            break;
        }
        bytes += chunk.len();
        rest.extend_from_slice(&chunk);
        // Records are in order of their keys, and none is missing or there twice.
        let text = std::str::from_utf8(&rest).unwrap();
        let mut seen = 0;
        while let Some(at) = text[seen..].find("{\"key\":\"") {
            let start = seen + at + "{\"key\":\"".len();
            let Some(found) = text.get(start..start + key(0).len()) else {
                break;
            };
            assert_eq!(found, key(next));
            next += 1;
            seen = start;
        }
        rest.drain(..seen);
        // A slow reader: something else is asked for between any two of its chunks.
        latencies.push(get(next * 7 % KEYS));
        most = most.max(process.resident_bytes());
    }
    assert_eq!(next, KEYS);
    assert!(rest.ends_with(b"]"));
    latencies.sort();
    println!(
        "{KEYS} keys, {bytes} bytes in {} chunks: resident {} MiB before, at most {} MiB more; a get \
         meanwhile took {:?} (median), {:?} (99 %)",
        latencies.len(),
        before >> 20,
        (most - before) >> 20,
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
    assert!(
        most - before <= GROWTH_BYTES_MAX,
        "{} bytes more",
        most - before
    );

    // A client that goes away in the middle leaves nothing behind.
    for _ in 0..20 {
        let mut reader = begin(&process, &bearer, "{\"contains\":\"key\"}");
        assert!(!chunk(&mut reader).is_empty());
    }
    get(5);
    let after = process.resident_bytes();
    assert!(after.saturating_sub(before) <= GROWTH_BYTES_MAX);
}
