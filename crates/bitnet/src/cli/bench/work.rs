//! What a token costs: the bytes that must be read for it, and the int8 products.

use bitnet::format::Checkpoint;

/// Bytes of a cached key or value.
const KV_VALUE_BYTES: u64 = 4;

/// The cost of a token, whatever runs it.
pub struct Work {
    weight_bytes: u64,
    /// Bytes of the keys and values of one position.
    kv_bytes: u64,
    products: u64,
}

impl Work {
    /// Of a model that is run with its linears in 2 bits, its head as it is stored and an f32 cache.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let config = checkpoint.config();
        let (hidden, inner) = (config.hidden_size as u64, config.intermediate_size as u64);
        let (layers, head_dim) = (config.num_layers as u64, config.head_dim as u64);
        let (q, kv) = (config.num_heads as u64 * head_dim, config.num_kv_heads as u64 * head_dim);
        let linears =
            [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (inner, hidden), (inner, hidden), (hidden, inner)];
        let packed: u64 = linears.iter().map(|(rows, cols)| rows * 4 * cols.div_ceil(16)).sum();
        let products: u64 = linears.iter().map(|(rows, cols)| rows * cols).sum();
        let own_head = checkpoint.info("lm_head.weight").filter(|_| config.tie_word_embeddings != Some(true));
        let head = own_head.or_else(|| checkpoint.info("model.embed_tokens.weight")).map_or(0, |tensor| tensor.bytes);
        Self {
            weight_bytes: layers * packed + head,
            kv_bytes: layers * 2 * kv * KV_VALUE_BYTES,
            products: layers * products,
        }
    }

    /// Bytes that must be read for one token after `depth` others: the linears, the head, and the keys and values. Norms
    /// and the token's row of the embedding are a thousandth of that.
    pub fn bytes_per_token(&self, depth: usize) -> u64 {
        self.weight_bytes + depth as u64 * self.kv_bytes
    }

    /// Int8 products for one token of a prompt: those of the ternary linears.
    pub fn products_per_token(&self) -> u64 {
        self.products
    }

    /// How the weights lie in memory.
    pub fn weight_order(&self) -> &'static str {
        "2 bits, row by row"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_costs_what_its_tensors_do() {
        let work = Work::of(&bitnet::embedded().unwrap());
        // 3,145,728 trits, a tied F32 or F16 head of 4,096 × 256, and 4 layers of 2 × 2 KV heads × 64.
        assert_eq!(work.products_per_token(), 3_145_728);
        let head = bitnet::embedded().unwrap().info("model.embed_tokens.weight").unwrap().bytes;
        assert_eq!(work.bytes_per_token(0), 3_145_728 / 4 + head);
        assert_eq!(work.bytes_per_token(10) - work.bytes_per_token(0), 10 * 4 * 2 * 2 * 64 * 4);
    }
}
