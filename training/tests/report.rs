//! The report: one well-formed page that needs nothing else, whatever the run was like.

use bitnet_training::metrics::{LayerQuantization, Outcome, StepRecord, Validation};
use bitnet_training::report::{ReportError, RunSummary, render, write};

fn summary(text: &str) -> RunSummary {
    let pair = || vec![(text.to_string(), text.to_string())];
    RunSummary {
        title: text.to_string(),
        command: text.to_string(),
        recipe: Some(text.to_string()),
        config: pair(),
        parameters: vec![(text.to_string(), 786_432)],
        data: pair(),
        outcome: Outcome { steps: 100, valid_loss: Some(1.7381), model: text.into(), ..Outcome::default() },
    }
}

fn record(step: u64, text: &str) -> StepRecord {
    let x = step as f64;
    let layer = |number: u64| LayerQuantization {
        name: format!("blocks.{number}.{text}"),
        zero_fraction: 0.4,
        flip_rate: 0.01 / x,
        gamma: 0.02,
        dead_zone: 0.2,
        activation_absmax: x,
    };
    StepRecord {
        step,
        tokens: 768 * step,
        train_loss: 1.5 + 3.0 / x,
        learning_rate: 1e-3,
        weight_decay: 0.1,
        lambda: 1.0,
        grad_norm: 1.0,
        valid: step.is_multiple_of(10).then_some(Validation {
            loss: 1.7,
            bits_per_byte: 2.5,
            tokens: 1000,
            accuracy: None,
        }),
        layers: step.is_multiple_of(5).then(|| (0..8).map(layer).collect()),
        sample: step.is_multiple_of(50).then(|| text.to_string()),
        elapsed_seconds: x,
        tokens_per_second: 768.0,
    }
}

/// Checks that every element is closed in its turn and that no coordinate is missing.
fn check(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in html.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
        match tag {
            _ if tag.ends_with('/') || ["!doctype", "meta"].contains(&name) => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name)),
            _ => open.push(name),
        }
        for attribute in ["points=\"", " d=\"", " x=\"", " y=\"", " cx=\"", " cy=\"", "viewBox=\""] {
            let Some((_, value)) = tag.split_once(attribute) else { continue };
            let value = value.split_once('"').unwrap().0;
            assert!(!value.contains("NaN") && !value.contains("inf"), "{tag}");
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_report_has_every_part_and_needs_nothing_else() {
    let records: Vec<_> = (1..=100).map(|step| record(step, "mlp.down")).collect();
    let html = render(&summary("shakespeare"), &records);
    check(&html);
    for part in [
        "<h1>shakespeare</h1>",
        "1.7381",
        "<b>Loss</b>",
        "<b>Loss, second half</b>",
        "<b>Bits per byte</b>",
        "<b>Schedules</b>",
        "<b>Gradient norm</b>",
        "<b>Speed</b>",
        "<b>Zero fraction</b>",
        "<b>Flip rate</b>",
        "<b>Scale γ</b>",
        "<b>Dead zone</b>",
        "<b>Activation absmax</b>",
        "blocks.7.mlp.down · step 100: ",
        "<h3>step 50</h3>",
        "<h3>Recipe</h3>",
        "786\u{202f}432",
        "prefers-color-scheme: dark",
    ] {
        assert!(html.contains(part), "{part}");
    }
    for foreign in ["http", "<script", "<link", "src=", "url(", "@import", "Noticed"] {
        assert!(!html.contains(foreign), "{foreign}");
    }
}

#[test]
fn what_users_and_models_write_stays_text() {
    let evil = "</pre><script>alert(\"x\")</script>' onload='&amp;\u{0}";
    let records: Vec<_> = (1..=100).map(|step| record(step, evil)).collect();
    let html = render(&summary(evil), &records);
    check(&html);
    assert!(!html.contains("<script") && !html.contains("' onload='") && !html.contains('\0'));
    let safe = "&lt;/pre&gt;&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&#39; onload=&#39;&amp;amp;\u{fffd}";
    assert!(html.contains(&format!("<h1>{safe}</h1>")) && html.contains(&format!("<pre>{safe}</pre>")));
}

#[test]
fn every_run_has_a_report() {
    let nothing = StepRecord::default();
    let nan = StepRecord {
        train_loss: f64::NAN,
        grad_norm: f64::INFINITY,
        tokens_per_second: f64::NAN,
        valid: Some(Validation { loss: f64::NAN, bits_per_byte: f64::NAN, tokens: 0, accuracy: None }),
        layers: Some(vec![LayerQuantization { gamma: f64::NAN, ..LayerQuantization::default() }]),
        ..record(3, "")
    };
    let no_layers = StepRecord { layers: Some(Vec::new()), ..record(4, "") };
    let huge = StepRecord { train_loss: f64::MAX, grad_norm: f64::MIN_POSITIVE, ..record(5, "") };
    for records in [
        vec![],
        vec![nothing.clone()],
        vec![record(1, "")],
        vec![nothing.clone(), nothing],
        vec![nan.clone()],
        vec![record(1, ""), record(2, ""), nan, no_layers, huge],
    ] {
        check(&render(&RunSummary::default(), &records));
    }
}

#[test]
fn trouble_is_told_once() {
    let mut records: Vec<_> = (1..=100).map(|step| record(step, "")).collect();
    records[60].grad_norm = 50.0;
    records[80].train_loss = f64::NAN;
    records[81].train_loss = f64::NAN;
    let html = render(&RunSummary::default(), &records);
    check(&html);
    assert!(html.contains("step 61: the gradient norm is 50.000, 50 times the usual 1.000"));
    assert!(html.contains("step 81: the loss is NaN") && !html.contains("step 82: the loss is NaN"));
}

#[test]
fn long_runs_make_no_long_reports() {
    let records: Vec<_> = (1..=20_000).map(|step| record(step, "")).collect();
    let html = render(&RunSummary::default(), &records);
    assert!(html.len() < 3_000_000, "{}", html.len());
}

#[test]
fn a_report_that_is_there_is_kept_unless_it_may_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    write(&path, &summary("first"), &[], false).unwrap();
    let error = write(&path, &summary("second"), &[], false).unwrap_err();
    assert!(matches!(error, ReportError::Exists { .. }) && error.to_string().contains("report.html"), "{error}");
    assert!(std::fs::read_to_string(&path).unwrap().contains("first"));
    write(&path, &summary("second"), &[], true).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains("second"));
    let error = write(folder.path().join("no/report.html"), &summary(""), &[], false).unwrap_err();
    assert!(matches!(error, ReportError::Io { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
