//! A hub of one repository on the loopback interface, with the faults a network has.
//!
//! It answers as huggingface.co does: a listing under `/api`, small files directly, weights by a redirect to another
//! place that serves ranges.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

/// The commit that every revision of the repository is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Bytes of a weights file after which a connection breaks, for this many connections.
    pub breaks: (usize, usize),
    /// Ranges are ignored: the whole file is sent.
    pub no_ranges: bool,
    /// Everything is answered with this status.
    pub status: Option<u16>,
    /// Requests without this token are answered with 401.
    pub token: Option<&'static str>,
    /// Sent as the etag of every file.
    pub etag: Option<&'static str>,
    /// Sent as the commit of every file.
    pub commit: Option<&'static str>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    faults: Faults,
    /// Path and `Range` of each request for content.
    requests: Vec<(String, String)>,
}

pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn new(files: &[(&str, Vec<u8>)], faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect();
        let state = Arc::new(Mutex::new(State { files, faults, requests: Vec::new() }));
        let (shared, base) = (Arc::clone(&state), endpoint.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, base) = (Arc::clone(&shared), base.clone());
                thread::spawn(move || answer(stream, &state, &base));
            }
        });
        Self { endpoint, state }
    }

    pub fn set(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    /// The ranges in which the content of a file was asked for, probes for its size left out.
    pub fn ranges(&self, file: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let of_file = state.requests.iter().filter(|(path, range)| path.ends_with(file) && range != "bytes=0-0");
        of_file.map(|(_, range)| range.clone()).collect()
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>, base: &str) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_string();
    let headers: HashMap<String, String> = lines
        .map_while(|line| line.ok().filter(|line| !line.is_empty()))
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_string())))
        .collect();
    let mut state = state.lock().ok()?;
    let faults = state.faults.clone();
    let authorized = faults.token.is_none_or(|token| headers.get("authorization") == Some(&format!("Bearer {token}")));
    let status = faults.status.or((!authorized && !path.starts_with("/cdn/")).then_some(401));
    if let Some(status) = status {
        return send(stream, status, &[], b"");
    }
    if path == format!("/api/models/org/name/revision/{COMMIT}") || path == "/api/models/org/name/revision/main" {
        let mut names: Vec<&String> = state.files.keys().collect();
        names.sort();
        let siblings: Vec<_> = names.into_iter().map(|name| json!({ "rfilename": name })).collect();
        let body = json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return send(stream, 200, &[], body.as_bytes());
    }
    let (redirects, name) = match path.strip_prefix("/cdn/") {
        Some(name) => (false, name),
        None => {
            let (_, name) = path.strip_prefix("/org/name/resolve/")?.split_once('/')?;
            (name.ends_with(".gguf") || name.ends_with(".safetensors"), name)
        }
    };
    let Some(content) = state.files.get(name).cloned() else {
        return send(stream, 404, &[], b"");
    };
    let etag = faults.etag.map_or(format!("etag-of-{}", name.replace(['/', '.'], "-")), str::to_string);
    let commit = faults.commit.unwrap_or(COMMIT);
    if redirects {
        let size = content.len();
        let headers = format!(
            "Location: {base}/cdn/{name}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {size}\r\nX-Repo-Commit: {commit}\r\n"
        );
        return send(stream, 302, headers.as_bytes(), b"");
    }
    let range = headers.get("range").cloned().unwrap_or_default();
    state.requests.push((path.clone(), range.clone()));
    let (from, to) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
    let (mut from, mut to) = (from.parse().unwrap_or(0), to.parse().map_or(content.len(), |to: usize| to + 1));
    let is_probe = range == "bytes=0-0";
    if faults.no_ranges && !is_probe {
        (from, to) = (0, content.len());
    }
    if from >= content.len() {
        return send(stream, 416, &[], b"");
    }
    let headers = format!(
        "Content-Range: bytes {from}-{}/{}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\n",
        to - 1,
        content.len()
    );
    let breaks = path.starts_with("/cdn/") && !is_probe && state.faults.breaks.1 > 0;
    if breaks {
        state.faults.breaks.1 -= 1;
    }
    drop(state);
    let body = &content[from..to];
    if breaks {
        return send_part(stream, 206, headers.as_bytes(), body, faults.breaks.0);
    }
    send(stream, 206, headers.as_bytes(), body)
}

fn send(stream: TcpStream, status: u16, headers: &[u8], body: &[u8]) -> Option<()> {
    send_part(stream, status, headers, body, body.len())
}

/// Announces the whole body, sends some of it and closes the connection.
fn send_part(mut stream: TcpStream, status: u16, headers: &[u8], body: &[u8], sent: usize) -> Option<()> {
    write!(stream, "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n", body.len()).ok()?;
    stream.write_all(headers).ok()?;
    stream.write_all(b"\r\n").ok()?;
    stream.write_all(&body[..sent.min(body.len())]).ok()
}
