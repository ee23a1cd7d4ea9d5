//! The `ndarray` backend, as long as Burn has it.

use burn::backend::NdArray;
use burn::backend::TensorMetadata;
use burn::backend::ndarray::NdArrayTensor;
use burn::tensor::{Shape, TensorData};

use super::host::HostBackend;

/// Gives `$tensor` back when it is row-major, else a row-major copy; `$variant` are the dtypes to expect.
macro_rules! contiguous {
    ($tensor:ident, $($variant:ident),*) => {
        match $tensor {
            $(NdArrayTensor::$variant(storage) => {
                if storage.view().is_standard_layout() {
                    NdArrayTensor::$variant(storage)
                } else {
                    NdArrayTensor::from(storage.view().as_standard_layout().into_owned().into_shared())
                }
            })*
            other => other,
        }
    };
}

/// Borrows `$tensor` as a slice of the dtype `$variant`.
macro_rules! slice {
    ($tensor:ident, $variant:ident) => {
        match $tensor {
            NdArrayTensor::$variant(storage) => {
                let view = storage.view();
                assert!(view.is_standard_layout(), "expected a contiguous tensor");
                // SAFETY: a row-major view of `len` elements starts at its pointer; the tensor outlives the slice.
                unsafe { std::slice::from_raw_parts(view.as_ptr(), view.len()) }
            }
            other => panic!("expected a {} tensor, got {:?}", stringify!($variant), other.dtype()),
        }
    };
}

impl HostBackend for NdArray {
    fn contiguous(x: NdArrayTensor) -> NdArrayTensor {
        contiguous!(x, F32)
    }

    fn contiguous_int(x: NdArrayTensor) -> NdArrayTensor {
        contiguous!(x, U32, U8, I8)
    }

    fn f32s(x: &NdArrayTensor) -> &[f32] {
        slice!(x, F32)
    }

    fn words(x: &NdArrayTensor) -> &[u32] {
        slice!(x, U32)
    }

    fn bytes(x: &NdArrayTensor) -> &[u8] {
        slice!(x, U8)
    }

    fn change_words(x: NdArrayTensor, f: impl FnOnce(&mut [u32])) -> NdArrayTensor {
        match Self::contiguous_int(x) {
            NdArrayTensor::U32(mut storage) => {
                f(storage.ensure_owned().as_slice_mut().expect("the tensor is contiguous"));
                NdArrayTensor::U32(storage)
            }
            other => panic!("expected a U32 tensor, got {:?}", other.dtype()),
        }
    }

    fn from_f32s(values: Vec<f32>, shape: &[usize]) -> NdArrayTensor {
        NdArrayTensor::from_data(TensorData::new(values, Shape::from(shape.to_vec())))
    }

    fn codes(x: &NdArrayTensor) -> &[i8] {
        slice!(x, I8)
    }

    fn change_f32s(x: NdArrayTensor, f: impl FnOnce(&mut [f32])) -> NdArrayTensor {
        match Self::contiguous(x) {
            NdArrayTensor::F32(mut storage) => {
                f(storage.ensure_owned().as_slice_mut().expect("the tensor is contiguous"));
                NdArrayTensor::F32(storage)
            }
            other => panic!("expected an F32 tensor, got {:?}", other.dtype()),
        }
    }

    fn from_words(values: Vec<u32>, shape: &[usize]) -> NdArrayTensor {
        NdArrayTensor::from_data(TensorData::new(values, Shape::from(shape.to_vec())))
    }

    fn from_codes(values: Vec<i8>, shape: &[usize]) -> NdArrayTensor {
        NdArrayTensor::from_data(TensorData::new(values, Shape::from(shape.to_vec())))
    }
}
