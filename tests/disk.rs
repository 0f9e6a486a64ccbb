//! Rows of the failures that ekokv answers for, one by one, with the store on the simulated disk: a lock
//! that is lost, a file system that cannot, a failed sync, no space for a spare, and a sync that stalls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod sim;

use std::future::{Future, poll_fn};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use ekokv::auth::Tokens;
use ekokv::clock::ManualClock;
use ekokv::config::Config;
use ekokv::http::{App, service};
use ekokv::store::{Command, Durability, Error, Failure, Opened, Options, Store};
use ekokv_wal::{Disk, SimDisk, SimFault};
use http_body_util::Full;
use hyper::Request;
use hyper::service::Service;
use sim::{batch_set, get, open, options, runtime, set, stop, versions};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

const OPNOTSUPP: i32 = 95;

fn call(store: &Store, command: Command) -> Result<u64, Error> {
    let reply = runtime().block_on(store.call(command));
    reply.map(|reply| reply.sequence)
}

/// Counts from now on.
fn count_log_syncs(disk: &SimDisk) -> Arc<AtomicUsize> {
    let syncs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&syncs);
    disk.interfere(move |call, path, _| {
        let is_log = call == "sync" && path.ends_with(".wal");
        count.fetch_add(usize::from(is_log), Ordering::SeqCst);
        None
    });
    syncs
}

#[test]
fn row_30_a_lost_lock_stops_the_store_and_nothing_is_written_any_more() {
    let disk = SimDisk::new();
    let Opened { store, threads, .. } = open(&disk, Durability::Always);
    let syncs = count_log_syncs(&disk);
    call(&store, set("k", 1)).unwrap();
    // Its own, and that of the seal behind it: then there is nothing left to write.
    while syncs.load(Ordering::SeqCst) < 2 {
        std::thread::yield_now();
    }
    let segment = "wal/00000000000000000001.wal";
    let written = disk.content(segment);
    disk.lose_lock();
    let failure = runtime().block_on(store.failed());
    assert!(matches!(&failure, Failure::Storage(text) if text.contains("moved or replaced")));
    assert_eq!(call(&store, set("k", 2)), Err(Error::OutcomeUnknown));
    drop(store);
    assert_eq!(threads.stop(), Err(failure));
    // Not even a seal: another process may be writing there.
    assert!(disk.content(segment) == written);
}

#[test]
fn row_30_a_lock_that_cannot_be_looked_at_is_no_lost_one() {
    let disk = SimDisk::new();
    let looked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&looked);
    disk.inject(move |call, _, _| {
        let looks = call == "in_place";
        count.fetch_add(usize::from(looks), Ordering::SeqCst);
        looks.then_some(ErrorKind::PermissionDenied)
    });
    let opened = open(&disk, Durability::Always);
    while looked.load(Ordering::SeqCst) < 2 {
        std::thread::yield_now();
    }
    call(&opened.store, set("k", 1)).unwrap();
    stop(opened);
}

#[test]
fn row_25a_a_rescue_that_finds_no_room_is_not_forgotten() {
    let disk = SimDisk::new();
    let mut scrubbed = options(Durability::Always);
    scrubbed.scrub.pause = Duration::ZERO;
    let opened = Store::open_on(scrubbed, Arc::new(disk.clone())).unwrap();
    let store = &opened.store;
    let promised = call(store, set("k", 100)).unwrap();
    let compact = || runtime().block_on(store.compact());
    let newest = format!("snapshots/{:020}.snap", compact().unwrap());
    disk.inject(|call, path, _| {
        let rescue = call == "create" && path == "snapshots/rescue.tmp";
        rescue.then_some(ErrorKind::StorageFull)
    });
    let mut content = disk.content(&newest).unwrap();
    content[200] ^= 1;
    disk.set_content(&newest, content);
    while store.health().integrity_ok {
        std::thread::yield_now();
    }
    assert!(matches!(compact(), Err(Error::NotCompacted { .. })));
    assert!(!store.health().integrity_ok);
    disk.inject(|_, _, _| None);
    // Nothing was logged since the snapshot, and yet there is something to do.
    compact().unwrap();
    assert!(store.health().integrity_ok);
    stop(opened);
    let opened = open(&disk, Durability::Always);
    assert!(!opened.store.health().degraded);
    assert_eq!(versions(&opened.store)["k"], promised);
    stop(opened);
}

#[test]
fn a_segment_that_is_full_is_ended_without_another_write() {
    for writes in 1..=20 {
        let disk = SimDisk::new();
        let opened = open(&disk, Durability::Always);
        for number in 0..writes {
            // The next segment may not be ready yet.
            while call(&opened.store, set(&format!("k{number}"), 3_300)).is_err() {
                std::thread::yield_now();
            }
        }
        let compacted = runtime().block_on(opened.store.compact());
        assert!(compacted.is_ok(), "{writes} writes: {compacted:?}");
        stop(opened);
    }
}

#[test]
fn row_37_a_full_disk_has_room_for_a_compaction_of_the_smallest_values() {
    let disk = SimDisk::new();
    let opened = open(&disk, Durability::Os);
    let store = &opened.store;
    disk.set_capacity(Some(2 << 20));
    let runtime = runtime();
    let compact = || runtime.block_on(store.compact());
    let names = |serial: u64| -> Vec<String> {
        let name = |n| format!("{:x}", serial * 10 + n);
        (0..10).map(name).collect()
    };
    let mut serial = 0;
    let mut full = false;
    loop {
        let mut group = JoinSet::new();
        for serial in serial..serial + 60 {
            let names = names(serial);
            let keys: Vec<&str> = names.iter().map(String::as_str).collect();
            let (store, command) = (store.clone(), batch_set(&keys, 1));
            group.spawn_on(async move { store.call(command).await }, runtime.handle());
        }
        let answers = runtime.block_on(group.join_all());
        serial += answers.iter().filter(|answer| answer.is_ok()).count() as u64;
        if answers
            .iter()
            .any(|answer| matches!(answer, Err(Error::SpaceFull { .. })))
        {
            let compacted = compact();
            assert!(compacted.is_ok(), "{serial} batches: {compacted:?}");
            // Not even now?
            if full {
                break;
            }
            full = true;
        } else {
            full = false;
        }
    }
    println!("row 37: {serial} batches of 10 keys of one byte fill 2 MiB");
    // How many share a block of 4 KiB is a matter of scheduling; alone in theirs, some 400 would fit.
    assert!(serial > 200, "{serial}");
    while call(store, set("last", 1)).is_err() {
        call(store, Command::Clear).unwrap();
        compact().unwrap();
    }
    stop(opened);
}

#[test]
fn row_33_a_file_system_that_cannot_do_what_is_needed_ends_with_78_and_says_so() {
    for cannot in ["lock", "rename", "sync", "sync_dir"] {
        for store_is_there in [false, true] {
            let disk = SimDisk::new();
            if store_is_there {
                stop(open(&disk, Durability::Always));
            }
            disk.interfere(move |call, _, _| {
                (call == cannot).then_some(SimFault::Errno(OPNOTSUPP))
            });
            let opened = Store::open_on(options(Durability::Always), Arc::new(disk.clone()));
            match opened.map(stop) {
                Err(Failure::Settings(text)) => {
                    assert!(text.contains("file system cannot"), "{cannot}: {text}");
                    assert!(text.contains("--data-dir"), "{cannot}: {text}");
                }
                other => panic!("{cannot}: {other:?}"),
            }
            // Once it can, it starts.
            disk.interfere(|_, _, _| None);
            stop(open(&disk, Durability::Always));
        }
    }
}

#[test]
fn row_34_a_sync_that_fails_once_is_never_tried_again() {
    let disk = SimDisk::new();
    let Opened { store, threads, .. } = open(&disk, Durability::Always);
    let promised = call(&store, set("k", 1)).unwrap();
    let syncs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&syncs);
    disk.interfere(move |call, path, _| {
        let is_log = call == "sync" && path.ends_with(".wal");
        // Every later one would succeed.
        (is_log && count.fetch_add(1, Ordering::SeqCst) == 0).then_some(SimFault::Errno(5))
    });
    assert_eq!(call(&store, set("k", 2)), Err(Error::OutcomeUnknown));
    for _ in 0..3 {
        assert_eq!(call(&store, set("k", 3)), Err(Error::OutcomeUnknown));
    }
    drop(store);
    assert!(matches!(threads.stop(), Err(Failure::Storage(_))));
    assert_eq!(syncs.load(Ordering::SeqCst), 1);
    let opened = open(&disk.power_cut(|_, _| 0, 0), Durability::Always);
    assert_eq!(versions(&opened.store)["k"], promised);
    stop(opened);
}

#[test]
fn row_36_a_start_without_any_room_says_so_and_the_next_one_has_all() {
    let disk = SimDisk::new();
    let opened = open(&disk, Durability::Always);
    let promised = call(&opened.store, set("k", 1)).unwrap();
    stop(opened);
    disk.set_capacity(Some(0));
    let refused = Store::open_on(options(Durability::Always), Arc::new(disk.clone()));
    let failure = refused.map(|_| ()).unwrap_err();
    assert!(
        matches!(&failure, Failure::Storage(text) if text.contains("is full: fill wal/next.tmp")),
        "{failure}"
    );
    disk.set_capacity(None);
    let opened = open(&disk, Durability::Always);
    assert_eq!(versions(&opened.store)["k"], promised);
    stop(opened);
}

#[test]
fn row_41_no_space_for_a_spare_refuses_writes_and_serving_resumes_by_itself() {
    let disk = SimDisk::new();
    let opened = open(&disk, Durability::Always);
    let store = &opened.store;
    let mut promised = call(store, set("first", 1)).unwrap();
    // What is taken by now, and less than another segment.
    disk.set_capacity(Some(1 << 30));
    let taken = (1 << 30) - disk.free_bytes().unwrap();
    disk.set_capacity(Some(taken + (32 << 10)));
    let mut number = 0;
    let refused = loop {
        match call(store, set(&format!("k{number}"), 3_000)) {
            Ok(sequence) => promised = sequence,
            // The spare may have been ready when space went, or be under way.
            Err(error) if store.health().degraded => break error,
            Err(_) => std::thread::yield_now(),
        }
        number += 1;
        assert!(number < 1_000_000, "it never ends");
    };
    assert_ne!(refused, Error::OutcomeUnknown);
    assert!(store.health().integrity_ok);
    // Reads go on.
    call(store, get("first")).unwrap();
    disk.set_capacity(None);
    let resumed = loop {
        match call(store, set("last", 3_000)) {
            Ok(sequence) => break sequence,
            Err(error) => assert_ne!(error, Error::OutcomeUnknown),
        }
    };
    assert!(resumed > promised);
    stop(opened);
}

#[test]
fn row_44_while_a_sync_stalls_nothing_is_acknowledged_and_quiet_keys_are_read() {
    let disk = SimDisk::new();
    let opened = open(&disk, Durability::Always);
    let store = &opened.store;
    call(store, set("quiet", 1)).unwrap();
    disk.hold_syncs("wal/0");
    let acknowledged = runtime().block_on(async {
        let mut waiting = JoinSet::new();
        let ask = |waiting: &mut JoinSet<_>, command: Command| {
            let store = store.clone();
            waiting.spawn(async move { store.call(command).await });
        };
        ask(&mut waiting, set("busy", 1));
        ask(&mut waiting, get("busy"));
        tokio::task::yield_now().await;
        let held = disk.clone();
        tokio::task::spawn_blocking(move || held.wait_for_held_syncs(1))
            .await
            .unwrap();
        store.call(get("quiet")).await.unwrap();

        // As many as the frame takes wait; the first that is answered is one too many.
        let busy = loop {
            ask(&mut waiting, set("more", 3_000));
            tokio::task::yield_now().await;
            match waiting.try_join_next() {
                Some(answer) => break answer.unwrap(),
                None => store.call(get("quiet")).await.unwrap(),
            };
        };
        assert!(matches!(busy, Err(Error::Busy { .. })), "{busy:?}");
        let waited = waiting.len();
        assert!(waited > 3 && waited < 100, "{waited}");
        assert!(!store.health().degraded);

        disk.let_syncs_go();
        let mut acknowledged = 0;
        while let Some(answer) = waiting.join_next().await {
            match answer.unwrap() {
                Ok(_) => acknowledged += 1,
                Err(error) => assert!(matches!(error, Error::Busy { .. }), "{error}"),
            }
        }
        acknowledged
    });
    assert!(acknowledged > 3, "{acknowledged}");
    println!("row 44: {acknowledged} answers waited for one stalled sync, none came early");
    stop(opened);
}

#[test]
fn row_44_over_http_a_get_of_what_is_not_synced_waits_for_it() {
    let disk = SimDisk::new();
    let opened = open(&disk, Durability::Always);
    let store = &opened.store;
    let now_ms = 1_000_000;
    let app = App::new(&Config::default(), Arc::new(ManualClock::new(now_ms)));
    app.serve(store.clone(), &opened.jwt_secret);
    let app = Arc::new(app);
    let keyring = store.keyring();
    let api_key = keyring.api_keys.values().next().unwrap();
    let tokens = Tokens::new(&opened.jwt_secret, Duration::from_secs(60));
    let token = tokens.issue(api_key, now_ms).unwrap();
    let read = || {
        let request =
            Request::get("/api/kv/get/busy").header("authorization", format!("Bearer {token}"));
        let connection = service(Arc::clone(&app), SocketAddr::from(([127, 0, 0, 1], 1)));
        Box::pin(connection.call(request.body(Full::<Bytes>::default()).unwrap()))
    };
    runtime().block_on(async {
        disk.hold_syncs("wal/0");
        let writer = store.clone();
        let written = tokio::spawn(async move { writer.call(set("busy", 1)).await });
        let held = disk.clone();
        let waits = move || held.wait_for_held_syncs(1);
        tokio::task::spawn_blocking(waits).await.unwrap();
        let (mut leaves, mut stays) = (read(), read());
        for reader in [&mut leaves, &mut stays] {
            let polled = poll_fn(|context| Poll::Ready(reader.as_mut().poll(context)));
            assert!(polled.await.is_pending());
        }
        // Its client has gone.
        drop(leaves);
        disk.let_syncs_go();
        let answer = stays.await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let version = written.await.unwrap().unwrap().sequence;
        assert_eq!(answer.headers()["etag"], format!("\"{version}\""));
    });
    drop(app);
    stop(opened);
}

#[test]
fn row_44_while_a_lone_writers_sync_stalls_others_are_served() {
    let disk = SimDisk::new();
    let workers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("handler")
        .enable_all()
        .build()
        .unwrap();
    let options = Options {
        workers: Some(workers.handle().clone()),
        ..options(Durability::Always)
    };
    let opened = Store::open_on(options, Arc::new(disk.clone())).unwrap();
    let syncs_of_handlers = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&syncs_of_handlers);
    disk.interfere(move |call, _, _| {
        let is_handlers = std::thread::current().name() == Some("handler");
        count.fetch_add(usize::from(call == "sync" && is_handlers), Ordering::SeqCst);
        None
    });
    // Again and again, for the other worker may happen to look after the sockets already.
    for round in 0..20 {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let store = opened.store.clone();
        let (served, serving) = std::sync::mpsc::channel();
        let (listens, listening) = tokio::sync::oneshot::channel();
        let other = workers.spawn(async move {
            let mut theirs = tokio::net::UnixStream::from_std(theirs).unwrap();
            listens.send(()).unwrap();
            let asked = theirs.read_u8().await;
            let answer = tokio::select! {
                biased;
                _ = store.call(get("alone")) => panic!("what is not synced is shown"),
                answer = store.call(get("quiet")) => answer,
            };
            let _ = served.send((asked, answer));
        });
        let store = opened.store.clone();
        let held = disk.clone();
        let stalled = workers.spawn(async move {
            listening.await.unwrap();
            // Alone for a while, it commits itself. The next segment may not be ready yet.
            for _ in 0..5 {
                let _ = store.call(set("alone", 1)).await;
            }
            // The committer has gone to sleep, and so has one of the workers.
            tokio::time::sleep(Duration::from_millis(5)).await;
            held.hold_syncs("wal/0");
            while let Err(error) = store.call(set("alone", 1)).await {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                tokio::task::yield_now().await;
            }
        });
        disk.wait_for_held_syncs(1);
        ours.write_all(b"?").unwrap();
        let answer = serving.recv_timeout(Duration::from_secs(60));
        let is_stalled = !stalled.is_finished();
        disk.let_syncs_go();
        assert!(
            matches!(answer, Ok((Ok(b'?'), Ok(_)))),
            "round {round}: {answer:?}"
        );
        assert!(is_stalled);
        workers.block_on(async {
            stalled.await.unwrap();
            other.await.unwrap();
        });
    }
    assert!(syncs_of_handlers.load(Ordering::SeqCst) > 0);
    stop(opened);
}
