//! The model half of a tokenizer: the algorithm that turns a pre-token into ids, and the ids of all other tokens.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokenizers::{Model, ModelWrapper, Result, Token, models::bpe::BpeTrainer};

use crate::sentencepiece::SentencePiece;

/// A segmentation algorithm with its vocabulary.
pub(crate) enum Algorithm {
    /// One of the `tokenizers` crate's own.
    Library(ModelWrapper),
    /// Merging by score, as SentencePiece does it.
    SentencePiece(SentencePiece),
}

/// A model that several encoders share, which also knows the ids of the tokens that are not part of it.
///
/// The `tokenizers` crate numbers added tokens after the model's vocabulary unless the model knows them already.
/// Checkpoints have holes and added tokens in the middle, so the ids come from here instead, while the algorithm
/// itself never produces these tokens.
#[derive(Clone)]
pub(crate) struct SharedModel(Arc<Inner>);

struct Inner {
    algorithm: Algorithm,
    outside: HashMap<String, u32>,
    outside_by_id: HashMap<u32, String>,
}

impl SharedModel {
    /// `outside`: tokens that are not in the algorithm's vocabulary, with their ids.
    pub(crate) fn new(algorithm: Algorithm, outside: HashMap<String, u32>) -> Self {
        let outside_by_id = outside.iter().map(|(token, &id)| (id, token.clone())).collect();
        Self(Arc::new(Inner { algorithm, outside, outside_by_id }))
    }
}

impl Model for SharedModel {
    type Trainer = BpeTrainer;

    fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        match &self.0.algorithm {
            Algorithm::Library(model) => model.tokenize(text),
            Algorithm::SentencePiece(model) => {
                let ids = model.encode(text)?;
                // Neither the spelling nor the offset of a token is used once its id is known.
                Ok(ids.into_iter().map(|id| Token::new(id, String::new(), (0, 0))).collect())
            }
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.outside.get(token).copied().or_else(|| match &self.0.algorithm {
            Algorithm::Library(model) => model.token_to_id(token),
            Algorithm::SentencePiece(model) => model.id(token),
        })
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.outside_by_id.get(&id).cloned().or_else(|| match &self.0.algorithm {
            Algorithm::Library(model) => model.id_to_token(id),
            Algorithm::SentencePiece(model) => model.token(id).map(str::to_owned),
        })
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        let mut vocab = match &self.0.algorithm {
            Algorithm::Library(model) => model.get_vocab(),
            Algorithm::SentencePiece(model) => model.vocab(),
        };
        vocab.extend(self.0.outside.iter().map(|(token, &id)| (token.clone(), id)));
        vocab
    }

    fn get_vocab_size(&self) -> usize {
        let inside = match &self.0.algorithm {
            Algorithm::Library(model) => model.get_vocab_size(),
            Algorithm::SentencePiece(model) => model.len(),
        };
        inside + self.0.outside.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("a tokenizer is read here, never written".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
