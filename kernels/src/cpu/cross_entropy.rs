//! Cross entropy of logits, and its gradient.

use super::exp::{exp, log_sum_exp};
use super::isa::{Isa, on_each_isa};
use super::parallel::{self, Parts};

/// Tokens that one task takes.
const TOKENS: usize = 8;

/// `loss[t] = log(sum_n exp(logits[t, n])) - logits[t, targets[t]]` in nats, and the first term in `lse[t]`; `logits` is
/// `[tokens, vocab]`.
///
/// # Panics
/// When this processor cannot run `isa`, a slice does not have the length that the others say, or a target is outside the
/// vocabulary.
pub fn cross_entropy(isa: Isa, logits: &[f32], targets: &[u32], loss: &mut [f32], lse: &mut [f32]) {
    isa.check();
    let (tokens, vocab) = (targets.len(), logits.len() / targets.len().max(1));
    assert_eq!(logits.len(), tokens * vocab, "logits");
    assert_eq!((loss.len(), lse.len()), (tokens, tokens), "losses");
    let lse = Parts::new(lse);
    parallel::chunks(loss, TOKENS, 8 * logits.len(), |i, loss| {
        for (t, loss) in (i * TOKENS..).zip(loss) {
            let logits = &logits[t * vocab..][..vocab];
            let sum = log_sum_exp(isa, logits);
            *loss = (sum - f64::from(logits[targets[t] as usize])) as f32;
            // SAFETY: a token is written by its task alone.
            unsafe { lse.write(t, sum as f32) };
        }
    });
}

/// The gradient of [`cross_entropy`]: `(exp(logits[t, n] - lse[t]) - [n == targets[t]]) * dloss[t]`.
///
/// # Panics
/// As [`cross_entropy`].
pub fn backward(isa: Isa, logits: &[f32], targets: &[u32], lse: &[f32], dloss: &[f32], out: &mut [f32]) {
    isa.check();
    let (tokens, vocab) = (targets.len(), logits.len() / targets.len().max(1));
    assert_eq!((logits.len(), out.len()), (tokens * vocab, logits.len()), "logits");
    assert_eq!((lse.len(), dloss.len()), (tokens, tokens), "losses");
    parallel::chunks(out, (TOKENS * vocab).max(1), 8 * logits.len(), |i, out| {
        for (t, out) in (i * TOKENS..).zip(out.chunks_exact_mut(vocab)) {
            if dloss[t] == 0.0 {
                out.fill(0.0);
                continue;
            }
            probabilities(isa, &logits[t * vocab..][..vocab], lse[t], dloss[t], out);
            out[targets[t] as usize] -= dloss[t];
        }
    });
}

on_each_isa! {
    fn probabilities(logits: &[f32], lse: f32, factor: f32, out: &mut [f32]) =
        |logits: &[f32], lse: f32, factor: f32, out: &mut [f32]| {
            out.iter_mut().zip(logits).for_each(|(out, x)| *out = exp(x - lse) * factor)
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let (tokens, vocab) = (11, 37);
        let logits: Vec<f32> = (0..tokens * vocab).map(|i| ((i * 7919) % 2003) as f32 / 300.0 - 3.0).collect();
        let targets: Vec<u32> = (0..tokens as u32).map(|t| t * 5 % 37).collect();
        let dloss: Vec<f32> = (0..tokens).map(|t| if t == 3 { 0.0 } else { 0.1 * t as f32 - 0.4 }).collect();
        for isa in Isa::available() {
            let (mut loss, mut lse, mut out) = (vec![0.0; tokens], vec![0.0; tokens], vec![0.0; tokens * vocab]);
            cross_entropy(isa, &logits, &targets, &mut loss, &mut lse);
            backward(isa, &logits, &targets, &lse, &dloss, &mut out);
            for t in 0..tokens {
                let row: Vec<f64> = logits[t * vocab..][..vocab].iter().map(|x| f64::from(*x)).collect();
                let sum: f64 = row.iter().map(|x| x.exp()).sum();
                let target = targets[t] as usize;
                assert!((f64::from(loss[t]) - (sum.ln() - row[target])).abs() < 1e-5);
                for (n, x) in row.iter().enumerate() {
                    let expected = (x.exp() / sum - f64::from(n == target)) * f64::from(dloss[t]);
                    assert!((f64::from(out[t * vocab + n]) - expected).abs() < 1e-6);
                }
            }
        }
    }
}
