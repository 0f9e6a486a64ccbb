//! The tools of the binary, run on data dirs that nobody serves, and data dirs to run them on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::Client;
use super::process::Process;

/// How a tool ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) log: String,
}

/// Runs `ekokv` with these arguments to its end.
pub(crate) fn ekokv(arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_ekokv"))
        .args(arguments)
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        log: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Every file below a directory with its bytes, and every directory.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                all.insert(name + "/", Vec::new());
                dirs.push(path);
            } else {
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// Makes a directory hold these files, and nothing else.
pub(crate) fn put_back(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).unwrap();
    for (name, bytes) in files {
        let path = dir.join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

/// The names of the segments, or of the snapshots, ascending.
pub(crate) fn names(files: &BTreeMap<String, Vec<u8>>, suffix: &str) -> Vec<String> {
    let names = files.keys().filter(|name| name.ends_with(suffix));
    names.cloned().collect()
}

/// A client with a token that asserts that what it asks for is done.
pub(crate) struct Session {
    client: Client,
    bearer: String,
}

impl Session {
    pub(crate) fn new(process: &Process) -> Self {
        Self {
            client: Client::new(process.address),
            bearer: format!("Bearer {}", process.token()),
        }
    }

    /// The body of the answer, which must be 200.
    pub(crate) fn call(&mut self, method: &str, target: &str, body: &str) -> String {
        let headers = [("Authorization", self.bearer.as_str())];
        let answer = self
            .client
            .request(method, target, &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{method} {target}: {answer:?}");
        answer.text()
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.call("POST", &format!("/api/kv/set/{key}"), value);
    }

    pub(crate) fn compact(&mut self) {
        self.call("POST", "/api/admin/compact", "");
    }
}

/// A value of some 3 KB, so that a few dozen make several blocks of a snapshot.
pub(crate) fn long_value(tag: &str) -> String {
    format!("\"{tag}:{}\"", tag.repeat(3_000 / tag.len()))
}

/// A store that was stopped in order, with two snapshots and something in the log behind each: `a:` in the
/// older snapshot, `b:` between them, `c:` behind the newer one.
pub(crate) fn two_generations(dir: &Path) {
    let mut process = Process::start(dir, &[]);
    let mut session = Session::new(&process);
    for index in 0..120 {
        session.set(&format!("a:{index:03}"), &long_value(&format!("a{index}")));
    }
    session.compact();
    session.set("b:twice", "\"old\"");
    for index in 0..20 {
        session.set(&format!("b:{index:03}"), &format!("{{\"value\": {index}}}"));
    }
    session.set("b:twice", "\"new\"");
    for index in 0..10 {
        session.set(&format!("a:{:03}", index * 12), "\"changed\"");
        session.call(
            "DELETE",
            &format!("/api/kv/delete/a:{:03}", index * 12 + 5),
            "",
        );
    }
    session.call(
        "POST",
        "/api/kv/a:001/links/users/7",
        r#"{"metadata": [1, 2]}"#,
    );
    session.compact();
    for index in 0..20 {
        session.set(&format!("c:{index:03}"), &format!("[{index}]"));
    }
    session.call("DELETE", "/api/kv/delete/a:002", "");
    drop(session);
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
}
