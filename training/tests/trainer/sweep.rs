//! The search for a learning rate.

use std::sync::atomic::{AtomicBool, Ordering};

use bitnet_training::{Event, Observer, RunFolder, RunOptions, TrainError, Tried, sweep_learning_rate, train};

use crate::support::{options, small};

/// Notes what was tried, and ends the search after so many.
struct Notes<'a> {
    tried: Vec<Tried>,
    at_most: usize,
    stop: &'a AtomicBool,
}

impl Observer for Notes<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Tried(tried) => self.tried.push(*tried),
            Event::Step(_) => panic!("steps of a search are nobody's business"),
            _ => {}
        }
        self.stop.fetch_or(self.tried.len() >= self.at_most, Ordering::Relaxed);
    }
}

/// All tries of a search, and the best rate.
type Found = Result<(Vec<Tried>, f64), TrainError>;

/// The result of a search, and what it tried this time.
fn search(options: &RunOptions, at_most: usize) -> (Found, Vec<Tried>) {
    let stop = AtomicBool::new(false);
    let mut notes = Notes { tried: Vec::new(), at_most, stop: &stop };
    let result = sweep_learning_rate(options, Some(3), &mut notes, &stop);
    (result, notes.tried)
}

#[test]
fn the_best_of_three_rates_is_found_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), "run", &small());
    let (result, first) = search(&options, 1);
    assert!(matches!(result, Err(TrainError::SweepStopped)) && first.len() == 1, "{first:?}");
    let (result, rest) = search(&options, 9);
    let (tried, best) = result.unwrap();
    assert_eq!((tried.len(), &tried[..1], &tried[1..]), (3, &first[..], &rest[..]));
    assert_eq!(tried.iter().map(|tried| tried.learning_rate).collect::<Vec<_>>(), [2.5e-3, 5e-3, 1e-2]);
    let losses = tried.iter().map(|tried| tried.valid_loss.unwrap());
    let least = losses.fold(f64::INFINITY, f64::min);
    assert_eq!(tried.iter().find(|tried| tried.valid_loss == Some(least)).unwrap().learning_rate, best);

    let (again, more) = search(&options, 9);
    assert_eq!((again.unwrap(), more.len()), ((tried.clone(), best), 0), "it is known");
    let mut other = options.clone();
    other.recipe.seed = 5;
    assert_eq!(search(&other, 9).1.len(), 3, "another recipe is another search");
    assert_eq!(search(&RunOptions { overwrite: true, ..options.clone() }, 9).1, tried);

    let mut run = options.clone();
    run.recipe.optimizer.learning_rate.peak = best;
    run.recipe.run.max_steps = 2;
    train(&run, &mut (), &AtomicBool::new(false)).unwrap();
    assert_eq!(RunFolder::new(&run.out).read_recipe().unwrap().optimizer.learning_rate.peak, best);
    assert!(matches!(search(&options, 9).0, Err(TrainError::Exists(_))), "there is a run now");
}

#[test]
fn rates_that_are_too_high_are_ruled_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = small();
    recipe.optimizer.learning_rate.peak = 1e30;
    let (result, tried) = search(&options(folder.path(), "run", &recipe), 9);
    assert!(matches!(result, Err(TrainError::SweepFailed)));
    assert!(tried.len() == 3 && tried.iter().all(|tried| tried.valid_loss.is_none()), "{tried:?}");
}
