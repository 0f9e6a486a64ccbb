//! The bytes of a snapshot, pinned; and damage to them, exhaustively: every bit flipped, every cut,
//! every sector and block lost, every pair of blocks swapped. `load` and `verify` find it all.

use std::sync::Arc;

use bytes::Bytes;
use ekokv_wal::{Disk, Position, Predecessor, SimDisk};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use super::format::{BLOCK_HEADER_BYTES, FOOTER_BYTES, HEADER_BYTES, block_crc};
use super::*;
use crate::state::{ApiKey, Entry, Fingerprint, Form, Kept, Keyring, Link, Recorded, Role, State};

const PATH: &str = "snapshots/00000000000000000077.snap";
const STORE_ID: [u8; 16] = *b"the store's id..";
const RETENTION_MS: u64 = 600_000;
const GOLDEN: &str = include_str!("golden.hex");

fn header() -> Header {
    Header {
        store_id: STORE_ID,
        end: Predecessor {
            number: 3,
            salt: *b"a segment's salt",
            end: 0x5000,
            position: Position {
                batch: 9,
                sequence: 77,
                chain: 0x0123_4567_89AB_CDEF_1122_3344_5566_7788,
            },
        },
        time: 1_700_000_000_000,
    }
}

fn keyring() -> Keyring {
    let key = |id: &str, role, fill| ApiKey {
        id: id.into(),
        role,
        digest: [fill; 32],
    };
    let keys = [
        key("bootstrap-1", Role::Admin, 0xA1),
        key("reader", Role::User, 0xB2),
    ];
    Keyring {
        hashing_key: [7; 32],
        api_keys: keys.map(|key| (key.id.clone(), key)).into(),
    }
}

fn live(key: &str, value: &str, form: Form, version: u64, deadline: Option<u64>) -> Recorded {
    linked(key, value, form, version, deadline, &[])
}

fn linked(
    key: &str,
    value: &str,
    form: Form,
    version: u64,
    deadline: Option<u64>,
    links: &[(&str, &str, Option<&'static str>, u64)],
) -> Recorded {
    let links = links
        .iter()
        .map(|(collection, record_id, metadata, created_at)| Link {
            collection: (*collection).into(),
            record_id: (*record_id).into(),
            metadata: metadata.map(|text| Bytes::from_static(text.as_bytes())),
            created_at: *created_at,
        });
    let entry = Entry {
        value: Bytes::copy_from_slice(value.as_bytes()),
        form,
        version,
        deadline,
        links: links.collect(),
    };
    Recorded::of(key.into(), Kept::Live(entry))
}

fn remembered(key: &str, version: u64, deadline: u64) -> Recorded {
    Recorded::of(key.into(), Kept::Remembered { deadline, version })
}

/// Each kind of entry, and each of its optional parts there and not there.
fn entries() -> Vec<Recorded> {
    vec![
        live("a", "1", Form::Bare, 3, None),
        live("ab", "\"two\"", Form::Envelope, 70, Some(1_800_000_000_000)),
        remembered("abc", 71, 1_699_999_999_000),
        linked(
            "b/ключ",
            "{\"n\":29.990}",
            Form::Bare,
            77,
            None,
            &[
                ("orders", "1", None, 5),
                ("users", "1", Some("{\"since\":2}"), 6),
            ],
        ),
    ]
}

/// Writes a snapshot as the compactor does.
fn written(keyring: &Keyring, entries: &[Recorded]) -> Vec<u8> {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let mut writer = Writer::create(&disk, PATH, &header(), keyring).unwrap();
    for entry in entries {
        writer.push(entry).unwrap();
    }
    writer.finish().unwrap();
    let file = disk.open(PATH).unwrap();
    let mut bytes = vec![0; file.length().unwrap() as usize];
    ekokv_wal::read_full(file.as_ref(), 0, &mut bytes).unwrap();
    bytes
}

/// Blocks of a snapshot: number of entries and their bytes.
type Blocks = Vec<(u32, Vec<u8>)>;

/// The same snapshot in blocks of as many keys as each of `sizes` says, the API keys in the first.
fn in_blocks(keyring: &Keyring, entries: &[Recorded], sizes: &[usize]) -> Blocks {
    let mut rest = entries;
    let mut blocks = Vec::new();
    for (number, size) in sizes.iter().enumerate() {
        let (now, later) = rest.split_at(*size);
        rest = later;
        let mut bytes = Vec::new();
        let mut count = 0;
        if number == 0 {
            count += block::push_keyring(&mut bytes, keyring);
        }
        let mut previous = "";
        for recorded in now {
            count += block::push_key(&mut bytes, previous, &recorded.by_ref());
            previous = &recorded.key;
        }
        blocks.push((count, bytes));
    }
    assert!(rest.is_empty());
    blocks
}

fn fingerprint(keyring: &Keyring, entries: &[Recorded]) -> Fingerprint {
    let mut fingerprint = Fingerprint::default();
    fingerprint.add_keyring(keyring);
    for recorded in entries {
        fingerprint.add(&mut Vec::new(), &recorded.key, recorded.kept.by_ref());
    }
    fingerprint
}

/// A file of these blocks, with all CRCs, counts and lengths right.
fn assembled(header: &Header, blocks: &Blocks, fingerprint: Fingerprint) -> Vec<u8> {
    let (head, seed) = header.encode();
    let mut out = head.to_vec();
    let mut crcs = Vec::new();
    for (number, (count, entries)) in (0..).zip(blocks) {
        let mut head = (entries.len() as u32).to_le_bytes().to_vec();
        head.extend_from_slice(&count.to_le_bytes());
        let crc = block_crc(seed, number, *count, entries).to_le_bytes();
        crcs.extend_from_slice(&crc);
        out.extend_from_slice(&head);
        out.extend_from_slice(&crc);
        out.extend_from_slice(entries);
    }
    let footer = Footer {
        blocks: blocks.len() as u64,
        fingerprint,
        blocks_hash: xxh3_128(&crcs),
        length: (out.len() + FOOTER_BYTES) as u64,
        longest_block: blocks
            .iter()
            .map(|(_, entries)| entries.len())
            .max()
            .unwrap_or(0) as u32,
    };
    out.extend_from_slice(&footer.encode(seed));
    out
}

/// Four blocks of a few keys each.
fn small() -> (Blocks, Fingerprint) {
    let mut all = entries();
    for number in 0..6 {
        let value = format!("\"{}\"", "v".repeat(20 * number));
        all.push(live(
            &format!("k{number}"),
            &value,
            Form::Bare,
            40 + number as u64,
            None,
        ));
    }
    let blocks = in_blocks(&keyring(), &all, &[3, 2, 2, 3]);
    (blocks, fingerprint(&keyring(), &all))
}

fn small_file() -> Vec<u8> {
    let (blocks, fingerprint) = small();
    assembled(&header(), &blocks, fingerprint)
}

fn on_disk(bytes: Vec<u8>) -> SimDisk {
    let disk = SimDisk::new();
    disk.set_content(PATH, bytes);
    disk
}

fn loaded(bytes: Vec<u8>) -> Result<(Header, Footer, State), Bad> {
    load(&on_disk(bytes), PATH, STORE_ID, RETENTION_MS, &|_, _| {})
}

fn verified(bytes: Vec<u8>) -> Result<(Header, Footer), Bad> {
    let disk: Arc<dyn Disk> = Arc::new(on_disk(bytes));
    verify(&disk, PATH, &mut |_| true).map(Option::unwrap)
}

/// Every key of a snapshot as a scan shows it, and the API keys.
fn scanned(bytes: Vec<u8>) -> Result<(Vec<Recorded>, Keyring), Bad> {
    let mut scan = Scan::open(&on_disk(bytes), PATH)?;
    let mut all = Vec::new();
    while let Some(recorded) = scan.next()? {
        all.push(recorded);
    }
    Ok((all, scan.keyring().clone()))
}

/// Whether what is wrong is that a newer program wrote it: an entry of an unknown kind, well checked.
fn is_newer(damage: &ekokv_wal::Damage) -> bool {
    damage.reason.contains("unknown kind")
}

/// Asserts that both readers refuse a file as damaged, or as one of a newer program, and returns why.
fn damaged(bytes: Vec<u8>, what: &str) -> String {
    let reason = match loaded(bytes.clone()) {
        Err(Bad::Damaged(damage)) => {
            assert_eq!(damage.file, PATH, "{what}");
            damage.reason
        }
        Err(Bad::Foreign(damage)) if is_newer(&damage) => damage.reason,
        other => panic!("{what}: loading gives {:?}", other.map(|found| found.0)),
    };
    match verified(bytes) {
        Err(Bad::Damaged(damage)) => assert_eq!(damage.reason, reason, "{what}"),
        Err(Bad::Foreign(damage)) if is_newer(&damage) => assert_eq!(damage.reason, reason),
        other => panic!("{what}: verifying gives {other:?}"),
    }
    reason
}

/// The golden file, field by field, without its comments.
fn golden() -> Vec<u8> {
    let digits: String = GOLDEN
        .lines()
        .filter_map(|line| line.split('#').next())
        .flat_map(str::split_whitespace)
        .collect();
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<String>();
    bytes.chunks(32).map(|part| line(part) + "\n").collect()
}

#[test]
fn what_is_written_is_byte_for_byte_what_version_1_wrote() {
    let bytes = written(&keyring(), &entries());
    assert_eq!(hex(&bytes), hex(&golden()));
    // By hand: where the fields of the header stand that other files refer to.
    assert_eq!(&bytes[..12], b"ekokvsnp\x01\0\0\0");
    assert_eq!(&bytes[16..32], STORE_ID);
    assert_eq!(&bytes[72..80], [77, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        &bytes[bytes.len() - FOOTER_BYTES..][..8],
        b"ekokvend",
        "the footer is the end"
    );
}

#[test]
fn what_version_1_wrote_is_read() {
    let bytes = golden();
    assert_eq!(
        scanned(bytes.clone()).unwrap(),
        (entries(), keyring()),
        "every entry with its CRCs"
    );
    let (found, footer, state) = loaded(bytes.clone()).unwrap();
    assert_eq!(found, header());
    assert_eq!(footer.length, bytes.len() as u64);
    assert_eq!(state.fingerprint(), fingerprint(&keyring(), &entries()));
    let kept: Vec<Kept> = state
        .kept_after(None)
        .map(|(_, kept)| kept.to_kept())
        .collect();
    let expected: Vec<Kept> = entries().into_iter().map(|r| r.kept).collect();
    assert_eq!(kept, expected);
    assert_eq!(state.keyring(), &keyring());
    verified(bytes).unwrap();
}

#[test]
fn a_store_without_keys_has_a_snapshot_too() {
    let bytes = written(&keyring(), &[]);
    assert_eq!(scanned(bytes.clone()).unwrap(), (Vec::new(), keyring()));
    let (_, _, state) = loaded(bytes).unwrap();
    assert_eq!(state.fingerprint(), fingerprint(&keyring(), &[]));
}

#[test]
fn blocks_end_behind_64_kib_and_keys_share_nothing_across_them() {
    let all: Vec<Recorded> = (0..500)
        .map(|number| {
            let value = format!("\"{}\"", "w".repeat(700));
            live(
                &format!("the same beginning {number:05}"),
                &value,
                Form::Bare,
                number + 1,
                None,
            )
        })
        .collect();
    let bytes = written(&keyring(), &all);
    let (_, footer, state) = loaded(bytes.clone()).unwrap();
    assert!(
        footer.blocks >= 5 && footer.blocks == (bytes.len() as u64).div_ceil(65 << 10),
        "{} blocks in {} bytes",
        footer.blocks,
        bytes.len()
    );
    assert_eq!(state.fingerprint(), fingerprint(&keyring(), &all));
    assert_eq!(scanned(bytes).unwrap().0, all);
}

/// Damages the small file at each place; each time both readers say so. Returns how many times; a place
/// that held nothing else is not damaged.
fn each_place(
    what: &str,
    places: impl Iterator<Item = usize>,
    damage: impl Fn(&mut Vec<u8>, usize),
) -> u64 {
    let whole = small_file();
    let mut cases = 0;
    for place in places {
        let mut bytes = whole.clone();
        damage(&mut bytes, place);
        if bytes != whole {
            damaged(bytes, &format!("{what} at {place}"));
            cases += 1;
        }
    }
    cases
}

fn report(what: &str, cases: u64) {
    println!("snapshot, {what}: {cases} cases, all found, 0 silent");
    assert!(cases > 0, "{what}");
}

#[test]
fn row_25_every_bit_flip_is_found() {
    let length = small_file().len();
    let mut cases = 0;
    for bit in 0..8 {
        cases += each_place("a flip", 0..length, |bytes, at| bytes[at] ^= 1 << bit);
    }
    assert_eq!(cases, 8 * length as u64);
    report("every bit flipped", cases);
}

#[test]
fn every_cut_and_every_byte_too_many_is_found() {
    let length = small_file().len();
    report(
        "every cut",
        each_place("a cut", 0..length, |bytes, at| bytes.truncate(at)),
    );
    report(
        "bytes added",
        each_place("more bytes", 1..600, |bytes, more| {
            bytes.resize(length + more, 0)
        }),
    );
}

#[test]
fn every_lost_sector_and_block_is_found() {
    // Wherever the file lies in its blocks, for the small file is shorter than some of them.
    let length = small_file().len();
    for size in [512, 4096] {
        let lose = |fill: u8| {
            move |bytes: &mut Vec<u8>, at: usize| {
                let end = bytes.len().min(at + size);
                bytes[at..end].fill(fill);
            }
        };
        let zeroed = each_place("zeros", 0..length, lose(0));
        report(&format!("every {size} bytes zeroed"), zeroed);
        report(
            &format!("every {size} bytes filled with ones"),
            each_place("ones", 0..length, lose(0xFF)),
        );
    }
}

#[test]
fn every_pair_of_swapped_blocks_is_found_with_the_footer_of_the_swapped_ones_too() {
    let (blocks, fingerprint) = small();
    let whole = small_file();
    let mut starts = vec![HEADER_BYTES];
    for (_, entries) in &blocks {
        starts.push(starts.last().unwrap() + BLOCK_HEADER_BYTES + entries.len());
    }
    let mut cases = 0;
    for first in 0..blocks.len() {
        for second in first + 1..blocks.len() {
            // As they lie on the disk: the CRC knows where a block belongs.
            let mut order: Vec<usize> = (0..blocks.len()).collect();
            order.swap(first, second);
            let mut bytes = whole[..HEADER_BYTES].to_vec();
            for number in &order {
                bytes.extend_from_slice(&whole[starts[*number]..starts[*number + 1]]);
            }
            bytes.extend_from_slice(&whole[whole.len() - FOOTER_BYTES..]);
            assert_eq!(bytes.len(), whole.len());
            damaged(bytes, "two blocks swapped");
            // And with all checksums made right: keys do not ascend.
            let mut swapped = blocks.clone();
            swapped.swap(first, second);
            let reason = damaged(assembled(&header(), &swapped, fingerprint), "mended");
            assert!(
                reason.contains("ascend") || reason.contains("kind"),
                "{reason}"
            );
            cases += 2;
        }
    }
    report("every pair of blocks swapped", cases);
}

#[test]
fn a_block_that_is_dropped_or_doubled_is_found_though_all_checksums_are_right() {
    let (blocks, fingerprint) = small();
    let mut cases = 0;
    for number in 0..blocks.len() {
        let mut fewer = blocks.clone();
        fewer.remove(number);
        let reason = damaged(assembled(&header(), &fewer, fingerprint), "dropped");
        assert!(reason.contains("its footer names"), "{reason}");
        let mut more = blocks.clone();
        more.insert(number, blocks[number].clone());
        damaged(assembled(&header(), &more, fingerprint), "doubled");
        cases += 2;
    }
    report("every block dropped or doubled", cases);
}

#[test]
fn row_25_a_flip_that_the_block_crc_was_made_of_is_found_by_the_records_or_the_fingerprint() {
    let (blocks, fingerprint) = small();
    let (mut by_record, mut by_fingerprint, mut by_structure) = (0, 0, 0);
    let mut cases = 0;
    for number in 0..blocks.len() {
        for at in 0..blocks[number].1.len() {
            for bit in 0..8 {
                let mut flipped = blocks.clone();
                flipped[number].1[at] ^= 1 << bit;
                let reason = damaged(
                    assembled(&header(), &flipped, fingerprint),
                    &format!("block {number}, byte {at}, bit {bit}"),
                );
                if reason.contains("came with its CRC") {
                    by_record += 1;
                } else if reason.contains("its footer names") {
                    by_fingerprint += 1;
                } else {
                    by_structure += 1;
                }
                cases += 1;
            }
        }
    }
    println!("{by_record} by record CRC, {by_fingerprint} by fingerprint, {by_structure} unparsed");
    report("every bit of the entries under a right block CRC", cases);
    assert!(by_record > 0 && by_fingerprint > 0 && by_structure > 0);
}

/// One block with these entries, as `damaged` sees it.
fn one_block(count: u32, bytes: Vec<u8>) -> String {
    let blocks = vec![(count, bytes)];
    let none = Fingerprint::default();
    damaged(assembled(&header(), &blocks, none), "one block")
}

#[test]
fn entries_that_nobody_wrote_are_refused_whatever_their_checksums_say() {
    let pushed = |recorded: &[Recorded]| {
        let mut bytes = Vec::new();
        let mut previous = "";
        let mut count = 0;
        for recorded in recorded {
            count += block::push_key(&mut bytes, previous, &recorded.by_ref());
            previous = &recorded.key;
        }
        (count, bytes)
    };
    let (a, b) = (
        live("a", "1", Form::Bare, 1, None),
        live("b", "2", Form::Bare, 2, None),
    );
    let with = |at: usize, byte: u8| {
        let (count, mut bytes) = pushed(std::slice::from_ref(&a));
        bytes[at] = byte;
        (count, bytes)
    };
    // Keys.
    let (count, bytes) = pushed(&[b.clone(), a.clone()]);
    assert_eq!(one_block(count, bytes), "keys do not ascend");
    let (count, bytes) = pushed(&[a.clone(), a.clone()]);
    assert_eq!(one_block(count, bytes), "keys do not ascend");
    let (count, bytes) = with(2, 9);
    assert!(one_block(count, bytes).contains("shares more"));
    let (count, bytes) = with(22, 0xFF);
    assert!(one_block(count, bytes).contains("is no text"));
    // Kinds and flags.
    for kind in [0, 5, 0xFF] {
        let (count, bytes) = with(0, kind);
        assert!(one_block(count, bytes).contains("unknown kind"));
    }
    let (count, bytes) = with(0, 3);
    assert!(one_block(count, bytes).contains("none of its kind belongs"));
    let (count, bytes) = with(1, 4);
    assert_eq!(one_block(count, bytes), "a value with unknown flags");
    // Counts: one entry more than there are, and one less.
    let (count, bytes) = pushed(&[a.clone(), b.clone()]);
    assert!(one_block(count + 1, bytes.clone()).contains("longer than its block"));
    assert_eq!(one_block(count - 1, bytes), "bytes behind the last entry");
    // Lengths: of the rest of the key, of the value, each beyond the block.
    for at in [4, 5, 6, 9] {
        let (count, bytes) = with(at, 0xFF);
        assert!(one_block(count, bytes).contains("longer than its block"));
    }
    let (count, bytes) = with(6, 0);
    assert_eq!(one_block(count, bytes), "an empty value");
    // Secrets behind a key, and secrets that are none.
    let (count, mut bytes) = pushed(std::slice::from_ref(&a));
    let secrets = block::push_keyring(&mut bytes, &keyring());
    assert!(one_block(count + secrets, bytes).contains("where none of its kind belongs"));
    let clear = [3_u8];
    let mut bytes = vec![1, 1, 0, 0, 0];
    bytes.extend_from_slice(&crc32fast::hash(&clear).to_le_bytes());
    bytes.extend_from_slice(&clear);
    assert_eq!(one_block(1, bytes), "a secret that is none");
    // Links that do not ascend.
    let (count, bytes) = pushed(&entries()[3..]);
    let links: Vec<usize> = (1..bytes.len())
        .filter(|at| bytes[*at..].starts_with(&[3, 5, 0]) || bytes[*at..].starts_with(&[3, 6, 0]))
        .collect();
    let [first, second] = links[..] else {
        panic!("two links: {links:?}")
    };
    let mut swapped = bytes[..first].to_vec();
    swapped.extend_from_slice(&bytes[second..]);
    swapped.extend_from_slice(&bytes[first..second]);
    assert_eq!(one_block(count, swapped), "links do not ascend");
    // A link without a key before it.
    assert!(one_block(1, bytes[first..second].to_vec()).contains("none of its kind belongs"));
}

#[test]
fn row_17_a_newer_format_and_another_store_are_foreign_and_no_damage() {
    let foreign = |bytes: Vec<u8>| match loaded(bytes) {
        Err(Bad::Foreign(damage)) => damage.to_string(),
        other => panic!("{:?}", other.map(|found| found.0)),
    };
    let mut newer = small_file();
    newer[8] = 2;
    let crc = crc32fast::hash(&newer[..HEADER_BYTES - 4]).to_le_bytes();
    newer[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc);
    let said = foreign(newer);
    assert!(
        said.contains("format version 2") && said.contains("newer one"),
        "{said}"
    );
    let (blocks, fingerprint) = small();
    let other = Header {
        store_id: [9; 16],
        ..header()
    };
    let said = foreign(assembled(&other, &blocks, fingerprint));
    assert!(said.contains("another store"), "{said}");
    // Another magic is no version of this format.
    let mut magic = small_file();
    magic[0] = b'X';
    let crc = crc32fast::hash(&magic[..HEADER_BYTES - 4]).to_le_bytes();
    magic[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc);
    damaged(magic, "another magic");
}

#[test]
fn rows_5_and_6_a_length_is_compared_with_the_file_before_anything_is_allocated() {
    let whole = small_file();
    for length in [u32::MAX, 1 << 31, whole.len() as u32] {
        let mut bytes = whole.clone();
        bytes[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&length.to_le_bytes());
        let reason = damaged(bytes, "a huge block");
        assert!(reason.starts_with("a block is longer than"), "{reason}");
    }
}

#[test]
fn what_the_fuzzer_mends_is_read_again_and_what_is_whole_is_left_as_it_is() {
    let whole = small_file();
    let mut mended = whole.clone();
    fuzzing::mend(&mut mended);
    assert_eq!(mended, whole);
    // Most flips of an entry give another entry, once its checksums are right.
    let (mut read, mut refused) = (0, 0);
    for at in HEADER_BYTES..whole.len() - FOOTER_BYTES {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fuzzing::mend(&mut flipped);
        let found = fuzzing::loaded(&flipped);
        assert_eq!(found, fuzzing::verified(&flipped), "byte {at}");
        match found {
            Ok(_) => read += 1,
            Err(reason) => {
                assert!(!reason.contains("came with its CRC"), "byte {at}: {reason}");
                refused += 1;
            }
        }
    }
    println!("{read} mended and read, {refused} of no structure");
    assert!(read > refused);
}

fn any_recorded() -> impl Strategy<Value = (String, Recorded)> {
    let form = prop_oneof![Just(Form::Bare), Just(Form::Envelope)];
    let links = prop::collection::btree_map(
        ("[a-c]{1,3}", "[a-c]{1,3}"),
        (prop::option::of("[0-9]{1,9}"), any::<u64>()),
        0..4,
    );
    let live = (
        "[a-bк/]{1,6}",
        prop::collection::vec(any::<u8>(), 1..80),
        form,
        1..u64::MAX,
        any::<Option<u64>>(),
        links,
    );
    let live = live.prop_map(|(key, value, form, version, deadline, links)| {
        let links = links
            .into_iter()
            .map(|((collection, record_id), (metadata, created_at))| Link {
                collection: collection.into(),
                record_id: record_id.into(),
                metadata: metadata.map(Bytes::from),
                created_at,
            });
        let entry = Entry {
            value: value.into(),
            form,
            version,
            deadline,
            links: links.collect(),
        };
        let recorded = Recorded::of(key.as_str().into(), Kept::Live(entry));
        (key, recorded)
    });
    let gone = ("[a-bк/]{1,6}", any::<u64>(), any::<u64>());
    let gone = gone.prop_map(|(key, version, deadline)| {
        let recorded = remembered(&key, version, deadline);
        (key, recorded)
    });
    prop_oneof![4 => live, 1 => gone]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn decoding_what_was_encoded_gives_the_same(
        keys in prop::collection::vec(any_recorded(), 0..40),
        cuts in prop::collection::vec(1..8_usize, 40),
    ) {
        let keys: std::collections::BTreeMap<String, Recorded> = keys.into_iter().collect();
        let all: Vec<Recorded> = keys.into_values().collect();
        let bytes = written(&keyring(), &all);
        prop_assert_eq!(scanned(bytes.clone()).unwrap(), (all.clone(), keyring()));
        let (found, _, state) = loaded(bytes).unwrap();
        prop_assert_eq!(found, header());
        let print = fingerprint(&keyring(), &all);
        prop_assert_eq!(state.fingerprint(), print);
        // And in other blocks.
        let mut left = all.len();
        let mut sizes = vec![0];
        for cut in cuts {
            let size = cut.min(left);
            left -= size;
            if size > 0 {
                sizes.push(size);
            }
        }
        let blocks = in_blocks(&keyring(), &all, &sizes);
        let bytes = assembled(&header(), &blocks, print);
        prop_assert_eq!(scanned(bytes).unwrap().0, all);
    }
}
