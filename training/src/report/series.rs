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

/// Mean over about a fiftieth of the curve around each point, nearer points counting more: two moving averages, one after the
/// other. It looks both ways, so a falling curve is not drawn late.
pub fn smoothed(points: &[(f64, f64)]) -> Points {
    let reach = points.len() / 200;
    averaged(&averaged(points, reach), reach)
}

/// Mean of each point and `reach` others on both sides, fewer near the ends.
fn averaged(points: &[(f64, f64)], reach: usize) -> Points {
    let average = |(at, (step, _)): (usize, &(f64, f64))| {
        let reach = reach.min(at).min(points.len() - 1 - at);
        let around = &points[at - reach..=at + reach];
        (*step, around.iter().map(|(_, value)| value).sum::<f64>() / around.len() as f64)
    };
    points.iter().enumerate().map(average).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_is_thinned_and_keeps_its_spikes() {
        let mut points: Points = (0..100_000).map(|step| (f64::from(step), f64::from(step % 7))).collect();
        (points[54_321].1, points[54_322].1) = (99.0, -99.0);
        let thin = with_spikes(&points);
        assert!(thin.len() <= 2 * BUCKETS);
        assert!(thin.contains(&(54_321.0, 99.0)) && thin.contains(&(54_322.0, -99.0)));
        assert!(thin.is_sorted_by_key(|(step, _)| *step));
    }

    #[test]
    fn evenly_has_both_ends() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(evenly(&items, 4), [0, 333, 666, 999]);
        assert_eq!(evenly(&items[..3], 4), [0, 1, 2]);
    }

    #[test]
    fn smoothing_leaves_a_straight_line_where_it_is() {
        let line: Points = (0..2000).map(|step| (f64::from(step), f64::from(step) * 0.5)).collect();
        for ((_, smooth), (_, value)) in smoothed(&line).into_iter().zip(&line) {
            assert!((smooth - value).abs() < 1e-9);
        }
    }
}
