//! Compaction without its thread: a log on the simulated disk, the state that was served, and the files
//! that are made of it.

use ekokv_wal::{Draft, Log, Mode, SimDisk, push_record};

use super::build::Order;
use super::*;
use crate::state::{Fingerprint, Form, Mutation, Recorded, Role, State};
use crate::store::frame::OpenFrame;
use crate::store::recovery::{self, Loaded, LoadedStore};
use crate::store::snapshot::{Bad, DIR, Header, Writer, load, path_of, verify};

const SEGMENT_BYTES: u64 = 64 << 10;
const RETENTION_MS: u64 = 1_000;
const TIME: u64 = 5_000;

/// What a store has come to after so many calls on its disk.
struct Mark {
    calls: usize,
    fingerprint: Fingerprint,
}

/// Owner, committer and compactor, played by hand.
struct Bench {
    disk: SimDisk,
    log: Log,
    state: State,
    generations: Generations,
    shared: Arc<Shared>,
    marks: Vec<Mark>,
}

fn put(key: &str) -> Mutation<'_> {
    Mutation::Put {
        key,
        value: format!("\"{}\"", key.repeat(20)).leak().as_bytes().into(),
        form: Form::Envelope,
        deadline: None,
    }
}

fn link(key: &str) -> Mutation<'_> {
    Mutation::Link {
        key,
        collection: "users",
        record_id: "1",
        metadata: None,
        created_at: TIME,
    }
}

impl Bench {
    fn new() -> Self {
        let salt = std::sync::atomic::AtomicU64::new(1);
        let options = ekokv_wal::Options {
            segment_bytes: SEGMENT_BYTES,
            first_segment_bytes: SEGMENT_BYTES,
            mode: Mode::Always,
            random: Arc::new(move || {
                Ok(u128::from(salt.fetch_add(1, Ordering::Relaxed)).to_le_bytes())
            }),
        };
        let disk = SimDisk::new();
        let first = [
            Mutation::HashingKey {
                hashing_key: [7; 32],
            },
            Mutation::ApiKey {
                id: "admin",
                role: Role::Admin,
                digest: [9; 32],
            },
        ];
        let mut state = State::new(RETENTION_MS);
        let records = applied(&mut state, 1, &first);
        let draft = Draft {
            count: first.len() as u32,
            time: TIME,
            records: &records,
        };
        let on = Arc::new(disk.clone());
        let log = Log::create(on, options, |_| Ok(()), draft).unwrap();
        let frame = OpenFrame::new(0, SEGMENT_BYTES / 4);
        let keyring = state.keyring().clone();
        let shared = Shared::new(frame, log.shared_room(), log.spares(), keyring, false);
        let mut bench = Self {
            disk,
            log,
            state,
            generations: Generations::default(),
            shared: Arc::new(shared),
            marks: Vec::new(),
        };
        bench.mark();
        bench
    }

    fn mark(&mut self) {
        self.marks.push(Mark {
            calls: self.disk.recorded(),
            fingerprint: self.state.fingerprint(),
        });
    }

    /// One synced batch.
    fn change(&mut self, mutations: &[Mutation<'_>]) {
        let first = self.log.position().sequence + 1;
        let records = applied(&mut self.state, first, mutations);
        let draft = Draft {
            count: mutations.len() as u32,
            time: TIME,
            records: &records,
        };
        self.log.append(draft).unwrap();
        self.log.sync().unwrap();
        self.mark();
    }

    /// Ends the segment.
    fn rotate(&mut self) -> ekokv_wal::Predecessor {
        self.log.rotate_now(TIME).unwrap().unwrap()
    }

    /// A snapshot at `to` out of the one at `base` and the log behind `from`.
    fn build(
        &self,
        base: Option<&str>,
        from: Option<ekokv_wal::Predecessor>,
        to: ekokv_wal::Predecessor,
        fingerprint: Fingerprint,
    ) -> Result<Generation, Trouble> {
        let mut order = Order {
            store_id: self.log.segment().store_id,
            from,
            to,
            time: TIME,
            fingerprint,
            memory_bytes_max: SEGMENT_BYTES,
            pace: &mut Pace::until(&self.shared, std::time::Duration::from_secs(60)),
        };
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        build(&disk, base, &mut order)
    }

    /// Folds all into a snapshot and retires what two generations do not need.
    fn compact(&mut self) {
        let to = self.rotate();
        let base = self.generations.newest().copied();
        let path = base.map(|base| base.path());
        let from = base.map(|base| base.end);
        let made = self.build(path.as_deref(), from, to, self.state.fingerprint());
        self.generations.publish(made.unwrap());
        self.generations.retire(&self.disk, false).unwrap();
    }

    /// What a start reads.
    fn recovered(&self) -> Box<LoadedStore> {
        recovered(&self.disk).unwrap()
    }
}

/// The records of mutations, which are applied on the way.
fn applied(state: &mut State, first: u64, mutations: &[Mutation<'_>]) -> Vec<u8> {
    let mut records = Vec::new();
    for (sequence, mutation) in (first..).zip(mutations) {
        push_record(&mut records, |out| mutation.encode(out));
        let _ = state.apply(sequence, mutation);
        state.released(sequence);
    }
    records
}

fn recovered(disk: &SimDisk) -> Result<Box<LoadedStore>, String> {
    match recovery::read(disk, RETENTION_MS) {
        Ok(Loaded::Store(found)) => Ok(found),
        Ok(Loaded::Nothing) => Err("nothing is there".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Two generations, each with the log behind it, of keys that come, change and go.
fn two_generations() -> Bench {
    let mut bench = Bench::new();
    bench.change(&[put("a"), put("b"), put("c"), link("c"), put("d")]);
    bench.compact();
    bench.change(&[put("a"), Mutation::Delete { key: "b" }, put("e")]);
    bench.compact();
    bench.change(&[put("f"), Mutation::Delete { key: "d" }]);
    bench
}

#[test]
fn row_27_what_is_deleted_or_cleared_stays_so_in_every_later_snapshot() {
    let mut bench = Bench::new();
    bench.change(&[put("a"), put("b"), link("b")]);
    bench.compact();
    bench.change(&[Mutation::Delete { key: "a" }]);
    bench.compact();
    assert_eq!(bench.recovered().state.fingerprint().live, 1);
    bench.change(&[put("c")]);
    bench.change(&[Mutation::Clear, put("d")]);
    bench.compact();
    let found = bench.recovered();
    assert_eq!(found.state.fingerprint(), bench.state.fingerprint());
    let keys: Vec<&str> = found.state.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["d"]);
    assert_eq!(found.state.keyring(), bench.state.keyring());
}

#[test]
fn row_25a_slices_of_the_live_state_and_the_log_written_meanwhile_make_a_snapshot() {
    let mut bench = Bench::new();
    bench.change(&[put("a"), put("b"), link("b")]);
    let from = bench.rotate();
    let unlink = Mutation::Unlink {
        key: "b",
        collection: "users",
        record_id: "1",
    };
    bench.change(&[put("a"), Mutation::Delete { key: "a" }, put("a"), put("c")]);
    let header = Header {
        store_id: bench.log.segment().store_id,
        end: from,
        time: TIME,
    };
    let disk: Arc<dyn Disk> = Arc::new(bench.disk.clone());
    let mut writer = Writer::create(&disk, "slices", &header, bench.state.keyring()).unwrap();
    for (key, kept) in bench.state.kept_after(None) {
        writer
            .push(&Recorded::of(key.into(), kept.to_kept()))
            .unwrap();
    }
    writer.finish().unwrap();
    bench.change(&[put("a"), unlink, Mutation::Delete { key: "c" }, put("d")]);
    let to = bench.rotate();
    let live = bench.state.fingerprint();
    let made = bench.build(Some("slices"), Some(from), to, live);
    assert_eq!(made.unwrap().end, to);
    assert_eq!(bench.recovered().state.fingerprint(), live);
}

#[test]
fn row_26_a_snapshot_that_is_not_what_was_served_gets_no_name_and_nothing_goes() {
    let mut bench = two_generations();
    let live = bench.state.fingerprint();
    let to = bench.rotate();
    let names = bench.disk.paths();
    let base = bench.generations.newest().copied().unwrap();
    for wrong in [
        Fingerprint {
            digest: live.digest ^ 1,
            ..live
        },
        Fingerprint {
            live: live.live + 1,
            ..live
        },
    ] {
        let made = bench.build(Some(&base.path()), Some(base.end), to, wrong);
        assert!(matches!(made, Err(Trouble::Damage(_))), "{made:?}");
        assert_eq!(bench.disk.paths(), names);
        assert_eq!(bench.recovered().state.fingerprint(), live);
    }
    assert!(
        bench
            .build(Some(&base.path()), Some(base.end), to, live)
            .is_ok()
    );
}

#[test]
fn row_23_behind_a_damaged_newest_snapshot_the_older_generation_has_everything() {
    let bench = two_generations();
    let newest = bench.generations.newest().unwrap().path();
    let bytes = bench.disk.content(&newest).unwrap();
    let mut cases = 0;
    for at in 0..bytes.len() {
        let image = bench.disk.kill();
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        image.set_content(&newest, damaged);
        let found = recovered(&image).unwrap_or_else(|refusal| panic!("byte {at}: {refusal}"));
        let live = bench.state.fingerprint();
        assert_eq!(found.state.fingerprint(), live, "byte {at}");
        assert_eq!(found.broken.len(), 1, "byte {at}");
        cases += 1;
    }
    println!("the newest snapshot damaged in {cases} cases, each time the older one served");
}

#[test]
fn row_25_a_snapshot_whose_content_is_not_what_its_footer_names_is_damaged() {
    const FOOTER_BYTES: usize = 128;
    const DIGEST_AT: usize = 48;
    let bench = two_generations();
    let newest = bench.generations.newest().copied().unwrap();
    let mut bytes = bench.disk.content(&newest.path()).unwrap();
    // Its checksums agree with it: whoever wrote it had another content in mind.
    let seed = u32::from_le_bytes(bytes[124..128].try_into().unwrap());
    let footer = bytes.len() - FOOTER_BYTES;
    bytes[footer + DIGEST_AT] ^= 1;
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    crc.update(&bytes[footer..footer + FOOTER_BYTES - 4]);
    let crc = crc.finalize().to_le_bytes();
    bytes[footer + FOOTER_BYTES - 4..].copy_from_slice(&crc);
    bench.disk.set_content(&newest.path(), bytes);

    let disk: Arc<dyn Disk> = Arc::new(bench.disk.clone());
    let verified = verify(&disk, &newest.path(), &mut |_| true);
    let Err(Bad::Damaged(damage)) = verified else {
        panic!("{:?}", verified.map(|_| ()));
    };
    assert!(damage.reason.contains("footer names"), "{damage}");
    let store_id = bench.log.segment().store_id;
    let loaded = load(
        disk.as_ref(),
        &newest.path(),
        store_id,
        RETENTION_MS,
        &|_, _| {},
    );
    assert!(matches!(loaded, Err(Bad::Damaged(_))));
    let found = bench.recovered();
    assert_eq!(found.state.fingerprint(), bench.state.fingerprint());
    assert_eq!(found.broken.len(), 1);
}

#[test]
fn row_21_nothing_goes_before_the_names_that_a_start_found_are_durable() {
    let bench = two_generations();
    let newest = bench.generations.newest().unwrap().path();
    // A kill just behind the rename: the name is there, and a power cut may still take it.
    let killed = SimDisk::new();
    for call in bench.disk.take_recorded() {
        killed.play(&call);
        if matches!(&call, ekokv_wal::SimOp::Rename(_, to) if *to == newest) {
            break;
        }
    }
    let mut found = recovered(&killed).unwrap();
    let then = found.state.fingerprint();
    assert_eq!(found.generations.newest().unwrap().path(), newest);
    found.generations.retire(&killed, true).unwrap();
    // Sooner or later the log goes on in another segment.
    killed.sync_dir("wal").unwrap();
    let cut = recovered(&killed.power_cut(|_, _| 0, 0)).unwrap();
    assert_eq!(cut.state.fingerprint(), then);
}

#[test]
fn rows_18_20_21_a_power_cut_at_any_call_of_a_compaction_loses_nothing() {
    let mut bench = two_generations();
    bench.compact();
    bench.change(&[put("g")]);
    // Behind the last retirement the log goes on in another segment, as it does sooner or later.
    bench.compact();
    bench.change(&[put("h")]);
    let calls = bench.disk.take_recorded();
    let state = SimDisk::new();
    let mut images = 0;
    for (number, call) in calls.iter().enumerate() {
        state.play(call);
        let done = bench
            .marks
            .iter()
            .rposition(|mark| mark.calls <= number + 1);
        let Some(done) = done else { continue };
        // What was acknowledged, and what may have been written behind it.
        let allowed: Vec<Fingerprint> = bench.marks[done..]
            .iter()
            .take(2)
            .map(|mark| mark.fingerprint)
            .collect();
        for keep in [0, 1, usize::MAX] {
            for names in 0..=state.pending_names() {
                let image = state.power_cut(
                    |cell, length| match keep {
                        1 => length * (cell % 2),
                        keep => keep.min(length),
                    },
                    names,
                );
                let what = format!("cut after call {number} ({call:?}), {names} names kept");
                let found = recovered(&image).unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
                let found = found.state.fingerprint();
                assert!(allowed.contains(&found), "{what}: {found:?}");
                images += 1;
            }
        }
    }
    println!(
        "{} calls of four compactions, {images} images, 0 lost, 0 refused",
        calls.len()
    );
    assert!(images > 300, "{images}");
    let snapshots = bench.disk.list(DIR).unwrap();
    assert_eq!(snapshots.len(), 2, "{snapshots:?}");
    assert!(snapshots.iter().all(|name| name.ends_with(".snap")));
    assert!(
        bench
            .disk
            .paths()
            .contains(&path_of(bench.generations.newest().unwrap().sequence()))
    );
}
