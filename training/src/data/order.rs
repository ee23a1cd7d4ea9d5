//! Which targets come when.

use super::{
    Batch, Corpus, DataError,
    permutation::{Permutation, mix},
};

/// The order of training: which targets make the batch of a step is a function of the seed and the step alone, so that
/// any step can be entered without the ones before it. It takes no memory.
///
/// In every epoch, the targets of all documents, one document after the other, form a ring. The ring is cut into rows
/// of `context` targets, beginning at a place that depends on the epoch; the last row may be shorter. The rows are
/// shuffled. So an epoch has each target exactly once and nothing is padded, while the borders of the rows move from
/// epoch to epoch. A batch that is not full at the end of an epoch takes its other rows from the next one.
///
/// A row has a segment for each document that it holds targets of. A document that goes on in another row is predicted
/// on there from the last token of this one, without what came before it.
#[derive(Clone, Debug)]
pub struct Order {
    corpus: Corpus,
    context: u64,
    rows_per_batch: u64,
    rows_per_epoch: u64,
    seed: u64,
}

impl Order {
    /// The order of a corpus in rows of `context` targets. `rows_per_batch` is the number of rows of a whole step, all
    /// its micro-batches together.
    ///
    /// # Errors
    /// [`DataError::Option`] when `context` or `rows_per_batch` is zero.
    pub fn new(corpus: &Corpus, context: usize, rows_per_batch: usize, seed: u64) -> Result<Self, DataError> {
        let (context, rows_per_batch) = checked(context, rows_per_batch)?;
        let rows_per_epoch = corpus.targets().div_ceil(context);
        Ok(Self { corpus: corpus.clone(), context, rows_per_batch, rows_per_epoch, seed })
    }

    /// Number of rows of an epoch: the targets divided by the context, rounded up.
    pub fn rows_per_epoch(&self) -> u64 {
        self.rows_per_epoch
    }

    /// How many times the data is used up when `step` begins.
    pub fn epochs(&self, step: u64) -> f64 {
        step as f64 * self.rows_per_batch as f64 / self.rows_per_epoch as f64
    }

    /// Micro-batch number `micro` of the `of` that step `step` is made of. Their rows, one micro-batch after the other,
    /// are those of `batch(step, 0, 1)`; where `of` does not divide the number of rows, some have one row more.
    ///
    /// # Panics
    /// When `micro` is not below `of`.
    pub fn batch(&self, step: u64, micro: usize, of: usize) -> Batch {
        assert!(micro < of, "micro-batch {micro} of {of}");
        let at = |micro: usize| (u128::from(self.rows_per_batch) * micro as u128 / of as u128) as u64;
        let mut batch = Batch::default();
        for row in at(micro)..at(micro + 1) {
            self.push_row(u128::from(step) * u128::from(self.rows_per_batch) + u128::from(row), &mut batch);
        }
        batch
    }

    /// Row number `n` of the training, from its beginning.
    fn push_row(&self, n: u128, batch: &mut Batch) {
        let rows = u128::from(self.rows_per_epoch);
        let (epoch, index) = ((n / rows) as u64, (n % rows) as u64);
        let key = mix(mix(self.seed) ^ epoch);
        let row = Permutation::new(self.rows_per_epoch, mix(key ^ 1)).apply(index);

        let targets = self.corpus.targets();
        let first = mix(key ^ 2) % targets;
        // Along the ring, from its first row. Both ends are at most `targets`.
        let start = row * self.context;
        let len = self.context.min(targets - start);
        // `first + start`, modulo `targets`, without overflow.
        let start = if start < targets - first { first + start } else { start - (targets - first) };
        let before_the_seam = len.min(targets - start);
        self.corpus.push_targets(start..start + before_the_seam, batch);
        self.corpus.push_targets(0..len - before_the_seam, batch);
    }
}

/// A corpus in its own order, in rows of `context` targets that follow each other: for validation.
#[derive(Clone, Debug)]
pub struct Blocks {
    corpus: Corpus,
    context: u64,
    rows_per_batch: u64,
    next: u64,
    end: u64,
}

impl Blocks {
    /// All targets of a corpus, or the first `at_most`, in batches of `rows_per_batch` rows of `context` targets.
    ///
    /// # Errors
    /// [`DataError::Option`] when `context` or `rows_per_batch` is zero.
    pub fn new(
        corpus: &Corpus,
        context: usize,
        rows_per_batch: usize,
        at_most: Option<u64>,
    ) -> Result<Self, DataError> {
        let (context, rows_per_batch) = checked(context, rows_per_batch)?;
        let end = corpus.targets().min(at_most.unwrap_or(u64::MAX));
        Ok(Self { corpus: corpus.clone(), context, rows_per_batch, next: 0, end })
    }
}

impl Iterator for Blocks {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        for _ in 0..self.rows_per_batch {
            let stop = self.end.min(self.next.saturating_add(self.context));
            if stop == self.next {
                break;
            }
            self.corpus.push_targets(self.next..stop, &mut batch);
            self.next = stop;
        }
        (!batch.is_empty()).then_some(batch)
    }
}

pub(super) fn checked(context: usize, rows_per_batch: usize) -> Result<(u64, u64), DataError> {
    let range = "at least 1";
    for (name, value) in [("context", context), ("rows per batch", rows_per_batch)] {
        if value == 0 {
            return Err(DataError::Option { name, range, value: 0 });
        }
    }
    Ok((context as u64, rows_per_batch as u64))
}
