//! Golden HTTP scripts: `tests/golden/*.http`, one file per feature, one test per file.
//!
//! A script is a list of steps, with empty lines between them and `#` for comments:
//! ```text
//! @token admin
//! > POST /api/kv/set/greeting?ttl=1h
//! > X-Anything: a header
//! {"value":"hello"}
//! < 200
//! < X-KV-Version: <n+1>
//! {"value":"hello"}
//! ```
//! Lines behind `>` are the request's body, those behind `<` the answer's, which must be the same
//! byte for byte. A header may be `*` (any) or `-` (absent). With `> Transfer-Encoding: chunked`
//! each line of the body is a chunk; a line `>hex 00ff` is bytes.
//!
//! In all texts `<n+1>` is the sequence one above the one before the script, `<now+10>` the clock in
//! seconds and ten more, `<sub>` the admin key's id, `<jwt>` the
//! token, `<a*500>` five hundred times `a`; in expected
//! bodies `<any>` is any text without a quotation mark.
//!
//! Directives: `@config <setting> <number>` (or `@config values envelope`) before the first step; `@token admin|user|none`, `@token
//! sign|forge <header> <claims>` (with the data dir's secret or another); `@clock +10s`; `@restart`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Client, Response, Server, token};
use ekokv::config::Values;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn no_script_is_forgotten() {
            let listed = BTreeSet::from([$(format!("{}.http", stringify!($name))),*]);
            let found = fs::read_dir(directory())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect::<BTreeSet<_>>();
            assert_eq!(found, listed);
        }
    };
}

scripts![
    auth,
    batch_delete,
    batch_get,
    batch_set,
    clear,
    compact,
    conditions,
    delete,
    expiry,
    find,
    get,
    health,
    hostile,
    keys,
    limits,
    links,
    links_legacy,
    restart,
    routes,
    sdk_go,
    sdk_kotlin,
    sdk_typescript,
    set,
    ttl,
    values,
    values_envelope,
    versions,
];

/// Runs one script against a server of its own.
fn run(name: &str) {
    let path = directory().join(format!("{name}.http"));
    let script = fs::read_to_string(&path).unwrap();
    let lines: Vec<(usize, &str)> = (1..).zip(script.lines()).collect();
    let settings: Vec<&str> = script
        .lines()
        .filter_map(|line| line.strip_prefix("@config "))
        .collect();
    let server = Server::start(|config| {
        for setting in &settings {
            let (name, number) = setting.split_once(' ').unwrap();
            if name == "values" {
                assert_eq!(number, "envelope");
                config.values = Values::Envelope;
                continue;
            }
            let number = number.parse().unwrap();
            match name {
                "max-value-bytes" => config.max_value_bytes = number,
                "max-body-bytes" => config.max_body_bytes = number,
                "max-inflight-bytes" => config.max_inflight_bytes = number,
                "max-batch-keys" => config.max_batch_keys = number,
                "max-memory" => config.max_memory_bytes = number,
                "max-key-bytes" => config.max_key_bytes = number,
                other => panic!("{name}: {other} cannot be set in a script"),
            }
        }
    });
    let mut runner = Runner::new(server);
    let mut steps = 0;
    for paragraph in lines.split(|(_, line)| line.trim().is_empty()) {
        let paragraph: Vec<_> = paragraph
            .iter()
            .filter(|(_, line)| !line.starts_with('#'))
            .copied()
            .collect();
        let (directives, step): (Vec<_>, Vec<_>) = paragraph
            .into_iter()
            .partition(|(_, line)| line.starts_with('@'));
        for (_, directive) in directives {
            runner.direct(directive);
        }
        if let Some((number, _)) = step.first() {
            let place = format!("{name}.http:{number}");
            let lines: Vec<&str> = step.iter().map(|(_, line)| *line).collect();
            runner.step(&place, &lines);
            steps += 1;
        }
    }
    assert!(steps > 0, "{name} has no steps");
}

/// A script's server and what the next request is sent with.
struct Runner {
    server: Server,
    client: Client,
    token: Option<String>,
    /// The sequence before the script.
    base: u64,
    /// The id of the admin key.
    sub: String,
}

impl Runner {
    fn new(server: Server) -> Self {
        let admin = server.admin_token();
        let mut client = server.client();
        let bearer = format!("Bearer {admin}");
        let headers = [("Authorization", bearer.as_str())];
        let missing = client.request("GET", "/api/kv/get/nothing", &headers, b"");
        let base = missing.header("x-kv-version").unwrap().parse().unwrap();
        let claims: serde_json::Value = serde_json::from_str(&token::claims(&admin)).unwrap();
        let sub = claims["sub"].as_str().unwrap().to_owned();
        Self {
            server,
            client,
            token: Some(admin),
            base,
            sub,
        }
    }

    fn now_seconds(&self) -> u64 {
        use ekokv::clock::Clock;
        self.server.clock.now_ms() / 1_000
    }

    fn direct(&mut self, directive: &str) {
        let mut words = directive.splitn(4, ' ');
        match (
            words.next().unwrap(),
            words.next(),
            words.next(),
            words.next(),
        ) {
            ("@config", ..) => {}
            ("@restart", None, None, None) => {
                self.server.restart();
                self.client = self.server.client();
            }
            ("@clock", Some(step), None, None) => {
                let step = humantime::parse_duration(step.strip_prefix('+').unwrap()).unwrap();
                self.server
                    .clock
                    .advance(step.as_millis().try_into().unwrap());
            }
            ("@token", Some("none"), None, None) => self.token = None,
            ("@token", Some("admin"), None, None) => self.token = Some(self.server.admin_token()),
            ("@token", Some("user"), None, None) => {
                let claims = r#"{"sub":"<sub>","role":"user","iat":<now+0>,"exp":<now+600>}"#;
                self.direct(&format!("@token sign {{\"alg\":\"HS256\"}} {claims}"));
            }
            ("@token", Some(maker @ ("sign" | "forge")), Some(header), Some(claims)) => {
                let secret = match maker {
                    "sign" => self.server.jwt_secret(),
                    _ => b"not the secret of this data dir".to_vec(),
                };
                let claims = self.expand(claims);
                self.token = Some(token::sign(&secret, header, &claims));
            }
            _ => panic!("not a directive: {directive}"),
        }
    }

    fn step(&mut self, place: &str, lines: &[&str]) {
        let answer = lines.iter().position(|line| line.starts_with("< "));
        let (request, expected) = lines.split_at(answer.unwrap_or_else(|| panic!("{place}: no <")));
        let (method, bytes) = self.request(place, request);
        self.client.send(&bytes);
        let response = self.client.receive(&method);
        self.compare(place, &method, expected, &response);
        if response.header("connection") == Some("close") {
            self.client = self.server.client();
        }
    }

    /// The method and the bytes of a request.
    fn request(&self, place: &str, lines: &[&str]) -> (String, Vec<u8>) {
        let first = self.expand(
            lines[0]
                .strip_prefix("> ")
                .unwrap_or_else(|| panic!("{place}")),
        );
        let method = first.split(' ').next().unwrap().to_owned();
        let mut head = format!("{first} HTTP/1.1\r\nHost: test\r\n");
        let (mut is_chunked, mut is_authorized, mut is_measured) = (false, false, false);
        let mut chunks: Vec<Vec<u8>> = Vec::new();
        for line in &lines[1..] {
            if let Some(header) = line.strip_prefix("> ") {
                let header = self.expand(header);
                is_chunked |= header.eq_ignore_ascii_case("transfer-encoding: chunked");
                is_authorized |= header.starts_with("Authorization:");
                is_measured |= header.starts_with("Content-Length:");
                head += &format!("{header}\r\n");
            } else if let Some(digits) = line.strip_prefix(">hex ") {
                chunks.push(
                    (0..digits.len())
                        .step_by(2)
                        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                        .collect(),
                );
            } else {
                chunks.push(self.expand(line).into_bytes());
            }
        }
        if let (Some(token), false) = (&self.token, is_authorized) {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        let body = if is_chunked {
            let mut body = Vec::new();
            for chunk in chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(&chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            body
        } else {
            chunks.join(&b'\n')
        };
        if !is_chunked && !is_measured && (!body.is_empty() || method == "POST") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        (method, [head.into_bytes(), body].concat())
    }

    fn compare(&self, place: &str, method: &str, expected: &[&str], response: &Response) {
        let body = String::from_utf8_lossy(&response.body);
        let (headers, lines): (Vec<&str>, Vec<&str>) =
            expected.iter().partition(|line| line.starts_with("< "));
        let status = headers[0].strip_prefix("< ").unwrap();
        assert_eq!(
            response.status.to_string(),
            status,
            "{place}: {response:?}\n{body}"
        );
        for header in &headers[1..] {
            let (name, value) = header.strip_prefix("< ").unwrap().split_once(": ").unwrap();
            let found = response.header(name);
            match value {
                "*" => assert!(found.is_some(), "{place}: {name} is missing"),
                "-" => assert_eq!(found, None, "{place}: {name}"),
                value => assert_eq!(found, Some(self.expand(value).as_str()), "{place}: {name}"),
            }
        }
        // What holds for every answer need not be said in every script. A 304 has no body, thus no
        // type of one.
        assert_eq!(
            response.header("content-type"),
            (response.status != 304).then_some("application/json"),
            "{place}"
        );
        assert_eq!(
            response.header("x-request-id").is_some(),
            response.status >= 400,
            "{place}"
        );
        if method != "HEAD" {
            let expected = self.expand(&lines.join("\n"));
            assert!(
                matches(&expected, &body),
                "{place}:\nexpected {expected}\nreceived {body}"
            );
            if response.status >= 400 {
                let error: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
                assert_eq!(error["code"], response.status, "{place}");
                assert_eq!(
                    error["request_id"],
                    response.header("x-request-id").unwrap(),
                    "{place}"
                );
            }
        }
    }

    /// The text with its macros written out; `<any>` stays.
    fn expand(&self, text: &str) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            expanded += &rest[..start];
            rest = &rest[start..];
            let end = rest.find('>').map_or(rest.len(), |end| end + 1);
            match self.macro_text(rest[1..].get(..end.saturating_sub(2)).unwrap_or("")) {
                Some(value) => {
                    expanded += &value;
                    rest = &rest[end..];
                }
                None => {
                    expanded.push('<');
                    rest = &rest[1..];
                }
            }
        }
        expanded + rest
    }

    fn macro_text(&self, name: &str) -> Option<String> {
        if name == "sub" {
            return Some(self.sub.clone());
        }
        if name == "jwt" {
            return self.token.clone();
        }
        if let Some(offset) = name.strip_prefix("n+") {
            return Some((self.base + offset.parse::<u64>().ok()?).to_string());
        }
        if let Some(offset) = name.strip_prefix("now") {
            return Some(
                (self
                    .now_seconds()
                    .checked_add_signed(offset.parse().ok()?)?)
                .to_string(),
            );
        }
        let (text, count) = name.split_once('*')?;
        Some(text.repeat(count.parse().ok()?))
    }
}

/// Whether the text is the pattern, in which `<any>` stands for any text without a quotation mark.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once("<any>") else {
        return pattern == text;
    };
    let Some(rest) = text.strip_prefix(head) else {
        return false;
    };
    let wild = rest.find('"').unwrap_or(rest.len());
    (0..=wild).any(|end| rest.is_char_boundary(end) && matches(tail, &rest[end..]))
}
