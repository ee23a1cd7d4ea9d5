//! Low-rank adapters, in folders as PEFT lays them out: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::blob::Folder;
use crate::checkpoint::floats::dequantize;
use crate::export::folder::Staging;
use crate::safetensors::parse;
use crate::{FormatError, SafetensorsWriter, StorageType};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT names tensors by their place in its own module, which holds the model.
const PREFIX: &str = "base_model.model.";
/// The largest rank that is taken for one.
const MAX_RANK: u64 = 1 << 16;

/// A low-rank adapter of a model: for some of its linears two matrices whose product is added to what they compute,
/// `y += (alpha / rank) · B A x`.
///
/// Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), section 4.1.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The model that it was made for, as whoever wrote it named that.
    pub base: Option<String>,
    /// Rows of each `a`.
    pub rank: usize,
    /// What the product is multiplied by, times the rank.
    pub alpha: f64,
    /// By the name of the linear, such as `model.layers.0.self_attn.q_proj`.
    pub linears: BTreeMap<String, LowRank>,
}

/// The two matrices of a linear.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// `[rank, d_input]`, row by row.
    pub a: Vec<f32>,
    /// `[d_output, rank]`, row by row.
    pub b: Vec<f32>,
    /// Input features.
    pub d_input: usize,
    /// Output features.
    pub d_output: usize,
}

impl Adapter {
    /// Reads the adapter in a folder.
    ///
    /// # Errors
    ///
    /// When a file is missing or damaged, a tensor has another shape than its partner or the rank says, or the adapter has
    /// parts that do more than the formula.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let folder = Folder::Disk(path.as_ref().to_path_buf());
        let blob = folder.open(CONFIG)?;
        let file = blob.path();
        let config: Json = serde_json::from_slice(blob.bytes())
            .map_err(|e| FormatError::damaged(file, format!("it is not JSON: {e}")))?;
        check(file, &config)?;
        let rank = config["r"].as_u64().filter(|rank| (1..=MAX_RANK).contains(rank));
        let rank = rank.ok_or_else(|| FormatError::config(file, "r", "is no rank"))? as usize;
        let alpha = config["lora_alpha"].as_f64().filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| FormatError::config(file, "lora_alpha", "is no number"))?;
        let base = config["base_model_name_or_path"].as_str().map(str::to_string);
        Ok(Self { base, rank, alpha, linears: read_weights(&folder, rank)? })
    }

    /// Writes the adapter as a folder, which appears when it is whole.
    ///
    /// # Errors
    ///
    /// When `path` exists and `overwrite` is false, or is something else than an adapter, or writing fails.
    pub fn write(&self, path: &Path, overwrite: bool) -> Result<(), FormatError> {
        let files = [CONFIG, WEIGHTS];
        let staging = Staging::begin(path, overwrite, &files)?;
        let mut targets: Vec<&str> = self.linears.keys().filter_map(|name| name.rsplit('.').next()).collect();
        targets.sort_unstable();
        targets.dedup();
        let config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": targets,
            "inference_mode": true,
        });
        staging.write(CONFIG, format!("{config:#}\n").as_bytes())?;
        let placed = |error| staging.placed(error);
        let mut writer = SafetensorsWriter::new();
        writer.metadata("format", "pt")?;
        for (name, part) in &self.linears {
            writer.tensor(&tensor_name(name, "A"), StorageType::F32, &[self.rank, part.d_input]).map_err(placed)?;
            writer.tensor(&tensor_name(name, "B"), StorageType::F32, &[part.d_output, self.rank]).map_err(placed)?;
        }
        let mut out = writer.create(staging.path(WEIGHTS), false).map_err(placed)?;
        for (name, part) in &self.linears {
            out.write_f32(&tensor_name(name, "A"), &part.a).map_err(placed)?;
            out.write_f32(&tensor_name(name, "B"), &part.b).map_err(placed)?;
        }
        out.finish().map_err(placed)?;
        staging.finish()
    }
}

fn tensor_name(linear: &str, side: &str) -> String {
    format!("{PREFIX}{linear}.lora_{side}.weight")
}

/// Refuses what would be left out in silence.
fn check(file: &Path, config: &Json) -> Result<(), FormatError> {
    let refuse = |what: String| Err(FormatError::unsupported(file, what));
    if config["peft_type"] != "LORA" {
        return refuse(format!("an adapter of type {} (LORA is)", config["peft_type"]));
    }
    let is_set = |value: &Json| match value {
        Json::Null | Json::Bool(false) => false,
        Json::Object(entries) => !entries.is_empty(),
        Json::Array(entries) => !entries.is_empty(),
        _ => true,
    };
    let more =
        ["use_rslora", "use_dora", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias"];
    if let Some(key) = more.into_iter().find(|key| is_set(&config[*key])) {
        return refuse(format!("an adapter with {key}"));
    }
    match config["bias"].as_str() {
        None | Some("none") => Ok(()),
        Some(other) => refuse(format!("an adapter with biases ({other})")),
    }
}

/// A matrix that was read: its numbers, rows and columns.
type Matrix = (Vec<f32>, [usize; 2]);

fn read_weights(folder: &Folder<'_>, rank: usize) -> Result<BTreeMap<String, LowRank>, FormatError> {
    let blob = folder.open(WEIGHTS)?;
    let file: PathBuf = blob.path().to_path_buf();
    let mut sides: BTreeMap<String, [Option<Matrix>; 2]> = BTreeMap::new();
    for tensor in parse(&blob)?.tensors {
        let refuse = |reason: &str| FormatError::tensor(&file, &tensor.name, reason);
        let name = tensor.name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(".weight"));
        let (linear, side) = match name.and_then(|name| name.rsplit_once('.')) {
            Some((linear, "lora_A")) => (linear, 0),
            Some((linear, "lora_B")) => (linear, 1),
            _ => return Err(refuse("is none of an adapter's")),
        };
        let &[rows, cols] = &tensor.shape[..] else { return Err(refuse("is no matrix")) };
        let mut values = vec![0.0; rows * cols];
        let bytes = &blob.bytes()[tensor.offset..tensor.offset + tensor.bytes];
        dequantize(tensor.dtype, bytes, &mut values).map_err(|reason| refuse(&reason))?;
        if [rows, cols][side] != rank {
            return Err(refuse(&format!("has shape [{rows}, {cols}], which is not of rank {rank}")));
        }
        sides.entry(linear.to_string()).or_default()[side] = Some((values, [rows, cols]));
    }
    let pair = |(linear, sides): (String, [Option<Matrix>; 2])| match sides {
        [Some((a, [_, d_input])), Some((b, [d_output, _]))] => Ok((linear, LowRank { a, b, d_input, d_output })),
        [a, _] => {
            let tensor = tensor_name(&linear, if a.is_none() { "A" } else { "B" });
            Err(FormatError::MissingTensor { file: file.clone(), tensor })
        }
    };
    sides.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter() -> Adapter {
        let part = LowRank { a: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], b: vec![0.5; 8], d_input: 3, d_output: 4 };
        let name = "model.layers.0.self_attn.q_proj".to_string();
        Adapter { base: Some("a/b".into()), rank: 2, alpha: 4.0, linears: BTreeMap::from([(name, part)]) }
    }

    #[test]
    fn what_is_written_is_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("adapter");
        adapter().write(&path, false).unwrap();
        assert_eq!(Adapter::open(&path).unwrap(), adapter());
        assert!(adapter().write(&path, false).is_err());
        adapter().write(&path, true).unwrap();
    }

    #[test]
    fn what_is_no_adapter_is_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("adapter");
        assert!(Adapter::open(&path).unwrap_err().to_string().contains(CONFIG));
        adapter().write(&path, false).unwrap();
        let config = std::fs::read_to_string(path.join(CONFIG)).unwrap();
        for (from, to, word) in [
            ("\"LORA\"", "\"LOHA\"", "LOHA"),
            ("\"r\": 2", "\"r\": 3", "rank 3"),
            ("\"r\": 2", "\"r\": 0", "`r`"),
            ("\"r\": 2", "\"r\": 2, \"use_dora\": true", "use_dora"),
            ("\"none\"", "\"all\"", "biases"),
            ("{", "[", "not JSON"),
        ] {
            assert!(config.contains(from), "{config}");
            std::fs::write(path.join(CONFIG), config.replacen(from, to, 1)).unwrap();
            let error = Adapter::open(&path).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        std::fs::write(path.join(CONFIG), config).unwrap();
        let mut writer = SafetensorsWriter::new();
        writer.tensor(&tensor_name("x", "A"), StorageType::F32, &[2, 1]).unwrap();
        let mut out = writer.create(path.join(WEIGHTS), true).unwrap();
        out.write_f32(&tensor_name("x", "A"), &[1.0, 1.0]).unwrap();
        out.finish().unwrap();
        let error = Adapter::open(&path).unwrap_err().to_string();
        assert!(error.contains("x.lora_B"), "{error}");
    }
}
