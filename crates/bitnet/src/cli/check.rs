//! `bitnet inspect --check`: which layout of I2_S a file has.

use std::io::{Write, stdout};

use bitnet::LayoutCheck;
use bitnet::format::I2sLayout;
use serde_json::{Value, json};

use super::CliError;
use super::model_args::{ModelArgs, layout_name};
use super::note::spelled_out;

/// Prints how the model does under each layout, and fails if it makes sense under none.
pub fn check(model: &ModelArgs, as_json: bool) -> Result<(), CliError> {
    let check = model.check_layouts()?;
    let text = if as_json { json_report(&check).to_string() } else { text_report(&check) };
    writeln!(stdout(), "{text}")?;
    if check.best().is_some() {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "{}: no layout of I2_S makes sense of a short English text (guessing is {:.3} nats a token): the file may be damaged, \
         need another --activation or --tokenizer, or know no English",
        model.model, check.guessing,
    )))
}

fn json_report(check: &LayoutCheck) -> Value {
    let layouts = check.tried.iter().map(|entry| {
        json!({
            "layout": entry.layout.map(layout_name),
            "loss": entry.loss.as_ref().ok(),
            "makes_sense": entry.loss.as_ref().is_ok_and(|loss| check.makes_sense(*loss)),
            "error": entry.loss.as_ref().err().map(ToString::to_string),
        })
    });
    let best = check.best().and_then(|entry| entry.layout);
    json!({
        "layouts": layouts.collect::<Vec<_>>(),
        "guessing": check.guessing,
        "makes_sense": check.best().is_some(),
        "flag": best.map(flag),
    })
}

fn text_report(check: &LayoutCheck) -> String {
    let mut lines = vec!["layout     nats a token".to_string()];
    for entry in &check.tried {
        let name = entry.layout.map_or("as stored".to_string(), layout_name);
        lines.push(match &entry.loss {
            Ok(loss) => {
                let verdict = if check.makes_sense(*loss) { "makes sense" } else { "noise" };
                format!("{name:10} {loss:12.3}  {verdict}")
            }
            Err(error) => format!("{name:10}            -  {error}"),
        });
    }
    lines.push(format!("guessing   {:12.3}", check.guessing));
    match check.best().map(|entry| entry.layout) {
        Some(None) => lines.push("There are no I2_S tensors, and so no layout to choose.".to_string()),
        Some(Some(layout)) if layout == I2sLayout::default() => {
            lines.push(format!("The file is in order: {} is the default.", flag(layout)));
        }
        Some(Some(layout)) => lines.push(format!("Run this file with {}", flag(layout))),
        None => {}
    }
    lines.iter().map(|line| spelled_out(line)).collect::<Vec<_>>().join("\n")
}

fn flag(layout: I2sLayout) -> String {
    format!("--i2s-layout {}", layout_name(layout))
}
