//! Downloads from a hub on the loopback interface, into a cache in a temporary folder.

use std::cell::RefCell;
use std::path::Path;

use bitnet_format::hub::{Event, HubOptions, resolve};
use bitnet_format::{StorageType, open};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{assert_says, f32_bytes, gguf_bytes, gguf_keys, hf_config, safetensors_bytes};
use crate::hub_server::{COMMIT, Faults, Server};

fn cache() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn options(server: &Server, cache: &TempDir) -> HubOptions<'static> {
    HubOptions {
        endpoint: server.endpoint.clone(),
        cache: cache.path().join("hub"),
        token: None,
        offline: false,
        retries: 1,
        observer: None,
    }
}

fn gguf(values: usize) -> Vec<u8> {
    let data = f32_bytes(&(0..values).map(|i| i as f32).collect::<Vec<_>>());
    gguf_bytes(&gguf_keys("bitnet"), &[("output_norm.weight", StorageType::F32, vec![values], data)])
}

/// Checks that the cache holds exactly this file, and that it opens.
fn assert_whole(path: &Path, content: &[u8]) {
    assert!(std::fs::read(path).unwrap() == content, "{} is not what the hub has", path.display());
    open(path).unwrap();
}

#[test]
fn a_folder_of_safetensors() {
    let tensors = safetensors_bytes(&[]);
    let server = Server::new(
        &[
            ("config.json", hf_config().to_string().into_bytes()),
            ("model.safetensors", tensors.clone()),
            ("tokenizer.json", b"{}".to_vec()),
            ("README.md", b"hello".to_vec()),
            ("other.gguf", gguf(4)),
        ],
        Faults::default(),
    );
    let cache = cache();
    let path = resolve("org/name", &options(&server, &cache)).unwrap();
    assert_whole(&path, &tensors);
    let snapshot = cache.path().join(format!("hub/models--org--name/snapshots/{COMMIT}"));
    assert_eq!(path, snapshot.join("model.safetensors"));
    assert!(snapshot.join("tokenizer.json").exists());
    assert!(!snapshot.join("README.md").exists() && !snapshot.join("other.gguf").exists());
    let named = std::fs::read_to_string(cache.path().join("hub/models--org--name/refs/main")).unwrap();
    assert_eq!(named, COMMIT);

    // Again, nothing is asked for twice.
    assert_eq!(resolve("org/name", &options(&server, &cache)).unwrap(), path);
    assert_eq!(server.ranges("model.safetensors").len(), 1);
    assert_eq!(server.ranges("config.json").len(), 1);
    // One of several, by name and by commit.
    let other = resolve(&format!("org/name@{COMMIT}:other.gguf"), &options(&server, &cache)).unwrap();
    assert_whole(&other, &gguf(4));
}

#[test]
fn a_folder_of_shards() {
    let index = json!({ "weight_map": { "a": "m-1.safetensors", "b": "m-2.safetensors" } }).to_string();
    let shard = |name| safetensors_bytes(&[(name, safetensors::Dtype::F32, vec![1], f32_bytes(&[1.0]))]);
    let server = Server::new(
        &[
            ("config.json", hf_config().to_string().into_bytes()),
            ("model.safetensors.index.json", index.into_bytes()),
            ("m-1.safetensors", shard("a")),
            ("m-2.safetensors", shard("b")),
        ],
        Faults::default(),
    );
    let cache = cache();
    let path = resolve("org/name", &options(&server, &cache)).unwrap();
    assert_eq!(open(path).unwrap().tensors().len(), 2);
}

#[test]
fn progress_is_told() {
    let content = gguf(50_000);
    let server = Server::new(&[("m.gguf", content.clone())], Faults::default());
    let cache = cache();
    let events = RefCell::new(Vec::new());
    let observer = |event: Event<'_>| match event {
        Event::Progress { file, done, total } => events.borrow_mut().push((file.to_string(), done, total)),
        Event::Note(note) => panic!("{note}"),
    };
    let path = resolve("org/name", &HubOptions { observer: Some(&observer), ..options(&server, &cache) }).unwrap();
    assert_whole(&path, &content);
    let (events, size) = (events.into_inner(), content.len() as u64);
    assert!(events.len() > 3 && events.iter().all(|(file, _, total)| file == "m.gguf" && *total == size));
    assert!(events.is_sorted_by_key(|(_, done, _)| *done));
    assert_eq!(events.last().unwrap().1, size);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let content = gguf(50_000);
    let server = Server::new(&[("m.gguf", content.clone())], Faults { breaks: (70_000, 2), ..Faults::default() });
    let cache = cache();
    let path = resolve("org/name", &options(&server, &cache)).unwrap();
    assert_whole(&path, &content);
    assert_eq!(server.ranges("m.gguf"), ["bytes=0-", "bytes=70000-", "bytes=140000-"]);
}

#[test]
fn a_download_that_was_given_up_goes_on_next_time() {
    let content = gguf(50_000);
    let server = Server::new(&[("m.gguf", content.clone())], Faults { breaks: (70_000, 1), ..Faults::default() });
    let cache = cache();
    let break_down = |event: Event<'_>| {
        if let Event::Progress { done: 1.., .. } = event {
            server.set(Faults { status: Some(503), ..Faults::default() });
        }
    };
    let broken = HubOptions { observer: Some(&break_down), ..options(&server, &cache) };
    assert_says(resolve("org/name", &broken), &["org/name", "503"]);
    server.set(Faults::default());
    let path = resolve("org/name", &options(&server, &cache)).unwrap();
    assert_whole(&path, &content);
    assert_eq!(server.ranges("m.gguf"), ["bytes=0-", "bytes=70000-"]);
}

#[test]
fn a_connection_that_brings_nothing_is_given_up() {
    let server = Server::new(&[("m.gguf", gguf(4))], Faults { breaks: (0, 9), ..Faults::default() });
    let cache = cache();
    assert_says(resolve("org/name", &options(&server, &cache)), &["org/name", &server.endpoint, "is kept"]);
    assert_eq!(server.ranges("m.gguf").len(), 2, "the first try and one more");
}

#[test]
fn servers_that_ignore_ranges_do_not_spoil_the_file() {
    let content = gguf(50_000);
    let faults = Faults { breaks: (70_000, 1), no_ranges: true, ..Faults::default() };
    let server = Server::new(&[("m.gguf", content.clone())], faults);
    let cache = cache();
    let path = resolve("org/name", &options(&server, &cache)).unwrap();
    assert_whole(&path, &content);
}

#[test]
fn a_part_longer_than_the_file_is_thrown_away() {
    let content = gguf(5_000);
    for len in [content.len(), content.len() + 10] {
        let server = Server::new(&[("m.gguf", content.clone())], Faults::default());
        let cache = cache();
        let blobs = cache.path().join("hub/models--org--name/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join("etag-of-m-gguf.part"), vec![7; len]).unwrap();
        assert_whole(&resolve("org/name", &options(&server, &cache)).unwrap(), &content);
    }
}

#[test]
fn statuses_say_what_to_do() {
    let server = Server::new(&[("m.gguf", gguf(4))], Faults::default());
    let cache = cache();
    for (status, words) in [
        (401, &["org/name", "401", "HF_TOKEN"][..]),
        (403, &["org/name", "403", "terms"]),
        (404, &["org/name", "404", "name"]),
        (429, &["org/name", "429"]),
        (500, &["org/name", "500"]),
    ] {
        server.set(Faults { status: Some(status), ..Faults::default() });
        assert_says(resolve("org/name", &options(&server, &cache)), words);
    }
    server.set(Faults::default());
    assert_says(resolve("org/name@v9", &options(&server, &cache)), &["org/name@v9"]);
    assert_says(resolve("org/name:x.gguf", &options(&server, &cache)), &["x.gguf", "m.gguf"]);
}

#[test]
fn a_token_opens_private_models() {
    let server = Server::new(&[("m.gguf", gguf(4))], Faults { token: Some("secret"), ..Faults::default() });
    let cache = cache();
    assert_says(resolve("org/name", &options(&server, &cache)), &["401"]);
    let with_token = HubOptions { token: Some("secret".to_string()), ..options(&server, &cache) };
    assert_whole(&resolve("org/name", &with_token).unwrap(), &gguf(4));
}

#[test]
fn several_models_are_listed() {
    let server = Server::new(&[("a.gguf", gguf(4)), ("b.gguf", gguf(5))], Faults::default());
    let cache = cache();
    assert_says(resolve("org/name", &options(&server, &cache)), &["several", "a.gguf, b.gguf", ":file"]);
    let picked = resolve("org/name:b.gguf", &options(&server, &cache)).unwrap();
    assert_whole(&picked, &gguf(5));
    // The cache has only the one that was picked.
    let offline = HubOptions { offline: true, ..options(&server, &cache) };
    assert_eq!(resolve("org/name", &offline).unwrap(), picked);
    assert_says(resolve("org/name:a.gguf", &offline), &["a.gguf", "b.gguf"]);
}

#[test]
fn offline_the_cache_is_enough() {
    let server = Server::new(&[("m.gguf", gguf(4))], Faults::default());
    let cache = cache();
    let offline = HubOptions { offline: true, ..options(&server, &cache) };
    assert_says(resolve("org/name", &offline), &["org/name", "not in the cache", "HF_HUB_OFFLINE"]);
    let path = resolve("org/name", &options(&server, &cache)).unwrap();
    server.set(Faults { status: Some(500), ..Faults::default() });
    assert_eq!(resolve("org/name", &offline).unwrap(), path);
    assert_eq!(resolve(&format!("org/name@{COMMIT}"), &offline).unwrap(), path);
    assert_says(resolve("org/other", &offline), &["org/other", "not in the cache"]);
}

#[test]
fn without_a_network_the_cache_is_taken_and_said_so() {
    let server = Server::new(&[("m.gguf", gguf(4))], Faults::default());
    let cache = cache();
    let path = resolve("org/name", &options(&server, &cache)).unwrap();
    // Nobody listens on port 1.
    let cut_off = HubOptions { endpoint: "http://127.0.0.1:1".to_string(), ..options(&server, &cache) };
    let notes = RefCell::new(Vec::new());
    let observer = |event: Event<'_>| {
        if let Event::Note(note) = event {
            notes.borrow_mut().push(note.to_string());
        }
    };
    assert_eq!(resolve("org/name", &HubOptions { observer: Some(&observer), ..cut_off.clone() }).unwrap(), path);
    assert!(notes.borrow()[0].contains("127.0.0.1:1") && notes.borrow()[0].contains("cache"), "{notes:?}");
    assert_says(resolve("org/other", &cut_off), &["org/other", "cannot be fetched", "127.0.0.1:1"]);
}

#[test]
fn answers_that_would_leave_the_cache() {
    let server = Server::new(&[("m.gguf", gguf(4))], Faults::default());
    let cache = cache();
    for etag in ["../../../evil", "/tmp/evil", ".."] {
        server.set(Faults { etag: Some(etag), ..Faults::default() });
        assert_says(resolve("org/name", &options(&server, &cache)), &["m.gguf", "etag"]);
    }
    server.set(Faults { commit: Some("../../../evil"), ..Faults::default() });
    assert_says(resolve("org/name", &options(&server, &cache)), &["m.gguf", "changed"]);
    assert!(!cache.path().join("evil").exists());
}

#[test]
fn an_endpoint_that_is_no_hub() {
    let cache = cache();
    let server = Server::new(&[], Faults::default());
    let options = HubOptions { endpoint: "no address at all".to_string(), ..options(&server, &cache) };
    assert_says(resolve("org/name", &options), &["org/name"]);
}
