//! Models that are not what they are said to be, or that a format has no word for.

use bitnet_format::export::{
    Architecture, GgufOptions, HuggingFaceForm, HuggingFaceOptions, Tensor, TensorData, TensorKind, write_hugging_face,
};
use bitnet_format::{Activation, FormatError, ModelConfig, RopeScaling, StorageType};
use bitnet_ternary::{Packing, Scale, TernaryMatrix};

use super::fake::{Fake, Parts, SMALL, fake};
use crate::common::assert_says;

#[test]
fn tensors_that_are_not_those_of_the_configuration() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m");
    let write = |change: &dyn Fn(&mut Fake)| {
        let mut fake = fake(&Parts { head: true, ..SMALL });
        change(&mut fake);
        let folder = fake.folder(HuggingFaceForm::PackedAutoBitLinear, &path).err().map(|e| e.to_string());
        let gguf = fake.gguf(&GgufOptions::default(), &path).err().map(|e| e.to_string());
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "something is left behind");
        assert_eq!(folder, gguf, "both formats refuse with the same words");
        Err::<(), _>(FormatError::NotAModel { path: path.clone(), reason: gguf.expect("an error") })
    };
    let up = "model.layers.1.mlp.up_proj.weight";
    assert_says(write(&|fake| fake.model.tensors.retain(|t| t.name != up)), &["no tensor", up]);
    assert_says(
        write(&|fake| {
            let tensor = fake.tensor(up).clone();
            fake.model.tensors.push(tensor);
        }),
        &[up, "twice"],
    );
    let extra = |name: &'static str| move |fake: &mut Fake| fake.model.tensors.push(Tensor::floats(name, &[1]));
    assert_says(write(&extra("model.layers.2.input_layernorm.weight")), &["layers.2", "no part"]);
    assert_says(write(&extra("model.layers.0.mlp.up_proj.bias")), &["bias", "no part"]);
    assert_says(write(&extra("rope_freqs.weight")), &["rope_freqs", "rope_scaling"]);
    assert_says(
        write(&|fake| fake.model.tensors[0] = Tensor::floats("model.embed_tokens.weight", &[11, 256])),
        &["embed_tokens", "[11, 256]", "[12, 256]"],
    );
    assert_says(write(&|fake| fake.model.tensors[0].kind = TensorKind::Stored(StorageType::I32)), &["I32"]);
    let norm = "model.norm.weight";
    assert_says(write(&|fake| fake.tensor(norm).kind = TensorKind::Ternary), &[norm, "no matrix"]);
    let floats = TensorKind::Floats;
    assert_says(write(&|fake| fake.tensor(up).kind = floats), &[up, "other linears"]);
    let i2s = TensorKind::Stored(StorageType::Ternary(Packing::I2S));
    assert_says(write(&|fake| fake.tensor(up).kind = i2s), &[up, "passed through", "I2_S"]);
    assert_says(write(&|fake| fake.model.config.tie_word_embeddings = Some(true)), &["lm_head", "the embedding"]);
    assert_says(
        write(&|fake| {
            fake.model.tensors.pop();
        }),
        &["no tensor", "lm_head"],
    );
    // Data that is not as declared.
    let small = TernaryMatrix::from_trits(1, 4, &[0; 4], Scale::Tensor(1.0)).unwrap();
    assert_says(
        write(&|fake| drop(fake.data.insert(up.to_string(), TensorData::Ternary(small.clone())))),
        &[up, "[1, 4]", "[512, 256]"],
    );
    assert_says(
        write(&|fake| drop(fake.data.insert(up.to_string(), TensorData::Floats(vec![0.0])))),
        &[up, "other data than declared"],
    );
    assert_says(
        write(&|fake| drop(fake.data.insert(norm.to_string(), TensorData::Floats(vec![0.0; 255])))),
        &[norm, "255 numbers", "256"],
    );
    let embedding = "model.embed_tokens.weight";
    let with = |value: f32| {
        move |fake: &mut Fake| {
            let Some(TensorData::Floats(values)) = fake.data.get_mut(embedding) else { panic!("floats") };
            values[77] = value;
        }
    };
    assert_says(write(&with(f32::NAN)), &["embed_tokens", "NaN", "element 77"]);
    let mut large = fake(&SMALL);
    with(1e5)(&mut large);
    assert_says(large.gguf(&GgufOptions::default(), &path), &["embed_tokens", "100000", "F16"]);
    assert_says(
        write(&|fake| {
            fake.tensor(embedding).kind = TensorKind::Stored(StorageType::F32);
            fake.data.insert(embedding.to_string(), TensorData::Stored(vec![0; 3].into()));
        }),
        &["embed_tokens", "3 bytes"],
    );
    large.tensor(embedding).kind = TensorKind::Stored(StorageType::F16);
    assert_says(large.folder(HuggingFaceForm::Master, &path), &["embed_tokens", "F16", "F32"]);
    let options = HuggingFaceOptions { dtype: StorageType::Q8_0, ..HuggingFaceOptions::default() };
    assert_says(write_hugging_face(&large.model, &options, &path, false, |t| large.data_of(t)), &["Q8_0", "BF16"]);
    let options = GgufOptions { floats: StorageType::I8, ..GgufOptions::default() };
    assert_says(large.gguf(&options, &path), &["I8", "BF16"]);
}

#[test]
fn configurations_that_a_format_has_no_word_for() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m");
    let with = |parts: &Parts, change: fn(&mut ModelConfig)| {
        let mut fake = fake(parts);
        change(&mut fake.model.config);
        fake
    };
    let gguf = |fake: Fake| fake.gguf(&GgufOptions::default(), &path);
    let folder = |fake: Fake| fake.folder(HuggingFaceForm::PackedAutoBitLinear, &path);
    let three = |config: &mut ModelConfig| config.eos_token_ids = vec![8, 9, 10];
    assert_says(gguf(with(&SMALL, three)), &["eos_token_ids", "[8, 9, 10]", "[8, 9]"]);
    assert!(folder(with(&SMALL, three)).is_ok());
    std::fs::remove_dir_all(&path).unwrap();
    let two = |config: &mut ModelConfig| config.bos_token_ids = vec![9, 8];
    assert_says(gguf(with(&SMALL, two)), &["bos_token_ids"]);
    assert_says(folder(with(&SMALL, two)), &["begin a text"]);
    assert_says(folder(with(&SMALL, |config| config.rope_dim = 32)), &["rotating 32 of the 64"]);
    assert_says(gguf(with(&SMALL, |config| config.rms_norm_eps = 0.0)), &["layer_norm_rms_epsilon"]);
    assert_says(
        folder(with(&SMALL, |config| config.rope_scaling = RopeScaling::Factors(vec![1.0; 32]))),
        &["rotary frequency"],
    );
    let wide = Parts { head_dim: 32, ..SMALL };
    assert_says(folder(with(&wide, |_| ())), &["4 heads of 32", "256"]);
    assert_says(folder(with(&Parts { qk_norms: true, ..SMALL }, |_| ())), &["sub-norms together"]);
    assert_says(gguf(with(&SMALL, |config| config.activation_bits = Some(4))), &["activation_bits", "is 4,", "as 8"]);

    let llama = GgufOptions { architecture: Some(Architecture::Llama), ..GgufOptions::default() };
    assert_says(fake(&SMALL).gguf(&llama, &path), &["llama", "Relu2"]);
    let silu = with(&SMALL, |config| config.activation = Activation::Silu);
    assert_says(silu.gguf(&llama, &path), &["sub_norm", "llama lacks"]);
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}
