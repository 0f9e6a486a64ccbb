use super::*;

const GRACE_MS: u64 = 600_000;
const BEGIN_MS: u64 = 1_800_000_000_000;
const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * DAY_MS;

/// A clock and what it is told.
struct Bench {
    clock: StoreClock,
    now: Moment,
}

impl Bench {
    /// The log ends at `last`, and the wall clock shows `wall`.
    fn new(last: u64, wall: u64) -> Self {
        let now = Moment {
            wall_ms: wall,
            boot_ms: 77_000,
        };
        Self {
            clock: StoreClock::new(GRACE_MS, Some(last), now),
            now,
        }
    }

    fn passes(&mut self, ms: u64) -> Time {
        self.now.wall_ms += ms;
        self.now.boot_ms += ms;
        self.clock.tell(self.now)
    }

    fn wall_steps(&mut self, ms: i64) -> Time {
        self.now.wall_ms = self.now.wall_ms.saturating_add_signed(ms);
        self.clock.tell(self.now)
    }
}

fn both(time: u64) -> Time {
    Time {
        shown: time,
        logged: time,
    }
}

fn ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap()
}

#[test]
fn time_that_passes_is_the_wall_clocks() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS);
    assert_eq!(bench.clock.time(), both(BEGIN_MS));
    for step in [1, 999, 59_000, 30 * DAY_MS] {
        let time = bench.passes(step);
        assert_eq!(time, both(bench.now.wall_ms));
    }
    assert!(!bench.clock.in_doubt());
    assert_eq!(bench.clock.events(), []);
}

#[test]
fn readings_that_differ_by_a_millisecond_use_nothing_up() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS);
    for index in 0..1_000_000_u64 {
        bench.now.boot_ms += 7;
        bench.now.wall_ms += [6, 8][(index % 2) as usize];
        let time = bench.clock.tell(bench.now);
        assert!(time.shown.abs_diff(bench.now.wall_ms) <= 1);
    }
    assert_eq!(bench.clock.events(), []);
}

#[test]
fn row_48_a_clock_set_back_never_turns_time_back_and_a_minute_stays_a_minute() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS);
    assert_eq!(bench.wall_steps(-ms(HOUR_MS)), both(BEGIN_MS));
    assert_eq!(bench.clock.events(), [Event::Behind(HOUR_MS)]);
    let mut last = BEGIN_MS;
    for _ in 0..60_000 {
        let time = bench.passes(1);
        assert_eq!(time.shown, time.logged);
        assert!(time.shown >= last);
        last = time.shown;
    }
    assert_eq!(last, BEGIN_MS + 59_400, "a hundredth slower");
    assert!(!bench.clock.in_doubt());
    // Some day the wall clock has caught up, and takes over.
    let time = bench.passes(99 * HOUR_MS);
    assert!(time.shown > bench.now.wall_ms);
    assert_eq!(bench.clock.events(), []);
    let time = bench.passes(HOUR_MS);
    assert_eq!(time, both(bench.now.wall_ms));
    assert_eq!(bench.clock.events(), [Event::CaughtUp]);
}

#[test]
fn row_48_a_clock_that_comes_back_soon_takes_over_at_once() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS);
    bench.wall_steps(-ms(HOUR_MS));
    bench.passes(30 * 60_000);
    let time = bench.wall_steps(ms(HOUR_MS));
    assert_eq!(time, both(BEGIN_MS + 30 * 60_000));
    assert!(!bench.clock.in_doubt());
}

#[test]
fn row_48_a_start_behind_the_log_goes_on_from_the_log() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS - HOUR_MS);
    assert_eq!(bench.clock.time(), both(BEGIN_MS));
    assert_eq!(bench.clock.events(), [Event::Behind(HOUR_MS)]);
    assert_eq!(bench.passes(60_000), both(BEGIN_MS + 59_400));
    assert!(!bench.clock.in_doubt());
}

#[test]
fn row_49_a_small_step_is_followed_and_many_of_them_are_a_leap() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS);
    assert_eq!(
        bench.wall_steps(ms(STEP_MS)),
        both(BEGIN_MS + STEP_MS),
        "one step"
    );
    // All that a window allows is used up.
    assert_eq!(bench.wall_steps(1), both(BEGIN_MS + STEP_MS));
    assert!(bench.clock.in_doubt());
    bench.wall_steps(-1);
    assert!(!bench.clock.in_doubt());
    // A step a window can go on for ever.
    for _ in 0..100 {
        bench.passes(WINDOW_MS);
        assert_eq!(bench.wall_steps(ms(STEP_MS)), both(bench.now.wall_ms));
        assert!(!bench.clock.in_doubt());
    }
}

#[test]
fn row_49_a_leap_is_neither_shown_nor_logged_until_it_has_held_for_the_grace() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS);
    assert_eq!(bench.wall_steps(ms(YEAR_MS)), both(BEGIN_MS));
    assert_eq!(bench.clock.events(), [Event::Leapt(YEAR_MS)]);
    for second in 1..GRACE_MS / 1_000 {
        let time = bench.passes(1_000);
        assert_eq!(time, both(BEGIN_MS + second * 1_000));
        assert!(bench.clock.in_doubt());
        assert_eq!(bench.clock.events(), [], "it is told of once");
    }
    assert_eq!(bench.passes(1_000), both(BEGIN_MS + GRACE_MS + YEAR_MS));
    assert_eq!(bench.clock.events(), [Event::Accepted]);
    assert!(!bench.clock.in_doubt());
    assert_eq!(bench.passes(1), both(BEGIN_MS + GRACE_MS + YEAR_MS + 1));
}

#[test]
fn row_49_a_leap_that_is_taken_back_has_changed_nothing() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS);
    bench.wall_steps(ms(YEAR_MS));
    bench.passes(GRACE_MS - 1);
    bench.clock.events();
    assert_eq!(
        bench.wall_steps(-ms(YEAR_MS)),
        both(BEGIN_MS + GRACE_MS - 1)
    );
    assert_eq!(bench.clock.events(), [Event::TakenBack]);
    assert!(!bench.clock.in_doubt());
    // Another one waits for a grace of its own.
    bench.wall_steps(ms(YEAR_MS));
    bench.passes(GRACE_MS - 1);
    assert!(bench.clock.in_doubt());
}

#[test]
fn row_49_another_leap_begins_the_grace_again() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS);
    bench.wall_steps(ms(YEAR_MS));
    bench.passes(GRACE_MS / 2);
    bench.wall_steps(-ms(YEAR_MS / 2));
    assert_eq!(bench.clock.events().len(), 2);
    bench.passes(GRACE_MS - 1);
    assert!(bench.clock.in_doubt());
    assert_eq!(bench.passes(1), both(bench.now.wall_ms));
}

#[test]
fn without_grace_every_leap_counts_at_once() {
    let now = Moment {
        wall_ms: BEGIN_MS + YEAR_MS,
        boot_ms: 0,
    };
    let mut clock = StoreClock::new(0, Some(BEGIN_MS), now);
    assert_eq!(clock.time(), both(BEGIN_MS + YEAR_MS));
    let wall_ms = BEGIN_MS + 2 * YEAR_MS;
    assert_eq!(clock.tell(Moment { wall_ms, ..now }), both(wall_ms));
    assert!(!clock.in_doubt());
}

#[test]
fn a_store_without_a_log_begins_at_the_wall_clock() {
    let now = Moment {
        wall_ms: BEGIN_MS,
        boot_ms: 5,
    };
    let clock = StoreClock::new(GRACE_MS, None, now);
    assert_eq!(clock.time(), both(BEGIN_MS));
    assert!(!clock.in_doubt());
}

#[test]
fn a_start_within_a_day_of_the_log_believes_the_wall_clock() {
    let bench = Bench::new(BEGIN_MS, BEGIN_MS + DAY_MS);
    assert_eq!(bench.clock.time(), both(BEGIN_MS + DAY_MS));
    assert!(!bench.clock.in_doubt());
}

#[test]
fn row_49_a_start_beyond_a_day_shows_the_wall_clock_and_logs_what_has_passed() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS + YEAR_MS);
    assert_eq!(bench.clock.events(), [Event::Leapt(YEAR_MS)]);
    for passed in 1..GRACE_MS / 1_000 {
        let time = bench.passes(1_000);
        assert_eq!(time.shown, bench.now.wall_ms);
        assert_eq!(time.logged, BEGIN_MS + passed * 1_000);
        assert!(bench.clock.in_doubt());
        assert!(bench.clock.may_run_back());
    }
    assert_eq!(bench.passes(1_000), both(bench.now.wall_ms));
    assert_eq!(bench.clock.events(), [Event::Accepted]);
    assert!(!bench.clock.may_run_back());
}

#[test]
fn row_49_a_leap_at_a_start_that_is_taken_back_is_as_if_the_start_were_then() {
    let begun = |wall: i64| {
        let mut bench = Bench::new(BEGIN_MS, BEGIN_MS + YEAR_MS);
        bench.passes(1_000);
        bench.clock.events();
        bench.wall_steps(wall - ms(YEAR_MS));
        (bench.clock.time(), bench.clock.events(), bench)
    };
    // Within a day of the log: believed.
    let (time, events, _) = begun(ms(HOUR_MS));
    assert_eq!(time, both(BEGIN_MS + HOUR_MS + 1_000));
    assert_eq!(events, [Event::TakenBack]);
    // Behind the log: time goes on from there.
    let (time, events, _) = begun(-ms(HOUR_MS));
    assert_eq!(time, both(BEGIN_MS + 1_000));
    assert_eq!(events, [Event::TakenBack, Event::Behind(HOUR_MS)]);
    // Still more than a day ahead: in doubt, for a grace of its own.
    let (time, events, mut bench) = begun(ms(3 * DAY_MS));
    assert_eq!(time.shown, BEGIN_MS + 3 * DAY_MS + 1_000);
    assert_eq!(time.logged, BEGIN_MS + 1_000);
    assert_eq!(events, [Event::TakenBack, Event::Leapt(3 * DAY_MS)]);
    bench.passes(GRACE_MS - 1);
    assert!(bench.clock.in_doubt());
    assert_eq!(bench.passes(1), both(bench.now.wall_ms));
}

#[test]
fn row_49_a_leap_on_top_of_one_at_the_start_is_not_shown_and_both_wait_for_it() {
    let mut bench = Bench::new(BEGIN_MS, BEGIN_MS + YEAR_MS);
    bench.passes(GRACE_MS / 2);
    let time = bench.wall_steps(ms(YEAR_MS));
    assert_eq!(time.shown, BEGIN_MS + YEAR_MS + GRACE_MS / 2);
    let time = bench.passes(GRACE_MS - 1);
    assert!(time.shown < BEGIN_MS + YEAR_MS + DAY_MS);
    assert_eq!(time.logged, BEGIN_MS + GRACE_MS / 2 + GRACE_MS - 1);
    assert_eq!(bench.passes(1), both(bench.now.wall_ms));
    assert!(!bench.clock.in_doubt());
}

#[test]
fn logged_time_never_runs_back_and_shown_time_is_never_behind_it() {
    let mut seed = 1_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let (mut steps, mut doubtful) = (0, 0);
    for _ in 0..2_000 {
        let mut bench = Bench::new(
            BEGIN_MS,
            BEGIN_MS.saturating_add_signed(ms(draw(4 * DAY_MS)) - ms(2 * DAY_MS)),
        );
        for _ in 0..100 {
            let before = bench.clock.time();
            let started_in_doubt = bench.clock.may_run_back();
            let passed = if draw(3) == 0 { 0 } else { draw(2 * GRACE_MS) };
            bench.now.boot_ms += passed;
            bench.now.wall_ms += passed;
            if draw(4) == 0 {
                let most = [1_000, HOUR_MS, 4 * DAY_MS][draw(3) as usize];
                let step = ms(draw(most)) - ms(most / 2);
                bench.now.wall_ms = bench.now.wall_ms.saturating_add_signed(step);
            }
            let after = bench.clock.tell(bench.now);
            assert!(after.logged >= before.logged, "{before:?} {after:?}");
            assert!(after.shown >= after.logged, "{after:?}");
            assert!(
                after.shown >= before.shown || started_in_doubt,
                "{before:?} {after:?}"
            );
            // What passes is what passes since boot, or a leap that has held, or a start.
            assert!(after.logged >= before.logged + passed - passed / SLOWER - 1);
            if !bench.clock.may_run_back() {
                assert_eq!(after.shown, after.logged);
            }
            steps += 1;
            doubtful += u64::from(bench.clock.in_doubt());
        }
    }
    println!("{steps} steps, {doubtful} of them in doubt");
    assert!(doubtful > steps / 20);
}
