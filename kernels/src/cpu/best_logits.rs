//! The best of some logits: what a sampler needs of a vocabulary.

use std::cmp::Ordering;

use super::exp::log_sum_exp;
use super::isa::Isa;
use super::parallel;

/// Words that say what is best in a row: the logarithm of the sum, `count` logits and `count` ids.
pub fn width(count: usize) -> usize {
    1 + 2 * count
}

/// For each row of `logits` (`[rows, vocab]`) the bits of `log Σ exp`, the bits of the `count` largest logits and their ids,
/// of equal ones first that with the lower id. Logits that are NaN or infinite count nowhere; where there are fewer than
/// `count`, the rest is `-inf` with the id `u32::MAX`.
///
/// # Panics
/// When this processor cannot run `isa`.
pub fn top_logits(isa: Isa, logits: &[f32], vocab: usize, count: usize) -> Vec<u32> {
    isa.check();
    let rows = logits.len() / vocab.max(1);
    let mut words = vec![0; rows * width(count)];
    parallel::chunks(&mut words, width(count), logits.len(), |row, words| {
        best_of(isa, &logits[row * vocab..][..vocab], count, words);
    });
    words
}

/// The id of the largest finite logit, of equal ones the lowest. In two passes that the compiler makes vectors of.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let usable = |x: f32| if x < f32::INFINITY { x } else { f32::NEG_INFINITY };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(a, x)| *a = a.max(usable(*x)));
    }
    lanes.iter_mut().zip(rest).for_each(|(a, x)| *a = a.max(usable(*x)));
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let at = logits.iter().position(|x| *x == max)?;
    max.is_finite().then_some(at as u32)
}

fn best_of(isa: Isa, logits: &[f32], count: usize, words: &mut [u32]) {
    let sum = log_sum_exp(isa, logits);
    if let (1, true, Some(id)) = (count, sum.is_finite(), argmax(logits)) {
        // Greedy decoding does this for every token.
        return words.copy_from_slice(&[(sum as f32).to_bits(), logits[id as usize].to_bits(), id]);
    }
    let finite = logits.iter().enumerate().filter(|(_, logit)| logit.is_finite());
    let mut candidates: Vec<(u32, f32)> = finite.map(|(id, logit)| (id as u32, *logit)).collect();
    let sum = if candidates.len() == logits.len() {
        sum
    } else {
        log_sum_exp(isa, &candidates.iter().map(|(_, logit)| *logit).collect::<Vec<_>>())
    };
    if count > 0 && count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, order);
    }
    candidates.truncate(count);
    candidates.sort_unstable_by(order);
    candidates.resize(count, (u32::MAX, f32::NEG_INFINITY));
    let [log_sum_exp, best @ ..] = words else { unreachable!("a row begins with the sum") };
    *log_sum_exp = (sum as f32).to_bits();
    let (values, ids) = best.split_at_mut(count);
    for ((value, own), (id, logit)) in values.iter_mut().zip(ids).zip(candidates) {
        (*value, *own) = (logit.to_bits(), id);
    }
}

/// Largest first, of equal ones that with the lower id.
fn order((a, x): &(u32, f32), (b, y): &(u32, f32)) -> Ordering {
    y.total_cmp(x).then(a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_in_order_and_what_is_no_number_is_left_out() {
        let logits = [1.0, f32::NAN, 3.0, 3.0, f32::INFINITY, -2.0, f32::NEG_INFINITY, 0.5];
        let words = top_logits(Isa::Scalar, &logits, 4, 3);
        let (first, second) = words.split_at(width(3));
        assert_eq!(first[1..4], [3f32, 3.0, 1.0].map(f32::to_bits));
        assert_eq!(first[4..], [2, 3, 0]);
        let expected = (1f64.exp() + 2.0 * 3f64.exp()).ln();
        assert!((f64::from(f32::from_bits(first[0])) - expected).abs() < 1e-6);
        assert_eq!(second[1..4], [0.5f32, -2.0, f32::NEG_INFINITY].map(f32::to_bits));
        assert_eq!(second[4..], [3, 1, u32::MAX]);
        assert_eq!(top_logits(Isa::Scalar, &[f32::NAN; 2], 2, 1)[1..], [f32::NEG_INFINITY.to_bits(), u32::MAX]);
    }
}
