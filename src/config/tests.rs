use std::fs;

use super::*;

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ekokv-config-{}-{name}", std::process::id()));
    fs::write(&path, text).unwrap();
    path
}

fn problems(flags: &Flags, variables: &[(&str, &str)]) -> Vec<String> {
    Config::load(flags, environment(variables))
        .unwrap_err()
        .sentences()
        .to_vec()
}

#[test]
fn nothing_given_is_the_default() {
    let config = Config::load(&Flags::default(), environment(&[("PATH", "/bin")])).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let path = file(
        "precedence.toml",
        "listen = '127.0.0.1:1'\ndata_dir = '/from-file'\nmax-batch-keys = 7\n\
         values = 'envelope'\n",
    );
    let flags = Flags {
        config: Some(path),
        listen: Some("127.0.0.1:3".to_owned()),
        ..Flags::default()
    };
    let config = Config::load(
        &flags,
        environment(&[
            ("EKOKV_LISTEN", "127.0.0.1:2"),
            ("EKOKV_DATA_DIR", "/from-environment"),
        ]),
    )
    .unwrap();
    assert_eq!(config.listen, "127.0.0.1:3");
    assert_eq!(config.data_dir, PathBuf::from("/from-environment"));
    assert_eq!(config.max_batch_keys, 7);
    assert_eq!(config.values, Values::Envelope);
}

#[test]
fn every_setting_is_read_from_the_environment() {
    let config = Config::load(
        &Flags::default(),
        environment(&[
            ("EKOKV_LISTEN", "[::1]:0"),
            ("EKOKV_DATA_DIR", "d"),
            ("EKOKV_DURABILITY", "interval=200ms"),
            ("EKOKV_TOKEN_TTL", "10m"),
            ("EKOKV_MAX_KEY_BYTES", "100"),
            ("EKOKV_MAX_VALUE_BYTES", "1KiB"),
            ("EKOKV_MAX_BODY_BYTES", "2KiB"),
            ("EKOKV_MAX_BATCH_KEYS", "3"),
            ("EKOKV_MAX_MEMORY", "5MiB"),
            ("EKOKV_MAX_INFLIGHT_BYTES", "4KiB"),
            ("EKOKV_EXPIRED_RETENTION", "0s"),
            ("EKOKV_SEGMENT_BYTES", "1MiB"),
            ("EKOKV_SNAPSHOT_INTERVAL", "1m"),
            ("EKOKV_SNAPSHOT_GROWTH", "0.75"),
            ("EKOKV_VALUES", "envelope"),
            ("EKOKV_ADMIN_KEY", "an-admin-key-of-thirty-two-chars"),
        ]),
    )
    .unwrap();
    let expected = Config {
        listen: "[::1]:0".to_owned(),
        data_dir: PathBuf::from("d"),
        durability: Durability::Interval(Duration::from_millis(200)),
        token_ttl: Duration::from_secs(600),
        max_key_bytes: 100,
        max_value_bytes: 1024,
        max_body_bytes: 2048,
        max_batch_keys: 3,
        max_memory_bytes: 5 << 20,
        max_inflight_bytes: 4096,
        expired_retention: Duration::ZERO,
        segment_bytes: 1 << 20,
        schedule: Schedule {
            interval: Duration::from_secs(60),
            growth_percent: 75,
        },
        values: Values::Envelope,
        admin_key: Some(Secret::new("an-admin-key-of-thirty-two-chars")),
    };
    assert_eq!(config, expected);
}

#[test]
fn all_problems_are_named_at_once() {
    let path = file(
        "wrong.toml",
        "max_memory = '2%%'\nbogus = 1\nadmin_key = 'x'\ntoken-ttl = true",
    );
    let flags = Flags {
        config: Some(path),
        durability: Some("sometimes".to_owned()),
        segment_bytes: Some("1KiB".to_owned()),
        values: Some("enveloped".to_owned()),
        ..Flags::default()
    };
    let found = problems(
        &flags,
        &[
            ("EKOKV_LISTEN", "8080"),
            ("EKOKV_LISTN", "x"),
            ("EKOKV_ADMIN_KEY", "short"),
        ],
    );
    for expected in [
        "--durability is \"sometimes\"",
        "EKOKV_LISTN is not",
        "bogus in",
        "admin_key in",
        "token-ttl in",
        "max_memory in",
        "--listen is \"8080\"",
        "--segment-bytes is between",
        "--values is \"enveloped\": as-stored or envelope",
        "EKOKV_ADMIN_KEY has at least",
    ] {
        assert!(
            found.iter().any(|one| one.contains(expected)),
            "{expected}: {found:#?}"
        );
    }
}

#[test]
fn contradictions_are_problems() {
    let good = Config::default();
    let bad = [
        Config {
            max_body_bytes: 1,
            ..good.clone()
        },
        Config {
            max_key_bytes: 0,
            ..good.clone()
        },
        Config {
            max_key_bytes: 65_536,
            ..good.clone()
        },
        Config {
            max_batch_keys: 0,
            ..good.clone()
        },
        Config {
            token_ttl: Duration::from_secs(299),
            ..good.clone()
        },
        Config {
            durability: Durability::Interval(Duration::ZERO),
            ..good.clone()
        },
        Config {
            segment_bytes: 16 << 20,
            ..good.clone()
        },
        // What a request takes in the log beyond its body does not fit any more.
        Config {
            max_body_bytes: 63 << 20,
            segment_bytes: 63 << 20,
            ..good.clone()
        },
        Config {
            max_body_bytes: (64 << 20) - 1,
            ..good.clone()
        },
        Config {
            segment_bytes: (1 << 30) + 1,
            ..good.clone()
        },
        Config {
            max_inflight_bytes: (16 << 20) - 1,
            ..good.clone()
        },
        Config {
            admin_key: Some(Secret::new("abababababababababababababababababab")),
            ..good.clone()
        },
        Config {
            admin_key: Some(Secret::new("0123456789".repeat(103))),
            ..good.clone()
        },
        Config {
            admin_key: Some(Secret::new("1234567890123456789012345678901")),
            ..good.clone()
        },
        Config {
            listen: "127.0.0.1:65536".to_owned(),
            ..good.clone()
        },
        Config {
            listen: "::1:80".to_owned(),
            ..good.clone()
        },
    ];
    for config in bad {
        // Two settings fall together only where one contradicts two others.
        assert!(config.validate().is_err(), "{config:?}");
    }
    for listen in ["localhost:0", "0.0.0.0:8080", "[::]:1"] {
        assert_eq!(
            Config {
                listen: listen.to_owned(),
                ..good.clone()
            }
            .validate(),
            Ok(())
        );
    }
}

#[test]
fn the_admin_key_comes_from_a_file_without_its_newline_and_never_shows() {
    let path = file("admin-key", "an-admin-key-of-thirty-two-chars\n");
    let path = path.to_str().unwrap();
    let config = Config::load(
        &Flags::default(),
        environment(&[("EKOKV_ADMIN_KEY_FILE", path)]),
    )
    .unwrap();
    assert_eq!(
        config.admin_key,
        Some(Secret::new("an-admin-key-of-thirty-two-chars"))
    );
    assert!(!format!("{config:?}").contains("thirty-two"), "{config:?}");

    let both = [("EKOKV_ADMIN_KEY_FILE", path), ("EKOKV_ADMIN_KEY", "x")];
    assert!(problems(&Flags::default(), &both)[0].contains("both"));
    let missing = [("EKOKV_ADMIN_KEY_FILE", "/nowhere/at/all")];
    assert!(problems(&Flags::default(), &missing)[0].contains("/nowhere/at/all"));
}
