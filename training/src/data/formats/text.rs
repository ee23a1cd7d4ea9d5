//! Plain text.

use std::{fs, ops::ControlFlow};

use super::{Content, DataError, DataFile, Document, Place, Visit, without_bom};

pub(super) fn read(
    file: &DataFile,
    separator: Option<&str>,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>, DataError> {
    let bytes = fs::read(&file.path).map_err(DataError::io(&file.path))?;
    let place = Place::file(&file.path);
    let text = text(without_bom(&bytes), &place)?;
    let Some(separator) = separator.filter(|separator| !separator.is_empty()) else {
        return visit(Document { content: Content::Text(text.to_owned()), place }, file.size);
    };
    let mut rest = Some(text);
    while let Some(all) = rest {
        let (document, after) = match all.split_once(separator) {
            Some((document, after)) => (without_last_break(document), Some(without_first_break(after))),
            None => (all, None),
        };
        rest = after;
        let at = file.size - after.map_or(0, str::len).min(file.size as usize) as u64;
        let content = Content::Text(document.to_owned());
        if visit(Document { content, place: place.clone() }, at)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The bytes as text. A zero byte is valid UTF-8, and in every binary file.
pub(super) fn text<'a>(bytes: &'a [u8], place: &Place) -> Result<&'a str, DataError> {
    let refused = |reason: String| DataError::NotText { place: place.clone(), reason };
    let text = std::str::from_utf8(bytes).map_err(|e| refused(format!("byte {} is not UTF-8", e.valid_up_to())))?;
    match text.find('\0') {
        Some(at) => Err(refused(format!("byte {at} is zero"))),
        None => Ok(text),
    }
}

fn without_first_break(text: &str) -> &str {
    text.strip_prefix("\r\n").or_else(|| text.strip_prefix('\n')).unwrap_or(text)
}

fn without_last_break(text: &str) -> &str {
    text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(text)
}
