//! Tokens on disk.
//!
//! All numbers are little-endian. The body's parts follow each other in this order, each from a multiple of 8 bytes:
//!
//! | part | bytes |
//! |---|---|
//! | header | 128 |
//! | tokens | `width` each |
//! | for every document, the number of tokens up to its end | 8 each |
//! | for every document, the UTF-8 bytes of what is learned of it | 8 each |
//! | if masked: whether a token is learned, lowest bit first | one bit each |

use std::{
    fs::File,
    io::{BufWriter, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{DataError, chat::Masked};

const MAGIC: &[u8; 8] = b"BITNTOKS";
pub(crate) const VERSION: u32 = 1;
const HEADER: usize = 128;
/// Where the digest stands in the header.
const DIGEST: usize = 88;

pub(crate) type Key = [u8; 32];

/// The first 128 bytes; what follows the last field is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of a token, 2 or 4.
    pub width: u32,
    pub tokens: u64,
    pub documents: u64,
    /// UTF-8 bytes of all that is learned.
    pub bytes: u64,
    /// Targets that count in the loss.
    pub loss_targets: u64,
    pub masked: bool,
    /// What the tokens were made of.
    pub key: Key,
    /// SHA-256 of everything after the header, then of the header up to here.
    pub digest: [u8; 32],
}

impl Header {
    fn write(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..DIGEST].copy_from_slice(&self.fields());
        header[DIGEST..][..32].copy_from_slice(&self.digest);
        header
    }

    /// Everything before the digest.
    fn fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.width.to_le_bytes());
        for number in [self.tokens, self.documents, self.bytes, self.loss_targets, u64::from(self.masked)] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.key);
        out
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or("its header is cut off")?;
        if !header.starts_with(MAGIC) {
            return Err("it does not begin as one".into());
        }
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
        let hash = |at: usize| std::array::from_fn(|i| header[at + i]);
        if word(8) != VERSION {
            return Err(format!("it has version {}, not {VERSION}", word(8)));
        }
        if !matches!(word(12), 2 | 4) || number(48) > 1 {
            return Err("its header is damaged".into());
        }
        Ok(Self {
            width: word(12),
            tokens: number(16),
            documents: number(24),
            bytes: number(32),
            loss_targets: number(40),
            masked: number(48) == 1,
            key: hash(56),
            digest: hash(DIGEST),
        })
    }

    /// Where the parts of the body are, from the beginning of the file; `None` when they are larger than memory.
    fn parts(&self) -> Option<Parts> {
        let tokens = HEADER..HEADER.checked_add(self.tokens.checked_mul(self.width.into())?.try_into().ok()?)?;
        let table = usize::try_from(self.documents.checked_mul(8)?).ok()?;
        let start = tokens.end.checked_next_multiple_of(8)?;
        let ends = start..start.checked_add(table)?;
        let bytes = ends.end..ends.end.checked_add(table)?;
        let mask = if self.masked { usize::try_from(self.tokens.div_ceil(8)).ok()? } else { 0 };
        let mask = bytes.end..bytes.end.checked_add(mask)?;
        Some(Parts { tokens, ends, bytes, mask })
    }
}

#[derive(Clone, Debug)]
struct Parts {
    tokens: Range<usize>,
    ends: Range<usize>,
    bytes: Range<usize>,
    mask: Range<usize>,
}

/// Writes a cache, document by document. Nothing has its name before it is whole.
pub(crate) struct Writer {
    path: PathBuf,
    out: BufWriter<NamedTempFile>,
    hash: Sha256,
    header: Header,
    ends: Vec<u64>,
    bytes: Vec<u64>,
    mask: Vec<u8>,
}

impl Writer {
    /// `vocab`: ids are below it.
    pub(crate) fn create(path: &Path, key: Key, vocab: usize) -> Result<Self, DataError> {
        let io = || DataError::io(path);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Like any other new file: the umask takes its share. A temporary file is private by default.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.prefix(".tokens-").tempfile_in(folder).map_err(io())?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&[0; HEADER]).map_err(io())?;
        let width = if vocab <= 1 << 16 { 2 } else { 4 };
        let header =
            Header { width, tokens: 0, documents: 0, bytes: 0, loss_targets: 0, masked: false, key, digest: [0; 32] };
        Ok(Self {
            path: path.to_owned(),
            out,
            hash: Sha256::new(),
            header,
            ends: Vec::new(),
            bytes: Vec::new(),
            mask: Vec::new(),
        })
    }

    /// Adds a document; one without tokens is left out.
    pub(crate) fn push(&mut self, document: &Masked) -> Result<(), DataError> {
        if document.tokens.is_empty() {
            return Ok(());
        }
        let body: Vec<u8> = match self.header.width {
            // Ids are below the vocabulary's size, which chose the width.
            2 => document.tokens.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
            _ => document.tokens.iter().flat_map(|&id| id.to_le_bytes()).collect(),
        };
        self.put(&body)?;
        for (i, &counts) in document.loss.iter().enumerate() {
            let at = self.header.tokens + i as u64;
            if at.is_multiple_of(8) {
                self.mask.push(0);
            }
            if let Some(last) = self.mask.last_mut() {
                *last |= u8::from(counts) << (at % 8);
            }
            self.header.loss_targets += u64::from(counts);
        }
        self.header.masked |= document.loss.iter().skip(1).any(|counts| !counts);
        self.header.tokens += document.tokens.len() as u64;
        self.header.documents += 1;
        self.header.bytes += document.bytes;
        self.ends.push(self.header.tokens);
        self.bytes.push(document.bytes);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.hash.update(bytes);
        self.out.write_all(bytes).map_err(DataError::io(&self.path))
    }

    /// Writes what comes after the tokens, then the header, and gives the file its name.
    pub(crate) fn finish(mut self) -> Result<(), DataError> {
        let tokens = self.header.tokens * u64::from(self.header.width);
        self.put(&[0; 8][..(tokens.next_multiple_of(8) - tokens) as usize])?;
        let tables = [std::mem::take(&mut self.ends), std::mem::take(&mut self.bytes)];
        for table in tables {
            self.put(&table.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        if self.header.masked {
            let mask = std::mem::take(&mut self.mask);
            self.put(&mask)?;
        }
        let io = || DataError::io(&self.path);
        self.hash.update(self.header.fields());
        self.header.digest = self.hash.finalize().into();
        self.out.seek(SeekFrom::Start(0)).map_err(io())?;
        self.out.write_all(&self.header.write()).map_err(io())?;
        let file = self.out.into_inner().map_err(|e| io()(e.into_error()))?;
        file.persist(&self.path).map_err(|e| io()(e.error))?;
        Ok(())
    }
}

/// A cache that was checked, mapped into memory.
#[derive(Debug)]
pub(crate) struct Cache {
    map: Mmap,
    pub header: Header,
    parts: Parts,
}

impl Cache {
    /// Opens a cache that was made with `key`; `None` when there is no file.
    ///
    /// # Errors
    /// [`DataError::Cache`] names what is wrong with the file.
    pub(crate) fn open(path: &Path, key: &Key) -> Result<Option<Self>, DataError> {
        Self::open_as(path, Some(key))
    }

    /// Opens a cache, whatever it was made of; `None` when there is no file.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub(crate) fn reopen(path: &Path) -> Result<Option<Self>, DataError> {
        Self::open_as(path, None)
    }

    /// How many tokens the header of a cache promises; `None` when there is no file, or no header.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn tokens(path: &Path) -> Result<Option<u64>, DataError> {
        Ok(map(path)?.and_then(|map| Header::read(&map).ok()).map(|header| header.tokens))
    }

    fn open_as(path: &Path, key: Option<&Key>) -> Result<Option<Self>, DataError> {
        let damaged = |reason: String| DataError::Cache { path: path.to_owned(), reason };
        map(path)?.map(|map| Self::check(map, key)).transpose().map_err(damaged)
    }

    fn check(map: Mmap, key: Option<&Key>) -> Result<Self, String> {
        let header = Header::read(&map)?;
        if key.is_some_and(|key| header.key != *key) {
            return Err("it was made of other data".into());
        }
        let parts = header.parts().ok_or("the sizes in its header overflow")?;
        if parts.mask.end != map.len() {
            return Err(format!("it has {} bytes, and {} by its header", map.len(), parts.mask.end));
        }
        let digest = Sha256::new().chain_update(&map[HEADER..]).chain_update(&map[..DIGEST]).finalize();
        if digest[..] != header.digest {
            return Err("its contents are damaged".into());
        }
        let cache = Self { map, header, parts };
        let mut last = 0;
        for i in 0..cache.documents() {
            let end = cache.end(i);
            if end <= last {
                return Err(format!("document {i} does not end after the one before it"));
            }
            last = end;
        }
        if last != cache.header.tokens {
            return Err("its documents do not end with its tokens".into());
        }
        Ok(cache)
    }

    pub(crate) fn documents(&self) -> usize {
        self.parts.ends.len() / 8
    }

    /// Number of tokens up to the end of document `i`.
    pub(crate) fn end(&self, i: usize) -> u64 {
        number(&self.map[self.parts.ends.clone()], i)
    }

    /// UTF-8 bytes of what is learned of document `i`.
    pub(crate) fn bytes(&self, i: usize) -> u64 {
        number(&self.map[self.parts.bytes.clone()], i)
    }

    pub(crate) fn push_tokens(&self, range: Range<u64>, out: &mut Vec<u32>) {
        let width = self.header.width as usize;
        let tokens = &self.map[self.parts.tokens.clone()];
        let bytes = &tokens[range.start as usize * width..range.end as usize * width];
        match width {
            2 => out.extend(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])))),
            _ => out.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        }
    }

    pub(crate) fn push_loss(&self, range: Range<u64>, out: &mut Vec<bool>) {
        if !self.header.masked {
            out.resize(out.len() + (range.end - range.start) as usize, true);
            return;
        }
        let mask = &self.map[self.parts.mask.clone()];
        out.extend(range.map(|at| mask[(at / 8) as usize] >> (at % 8) & 1 == 1));
    }
}

/// Maps a cache into memory; `None` when there is no file.
fn map(path: &Path) -> Result<Option<Mmap>, DataError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(DataError::io(path)(e)),
    };
    // SAFETY: the map is read-only, and every reader checks its bounds against its fixed length. As with any mapped file, a
    // program that truncates the cache while it is open breaks this; `Writer` only ever replaces it.
    unsafe { Mmap::map(&file) }.map(Some).map_err(DataError::io(path))
}

fn number(table: &[u8], i: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| table[i * 8 + byte]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [7; 32];

    fn write(path: &Path, vocab: usize) {
        let mut writer = Writer::create(path, KEY, vocab).unwrap();
        let document =
            |tokens: &[u32], loss: &[bool], bytes| Masked { tokens: tokens.into(), loss: loss.into(), bytes };
        writer.push(&document(&[1, 2, 3, 65_535], &[false, true, false, true], 5)).unwrap();
        writer.push(&document(&[], &[], 9)).unwrap();
        writer.push(&document(&[4, 5, 6, 7, 8, 9], &[false, true, true, true, true, false], 6)).unwrap();
        writer.finish().unwrap();
    }

    fn error(path: &Path) -> String {
        Cache::open(path, &KEY).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/a.tokens");
        assert!(Cache::open(&path, &KEY).unwrap().is_none());
        for (vocab, width) in [(1 << 16, 2), ((1 << 16) + 1, 4)] {
            write(&path, vocab);
            let cache = Cache::open(&path, &KEY).unwrap().unwrap();
            let header = &cache.header;
            assert_eq!((header.width, header.tokens, header.bytes, header.loss_targets), (width, 10, 11, 6));
            assert_eq!([0, 1].map(|i| (cache.end(i), cache.bytes(i))), [(4, 5), (10, 6)]);
            let (mut tokens, mut loss) = (vec![0], Vec::new());
            cache.push_tokens(2..6, &mut tokens);
            cache.push_loss(2..10, &mut loss);
            assert_eq!(tokens, [0, 3, 65_535, 4, 5]);
            assert_eq!(loss, [false, true, false, true, true, true, true, false]);
        }
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn no_damage_goes_unseen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tokens");
        write(&path, 300);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(error(&path).contains("a.tokens: not a whole token cache"), "{}", error(&path));
            let unused = (DIGEST + 32..HEADER).contains(&at);
            for bit in [0, 7] {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                std::fs::write(&path, &bad).unwrap();
                assert!(unused || error(&path).contains("a.tokens"));
            }
        }
        std::fs::write(&path, [good.as_slice(), &[0]].concat()).unwrap();
        assert!(error(&path).contains("bytes"), "{}", error(&path));
        std::fs::write(&path, &good).unwrap();
        let other = Cache::open(&path, &[8; 32]).unwrap_err().to_string();
        assert!(other.contains("other data"), "{other}");
    }
}
