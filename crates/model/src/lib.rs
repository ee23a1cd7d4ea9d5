//! BitNet models as Burn modules.
//!
//! [`BitLinear`] is the layer to put into a Burn program of your own; [`Transformer`] is the decoder of every ternary
//! family, put together from it by [`load`]. Both run on any Burn device through `bitnet-kernels`.
//!
//! ```
//! use bitnet_model::BitLinearConfig;
//! use burn::tensor::{Device, Distribution, Tensor};
//!
//! let device = Device::flex();
//! let layer = BitLinearConfig::new(64, 16).init(&device);
//! let x = Tensor::<3>::random([2, 5, 64], Distribution::Default, &device);
//! assert_eq!(layer.forward(x).dims(), [2, 5, 16]);
//! ```

mod adapter;
mod attention;
mod bit_linear;
mod block;
mod cache;
mod dense;
mod error;
mod head;
mod initialize;
mod kept;
mod load;
mod mlp;
mod next;
mod norm;
mod reparameterize;
mod rope;
mod sub_norms;
mod transformer;
mod window;

pub use attention::Attention;
pub use bit_linear::{BitLinear, BitLinearConfig, LatentWeight, Lora, UnknownWeightBits, WeightBits};
#[cfg(not(target_family = "wasm"))]
pub use bitnet_kernels::cpu::probe;
pub use bitnet_kernels::cpu::top::{Share, TopLogits, Wanted};
pub use bitnet_kernels::cpu::{best_logits::argmax, exp::log_sum_exp, pool};
pub use bitnet_kernels::{
    CacheFormat, DeviceError, DeviceInfo, DeviceKind, Gate, Isa, IsaError, Precision, RowStorage, UnknownCacheFormat,
    WeightOrder, can_replay, device, devices, has_precision, is_processor, on_notice, ops, ops::Activations,
    ops::training::Quantization, row_storage, weight_order,
};
pub use block::Block;
pub use cache::KvCache;
pub use dense::DenseMatrix;
pub use error::ModelError;
pub use initialize::Initialize;
pub use kept::{Kept, KeptWeights, load_kept};
pub use load::{Loaded, load, load_trainable, load_with_bits};
pub use mlp::GatedMlp;
pub use next::Next;
pub use norm::RmsNorm;
pub use reparameterize::{Ternary, TernaryWeight, WeightLayout};
pub use rope::Rope;
pub use transformer::{Sequences, Transformer};
