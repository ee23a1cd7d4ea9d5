//! One repository of the hub, and its folder in the cache.
//!
//! Requests and the cache's layout are the `hf-hub` crate's. Added here: nothing of a server's answer is used as a path
//! unchecked, broken downloads are taken up again, and a file of the wrong size is not kept.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::failure::Failure;
use super::spec::is_safe_path;
use super::{Event, HubOptions, Spec};
use crate::FormatError;

/// A model's repository.
pub(super) struct Repository<'a> {
    spec: &'a Spec,
    options: &'a HubOptions<'a>,
    repo: Repo,
    cache: Cache,
    api: Api,
    remote: ApiRepo,
}

/// The files of a revision.
pub(super) struct Listing {
    pub(super) files: Vec<String>,
    commit: String,
    /// Whether this is what the cache has, and all there is to be had.
    cached: bool,
}

impl<'a> Repository<'a> {
    pub(super) fn new(spec: &'a Spec, options: &'a HubOptions<'a>) -> Result<Self, FormatError> {
        let repo = Repo::with_revision(spec.repository.clone(), RepoType::Model, spec.revision.clone());
        let cache = Cache::new(options.cache.clone());
        // Retries are done here: the crate's own begin a resumed file again from its first byte.
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(options.endpoint.clone())
            .with_token(options.token.clone())
            .with_retries(0)
            .with_progress(false)
            .build()
            .map_err(|e| Failure::from(e).explain(spec, options))?;
        let remote = api.repo(repo.clone());
        Ok(Self { spec, options, repo, cache, api, remote })
    }

    /// The hub's list of files, or the cache's when offline or cut off.
    pub(super) fn listing(&self) -> Result<Listing, FormatError> {
        if self.options.offline {
            return self.cached_listing().ok_or_else(|| {
                let cache = self.options.cache.display();
                self.spec.error(format!("not in the cache {cache}, and downloads are off (HF_HUB_OFFLINE)"))
            });
        }
        let failure = match self.remote_listing() {
            Ok(listing) => return Ok(listing),
            Err(failure) => failure,
        };
        match self.cached_listing() {
            Some(listing) if failure.is_transient() => {
                let note = format!("{}; taking the copy in the cache", self.explain(&failure));
                self.options.tell(Event::Note(&note));
                Ok(listing)
            }
            _ => Err(self.explain(&failure)),
        }
    }

    fn remote_listing(&self) -> Result<Listing, Failure> {
        let info = self.remote.info()?;
        if !is_safe_path(&info.sha) {
            return Err(Failure::Other(format!("unusable answer: commit {:?}", info.sha)));
        }
        let files = info.siblings.into_iter().map(|s| s.rfilename).filter(|f| is_safe_path(f)).collect();
        Ok(Listing { files, commit: info.sha, cached: false })
    }

    /// What the cache has of this revision.
    fn cached_listing(&self) -> Option<Listing> {
        let folder = self.options.cache.join(self.repo.folder_name());
        let named = fs::read_to_string(folder.join("refs").join(&self.spec.revision)).ok();
        let commit = named.map(|text| text.trim().to_string()).unwrap_or_else(|| self.spec.revision.clone());
        if !is_safe_path(&commit) {
            return None;
        }
        let mut files = Vec::new();
        list(&self.snapshot(&commit), "", &mut files).ok()?;
        files.sort();
        Some(Listing { files, commit, cached: true })
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.repo(self.repo.clone()).pointer_path(commit)
    }

    /// The path of a file, downloaded unless it is in the cache.
    pub(super) fn fetch(&self, file: &str, listing: &Listing) -> Result<PathBuf, FormatError> {
        let path = self.snapshot(&listing.commit).join(file);
        if path.exists() {
            return Ok(path);
        }
        if listing.cached {
            return Err(self.spec.error(format!("{file} is not in the cache, and the hub is out of reach")));
        }
        let (furthest, mut stuck) = (Cell::new(0), 0);
        loop {
            let before = furthest.get();
            let failure = match self.download(file, listing, &furthest) {
                Ok(path) => return Ok(path),
                Err(failure) => failure,
            };
            stuck = if furthest.get() > before { 0 } else { stuck + 1 };
            if !failure.is_transient() || stuck > self.options.retries {
                return Err(self.explain(&failure));
            }
            sleep(Duration::from_millis(100 << stuck.min(6)));
        }
    }

    /// Downloads a file, or the rest of it.
    fn download(&self, file: &str, listing: &Listing, furthest: &Cell<u64>) -> Result<PathBuf, Failure> {
        let metadata = self.api.metadata(&self.remote.url(file))?;
        let (etag, size) = (metadata.etag(), metadata.size() as u64);
        if metadata.commit_hash() != listing.commit {
            return Err(Failure::Other(format!("{file} has changed meanwhile: try again")));
        }
        if !is_safe_path(etag) {
            return Err(Failure::Other(format!("unusable answer: {file} has the etag {etag:?}")));
        }
        let blob = self.cache.repo(self.repo.clone()).blob_path(etag);
        let part = blob.with_extension("part");
        // A part that is as long as the file, or longer, has nothing left to ask for.
        if part.metadata().is_ok_and(|part| part.len() >= size) {
            fs::remove_file(&part).map_err(|e| Failure::Other(format!("{}: {e}", part.display())))?;
        }
        let meter = Meter { options: self.options, file, furthest, done: 0, total: 0 };
        let path = self.remote.download_with_progress(file, meter)?;
        // Small text files may come compressed, so only weights have a size to hold them to.
        let is_weights = file.ends_with(".safetensors") || file.ends_with(".gguf");
        let arrived = path.metadata().map(|m| m.len()).unwrap_or(0);
        if is_weights && arrived != size {
            let _ = (fs::remove_file(&path), fs::remove_file(&blob));
            return Err(Failure::Unreachable(format!("{file} has {arrived} bytes instead of {size}")));
        }
        Ok(path)
    }

    fn explain(&self, failure: &Failure) -> FormatError {
        failure.explain(self.spec, self.options)
    }
}

/// Passes on what the crate reports.
struct Meter<'a> {
    options: &'a HubOptions<'a>,
    file: &'a str,
    furthest: &'a Cell<u64>,
    done: u64,
    total: u64,
}

impl Progress for Meter<'_> {
    fn init(&mut self, size: usize, _file: &str) {
        (self.done, self.total) = (0, size as u64);
    }

    fn update(&mut self, bytes: usize) {
        self.done += bytes as u64;
        self.furthest.set(self.furthest.get().max(self.done));
        self.options.tell(Event::Progress { file: self.file, done: self.done, total: self.total });
    }

    fn finish(&mut self) {}
}

/// Names of all files under a folder, relative to it, links followed.
fn list(folder: &Path, prefix: &str, files: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            list(&path, &format!("{prefix}{name}/"), files)?;
        } else if path.exists() {
            files.push(format!("{prefix}{name}"));
        }
    }
    Ok(())
}
