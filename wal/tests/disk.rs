//! The disks themselves: that the simulated one is as nasty as it says, and that the real one holds on to
//! the directory that it opened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::ErrorKind;
use std::path::PathBuf;
use std::{env, fs};

use ekokv_wal::{Disk, RealDisk, SimDisk, SimFault};

#[test]
fn row_34_after_a_failed_sync_what_is_written_reads_well_and_is_never_durable() {
    let disk = SimDisk::new();
    let mut file = disk.create("f").unwrap();
    file.write_at(0, b"lost").unwrap();
    disk.sync_dir("").unwrap();
    disk.interfere(|call, _, _| (call == "sync").then_some(SimFault::Errno(5)));
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
    disk.interfere(|_, _, _| None);
    file.write_at(600, b"kept").unwrap();
    file.sync().unwrap();
    assert_eq!(&disk.content("f").unwrap()[..4], b"lost");
    let cut = disk.power_cut(|_, length| length, usize::MAX);
    let durable = cut.content("f").unwrap();
    assert_eq!(
        (&durable[..4], &durable[600..]),
        (&[0; 4][..], &b"kept"[..])
    );
}

#[test]
fn row_39_a_short_write_takes_the_first_half_and_says_so() {
    let disk = SimDisk::new();
    let mut file = disk.create("f").unwrap();
    disk.interfere(|_, _, _| Some(SimFault::Short));
    assert_eq!(file.write_at(0, b"12345").unwrap(), 2);
    assert_eq!(file.write_at(2, b"3").unwrap(), 1);
    assert_eq!(disk.content("f").unwrap(), b"123");
}

#[test]
fn a_full_disk_takes_what_fits_and_then_nothing_until_space_is_given_back() {
    let disk = SimDisk::new();
    assert_eq!(disk.free_bytes().unwrap(), u64::MAX);
    disk.set_capacity(Some(10_000));
    let mut file = disk.create("f").unwrap();
    assert_eq!(file.write_at(0, &[1; 8_000]).unwrap(), 8_000);
    assert_eq!(disk.free_bytes().unwrap(), 2_000);
    let mut other = disk.create("g").unwrap();
    assert_eq!(other.write_at(0, &[2; 4_000]).unwrap(), 2_000);
    let full = other.write_at(2_000, &[2; 4_000]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    // What is allocated is written again without more space.
    assert_eq!(file.write_at(0, &[3; 8_000]).unwrap(), 8_000);
    for _ in 0..2 {
        file.punch(4_000, 3_000).unwrap();
        assert_eq!(disk.free_bytes().unwrap(), 3_000);
    }
    file.punch(6_000, 2_000).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 4_000);
    disk.remove("f").unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 8_000);
    assert_eq!(other.write_at(2_000, &[2; 4_000]).unwrap(), 4_000);
}

#[test]
fn row_44_held_syncs_wait_for_their_files_alone() {
    let disk = SimDisk::new();
    let mut held = disk.create("held").unwrap();
    let mut free = disk.create("free").unwrap();
    disk.hold_syncs("held");
    free.sync().unwrap();
    let thread = std::thread::spawn(move || held.sync());
    disk.wait_for_held_syncs(1);
    assert!(!thread.is_finished());
    disk.let_syncs_go();
    thread.join().unwrap().unwrap();
}

/// A directory that goes when the test does.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("ekokv-disk-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn row_30_the_real_disk_stays_with_its_directory_and_knows_when_its_lock_is_gone() {
    let (dir, moved) = (Scratch::new("dir"), Scratch::new("moved"));
    let disk = RealDisk::create_root(&dir.0).unwrap();
    let lock = disk.lock("lock").unwrap();
    assert!(lock.in_place().unwrap());
    disk.create_dir("wal").unwrap();
    disk.sync_dir("wal").unwrap();

    fs::rename(&dir.0, &moved.0).unwrap();
    assert!(!lock.in_place().unwrap());
    fs::create_dir_all(dir.0.join("wal")).unwrap();
    fs::write(dir.0.join("lock"), "").unwrap();
    assert!(!lock.in_place().unwrap());

    let mut file = disk.create("wal/a.tmp").unwrap();
    file.write_at(0, b"bytes").unwrap();
    file.sync().unwrap();
    disk.rename("wal/a.tmp", "wal/a").unwrap();
    disk.create("wal/b").unwrap();
    disk.remove("wal/b").unwrap();
    disk.sync_dir("wal").unwrap();
    assert_eq!(disk.list("wal").unwrap(), ["a"]);
    assert_eq!(disk.list("").unwrap(), ["lock", "wal"]);
    assert_eq!(disk.open("wal/a").unwrap().length().unwrap(), 5);
    assert_eq!(fs::read(moved.0.join("wal/a")).unwrap(), b"bytes");
    assert_eq!(fs::read_dir(dir.0.join("wal")).unwrap().count(), 0);

    // Put back, it is as before.
    fs::remove_dir_all(&dir.0).unwrap();
    fs::rename(&moved.0, &dir.0).unwrap();
    assert!(lock.in_place().unwrap());
    fs::remove_file(dir.0.join("lock")).unwrap();
    assert!(!lock.in_place().unwrap());
}

#[test]
fn row_30_a_lock_whose_name_was_removed_still_keeps_others_out() {
    let dir = Scratch::new("held");
    let disk = RealDisk::create_root(&dir.0).unwrap();
    let lock = disk.lock("lock").unwrap();
    fs::remove_file(dir.0.join("lock")).unwrap();
    let other = RealDisk::open(&dir.0).unwrap();
    for _ in 0..2 {
        let refused = other.lock("lock").map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    }
    drop(lock);
    assert!(other.lock("lock").unwrap().in_place().unwrap());
}

#[test]
fn the_real_disk_knows_how_much_is_free() {
    let dir = Scratch::new("free");
    let disk = RealDisk::create_root(&dir.0).unwrap();
    let free = disk.free_bytes().unwrap();
    assert!(free > 0 && free < 1 << 60, "{free}");
}
