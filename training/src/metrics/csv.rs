//! `metrics.csv`: what a run computes, and nothing of when or how fast.
//!
//! A resumed run has to leave the same bytes as one that was never stopped, so a number is printed as the shortest text that
//! reads back to the same bits, and there is no column that a clock has a part in.

use super::record::StepRecord;

/// The first line, without its end.
pub const HEADER: &str =
    "step,tokens,train_loss,learning_rate,weight_decay,lambda,grad_norm,valid_loss,valid_bits_per_byte,valid_tokens";

/// A record as one line, its end included. Columns of what was not measured are empty.
pub fn row(record: &StepRecord) -> String {
    let StepRecord { step, tokens, train_loss, learning_rate, weight_decay, lambda, grad_norm, valid, .. } = record;
    let valid = match valid {
        Some(valid) => format!("{:?},{:?},{}", valid.loss, valid.bits_per_byte, valid.tokens),
        None => ",,".to_string(),
    };
    format!("{step},{tokens},{train_loss:?},{learning_rate:?},{weight_decay:?},{lambda:?},{grad_norm:?},{valid}\n")
}

/// The step of a row.
pub fn step(row: &str) -> Result<u64, String> {
    let mut cells = row.split(',');
    let step = cells.next().and_then(|cell| cell.parse().ok()).ok_or("there is no step in the first column")?;
    let columns = 1 + cells.count();
    let wanted = HEADER.split(',').count();
    if columns == wanted { Ok(step) } else { Err(format!("there are {columns} columns instead of {wanted}")) }
}
