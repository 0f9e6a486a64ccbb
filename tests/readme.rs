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

/// A call ends with a line feed, as a prompt on a new line shows it; the scripts are left as they are.
const PRELUDE: &str = "curl() { command curl \"$@\" && echo; }\n";

/// What a script prints, but for empty lines.
fn shell(script: &str, dir: &Path, base_url: &str) -> Vec<String> {
    let output = Command::new("bash")
        .args(["-eu", "-o", "pipefail", "-c"])
        .arg(format!("{PRELUDE}{script}"))
        .current_dir(dir)
        .env("EKOKV", base_url)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script}\nprints\n{printed}\nand says\n{complaints}"
    );
    let lines = printed.lines().filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

/// The shell scripts that talk to a server, each with the heading above it.
fn scripts() -> Vec<(&'static str, &'static str)> {
    let mut heading = "";
    let mut scripts = Vec::new();
    // Between fences, every other part is code.
    for (index, part) in README.split("```").enumerate() {
        if index % 2 == 0 {
            let above = part.lines().rev().find(|line| line.starts_with('#'));
            heading = above.unwrap_or(heading);
        } else if let Some(script) = part
            .strip_prefix("sh\n")
            .filter(|code| code.contains("curl"))
        {
            scripts.push((heading, script));
        }
    }
    scripts
}

/// The answers that a script promises: comments right behind a command. Others explain what comes.
fn answers(script: &str) -> Vec<&str> {
    let mut answers = Vec::new();
    let mut is_behind_command = false;
    for line in script.lines() {
        match line.strip_prefix("# ") {
            Some(answer) if is_behind_command => answers.push(answer),
            Some(_) => {}
            None => is_behind_command = !line.is_empty(),
        }
    }
    answers
}

#[test]
fn the_scripts_of_the_readme_answer_what_they_say() {
    let dir = DataDir::new();
    let started = start(dir.path());
    let base_url = format!("http://{}", started.address);
    let scripts = scripts();
    let headings: Vec<_> = scripts.iter().map(|(heading, _)| *heading).collect();
    let expected = [
        "## A first session",
        "### Sessions",
        "### Caching",
        "### Feature flags",
        "### A counter",
        "### Prefixes",
    ];
    assert_eq!(headings, expected);

    // Others go on from the first, but in a shell of their own: they share nothing but the token.
    let (_, first) = scripts[0];
    let (token, _) = first.split_once("\ncurl ").unwrap();
    assert!(
        token.contains("TOKEN=") && token.contains("AUTH="),
        "{token}"
    );
    for (index, (heading, script)) in scripts.iter().enumerate() {
        let whole = if index == 0 {
            (*script).to_owned()
        } else {
            format!("{token}\n{script}")
        };
        let expected = answers(script);
        assert!(
            expected.len() >= 3,
            "{heading} has {} answers",
            expected.len()
        );
        assert_eq!(shell(&whole, dir.path(), &base_url), expected, "{heading}");
    }
}

#[test]
fn an_answer_is_a_comment_right_behind_a_command() {
    let script = "# Why.\ncurl a \\\n  -d b\n# 1\n# 2\n\n# Why.\nA=1\n\n# Why.\ncurl c\n# 3\n";
    assert_eq!(answers(script), ["1", "2", "3"]);
}
