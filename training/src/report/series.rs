//! Curves, short enough to be drawn.

/// Steps and values.
pub type Points = Vec<(f64, f64)>;

/// Points of a curve that is drawn: a wider screen than this has no more to tell apart.
const BUCKETS: usize = 400;

/// Thins a curve, keeping the highest and the lowest point of each stretch: a spike must not vanish.
pub fn with_spikes(points: &[(f64, f64)]) -> Points {
    if points.len() <= 2 * BUCKETS {
        return points.to_vec();
    }
    let mut thin = Points::new();
    for stretch in points.chunks(points.len().div_ceil(BUCKETS)) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) = (stretch.iter().min_by(by_value), stretch.iter().max_by(by_value)) else {
            continue;
        };
        let (first, second) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        thin.push(*first);
        if first != second {
            thin.push(*second);
        }
    }
    thin
}

/// Thins to at most `count` items, evenly, with the first and the last.
pub fn evenly<T: Clone>(items: &[T], count: usize) -> Vec<T> {
    if items.len() <= count || count < 2 {
        return items.to_vec();
    }
    (0..count).map(|at| items[at * (items.len() - 1) / (count - 1)].clone()).collect()
}

/// Thins a curve without spikes.
pub fn without_spikes(points: &[(f64, f64)]) -> Points {
    evenly(points, BUCKETS)
}

/// Exponential moving average over about a fiftieth of the curve, without the pull towards 0 at its start.
pub fn smoothed(points: &[(f64, f64)]) -> Points {
    let keep = 1.0 - 2.0 / (1.0 + (points.len() as f64 / 50.0).max(1.0));
    let (mut sum, mut weight) = (0.0, 0.0);
    let smooth = points.iter().map(|(step, value)| {
        sum = sum * keep + value;
        weight = weight * keep + 1.0;
        (*step, sum / weight)
    });
    smooth.collect()
}
