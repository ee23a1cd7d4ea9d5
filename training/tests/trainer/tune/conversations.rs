//! The loss of conversations: only what the assistant says, each conversation as if it were alone.

use std::path::{Path, PathBuf};

use bitnet_model::Quantization;
use bitnet_training::data::{Batch, Corpus, EachDocument, Prepare, Source, WholeDocuments};
use bitnet_training::step::DeviceBatch;
use bitnet_training::tokenizer::TokenizerFiles;
use burn::tensor::{DType, Tensor, TensorData};
use serde_json::{Value, json};

use crate::support::{device, floats, model, small};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/fixtures/data/training").join(name)
}

/// The conversations of `sft.json` as a corpus, in their order.
fn corpus(golden: &Value, folder: &Path, tokenizer: &TokenizerFiles) -> Corpus {
    let conversations = golden["conversations"].as_array().unwrap();
    let lines: Vec<String> = conversations.iter().map(|c| json!({ "messages": c["messages"] }).to_string()).collect();
    let (path, other) = (folder.join("sft.jsonl"), folder.join("other.txt"));
    std::fs::write(&path, lines.join("\n")).unwrap();
    std::fs::write(&other, "something else").unwrap();
    let (source, other, cache) = (Source::new(path), Source::new(other), folder.join("cache"));
    let prepare = Prepare::new(&source, &tokenizer.tokenizer, &tokenizer.tokenizer_json, &cache);
    Prepare { validation: Some(&other), ..prepare }.run(&mut |_| {}).unwrap().train
}

fn setup() -> (Value, TokenizerFiles, Corpus, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let value: Value = serde_json::from_slice(&std::fs::read(golden("sft.json")).unwrap()).unwrap();
    let tokenizer = TokenizerFiles::read(&golden("sft-tokenizer")).unwrap();
    let corpus = corpus(&value, folder.path(), &tokenizer);
    (value, tokenizer, corpus, folder)
}

fn batches(corpus: &Corpus, rows: usize) -> Vec<Batch> {
    EachDocument::new(corpus, 1024, rows, None).unwrap().collect()
}

/// The logits that the oracle computes its losses from, for the token at each of `places`.
fn logits(places: impl Iterator<Item = usize>, vocab: usize) -> Tensor<2> {
    let values: Vec<f32> =
        places.flat_map(|t| (0..vocab).map(move |v| ((37 * t + 101 * v) % 1021) as f32 / 128.0 - 4.0)).collect();
    let rows = values.len() / vocab;
    Tensor::from_data(TensorData::new(values, [rows, vocab]), (&device(), DType::F32))
}

#[test]
fn the_masked_loss_is_the_one_of_transformers() {
    let (golden, tokenizer, corpus, _folder) = setup();
    let any = model(&small(), tokenizer.tokenizer.vocab_size(), Quantization::None).without_gradients();
    let vocab = golden["vocab"].as_u64().unwrap() as usize;
    let lengths: Vec<usize> =
        (0..3).map(|i| corpus.document(i)).map(|tokens| (tokens.end - tokens.start) as usize).collect();
    // The last token of a conversation predicts nothing.
    let mut start = 0;
    let mut places = Vec::new();
    for length in &lengths {
        places.extend(start..start + length - 1);
        start += length;
    }
    let [batch] = &batches(&corpus, 3)[..] else { panic!("one batch") };
    assert_eq!(batch.loss_targets() as u64, golden["targets"].as_u64().unwrap());
    let losses = DeviceBatch::new(batch, &any, &device(), None).masked(logits(places.into_iter(), vocab));
    let losses: Vec<f64> = floats(losses).into_iter().map(f64::from).collect();
    let mean = losses.iter().sum::<f64>() / batch.loss_targets() as f64;
    assert!((mean - golden["mean_loss"].as_f64().unwrap()).abs() < 1e-6, "{mean}");

    let mut at = 0;
    for (length, expected) in batch.segments.iter().zip(golden["mean_losses"].as_array().unwrap()) {
        let counting = batch.loss[at..at + length].iter().filter(|counts| **counts).count();
        let mean = losses[at..at + length].iter().sum::<f64>() / counting as f64;
        assert!((mean - expected.as_f64().unwrap()).abs() < 1e-6, "{mean} {expected}");
        at += length;
    }
}

#[test]
fn packed_conversations_have_the_loss_that_each_has_alone() {
    let (_, tokenizer, corpus, _folder) = setup();
    for quantization in [Quantization::BITNET, Quantization::None] {
        let model = model(&small(), tokenizer.tokenizer.vocab_size(), quantization).without_gradients();
        let losses = |rows: usize| -> Vec<f32> {
            let batches = batches(&corpus, rows);
            let of = |batch| floats(DeviceBatch::new(batch, &model, &device(), None).negative_log_likelihoods(&model));
            batches.iter().flat_map(of).collect()
        };
        let (packed, alone) = (losses(3), losses(1));
        assert_eq!(packed.len(), alone.len());
        for (a, b) in packed.iter().zip(&alone) {
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} {b}");
        }
    }
}

#[test]
fn every_epoch_has_each_document_once_in_an_order_of_its_own() {
    let (_, _, corpus, _folder) = setup();
    let order = WholeDocuments::new(&corpus, 1024, 2, 7).unwrap();
    // Three documents, two a step: steps 0 to 2 are two epochs.
    let documents: Vec<usize> = (0..3).flat_map(|step| order.documents(step, 0, 1)).collect();
    for epoch in documents.chunks(3) {
        let mut epoch = epoch.to_vec();
        epoch.sort_unstable();
        assert_eq!(epoch, [0, 1, 2]);
    }
    let orders: Vec<Vec<usize>> = (0..30).step_by(3).map(|step| order.documents(step, 0, 1)).collect();
    assert!(orders.iter().any(|order| *order != orders[0]));
    let parts: Vec<usize> = (0..2).flat_map(|part| order.documents(5, part, 2)).collect();
    assert_eq!(parts, order.documents(5, 0, 1));
    assert_eq!(order.cut_off(), 0);

    let short = WholeDocuments::new(&corpus, 10, 3, 7).unwrap();
    assert_eq!((short.cut_off(), short.batch(0, 0, 1).segments), (3, vec![10, 10, 10]));
    let together = WholeDocuments::new(&corpus, 1024, 1, 7).unwrap().in_groups_of(3);
    assert_eq!(together.documents(4, 0, 1), [0, 1, 2]);
}
