//! Any small model.

use bitnet_format::export::{HuggingFaceForm, write_gguf};
use bitnet_format::{FormatError, open};
use bitnet_ternary::Packing;
use half::f16;
use proptest::prelude::*;

use super::fake::{FORMS, Parts, fake, packed};

fn parts() -> impl Strategy<Value = Parts> {
    let sizes = (1usize..4, 1usize..3, 1usize..5, 1usize..5, 1usize..3);
    (sizes, any::<[bool; 3]>()).prop_map(|((kv_heads, groups, half_dim, mlp, layers), [sub_norms, head, qk])| Parts {
        heads: kv_heads * groups,
        kv_heads,
        head_dim: 2 * half_dim,
        hidden: kv_heads * groups * 2 * half_dim,
        mlp: 4 * mlp,
        layers,
        vocab: 12,
        sub_norms,
        qk_norms: qk && !sub_norms,
        linear_norms: false,
        head,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_small_model_comes_back_or_is_refused_by_name(parts in parts(), wide in any::<bool>(), packing in 0usize..8) {
        let place = tempfile::tempdir().unwrap();
        let parts = if wide { Parts { head_dim: 64 * parts.head_dim, hidden: 64 * parts.hidden, mlp: 64 * parts.mlp, ..parts } } else { parts };
        prop_assume!(parts.hidden * (parts.hidden + parts.mlp) < 600_000);
        let fake = fake(&parts);
        let packings = [Packing::I2S, Packing::I2SFourRows, Packing::Tq1_0, Packing::Tq2_0, Packing::Iq2Bn, Packing::Iq2BnR4, Packing::Iq1Bn, Packing::I2SArm64];
        let packing = packings[packing];
        let path = place.path().join("m.gguf");
        let halves = matches!(packing, Packing::Tq1_0 | Packing::Tq2_0 | Packing::Iq1Bn);
        let plain = !matches!(packing, Packing::I2SFourRows | Packing::I2SArm64);
        match write_gguf(&fake.model, &packed(packing), &path, false, |t| fake.data_of(t)) {
            // The two odd layouts of I2_S read back only when they are asked for.
            Ok(()) if plain => {
                fake.assert_in(&open(&path).unwrap(), |x| if halves { f16::from_f32(x).to_f32() } else { x });
            }
            Ok(()) => {}
            Err(error) => prop_assert!(matches!(error, FormatError::Ternary { .. }), "{error}"),
        }
        for (number, form) in FORMS.into_iter().enumerate() {
            let path = place.path().join(number.to_string());
            match fake.folder(form, &path) {
                Ok(read) if form == HuggingFaceForm::PackedBitLinear => {
                    prop_assert_eq!(read.config().num_heads, parts.heads);
                }
                Ok(read) => fake.assert_in(&read, |x| x),
                // Four rows share a byte, and few trits do not tell what they are.
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.contains("share a byte") || error.contains("pack it"), "{error}");
                }
            }
        }
    }
}
