//! Scales and shapes: where there is room for them, and where not.

use bitnet_format::export::{HuggingFaceForm, TensorKind, write_hugging_face};
use bitnet_format::open;
use bitnet_ternary::{Granularity, Packing, Scale, TernaryMatrix, quantize};
use half::f16;

use super::fake::{Parts, SMALL, fake, folder_of, noise, packed};
use crate::common::assert_says;

#[test]
fn finer_scales_go_where_there_is_room_for_them() {
    let place = tempfile::tempdir().unwrap();
    let mut rows = fake(&SMALL);
    let name = "model.layers.1.mlp.up_proj.weight";
    rows.matrix(name, |matrix| {
        let scales = (0..matrix.rows()).map(|row| 1.0 + row as f32 / 512.0).collect();
        matrix.clone().with_scale(Scale::Row(scales)).unwrap()
    });
    let read = rows.gguf(&packed(Packing::Iq2Bn), &place.path().join("rows.gguf")).unwrap();
    rows.assert_in(&read, |x| x);
    let read = rows.folder(HuggingFaceForm::Master, &place.path().join("rows")).unwrap();
    rows.assert_in(&read, |x| x);
    assert_says(
        rows.gguf(&packed(Packing::I2S), &place.path().join("x.gguf")),
        &["x.gguf", "`model.layers.1.mlp.up_proj.weight`", "I2_S", "a row"],
    );
    assert_says(
        rows.folder(HuggingFaceForm::PackedAutoBitLinear, &place.path().join("x")),
        &["`model.layers.1.mlp.up_proj.weight`", "a row", "one for the tensor"],
    );

    // A model whose activations stay floats has a form of its own.
    let mut groups = fake(&Parts { sub_norms: false, ..SMALL });
    groups.model.config.activation_bits = None;
    for (number, tensor) in groups.model.tensors.clone().iter().enumerate() {
        if tensor.kind == TensorKind::Ternary {
            groups.matrix(&tensor.name, |matrix| {
                let count = matrix.rows() * matrix.cols() / 128;
                let values = (0..count).map(|i| f16::from_f32(1.5 + noise(i + number)).to_f32()).collect();
                matrix.clone().with_scale(Scale::Group { size: 128, values }).unwrap()
            });
        }
    }
    let read = groups.gguf(&packed(Packing::Q2_0 { group: 128 }), &place.path().join("groups.gguf")).unwrap();
    groups.assert_in(&read, |x| x);
    assert_says(groups.gguf(&packed(Packing::I2S), &place.path().join("y.gguf")), &["activation_bits", "I2_S"]);
    assert_says(groups.folder(HuggingFaceForm::PackedBitLinear, &place.path().join("y")), &["activations stay floats"]);
    let path = place.path().join("groups");
    write_hugging_face(&groups.model, &folder_of(HuggingFaceForm::Master), &path, false, |t| groups.data_of(t))
        .unwrap();
    let read = open(&path).unwrap();
    assert_eq!(read.config().activation_bits, None);
    groups.assert_in(&read, |x| x);
}

#[test]
fn shapes_that_a_form_cannot_hold() {
    let place = tempfile::tempdir().unwrap();
    let narrow = fake(&Parts { hidden: 48, heads: 3, kv_heads: 1, head_dim: 16, mlp: 80, ..SMALL });
    for (packing, words) in [
        (Packing::Tq2_0, ["q_proj", "256"]),
        (Packing::Tq1_0, ["q_proj", "256"]),
        (Packing::Iq2Bn, ["q_proj", "64"]),
        (Packing::HfPacked, ["attn_q", "GGUF cannot hold"]),
    ] {
        let path = place.path().join("m.gguf");
        assert_says(narrow.gguf(&packed(packing), &path), &words);
    }
    let odd = fake(&Parts { hidden: 16, heads: 1, kv_heads: 1, head_dim: 16, mlp: 6, ..SMALL });
    assert_says(odd.gguf(&packed(Packing::I2S), &place.path().join("m.gguf")), &["gate_proj", "128"]);
    assert_says(
        odd.folder(HuggingFaceForm::PackedBitLinear, &place.path().join("m")),
        &["gate_proj", "6 rows", "share a byte"],
    );
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    narrow.assert_in(&narrow.gguf(&packed(Packing::I2S), &place.path().join("n.gguf")).unwrap(), |x| x);
}

#[test]
fn a_scale_of_a_dead_linear() {
    let place = tempfile::tempdir().unwrap();
    let mut dead = fake(&SMALL);
    let name = "model.layers.0.mlp.gate_proj.weight";
    dead.matrix(name, |matrix| {
        let zeros = vec![0; matrix.rows() * matrix.cols()];
        TernaryMatrix::from_trits(matrix.rows(), matrix.cols(), &zeros, Scale::Tensor(0.0)).unwrap()
    });
    let read = dead.folder(HuggingFaceForm::PackedBitLinear, &place.path().join("m")).unwrap();
    assert_eq!(read.ternary(name.trim_end_matches(".weight"), 512, 256).unwrap().zero_fraction(), 1.0);
    assert_says(dead.folder(HuggingFaceForm::Master, &place.path().join("n")), &["gate_proj", "pack it"]);
    dead.matrix(name, |matrix| {
        quantize::absmean(&vec![1.0; matrix.rows() * matrix.cols()], matrix.rows(), matrix.cols(), Granularity::Tensor)
            .and_then(|matrix| matrix.with_scale(Scale::Tensor(1e-40)))
            .unwrap()
    });
    for form in [HuggingFaceForm::PackedAutoBitLinear, HuggingFaceForm::PackedBitLinear] {
        assert_says(dead.folder(form, &place.path().join("n")), &["gate_proj", "scale"]);
    }
}
