//! GGML type ids. Several are claimed by more than one program, so what an id means can depend on the file.

use bitnet_ternary::Packing;

use crate::StorageType;

/// Ids of types with one meaning and one size.
const PLAIN: [(u32, StorageType); 23] = [
    (0, StorageType::F32),
    (1, StorageType::F16),
    (2, StorageType::Q4_0),
    (6, StorageType::Q5_0),
    (8, StorageType::Q8_0),
    (11, StorageType::Q3_K),
    (12, StorageType::Q4_K),
    (14, StorageType::Q6_K),
    (20, StorageType::IQ4_NL),
    (24, StorageType::I8),
    (25, StorageType::I16),
    (26, StorageType::I32),
    (27, StorageType::I64),
    (28, StorageType::F64),
    (30, StorageType::BF16),
    (34, StorageType::Ternary(Packing::Tq1_0)),
    (35, StorageType::Ternary(Packing::Tq2_0)),
    (36, StorageType::Ternary(Packing::I2S)),
    (42, StorageType::Ternary(Packing::Q2_0 { group: 64 })),
    (134, StorageType::Ternary(Packing::Iq1Bn)),
    (135, StorageType::Ternary(Packing::Iq2Bn)),
    (142, StorageType::Ternary(Packing::Q2_0 { group: 128 })),
    (335, StorageType::Ternary(Packing::Iq2BnR4)),
];

/// The id of [`Packing::I2S`], whichever of its layouts the file has.
pub(super) const I2_S: u32 = 36;
/// The id of upstream's `Q2_0` (groups of 64) and of older files with groups of 128.
pub(super) const Q2_0: u32 = 42;

/// The type an id stands for, I2_S and Q2_0 in their usual layouts.
pub(super) fn storage_type(id: u32) -> Option<StorageType> {
    PLAIN.iter().find(|(known, _)| *known == id).map(|(_, t)| *t)
}

/// The id a type is written under.
pub(super) fn type_id(storage: StorageType) -> Option<u32> {
    let storage = match storage {
        StorageType::Ternary(Packing::I2SArm64 | Packing::I2SFourRows) => return Some(I2_S),
        other => other,
    };
    PLAIN.iter().find(|(_, t)| *t == storage).map(|(id, _)| *id)
}

/// Why a type is refused, in the words of its own name.
///
/// `ms_fork` says that the file carries a TL1 or TL2 file type of Microsoft's fork, which decides what 38 and 39 are.
pub(super) fn refusal(id: u32, ms_fork: bool) -> String {
    const LOOKUP: &str = "whose tile order is not in the file; use the I2_S version of this model";
    match id {
        38 => format!("is stored as TL1 (type 38), {LOOKUP}"),
        39 if ms_fork => format!("is stored as TL2 (type 39), {LOOKUP}"),
        _ => match other_name(id) {
            Some(name) => format!("is stored as {name} (type {id}), which is not read here"),
            None => format!("has the unknown type {id}"),
        },
    }
}

/// Names of types that exist but are not read.
fn other_name(id: u32) -> Option<&'static str> {
    Some(match id {
        3 => "Q4_1",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        13 => "Q5_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        37 => "I8_S",
        39 => "MXFP4",
        40 => "NVFP4 or binary Q1_0",
        41 => "binary Q1_0",
        143 => "PTQ1_0",
        _ => return None,
    })
}
