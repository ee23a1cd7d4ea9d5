//! What a token costs: the bytes that must be read for it, and the int8 products.

use bitnet::format::Checkpoint;
use bitnet::model::{CacheFormat, WeightOrder};

/// Positions of a block of the cache.
const BLOCK: usize = 16;

/// The cost of a token, whatever runs it.
pub struct Work {
    weight_bytes: u64,
    /// Bytes of the whole head.
    head_bytes: u64,
    /// Bytes of the keys and values of one position.
    kv_bytes: u64,
    products: u64,
}

impl Work {
    /// Of a model that is run with its linears in this order and this cache.
    pub fn of(checkpoint: &Checkpoint, order: WeightOrder, cache: CacheFormat) -> Self {
        let config = checkpoint.config();
        let (hidden, inner) = (config.hidden_size as u64, config.intermediate_size as u64);
        let (layers, head_dim) = (config.num_layers as u64, config.head_dim as u64);
        let (q, kv) = (config.num_heads as u64 * head_dim, config.num_kv_heads as u64 * head_dim);
        let linears =
            [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (inner, hidden), (inner, hidden), (hidden, inner)];
        let packed: u64 = linears.iter().map(|(rows, cols)| 4 * rows * order.words(*cols as usize) as u64).sum();
        let products: u64 = linears.iter().map(|(rows, cols)| rows * cols).sum();
        let own_head = checkpoint.info("lm_head.weight").filter(|_| config.tie_word_embeddings != Some(true));
        let head = own_head.or_else(|| checkpoint.info("model.embed_tokens.weight")).map_or(0, |tensor| tensor.bytes);
        let head_bytes = (4 * cache.block_words(config.head_dim)).div_ceil(BLOCK) as u64;
        Self {
            weight_bytes: layers * packed,
            head_bytes: head,
            kv_bytes: layers * 2 * config.num_kv_heads as u64 * head_bytes,
            products: layers * products,
        }
    }

    /// Bytes that must be read for one token after `depth` others: the linears, `head` bytes of the head, and the keys and
    /// values. Norms and the token's row of the embedding are a thousandth of that.
    pub fn bytes_per_token(&self, depth: usize, head: u64) -> u64 {
        self.weight_bytes + head + depth as u64 * self.kv_bytes
    }

    /// Bytes of the whole head.
    pub fn head_bytes(&self) -> u64 {
        self.head_bytes
    }

    /// Int8 products for one token of a prompt: those of the ternary linears.
    pub fn products_per_token(&self) -> u64 {
        self.products
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_costs_what_the_tensors_do() {
        let model = bitnet_format::open(bitnet_fixtures::moby("packed-autobitlinear")).unwrap();
        let head = model.info("model.embed_tokens.weight").unwrap().bytes;
        for (cache, head_bytes) in [(CacheFormat::F32, 4 * 64), (CacheFormat::F16, 2 * 64), (CacheFormat::Int8, 64 + 4)]
        {
            let work = Work::of(&model, WeightOrder::Tiles, cache);
            assert_eq!(work.products_per_token(), 3_145_728);
            assert_eq!(work.head_bytes(), head);
            assert_eq!(work.bytes_per_token(0, head), 3_145_728 / 4 + head);
            let dense = Work::of(&model, WeightOrder::DenseTiles, cache).bytes_per_token(0, 0);
            assert!((3_145_728 / 5..3_145_728 / 4).contains(&dense), "{dense}");
            // Keys and values of 4 layers of 2 heads.
            assert_eq!(
                work.bytes_per_token(10, 0) - work.bytes_per_token(0, 0),
                10 * 4 * 2 * 2 * head_bytes,
                "{cache}"
            );
        }
    }
}
