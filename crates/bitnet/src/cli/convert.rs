//! `bitnet convert`.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bitnet::conversion;
use bitnet::format::convert::{Report, ScaleFidelity, Target};
use bitnet::format::export::{Architecture, BurnpackOptions, GgufOptions, HuggingFaceForm, HuggingFaceOptions};
use bitnet::format::{Checkpoint, Packing, ScaleDirection, StorageType, TokenizerSource};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::bar::Bar;
use super::source_args::SourceArgs;
use super::{CliError, note};

/// Writes a model in another form: trits and scales as they are, float masters quantized by the mean of their magnitudes.
///
/// What was written is opened again and compared with its source, tensor by tensor, before it gets its name.
#[derive(Args)]
pub struct Convert {
    #[command(flatten)]
    source: SourceArgs,

    /// The file, or the folder for a Hugging Face form
    out: PathBuf,

    /// What is written
    #[arg(long, value_enum, default_value_t = Form::I2S)]
    to: Form,

    /// What embedding, head and float linears become [default: f16 in GGUF; in burnpack the type of the source's; in a folder
    /// too, if its scales are of that type, else f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    embd: Option<Embedding>,

    /// general.architecture of a GGUF file, by which other programs choose what they compute [default: the one that fits]
    #[arg(long, value_enum, value_name = "NAME")]
    arch: Option<Arch>,

    /// Name of the model for those who look into the file [default: that of the source]
    #[arg(long)]
    name: Option<String>,

    /// Replace what is there
    #[arg(long)]
    overwrite: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Form {
    /// GGUF for bitnet.cpp
    #[value(name = "i2_s")]
    I2S,
    /// GGUF for llama.cpp, 1.7 bits a weight
    #[value(name = "tq1_0")]
    Tq1_0,
    /// GGUF for llama.cpp, 2.1 bits a weight
    #[value(name = "tq2_0")]
    Tq2_0,
    /// GGUF for ik_llama.cpp, 2 bits a weight
    #[value(name = "iq2_bn")]
    Iq2Bn,
    /// The same with four rows interleaved
    #[value(name = "iq2_bn_r4")]
    Iq2BnR4,
    /// GGUF for ik_llama.cpp, 1.6 bits a weight
    #[value(name = "iq1_bn")]
    Iq1Bn,
    /// GGUF for llama.cpp, models with float activations
    #[value(name = "q2_0")]
    Q2_0,
    /// GGUF for PrismML's llama.cpp, models with float activations
    #[value(name = "pq2_0")]
    Pq2_0,
    /// GGUF with float linears, for other programs' quantizers
    Float,
    /// A folder for transformers, trits packed, `linear_class` autobitlinear
    HfPacked,
    /// The same with `linear_class` bitlinear
    HfBitlinear,
    /// A folder for transformers with float linears
    HfMaster,
    /// A file of Burn's own, trits packed
    Burnpack,
}

impl Form {
    fn packing(self) -> Option<Packing> {
        match self {
            Self::I2S => Some(Packing::I2S),
            Self::Tq1_0 => Some(Packing::Tq1_0),
            Self::Tq2_0 => Some(Packing::Tq2_0),
            Self::Iq2Bn => Some(Packing::Iq2Bn),
            Self::Iq2BnR4 => Some(Packing::Iq2BnR4),
            Self::Iq1Bn => Some(Packing::Iq1Bn),
            Self::Q2_0 => Some(Packing::Q2_0 { group: 64 }),
            Self::Pq2_0 => Some(Packing::Q2_0 { group: 128 }),
            Self::Float | Self::HfPacked | Self::HfBitlinear | Self::HfMaster | Self::Burnpack => None,
        }
    }

    fn folder(self) -> Option<HuggingFaceForm> {
        match self {
            Self::HfPacked => Some(HuggingFaceForm::PackedAutoBitLinear),
            Self::HfBitlinear => Some(HuggingFaceForm::PackedBitLinear),
            Self::HfMaster => Some(HuggingFaceForm::Master),
            _ => None,
        }
    }

    /// What the name of such a file ends in.
    fn ending(self) -> Option<&'static str> {
        match self {
            Self::HfPacked | Self::HfBitlinear | Self::HfMaster => None,
            Self::Burnpack => Some("bpk"),
            _ => Some("gguf"),
        }
    }

    /// As it is spelled on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_string()).unwrap_or_default()
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Embedding {
    F32,
    F16,
    Bf16,
    /// 8.5 bits a weight; only in GGUF
    #[value(name = "q8_0")]
    Q8_0,
    /// 6.6 bits a weight; only in GGUF
    #[value(name = "q6_k")]
    Q6K,
}

impl From<Embedding> for StorageType {
    fn from(embedding: Embedding) -> Self {
        match embedding {
            Embedding::F32 => Self::F32,
            Embedding::F16 => Self::F16,
            Embedding::Bf16 => Self::BF16,
            Embedding::Q8_0 => Self::Q8_0,
            Embedding::Q6K => Self::Q6_K,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Arch {
    /// bitnet.cpp, ik_llama.cpp: sub-norms, squared ReLU
    #[value(name = "bitnet-b1.58")]
    BitnetB158,
    /// The same before April 2025
    #[value(name = "bitnet-25")]
    Bitnet25,
    /// All programs: sub-norms, SiLU
    Bitnet,
    /// All programs: no sub-norms, SiLU
    Llama,
    /// Norms of Q and K
    Qwen3,
    /// Norms of Q and K and on both sides of attention and MLP, GELU
    Gemma3,
}

impl From<Arch> for Architecture {
    fn from(arch: Arch) -> Self {
        match arch {
            Arch::BitnetB158 => Self::BitnetB158,
            Arch::Bitnet25 => Self::Bitnet25,
            Arch::Bitnet => Self::Bitnet,
            Arch::Llama => Self::Llama,
            Arch::Qwen3 => Self::Qwen3,
            Arch::Gemma3 => Self::Gemma3,
        }
    }
}

impl Convert {
    pub fn run(self) -> Result<(), CliError> {
        let ending = self.to.ending();
        refuse_target(&self.out, self.overwrite, ending)?;
        if ending != Some("gguf") && self.arch.is_some() {
            return Err(CliError::Usage(format!("--arch: {} has no such key", self.to.name())));
        }
        let begin = Instant::now();
        let source = self.source.open()?;
        source.notes().iter().for_each(|text| note(format_args!("note: {text}")));
        let name = self.name.clone().unwrap_or_else(|| self.source.model_name(&source));
        let conversion = conversion(&source, &name, self.target(&source))?;
        if conversion.model.embedding.as_ref().is_some_and(|embedding| embedding.is_guess) {
            note(format_args!("warning: nothing says how the model pools: written down as the last token's state"));
        }
        if matches!(conversion.model.tokenizer, TokenizerSource::Missing) {
            note(format_args!(
                "warning: there is no tokenizer in what is converted, so there is none in what is written"
            ));
        }
        let bar = Bar::new();
        let report = conversion.run(&self.out, self.overwrite, &|progress| bar.show(progress))?;
        drop(bar);
        self.say(&report, begin.elapsed().as_secs_f64())
    }

    fn target(&self, source: &Checkpoint) -> Target {
        let floats = self.embd.map(StorageType::from);
        if let Some(form) = self.to.folder() {
            let dtype = floats.unwrap_or_else(|| folder_type(source, form));
            return Target::HuggingFace(HuggingFaceOptions { form, dtype });
        }
        if self.to == Form::Burnpack {
            return Target::Burnpack(BurnpackOptions { floats: floats.unwrap_or_else(|| burnpack_type(source)) });
        }
        let options = GgufOptions {
            packing: self.to.packing().unwrap_or(Packing::I2S),
            floats: floats.unwrap_or(StorageType::F16),
            architecture: self.arch.map(Architecture::from),
        };
        if self.to == Form::Float { Target::GgufFloats(options) } else { Target::Gguf(options) }
    }

    fn say(&self, report: &Report, seconds: f64) -> Result<(), CliError> {
        let Report { bytes, ternary, floats, scales } = *report;
        if self.json {
            let line = json!({
                "path": self.out,
                "format": self.to.name(),
                "bytes": bytes,
                "ternary_tensors": ternary,
                "float_tensors": floats,
                "scales": match scales {
                    ScaleFidelity::Exact => "exact",
                    ScaleFidelity::HalfPrecision => "f16",
                    ScaleFidelity::Inverse => "inverse",
                },
                "seconds": seconds,
            });
            return Ok(writeln!(stdout(), "{line}")?);
        }
        let scales = match scales {
            ScaleFidelity::Exact => "trits and scales the same to the bit",
            ScaleFidelity::HalfPrecision => "trits the same to the bit, scales rounded to f16",
            ScaleFidelity::Inverse => "trits the same to the bit, scales stored as their inverse",
        };
        let compared = match ternary {
            0 => format!("{floats} float tensors compared"),
            _ => format!("{ternary} ternary tensors: {scales}; {floats} float tensors compared"),
        };
        let out = self.out.display();
        Ok(writeln!(stdout(), "{out}: {bytes} bytes in {seconds:.1} s; {compared}")?)
    }
}

/// Refuses a path that is taken, or on which no reader would look for a file of the kind: one whose name has another `ending`.
pub fn refuse_target(out: &Path, overwrite: bool, ending: Option<&str>) -> Result<(), CliError> {
    if !overwrite && out.symlink_metadata().is_ok() {
        return Err(CliError::Usage(format!("{} exists; --overwrite replaces it", out.display())));
    }
    match ending {
        Some(ending) if out.extension().is_none_or(|found| found != ending) => {
            let kind = if ending == "gguf" { "GGUF" } else { "burnpack" };
            Err(CliError::Usage(format!("{}: the name of a {kind} file ends in .{ending}", out.display())))
        }
        _ => Ok(()),
    }
}

/// The type of embedding and head in the source, so that they stay what they are. Where the two differ, or they are trits, F32 and
/// F16 hold all their values.
fn burnpack_type(source: &Checkpoint) -> StorageType {
    let matrices = ["model.embed_tokens.weight", "lm_head.weight"];
    let mut types = matrices.iter().filter_map(|name| source.info(name)).map(|info| info.dtype);
    let first = types.next().unwrap_or(StorageType::F16);
    let plain = [StorageType::F32, StorageType::F16, StorageType::BF16];
    match first {
        StorageType::Ternary(_) if types.all(|dtype| dtype == first) => StorageType::F16,
        _ if types.any(|dtype| dtype != first) => StorageType::F32,
        _ if plain.contains(&first) || first.block_format().is_some() => first,
        _ => StorageType::F32,
    }
}

/// One type for everything in a folder that is no trit: that of the source's embedding and scales, where they share one and the
/// scales stay what they are, or that of masters that stay masters. F32 holds every scale, but needs twice the place.
fn folder_type(source: &Checkpoint, form: HuggingFaceForm) -> StorageType {
    let types = |ending: &'static str| source.tensors().filter(move |t| t.name.ends_with(ending)).map(|t| t.dtype);
    let embedding = types("embed_tokens.weight").find(|dtype| matches!(dtype, StorageType::F16 | StorageType::BF16));
    let shares = |ending: &'static str, dtype| types(ending).count() > 0 && types(ending).all(|other| other == dtype);
    let divides = source.config().weight_scale == ScaleDirection::Divide;
    let keeps_scales = divides == (form == HuggingFaceForm::PackedBitLinear);
    let is_master = |dtype| form == HuggingFaceForm::Master && shares("_proj.weight", dtype);
    embedding
        .filter(|dtype| (keeps_scales && shares("weight_scale", *dtype)) || is_master(*dtype))
        .unwrap_or(StorageType::F32)
}
