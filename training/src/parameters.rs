//! The parameters of a model in training, by name.

use std::collections::HashMap;

use bitnet_model::Transformer;
use burn::module::ParamId;

/// What a parameter is, which decides how it is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Latent weights of a linear.
    Linear,
    /// Embedding or head.
    Dense,
    /// Weight of a norm.
    Norm,
    /// Matrix of a low-rank adapter.
    Adapter,
}

/// A parameter of a model in training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The tensor's name in a Hugging Face checkpoint.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its place in the order of the model.
    pub index: usize,
}

impl Parameter {
    /// Numbers in it.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The parameters of a model in training by their ids.
#[derive(Clone, Debug, Default)]
pub struct Parameters(HashMap<ParamId, Parameter>);

impl Parameters {
    /// Those of `model`: everything that has a gradient; but where there are low-rank adapters, only these, and the rest of
    /// the model stays as it is.
    pub fn of(model: &Transformer) -> Self {
        let adapters = model.linears().filter_map(|(name, linear)| Some((name, linear.lora()?)));
        let adapters = adapters.flat_map(|(name, lora)| {
            [("A", lora.a()), ("B", lora.b())].map(|(side, param)| {
                (param.id, format!("{name}.lora_{side}.weight"), Kind::Adapter, param.dims().to_vec())
            })
        });
        let adapters: Vec<_> = adapters.collect();
        if !adapters.is_empty() {
            return Self::numbered(adapters.into_iter());
        }
        let dense = model.dense().filter_map(|(name, matrix)| {
            let param = matrix.param()?;
            Some((param.id, name.to_string(), Kind::Dense, param.dims().to_vec()))
        });
        let linears = model.linears().flat_map(|(name, linear)| {
            let latent = linear
                .latent_weights()
                .map(|weight| (weight.param().id, format!("{name}.weight"), Kind::Linear, weight.dims().to_vec()));
            let norm = linear.norm().map(|norm| {
                (norm.weight().id, format!("{name}.norm.weight"), Kind::Norm, norm.weight().dims().to_vec())
            });
            latent.into_iter().chain(norm)
        });
        let norms = model.norms().map(|(name, norm)| {
            (norm.weight().id, format!("{name}.weight"), Kind::Norm, norm.weight().dims().to_vec())
        });
        Self::numbered(dense.chain(linears).chain(norms))
    }

    fn numbered(all: impl Iterator<Item = (ParamId, String, Kind, Vec<usize>)>) -> Self {
        let all = all.enumerate();
        Self(all.map(|(index, (id, name, kind, shape))| (id, Parameter { name, kind, shape, index })).collect())
    }

    /// What a parameter is.
    pub fn get(&self, id: ParamId) -> Option<&Parameter> {
        self.0.get(&id)
    }

    /// All of them in the order of the model.
    pub fn in_order(&self) -> Vec<(ParamId, &Parameter)> {
        let mut all: Vec<_> = self.0.iter().map(|(id, parameter)| (*id, parameter)).collect();
        all.sort_by_key(|(_, parameter)| parameter.index);
        all
    }

    /// Numbers in all parameters of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.0.values().filter(|parameter| parameter.kind == kind).map(|parameter| parameter.len() as u64).sum()
    }

    /// Numbers in all parameters.
    pub fn total(&self) -> u64 {
        self.0.values().map(|parameter| parameter.len() as u64).sum()
    }
}
