//! T7 on the stable toolchain: what the fuzz targets check, on each file of their corpora. A finding
//! becomes a file of its corpus, and is checked from then on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

macro_rules! corpora {
    ($($target:ident in $file:literal,)*) => {$(
        #[path = $file]
        mod $target;
    )*

    /// Each fuzz target with its check.
    const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($target), $target::run)),*];
    };
}

corpora! {
    find_request in "../fuzz/checks/find_request.rs",
    mutation_decode in "../fuzz/checks/mutation_decode.rs",
    path_decode in "../fuzz/checks/path_decode.rs",
    segment_scan in "../fuzz/checks/segment_scan.rs",
    set_body in "../fuzz/checks/set_body.rs",
    snapshot_load in "../fuzz/checks/snapshot_load.rs",
    token_header in "../fuzz/checks/token_header.rs",
    ttl_text in "../fuzz/checks/ttl_text.rs",
}

#[test]
fn every_file_of_every_corpus_passes_its_check() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut targets: Vec<String> = std::fs::read_dir(fuzz.join("fuzz_targets"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        })
        .collect();
    targets.sort();
    let checked: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(targets, checked, "no target is left out");
    for (name, check) in TARGETS {
        let mut files = 0;
        for entry in std::fs::read_dir(fuzz.join("corpus").join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            check(&std::fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files > 0, "{name} has no corpus");
        println!("{name}: {files} files");
    }
}
