//! A low-rank adapter: `adapter_config.json` and a safetensors file.

use std::collections::BTreeMap;

use bitnet_format::{Adapter, LowRank};

use crate::{Seeds, disk, joined, read, sections};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// The input: configuration, 0xff, safetensors.
pub fn run(data: &[u8]) {
    let [config, weights] = sections(data);
    match Adapter::open(disk::folder(&[(CONFIG, config), (WEIGHTS, weights)])) {
        Err(error) => read::one_line(error),
        Ok(adapter) => {
            for part in adapter.linears.values() {
                assert_eq!(part.a.len(), adapter.rank * part.d_input);
                assert_eq!(part.b.len(), part.d_output * adapter.rank);
            }
        }
    }
}

/// An adapter of two linears.
pub fn seeds() -> Seeds {
    let part = |d_input: usize, d_output: usize| LowRank {
        a: (0..2 * d_input).map(|i| i as f32).collect(),
        b: vec![0.5; d_output * 2],
        d_input,
        d_output,
    };
    let linears = BTreeMap::from([
        ("model.layers.0.self_attn.q_proj".to_string(), part(3, 4)),
        ("model.layers.0.mlp.up_proj".to_string(), part(3, 2)),
    ]);
    let adapter = Adapter { base: Some("a/b".to_string()), rank: 2, alpha: 4.0, linears };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("adapter");
    adapter.write(&path, false).expect("a seed can be written");
    let file = |name: &str| std::fs::read(path.join(name)).expect("a seed can be read");
    vec![("adapter".to_string(), joined(&[&file(CONFIG), &file(WEIGHTS)]))]
}
