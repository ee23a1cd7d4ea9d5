//! A burnpack file: opened and read.

use bitnet_fixtures::family;
use bitnet_format::export::{BurnpackOptions, Model, Tensor, TensorData, TensorKind, write_burnpack};
use bitnet_format::{FormatError, ModelConfig, StorageType, TokenizerSource, open};
use bitnet_ternary::{Scale, TernaryMatrix};

use crate::{Seeds, disk, read};

const FILE: &str = "model.bpk";

/// Width of everything in a seed.
const WIDTH: usize = 32;

/// The input is the file.
pub fn run(data: &[u8]) {
    match open(disk::folder(&[(FILE, data)]).join(FILE)) {
        Ok(model) => read::everything(&model),
        Err(error) => read::one_line(error),
    }
}

/// Models of one small layer, one of them with a scale for each group of columns.
pub fn seeds() -> Seeds {
    let scale = |groups: bool| match groups {
        true => Scale::Group { size: WIDTH / 2, values: vec![0.5; 2 * WIDTH] },
        false => Scale::Tensor(0.5),
    };
    [("tensor", false), ("groups", true)].map(|(name, groups)| (name.to_string(), written(&scale(groups)))).to_vec()
}

fn written(scale: &Scale) -> Vec<u8> {
    let source = open(family("llama-bitlinear")).expect("a fixture opens");
    let config = ModelConfig {
        hidden_size: WIDTH,
        intermediate_size: WIDTH,
        num_layers: 1,
        num_heads: 2,
        num_kv_heads: 2,
        head_dim: WIDTH / 2,
        rope_dim: WIDTH / 2,
        vocab_size: 4,
        tie_word_embeddings: Some(true),
        ..source.config().clone()
    };
    let part = |name: &str| format!("model.layers.0.{name}.weight");
    let linears = ["q_proj", "k_proj", "v_proj", "o_proj"].map(|name| part(&format!("self_attn.{name}")));
    let linears =
        linears.into_iter().chain(["gate_proj", "up_proj", "down_proj"].map(|name| part(&format!("mlp.{name}"))));
    let norms = [part("input_layernorm"), part("post_attention_layernorm"), "model.norm.weight".to_string()];
    let mut tensors = vec![Tensor::floats("model.embed_tokens.weight", &[4, WIDTH])];
    tensors.extend(linears.map(|name| Tensor::ternary(name, WIDTH, WIDTH)));
    tensors.extend(norms.map(|name| Tensor::floats(name, &[WIDTH])));
    let model =
        Model { name: "seed".to_string(), config, embedding: None, tokenizer: TokenizerSource::Missing, tensors };

    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join(FILE);
    let trits: Vec<i8> = (0..WIDTH * WIDTH).map(|i| (i % 3) as i8 - 1).collect();
    let data = |tensor: &Tensor| -> Result<TensorData, FormatError> {
        Ok(match tensor.kind {
            TensorKind::Ternary => {
                let matrix = TernaryMatrix::from_trits(WIDTH, WIDTH, &trits, scale.clone());
                TensorData::Ternary(matrix.expect("trits with a fitting scale"))
            }
            _ => TensorData::Floats(vec![0.25; tensor.shape.iter().product()]),
        })
    };
    let options = BurnpackOptions { floats: StorageType::F16 };
    write_burnpack(&model, &options, &path, false, data).expect("a seed can be written");
    std::fs::read(path).expect("a seed can be read")
}
