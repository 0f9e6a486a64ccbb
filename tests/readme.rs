//! What the README tells a newcomer to paste works when it is pasted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::server::DataDir;

const README: &str = include_str!("../README.md");

struct Started {
    child: Child,
    address: String,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A first start with its data in `data` below `dir`, as the README has it.
fn start(dir: &Path) -> Started {
    fs::create_dir_all(dir).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ekokv"))
        .args(["--listen", "127.0.0.1:0"])
        .current_dir(dir)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let address = lines
        .by_ref()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok())
        .find(|event| event["fields"]["message"] == "ready")
        .and_then(|event| event["fields"]["address"].as_str().map(str::to_owned))
        .unwrap();
    // Reads on, so that the process never waits for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    Started { child, address }
}

fn shell(script: &str, dir: &Path, base_url: &str) -> String {
    let output = Command::new("bash")
        .args(["-eu", "-c", script])
        .current_dir(dir)
        .env("EKOKV", base_url)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_first_session_of_the_readme_answers_what_it_says() {
    let dir = DataDir::new();
    let started = start(dir.path());
    let script = README
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .find(|block| block.contains("TOKEN="))
        .unwrap();
    // An answer stands as a comment behind its call; other comments stand before one.
    let mut runnable = String::new();
    let mut expected = Vec::new();
    let mut after_call = false;
    for line in script.lines() {
        if let (true, Some(answer)) = (after_call, line.strip_prefix("# ")) {
            expected.push(answer);
        }
        after_call = line.starts_with("curl ");
        runnable.push_str(line);
        runnable.push_str(if after_call { "; echo\n" } else { "\n" });
    }
    assert!(
        expected.len() >= 8,
        "{} answers in the README",
        expected.len()
    );
    let answers = shell(
        &runnable,
        dir.path(),
        &format!("http://{}", started.address),
    );
    assert_eq!(answers.lines().collect::<Vec<_>>(), expected);
}
