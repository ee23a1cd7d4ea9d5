//! Batches of whole documents.

use super::{
    Batch, Corpus, DataError,
    order::checked,
    permutation::{Permutation, mix},
};

/// An order of training in which every row is one document, from its beginning, cut off after `context` targets. As with
/// [`Order`](super::Order), the batch of a step is a function of the seed and the step, and every epoch has each document
/// exactly once, in an order of its own.
///
/// Rows are as long as their documents and lie one after the other, so nothing is padded, and the loss of each target is what
/// it would be if its document were alone.
#[derive(Clone, Debug)]
pub struct WholeDocuments {
    corpus: Corpus,
    context: u64,
    rows_per_batch: u64,
    /// Documents that stay together, such as the two replies of a pair.
    together: u64,
    seed: u64,
}

impl WholeDocuments {
    /// The order of a corpus, `rows_per_batch` documents in a step.
    ///
    /// # Errors
    /// [`DataError::Option`] when `context` or `rows_per_batch` is zero.
    pub fn new(corpus: &Corpus, context: usize, rows_per_batch: usize, seed: u64) -> Result<Self, DataError> {
        let (context, rows_per_batch) = checked(context, rows_per_batch)?;
        Ok(Self { corpus: corpus.clone(), context, rows_per_batch, together: 1, seed })
    }

    /// The same order in which the documents `n i` to `n i + n - 1` always follow each other; a row is then all of them.
    ///
    /// # Panics
    /// When `n` does not divide the number of documents.
    #[must_use]
    pub fn in_groups_of(mut self, n: usize) -> Self {
        assert!(n > 0 && self.corpus.documents().is_multiple_of(n), "whole groups of {n} documents");
        self.together = n as u64;
        self
    }

    /// How many times the data is used up when `step` begins.
    pub fn epochs(&self, step: u64) -> f64 {
        step as f64 * self.rows_per_batch as f64 / self.rows() as f64
    }

    /// Documents that are longer than the context, and so cut off.
    pub fn cut_off(&self) -> usize {
        (0..self.corpus.documents()).filter(|i| self.corpus.targets_of(*i) > self.context).count()
    }

    /// Micro-batch number `micro` of the `of` that step `step` is made of, with a segment for each document that has a
    /// target.
    ///
    /// # Panics
    /// When `micro` is not below `of`.
    pub fn batch(&self, step: u64, micro: usize, of: usize) -> Batch {
        let mut batch = Batch::default();
        for document in self.documents(step, micro, of) {
            self.corpus.push_document(document, self.context, &mut batch);
        }
        batch
    }

    /// The documents of [`batch`](Self::batch), in its order.
    ///
    /// # Panics
    /// As there.
    pub fn documents(&self, step: u64, micro: usize, of: usize) -> Vec<usize> {
        assert!(micro < of, "micro-batch {micro} of {of}");
        let at = |micro: usize| u128::from(self.rows_per_batch) * micro as u128 / of as u128;
        let first = u128::from(step) * u128::from(self.rows_per_batch);
        let rows = (at(micro)..at(micro + 1)).map(|row| self.row(first + row));
        rows.flat_map(|row| row * self.together..(row + 1) * self.together).map(|i| i as usize).collect()
    }

    fn rows(&self) -> u64 {
        self.corpus.documents() as u64 / self.together
    }

    /// Row number `n` of the training, from its beginning.
    fn row(&self, n: u128) -> u64 {
        let rows = u128::from(self.rows());
        let (epoch, index) = ((n / rows) as u64, (n % rows) as u64);
        Permutation::new(self.rows(), mix(mix(mix(self.seed) ^ epoch) ^ 1)).apply(index)
    }
}

/// A corpus in its own order, document by document: for validation.
#[derive(Clone, Debug)]
pub struct EachDocument {
    corpus: Corpus,
    context: u64,
    rows_per_batch: u64,
    next: usize,
    targets: u64,
    at_most: u64,
}

impl EachDocument {
    /// The documents, each cut off after `context` targets, in batches of `rows_per_batch`; none begins once there were
    /// `at_most` targets.
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
        let at_most = at_most.unwrap_or(u64::MAX);
        Ok(Self { corpus: corpus.clone(), context, rows_per_batch, next: 0, targets: 0, at_most })
    }
}

impl Iterator for EachDocument {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        let mut rows = 0;
        while rows < self.rows_per_batch && self.next < self.corpus.documents() && self.targets < self.at_most {
            let before = batch.len();
            self.corpus.push_document(self.next, self.context, &mut batch);
            self.targets += (batch.len() - before) as u64;
            self.next += 1;
            rows += 1;
        }
        // Documents without targets are passed over.
        if batch.is_empty() && rows > 0 { self.next() } else { (!batch.is_empty()).then_some(batch) }
    }
}
