//! From files to two corpora, one to train on and one to validate on.

use std::{
    fs::File,
    io::Read,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use bitnet_text::Tokenizer;
use sha2::{Digest, Sha256};

use super::{
    Corpus, DataError, Place, Source,
    cache::{Cache, Key, VERSION, Writer},
    document::Document,
    formats,
    source::DataFile,
    split::{self, HeldOut, Split},
    tokenize::Encoder,
};

/// Documents are tokenized together up to so many bytes, or so many documents.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_DOCUMENTS: usize = 1 << 14;

/// How far the preparation is, in bytes of the sources' files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The files are compared with what is in the cache.
    Checking {
        /// Bytes read.
        done: u64,
        /// Bytes of all files.
        total: u64,
    },
    /// The files are being tokenized.
    Tokenizing {
        /// Bytes tokenized.
        done: u64,
        /// Bytes of all files.
        total: u64,
    },
}

/// Where a data set came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was tokenized now.
    Tokenized,
    /// It was tokenized before, and read from the cache.
    Cached,
    /// A file of the cache was not whole, and was made again.
    Repaired {
        /// Which, and what was wrong with it.
        reason: String,
    },
}

/// Data to train on and to validate on.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// What is trained on; it has at least one target that counts.
    pub train: Corpus,
    /// What is held out; it has at least one target that counts.
    pub valid: Corpus,
    /// Where both came from.
    pub origin: Origin,
}

/// How to make a [`Dataset`].
///
/// Without a source of its own, what is validated on is held out of the training data: one document in `one_in`, by a
/// hash of its content (where that happens to be none, the one with the smallest hash). Of fewer than 20 documents, it
/// is the last tenth of the text: a single text is cut between two characters after nine tenths of its bytes, each part
/// is tokenized by itself, and neither ends with the end-of-text token, because neither is a whole text.
///
/// Tokens are kept in a folder, under a name that is a SHA-256 of everything they depend on: the content of the files
/// in order (not their names or dates: a copied or touched file is the same data, and a file changed within the clock's
/// resolution is not), the tokenizer, the separator and the split. Hashing costs about a hundredth of tokenizing.
#[derive(Clone, Copy, Debug)]
pub struct Prepare<'a> {
    /// What is trained on.
    pub source: &'a Source,
    /// What is validated on, if it is not to be held out of `source`.
    pub validation: Option<&'a Source>,
    /// One document in so many is held out; at least 2.
    pub one_in: u64,
    /// Turns text into tokens.
    pub tokenizer: &'a Tokenizer,
    /// Bytes by which this tokenizer differs from every other one: those of its files.
    pub tokenizer_id: &'a [u8],
    /// Folder of the token caches; made when it is not there.
    pub cache: &'a Path,
}

impl<'a> Prepare<'a> {
    /// Holds one document in 50 out of `source`.
    pub fn new(source: &'a Source, tokenizer: &'a Tokenizer, tokenizer_id: &'a [u8], cache: &'a Path) -> Self {
        Self { source, validation: None, one_in: 50, tokenizer, tokenizer_id, cache }
    }

    /// Finds the tokens in the cache, or makes them.
    ///
    /// # Errors
    /// Files that cannot be read, by name, line or row; [`DataError::NothingToTrain`] and
    /// [`DataError::NothingToValidate`] when a split has no target that counts.
    pub fn run(&self, progress: &mut dyn FnMut(Progress)) -> Result<Dataset, DataError> {
        if self.one_in < 2 {
            return Err(DataError::Option { name: "held-out share: one in", range: "at least 2", value: self.one_in });
        }
        let (corpora, origin) = match self.validation {
            None => self.both(progress)?,
            Some(validation) => {
                let (train, first) = self.whole(self.source, progress)?;
                let (valid, second) = self.whole(validation, progress)?;
                ([train, valid], first.and(second))
            }
        };
        let [train, valid] = corpora;
        if train.loss_targets() == 0 {
            let reason = match self.validation {
                None => "all of the text is held out; give more text, or other text to validate on",
                Some(_) => "no text has more than one token",
            };
            return Err(DataError::NothingToTrain { reason: reason.into() });
        }
        if valid.loss_targets() == 0 {
            let reason = match self.validation {
                None => "the part that is held out has no token to predict; give more text, or text to validate on",
                Some(_) => "no text has more than one token",
            };
            return Err(DataError::NothingToValidate { reason: reason.into() });
        }
        Ok(Dataset { train, valid, origin })
    }

    /// A source and what is held out of it.
    fn both(&self, progress: &mut dyn FnMut(Progress)) -> Result<([Corpus; 2], Origin), DataError> {
        let files = self.source.files()?;
        let key = self.key(self.source, &files, self.one_in, progress)?;
        let paths = ["train", "valid"].map(|split| self.path(&key, split));
        let origin = match (open(&paths[0], &key)?, open(&paths[1], &key)?) {
            (Found::Whole(train), Found::Whole(valid)) => return Ok(([train, valid], Origin::Cached)),
            (Found::Damaged(reason), _) | (_, Found::Damaged(reason)) => Origin::Repaired { reason },
            _ => Origin::Tokenized,
        };
        let separator = self.source.separator.as_deref();
        let mut writers = [self.writer(&paths[0], key)?, self.writer(&paths[1], key)?];
        match split::plan(&files, separator, self.one_in)? {
            Split::Few(documents) => {
                let total = files.iter().map(|file| file.size).sum();
                let encoder = self.encoder(&files)?;
                let (train, valid) = split::cut(documents);
                let bytes: usize = train.iter().chain(&valid).map(|document| document.content.len()).sum();
                let mut before = 0;
                for (documents, writer) in [train, valid].iter().zip(&mut writers) {
                    let tokenized = encoder.encode(documents, &mut |part| {
                        let done = u128::from(total) * (before + part) as u128 / bytes.max(1) as u128;
                        progress(Progress::Tokenizing { done: done as u64, total });
                    })?;
                    tokenized.iter().try_for_each(|masked| writer.push(masked))?;
                    before += documents.iter().map(|document| document.content.len()).sum::<usize>();
                }
            }
            Split::Many(held_out) => self.tokenize(&files, separator, held_out, &mut writers, progress)?,
        }
        writers.into_iter().try_for_each(Writer::finish)?;
        Ok(([reopen(&paths[0], &key)?, reopen(&paths[1], &key)?], origin))
    }

    /// A source of which nothing is held out.
    fn whole(&self, source: &Source, progress: &mut dyn FnMut(Progress)) -> Result<(Corpus, Origin), DataError> {
        let files = source.files()?;
        let key = self.key(source, &files, 0, progress)?;
        let path = self.path(&key, "all");
        let origin = match open(&path, &key)? {
            Found::Whole(corpus) => return Ok((corpus, Origin::Cached)),
            Found::Damaged(reason) => Origin::Repaired { reason },
            Found::Nothing => Origin::Tokenized,
        };
        let mut writers = [self.writer(&path, key)?];
        self.tokenize(&files, source.separator.as_deref(), HeldOut::Nothing, &mut writers, progress)?;
        writers.into_iter().try_for_each(Writer::finish)?;
        Ok((reopen(&path, &key)?, origin))
    }

    fn path(&self, key: &Key, split: &str) -> PathBuf {
        let name: String = key.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        self.cache.join(format!("{name}.{split}.tokens"))
    }

    fn writer(&self, path: &Path, key: Key) -> Result<Writer, DataError> {
        Writer::create(path, key, self.tokenizer.vocab_size())
    }

    fn encoder(&self, files: &[DataFile]) -> Result<Encoder<'a>, DataError> {
        let place = Place::file(files.first().map_or(Path::new(""), |file| &file.path));
        Encoder::new(self.tokenizer).map_err(DataError::text(&place))
    }

    /// A hash of everything that the tokens depend on.
    fn key(
        &self,
        source: &Source,
        files: &[DataFile],
        one_in: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Key, DataError> {
        let mut hash = Sha256::new();
        let template = self.tokenizer.chat_template().map_or("", |template| template.source());
        let separator = source.separator.as_deref().unwrap_or_default();
        for part in [self.tokenizer_id, template.as_bytes(), separator.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let numbers = [u64::from(VERSION), self.tokenizer.vocab_size() as u64, one_in, split::FEW as u64];
        numbers.iter().for_each(|number| hash.update(number.to_le_bytes()));
        let total = files.iter().map(|file| file.size).sum();
        let mut done = 0;
        let mut buffer = vec![0; 1 << 20];
        for file in files {
            let io = || DataError::io(&file.path);
            let mut content = Sha256::new();
            let mut input = File::open(&file.path).map_err(io())?;
            loop {
                let read = input.read(&mut buffer).map_err(io())?;
                if read == 0 {
                    break;
                }
                content.update(&buffer[..read]);
                done += read as u64;
                progress(Progress::Checking { done, total });
            }
            hash.update([file.format as u8]);
            hash.update(content.finalize());
        }
        Ok(hash.finalize().into())
    }

    /// Tokenizes all documents, those that are held out into the last writer, the others into the first.
    fn tokenize(
        &self,
        files: &[DataFile],
        separator: Option<&str>,
        held_out: HeldOut,
        writers: &mut [Writer],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), DataError> {
        let mut work = Work {
            encoder: self.encoder(files)?,
            held_out,
            writers,
            progress,
            total: files.iter().map(|file| file.size).sum(),
            done: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
        };
        let mut before = 0;
        for file in files {
            let _ = formats::read(file, separator, &mut |document, at| {
                work.push(document, before + at)?;
                Ok(ControlFlow::Continue(()))
            })?;
            before += file.size;
        }
        work.flush(before)
    }
}

/// Documents on their way from the files to the caches.
struct Work<'a, 'w> {
    encoder: Encoder<'a>,
    held_out: HeldOut,
    writers: &'w mut [Writer],
    progress: &'w mut dyn FnMut(Progress),
    total: u64,
    done: u64,
    waiting: Vec<Document>,
    waiting_bytes: usize,
}

impl Work<'_, '_> {
    /// Takes a document, after which `at` bytes of the files are read.
    fn push(&mut self, document: Document, at: u64) -> Result<(), DataError> {
        self.waiting_bytes += document.content.len();
        self.waiting.push(document);
        if self.waiting_bytes >= BATCH_BYTES || self.waiting.len() >= BATCH_DOCUMENTS { self.flush(at) } else { Ok(()) }
    }

    fn flush(&mut self, at: u64) -> Result<(), DataError> {
        let documents = std::mem::take(&mut self.waiting);
        let bytes = std::mem::take(&mut self.waiting_bytes).max(1) as u128;
        let (from, total) = (self.done, self.total);
        let span = u128::from(at.saturating_sub(from));
        let tokenized = self.encoder.encode(&documents, &mut |part| {
            let done = from + (span * part as u128 / bytes) as u64;
            (self.progress)(Progress::Tokenizing { done, total });
        })?;
        for (document, masked) in documents.iter().zip(&tokenized) {
            let held_out = self.held_out.holds(document.content.hash());
            let writer = if held_out { self.writers.last_mut() } else { self.writers.first_mut() };
            writer.map_or(Ok(()), |writer| writer.push(masked))?;
        }
        self.done = at;
        Ok(())
    }
}

/// What is at the place of a cache.
enum Found {
    Whole(Corpus),
    Damaged(String),
    Nothing,
}

fn open(path: &Path, key: &Key) -> Result<Found, DataError> {
    match Cache::open(path, key) {
        Ok(Some(cache)) => Ok(Found::Whole(Corpus::new(cache))),
        Ok(None) => Ok(Found::Nothing),
        Err(DataError::Cache { path, reason }) => Ok(Found::Damaged(format!("{}: {reason}", path.display()))),
        Err(error) => Err(error),
    }
}

/// Opens what was just written.
fn reopen(path: &Path, key: &Key) -> Result<Corpus, DataError> {
    let vanished = || DataError::Cache { path: path.to_owned(), reason: "it vanished".into() };
    Cache::open(path, key)?.map(Corpus::new).ok_or_else(vanished)
}

impl Origin {
    /// Where two corpora came from, taken together.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Repaired { reason }, _) | (_, Self::Repaired { reason }) => Self::Repaired { reason },
            (Self::Cached, Self::Cached) => Self::Cached,
            _ => Self::Tokenized,
        }
    }
}
