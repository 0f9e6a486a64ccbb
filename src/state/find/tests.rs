//! Find against a filter of its own making over a plain list.

use proptest::prelude::*;

use super::*;
use crate::state::{Form, Mutation};

const RETENTION_MS: u64 = 1_000;

fn state_of<'a>(keys: impl IntoIterator<Item = &'a str>) -> State {
    let mut state = State::new(RETENTION_MS);
    for (sequence, key) in (1..).zip(keys) {
        put(&mut state, sequence, key, None);
    }
    state
}

fn put(state: &mut State, sequence: u64, key: &str, deadline: Option<u64>) {
    let put = Mutation::Put {
        key,
        value: b"1".into(),
        form: Form::Bare,
        deadline,
    };
    let _ = state.apply(sequence, &put);
}

/// All keys that a filter finds, and in how many slices.
fn find_in(state: &State, filter: &Filter, now: u64) -> (Vec<String>, usize) {
    find_by(state, filter, now, false)
}

/// The same, where matching patterns is over after each key, or not before the slice is.
fn find_by(state: &State, filter: &Filter, now: u64, each: bool) -> (Vec<String>, usize) {
    let query = Query::new(filter.clone()).unwrap();
    let mut cursor = Cursor::default();
    let mut keys = Vec::new();
    for slices in 1.. {
        // Every slice is over as soon as it may be.
        let (slice, _) = query.walk(state, &cursor, now, || true);
        let slice = if query.has_patterns() {
            query.narrow(slice, &cursor, || each)
        } else {
            slice
        };
        keys.extend(
            slice
                .records
                .into_iter()
                .map(|record| record.key.into_string()),
        );
        match slice.next {
            Some(next) => cursor = next,
            None => return (keys, slices),
        }
    }
    unreachable!("the loop has no end of its own")
}

fn find(keys: &[&str], filter: Filter) -> Vec<String> {
    find_in(&state_of(keys.iter().copied()), &filter, 0).0
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

const KEYS: [&str; 9] = ["", "a", "a.b", "a/b", "ab", "b", "user:1", "user:2", "ключ"];

#[test]
fn each_filter_finds_what_it_says() {
    let keys = &KEYS[1..];
    let any = Filter::default;
    let cases: [(Filter, &[&str]); 19] = [
        (any(), keys),
        (
            Filter {
                prefix: some("a"),
                ..any()
            },
            &["a", "a.b", "a/b", "ab"],
        ),
        (
            Filter {
                prefix: some("клю"),
                ..any()
            },
            &["ключ"],
        ),
        (
            Filter {
                suffix: some("b"),
                ..any()
            },
            &["a.b", "a/b", "ab", "b"],
        ),
        (
            Filter {
                contains: some("er:"),
                ..any()
            },
            &["user:1", "user:2"],
        ),
        (
            Filter {
                pattern: some("^a"),
                ..any()
            },
            &["a", "a.b", "a/b", "ab"],
        ),
        (
            Filter {
                pattern: some(r"^a\.b"),
                ..any()
            },
            &["a.b"],
        ),
        (
            Filter {
                pattern: some("[12]$"),
                ..any()
            },
            &["user:1", "user:2"],
        ),
        (
            Filter {
                pattern: some("^ab?$"),
                ..any()
            },
            &["a", "ab"],
        ),
        (
            Filter {
                pattern: some("^a|^b"),
                ..any()
            },
            &["a", "a.b", "a/b", "ab", "b"],
        ),
        (
            Filter {
                glob: some("a*"),
                ..any()
            },
            &["a", "a.b", "a/b", "ab"],
        ),
        (
            Filter {
                glob: some("a?b"),
                ..any()
            },
            &["a.b", "a/b"],
        ),
        (
            Filter {
                glob: some("user:[13-9]"),
                ..any()
            },
            &["user:1"],
        ),
        (
            Filter {
                glob: some("user:[!1]"),
                ..any()
            },
            &["user:2"],
        ),
        (
            Filter {
                glob: some(r"a[\]./]b"),
                ..any()
            },
            &["a.b", "a/b"],
        ),
        (
            Filter {
                glob: some(r"a\.b"),
                ..any()
            },
            &["a.b"],
        ),
        (
            Filter {
                prefix: some("a"),
                suffix: some("b"),
                contains: some("/"),
                ..any()
            },
            &["a/b"],
        ),
        (
            Filter {
                prefix: some("b"),
                pattern: some("^a"),
                ..any()
            },
            &[],
        ),
        (
            Filter {
                prefix: some("a"),
                glob: some("*b"),
                limit: Some(2),
                offset: 1,
                ..any()
            },
            &["a/b", "ab"],
        ),
    ];
    for (filter, expected) in cases {
        assert_eq!(find(keys, filter.clone()), expected, "{filter:?}");
        let mut turned: Vec<&str> = expected.to_vec();
        turned.reverse();
        if filter.limit.is_none() {
            let filter = Filter {
                reverse: true,
                ..filter
            };
            assert_eq!(find(keys, filter.clone()), turned, "{filter:?}");
        }
    }
}

#[test]
fn what_is_special_in_a_regular_expression_is_not_in_a_glob() {
    let keys = &["+", ",", "-", "<a>", "a", "b", "{1}"];
    let glob = |text: &str| Filter {
        glob: some(text),
        ..Filter::default()
    };
    assert_eq!(find(keys, glob("<*")), ["<a>"]);
    assert_eq!(find(keys, glob("[<]a[>]")), ["<a>"]);
    assert_eq!(find(keys, glob("{?}")), ["{1}"]);
    assert_eq!(find(keys, glob("[+--b]")), ["+", ",", "-", "b"]);
    assert_eq!(find(keys, glob("[a&&b]")), ["a", "b"]);
}

#[test]
fn limit_offset_and_after_cut_the_list() {
    let keys = &["a", "b", "c", "d"];
    let any = Filter::default;
    assert!(
        find(
            keys,
            Filter {
                limit: Some(0),
                ..any()
            }
        )
        .is_empty()
    );
    assert_eq!(
        find(
            keys,
            Filter {
                limit: Some(2),
                ..any()
            }
        ),
        ["a", "b"]
    );
    assert_eq!(find(keys, Filter { offset: 3, ..any() }), ["d"]);
    assert!(find(keys, Filter { offset: 4, ..any() }).is_empty());
    assert_eq!(
        find(
            keys,
            Filter {
                after: some("b"),
                ..any()
            }
        ),
        ["c", "d"]
    );
    assert_eq!(
        find(
            keys,
            Filter {
                after: some("bb"),
                ..any()
            }
        ),
        ["c", "d"]
    );
    let reverse = Filter {
        reverse: true,
        ..any()
    };
    assert_eq!(
        find(
            keys,
            Filter {
                after: some("c"),
                ..reverse.clone()
            }
        ),
        ["b", "a"]
    );
    assert_eq!(
        find(
            keys,
            Filter {
                after: some("z"),
                limit: Some(1),
                ..reverse.clone()
            }
        ),
        ["d"]
    );
    assert!(
        find(
            keys,
            Filter {
                after: some("a"),
                ..reverse.clone()
            }
        )
        .is_empty()
    );
    // Bounds that contradict each other are an empty range, not a panic.
    assert!(
        find(
            keys,
            Filter {
                after: some("b"),
                prefix: some("c"),
                ..reverse
            }
        )
        .is_empty()
    );
    assert!(
        find(
            keys,
            Filter {
                after: some("c"),
                prefix: some("b"),
                ..any()
            }
        )
        .is_empty()
    );
}

#[test]
fn expired_keys_are_found_only_on_demand_and_only_while_remembered() {
    let mut state = state_of(["live"]);
    put(&mut state, 2, "gone", Some(100));
    let filter = Filter::default();
    assert_eq!(find_in(&state, &filter, 99).0, ["gone", "live"]);
    assert_eq!(find_in(&state, &filter, 100).0, ["live"]);
    let all = Filter {
        include_expired: true,
        ..filter
    };
    let query = Query::new(all.clone()).unwrap();
    let (slice, _) = query.walk(&state, &Cursor::default(), 100, || false);
    assert_eq!(slice.records[0].hit, Hit::Expired);
    assert_eq!(slice.records[0].deadline, Some(100));
    assert_eq!(find_in(&state, &all, 100 + RETENTION_MS).0, ["live"]);
}

#[test]
fn the_answer_depends_on_what_it_shows_and_on_what_it_leaves_out() {
    let mut state = state_of(["a", "b", "c"]);
    let gate = |state: &State, filter: Filter| {
        Query::new(filter)
            .unwrap()
            .walk(state, &Cursor::default(), 0, || false)
            .1
    };
    assert_eq!(gate(&state, Filter::default()), 3);
    assert_eq!(
        gate(
            &state,
            Filter {
                prefix: some("a"),
                ..Filter::default()
            }
        ),
        1
    );
    let _ = state.apply(4, &Mutation::Delete { key: "a" });
    assert_eq!(
        gate(
            &state,
            Filter {
                prefix: some("a"),
                ..Filter::default()
            }
        ),
        4
    );
    assert_eq!(
        gate(
            &state,
            Filter {
                prefix: some("b"),
                ..Filter::default()
            }
        ),
        2
    );
    let _ = state.apply(5, &Mutation::Clear);
    assert_eq!(gate(&state, Filter::default()), 5);
}

#[test]
fn a_small_bounded_find_is_one_slice_and_others_are_not() {
    let keys: Vec<String> = (0..5_000).map(|i| format!("k{i:05}")).collect();
    let state = state_of(keys.iter().map(String::as_str));
    let slices = |filter: &Filter| find_in(&state, filter, 0).1;
    let bounded = Filter {
        limit: Some(1_000),
        ..Filter::default()
    };
    assert_eq!(slices(&bounded), 1);
    // 4 000 entries are one view, one more is not.
    let view = |count: usize| {
        let bounded = Filter {
            prefix: some("no"),
            after: some("k"),
            ..bounded.clone()
        };
        let keys: Vec<String> = (0..count).map(|i| format!("no{i:05}")).collect();
        let mut state = state_of(keys.iter().map(String::as_str));
        for (sequence, key) in (count as u64 + 1..).zip(&keys) {
            put(&mut state, sequence, key, Some(1));
        }
        find_in(&state, &bounded, 1).1
    };
    assert_eq!(view(ATOMIC_ENTRIES_MAX), 1);
    assert!(view(ATOMIC_ENTRIES_MAX + 1) > 1);
    assert_eq!(
        slices(&Filter {
            prefix: some("k01"),
            ..bounded.clone()
        }),
        1
    );
    assert!(
        slices(&Filter {
            limit: Some(1_001),
            ..Filter::default()
        }) > 1
    );
    assert!(
        slices(&Filter {
            suffix: some("7"),
            ..bounded
        }) > 1
    );
    // What is known of the beginning bounds what is walked: 100 entries, not 5 000.
    let anchored = Filter {
        pattern: some("^k012.*7$"),
        ..Filter::default()
    };
    assert_eq!(
        find_in(&state, &anchored, 0),
        (
            (0..10).map(|i| format!("k012{i}7")).collect(),
            100usize.div_ceil(ENTRIES_PER_LOOK)
        )
    );
}

#[test]
fn a_find_goes_on_where_it_was_whatever_changes_meanwhile() {
    let mut state = state_of(["a", "b", "c", "d"]);
    let query = Query::new(Filter {
        offset: 1,
        ..Filter::default()
    })
    .unwrap();
    let cursor = Cursor {
        behind: Some("b".into()),
        passed: 1,
        found: 1,
    };
    let _ = state.apply(5, &Mutation::Delete { key: "b" });
    put(&mut state, 6, "aa", None);
    put(&mut state, 7, "bb", None);
    let (slice, _) = query.walk(&state, &cursor, 0, || false);
    let keys: Vec<&str> = slice.records.iter().map(|record| &*record.key).collect();
    assert_eq!(keys, ["bb", "c", "d"]);
}

#[test]
fn what_cannot_be_compiled_is_refused_in_a_sentence() {
    let refused = |filter: Filter| Query::new(filter).unwrap_err().to_string();
    let pattern = |text: &str| Filter {
        pattern: some(text),
        ..Filter::default()
    };
    let glob = |text: &str| Filter {
        glob: some(text),
        ..Filter::default()
    };
    assert!(refused(pattern("(")).contains("unclosed group"));
    assert!(refused(pattern(&"a".repeat(PATTERN_BYTES_MAX + 1))).contains("at most"));
    assert!(refused(pattern("(?:a{1000}){1000}")).contains("too large"));
    let endless = Filter {
        after: Some("a".repeat(KEY_BYTES_MAX + 1)),
        ..Filter::default()
    };
    assert!(refused(endless).contains("the after has 65536 bytes"));
    assert!(refused(glob("[a")).contains("not closed"));
    assert!(refused(glob("a\\")).contains("ends with"));
    assert!(refused(glob("[z-a]")).contains("not valid"));
    assert_eq!(refused(pattern("(")).lines().count(), 1);
}

#[test]
fn the_first_text_behind_all_that_begin_so() {
    assert_eq!(successor("a"), some("b"));
    assert_eq!(successor("a\u{10FFFF}"), some("b"));
    assert_eq!(successor("\u{D7FF}"), some("\u{E000}"));
    assert_eq!(successor("\u{10FFFF}"), None);
    assert_eq!(successor(""), None);
}

/// A glob matcher of another kind: backtracking, character by character.
fn glob_matches(glob: &[char], text: &[char]) -> bool {
    match glob {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|skip| glob_matches(rest, &text[skip..])),
        ['?', rest @ ..] => !text.is_empty() && glob_matches(rest, &text[1..]),
        ['\\', char, rest @ ..] => text.first() == Some(char) && glob_matches(rest, &text[1..]),
        [char, rest @ ..] => text.first() == Some(char) && glob_matches(rest, &text[1..]),
    }
}

proptest! {
    #[test]
    fn every_find_equals_a_filtered_list(
        keys in prop::collection::btree_set("[ab.]{1,4}", 0..40),
        prefix in prop::option::of("[ab]{0,2}"),
        suffix in prop::option::of("[ab]{0,2}"),
        contains in prop::option::of("[ab.]{0,2}"),
        pattern in prop::option::of(r"\^?[ab]{0,2}(\.|\*|\?|\\\.)?[ab]?\$?"),
        glob in prop::option::of(r"([ab*?]|\\\.){0,4}"),
        after in prop::option::of("[ab.]{1,3}"),
        limit in prop::option::of(0..10u64),
        offset in 0..4u64,
        reverse in any::<bool>(),
    ) {
        let filter = Filter {
            prefix, suffix, contains, pattern, glob, limit, offset, after, reverse,
            ..Filter::default()
        };
        // A generated pattern may be no pattern: `*` behind nothing.
        prop_assume!(Query::new(filter.clone()).is_ok());
        let expression = filter.pattern.as_ref().map(|pattern| Regex::new(pattern).unwrap());
        let glob: Option<Vec<char>> = filter.glob.as_ref().map(|glob| glob.chars().collect());
        let mut expected: Vec<String> = keys.iter().filter(|key| {
            filter.prefix.as_ref().is_none_or(|prefix| key.starts_with(prefix))
                && filter.suffix.as_ref().is_none_or(|suffix| key.ends_with(suffix))
                && filter.contains.as_ref().is_none_or(|part| key.contains(part))
                && expression.as_ref().is_none_or(|expression| expression.is_match(key))
                && glob.as_ref().is_none_or(|glob| {
                    glob_matches(glob, &key.chars().collect::<Vec<_>>())
                })
                && filter.after.as_ref().is_none_or(|after| {
                    if reverse { *key < after } else { *key > after }
                })
        }).cloned().collect();
        if reverse {
            expected.reverse();
        }
        let limit = limit.map_or(usize::MAX, |limit| limit as usize);
        let expected: Vec<String> =
            expected.into_iter().skip(offset as usize).take(limit).collect();
        let state = state_of(keys.iter().map(String::as_str));
        prop_assert_eq!(&find_by(&state, &filter, 0, true).0, &expected);
        prop_assert_eq!(find_in(&state, &filter, 0).0, expected);
    }
}
