//! TensorBoard's `Event` message. Field numbers are those of TensorFlow's `event.proto`, `summary.proto` and `tensor.proto`.

use super::message::Message;
use crate::metrics::record::StepRecord;

/// One event, encoded.
pub struct Event(Message);

/// Fields of `Event`.
const WALL_TIME: u32 = 1;
const STEP: u32 = 2;
const FILE_VERSION: u32 = 3;
const SUMMARY: u32 = 5;
const SESSION_LOG: u32 = 7;

impl Event {
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// What every event file begins with.
    pub fn version(wall_time: f64) -> Self {
        Self(Message::default().double(WALL_TIME, wall_time).text(FILE_VERSION, "brain.Event:2"))
    }

    /// The run starts anew: TensorBoard forgets events of `step` and later ones.
    pub fn start(wall_time: f64, step: u64) -> Self {
        const STATUS: u32 = 1;
        const START: u64 = 1;
        let log = Message::default().integer(STATUS, START);
        Self(Self::at(wall_time, step).message(SESSION_LOG, &log))
    }

    /// Everything known of a step.
    pub fn summary(wall_time: f64, record: &StepRecord) -> Self {
        const VALUE: u32 = 1;
        let mut summary = Message::default();
        for (tag, value) in scalars(record) {
            summary = summary.message(VALUE, &scalar(&tag, value));
        }
        if let Some(sample) = &record.sample {
            summary = summary.message(VALUE, &text("sample", sample));
        }
        Self(Self::at(wall_time, record.step).message(SUMMARY, &summary))
    }

    fn at(wall_time: f64, step: u64) -> Message {
        Message::default().double(WALL_TIME, wall_time).integer(STEP, step)
    }
}

/// What goes before the first `/` of a tag is the panel it is shown in.
fn scalars(record: &StepRecord) -> Vec<(String, f64)> {
    let mut scalars: Vec<(String, f64)> = [
        ("train/loss", record.train_loss),
        ("train/grad_norm", record.grad_norm),
        ("train/tokens", record.tokens as f64),
        ("train/tokens_per_second", record.tokens_per_second),
        ("schedule/learning_rate", record.learning_rate),
        ("schedule/weight_decay", record.weight_decay),
        ("schedule/lambda", record.lambda),
    ]
    .map(|(tag, value)| (tag.to_string(), value))
    .into();
    if let Some(valid) = &record.valid {
        scalars.push(("valid/loss".to_string(), valid.loss));
        scalars.push(("valid/bits_per_byte".to_string(), valid.bits_per_byte));
        scalars.extend(valid.accuracy.map(|accuracy| ("valid/preference_accuracy".to_string(), accuracy)));
    }
    for layer in record.layers.iter().flatten() {
        let figures = [
            ("zero_fraction", layer.zero_fraction),
            ("flip_rate", layer.flip_rate),
            ("gamma", layer.gamma),
            ("dead_zone", layer.dead_zone),
            ("activation_absmax", layer.activation_absmax),
        ];
        scalars.extend(figures.map(|(figure, value)| (format!("{figure}/{}", layer.name), value)));
    }
    scalars
}

/// Fields of `Summary.Value`.
const TAG: u32 = 1;
const SIMPLE_VALUE: u32 = 2;
const TENSOR: u32 = 8;
const METADATA: u32 = 9;

fn scalar(tag: &str, value: f64) -> Message {
    Message::default().text(TAG, tag).float(SIMPLE_VALUE, value as f32)
}

/// A vector of one string, for the text panel.
fn text(tag: &str, text: &str) -> Message {
    const PLUGIN_DATA: u32 = 1;
    const PLUGIN_NAME: u32 = 1;
    const DTYPE: u32 = 1;
    const DT_STRING: u64 = 7;
    const SHAPE: u32 = 2;
    const DIM: u32 = 2;
    const SIZE: u32 = 1;
    const STRING_VAL: u32 = 8;
    let plugin = Message::default().text(PLUGIN_NAME, "text");
    let shape = Message::default().message(DIM, &Message::default().integer(SIZE, 1));
    let tensor =
        Message::default().integer(DTYPE, DT_STRING).message(SHAPE, &shape).text(STRING_VAL, &preformatted(text));
    Message::default()
        .text(TAG, tag)
        .message(TENSOR, &tensor)
        .message(METADATA, &Message::default().message(PLUGIN_DATA, &plugin))
}

/// The panel shows Markdown, where four spaces before each line mean text as it is.
fn preformatted(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
