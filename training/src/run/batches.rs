//! The batches of a run, as its recipe packs them.

use crate::data::{Batch, Blocks, Corpus, DataError, EachDocument, Order, WholeDocuments};
use crate::recipe::{Packing, Recipe};

/// Rows of a batch on held-out text.
const VALID_ROWS: usize = 16;

/// What is trained on, in the order of its steps.
pub(super) enum Batches {
    Rows(Order),
    Documents(WholeDocuments),
}

impl Batches {
    pub(super) fn new(corpus: &Corpus, recipe: &Recipe) -> Result<Self, DataError> {
        let (context, rows) = (recipe.model.context, recipe.batch.rows);
        if recipe.preference.is_some() {
            let order = WholeDocuments::new(corpus, context, rows, recipe.seed)?;
            return Ok(Self::Documents(order.in_groups_of(2)));
        }
        Ok(match recipe.batch.packing {
            Packing::Rows => Self::Rows(Order::new(corpus, context, rows, recipe.seed)?),
            Packing::Documents => Self::Documents(WholeDocuments::new(corpus, context, rows, recipe.seed)?),
        })
    }

    /// Micro-batch number `micro` of the `of` that a step is made of.
    pub(super) fn batch(&self, step: u64, micro: usize, of: usize) -> Batch {
        match self {
            Self::Rows(order) => order.batch(step, micro, of),
            Self::Documents(order) => order.batch(step, micro, of),
        }
    }

    /// The documents of such a micro-batch, where its rows are documents.
    pub(super) fn documents(&self, step: u64, micro: usize, of: usize) -> Vec<usize> {
        match self {
            Self::Rows(_) => Vec::new(),
            Self::Documents(order) => order.documents(step, micro, of),
        }
    }

    /// The steps after which the data is used up so many times, the last one begun included.
    pub(super) fn steps(&self, epochs: f64) -> u64 {
        // Steps are equal, so one tells of all.
        (epochs / self.epochs(1)).ceil().max(1.0) as u64
    }

    /// How many times the data is used up when `step` begins.
    pub(super) fn epochs(&self, step: u64) -> f64 {
        match self {
            Self::Rows(order) => order.epochs(step),
            Self::Documents(order) => order.epochs(step),
        }
    }

    /// Documents that are longer than a row, and so cut off.
    pub(super) fn cut_off(&self) -> usize {
        match self {
            Self::Rows(_) => 0,
            Self::Documents(order) => order.cut_off(),
        }
    }
}

/// Held-out text, or about its first `at_most` targets, in the rows that the model is trained on.
pub(super) fn held_out(
    corpus: &Corpus,
    recipe: &Recipe,
    at_most: Option<u64>,
) -> Result<Box<dyn Iterator<Item = Batch>>, DataError> {
    let context = recipe.model.context;
    Ok(match recipe.batch.packing {
        Packing::Rows => Box::new(Blocks::new(corpus, context, VALID_ROWS, at_most)?),
        Packing::Documents => Box::new(EachDocument::new(corpus, context, VALID_ROWS, at_most)?),
    })
}
