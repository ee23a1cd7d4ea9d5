//! The weights: what they are, independent of how they are stored.

use std::io::{self, Write};

use bitnet_ternary::{CODES_PER_WORD, Scale, TernaryError, TernaryMatrix, words_per_row};
use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Embedding, Shape, Vocabulary};

/// Of the 256 values of a random byte this many become -1, and as many +1: 42 % of the trits are zero, as of 2B-4T's.
const BYTES_PER_SIGN: u8 = 74;

/// A model with random weights.
///
/// Every tensor draws from a stream of its own, so it is the same in whatever order tensors are written and however many
/// layers follow.
#[derive(Debug, Clone)]
pub struct RandomModel {
    /// The sizes.
    pub shape: Shape,
    /// The vocabulary, and with it the rows of the embedding.
    pub vocabulary: Vocabulary,
    /// Which of the models of this shape.
    pub seed: u64,
}

/// A tensor of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Hugging Face name of the module, without `.weight`.
    pub module: String,
    /// What it is for.
    pub role: Role,
    /// Output features, or tokens; 1 for a norm.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Which of the generator's streams its numbers come from.
    stream: u64,
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One row for each token; also the head.
    Embedding,
    /// The weight of a norm, all ones.
    Norm,
    /// A ternary matrix.
    Linear,
}

impl Tensor {
    /// Hugging Face name.
    pub fn name(&self) -> String {
        format!("{}.weight", self.module)
    }

    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.rows as u64 * self.cols as u64
    }
}

impl RandomModel {
    /// All tensors, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<Tensor> {
        let Shape { layers, hidden, ffn, .. } = self.shape;
        let kv = self.shape.kv_width();
        let mut tensors = Vec::with_capacity(11 * layers + 2);
        let mut push = |module: String, role, rows, cols| {
            let stream = tensors.len() as u64;
            tensors.push(Tensor { module, role, rows, cols, stream });
        };
        push("model.embed_tokens".to_string(), Role::Embedding, self.vocabulary.size(), hidden);
        for layer in 0..layers {
            for (part, role, rows, cols) in [
                ("input_layernorm", Role::Norm, 1, hidden),
                ("self_attn.q_proj", Role::Linear, hidden, hidden),
                ("self_attn.k_proj", Role::Linear, kv, hidden),
                ("self_attn.v_proj", Role::Linear, kv, hidden),
                ("self_attn.attn_sub_norm", Role::Norm, 1, hidden),
                ("self_attn.o_proj", Role::Linear, hidden, hidden),
                ("post_attention_layernorm", Role::Norm, 1, hidden),
                ("mlp.gate_proj", Role::Linear, ffn, hidden),
                ("mlp.up_proj", Role::Linear, ffn, hidden),
                ("mlp.ffn_sub_norm", Role::Norm, 1, ffn),
                ("mlp.down_proj", Role::Linear, hidden, ffn),
            ] {
                push(format!("model.layers.{layer}.{part}"), role, rows, cols);
            }
        }
        push("model.norm".to_string(), Role::Norm, 1, hidden);
        tensors
    }

    /// Number of weights, the norms' included.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(Tensor::weights).sum()
    }

    /// A linear.
    ///
    /// Its scale is about `1 / sqrt(cols * density)`, which keeps the output as large as the input, up to 20 % more or
    /// less so that no two tensors share it. It is a bf16 value, which f16 and f32 hold exactly as well.
    ///
    /// # Errors
    /// When the tensor is not of a shape that a ternary matrix can have.
    pub fn linear(&self, tensor: &Tensor) -> Result<TernaryMatrix, TernaryError> {
        let mut rng = self.random(tensor);
        let density = f32::from(BYTES_PER_SIGN) / 128.0;
        let factor = 0.8 + 0.4 * (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
        let scale = bf16::from_f32(factor / (tensor.cols as f32 * density).sqrt()).to_f32();

        let per_row = words_per_row(tensor.cols);
        let mut random = vec![0; per_row * CODES_PER_WORD];
        let mut words = Vec::with_capacity(tensor.rows * per_row);
        for _ in 0..tensor.rows {
            rng.fill_bytes(&mut random);
            words.extend(random.as_chunks().0.iter().map(random_word));
        }
        TernaryMatrix::from_words(tensor.rows, tensor.cols, words, Scale::Tensor(scale))
    }

    /// Writes a matrix of floats, row-major: the embedding, or a linear as a master. `progress` is told of the weights of each row.
    ///
    /// Values are nearly normal around 0 with a deviation of 0.018, near the 0.02 that models begin training with. They
    /// are multiples of 2⁻¹² below 2⁻⁴, which f16 and bf16 hold exactly; Q6_K rounds them.
    ///
    /// # Errors
    /// When `out` fails.
    pub fn write_floats(
        &self,
        tensor: &Tensor,
        embedding: Embedding,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let mut rng = self.random(tensor);
        let levels = levels();
        let mut random = vec![0; 4 * tensor.cols];
        let (mut row, mut encoded) = (Vec::with_capacity(tensor.cols), Vec::with_capacity(2 * tensor.cols));
        for _ in 0..tensor.rows {
            rng.fill_bytes(&mut random);
            let sums = random.as_chunks().0.iter().map(|bytes: &[u8; 4]| bytes.map(usize::from).iter().sum::<usize>());
            row.clear();
            row.extend(sums.map(|sum| levels[sum]));
            encoded.clear();
            embedding.encode(&row, &mut encoded).map_err(io::Error::other)?;
            out.write_all(&encoded)?;
            progress(tensor.cols as u64);
        }
        Ok(())
    }

    /// The generator of one tensor's numbers.
    fn random(&self, tensor: &Tensor) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(tensor.stream);
        rng
    }
}

/// The codes (trit + 1) of 16 random bytes, the first in the low bits.
fn random_word(random: &[u8; CODES_PER_WORD]) -> u32 {
    let code = |byte: u8| u32::from(byte >= BYTES_PER_SIGN) + u32::from(byte > u8::MAX - BYTES_PER_SIGN);
    random.iter().rev().fold(0, |word, byte| (word << 2) | code(*byte))
}

/// The value that each sum of four random bytes stands for.
fn levels() -> Vec<f32> {
    // Halving the sum leaves eight significant bits, as many as a bf16 has.
    (0..=1020i16).map(|sum| f32::from((sum - 510) / 2) / 4096.0).collect()
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn model(seed: u64, layers: usize) -> RandomModel {
        RandomModel { shape: Shape { layers, ..Shape::TINY }, vocabulary: Vocabulary::small(), seed }
    }

    #[test]
    fn the_parameters_of_2b_4t() {
        let model = RandomModel { shape: Shape::BITNET_2B4T, vocabulary: Vocabulary::real_size(), seed: 0 };
        let of = |role| model.tensors().iter().filter(|t| t.role == role).map(Tensor::weights).sum::<u64>();
        assert_eq!(of(Role::Linear), 2_084_044_800);
        assert_eq!(of(Role::Embedding), 328_335_360);
        assert_eq!(of(Role::Norm), 440_320);
        assert_eq!(model.parameters(), 2_412_820_480);
        assert_eq!(model.tensors().len(), 332);
    }

    #[test]
    fn bytes_become_codes() {
        let mut bytes = [100; 16];
        bytes[..6].copy_from_slice(&[0, 73, 74, 181, 182, 255]);
        assert_eq!(random_word(&bytes), 0b0101_0101_0101_0101_0101_1010_0101_0000);
    }

    #[test]
    fn trits_are_balanced_and_scales_keep_the_output_as_large_as_the_input() {
        let model = model(1, 2);
        let mut scales = Vec::new();
        for tensor in model.tensors().into_iter().filter(|t| t.role == Role::Linear) {
            let matrix = model.linear(&tensor).unwrap();
            assert!((matrix.zero_fraction() - 108.0 / 256.0).abs() < 0.01, "{}", tensor.module);
            let sum: i64 = matrix.trits().iter().map(|t| i64::from(*t)).sum();
            assert!(sum.unsigned_abs() < tensor.weights() / 100, "{}: {sum}", tensor.module);
            let scale = matrix.scale().values()[0];
            let gain = scale * (tensor.cols as f32 * 148.0 / 256.0).sqrt();
            assert!((0.79..1.21).contains(&gain), "{}: {gain}", tensor.module);
            assert_eq!(f16::from_f32(scale).to_f32(), scale);
            scales.push(scale);
        }
        scales.sort_by(f32::total_cmp);
        assert!(scales.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn embeddings_are_the_same_numbers_in_both_types() {
        let model = model(1, 1);
        let tensor = &model.tensors()[0];
        let bytes = |embedding| {
            let (mut bytes, mut weights) = (Vec::new(), 0);
            model.write_floats(tensor, embedding, &mut bytes, &mut |n| weights += n).unwrap();
            assert_eq!((bytes.len() as u64, weights), (2 * tensor.weights(), tensor.weights()));
            bytes
        };
        let (f16s, bf16s) = (bytes(Embedding::F16), bytes(Embedding::Bf16));
        let mut squares = 0.0;
        for (a, b) in f16s.as_chunks().0.iter().zip(bf16s.as_chunks().0) {
            let value = f16::from_le_bytes(*a).to_f64();
            assert_eq!(value, bf16::from_le_bytes(*b).to_f64());
            squares += value * value;
        }
        let deviation = (squares / tensor.weights() as f64).sqrt();
        assert!((0.0175..0.0185).contains(&deviation), "{deviation}");
    }

    #[test]
    fn seeds_and_tensors_differ_and_depth_does_not_matter() {
        let trits = |seed, layers, at: usize| {
            let model = model(seed, layers);
            model.linear(&model.tensors()[at]).unwrap()
        };
        let (q, k, v) = (2, 3, 4);
        assert_eq!(trits(1, 2, q), trits(1, 1, q));
        assert_ne!(trits(1, 1, k).words(), trits(1, 1, v).words());
        assert_ne!(trits(1, 1, q).words(), trits(2, 1, q).words());
    }
}
