//! The settings by name, and where their texts come from: flag, environment, file.
//!
//! Texts are gathered first and parsed later, so that every problem of every source is named in
//! one go. A secret has no flag (other users see a process's flags) and no place in the file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use clap::Args;

/// What the environment variables of ekokv begin with; an unknown one is an error.
const ENVIRONMENT_PREFIX: &str = "EKOKV_";

/// The admin key's variable; with this suffix it names a file that holds the key.
const ADMIN_KEY: &str = "EKOKV_ADMIN_KEY";
const FILE_SUFFIX: &str = "_FILE";

/// The variable of `--config`.
const CONFIG: &str = "EKOKV_CONFIG";

/// The flags of `ekokv serve`. Each has an environment variable, and but for `--config` a line in
/// the settings file.
#[derive(Debug, Default, Clone, Args)]
pub struct Flags {
    /// Settings file in TOML: the flags' names without the dashes in front, either `data-dir` or
    /// `data_dir` [env: EKOKV_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [env: EKOKV_LISTEN] [default:
    /// 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Directory of the data; created if missing [env: EKOKV_DATA_DIR] [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// When a write is answered: always (after it is synced), interval=DURATION or os (after it
    /// is written) [env: EKOKV_DURABILITY] [default: always]
    #[arg(long, value_name = "MODE")]
    pub durability: Option<String>,
    /// Life of a token; at least 5m [env: EKOKV_TOKEN_TTL] [default: 1h]
    #[arg(long, value_name = "DURATION")]
    pub token_ttl: Option<String>,
    /// Longest key [env: EKOKV_MAX_KEY_BYTES] [default: 1KiB]
    #[arg(long, value_name = "SIZE")]
    pub max_key_bytes: Option<String>,
    /// Largest value [env: EKOKV_MAX_VALUE_BYTES] [default: 8MiB]
    #[arg(long, value_name = "SIZE")]
    pub max_value_bytes: Option<String>,
    /// Largest request body [env: EKOKV_MAX_BODY_BYTES] [default: 16MiB]
    #[arg(long, value_name = "SIZE")]
    pub max_body_bytes: Option<String>,
    /// Most keys of a batch [env: EKOKV_MAX_BATCH_KEYS] [default: 10000]
    #[arg(long, value_name = "COUNT")]
    pub max_batch_keys: Option<String>,
    /// Memory of the store, as a size or a share of what is available; beyond it, writes that grow
    /// the store are refused [env: EKOKV_MAX_MEMORY] [default: 75%]
    #[arg(long, value_name = "SIZE|PERCENT")]
    pub max_memory: Option<String>,
    /// Memory of requests and answers under way; beyond it, requests are told to come back [env:
    /// EKOKV_MAX_INFLIGHT_BYTES] [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub max_inflight_bytes: Option<String>,
    /// How long an expired key (not its value) is remembered [env: EKOKV_EXPIRED_RETENTION]
    /// [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub expired_retention: Option<String>,
    /// Length of a log segment [env: EKOKV_SEGMENT_BYTES] [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub segment_bytes: Option<String>,
    /// How long a leap of the clock that the time since boot does not confirm must hold before it
    /// counts; 0s believes each at once [env: EKOKV_CLOCK_GRACE] [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub clock_grace: Option<String>,
    /// How often the log may be folded into a snapshot though it has grown little
    /// [env: EKOKV_SNAPSHOT_INTERVAL] [default: 15m]
    #[arg(long, value_name = "DURATION")]
    pub snapshot_interval: Option<String>,
    /// Fold the log when it has grown to so many times the snapshot (and 64 MiB)
    /// [env: EKOKV_SNAPSHOT_GROWTH] [default: 0.5]
    #[arg(long, value_name = "FACTOR")]
    pub snapshot_growth: Option<String>,
    /// Form of the values that a get answers: as-stored (as each was sent) or envelope (all as
    /// {"value": ...}) [env: EKOKV_VALUES] [default: as-stored]
    #[arg(long, value_name = "FORM")]
    pub values: Option<String>,
}

impl Flags {
    /// The settings that every source may give, by their names: the one list of them.
    fn named(&self) -> [(&'static str, &Option<String>); 16] {
        [
            ("listen", &self.listen),
            ("data-dir", &self.data_dir),
            ("durability", &self.durability),
            ("token-ttl", &self.token_ttl),
            ("max-key-bytes", &self.max_key_bytes),
            ("max-value-bytes", &self.max_value_bytes),
            ("max-body-bytes", &self.max_body_bytes),
            ("max-batch-keys", &self.max_batch_keys),
            ("max-memory", &self.max_memory),
            ("max-inflight-bytes", &self.max_inflight_bytes),
            ("expired-retention", &self.expired_retention),
            ("segment-bytes", &self.segment_bytes),
            ("clock-grace", &self.clock_grace),
            ("snapshot-interval", &self.snapshot_interval),
            ("snapshot-growth", &self.snapshot_growth),
            ("values", &self.values),
        ]
    }
}

/// The environment variable of a setting.
fn variable(name: &str) -> String {
    format!(
        "{ENVIRONMENT_PREFIX}{}",
        name.replace('-', "_").to_ascii_uppercase()
    )
}

/// The text of a setting and, for messages, where it was given.
struct Given {
    text: String,
    place: String,
}

/// What was given, source by precedence, and what is wrong so far.
#[derive(Default)]
pub(super) struct Settings {
    given: BTreeMap<&'static str, Given>,
    /// The admin key, if one was given.
    pub(super) admin_key: Option<String>,
    /// Sentences that name a setting and what is wrong with it.
    pub(super) problems: Vec<String>,
}

impl Settings {
    /// Gathers what flags, environment and file say; the first that names a setting wins.
    pub(super) fn gather(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let mut settings = Self::default();
        let mut environment = settings.variables(environment);
        for (name, text) in flags.named() {
            if let Some(text) = text {
                settings.offer(name, text.clone(), format!("--{name}"));
            }
        }
        for (name, _) in flags.named() {
            let variable = variable(name);
            if let Some(text) = environment.remove(&variable) {
                settings.offer(name, text, variable);
            }
        }
        let file = flags
            .config
            .clone()
            .or(environment.remove(CONFIG).map(PathBuf::from));
        settings.admin_key(&mut environment);
        for unknown in environment.keys() {
            settings
                .problems
                .push(format!("{unknown} is not an environment variable of ekokv"));
        }
        if let Some(path) = file {
            settings.file(flags, &path);
        }
        settings
    }

    /// The value of a setting, or its default.
    pub(super) fn parse<T>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let Some(given) = self.given.get(name) else {
            return default;
        };
        match parse(&given.text) {
            Ok(value) => value,
            Err(problem) => {
                self.problems
                    .push(format!("{} is {:?}: {problem}", given.place, given.text));
                default
            }
        }
    }

    /// The variables that are meant for ekokv, as text.
    fn variables(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<String, String> {
        let mut ours = BTreeMap::new();
        for (name, value) in environment {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if !name.starts_with(ENVIRONMENT_PREFIX) {
                continue;
            }
            match value.into_string() {
                Ok(value) => {
                    ours.insert(name, value);
                }
                Err(_) => self.problems.push(format!("{name} is not UTF-8")),
            }
        }
        ours
    }

    /// Takes a text unless a source before has given one.
    fn offer(&mut self, name: &'static str, text: String, place: String) {
        self.given.entry(name).or_insert(Given { text, place });
    }

    /// Takes the admin key from the environment or from the file that the environment names.
    fn admin_key(&mut self, environment: &mut BTreeMap<String, String>) {
        let direct = environment.remove(ADMIN_KEY);
        let file = environment.remove(&format!("{ADMIN_KEY}{FILE_SUFFIX}"));
        self.admin_key = match (direct, file) {
            (Some(_), Some(_)) => {
                self.problems.push(format!(
                    "{ADMIN_KEY} and {ADMIN_KEY}{FILE_SUFFIX} are both set: which one counts?"
                ));
                None
            }
            (direct, None) => direct,
            (None, Some(path)) => match fs::read_to_string(&path) {
                // Editors end a file with a newline; it is not part of the key.
                Ok(text) => Some(text.trim_end_matches(['\n', '\r']).to_owned()),
                Err(error) => {
                    self.problems.push(format!(
                        "{ADMIN_KEY}{FILE_SUFFIX}: cannot read {path:?}: {error}"
                    ));
                    None
                }
            },
        };
    }

    /// Takes what the settings file says and no source before it.
    fn file(&mut self, flags: &Flags, path: &PathBuf) {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.problems
                    .push(format!("cannot read the settings file {path:?}: {error}"));
                return;
            }
        };
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                self.problems
                    .push(format!("the settings file {path:?} is not TOML: {error}"));
                return;
            }
        };
        let mut seen = BTreeMap::new();
        for (key, value) in table {
            let place = format!("{key} in {}", path.display());
            let kebab = key.replace('_', "-");
            let Some((name, _)) = flags.named().into_iter().find(|(name, _)| *name == kebab) else {
                self.problems.push(match kebab.as_str() {
                    "admin-key" => format!(
                        "{place}: a secret is not read from the settings file, set {ADMIN_KEY} or \
                         {ADMIN_KEY}{FILE_SUFFIX}"
                    ),
                    _ => format!("{place} is not a setting of ekokv"),
                });
                continue;
            };
            if let Some(other) = seen.insert(name, key.clone()) {
                self.problems
                    .push(format!("{place} is also given as {other}"));
                continue;
            }
            match value {
                toml::Value::String(text) => self.offer(name, text, place),
                toml::Value::Integer(number) => self.offer(name, number.to_string(), place),
                toml::Value::Float(number) => self.offer(name, number.to_string(), place),
                _ => self
                    .problems
                    .push(format!("{place}: a string or a number is expected")),
            }
        }
    }
}
