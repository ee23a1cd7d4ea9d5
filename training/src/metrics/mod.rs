//! What a run tells of itself while it trains: records, the files they go to, the line a pipe sees, and alerts.

mod alerts;
mod csv;
mod error;
mod jsonl;
mod log;
mod progress;
mod record;
mod replace;
mod summary;
mod tensorboard;
mod trim;

pub use alerts::{Alert, Thresholds, Watch};
pub use error::MetricsError;
pub use jsonl::read as read_jsonl;
pub use log::MetricsLog;
pub use progress::{Limits, ProgressLine};
pub use record::{LayerQuantization, StepRecord, Validation};
pub use summary::{Outcome, final_line};

pub(crate) use replace::replace;
