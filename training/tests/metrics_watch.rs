//! What is said while a run goes on and when it is over: progress lines, alerts, the last line.

use bitnet_training::metrics::{
    LayerQuantization, Limits, Outcome, ProgressLine, StepRecord, Thresholds, Validation, Watch, final_line,
};

fn record(step: u64) -> StepRecord {
    StepRecord {
        step,
        train_loss: 1.77214,
        learning_rate: 1e-3,
        grad_norm: 0.53,
        elapsed_seconds: step as f64 * 0.5,
        tokens_per_second: 25_130.0,
        ..StepRecord::default()
    }
}

fn layers(zero_fraction: f64, flip_rate: f64) -> Option<Vec<LayerQuantization>> {
    let layer = |name: &str, zero_fraction| LayerQuantization {
        name: name.to_string(),
        zero_fraction,
        flip_rate,
        ..LayerQuantization::default()
    };
    Some(vec![layer("up", 0.4), layer("down", zero_fraction)])
}

#[test]
fn lines_come_every_so_often_and_for_what_matters() {
    let mut lines = ProgressLine::new(Limits { steps: Some(95), seconds: None }, 20);
    let mut printed = Vec::new();
    for step in 1..=95 {
        let valid =
            (step == 50).then_some(Validation { loss: 1.8, bits_per_byte: 2.5969, tokens: 100, accuracy: None });
        printed.extend(lines.line(&StepRecord { valid, ..record(step) }));
    }
    assert_eq!(
        printed,
        [
            "step  1/95  loss  1.7721  bpb      -  lr  1.00e-3  grad    0.530  tok/s  25.1k  eta -",
            "step 20/95  loss  1.7721  bpb      -  lr  1.00e-3  grad    0.530  tok/s  25.1k  eta 0:00:38",
            "step 40/95  loss  1.7721  bpb      -  lr  1.00e-3  grad    0.530  tok/s  25.1k  eta 0:00:28",
            "step 50/95  loss  1.7721  bpb  2.597  lr  1.00e-3  grad    0.530  tok/s  25.1k  eta 0:00:23",
            "step 60/95  loss  1.7721  bpb  2.597  lr  1.00e-3  grad    0.530  tok/s  25.1k  eta 0:00:18",
            "step 80/95  loss  1.7721  bpb  2.597  lr  1.00e-3  grad    0.530  tok/s  25.1k  eta 0:00:08",
            "step 95/95  loss  1.7721  bpb  2.597  lr  1.00e-3  grad    0.530  tok/s  25.1k  eta 0:00:00",
        ]
    );
}

#[test]
fn the_nearer_limit_is_the_end() {
    let eta = |limits| {
        let mut lines = ProgressLine::new(limits, 10);
        let last = (1..=10).filter_map(|step| lines.line(&record(step))).last().unwrap();
        last.rsplit(' ').next().unwrap().to_string()
    };
    assert_eq!(eta(Limits { steps: None, seconds: Some(65.0) }), "0:01:00");
    assert_eq!(eta(Limits { steps: Some(20_000), seconds: Some(65.0) }), "0:01:00");
    assert_eq!(eta(Limits { steps: Some(20), seconds: Some(65.0) }), "0:00:05");
    assert_eq!(eta(Limits { steps: Some(20_010), seconds: None }), "2:46:40");
    assert_eq!(eta(Limits::default()), "-");
}

#[test]
fn the_pace_forgets_a_slow_start() {
    let mut lines = ProgressLine::new(Limits { steps: Some(2000), seconds: None }, 1);
    let at = |step: u64| if step < 10 { step as f64 * 10.0 } else { 90.0 + (step - 9) as f64 * 0.5 };
    let mut eta = |step| lines.line(&StepRecord { elapsed_seconds: at(step), ..record(step) }).unwrap();
    assert!(eta(1).ends_with("eta -") && eta(2).ends_with("eta 5:33:00"));
    let last = (3..=1000).map(eta).last().unwrap();
    assert!(last.ends_with("eta 0:08:20"), "{last}");
}

#[test]
fn a_diverged_run_prints_on() {
    let mut lines = ProgressLine::new(Limits::default(), 1);
    let line = lines.line(&StepRecord { train_loss: f64::NAN, grad_norm: f64::INFINITY, ..record(7) }).unwrap();
    assert!(line.contains("loss     NaN") && line.contains("grad      inf"), "{line}");
}

/// What is said of `last` after a hundred steps of which nothing can be said.
fn said(last: StepRecord) -> Vec<String> {
    let before = |step| StepRecord { layers: layers(0.35, 1e-3), ..record(step) };
    let mut watch = Watch::new(Thresholds::default());
    assert!((1..=100).all(|step| watch.see(&before(step)).is_empty()));
    watch.see(&last).iter().map(ToString::to_string).collect()
}

#[test]
fn alerts_say_what_is_wrong() {
    let with = |zero_fraction, flip_rate| StepRecord { layers: layers(zero_fraction, flip_rate), ..record(101) };
    assert_eq!(said(record(101)), [""; 0]);
    assert_eq!(said(StepRecord { train_loss: f64::NAN, ..record(101) }), ["step 101: the loss is NaN"]);
    assert_eq!(
        said(StepRecord { grad_norm: 5.4, ..record(101) }),
        ["step 101: the gradient norm is 5.400, 10 times the usual 0.530"]
    );
    assert_eq!(said(StepRecord { grad_norm: 5.2, ..record(101) }), [""; 0]);
    assert_eq!(said(StepRecord { grad_norm: f64::NAN, ..record(101) }), ["step 101: the gradient norm is NaN"]);
    assert_eq!(said(with(0.75, 1e-3)), ["step 101: 75% of the trits of down are zero"]);
    assert_eq!(said(with(0.15, 1e-3)), ["step 101: 15% of the trits of down are zero"]);
    assert_eq!(said(with(0.35, 9e-6)), ["step 101: trits have frozen, 0.0009% flip where 0.100% did"]);
    // As it should at the end of a schedule.
    assert_eq!(said(StepRecord { learning_rate: 5e-5, ..with(0.35, 9e-6) }), [""; 0]);
    let both = Some(vec![layers(0.1, 1e-3).unwrap().remove(1), layers(0.9, 1e-3).unwrap().remove(1)]);
    assert_eq!(
        said(StepRecord { layers: both, ..record(101) }),
        ["step 101: 2 layers have too few or too many zeros, down the most (90%)"]
    );
}

#[test]
fn too_few_records_are_no_ground_for_alerts() {
    let mut watch = Watch::default();
    assert!(watch.see(&record(1)).is_empty());
    assert!(watch.see(&StepRecord { grad_norm: 99.0, layers: layers(0.4, 0.0), ..record(2) }).is_empty());
}

#[test]
fn the_last_line_is_one_json_object() {
    let outcome = Outcome {
        steps: 2000,
        tokens: 1_536_000,
        train_loss: 1.587,
        valid_loss: Some(1.738),
        bits_per_byte: Some(2.507),
        preference_accuracy: None,
        tokens_per_second: 25_000.0,
        seconds: 61.4,
        parameters: 798_464,
        model: "out/model.gguf".into(),
    };
    assert_eq!(
        final_line(&outcome).unwrap(),
        "{\"steps\":2000,\"tokens\":1536000,\"train_loss\":1.587,\"valid_loss\":1.738,\"bits_per_byte\":2.507,\
         \"tokens_per_second\":25000.0,\"seconds\":61.4,\"parameters\":798464,\"model\":\"out/model.gguf\"}"
    );
    let diverged = final_line(&Outcome { train_loss: f64::NAN, ..Outcome::default() }).unwrap();
    assert!(diverged.contains("\"train_loss\":null,\"valid_loss\":null"), "{diverged}");
}
