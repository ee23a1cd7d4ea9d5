//! Preference pairs as corpora to train on.

use std::path::Path;

use bitnet_text::Tokenizer;
use sha2::{Digest, Sha256};

use super::{
    Corpus, DataError, Dataset, Origin, Pair, Source,
    cache::{Cache, Key, Writer},
    chat::Masked,
    read_pairs,
};

/// Reads preference pairs (see [`read_pairs`]) and holds one pair in `one_in` of them out, by their hash, or takes those of
/// `validation` for it. Documents `2 i` and `2 i + 1` of a corpus are the better and the worse reply of pair `i`, each
/// after its prompt; what counts in the loss is the reply. The tokens lie in the folder `cache`.
///
/// # Errors
/// As [`read_pairs`]; when a reply and its prompt have more than `context` targets; when a split has no pair.
pub fn prepare_pairs(
    source: &Source,
    validation: Option<&Source>,
    tokenizer: &Tokenizer,
    context: usize,
    one_in: u64,
    cache: &Path,
) -> Result<Dataset, DataError> {
    let read = |source: &Source| -> Result<Vec<Pair>, DataError> {
        let pairs = read_pairs(source, tokenizer)?;
        pairs.iter().try_for_each(|pair| fits(pair, context))?;
        Ok(pairs)
    };
    let pairs = read(source)?;
    let (train, valid) = match validation {
        Some(validation) => (pairs, read(validation)?),
        None => {
            if one_in < 2 {
                return Err(DataError::Option { name: "held-out share: one in", range: "at least 2", value: one_in });
            }
            let (mut valid, mut train): (Vec<_>, Vec<_>) =
                pairs.into_iter().partition(|pair| first_bytes(pair).is_multiple_of(one_in));
            if valid.is_empty() {
                valid.extend(train.pop());
            }
            (train, valid)
        }
    };
    if train.is_empty() {
        let reason = "all of the pairs are held out; give more pairs, or others to validate on".to_string();
        return Err(DataError::NothingToTrain { reason });
    }
    let write = |name: &str, pairs: &[Pair]| store(&cache.join(format!("pairs.{name}.tokens")), tokenizer, pairs);
    Ok(Dataset { train: write("train", &train)?, valid: write("valid", &valid)?, origin: Origin::Tokenized })
}

/// Refuses a pair of which something would be cut off: a likelihood of half a reply is not what is compared.
fn fits(pair: &Pair, context: usize) -> Result<(), DataError> {
    for (name, sequence) in [("chosen", &pair.chosen), ("rejected", &pair.rejected)] {
        let targets = sequence.tokens.len() - 1;
        if targets > context {
            let reason = format!("the prompt and {name:?} are {targets} tokens, more than the context of {context}");
            return Err(DataError::record(&pair.place, reason));
        }
    }
    Ok(())
}

fn hash(pairs: &[Pair]) -> Key {
    let mut hash = Sha256::new();
    for sequence in pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]) {
        hash.update((sequence.tokens.len() as u64).to_le_bytes());
        sequence.tokens.iter().for_each(|id| hash.update(id.to_le_bytes()));
        sequence.loss.iter().for_each(|counts| hash.update([u8::from(*counts)]));
    }
    hash.finalize().into()
}

/// A number that depends on the tokens of a pair alone, evenly spread.
fn first_bytes(pair: &Pair) -> u64 {
    hash(std::slice::from_ref(pair)).iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn store(path: &Path, tokenizer: &Tokenizer, pairs: &[Pair]) -> Result<Corpus, DataError> {
    let key = hash(pairs);
    let mut writer = Writer::create(path, key, tokenizer.vocab_size())?;
    for sequence in pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]) {
        let (tokens, loss) = (sequence.tokens.clone(), sequence.loss.clone());
        // The bytes of a reply say nothing about a preference.
        writer.push(&Masked { tokens, loss, bytes: 0 })?;
    }
    writer.finish()?;
    let vanished = || DataError::Cache { path: path.to_owned(), reason: "it vanished".into() };
    Cache::open(path, &key)?.map(Corpus::new).ok_or_else(vanished)
}
