//! `ekokv torture DIR`: kills and damage on the disk on which the data is to lie.
//!
//! What always holds:
//! - Everything is written into a directory of its own below `DIR`, which is removed at the end, whatever
//!   the end is, SIGINT and SIGTERM included; the servers are children of this process, on ports of the
//!   loopback, and are killed before it ends. Other signals may leave both behind.
//! - A write counts as acknowledged when its answer has come, whole, with status 200.
//! - It ends by itself.
//!
//! First servers are killed while clients write, compact and recover; after each kill every acknowledged
//! write must be there, with its version. Then the data dir that is left is damaged, file by file and place
//! by place: a start must serve all of it or refuse.

mod client;
mod damage;
mod draw;
mod kills;
mod scratch;
mod server;
mod writer;

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::store::Failure;
use draw::Draw;
use scratch::Scratch;

/// So many places are damaged for each kill.
const DAMAGE_PER_KILL: u32 = 8;

/// How much is done.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// How many servers are killed; eight times as many places are damaged
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub kills: u32,
    /// What is drawn, writes, moments and places, follows from this number; without it, it is a random
    /// one, which is printed
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

/// Runs the plan below `dir` and prints the counts. Ends early once `stop` is set.
///
/// # Errors
/// [`Failure::Damaged`] if a write that was acknowledged was lost, or damage was served in silence;
/// [`Failure::Settings`] if `dir` is no directory or holds a store; [`Failure::Storage`] if the disk or
/// the machine does not let it be done, or it was stopped.
pub fn run(dir: &Path, plan: &Plan, stop: &AtomicBool, out: &mut dyn Write) -> Result<(), Failure> {
    let seed = match plan.seed {
        Some(seed) => seed,
        None => draw::random_seed()?,
    };
    let scratch = Scratch::new(dir)?;
    let mut say = |line: &str| {
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(|error| Failure::Storage(format!("cannot write the output: {error}")))
    };
    say(&format!(
        "seed {seed}, {} kills below {}",
        plan.kills,
        dir.display()
    ))?;
    let mut draw = Draw::new(seed);
    let killed = kills::run(scratch.path(), plan.kills, stop, &mut draw)?;
    for line in killed.lines() {
        say(&line)?;
    }
    let cases = plan.kills.saturating_mul(DAMAGE_PER_KILL);
    let damaged = damage::run(scratch.path(), cases, stop, &mut draw)?;
    for line in damaged.lines() {
        say(&line)?;
    }
    let (lost, silent) = (killed.lost(), damaged.silent());
    if lost + silent == 0 {
        return say("nothing was lost");
    }
    Err(Failure::Damaged(format!(
        "{lost} acknowledged writes were lost to kills, {silent} cases of damage were served in silence: \
         do not keep data on this disk, and report this with the seed {seed}"
    )))
}

/// Ends what is under way if somebody asked for it.
fn go_on(stop: &AtomicBool) -> Result<(), Failure> {
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::Storage("stopped by a signal".to_owned()));
    }
    Ok(())
}
