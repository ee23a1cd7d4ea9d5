//! Continues a prompt with the embedded model, or with the one that is named.
//!
//! `cargo run --release -p bitnet-examples --example stream [MODEL]`

use std::io::Write;

use bitnet::{BitNetModel, EMBEDDED, GenerationConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| EMBEDDED.to_string());
    let model = BitNetModel::from_pretrained(&name)?;
    let config =
        GenerationConfig { max_new_tokens: 100, temperature: 0.7, top_p: 0.9, seed: Some(1), ..Default::default() };
    // The probability of each token, too.
    let config = GenerationConfig { logprobs: true, ..config };

    let mut surprise = 0.0;
    let mut stream = model.stream("Call me Ishmael.", &config)?;
    for step in &mut stream {
        let step = step?;
        surprise -= step.logprob.unwrap_or_default();
        print!("{}", step.text);
        std::io::stdout().flush()?;
    }
    let tokens = stream.ids().len();
    println!("\n\n{tokens} tokens, {:.2} nats each", surprise / tokens as f32);
    Ok(())
}
