//! Floats and trits out of every storage.

use bitnet_format::{Checkpoint, I2sLayout, OpenOptions, StorageType, open_with};
use bitnet_ternary::{Packing, Scale, TernaryMatrix};
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::json;

use crate::common::{
    GgufTensor, assert_says, bf16_bytes, f32_bytes, gguf_bytes, gguf_keys, hf_config, open_gguf, open_hf, trits,
    write_gguf,
};

const Q: &str = "model.layers.0.self_attn.q_proj";

fn q_tensor(dtype: StorageType, rows: usize, cols: usize, bytes: Vec<u8>) -> GgufTensor<'static> {
    ("blk.0.attn_q.weight", dtype, vec![rows, cols], bytes)
}

fn open_q(architecture: &str, tensors: &[GgufTensor<'_>]) -> Checkpoint {
    open_gguf(gguf_bytes(&gguf_keys(architecture), tensors)).unwrap()
}

#[test]
fn plain_floats_of_every_width() {
    // An odd count crosses the conversion buffer's end.
    let values: Vec<f32> = (0..1023).map(|i| (i as f32 - 500.0) / 64.0).collect();
    let halves: Vec<u8> = values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
    let doubles: Vec<u8> = values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect();
    let tensors = [
        ("a", StorageType::F32, vec![1023], f32_bytes(&values)),
        ("b", StorageType::F16, vec![1023], halves),
        ("c", StorageType::BF16, vec![1023], bf16_bytes(&values)),
        ("d", StorageType::F64, vec![1023], doubles),
    ];
    let model = open_q("bitnet", &tensors);
    assert_eq!(model.floats("a").unwrap(), values);
    assert_eq!(model.floats("b").unwrap(), values);
    let rounded: Vec<f32> = values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    assert_eq!(model.floats("c").unwrap(), rounded);
    assert_eq!(model.floats("d").unwrap(), values);
}

#[test]
fn tiny_bf16_weights_are_not_lost() {
    let tensor = ("model.norm.weight", Dtype::BF16, vec![2], bf16_bytes(&[1e-34, 1e-32]));
    let model = open_hf(&hf_config(), &[tensor]).unwrap();
    assert!(model.floats("model.norm.weight").unwrap().iter().all(|x| *x > 0.0));
}

#[test]
fn some_rows_of_a_tensor() {
    let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let q8: Vec<u8> = (0..4).flat_map(|row| [vec![0, 0x3c], vec![row; 32]].concat()).collect();
    let matrix = TernaryMatrix::from_trits(4, 256, &trits(1024), Scale::Tensor(0.5)).unwrap();
    let tensors = [
        ("plain", StorageType::F32, vec![2, 3, 4], f32_bytes(&values)),
        ("blocks", StorageType::Q8_0, vec![4, 32], q8),
        ("trits", StorageType::Ternary(Packing::Tq2_0), vec![4, 256], Packing::Tq2_0.encode(&matrix).unwrap()),
    ];
    let model = open_q("bitnet", &tensors);
    for name in ["plain", "blocks", "trits"] {
        let all = model.floats(name).unwrap();
        let (rows, cols) = model.info(name).unwrap().rows_cols();
        let mut some = vec![0.0; 2 * cols];
        model.float_rows(name, 1..3, &mut some).unwrap();
        assert_eq!(some, all[cols..3 * cols], "{name}");
        model.float_rows(name, rows..rows, &mut []).unwrap();
        assert_says(model.float_rows(name, rows - 1..rows + 1, &mut some), &[name, "rows"]);
        assert_says(model.float_rows(name, 0..1, &mut some), &[name, "rows"]);
        assert_says(model.float_rows(name, 0..usize::MAX, &mut some), &[name, "rows"]);
        assert_says(model.float_rows(name, std::ops::Range { start: 2, end: 1 }, &mut some), &[name, "rows"]);
    }
    assert_eq!(model.floats("blocks").unwrap()[95..97], [2.0, 3.0]);
    assert_eq!(model.floats("trits").unwrap(), matrix.to_f32());
}

/// The worked example of the Hugging Face packing: 8 rows of 4, four rows to a byte.
#[test]
fn packed_linears_with_scales_in_both_directions() {
    let weight = || {
        (
            "model.layers.0.self_attn.q_proj.weight",
            Dtype::U8,
            vec![2, 4],
            vec![0x80, 0x01, 0x05, 0x15, 0x56, 0x5a, 0x6a, 0xa8],
        )
    };
    for (class, dtype, bytes, expected) in [
        ("autobitlinear", Dtype::BF16, bf16_bytes(&[0.25]), 0.25),
        ("bitlinear", Dtype::F32, f32_bytes(&[0.25]), 4.0),
        ("bitlinear", Dtype::F16, f16::from_f32(8.0).to_le_bytes().to_vec(), 0.125),
    ] {
        let mut config = hf_config();
        config["quantization_config"]["linear_class"] = json!(class);
        let scale = ("model.layers.0.self_attn.q_proj.weight_scale", dtype, vec![1], bytes);
        let model = open_hf(&config, &[weight(), scale]).unwrap();
        let matrix = model.ternary(Q, 8, 4).unwrap();
        assert_eq!(matrix.trits(), trits(32), "{class}");
        assert_eq!(matrix.scale(), &Scale::Tensor(expected), "{class}");
    }
}

#[test]
fn masters_are_quantized_by_absmean() {
    let weights = [0.5, -0.2, 0.05, -1.0, 0.3, 0.9, -0.4, 0.0];
    let tensor = ("model.layers.0.self_attn.q_proj.weight", Dtype::F32, vec![2, 4], f32_bytes(&weights));
    let matrix = open_hf(&hf_config(), &[tensor]).unwrap().ternary(Q, 2, 4).unwrap();
    assert_eq!(matrix.trits(), [1, 0, 0, -1, 1, 1, -1, 0]);
    assert_eq!(matrix.scale(), &Scale::Tensor(0.41875));
}

#[test]
fn floats_that_are_ternary_keep_their_scale() {
    let weights: Vec<f32> = trits(64).iter().map(|t| 0.7 * f32::from(*t)).collect();
    let tensor = || ("model.layers.0.self_attn.q_proj.weight", Dtype::F32, vec![8, 8], f32_bytes(&weights));
    let matrix = open_hf(&hf_config(), &[tensor()]).unwrap().ternary(Q, 8, 8).unwrap();
    assert_eq!((matrix.trits(), matrix.scale()), (trits(64), &Scale::Tensor(0.7)));
    // Trits unpacked to floats, their scale still beside them.
    let scale = ("model.layers.0.self_attn.q_proj.weight_scale", Dtype::F32, vec![1], f32_bytes(&[2.0]));
    let matrix = open_hf(&hf_config(), &[tensor(), scale]).unwrap().ternary(Q, 8, 8).unwrap();
    assert_eq!(matrix.scale(), &Scale::Tensor(1.4));
}

/// Rows of 32 values as Q4_0 with `d` = 1/16: trits become 7/16, 0 and -8/16.
fn q4_0(nibble: impl Fn(usize) -> u8, values: usize) -> Vec<u8> {
    let block = |first: usize| {
        let pairs = (0..16).map(move |j| (first + j, first + 16 + j));
        let bytes: Vec<u8> = pairs.map(|(low, high)| nibble(low) | nibble(high) << 4).collect();
        [f16::from_f32(0.0625).to_le_bytes().to_vec(), bytes].concat()
    };
    (0..values).step_by(32).flat_map(block).collect()
}

#[test]
fn blocks_of_trits_keep_their_scale_and_other_blocks_are_refused() {
    let trits = trits(8 * 64);
    let of_trit = |i: usize| [0, 8, 15][(trits[i] + 1) as usize];
    let model = open_q("bitnet", &[q_tensor(StorageType::Q4_0, 8, 64, q4_0(of_trit, 8 * 64))]);
    let matrix = model.ternary(Q, 8, 64).unwrap();
    assert_eq!((matrix.trits(), matrix.scale()), (trits.clone(), &Scale::Tensor(0.5)));

    let dense = q4_0(|i| (i * 7 % 16) as u8, 8 * 64);
    let model = open_q("bitnet", &[q_tensor(StorageType::Q4_0, 8, 64, dense)]);
    assert_says(model.ternary(Q, 8, 64), &["attn_q.weight", "Q4_0", "not ternary"]);
}

#[test]
fn a_dense_linear_among_ternary_ones_is_refused() {
    let dense: Vec<f32> = (0..32).map(|i| i as f32 / 7.0 - 2.0).collect();
    let model = open_hf(
        &hf_config(),
        &[
            ("model.layers.0.self_attn.q_proj.weight", Dtype::F32, vec![8, 4], f32_bytes(&dense)),
            ("model.layers.0.self_attn.k_proj.weight", Dtype::U8, vec![2, 4], vec![0x55; 8]),
        ],
    );
    assert_says(model.unwrap().ternary(Q, 8, 4), &["q_proj.weight", "other linears are ternary"]);
}

#[test]
fn every_ggml_packing() {
    use Packing::*;
    let (rows, cols) = (8, 256);
    for packing in [I2S, Tq1_0, Tq2_0, Iq1Bn, Iq2Bn, Iq2BnR4, Q2_0 { group: 64 }, Q2_0 { group: 128 }] {
        let matrix = TernaryMatrix::from_trits(rows, cols, &trits(rows * cols), Scale::Tensor(0.5)).unwrap();
        let bytes = packing.encode(&matrix).unwrap();
        let dtype = StorageType::Ternary(packing);
        let model =
            open_q("bitnet", &[q_tensor(dtype, rows, cols, bytes.clone()), ("b", dtype, vec![rows, cols], bytes)]);
        assert_eq!(model.info("b").unwrap().dtype, dtype);
        let read = model.ternary(Q, rows, cols).unwrap();
        assert_eq!(read.words(), matrix.words(), "{packing}");
        assert_eq!(read.to_f32(), matrix.to_f32(), "{packing}");
        // A multiplier of its own, as older conversions have.
        let scaled = open_q(
            "bitnet",
            &[
                q_tensor(dtype, rows, cols, packing.encode(&matrix).unwrap()),
                ("blk.0.attn_q.scale", StorageType::F32, vec![1], f32_bytes(&[3.0])),
            ],
        );
        let expected: Vec<f32> = matrix.to_f32().iter().map(|w| w * 3.0).collect();
        assert_eq!(scaled.ternary(Q, rows, cols).unwrap().to_f32(), expected, "{packing}");
        assert_says(model.ternary(Q, rows, cols - 1), &["blk.0.attn_q.weight", "[8, 256]", "[8, 255]"]);
    }
}

#[test]
fn q2_0_groups_are_told_apart_by_size() {
    let matrix = TernaryMatrix::from_trits(16, 256, &trits(4096), Scale::Tensor(0.5)).unwrap();
    for group in [64, 128] {
        // Both under id 42, as older files have them.
        let bytes = Packing::Q2_0 { group }.encode(&matrix).unwrap();
        let dtype = StorageType::Ternary(Packing::Q2_0 { group });
        let mut file = gguf_bytes(&gguf_keys("qwen3"), &[q_tensor(dtype, 16, 256, bytes)]);
        if group == 128 {
            let at = file.windows(4).position(|w| w == 142u32.to_le_bytes()).unwrap();
            file[at..at + 4].copy_from_slice(&42u32.to_le_bytes());
        }
        let model = open_gguf(file).unwrap();
        assert_eq!(model.info("model.layers.0.self_attn.q_proj.weight").unwrap().dtype, dtype);
        assert_eq!(model.ternary(Q, 16, 256).unwrap().words(), matrix.words());
    }
}

#[test]
fn i2_s_layouts_are_the_users_to_name() {
    let matrix = TernaryMatrix::from_trits(4, 256, &trits(1024), Scale::Tensor(0.5)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (i2s_layout, packing) in [
        (I2sLayout::Block128, Packing::I2S),
        (I2sLayout::Block64, Packing::I2SArm64),
        (I2sLayout::FourRows, Packing::I2SFourRows),
    ] {
        let path = folder.path().join(format!("{i2s_layout:?}.gguf"));
        let bytes = packing.encode(&matrix).unwrap();
        write_gguf(&path, &gguf_keys("bitnet"), &[q_tensor(StorageType::Ternary(packing), 4, 256, bytes)]);
        let model = open_with(&path, &OpenOptions { i2s_layout, ..OpenOptions::default() }).unwrap();
        assert_eq!(model.ternary(Q, 4, 256).unwrap(), matrix);
    }
}

#[test]
fn llama_files_have_their_rotary_pairs_brought_back() {
    // Rows numbered in the file; 4 heads of 64 rows for Q.
    let numbered: Vec<f32> = (0..256).map(|row| row as f32).collect();
    let by_row: Vec<i8> = (0..256).flat_map(|row: i32| (0..8).map(move |bit| (row >> bit & 1) as i8)).collect();
    let q = |dtype, cols, bytes| [q_tensor(dtype, 256, cols, bytes)];
    let expected: Vec<f32> = (0..256)
        .map(|row| {
            let (head, half, pair) = (row / 64, row % 64 / 32, row % 32);
            (head * 64 + 2 * pair + half) as f32
        })
        .collect();

    let model = open_q("llama", &q(StorageType::F32, 1, f32_bytes(&numbered)));
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(model.floats(name).unwrap(), expected);
    assert_eq!(model.info(name).unwrap().interleaved_heads, Some(4));
    assert_eq!(model.bytes(name).unwrap(), f32_bytes(&numbered), "bytes are as stored");
    let mut rows = [0.0; 3];
    model.float_rows(name, 30..33, &mut rows).unwrap();
    assert_eq!(rows, expected[30..33]);

    let matrix = TernaryMatrix::from_trits(256, 8, &by_row, Scale::Tensor(1.0)).unwrap();
    let floats = open_q("llama", &q(StorageType::F32, 8, f32_bytes(&matrix.to_f32())));
    let packed = open_q("llama", &q(StorageType::Ternary(Packing::I2S), 8, Packing::I2S.encode(&matrix).unwrap()));
    for model in [floats, packed] {
        let read = model.ternary(Q, 256, 8).unwrap();
        for (row, number) in expected.iter().enumerate() {
            let bits: i32 = read.row_trits(row).enumerate().map(|(bit, t)| i32::from(t) << bit).sum();
            assert_eq!(bits as f32, *number);
        }
    }

    let bitnet = open_q("bitnet", &q(StorageType::F32, 1, f32_bytes(&numbered)));
    assert_eq!(bitnet.floats(name).unwrap(), numbered);
    let v = [("blk.0.attn_v.weight", StorageType::F32, vec![256, 1], f32_bytes(&numbered))];
    assert_eq!(open_q("llama", &v).floats("model.layers.0.self_attn.v_proj.weight").unwrap(), numbered);
    let k = [("blk.0.attn_k.weight", StorageType::F32, vec![128, 1], f32_bytes(&numbered[..128]))];
    assert_eq!(open_q("llama", &k).floats("model.layers.0.self_attn.k_proj.weight").unwrap(), expected[..128]);
    let odd = gguf_bytes(&gguf_keys("llama"), &[q_tensor(StorageType::F32, 12, 1, f32_bytes(&[0.0; 12]))]);
    assert_says(open_gguf(odd), &["blk.0.attn_q.weight", "12 rows"]);
}

#[test]
fn the_worked_gguf_of_the_format() {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend([1u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
    file.extend(20u64.to_le_bytes());
    file.extend(b"general.architecture");
    file.extend(8u32.to_le_bytes());
    file.extend(12u64.to_le_bytes());
    file.extend(b"bitnet-b1.58");
    file.extend(19u64.to_le_bytes());
    file.extend(b"blk.0.attn_k.weight");
    file.extend(2u32.to_le_bytes());
    file.extend([128u64.to_le_bytes(), 4u64.to_le_bytes()].concat());
    file.extend(36u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    assert_eq!(file.len(), 135);
    file.resize(160 + 128 + 32, 0);
    // The container is in order; what is missing is the model.
    assert_says(open_gguf(file.clone()), &["bitnet-b1.58.embedding_length", "missing"]);
    file.pop();
    assert_says(open_gguf(file), &["blk.0.attn_k.weight", "160 bytes", "159 are there"]);
}
