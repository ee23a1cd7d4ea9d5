//! Which layout an I2_S file has. Nothing in it says so; only running the model under each tells.

use bitnet_engine::log_probabilities;
use bitnet_format::{I2sLayout, OpenOptions};

use crate::{BitNetModel, Error, LoadOptions, open};

/// What the model is asked to predict: plain words in plain order.
const TEXT: &str = "The old man walked down to the harbour before the sun was up. He looked at the sea for a long time and \
    said nothing. It had been a hard winter, and there was little food left in the house. \"We must go out today,\" he said at \
    last to the boy, \"or we will have nothing to eat.\" The boy took the oars and the two of them pushed the boat into the \
    water. The wind was cold, but it came from the land, and they soon left the shore behind them. By noon they could see only \
    the water and the sky, and the white birds that followed the boat.";

/// A model makes sense of the text if its loss is below this share of the loss of guessing. Under a wrong layout it is about as
/// high or higher; the weakest of real models stay well below.
const SENSE: f64 = 0.8;

/// How a model does under one layout.
#[derive(Debug)]
pub struct LayoutLoss {
    /// The layout; `None` where the file has no I2_S tensors, so that there is nothing to choose.
    pub layout: Option<I2sLayout>,
    /// Nats a token on a short English text, or why the file cannot be read or run under this layout.
    pub loss: Result<f64, Error>,
}

/// How a model does under every layout that its file could have.
#[derive(Debug)]
pub struct LayoutCheck {
    /// One entry a layout.
    pub tried: Vec<LayoutLoss>,
    /// The loss of guessing, `ln(vocabulary)`, in nats a token.
    pub guessing: f64,
}

impl LayoutCheck {
    /// Whether a loss is one of a model that makes sense of the text.
    pub fn makes_sense(&self, loss: f64) -> bool {
        loss < SENSE * self.guessing
    }

    /// The entry with the lowest loss, if it makes sense.
    pub fn best(&self) -> Option<&LayoutLoss> {
        let loss = |entry: &LayoutLoss| *entry.loss.as_ref().unwrap_or(&f64::INFINITY);
        let best = self.tried.iter().min_by(|a, b| loss(a).total_cmp(&loss(b)))?;
        self.makes_sense(loss(best)).then_some(best)
    }
}

/// Runs a short English text through a model under each layout of I2_S (once, if it has no such tensors).
///
/// # Errors
/// When the model cannot be opened, loaded and run under any layout; the reason is that of the layout in `options`.
pub fn check_layouts(spec: &str, options: &LoadOptions) -> Result<LayoutCheck, Error> {
    let (mut tried, mut guessing) = (Vec::new(), 0.0);
    for layout in I2sLayout::ALL {
        let open = OpenOptions { i2s_layout: layout, ..options.open.clone() };
        let (layout, loss) = match Run::of(spec, &LoadOptions { open, cache: None, ..options.clone() }) {
            Ok(run) => {
                guessing = run.guessing;
                (run.has_layout.then_some(layout), Ok(run.loss))
            }
            Err(error) => (Some(layout), Err(error)),
        };
        tried.push(LayoutLoss { layout, loss });
        if layout.is_none() {
            break;
        }
    }
    if tried.iter().all(|entry| entry.loss.is_err()) {
        let own = tried.iter().position(|entry| entry.layout == Some(options.open.i2s_layout));
        tried.swap_remove(own.unwrap_or_default()).loss?;
    }
    Ok(LayoutCheck { tried, guessing })
}

/// What one run through the text gives.
struct Run {
    /// Nats a token.
    loss: f64,
    /// `ln(vocabulary)`.
    guessing: f64,
    /// Whether the file has tensors that the layout decides about.
    has_layout: bool,
}

impl Run {
    fn of(spec: &str, options: &LoadOptions) -> Result<Self, Error> {
        let has_layout = open(spec, options)?.tensors().any(|tensor| tensor.dtype.is_i2s());
        let model = BitNetModel::load(spec, options)?;
        let model = model.language_model();
        let config = model.transformer().config();
        let mut ids = model.tokenizer().encode(TEXT, true)?;
        ids.truncate(config.context_length);
        let found = log_probabilities(model, &ids)?;
        let loss = -found.iter().map(|x| f64::from(*x)).sum::<f64>() / found.len() as f64;
        Ok(Self { loss, guessing: (config.vocab_size as f64).ln(), has_layout })
    }
}
