//! Bars for the files that come from the Hugging Face Hub.

#[cfg(feature = "hub")]
use std::cell::RefCell;

#[cfg(feature = "hub")]
use super::note;
#[cfg(feature = "hub")]
use bitnet::format::hub::Event;
use bitnet::{Error, fetch};
#[cfg(feature = "hub")]
use indicatif::{ProgressBar, ProgressStyle};

/// Finds a model, and shows on a terminal how far its download is.
#[cfg(feature = "hub")]
pub fn fetch_with_bar(spec: &str, offline: bool) -> Result<std::path::PathBuf, Error> {
    let current: RefCell<Option<(String, ProgressBar)>> = RefCell::new(None);
    let path = fetch(spec, offline, Some(&|event| show(&mut current.borrow_mut(), event)));
    if let Some((_, bar)) = current.take() {
        bar.finish();
    }
    path
}

/// Finds a model.
#[cfg(not(feature = "hub"))]
pub fn fetch_with_bar(spec: &str, offline: bool) -> Result<std::path::PathBuf, Error> {
    fetch(spec, offline, None)
}

#[cfg(feature = "hub")]
fn show(current: &mut Option<(String, ProgressBar)>, event: Event<'_>) {
    match event {
        Event::Note(text) => note(format_args!("note: {text}")),
        Event::Progress { file, done, total } => {
            let bar = match current.take() {
                Some((name, bar)) if name == file => bar,
                other => {
                    if let Some((_, bar)) = other {
                        bar.finish();
                    }
                    let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
                    let style = ProgressStyle::with_template(template).expect("a correct template");
                    ProgressBar::new(total).with_style(style).with_message(file.to_string())
                }
            };
            bar.set_length(total);
            bar.set_position(done);
            *current = Some((file.to_string(), bar));
        }
    }
}
