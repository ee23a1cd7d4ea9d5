//! Which model, and on what.

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};

use bitnet::format::{Activation, Checkpoint, I2sLayout, OpenOptions};
use bitnet::model::{CacheFormat, WeightBits, pool};
use bitnet::{BitNetModel, EMBEDDED, HeadReading, LayoutCheck, LoadOptions, SessionOptions, cache_folder};
use clap::{Args, ValueEnum};

use super::downloads::fetch_with_bar;
use super::{CliError, note};

#[derive(Args)]
pub struct ModelArgs {
    /// embedded, a folder, a .safetensors, .gguf or .bpk file, or org/name[@revision][:file] on the Hugging Face Hub
    #[arg(short, long, default_value = EMBEDDED, env = "BITNET_MODEL")]
    pub model: String,

    /// Where to run: see `bitnet devices`
    #[arg(long, default_value = bitnet::model::DeviceKind::default_name())]
    pub device: String,

    /// Threads to use [default: the physical cores that the process may use]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Keep each thread on a core of its own
    #[arg(long)]
    pin: bool,

    /// How the KV cache stores keys and values: f32, f16 or int8
    #[arg(long, value_name = "FORMAT", default_value_t = CacheFormat::default())]
    cache: CacheFormat,

    /// Bits that a weight takes in memory: 2bit, or 1.6bit where reading them takes longer than computing
    #[arg(long, value_name = "BITS", default_value_t = WeightBits::default())]
    pub weights: WeightBits,

    /// How much of the head to read for a token, for the same tokens: full, exact (a compressed copy, and of the head itself the
    /// rows that can still be chosen), or auto, which is exact for large heads
    #[arg(long, value_name = "HOW", default_value_t = HeadReading::default())]
    head: HeadReading,

    /// Keep no prepared weights for the next start, and use none (see `bitnet cache`)
    #[arg(long)]
    no_cache: bool,

    /// A tokenizer.json to use in place of the model's own tokenizer
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,

    /// Folder of a low-rank adapter to run beside the weights: `adapter` of a `bitnet finetune --lora` run, or PEFT's
    #[arg(long, value_name = "ADAPTER")]
    lora: Option<PathBuf>,

    /// Order of the codes in I2_S tensors, for files that a broken build has written (`bitnet inspect --check` finds out)
    #[arg(long, value_enum, default_value_t = I2sArg::Block128)]
    i2s_layout: I2sArg,

    /// Function of the MLP's gate, where the model file says a wrong one or none
    #[arg(long, value_enum)]
    activation: Option<ActivationArg>,

    /// Do not ask the network
    #[arg(long)]
    offline: bool,

    /// Say more on stderr
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum I2sArg {
    /// 128 values in 32 bytes: every file that is in order
    Block128,
    /// 64 values in 16 bytes: written by bitnet.cpp on Arm after November 2025
    Block64,
    /// Four rows in a byte: written by bitnet.cpp without ACT_PARALLEL
    FourRows,
}

/// What `--i2s-layout` calls a layout.
pub fn layout_name(layout: I2sLayout) -> String {
    let arg = I2sArg::value_variants().iter().find(|arg| I2sLayout::from(**arg) == layout);
    arg.and_then(ValueEnum::to_possible_value).map(|value| value.get_name().to_string()).unwrap_or_default()
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ActivationArg {
    /// Squared ReLU: BitNet b1.58 2B-4T
    Relu2,
    /// SiLU: models of the LLaMA family
    Silu,
    /// GELU in its tanh form: models of the Gemma family
    Gelu,
}

impl From<I2sArg> for I2sLayout {
    fn from(arg: I2sArg) -> Self {
        match arg {
            I2sArg::Block128 => Self::Block128,
            I2sArg::Block64 => Self::Block64,
            I2sArg::FourRows => Self::FourRows,
        }
    }
}

impl From<ActivationArg> for Activation {
    fn from(arg: ActivationArg) -> Self {
        match arg {
            ActivationArg::Relu2 => Self::Relu2,
            ActivationArg::Silu => Self::Silu,
            ActivationArg::Gelu => Self::GeluTanh,
        }
    }
}

impl ModelArgs {
    /// Loads the model and says on stderr what its user should know.
    pub fn load(&self) -> Result<BitNetModel, CliError> {
        self.use_threads()?;
        if self.verbose {
            bitnet::model::on_notice(|text| note(text));
        }
        let model = BitNetModel::load(&self.locate()?, &self.options())?;
        for warning in model.language_model().warnings() {
            note(format_args!("warning: {warning}"));
        }
        if self.verbose {
            let kernels =
                bitnet::model::devices().map_err(bitnet::model::ModelError::from).map_err(bitnet::Error::from)?;
            let kernels = kernels.iter().find(|d| d.name == self.device).map(|d| d.kernels.clone());
            note(format_args!("device {}, kernels {}", self.device, kernels.unwrap_or_default()));
            if let Some(kept) = model.language_model().kept_weights() {
                note(kept);
            }
        }
        Ok(model)
    }

    /// Runs the model under each layout of I2_S; see [`bitnet::check_layouts`].
    pub fn check_layouts(&self) -> Result<LayoutCheck, CliError> {
        self.use_threads()?;
        Ok(bitnet::check_layouts(&self.locate()?, &self.options())?)
    }

    /// Opens the model without loading it.
    pub fn open(&self) -> Result<Checkpoint, CliError> {
        if self.lora.is_some() {
            return Err(CliError::Usage("--lora: this command takes no adapter".to_string()));
        }
        Ok(bitnet::open(&self.locate()?, &self.options())?)
    }

    /// The tokenizer that was given in place of the model's own.
    pub fn tokenizer_json(&self) -> Option<&Path> {
        self.tokenizer.as_deref()
    }

    /// Checks that the model can chat.
    pub fn need_template(&self, model: &BitNetModel) -> Result<(), CliError> {
        let tokenizer = model.language_model().tokenizer();
        match (tokenizer.chat_template(), tokenizer.chat_template_error()) {
            (Some(_), _) => Ok(()),
            (None, Some(error)) => Err(CliError::Usage(format!("{}: {error}", self.model))),
            (None, None) => {
                let reason = format!("{} has no chat template: use `bitnet generate` without --chat", self.model);
                Err(CliError::Usage(reason))
            }
        }
    }

    /// The context that `--context` asks for, if the model has it, and the cache that `--cache` does.
    pub fn session(&self, model: &BitNetModel, wanted: Option<usize>) -> Result<SessionOptions, CliError> {
        let most = model.language_model().transformer().config().context_length;
        match wanted.filter(|tokens| *tokens == 0 || *tokens > most) {
            Some(tokens) => Err(CliError::Usage(format!("--context {tokens}: this model can have 1 to {most} tokens"))),
            None => Ok(SessionOptions { context: wanted, cache: self.cache, head: self.head }),
        }
    }

    /// Whether to print figures: on a terminal, or when asked.
    pub fn wants_figures(&self) -> bool {
        self.verbose || stderr().is_terminal()
    }

    /// The model's path, downloaded first if it has to be, with a bar.
    fn locate(&self) -> Result<String, CliError> {
        if self.model == EMBEDDED {
            return Ok(self.model.clone());
        }
        let path = fetch_with_bar(&self.model, self.offline)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn use_threads(&self) -> Result<(), CliError> {
        let threads = self.threads.map(usize::from);
        // Loading has threads of its own kind.
        if let Some(threads) = threads {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build_global().map_err(|error| CliError::Usage(format!("--threads {threads}: {error}")))?;
        }
        pool::configure(threads, self.pin).map_err(|error| CliError::Usage(format!("--threads: {error}")))
    }

    fn options(&self) -> LoadOptions {
        let open =
            OpenOptions { i2s_layout: self.i2s_layout.into(), activation: self.activation.map(ActivationArg::into) };
        LoadOptions {
            device: self.device.clone(),
            tokenizer: self.tokenizer.clone(),
            open,
            offline: self.offline,
            weights: self.weights,
            adapter: self.lora.clone(),
            cache: if self.no_cache { None } else { cache_folder() },
        }
    }
}
