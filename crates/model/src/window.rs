//! Attention with a sliding window.

use bitnet_kernels::ops;
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor, TensorData};

/// Causal attention within sequences that lie one after the other, in which a position sees itself and the `window - 1`
/// before it. Written with Burn's own operations, and for each sequence by itself; one that is no longer than the window
/// takes the kernels' way.
///
/// # Shapes
/// * `q`: `[tokens, heads, head_dim]`; `k`, `v`: `[tokens, kv_heads, head_dim]`; tokens are those of all `lengths`
/// * output: as `q`
pub(crate) fn segment_attention([q, k, v]: [Tensor<3>; 3], lengths: &[usize], window: usize, scale: f64) -> Tensor<3> {
    let mut start = 0;
    let each = lengths.iter().map(|length| {
        let range = start..start + length;
        start = range.end;
        let sequence = [&q, &k, &v].map(|x| x.clone().slice_dim(0, range.clone()));
        match *length > window {
            true => one(sequence, window, scale),
            false => ops::training::segment_attention(sequence, &[*length], scale),
        }
    });
    Tensor::cat(each.collect(), 0)
}

/// [`segment_attention`] of one sequence: queries in parts as long as the window, so that no part has more than twice as many
/// keys.
fn one([q, k, v]: [Tensor<3>; 3], window: usize, scale: f64) -> Tensor<3> {
    let ([tokens, heads, _], [_, kv_heads, _]) = (q.dims(), k.dims());
    let parts = (0..tokens).step_by(window).map(|first| {
        let (end, seen) = (tokens.min(first + window), first.saturating_sub(window - 1));
        let queries = q.clone().slice_dim(0, first..end).swap_dims(0, 1);
        let [keys, values] = [&k, &v].map(|x| {
            let x = x.clone().slice_dim(0, seen..end).swap_dims(0, 1);
            // Query head `h` reads KV head `h / (heads / kv_heads)`.
            let [_, positions, head_dim] = x.dims();
            let x = x.unsqueeze_dim::<4>(1).repeat_dim(1, heads / kv_heads);
            x.reshape([heads, positions, head_dim])
        });
        let hidden = (first..end).flat_map(|at| (seen..end).map(move |key| key > at || key + window <= at));
        let mask = TensorData::new(hidden.collect::<Vec<bool>>(), [1, end - first, end - seen]);
        let mask = Tensor::<3, Bool>::from_data(mask, &q.device()).expand([heads, end - first, end - seen]);
        let scores = queries.matmul(keys.swap_dims(1, 2)) * scale;
        softmax(scores.mask_fill(mask, f32::NEG_INFINITY), 2).matmul(values).swap_dims(0, 1)
    });
    Tensor::cat(parts.collect(), 0)
}
