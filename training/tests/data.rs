//! Training data from files to batches.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bitnet_text::{HfTokenizer, NewTokenizer, Tokenizer};
use bitnet_training::data::{
    Batch, Blocks, Corpus, DataError, Dataset, Order, Origin, Prepare, Progress, Source, read_pairs,
};
use parquet::{
    data_type::{ByteArray, ByteArrayType},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use proptest::prelude::*;

/// A folder with data, and a byte-level tokenizer with chat markers: end of text 256, turn start 257, turn end 258.
struct Setup {
    folder: tempfile::TempDir,
    tokenizer: Tokenizer,
}

impl Setup {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), tokenizer: NewTokenizer::bytes(true).tokenizer().unwrap() }
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join(".cache")
    }

    fn prepare(&self, source: &Source) -> Result<Dataset, DataError> {
        Prepare::new(source, &self.tokenizer, b"bytes", &self.cache()).run(&mut |_| {})
    }

    /// Trains on all of `source`; the validation data is something else.
    fn all(&self, source: &Source) -> Result<Corpus, DataError> {
        let validation = Source::new(self.write(".valid/v.txt", "something else"));
        let cache = self.cache();
        let prepare = Prepare::new(source, &self.tokenizer, b"bytes", &cache);
        Ok(Prepare { validation: Some(&validation), ..prepare }.run(&mut |_| {})?.train)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<Corpus, DataError> {
        self.all(&Source::new(self.write(name, content)))
    }

    #[track_caller]
    fn refused(&self, name: &str, content: impl AsRef<[u8]>, words: &[&str]) {
        let message = self.file(name, content).map(|_| ()).expect_err("must be refused").to_string();
        for word in [&[name], words].concat() {
            assert!(message.contains(word), "{word:?} is not in {message:?}");
        }
    }
}

/// Documents as text; every token that is no byte as `|`.
fn documents(corpus: &Corpus) -> Vec<String> {
    let text = |i| text(&corpus.read(corpus.document(i)).0);
    (0..corpus.documents()).map(text).collect()
}

fn text(ids: &[u32]) -> String {
    String::from_utf8(ids.iter().map(|&id| u8::try_from(id).unwrap_or(b'|')).collect()).unwrap()
}

/// The part of a corpus that is learned, `_` for the rest.
fn learned(corpus: &Corpus) -> String {
    let (ids, loss) = corpus.read(0..corpus.tokens());
    text(&ids.iter().zip(loss).map(|(&id, counts)| if counts { id } else { u32::from(b'_') }).collect::<Vec<_>>())
}

#[test]
fn a_single_text_is_cut_after_nine_tenths() {
    let setup = Setup::new();
    let data = setup.prepare(&Source::new(setup.write("a.txt", "0123456789abcdefghij"))).unwrap();
    assert_eq!(
        (documents(&data.train), documents(&data.valid)),
        (vec!["0123456789abcdefgh".into()], vec!["ij".into()])
    );
    assert_eq!((data.train.targets(), data.train.loss_targets(), data.train.bytes()), (17, 17, 18));
    assert_eq!(data.origin, Origin::Tokenized);
    let error = setup.prepare(&Source::new(setup.write("b.txt", "x"))).unwrap_err();
    assert!(matches!(error, DataError::NothingToTrain { .. }), "{error}");
    let error = setup.prepare(&Source::new(setup.write("c.txt", "xyz"))).unwrap_err();
    assert!(matches!(error, DataError::NothingToValidate { .. }), "{error}");
}

#[test]
fn many_documents_are_held_out_by_their_content() {
    let setup = Setup::new();
    let lines = |n: usize| (0..n).map(|i| format!("document {i}\n<|endoftext|>\n")).collect::<String>();
    let prepare = |n, one_in| {
        let source = Source { separator: Some("<|endoftext|>".into()), ..Source::new(setup.write("a.txt", lines(n))) };
        let cache = setup.cache();
        Prepare { one_in, ..Prepare::new(&source, &setup.tokenizer, b"", &cache) }.run(&mut |_| {}).unwrap()
    };
    let data = prepare(1000, 50);
    let valid = documents(&data.valid);
    assert!((10..30).contains(&valid.len()), "{}", valid.len());
    assert_eq!(data.train.documents() + valid.len(), 1000);
    assert!(valid.iter().all(|document| document.starts_with("document ") && document.ends_with('|')));
    assert!(documents(&data.train).iter().all(|document| !valid.contains(document)));
    // Those that stay are where they were.
    let fewer = prepare(800, 50);
    assert!(documents(&fewer.valid).iter().all(|document| valid.contains(document)));
    // By chance none of these: then one of them.
    for n in 20..30 {
        assert_eq!(prepare(n, 1 << 60).valid.documents(), 1);
    }
}

#[test]
fn a_validation_source_of_its_own() {
    let setup = Setup::new();
    let (train, valid) = (setup.write("t.txt", "train"), setup.write("v.md", "valid"));
    let (train, valid, cache) = (Source::new(train), Source::new(valid), setup.cache());
    let prepare = Prepare { validation: Some(&valid), ..Prepare::new(&train, &setup.tokenizer, b"", &cache) };
    let data = prepare.run(&mut |_| {}).unwrap();
    assert_eq!((documents(&data.train), documents(&data.valid)), (vec!["train|".into()], vec!["valid|".into()]));
    assert_eq!(prepare.run(&mut |_| {}).unwrap().origin, Origin::Cached);
}

#[test]
fn folders_are_read_in_order() {
    let setup = Setup::new();
    setup.write("d/b.txt", "two");
    setup.write("d/a/z.md", "\u{feff}one\r\n");
    setup.write("d/c.jsonl", "\u{feff}{\"text\": \"three\"}\r\n\n{\"text\": \"\"}\n{\"id\": 1, \"text\": \"four é\"}");
    setup.write("d/.hidden.txt", "no");
    setup.write("d/picture.png", [0]);
    let corpus = setup.all(&Source::new(setup.folder.path().join("d"))).unwrap();
    assert_eq!(documents(&corpus), ["one\r\n|", "two|", "three|", "four é|"]);
    assert_eq!((corpus.bytes(), corpus.document_bytes(3)), (20, 7));
    let twice = Source { paths: vec![setup.folder.path().join("d/b.txt"); 2], separator: None };
    assert_eq!(documents(&setup.all(&twice).unwrap()), ["two|", "two|"]);
}

#[test]
fn separators() {
    let setup = Setup::new();
    let read = |separator: &str, content: &str| {
        let source = Source { separator: Some(separator.into()), ..Source::new(setup.write("a.txt", content)) };
        setup.all(&source).map(|corpus| documents(&corpus))
    };
    assert_eq!(
        read("<|endoftext|>", "a\n\n<|endoftext|>\nb<|endoftext|>\r\n\nc\r\n<|endoftext|>\n").unwrap(),
        ["a\n|", "b|", "\nc|"]
    );
    assert_eq!(read("", "a").unwrap(), ["a|"]);
    assert!(matches!(read("--", "\n--\n----"), Err(DataError::Empty { .. })));
}

#[test]
fn what_a_text_spells_is_text() {
    let corpus = Setup::new().file("a.txt", "a<|endoftext|><|im_start|>b").unwrap();
    assert_eq!(documents(&corpus), ["a<|endoftext|><|im_start|>b|"]);
}

#[test]
fn assistants_turns_are_learned() {
    let setup = Setup::new();
    let chat = r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A é"}, {"role": "user", "content": "<|im_end|>?"}, {"role": "assistant", "content": "B"}]}"#;
    let corpus = setup.file("c.jsonl", format!("{}\n{{\"text\": \"plain\"}}", chat.replace('\n', ""))).unwrap();
    let system = "_".repeat("|system\nS|\n|user\nQ|\n|assistant\n".len());
    let user = "_".repeat("\n|user\n|?|\n|assistant\n".len());
    assert_eq!(learned(&corpus), format!("{system}A é|{user}B|__lain|"));
    assert_eq!((corpus.bytes(), corpus.loss_targets(), corpus.document_bytes(0)), (4 + 1 + 5, 5 + 2 + 5, 5));
    // Order brings the mask along.
    let batch = Order::new(&corpus, 7, 100, 1).unwrap().batch(0, 0, 1);
    assert!(batch.loss_targets() > 0 && batch.loss.len() == batch.len());
}

#[test]
fn a_token_may_span_the_end_of_the_prompt() {
    let new = NewTokenizer::train(["say: Ahab Ahab Ahab Ahab"].iter(), 300, true, &mut |_| {}).unwrap();
    let (json, template) = (
        new.tokenizer_json(),
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    );
    let files =
        HfTokenizer { tokenizer_json: json.as_bytes(), chat_template: Some(template), ..HfTokenizer::default() };
    let setup = Setup { tokenizer: Tokenizer::from_hf(files).unwrap(), ..Setup::new() };
    assert!(setup.tokenizer.id("ĠAhab").is_some());
    let line = r#"{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "Ahab"}]}"#;
    let corpus = setup.file("c.jsonl", line).unwrap();
    let (ids, loss) = corpus.read(0..corpus.tokens());
    let said: Vec<_> = ids.iter().zip(loss).filter(|(_, counts)| *counts).map(|(&id, _)| id).collect();
    assert_eq!(setup.tokenizer.decode(&said, false).unwrap(), " Ahab<|im_end|>");
}

#[test]
fn conversations_that_cannot_be_learned() {
    let mut setup = Setup::new();
    let lines = |last: &str| format!("{{\"text\": \"fine\"}}\n{last}\n");
    let bad = |last: &str, words: &[&str]| setup.refused("c.jsonl", lines(last), &[&["c.jsonl:2"], words].concat());
    bad(r#"{"messages": [{"role": "user", "content": "Q"}]}"#, &["assistant says nothing"]);
    bad(r#"{"messages": [{"role": "king", "content": "Q"}]}"#, &["king"]);
    bad(r#"{"messages": [{"role": "user"}]}"#, &["message 1", "content"]);
    bad(r#"{"messages": [{"role": "user", "content": null}]}"#, &["message 1", "content"]);
    bad(r#"{"messages": "Q"}"#, &["messages", "not a list"]);

    let turns = r#"{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}"#;
    let json = NewTokenizer::bytes(true).tokenizer_json();
    let with =
        |template| HfTokenizer { tokenizer_json: json.as_bytes(), chat_template: template, ..HfTokenizer::default() };
    setup.tokenizer = Tokenizer::from_hf(with(None)).unwrap();
    setup.refused("c.jsonl", lines(turns), &["c.jsonl:2", "no chat template"]);
    setup.tokenizer = Tokenizer::from_hf(with(Some("{{ messages | length }}{{ messages[-1].content }}"))).unwrap();
    setup.refused("c.jsonl", lines(turns), &["c.jsonl:2", "rewrites", "turn 2"]);
    setup.tokenizer = Tokenizer::from_hf(with(Some("{{ raise_exception('no kings') }}"))).unwrap();
    setup.refused("c.jsonl", lines(turns), &["c.jsonl:2", "no kings"]);
}

#[test]
fn bad_files_are_named() {
    let setup = Setup::new();
    setup.refused("e.txt", "", &["no text"]);
    setup.refused("e.jsonl", "\n \n", &["no text"]);
    setup.refused("e2.jsonl", "{\"text\": \"\"}\n", &["no text"]);
    setup.refused("b.txt", b"abc\xff\xfe", &["byte 3", "binary"]);
    setup.refused("z.md", b"abc\0", &["byte 3", "binary"]);
    setup.refused("b.jsonl", b"{\"text\": \"a\"}\n\xff\n", &["b.jsonl:2", "binary"]);
    setup.refused("j.jsonl", "{\"text\": \"a\"}\n\n{\"text\": a}", &["j.jsonl:3", "column 10", "not JSON"]);
    setup.refused("k.jsonl", "[1]", &["k.jsonl:1", "not an object"]);
    setup.refused("l.jsonl", "{\"words\": \"a\"}", &["l.jsonl:1", "neither \"text\" nor \"messages\""]);
    setup.refused("m.jsonl", "{\"text\": 3}", &["m.jsonl:1", "not a text"]);
    setup.refused("n.parquet", "PAR1 it is not PAR1", &["not a Parquet table"]);
    setup.refused("o.csv", "a,b", &["not a known kind", ".jsonl"]);
    let refused = |path: &Path| setup.all(&Source::new(path)).unwrap_err();
    assert!(matches!(refused(&setup.folder.path().join("absent")), DataError::Io { .. }));
    setup.write("none/picture.png", [0]);
    assert!(matches!(refused(&setup.folder.path().join("none")), DataError::NoFiles { .. }));
    assert!(matches!(setup.all(&Source::default()).unwrap_err(), DataError::NoFiles { .. }));
    setup.write("one/a.txt", "a");
    setup.write("one/b.txt", "");
    assert!(matches!(refused(&setup.folder.path().join("one")), DataError::Empty { path } if path.ends_with("b.txt")));
    #[cfg(unix)]
    {
        let socket = setup.folder.path().join("pipe.txt");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(refused(&socket).to_string().contains("not a regular file"));
    }
}

/// A Parquet table of byte-array columns, each with its values and levels.
fn table(schema: &str, columns: &[(&[&str], &[i16], &[i16])]) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (values, definitions, repetitions) in columns {
        let values: Vec<_> = values.iter().map(|&value| ByteArray::from(value)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&values, Some(definitions), Some(repetitions)).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

fn text_table() -> Vec<u8> {
    let schema = "message m { required binary id (UTF8); optional binary text (UTF8); }";
    table(schema, &[(&["1", "2", "3"], &[0; 3], &[0; 3]), (&["one", "two é", ""], &[1; 3], &[0; 3])])
}

#[test]
fn parquet_tables() {
    let setup = Setup::new();
    assert_eq!(documents(&setup.file("t.parquet", text_table()).unwrap()), ["one|", "two é|"]);

    let schema = "message m { optional group messages (LIST) { repeated group list { optional group element {
        optional binary role (UTF8); optional binary content (UTF8); } } } }";
    let (definitions, repetitions) = ([4, 4, 4, 4], [0, 1, 0, 1]);
    let roles: &[&str] = &["user", "assistant", "user", "assistant"];
    let contents: &[&str] = &["Q", "A", "R", "B"];
    let columns = [(roles, &definitions[..], &repetitions[..]), (contents, &definitions, &repetitions)];
    let corpus = setup.file("c.parquet", table(schema, &columns)).unwrap();
    assert_eq!(learned(&corpus).replace('_', ""), "A|B|");

    let none = "message m { optional binary text (UTF8); }";
    setup.refused("n.parquet", table(none, &[(&["a"], &[1, 0], &[0, 0])]), &["row 2", "not a text"]);
    let other = "message m { optional binary words (UTF8); }";
    setup.refused("w.parquet", table(other, &[(&["a"], &[1], &[0])]), &["no column \"text\"", "words"]);
    let plain = "message m { required binary text; }";
    setup.refused(
        "r.parquet",
        table(plain, &[(&["a", "b"], &[0; 2], &[0; 2])]).as_slice().split_last().unwrap().1,
        &[],
    );
    assert_eq!(documents(&setup.file("p.parquet", table(plain, &[(&["a"], &[0], &[0])])).unwrap()), ["a|"]);
}

#[test]
fn the_cache_is_used_until_something_changes() {
    let setup = Setup::new();
    let source = Source::new(setup.write("a.txt", "0123456789abcdefghij".repeat(3)));
    let origin = |source: &Source, id: &[u8], one_in| {
        let cache = setup.cache();
        Prepare { one_in, ..Prepare::new(source, &setup.tokenizer, id, &cache) }.run(&mut |_| {}).unwrap().origin
    };
    assert_eq!(origin(&source, b"1", 50), Origin::Tokenized);
    assert_eq!(origin(&source, b"1", 50), Origin::Cached);
    let copy = Source::new(setup.write("elsewhere/b.txt", "0123456789abcdefghij".repeat(3)));
    assert_eq!(origin(&copy, b"1", 50), Origin::Cached);
    assert_eq!(origin(&source, b"2", 50), Origin::Tokenized);
    assert_eq!(origin(&source, b"1", 51), Origin::Tokenized);
    assert_eq!(origin(&Source { separator: Some("a".into()), ..source.clone() }, b"1", 50), Origin::Tokenized);
    setup.write("a.txt", "0123456789abcdefghij".repeat(4));
    assert_eq!(origin(&source, b"1", 50), Origin::Tokenized);

    for file in fs::read_dir(setup.cache()).unwrap() {
        let path = file.unwrap().path();
        let len = fs::metadata(&path).unwrap().len();
        fs::File::options().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
    }
    let Origin::Repaired { reason } = origin(&source, b"1", 50) else { panic!("must be repaired") };
    assert!(reason.contains("train.tokens") && reason.contains("bytes"), "{reason}");
    assert_eq!(origin(&source, b"1", 50), Origin::Cached);

    let error = Prepare { one_in: 1, ..Prepare::new(&source, &setup.tokenizer, b"", &setup.cache()) }.run(&mut |_| {});
    assert!(matches!(error, Err(DataError::Option { value: 1, .. })));
    let blocked = setup.write("file", "x");
    let error = Prepare::new(&source, &setup.tokenizer, b"", &blocked).run(&mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn progress_ends_at_the_total() {
    let setup = Setup::new();
    let line = format!("{{\"text\": \"{}\"}}\n", "a word ".repeat(100));
    let source = Source::new(setup.write("a.jsonl", line.repeat(200)));
    let size = 200 * line.len() as u64;
    let mut told = Vec::new();
    let error = Prepare::new(&source, &setup.tokenizer, b"", &setup.cache()).run(&mut |p| told.push(p));
    // All documents are the same, and a text is never on both sides.
    assert!(error.is_err_and(|e| matches!(e, DataError::NothingToTrain { .. })));
    let done: Vec<_> = told
        .iter()
        .filter_map(|p| if let Progress::Tokenizing { done, .. } = p { Some(*done) } else { None })
        .collect();
    assert!(!done.is_empty() && done.is_sorted(), "{done:?}");
    assert_eq!(told.last(), Some(&Progress::Tokenizing { done: size, total: size }));
    assert!(told.contains(&Progress::Checking { done: size, total: size }));
}

/// What may follow what: the targets of all documents, told apart by what precedes them in their document.
fn expected_targets(texts: &[String]) -> Vec<(u32, u32)> {
    let pairs = |text: &String| {
        let ids: Vec<_> = text.bytes().map(u32::from).chain([256]).collect();
        ids.windows(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>()
    };
    texts.iter().flat_map(pairs).collect()
}

fn pairs_of(batch: &Batch) -> Vec<(u32, u32)> {
    batch.inputs.iter().copied().zip(batch.targets.iter().copied()).collect()
}

/// Checks what must hold in any batch.
fn check(batch: &Batch, context: usize) {
    assert_eq!(batch.segments.iter().sum::<usize>(), batch.len());
    assert_eq!((batch.inputs.len(), batch.loss.len()), (batch.len(), batch.len()));
    assert!(batch.segments.iter().all(|&len| (1..=context).contains(&len)));
    let mut at = 0;
    for len in &batch.segments {
        let (inputs, targets) = (&batch.inputs[at..at + len], &batch.targets[at..at + len]);
        // Within a segment every input is the target before it.
        assert_eq!(inputs[1..], targets[..len - 1]);
        // An end of text is never read: nothing follows it in its document.
        assert!(!inputs.contains(&256));
        at += len;
    }
}

fn corpus_of(texts: &[String]) -> Corpus {
    let lines: String = texts.iter().map(|text| format!("{{\"text\": {text:?}}}\n")).collect();
    Setup::new().file("a.jsonl", lines).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_epoch_has_every_target_once(
        texts in prop::collection::vec("[a-z]{1,30}", 1..30),
        context in 1usize..50,
        rows in 1usize..9,
        of in 1usize..5,
        seed: u64,
        epoch in 0u64..3,
    ) {
        let corpus = corpus_of(&texts);
        // Whole batches only, so that an epoch is a number of them.
        let order = Order::new(&corpus, context, 1, seed).unwrap();
        let steps = order.rows_per_epoch();
        let mut seen = Vec::new();
        for step in epoch * steps..(epoch + 1) * steps {
            let batch = order.batch(step, 0, 1);
            check(&batch, context);
            prop_assert!((1..=context).contains(&batch.len()));
            seen.extend(pairs_of(&batch));
        }
        let mut expected = expected_targets(&texts);
        seen.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(&seen, &expected);
        prop_assert_eq!(corpus.targets(), expected.len() as u64);

        // The same rows, in larger batches and in micro-batches.
        let larger = Order::new(&corpus, context, rows, seed).unwrap();
        let mut micro = Batch::default();
        for i in 0..of {
            let part = larger.batch(epoch, i, of);
            micro.inputs.extend(part.inputs);
            micro.targets.extend(part.targets);
            micro.loss.extend(part.loss);
            micro.segments.extend(part.segments);
        }
        prop_assert_eq!(&micro, &larger.batch(epoch, 0, 1));
        let single = (0..rows as u64).flat_map(|i| pairs_of(&order.batch(epoch * rows as u64 + i, 0, 1)));
        prop_assert!(single.eq(pairs_of(&micro)));
    }

    #[test]
    fn packed_segments_are_the_documents(texts in prop::collection::vec("[a-z]{1,30}", 1..20), rows in 1usize..5) {
        let corpus = corpus_of(&texts);
        // One row holds everything: a segment a document.
        let all: Vec<_> = Blocks::new(&corpus, 1000, rows, None).unwrap().collect();
        prop_assert_eq!(all.len(), 1);
        prop_assert_eq!(all[0].segments.clone(), texts.iter().map(String::len).collect::<Vec<_>>());
        prop_assert_eq!(pairs_of(&all[0]), expected_targets(&texts));
    }

    #[test]
    fn blocks_cover_all_in_order(
        texts in prop::collection::vec("[a-z]{1,30}", 1..20),
        context in 1usize..40,
        rows in 1usize..5,
        cap in prop::option::of(0u64..100),
    ) {
        let corpus = corpus_of(&texts);
        let mut expected = expected_targets(&texts);
        expected.truncate(cap.map_or(expected.len(), |cap| cap as usize));
        let mut seen = Vec::new();
        for batch in Blocks::new(&corpus, context, rows, cap).unwrap() {
            check(&batch, context);
            seen.extend(pairs_of(&batch));
            prop_assert!(batch.len() == context * rows || seen.len() == expected.len());
        }
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn damaged_tables_are_errors(at in 0usize..2000, byte: u8, cut: bool) {
        let mut bytes = text_table();
        let at = at % bytes.len();
        if cut { bytes.truncate(at.max(1)) } else { bytes[at] = byte }
        // An error, or other text: never a panic.
        let _ = Setup::new().file("t.parquet", bytes);
    }
}

#[test]
fn any_step_can_be_entered() {
    let corpus = corpus_of(&["abcdefghijklmnopqrstuvwxyz".into(), "0123456789".into()]);
    let order = Order::new(&corpus, 4, 3, 7).unwrap();
    let forward: Vec<_> = (0..40).map(|step| order.batch(step, 0, 1)).collect();
    for step in [39, 3, 17, 0, 25] {
        assert_eq!(Order::new(&corpus, 4, 3, 7).unwrap().batch(step, 0, 1), forward[step as usize]);
    }
    let other: Vec<_> = (0..40).map(|step| Order::new(&corpus, 4, 3, 8).unwrap().batch(step, 0, 1)).collect();
    assert!(other != forward && forward[0] != forward[3]);
    assert_eq!(order.epochs(6), 2.0);
    assert!(!order.batch(u64::MAX, 0, 1).is_empty());
    assert!(Order::new(&corpus, usize::MAX, 1, 7).unwrap().batch(9, 0, 1).len() == 36);
    for (context, rows) in [(0, 1), (1, 0)] {
        assert!(matches!(Order::new(&corpus, context, rows, 7), Err(DataError::Option { .. })));
        assert!(matches!(Blocks::new(&corpus, context, rows, None), Err(DataError::Option { .. })));
    }
}

#[test]
fn bits_per_byte_of_bytes() {
    let corpus = corpus_of(&["abcdefgh".into()]);
    // Eight bytes, and eight targets: seven of them and the end of the text.
    assert!((corpus.bits_per_byte(std::f64::consts::LN_2) - 1.0).abs() < 1e-12);
}

#[test]
fn preferences() {
    let setup = Setup::new();
    let user = |text: &str| format!(r#"[{{"role": "user", "content": "{text}"}}]"#);
    let both = r#"[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]"#;
    let lines = [
        r#"{"prompt": "Q", "chosen": "A", "rejected": "B"}"#.into(),
        format!(
            r#"{{"prompt": {}, "chosen": {both}, "rejected": [{{"role": "assistant", "content": "B"}}]}}"#,
            user("Q")
        ),
    ];
    let source = Source::new(setup.write("p.jsonl", lines.join("\n")));
    let learned = |tokens: &[u32], loss: &[bool]| {
        text(&tokens.iter().zip(loss).filter(|(_, counts)| **counts).map(|(&id, _)| id).collect::<Vec<_>>())
    };
    for pair in read_pairs(&source, &setup.tokenizer).unwrap() {
        assert_eq!(text(&pair.chosen.tokens), "|user\nQ|\n|assistant\nA|\n");
        assert_eq!(learned(&pair.chosen.tokens, &pair.chosen.loss), "A|");
        assert_eq!(learned(&pair.rejected.tokens, &pair.rejected.loss), "B|");
    }
    let plain = NewTokenizer::bytes(false).tokenizer().unwrap();
    let first = Source::new(setup.write("q.jsonl", &lines[0]));
    let pairs = read_pairs(&first, &plain).unwrap();
    assert_eq!(
        (text(&pairs[0].chosen.tokens), pairs[0].rejected.loss.clone()),
        ("QA|".into(), vec![false, true, true])
    );
    assert_eq!(pairs[0].place.to_string(), format!("{}:1", first.paths[0].display()));

    let refused = |name: &str, line: &str, word: &str| {
        let error = read_pairs(&Source::new(setup.write(name, line)), &setup.tokenizer).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(word), "{error}");
    };
    refused("a.jsonl", r#"{"prompt": "Q", "chosen": "A"}"#, "\"rejected\"");
    refused("b.jsonl", r#"{"prompt": 1, "chosen": "A", "rejected": "B"}"#, "\"prompt\"");
    refused("c.jsonl", &format!(r#"{{"prompt": "Q", "chosen": {}, "rejected": "B"}}"#, user("R")), "nothing to learn");
    refused("d.jsonl", "{", "not JSON");
    refused("e.jsonl", "\n\n", "no text");
    refused("f.txt", "text", "not a known kind");
}
