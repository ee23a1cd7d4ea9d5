//! A converted burnpack file is what Burn saves of the model, and what it loads.

use std::path::Path;

use bitnet_fixtures::{FAMILIES, family, moby};
use bitnet_format::convert::{Conversion, Target};
use bitnet_format::export::{BurnpackOptions, Model};
use bitnet_format::{StorageType, TokenizerSource, open};
use bitnet_model::{Transformer, load};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_pack::Reader;

fn device() -> Device {
    bitnet_model::device(bitnet_model::DeviceKind::default_name()).unwrap()
}

fn convert(source: &Path, out: &Path, floats: StorageType) {
    let source = open(source).unwrap();
    let mut model = Model::of(&source, "model").unwrap();
    if matches!(model.tokenizer, TokenizerSource::Gguf(_)) {
        // Another crate's task.
        model.tokenizer = TokenizerSource::Missing;
    }
    let target = Target::Burnpack(BurnpackOptions { floats });
    Conversion { source: &source, model, target }.run(out, false, &|_| {}).unwrap();
}

fn model(path: &Path) -> Transformer {
    load(&open(path).unwrap(), &device()).unwrap().model
}

fn logits(model: &Transformer) -> Vec<f32> {
    let tokens = TensorData::new((1..40).collect::<Vec<i64>>(), [1, 39]);
    model.forward(Tensor::<2, Int>::from_data(tokens, model.device())).into_data().try_to_vec().unwrap()
}

/// Sets every parameter to zero.
struct Zeros;

impl ModuleMapper for Zeros {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.zeros_like())
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        param.map(|tensor| tensor.zeros_like())
    }
}

#[test]
fn burn_saves_the_same_parameters() {
    let place = tempfile::tempdir().unwrap();
    let mut models: Vec<_> = FAMILIES.iter().map(|name| (family(name), StorageType::F32)).collect();
    models.push((moby("master"), StorageType::BF16));
    models.push((moby("i2_s-q6_k.gguf"), StorageType::Q6_K));
    for (index, (source, floats)) in models.into_iter().enumerate() {
        let (ours, burns) = (place.path().join(format!("{index}.bpk")), place.path().join(format!("{index}-burn.bpk")));
        convert(&source, &ours, floats);
        model(&ours).save_file(&burns).unwrap();
        let (ours, burns) = (Reader::from_file(&ours).unwrap(), Reader::from_file(&burns).unwrap());
        assert_eq!(ours.tensor_names(), burns.tensor_names(), "{}", source.display());
        for (ours, burns) in ours.into_tensors().unwrap().into_iter().zip(burns.into_tensors().unwrap()) {
            let (ours, burns) = (ours.into_parts().unwrap(), burns.into_parts().unwrap());
            assert_eq!((&ours.0, ours.1, &ours.2), (&burns.0, burns.1, &burns.2), "{}", source.display());
            assert!(ours.4[..] == burns.4[..], "{}: {}", source.display(), ours.0);
        }
    }
}

#[test]
fn burn_loads_the_parameters() {
    let place = tempfile::tempdir().unwrap();
    for (source, floats) in [("packed-bitlinear", StorageType::BF16), ("i2_s-q6_k.gguf", StorageType::Q6_K)] {
        let path = place.path().join(format!("{source}.bpk"));
        convert(&moby(source), &path, floats);
        let first = model(&moby(source));
        let meant = logits(&first);
        let empty = first.map(&mut Zeros);
        assert_ne!(logits(&empty), meant, "{source}");
        assert!(logits(&empty.load_file(&path)) == meant, "{source}");
    }
}
