//! JSON lines.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    ops::ControlFlow,
};

use serde_json::Value;

use super::{DataError, DataFile, Place, text::text, without_bom};

/// Calls `visit` with every object, its place and the number of bytes read. Blank lines are passed over.
pub(crate) fn each_object(
    file: &DataFile,
    visit: &mut dyn FnMut(Value, Place, u64) -> Result<ControlFlow<()>, DataError>,
) -> Result<ControlFlow<()>, DataError> {
    let io = || DataError::io(&file.path);
    let mut reader = BufReader::with_capacity(1 << 18, File::open(&file.path).map_err(io())?);
    let whole = Place::file(&file.path);
    let (mut bytes, mut at, mut number) = (Vec::new(), 0u64, 0u64);
    loop {
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes).map_err(io())?;
        if read == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        at += read as u64;
        number += 1;
        let place = whole.line(number);
        let line = if number == 1 { without_bom(&bytes) } else { &bytes };
        let line = text(line, &place)?.trim();
        if line.is_empty() {
            continue;
        }
        // The line that the parser knows is always the first of its input.
        let not_json = |e: serde_json::Error| DataError::record(&place, format!("column {}: not JSON", e.column()));
        let value: Value = serde_json::from_str(line).map_err(not_json)?;
        if !value.is_object() {
            return Err(DataError::record(&place, "is JSON, but not an object"));
        }
        if visit(value, place, at)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}
