//! Which bytes of the file belong to which tensor, and what type they are.
//!
//! Most types have one size. Two ids do not say enough: 42 is `Q2_0` in groups of 64 or of 128, and 36 is `I2_S` in one
//! program and something long gone in another. The distance to the next tensor settles both.

use std::path::Path;

use bitnet_ternary::Packing;

use super::reader::{Table, TensorEntry};
use super::types::{self, I2_S, Q2_0};
use super::value::Metadata;
use crate::{FormatError, StorageType};

/// How the codes of `I2_S` tensors lie. Nothing in a file tells; every official file has the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum I2sLayout {
    /// Blocks of 128 values in 32 bytes.
    #[default]
    Block128,
    /// Blocks of 64 values in 16 bytes: files quantized on Arm by bitnet.cpp builds since November 2025.
    Block64,
    /// Four rows in a byte: x86 builds of bitnet.cpp with parallel activations switched off.
    FourRows,
}

impl I2sLayout {
    /// Every layout, the one of files that are in order first.
    pub const ALL: [Self; 3] = [Self::Block128, Self::Block64, Self::FourRows];

    fn packing(self) -> Packing {
        match self {
            Self::Block128 => Packing::I2S,
            Self::Block64 => Packing::I2SArm64,
            Self::FourRows => Packing::I2SFourRows,
        }
    }
}

/// A tensor of the table with its type and place settled.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: StorageType,
    /// From the start of the file.
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// A table entry with the bytes there are for it: up to the next tensor, or the end of the file.
struct Slot {
    entry: TensorEntry,
    offset: usize,
    room: usize,
}

/// Settles every tensor of a file of `file_len` bytes, in the order of the table. Of a split model, the metadata is the
/// first file's.
pub(crate) fn tensors(
    file: &Path,
    metadata: &Metadata,
    table: Table,
    file_len: usize,
    i2s: I2sLayout,
) -> Result<Vec<Tensor>, FormatError> {
    let alignment = table.alignment;
    let ms_fork = is_lookup_table_file(metadata);
    let slots = slots(file, table, file_len)?;
    let q2_group = q2_group(file, &slots, alignment)?;
    let mut tensors = Vec::with_capacity(slots.len());
    for Slot { entry, offset, room } in slots {
        let refuse = |reason: String| FormatError::tensor(file, &entry.name, reason);
        let dtype = match entry.type_id {
            I2_S => StorageType::Ternary(i2s.packing()),
            Q2_0 => StorageType::Ternary(Packing::Q2_0 { group: q2_group }),
            39 if ms_fork => return Err(refuse(types::refusal(39, true))),
            id => types::storage_type(id).ok_or_else(|| refuse(types::refusal(id, ms_fork)))?,
        };
        let bytes = dtype
            .byte_len(&entry.shape)
            .ok_or_else(|| refuse(format!("has the shape {:?}, which {dtype} cannot store", entry.shape)))?;
        if bytes > room {
            return Err(refuse(format!(
                "needs {bytes} bytes at byte {offset} for {dtype} {:?}, but only {room} are there before the next \
                 tensor or the end of the file",
                entry.shape
            )));
        }
        if entry.type_id == I2_S && !fills(bytes, room, alignment) {
            let why = if room == i2_s_in_parts(&entry.shape) {
                "bitnet.cpp quantized it with several threads, whose parts overwrite each other; only with one does it write \
                 all weights"
            } else {
                "another program's type of the same number"
            };
            return Err(refuse(format!(
                "has type 36, but its {room} bytes are not the {bytes} of I2_S {:?}: {why}",
                entry.shape
            )));
        }
        tensors.push(Tensor { name: entry.name, shape: entry.shape, dtype, offset, bytes });
    }
    Ok(tensors)
}

/// Whether `general.file_type` says TL1 (38) or TL2 (39) in an architecture that has them; upstream's files use the same
/// numbers for other things.
fn is_lookup_table_file(metadata: &Metadata) -> bool {
    let get = |key| metadata.get(key);
    let architecture = get("general.architecture").and_then(|v| v.as_str());
    let file_type = get("general.file_type").and_then(|v| v.as_u64());
    architecture.is_some_and(|a| a.starts_with("bitnet") || a == "llama") && matches!(file_type, Some(38 | 39))
}

fn slots(file: &Path, table: Table, file_len: usize) -> Result<Vec<Slot>, FormatError> {
    let data_start = table.data_start;
    let mut order: Vec<u64> = table.tensors.iter().map(|t| t.offset).collect();
    order.sort_unstable();
    let mut slots = Vec::with_capacity(table.tensors.len());
    for entry in table.tensors {
        let offset = usize::try_from(entry.offset)
            .ok()
            .and_then(|o| o.checked_add(data_start))
            .filter(|o| *o <= file_len)
            .ok_or_else(|| {
                let reason = format!("begins at byte {} of the data, beyond the file's {file_len} bytes", entry.offset);
                FormatError::tensor(file, &entry.name, reason)
            })?;
        let same = order.partition_point(|o| *o < entry.offset);
        let next = order.partition_point(|o| *o <= entry.offset);
        if next - same > 1 {
            let reason = "begins at the same byte as another tensor";
            return Err(FormatError::tensor(file, &entry.name, reason));
        }
        let end = match order.get(next) {
            // The next tensor's own place is checked when its turn comes.
            Some(next) => usize::try_from(*next)
                .ok()
                .and_then(|o| o.checked_add(data_start))
                .map_or(file_len, |o| o.min(file_len)),
            None => file_len,
        };
        slots.push(Slot { entry, offset, room: end - offset });
    }
    Ok(slots)
}

/// Whether a tensor of `bytes` bytes fills its place but for padding.
fn fills(bytes: usize, room: usize, alignment: usize) -> bool {
    bytes <= room && room <= bytes.next_multiple_of(alignment)
}

/// The bytes that bitnet.cpp's `llama-quantize` leaves of an I2_S tensor when it has several threads: it cuts tensors into
/// parts of whole rows with at least 16,384 weights, and each of them ends in a tail of 32 bytes.
fn i2_s_in_parts(shape: &[usize]) -> usize {
    let Some(&cols) = shape.last() else { return 0 };
    let rows: usize = shape[..shape.len() - 1].iter().product();
    let parts = rows.div_ceil(16_384_usize.div_ceil(cols.max(1)));
    rows.saturating_mul(cols) / 4 + 32 * parts
}

/// The group size of a file's `Q2_0` tensors: the one with which all of them fill their places.
fn q2_group(file: &Path, slots: &[Slot], alignment: usize) -> Result<usize, FormatError> {
    let fits = |slot: &Slot, group| {
        StorageType::Ternary(Packing::Q2_0 { group })
            .byte_len(&slot.entry.shape)
            .is_some_and(|bytes| fills(bytes, slot.room, alignment))
    };
    let q2 = || slots.iter().filter(|slot| slot.entry.type_id == Q2_0);
    for group in [64, 128] {
        if q2().all(|slot| fits(slot, group)) {
            return Ok(group);
        }
    }
    let odd = q2().find(|slot| !fits(slot, 64) && !fits(slot, 128));
    let (slot, reason) = match odd.or_else(|| q2().next()) {
        Some(slot) if odd.is_some() => (
            slot,
            format!("has {} bytes, which is Q2_0 {:?} neither in groups of 64 nor of 128", slot.room, slot.entry.shape),
        ),
        Some(slot) => (slot, "is one of several Q2_0 tensors that disagree about the group size".to_string()),
        // Without a Q2_0 tensor the loop above has returned.
        None => return Ok(64),
    };
    Err(FormatError::tensor(file, &slot.entry.name, reason))
}
