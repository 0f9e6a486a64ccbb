//! Configuration: every setting with its default, and whether the settings fit together.
//!
//! Precedence is flag, environment, settings file, default. Unknown settings are errors wherever
//! they stand, and all problems are named at once.

mod memory;
mod settings;
mod units;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use settings::Flags;

use crate::clock::Clock;
use crate::state::KEY_BYTES_MAX;
use crate::store::{Durability, Options, Schedule, Scrub, fits_segment};
use settings::Settings;
use units::Memory;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// SDKs fetch a new token 60 seconds before the old one ends; below this they would hardly use one.
const TOKEN_TTL_MIN: Duration = Duration::from_secs(5 * 60);
/// The longest life of a token: beyond this a leaked one is as good as a key.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// A leap that has held for a day is none that somebody is about to take back.
const CLOCK_GRACE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest time an expired key is remembered.
const RETENTION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
const SEGMENT_BYTES_MIN: u64 = MIB;
const SEGMENT_BYTES_MAX: u64 = GIB;
/// More often than this nothing is worth asking.
const SNAPSHOT_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Below this a store would write little but snapshots, above it a start would read little but log.
const GROWTH_PERCENT_MIN: u64 = 10;
const GROWTH_PERCENT_MAX: u64 = 10_000;
/// An admin key of fewer characters, or of fewer different ones, can be guessed.
const ADMIN_KEY_CHARS_MIN: usize = 32;
const ADMIN_KEY_DISTINCT_MIN: usize = 8;
/// A longer one would not fit into the request that exchanges it for a token.
const ADMIN_KEY_BYTES_MAX: usize = 1024;
/// What is assumed to be available where the machine does not say.
const MEMORY_BYTES_FALLBACK: u64 = GIB;
const MEMORY_PERCENT: u64 = 75;

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The form in which a get answers values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Values {
    /// As each was sent: bare, or in an envelope.
    #[default]
    AsStored,
    /// All as if they had been sent in envelopes, for clients that read nothing else.
    Envelope,
}

/// All settings of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Host and port to listen on; port 0 takes a free one.
    pub listen: String,
    /// Directory of the data.
    pub data_dir: PathBuf,
    /// When a write is answered.
    pub durability: Durability,
    /// Life of a token.
    pub token_ttl: Duration,
    /// Longest key in bytes.
    pub max_key_bytes: u64,
    /// Largest value in bytes.
    pub max_value_bytes: u64,
    /// Largest request body in bytes.
    pub max_body_bytes: u64,
    /// Most keys of a batch.
    pub max_batch_keys: u64,
    /// Estimated memory of the state, in bytes, beyond which it may not grow.
    pub max_memory_bytes: u64,
    /// Bytes of large requests and answers under way.
    pub max_inflight_bytes: u64,
    /// How long an expired key is remembered.
    pub expired_retention: Duration,
    /// Length of a log segment in bytes.
    pub segment_bytes: u64,
    /// How long a leap of the wall clock that nothing confirms must hold before it counts.
    pub clock_grace: Duration,
    /// When the log is folded into snapshots.
    pub schedule: Schedule,
    /// The form in which a get answers values.
    pub values: Values,
    /// An admin key that replaces the bootstrap admin key.
    pub admin_key: Option<Secret>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            data_dir: PathBuf::from("./data"),
            durability: Durability::Always,
            token_ttl: Duration::from_secs(3600),
            max_key_bytes: KIB,
            max_value_bytes: 8 * MIB,
            max_body_bytes: 16 * MIB,
            max_batch_keys: 10_000,
            max_memory_bytes: share(MEMORY_PERCENT),
            max_inflight_bytes: 256 * MIB,
            expired_retention: Duration::from_secs(10 * 60),
            segment_bytes: 64 * MIB,
            clock_grace: Duration::from_secs(10 * 60),
            schedule: Schedule::default(),
            values: Values::AsStored,
            admin_key: None,
        }
    }
}

/// So many hundredths of the memory that is available.
fn share(percent: u64) -> u64 {
    let available = memory::available_bytes().unwrap_or(MEMORY_BYTES_FALLBACK);
    (available / 100).saturating_mul(percent)
}

/// Everything that is wrong with the settings: one sentence each, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// The sentences.
    #[must_use]
    pub fn sentences(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// The settings that flags, environment and settings file give, valid together.
    ///
    /// # Errors
    /// Every problem of every source and every contradiction between settings.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Problems> {
        let mut given = Settings::gather(flags, environment);
        let default = Self::default();
        let config = Self {
            listen: given.parse("listen", default.listen, |text| Ok(text.trim().to_owned())),
            data_dir: given.parse("data-dir", default.data_dir, |text| Ok(PathBuf::from(text))),
            durability: given.parse("durability", default.durability, units::durability),
            token_ttl: given.parse("token-ttl", default.token_ttl, units::duration),
            max_key_bytes: given.parse("max-key-bytes", default.max_key_bytes, units::size),
            max_value_bytes: given.parse("max-value-bytes", default.max_value_bytes, units::size),
            max_body_bytes: given.parse("max-body-bytes", default.max_body_bytes, units::size),
            max_batch_keys: given.parse("max-batch-keys", default.max_batch_keys, units::count),
            max_memory_bytes: given.parse("max-memory", default.max_memory_bytes, |text| {
                units::memory(text).map(|memory| match memory {
                    Memory::Bytes(bytes) => bytes,
                    Memory::Percent(percent) => share(percent),
                })
            }),
            max_inflight_bytes: given.parse(
                "max-inflight-bytes",
                default.max_inflight_bytes,
                units::size,
            ),
            expired_retention: given.parse(
                "expired-retention",
                default.expired_retention,
                units::duration,
            ),
            segment_bytes: given.parse("segment-bytes", default.segment_bytes, units::size),
            clock_grace: given.parse("clock-grace", default.clock_grace, units::duration),
            schedule: Schedule {
                interval: given.parse(
                    "snapshot-interval",
                    default.schedule.interval,
                    units::duration,
                ),
                growth_percent: given.parse(
                    "snapshot-growth",
                    default.schedule.growth_percent,
                    units::hundredths,
                ),
            },
            values: given.parse("values", default.values, |text| match text.trim() {
                "as-stored" => Ok(Values::AsStored),
                "envelope" => Ok(Values::Envelope),
                _ => Err("as-stored or envelope is expected".to_owned()),
            }),
            admin_key: given.admin_key.take().map(Secret),
        };
        let mut problems = given.problems;
        if let Err(Problems(contradictions)) = config.validate() {
            problems.extend(contradictions);
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(Problems(problems))
        }
    }

    /// Whether the settings make sense, each alone and all together.
    ///
    /// # Errors
    /// Every problem there is.
    pub fn validate(&self) -> Result<(), Problems> {
        let key_bytes_max = u64::try_from(KEY_BYTES_MAX).unwrap_or(u64::MAX);
        let needed = fits_segment(
            self.segment_bytes,
            self.max_body_bytes,
            self.max_batch_keys,
            self.max_key_bytes,
        )
        .err();
        let rules = [
            (
                port(&self.listen).is_some(),
                format!("--listen is {:?}: host:port is expected", self.listen),
            ),
            (
                !self.data_dir.as_os_str().is_empty(),
                "--data-dir is empty".to_owned(),
            ),
            (
                self.durability != Durability::Interval(Duration::ZERO),
                "--durability interval=0s: a sync takes time, use always for one per group of \
                 writes"
                    .to_owned(),
            ),
            (
                (TOKEN_TTL_MIN..=TOKEN_TTL_MAX).contains(&self.token_ttl),
                "--token-ttl is at least 5m, because clients fetch a new token 60 seconds early, \
                 and at most 366days"
                    .to_owned(),
            ),
            (
                (1..=key_bytes_max).contains(&self.max_key_bytes),
                format!("--max-key-bytes is between 1 and {key_bytes_max}"),
            ),
            (
                self.max_value_bytes >= 1,
                "--max-value-bytes is at least 1".to_owned(),
            ),
            (
                self.max_body_bytes >= self.max_value_bytes,
                format!(
                    "--max-body-bytes ({}) is at least --max-value-bytes ({})",
                    self.max_body_bytes, self.max_value_bytes
                ),
            ),
            (
                self.max_batch_keys >= 1,
                "--max-batch-keys is at least 1".to_owned(),
            ),
            (
                self.max_memory_bytes >= MIB,
                "--max-memory is at least 1MiB".to_owned(),
            ),
            (
                self.max_inflight_bytes >= self.max_body_bytes,
                format!(
                    "--max-inflight-bytes ({}) is at least --max-body-bytes ({}), or the largest \
                     body could never be read",
                    self.max_inflight_bytes, self.max_body_bytes
                ),
            ),
            (
                self.expired_retention <= RETENTION_MAX,
                "--expired-retention is at most 366days".to_owned(),
            ),
            (
                (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes),
                "--segment-bytes is between 1MiB and 1GiB".to_owned(),
            ),
            (
                self.clock_grace <= CLOCK_GRACE_MAX,
                "--clock-grace is at most 1day".to_owned(),
            ),
            (
                self.schedule.interval >= SNAPSHOT_INTERVAL_MIN,
                "--snapshot-interval is at least 1s".to_owned(),
            ),
            (
                (GROWTH_PERCENT_MIN..=GROWTH_PERCENT_MAX).contains(&self.schedule.growth_percent),
                "--snapshot-growth is between 0.1 and 100".to_owned(),
            ),
            (
                needed.is_none(),
                format!(
                    "--segment-bytes ({}) is too small for the largest request that \
                     --max-body-bytes ({}) and --max-batch-keys ({}) allow, which takes {}: raise \
                     it or lower them",
                    self.segment_bytes,
                    self.max_body_bytes,
                    self.max_batch_keys,
                    needed.unwrap_or_default()
                ),
            ),
            (
                self.admin_key
                    .as_ref()
                    .is_none_or(|key| is_strong(key.reveal())),
                format!(
                    "EKOKV_ADMIN_KEY has at least {ADMIN_KEY_CHARS_MIN} characters, at least \
                     {ADMIN_KEY_DISTINCT_MIN} of them different, and at most {ADMIN_KEY_BYTES_MAX} \
                     bytes"
                ),
            ),
        ];
        let problems: Vec<_> = rules
            .into_iter()
            .filter(|(holds, _)| !holds)
            .map(|(_, sentence)| sentence)
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Problems(problems))
        }
    }

    /// What the store needs of the settings, and the clock.
    #[must_use]
    pub fn store_options(&self, clock: Arc<dyn Clock>) -> Options {
        Options {
            data_dir: self.data_dir.clone(),
            durability: self.durability,
            segment_bytes: self.segment_bytes,
            schedule: self.schedule,
            scrub: Scrub::default(),
            max_memory_bytes: self.max_memory_bytes,
            expired_retention: self.expired_retention,
            max_body_bytes: self.max_body_bytes,
            max_batch_keys: self.max_batch_keys,
            max_key_bytes: self.max_key_bytes,
            clock_grace: self.clock_grace,
            admin_key: self.admin_key.as_ref().map(|key| key.reveal().to_owned()),
            clock,
            workers: None,
        }
    }

    /// The durability mode as it is written in settings.
    #[must_use]
    pub fn durability_text(&self) -> String {
        units::durability_text(self.durability)
    }
}

/// The port of `host:port`, if the text has that shape.
fn port(listen: &str) -> Option<u16> {
    if let Ok(address) = listen.parse::<SocketAddr>() {
        return Some(address.port());
    }
    let (host, port) = listen.rsplit_once(':')?;
    // An IPv6 address would have parsed above; what is left with a colon is a slip.
    if host.is_empty() || host.contains([':', '/', ' ']) {
        None
    } else {
        port.parse().ok()
    }
}

/// Whether an admin key is long and varied enough, and not too long.
fn is_strong(key: &str) -> bool {
    let distinct: std::collections::BTreeSet<char> = key.chars().collect();
    key.chars().count() >= ADMIN_KEY_CHARS_MIN
        && distinct.len() >= ADMIN_KEY_DISTINCT_MIN
        && key.len() <= ADMIN_KEY_BYTES_MAX
}

#[cfg(test)]
mod tests;
