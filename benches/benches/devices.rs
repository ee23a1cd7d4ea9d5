//! The ternary product on devices beside what Burn itself has: weights of two bits (`Q2S`, absmean would give the same
//! codes), and floats. One token and a gate of BitNet b1.58 2B-4T, taking turns:
//!
//!     cargo bench --workspace --features ndarray,cpu,webgpu --bench devices -- cpu webgpu

use std::time::{Duration, Instant};

use bitnet_kernels::WeightOrder;
use bitnet_kernels::ops::{self, Activations, TernarySpec};
use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue};
use burn::tensor::{DType, Device, Distribution, Int, Tensor};

/// Rows and columns of a gate.
const ROWS: usize = 6912;
const COLS: usize = 2560;

/// A row of times takes this long, after one call that compiles and tunes.
const SPAN: Duration = Duration::from_secs(2);

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let names = if names.is_empty() { vec!["flex".to_owned()] } else { names };
    println!("{:10} {:>12} {:>12} {:>12} {:>8} {:>8}", "device", "ternary", "Q2S", "f32", "to Q2S", "to f32");
    for name in names {
        match bitnet_kernels::device(&name) {
            Ok(device) => compare(&name, &device),
            Err(error) => println!("{name}: {error}"),
        }
    }
}

/// Prints the medians of all three.
fn compare(name: &str, device: &Device) {
    let (rows, cols) = (ROWS, COLS);
    let x = Tensor::<2>::random([1, cols], Distribution::Uniform(-1.0, 1.0), (device, DType::F32));
    let w = Tensor::<2>::random([rows, cols], Distribution::Uniform(-1.0, 1.0), (device, DType::F32));
    let (words, scale) = ops::training::absmean_quantize(w.clone(), bitnet_ternary::Granularity::Tensor);
    let words: Tensor<2, Int> = words;
    let spec = TernarySpec { cols, group: None, activations: Activations::Int8, order: WeightOrder::Rows };
    let scheme = QuantScheme::default().with_value(QuantValue::Q2S).with_store(QuantStore::PackedU32(0));
    let columns = w.transpose();
    let packed = columns.clone().quantize_dynamic(&scheme);
    // What nobody looks at may never be computed.
    let read = |y: Tensor<2>| assert!(y.into_data().iter::<f32>().all(f32::is_finite));
    let ternary = || read(ops::ternary_linear(x.clone(), words.clone(), scale.clone(), spec));
    let q2s = || read(x.clone().matmul(packed.clone()));
    let f32s = || read(x.clone().matmul(columns.clone()));
    let host = |x: Tensor<2>| Tensor::<2>::from_data(x.into_data(), (&Device::flex(), DType::F32));
    let expected = host(x.clone()).matmul(host(packed.clone().dequantize()));
    let off = (host(x.clone().matmul(packed.clone())) - expected.clone()).abs().max() / expected.abs().max();
    let off: f32 = off.into_scalar();
    let [ternary, q2s, f32s] = medians([&ternary, &q2s, &f32s]);
    println!(
        "{name:10} {:>9.3} ms {:>9.3} ms {:>9.3} ms {:>7.2}x {:>7.2}x, Q2S off by {off:.1e}",
        ternary * 1e3,
        q2s * 1e3,
        f32s * 1e3,
        q2s / ternary,
        f32s / ternary
    );
}

/// Seconds of each, the values read back.
fn medians(calls: [&dyn Fn(); 3]) -> [f64; 3] {
    calls.iter().for_each(|call| call());
    let mut times = [const { Vec::new() }; 3];
    let start = Instant::now();
    while times[2].len() < 5 || start.elapsed() < SPAN && times[2].len() < 1000 {
        for (call, times) in calls.iter().zip(&mut times) {
            let start = Instant::now();
            call();
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}
