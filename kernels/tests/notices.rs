//! What a user who asks for more hears, once each.
#![cfg(feature = "burn")]

use std::sync::Mutex;

use bitnet_kernels::ops::{self, Activations, TernarySpec};
use bitnet_kernels::{RowStorage, WeightOrder, devices, notice, on_notice, row_storage};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What was heard with this in it.
fn heard(with: &str) -> Vec<String> {
    HEARD.lock().unwrap().iter().filter(|text| text.contains(with)).cloned().collect()
}

fn run(device: &Device) {
    let words = Tensor::<2, Int>::from_data(TensorData::new(vec![0x5555_5555u32; 6], [3, 2]), (device, DType::U32));
    let scale = Tensor::from_data(TensorData::new(vec![1f32], [1, 1]), (device, DType::F32));
    let spec = TernarySpec { cols: 32, group: None, activations: Activations::Int8, order: WeightOrder::Rows };
    let x = Tensor::<2>::from_data(TensorData::new(vec![1f32; 64], [2, 32]), (device, DType::F32));
    ops::ternary_linear(x.clone(), words, scale, spec).into_data();
    // CubeCL's devices have no kernel for the best none of some logits.
    ops::top_logits(x, 0).into_data();
}

#[test]
fn an_operation_without_a_kernel_is_said_once_and_one_with_a_kernel_is_not() {
    on_notice(|text| HEARD.lock().unwrap().push(text.to_string()));
    // A later one is not listened to.
    on_notice(|_| panic!("the first listener stays"));
    let mut without = 0;
    for info in devices().unwrap() {
        let device = bitnet_kernels::device(&info.name).unwrap();
        let before = heard("top_logits").len();
        run(&device);
        run(&device);
        let native = row_storage(&device) == RowStorage::Bytes;
        let new = heard("top_logits").len() - before;
        // Two devices of one name are one to its listener.
        assert!(if native { new == 0 } else { new <= 1 }, "{}: {:?}", info.name, heard(""));
        without += usize::from(!native);
    }
    let said = heard("top_logits");
    assert_eq!(said.is_empty(), without == 0, "{said:?}");
    for text in said {
        assert!(text.ends_with(": done with operations of Burn"), "{text}");
    }
    assert_eq!(heard("ternary_linear"), [""; 0]);

    for _ in 0..2 {
        notice(|| "a step cannot be replayed".to_string());
    }
    assert_eq!(heard("a step"), ["a step cannot be replayed"]);
}
