//! The ternary product on devices beside what Burn and CubeK have: Burn's weights of two bits (`Q2S`, absmean would give the
//! same codes), CubeK's `quant_gemv` on the same trits, which Burn does not call, and floats. One token and a gate of BitNet
//! b1.58 2B-4T, taking turns:
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
    println!("{:10} {:>12} {:>12} {:>12} {:>12}", "device", "ternary", "Q2S", "quant_gemv", "f32");
    for name in names {
        match bitnet_kernels::device(&name) {
            Ok(device) => compare(&name, &device),
            Err(error) => println!("{name}: {error}"),
        }
    }
}

/// Prints the medians of all.
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
    let scaled = ops::dequantize(words.clone(), scale.clone(), spec);
    let gemv = quant_gemv(device, &x, scaled.clone(), &scale);
    let gemv_off = gemv.as_ref().map(|gemv| {
        let expected = host(x.clone()).matmul(host(scaled).transpose());
        let off = (host(gemv().reshape([1, rows])) - expected.clone()).abs().max() / expected.abs().max();
        off.into_scalar::<f32>()
    });
    let gemv = gemv.map(|gemv| move || read(gemv()));
    let mut calls: Vec<&dyn Fn()> = vec![&ternary, &q2s, &f32s];
    calls.extend(gemv.as_ref().map(|gemv| gemv as &dyn Fn()));
    let times = medians(&calls);
    let ms = |time: f64| format!("{:.3} ms", time * 1e3);
    let theirs = times.get(3).map_or("none".to_string(), |time| ms(*time));
    println!("{name:10} {:>12} {:>12} {theirs:>12} {:>12}", ms(times[0]), ms(times[1]), ms(times[2]));
    let ratio = |index: usize| times.get(index).map_or("-".to_string(), |time| format!("{:.2}x", time / times[0]));
    println!("{:10} {:>12} {:>12} {:>12} {:>12}", "", "", ratio(1), ratio(3), ratio(2));
    let gemv_off = gemv_off.map_or("-".to_string(), |off| format!("{off:.1e}"));
    println!("{:10} Q2S is off by {off:.1e}, quant_gemv by {gemv_off} of the largest output", "");
}

/// CubeK's mat-vec with these weights, trits times one scale, where the device is one of CubeCL's.
#[cfg(all(feature = "cube", not(feature = "fusion")))]
fn quant_gemv(
    device: &Device,
    x: &Tensor<2>,
    weights: Tensor<2>,
    scale: &Tensor<2>,
) -> Option<impl Fn() -> Tensor<2> + use<>> {
    use burn::tensor::{Shape, TensorData};
    use burn_cubecl::{CubeBackend, ops::numeric::empty_device_dtype};
    use cubecl::ir::{ElemType, FloatKind};
    use cubecl::quant::scheme::{QuantValue, ScaleDtype};
    use cubek::matmul::routine::BlueprintStrategy;
    use cubek::matmul::tiled::quant_gemv::{
        QuantGemvBindings, QuantGemvBlueprint, QuantGemvElems, QuantGemvProblem, launch_ref,
    };

    let x = x.clone().try_into_primitive::<CubeBackend>().ok()?;
    let scale = scale.clone().try_into_primitive::<CubeBackend>().ok()?;
    let ([rows, cols], weights) = (weights.dims(), weights.into_data().iter::<f32>().collect::<Vec<_>>());
    // Sixteen in a word, the first in the lowest bits, in two's complement.
    let field = |value: f32| {
        if value == 0.0 {
            0u32
        } else if value > 0.0 {
            1
        } else {
            3
        }
    };
    let word = |values: &[f32]| values.iter().rev().fold(0, |word, value| word << 2 | field(*value));
    let words = TensorData::new(weights.chunks(16).map(word).collect::<Vec<u32>>(), [rows, cols / 16]);
    let words = Tensor::<2, Int>::from_data(words, (device, DType::U32)).try_into_primitive::<CubeBackend>().ok()?;
    let problem = QuantGemvProblem {
        d_out: rows,
        d_in: cols,
        rows: 1,
        field: QuantValue::Q2S,
        block: 64,
        scales: ScaleDtype::F32,
    };
    let hardware = &x.client.properties().hardware;
    // Its own plan has more units in a cube than a processor has cores.
    let strategy = match hardware.num_cpu_cores.filter(|_| hardware.plane_size_max == 1) {
        Some(cores) => BlueprintStrategy::Forced(QuantGemvBlueprint {
            rows_per_cube: 4 * cores as usize,
            rows_per_plane: 4,
            rows_per_unit: 4,
            block_units: 1,
        }),
        None => BlueprintStrategy::default(),
    };
    let f32s = ElemType::Float(FloatKind::F32);
    Some(move || {
        let out = empty_device_dtype(x.client.clone(), x.device.clone(), Shape::from([rows, 1]), DType::F32);
        let mut weights = words.clone().binding();
        // Counted in values.
        (weights.shape, weights.strides) = (Shape::from([rows, cols]), [cols, 1].into());
        let bindings = QuantGemvBindings {
            x: x.clone().binding(),
            weights,
            scales: vec![scale.clone().binding()],
            out: out.clone().binding(),
        };
        let elements = QuantGemvElems { served: f32s, x: f32s, tensor_scale: f32s, out: f32s };
        launch_ref(&x.client, bindings, &problem, &strategy, elements).expect("CubeK has a plan for a gate");
        Tensor::from_primitive::<CubeBackend>(out)
    })
}

#[cfg(any(not(feature = "cube"), feature = "fusion"))]
fn quant_gemv(_: &Device, _: &Tensor<2>, _: Tensor<2>, _: &Tensor<2>) -> Option<fn() -> Tensor<2>> {
    None
}

/// Seconds of each, the values read back.
fn medians(calls: &[&dyn Fn()]) -> Vec<f64> {
    calls.iter().for_each(|call| call());
    let mut times = vec![Vec::new(); calls.len()];
    let start = Instant::now();
    while times[0].len() < 5 || start.elapsed() < SPAN && times[0].len() < 1000 {
        for (call, times) in calls.iter().zip(&mut times) {
            let start = Instant::now();
            call();
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}
