//! Parquet tables: a column `text`, or a column `messages` that is a list of groups with `role` and `content`.

use std::{
    fs::File,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parquet::{
    basic::{ConvertedType, Type as Physical},
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row, reader::RowIter},
    schema::types::Type,
};
use serde_json::Value;

use super::{DataError, DataFile, Document, Place, Visit, content};

pub(super) fn read(file: &DataFile, visit: &mut Visit<'_>) -> Result<ControlFlow<()>, DataError> {
    let whole = Place::file(&file.path);
    let damaged = |e: parquet::errors::ParquetError| DataError::record(&whole, format!("not a Parquet table: {e}"));
    let input = File::open(&file.path).map_err(DataError::io(&file.path))?;
    let reader = guarded(&whole, || SerializedFileReader::new(input))?.map_err(damaged)?;
    let columns = projection(reader.metadata().file_metadata().schema(), &whole)?;
    let total = u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0).max(1);
    let mut number = 0u64;
    for group in 0..reader.num_row_groups() {
        let group = guarded(&whole, || reader.get_row_group(group))?.map_err(damaged)?;
        let columns = Some(columns.clone());
        let mut rows = guarded(&whole, || RowIter::from_row_group(columns, &*group))?.map_err(damaged)?;
        loop {
            let place = whole.row(number + 1);
            let Some(row) = guarded(&place, || rows.next())? else { break };
            number += 1;
            let row = row.map_err(|e| DataError::record(&place, e.to_string()))?;
            let content = content(&object(&row), &place)?;
            // How far into the file a row is cannot be told; how far into the rows, it can.
            let at = u128::from(file.size) * u128::from(number.min(total)) / u128::from(total);
            if visit(Document { content, place }, at as u64)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Reads a part of a file. The reader panics on some damaged files, and what it had in hand is then of no use.
fn guarded<T>(place: &Place, read: impl FnOnce() -> T) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| DataError::record(place, "the Parquet table is damaged"))
}

/// The schema with the one column that is read.
fn projection(schema: &Type, place: &Place) -> Result<Type, DataError> {
    let find = |name: &str| schema.get_fields().iter().find(|field| field.name() == name);
    let column = find("messages").or_else(|| find("text"));
    let column = column.ok_or_else(|| {
        let names: Vec<_> = schema.get_fields().iter().map(|field| field.name()).collect();
        DataError::record(place, format!("has no column \"text\" or \"messages\" (it has {})", names.join(", ")))
    })?;
    if !is_readable(column) {
        return Err(DataError::record(place, format!("column {:?} holds what is no text", column.name())));
    }
    let schema = Type::group_type_builder(schema.name()).with_fields(vec![Arc::clone(column)]).build();
    schema.map_err(|e| DataError::record(place, e.to_string()))
}

/// Whether the row reader knows all types in a column: it panics where it does not.
fn is_readable(column: &Type) -> bool {
    if column.is_group() {
        return column.get_fields().iter().all(|field| is_readable(field));
    }
    let plain = matches!(
        column.get_basic_info().converted_type(),
        ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON
    );
    plain && !matches!(column.get_physical_type(), Physical::FIXED_LEN_BYTE_ARRAY | Physical::INT96)
}

/// A row as JSON. What is neither text nor made of text is null: nothing asks for it.
fn object(row: &Row) -> Value {
    row.get_column_iter().map(|(name, field)| (name.clone(), json(field))).collect::<serde_json::Map<_, _>>().into()
}

fn json(field: &Field) -> Value {
    match field {
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => list.elements().iter().map(json).collect(),
        _ => Value::Null,
    }
}
