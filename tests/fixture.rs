//! T13: a data dir of format version 1, kept in the repository, that every later version must open.
//!
//! `tests/fixtures/data-dir-v1` was written by the story below, with
//! `EKOKV_TEST_FIXTURE=tests/fixtures/data-dir-v1 cargo test --test fixture`. A version that changes a
//! format adds a fixture of its own; this one stays as it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// What two of the modules below share.
#![allow(clippy::duplicate_mod)]

mod common;
mod proof;
mod sim;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use common::server::DataDir;
use ekokv::clock::ManualClock;
use ekokv::state::{Form, KeptRef, Role, State};
use ekokv::store::{Command, Durability, Options, Store, proving};
use ekokv_wal::RealDisk;
use proof::story::{RETENTION, Story};
use sim::{batch_set, options, stop, versions};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/data-dir-v1");
const LISTING: &str = include_str!("fixtures/data-dir-v1.ndjson");
const ADMIN_KEY: &str = "an admin key for a fixture, known to all";
/// The story's clock when it ended.
const END_MS: u64 = 1_710_000;
const FILES_BYTES_MAX: usize = 300 << 10;

/// All kinds of entries and changes, two generations, segments behind them, and a kill: batches that
/// were written again.
fn tell() -> Story {
    let mut story = Story::begin(Durability::Always);
    story.set("cleared", "not there any more");
    story.set_for("cleared too", "not there any more", 1_000);
    story.link("cleared", "1", None);
    story.pass(2_000);
    story.compact();
    story.call(Command::Clear);
    story.set("name", "ekokv");
    story.set("ключ", "значение");
    story.set_for("deadline", "some day", 100_000_000_000);
    story.set_for("first", "remembered", 700_000);
    story.set_for("forgotten", "not there any more", 500);
    story.link("name", "1", Some("{\"since\":1}"));
    story.link("name", "2", None);
    story.link("name", "3", Some("null"));
    story.pass(2_000);
    story.pass(699_000);
    story.compact();
    story.call(batch_set(&["b1", "b2", "b3"], 400));
    story.unlink("name", "3");
    story.delete("b2");
    story.restart(Some(ADMIN_KEY));
    story.set("name", "ekokv, linked");
    story.link("ключ", "4", Some("[29.990,1e400]"));
    story.set_for("second", "remembered too", 3_000);
    story.set_for("forgotten", "not there any more", 500);
    story.pass(7_000);
    story.kill();
    story.delete("b3");
    story.set("last", "of all");
    story
}

/// What a state holds, a line for each key.
fn listing(state: &State) -> String {
    let mut out = String::new();
    for (key, kept) in state.kept_after(None) {
        match kept {
            KeptRef::Live(entry) => {
                let value = std::str::from_utf8(&entry.value).unwrap();
                let form = match entry.form {
                    Form::Bare => "bare",
                    Form::Envelope => "envelope",
                };
                write!(
                    out,
                    "{{\"key\":{key:?},\"version\":{},\"form\":\"{form}\",\"value\":{value}",
                    entry.version
                )
                .unwrap();
                if let Some(deadline) = entry.deadline {
                    write!(out, ",\"deadline\":{deadline}").unwrap();
                }
                for link in entry.links.as_slice() {
                    let metadata = link.metadata.as_deref().unwrap_or(b"{}");
                    write!(
                        out,
                        ",\"{}/{}\":[{},{}]",
                        link.collection,
                        link.record_id,
                        link.created_at,
                        std::str::from_utf8(metadata).unwrap()
                    )
                    .unwrap();
                }
                out.push_str("}\n");
            }
            KeptRef::Remembered { deadline, version } => writeln!(
                out,
                "{{\"key\":{key:?},\"version\":{version},\"expired\":{deadline}}}"
            )
            .unwrap(),
        }
    }
    out
}

fn retention_ms() -> u64 {
    RETENTION.as_millis() as u64
}

#[test]
fn the_story_of_the_fixture_still_ends_as_it_did() {
    let disk = tell().close();
    let standing = proving::read(&disk, retention_ms()).unwrap().unwrap();
    assert_eq!(listing(standing.state()), LISTING);
    let kept: Vec<(String, Vec<u8>)> = disk
        .paths()
        .into_iter()
        .filter(|path| path != "lock" && !path.ends_with(".tmp"))
        .map(|path| (path.clone(), disk.content(&path).unwrap()))
        .collect();
    let bytes: usize = kept.iter().map(|(_, content)| content.len()).sum();
    assert!(bytes < FILES_BYTES_MAX, "{bytes} bytes");
    if let Ok(dir) = std::env::var("EKOKV_TEST_FIXTURE") {
        for (path, content) in kept {
            let path = Path::new(&dir).join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

/// A copy of the fixture.
fn copied() -> DataDir {
    let dir = DataDir::new();
    copy(Path::new(FIXTURE), dir.path());
    dir
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn options_of(dir: &DataDir) -> Options {
    Options {
        data_dir: dir.path().to_owned(),
        expired_retention: RETENTION,
        clock: Arc::new(ManualClock::new(END_MS)),
        ..options(Durability::Always)
    }
}

fn listing_of(dir: &DataDir) -> String {
    let disk = RealDisk::open(dir.path()).unwrap();
    let standing = proving::read(&disk, retention_ms()).unwrap().unwrap();
    assert!(standing.broken().is_empty() && standing.older_unusable().is_none());
    listing(standing.state())
}

/// Opens a data dir, compacts it, and lists it after each.
fn open_and_compact(dir: &DataDir) {
    let opened = Store::open(options_of(dir)).unwrap();
    let health = opened.store.health();
    assert!(health.integrity_ok && !health.degraded);
    let keyring = opened.store.keyring();
    assert_eq!(keyring.authenticate(ADMIN_KEY).unwrap().role, Role::Admin);
    assert_eq!(opened.jwt_secret.len(), 64, "the one that was there");
    let live = LISTING.lines().filter(|line| !line.contains("\"expired\""));
    assert_eq!(versions(&opened.store).len(), live.count());
    sim::runtime().block_on(opened.store.compact()).unwrap();
    stop(opened);
    assert_eq!(listing_of(dir), LISTING, "compacted by this version");
}

#[test]
fn row_17_a_data_dir_of_version_1_opens_with_all_that_it_held() {
    let dir = copied();
    assert_eq!(listing_of(&dir), LISTING);
    open_and_compact(&dir);
}

#[test]
fn the_older_generation_of_version_1_serves_when_the_newest_is_gone() {
    let dir = copied();
    let snapshots = dir.path().join("snapshots");
    let mut names: Vec<_> = std::fs::read_dir(&snapshots).unwrap().collect();
    assert_eq!(names.len(), 2);
    names.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
    std::fs::remove_file(names[1].as_ref().unwrap().path()).unwrap();
    assert_eq!(listing_of(&dir), LISTING);
    open_and_compact(&dir);
}
