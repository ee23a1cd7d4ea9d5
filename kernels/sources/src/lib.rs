//! What CubeCL makes of every kernel for devices that are not here: CUDA C++ and Metal's language, as text.
//! `BITNET_SOURCES=FOLDER cargo test` keeps the texts, for a compiler to look at; see `nvrtc.py`.
#![cfg(test)]

mod cube;
mod recorder;

use std::path::Path;

use bitnet_kernels::{cpu, environment};

use recorder::{Language, Source, recorder};

/// The name and the source of every kernel in this language.
fn sources(index: u16, language: Language) -> Vec<(String, String)> {
    let (client, sources) = recorder(index, language);
    cube::launch::all(&client);
    cubecl::future::block_on(client.sync()).expect("nothing runs, so nothing fails");
    let sources = sources.lock().expect("no other test has this");
    let text = |source: &Source| match &source.text {
        Ok(text) => (source.kernel.clone(), text.clone()),
        Err(why) => panic!("{language:?}: {}: {why}", source.kernel),
    };
    let sources: Vec<_> = sources.iter().map(text).collect();
    for kernel in cube::launch::KERNELS {
        assert!(sources.iter().any(|(name, _)| name == kernel), "{language:?}: {kernel} was not launched");
    }
    sources
}

/// Keeps the sources where that is asked for.
fn keep(prefix: &str, extension: &str, sources: &[(String, String)]) {
    let Some(folder) = std::env::var_os("BITNET_SOURCES") else { return };
    for (index, (kernel, text)) in sources.iter().enumerate() {
        let path = Path::new(&folder).join(format!("{prefix}.{kernel}.{index}.{extension}"));
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Whether any of the sources of this kernel says `what`.
fn says(sources: &[(String, String)], kernel: &str, what: &str) -> bool {
    sources.iter().any(|(name, text)| name == kernel && text.contains(what))
}

#[test]
fn cuda_has_dp4a_for_a_few_tokens_and_matrix_units_for_many() {
    for (index, version) in [80, 90].into_iter().enumerate() {
        let sources = sources(index as u16, Language::Cuda(version));
        keep(&format!("sm_{version}"), "cu", &sources);
        assert!(says(&sources, "matvec", "__dp4a("), "{version}");
        assert!(says(&sources, "matvec", "__shfl_xor_sync("), "{version}");
        assert!(says(&sources, "tiles", "mma_sync("), "{version}");
    }
}

/// What begins the names of types and functions that Metal does not have, or that cost it much.
const FOREIGN: [&str; 6] = ["double", "int64", "uint64", "long", "ulong", "__dp4a"];

#[test]
fn metal_has_matrix_units_and_no_types_of_eight_bytes() {
    let sources = sources(10, Language::Metal);
    keep("metal", "metal", &sources);
    assert!(says(&sources, "tiles", "simdgroup_multiply_accumulate("));
    for (kernel, text) in &sources {
        // The names of types, of which every source declares all, are no use of them.
        let used = text.lines().filter(|line| !line.starts_with("typedef "));
        let mut words = used.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
        let foreign = words.find(|word| FOREIGN.iter().any(|foreign| word.starts_with(foreign)));
        assert_eq!(foreign, None, "{kernel}");
    }
}
