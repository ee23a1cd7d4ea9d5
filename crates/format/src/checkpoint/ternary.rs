//! Tensors as ternary matrices, from any storage.

use bitnet_ternary::{Granularity, Packing, Scale, TernaryError, TernaryMatrix, quantize, words_per_row};

use super::{Checkpoint, Container, Metadata};
use crate::tensor_info::stored_row;
use crate::{FormatError, ScaleDirection, StorageType, TensorInfo};

/// Above this no real `I2_S` scale lies: a tail that says so is something else.
const LARGEST_I2S_SCALE: f32 = 1e4;

/// What can go wrong with a master.
enum Trouble {
    Read(FormatError),
    Quantize(TernaryError),
}

impl From<TernaryError> for Trouble {
    fn from(error: TernaryError) -> Self {
        Self::Quantize(error)
    }
}

impl Checkpoint {
    /// The weights of a linear (`model.layers.0.self_attn.q_proj`) as trits with a scale that multiplies, `[rows, cols]` =
    /// `[out_features, in_features]`, rows in Hugging Face order.
    ///
    /// - U8 is the packed Hugging Face layout; its `<linear>.weight_scale` multiplies or divides as
    ///   [`ModelConfig::weight_scale`](crate::ModelConfig::weight_scale) says.
    /// - A GGUF packing carries its scales.
    /// - U32 in a burnpack file are code words in the canonical order, with `<linear>.weight_scale` beside them.
    /// - Floats that are ternary already keep their trits and scale; other floats are masters and are quantized by the
    ///   mean of their magnitudes, one scale for the tensor; but blocks of floats (Q4_0, Q6_K) must be ternary, and floats
    ///   that are so nearly are refused: their scale would be lost.
    /// - `<linear>.scale`, where there is one, multiplies all of these.
    ///
    /// # Errors
    ///
    /// When the weight or the `weight_scale` of a packed linear is missing, a dtype or shape is wrong, a code is 3, or a
    /// scale is not a positive finite number.
    pub fn ternary(&self, linear: &str, rows: usize, cols: usize) -> Result<TernaryMatrix, FormatError> {
        let info = self.need(&format!("{linear}.weight"))?;
        let words = info.dtype == StorageType::U32 && self.source.container == Container::Burnpack;
        let (stored, packed) = match info.dtype {
            StorageType::U8 => ([rows.div_ceil(4), cols], true),
            _ if words => ([rows, words_per_row(cols)], true),
            _ => ([rows, cols], false),
        };
        if info.shape != stored {
            let as_packed = if packed { format!(" (packed as {stored:?})") } else { String::new() };
            let reason = format!("has shape {:?}, where a linear of [{rows}, {cols}] belongs{as_packed}", info.shape);
            return Err(self.refuse(info, reason));
        }
        let mut matrix = match info.dtype {
            StorageType::U8 => self.packed(linear, info, rows, cols)?,
            _ if words => self.words(linear, info, rows, cols)?,
            StorageType::Ternary(_) => self.decode_ternary(info)?,
            dtype if dtype.is_readable_as_float() => self.of_floats(linear, info, rows, cols)?,
            other => {
                return Err(self.refuse(info, format!("is stored as {other}, which no linear is read from")));
            }
        };
        if let Some(factor) = self.scalar(&format!("{linear}.scale"))? {
            matrix = self.rescale(info, matrix, factor)?;
        }
        Ok(matrix)
    }

    fn packed(&self, linear: &str, info: &TensorInfo, rows: usize, cols: usize) -> Result<TernaryMatrix, FormatError> {
        let name = format!("{linear}.weight_scale");
        let stored = self
            .scalar(&name)?
            .ok_or_else(|| self.refuse(info, format!("is packed, but its scale `{name}` is missing")))?;
        let scale = match self.config.weight_scale {
            ScaleDirection::Multiply => stored,
            ScaleDirection::Divide => 1.0 / stored,
        };
        Packing::HfPacked
            .decode(self.stored_bytes(info), rows, cols)
            .and_then(|matrix| matrix.with_scale(Scale::Tensor(scale)))
            .map_err(|e| self.bad_ternary(info, e))
    }

    /// Code words in the canonical order, with a scale for the matrix `[1, 1]`, for each row `[rows, 1]`, or for each group of a
    /// row's columns `[rows, groups]`: what a burnpack file has.
    fn words(&self, linear: &str, info: &TensorInfo, rows: usize, cols: usize) -> Result<TernaryMatrix, FormatError> {
        let scale = self.need(&format!("{linear}.weight_scale"))?;
        let values = self.floats(&scale.name)?;
        let group = match self.metadata() {
            Metadata::Burnpack { group_size, .. } => group_size.filter(|size| *size > 0),
            _ => None,
        };
        let scale = match (&scale.shape[..], group) {
            ([1, 1], _) => Scale::Tensor(values[0]),
            (&[scales, 1], _) if scales == rows => Scale::Row(values),
            (&[scales, groups], Some(size)) if (scales, groups) == (rows, cols.div_ceil(size)) => {
                Scale::Group { size, values }
            }
            (shape, group) => {
                let groups = group.map_or(String::new(), |size| format!(" in groups of {size}"));
                let reason = format!("has the shape {shape:?}, which is none of scales for [{rows}, {cols}]{groups}");
                return Err(self.refuse(scale, reason));
            }
        };
        let words = self.stored_bytes(info).as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        TernaryMatrix::from_words(rows, cols, words, scale).map_err(|error| self.bad_ternary(info, error))
    }

    fn of_floats(
        &self,
        linear: &str,
        info: &TensorInfo,
        rows: usize,
        cols: usize,
    ) -> Result<TernaryMatrix, FormatError> {
        let name = format!("{linear}.weight_scale");
        // Nearly all: no tensor of a large model is held whole as f32 then.
        if self.info(&name).is_none() && !self.has_ternary_linears() && self.is_surely_master(info, cols) {
            return quantize::absmean_rows(rows, cols, |range, out| {
                self.plain_rows(info, range, out).map_err(Trouble::Read)
            })
            .map_err(|trouble| match trouble {
                Trouble::Read(error) => error,
                Trouble::Quantize(error) => self.bad_ternary(info, error),
            });
        }
        let floats = self.floats(&info.name)?;
        let ternary = quantize::already_ternary(&floats, rows, cols);
        match (ternary, self.scalar(&name)?) {
            (Some(matrix), None) => Ok(matrix),
            (Some(matrix), Some(stored)) => {
                let factor = match self.config.weight_scale {
                    ScaleDirection::Multiply => stored,
                    ScaleDirection::Divide => 1.0 / stored,
                };
                self.rescale(info, matrix, factor)
            }
            (None, Some(_)) => Err(self.refuse(info, format!("is not ternary, yet there is a scale for it, `{name}`"))),
            // Nobody keeps a master in blocks: these are trits that went through another program's quantizer.
            (None, None) if info.dtype.block_format().is_some() => quantize::nearly_ternary(&floats, rows, cols)
                .ok_or_else(|| self.refuse(info, format!("is stored as {} and is not ternary", info.dtype))),
            // To take the mean of these magnitudes would multiply the scale by the share of those that are not zero.
            (None, None) if quantize::nearly_ternary(&floats, rows, cols).is_some() => {
                let reason = "is stored as if it were ternary, but has more than three values: its magnitudes lie near \
                              zero and near one other value without being equal";
                Err(self.refuse(info, reason))
            }
            (None, None) if self.has_ternary_linears() => {
                let reason = "is plain floats, while other linears are ternary: a mixture is not supported";
                Err(self.refuse(info, reason))
            }
            (None, None) => {
                quantize::absmean(&floats, rows, cols, Granularity::Tensor).map_err(|e| self.bad_ternary(info, e))
            }
        }
    }

    /// Whether a look at some weights is enough to tell that a linear is a master.
    fn is_surely_master(&self, info: &TensorInfo, cols: usize) -> bool {
        let mut first_row = vec![0.0; cols];
        let sample = self.sample(info, quantize::sample_step(info.elements()));
        let read = self.plain_rows(info, 0..1, &mut first_row);
        sample.is_some_and(|sample| read.is_ok() && quantize::is_surely_master(&first_row, &sample))
    }

    /// Whether some linear is packed, or the model as a whole was found to be ternary floats: then a linear of plain floats
    /// is one that its authors left dense.
    fn has_ternary_linears(&self) -> bool {
        let is_packed = |t: &TensorInfo| {
            t.name.ends_with("_proj.weight") && matches!(t.dtype, StorageType::U8 | StorageType::Ternary(_))
        };
        self.config.activation_bits.is_none() || self.tensors().any(is_packed)
    }

    /// Decodes a tensor of a ternary packing, rows in Hugging Face order.
    pub(super) fn decode_ternary(&self, info: &TensorInfo) -> Result<TernaryMatrix, FormatError> {
        let StorageType::Ternary(packing) = info.dtype else {
            return Err(self.refuse(info, format!("is stored as {}, not as trits", info.dtype)));
        };
        let (rows, cols) = info.rows_cols();
        let matrix = packing.decode(self.stored_bytes(info), rows, cols).map_err(|e| self.bad_ternary(info, e))?;
        if let Scale::Tensor(scale) = matrix.scale() {
            if info.dtype.is_i2s() && *scale >= LARGEST_I2S_SCALE {
                return Err(self.refuse(info, format!("has the scale {scale}, which no I2_S tensor has")));
            }
            if *scale == 0.0 && matrix.zero_fraction() < 1.0 {
                return Err(self.refuse(info, "has the scale 0"));
            }
        }
        Ok(match info.interleaved_heads {
            Some(heads) => matrix.permute_rows(|row| stored_row(row, rows, heads)),
            None => matrix,
        })
    }

    /// A tensor of one positive number, if it is there.
    fn scalar(&self, name: &str) -> Result<Option<f32>, FormatError> {
        let Some(info) = self.info(name) else {
            return Ok(None);
        };
        if info.elements() != 1 {
            return Err(self.refuse(info, format!("has shape {:?}, where one number belongs", info.shape)));
        }
        let value = match self.floats(name)?[..] {
            [value] => value,
            _ => return Err(self.refuse(info, "is empty")),
        };
        // A number so small that its inverse overflows is no scale either.
        if value.is_finite() && value > 0.0 && (1.0 / value).is_finite() {
            Ok(Some(value))
        } else {
            Err(self.refuse(info, format!("is {value}; a scale is a positive finite number")))
        }
    }

    fn rescale(&self, info: &TensorInfo, matrix: TernaryMatrix, factor: f32) -> Result<TernaryMatrix, FormatError> {
        let times = |values: &[f32]| values.iter().map(|v| v * factor).collect();
        let scale = match matrix.scale() {
            Scale::Tensor(value) => Scale::Tensor(value * factor),
            Scale::Row(values) => Scale::Row(times(values)),
            Scale::Group { size, values } => Scale::Group { size: *size, values: times(values) },
        };
        matrix.with_scale(scale).map_err(|e| self.bad_ternary(info, e))
    }

    fn bad_ternary(&self, info: &TensorInfo, source: TernaryError) -> FormatError {
        FormatError::Ternary { file: self.path_of(info).to_path_buf(), tensor: info.stored_name.clone(), source }
    }
}
