//! Schedules against tables that `oracle/schedules.py` wrote, and their spelling.

use std::fmt::{Debug, Display};
use std::path::Path;
use std::str::FromStr;

use bitnet_training::schedule::{
    DecayShape, LambdaSchedule, LearningRate, LearningRateSchedule, Progress, Span, WeightDecay, WeightDecaySchedule,
};
use proptest::prelude::*;

const TOTAL: u64 = 400;

/// Compares every step with the table, once by steps and once by a clock that ticks once a step.
fn check(name: &str, value: impl Fn(Progress) -> f64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/schedule-{name}.csv"));
    let table = std::fs::read_to_string(&path).unwrap();
    let mut rows = 0;
    for row in table.lines().skip(1) {
        let (step, wanted) = row.split_once(',').unwrap();
        let (step, wanted): (u64, f64) = (step.parse().unwrap(), wanted.parse().unwrap());
        let close = |got: f64| (got - wanted).abs() <= 1e-12 * wanted.abs().max(1e-3);
        let got = value(Progress::of_steps(step, TOTAL));
        assert!(close(got), "{name}: step {step}: {got} instead of {wanted}");
        // Before the first step a clock cannot know how long one takes.
        let timed = value(Progress::of_time(step, step as f64 * 0.25, TOTAL as f64 * 0.25));
        assert!(step == 0 || close(timed), "{name}: step {step}: {timed} instead of {wanted} by the clock");
        rows += 1;
    }
    assert_eq!(rows, TOTAL);
}

fn learning_rate(name: &str, peak: f64, warmup: &str, schedule: &str) {
    let rate = LearningRate { peak, warmup: warmup.parse().unwrap(), schedule: schedule.parse().unwrap() };
    check(&format!("learning_rate-{name}"), |progress| rate.at(progress));
}

#[test]
fn learning_rates_are_those_of_the_oracle() {
    learning_rate("two_stage", 1.5e-3, "40", "two-stage");
    learning_rate("two_stage-late", 2.4e-3, "2%", "two-stage:switch=0.6666666666666666,drop=0.625");
    learning_rate("wsd", 1e-3, "40", "wsd");
    learning_rate("wsd-root", 1e-3, "10%", "wsd:decay=0.25,shape=1-sqrt,floor=0.1");
    learning_rate("cosine", 3e-3, "40", "cosine");
    learning_rate("constant", 1e-4, "10", "constant");
}

#[test]
fn weight_decays_are_those_of_the_oracle() {
    let two_stage = |switch: f64| WeightDecaySchedule::TwoStage { switch };
    for (name, schedule) in [
        ("constant", WeightDecaySchedule::Constant),
        ("two_stage", two_stage(0.5)),
        ("two_stage-late", two_stage(2.0 / 3.0)),
        ("cosine", WeightDecaySchedule::Cosine),
    ] {
        let decay = WeightDecay { value: 0.1, schedule };
        check(&format!("weight_decay-{name}"), |progress| decay.at(progress));
    }
}

#[test]
fn lambdas_are_those_of_the_oracle() {
    for (name, schedule) in [("one", "one"), ("linear", "linear:over=150"), ("linear-share", "linear:over=10%")] {
        let lambda: LambdaSchedule = schedule.parse().unwrap();
        check(&format!("lambda-{name}"), |progress| lambda.at(progress));
    }
}

#[test]
fn the_nearer_of_two_limits_decides() {
    let steps = Progress::of_steps(100, 400);
    assert_eq!(steps.later(Progress::of_time(100, 30.0, 60.0)).fraction(), 0.5);
    assert_eq!(steps.later(Progress::of_time(100, 30.0, 600.0)).fraction(), 0.25);
}

#[test]
fn a_run_without_length_is_over() {
    for progress in [Progress::of_steps(3, 0), Progress::of_time(3, 1.0, 0.0), Progress::of_time(3, 1.0, f64::NAN)] {
        assert_eq!(progress.fraction(), 1.0);
    }
}

fn same<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(schedule: T) {
    assert_eq!(schedule.to_string().parse::<T>().unwrap(), schedule);
}

#[test]
fn short_names_have_the_usual_options() {
    let parse = |text: &str| text.parse::<LearningRateSchedule>().unwrap();
    assert_eq!(parse("two-stage"), LearningRateSchedule::default());
    assert_eq!(parse(" wsd : decay = 0.3 ").to_string(), "wsd:decay=0.3,shape=linear,floor=0");
    assert_eq!(parse("cosine"), LearningRateSchedule::Cosine { floor: 0.1 });
    assert_eq!("linear".parse(), Ok(LambdaSchedule::Linear { over: Span::Steps(1000) }));
    assert_eq!("7%".parse::<Span>().unwrap().to_string(), "7%");
}

#[test]
fn what_is_misspelled_is_refused_with_the_way_out() {
    for (text, reason) in [
        ("linear", "two-stage, wsd, cosine and constant"),
        ("wsd:decay", "key=value"),
        ("wsd:decay=2", "from 0 to 1"),
        ("wsd:decay=NaN", "from 0 to 1"),
        ("wsd:shape=square", "1-sqrt"),
        ("wsd:decay=0.1,decay=0.2", "given twice"),
        ("cosine:switch=0.5", "`cosine` has no option `switch`"),
    ] {
        let error = text.parse::<LearningRateSchedule>().unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(text), "{error}");
    }
    for text in ["", "-1", "2.5", "101%", "-1%", "NaN%", "x%"] {
        assert!(text.parse::<Span>().is_err(), "{text}");
    }
    assert!("sine".parse::<WeightDecaySchedule>().is_err());
    assert!("linear:over=ten".parse::<LambdaSchedule>().is_err());
}

#[test]
fn recipes_hold_schedules() {
    let recipe = "peak = 0.001\nwarmup = \"2%\"\nschedule = \"wsd:decay=0.3,shape=1-sqrt\"\n";
    let rate: LearningRate = toml::from_str(recipe).unwrap();
    let schedule = LearningRateSchedule::Wsd { decay: 0.3, shape: DecayShape::OneMinusSqrt, floor: 0.0 };
    assert_eq!(rate, LearningRate { peak: 0.001, warmup: Span::Share(0.02), schedule });
    assert_eq!(toml::from_str::<LearningRate>(&toml::to_string(&rate).unwrap()).unwrap(), rate);

    let rate: LearningRate = toml::from_str("peak = 0.001\nwarmup = 375").unwrap();
    assert_eq!(rate.warmup, Span::Steps(375));
    assert_eq!(toml::from_str::<LearningRate>(&toml::to_string(&rate).unwrap()).unwrap(), rate);

    for (wrong, reason) in [
        ("peak = 1\nwarmup = 0.02", "a share of the run"),
        ("peak = 1\nschedule = \"sine\"", "known are"),
        ("peak = 1\npeek = 2", "unknown field `peek`"),
        ("peak = -1", "not negative"),
        ("peak = nan", "not negative"),
    ] {
        let error = toml::from_str::<LearningRate>(wrong).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

proptest! {
    #[test]
    fn every_schedule_reads_what_it_prints(a in 0.0..=1.0, b in 0.0..=1.0, root: bool, steps: u64, percent in 0u64..=100) {
        let shape = if root { DecayShape::OneMinusSqrt } else { DecayShape::Linear };
        same(LearningRateSchedule::TwoStage { switch: a, drop: b });
        same(LearningRateSchedule::Wsd { decay: a, shape, floor: b });
        same(LearningRateSchedule::Cosine { floor: a });
        same(LearningRateSchedule::Constant);
        same(WeightDecaySchedule::Constant);
        same(WeightDecaySchedule::TwoStage { switch: a });
        same(WeightDecaySchedule::Cosine);
        same(LambdaSchedule::One);
        same(LambdaSchedule::Linear { over: Span::Steps(steps) });
        same(Span::Share(percent as f64 / 100.0));
    }

    #[test]
    fn no_schedule_leaves_its_bounds(
        step in 0u64..2000, total in 0u64..1000, elapsed in -1.0..100.0, limit in -1.0..100.0,
        share in 0.0..=1.0, steps in 0u64..2000, a in 0.0..=1.0, b in 0.0..=1.0,
    ) {
        let shape = DecayShape::OneMinusSqrt;
        for progress in [Progress::of_steps(step, total), Progress::of_time(step, elapsed, limit)] {
            for warmup in [Span::Steps(steps), Span::Share(share)] {
                for schedule in [
                    LearningRateSchedule::TwoStage { switch: a, drop: b },
                    LearningRateSchedule::Wsd { decay: a, shape, floor: b },
                    LearningRateSchedule::Cosine { floor: a },
                    LearningRateSchedule::Constant,
                ] {
                    let factor = LearningRate { peak: 1.0, warmup, schedule }.at(progress);
                    prop_assert!((0.0..=1.0 + 1e-12).contains(&factor), "{schedule}: {factor} at {progress:?}");
                }
                let lambda = LambdaSchedule::Linear { over: warmup }.at(progress);
                prop_assert!((0.0..=1.0).contains(&lambda));
            }
            for schedule in [WeightDecaySchedule::TwoStage { switch: a }, WeightDecaySchedule::Cosine] {
                let decay = WeightDecay { value: 1.0, schedule }.at(progress);
                prop_assert!((0.0..=1.0).contains(&decay));
            }
        }
    }
}
