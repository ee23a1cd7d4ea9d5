//! Burn's default CPU backend.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, TensorData};

use super::host::HostBackend;

impl HostBackend for Flex {
    fn contiguous(x: FlexTensor) -> FlexTensor {
        if x.is_contiguous() { x } else { x.to_contiguous() }
    }

    fn contiguous_int(x: FlexTensor) -> FlexTensor {
        Self::contiguous(x)
    }

    fn f32s(x: &FlexTensor) -> &[f32] {
        x.as_slice().unwrap_or_else(|| panic!("expected a contiguous F32 tensor, got {:?}", x.dtype()))
    }

    fn words(x: &FlexTensor) -> &[u32] {
        x.as_slice().unwrap_or_else(|| panic!("expected contiguous U32 words, got {:?}", x.dtype()))
    }

    fn bytes(x: &FlexTensor) -> &[u8] {
        x.as_slice().unwrap_or_else(|| panic!("expected contiguous U8 rows, got {:?}", x.dtype()))
    }

    fn change_words(mut x: FlexTensor, f: impl FnOnce(&mut [u32])) -> FlexTensor {
        x = Self::contiguous(x);
        f(x.storage_mut());
        x
    }

    fn from_f32s(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
        FlexTensor::from_data(TensorData::new(values, Shape::from(shape.to_vec())))
    }

    fn codes(x: &FlexTensor) -> &[i8] {
        x.as_slice().unwrap_or_else(|| panic!("expected contiguous I8 codes, got {:?}", x.dtype()))
    }

    fn change_f32s(mut x: FlexTensor, f: impl FnOnce(&mut [f32])) -> FlexTensor {
        x = Self::contiguous(x);
        f(x.storage_mut());
        x
    }

    fn from_words(values: Vec<u32>, shape: &[usize]) -> FlexTensor {
        FlexTensor::from_data(TensorData::new(values, Shape::from(shape.to_vec())))
    }

    fn from_codes(values: Vec<i8>, shape: &[usize]) -> FlexTensor {
        FlexTensor::from_data(TensorData::new(values, Shape::from(shape.to_vec())))
    }
}
