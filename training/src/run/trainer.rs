//! The loop.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bitnet_engine::{GenerationConfig, LanguageModel};
use bitnet_format::Adapter;
use bitnet_model::Transformer;

use super::batches::{Batches, held_out};
use super::first::{calibrated, first_model, precision, teacher};
use super::formats::Formats;
use super::replicas::{Failure, Replicas};
use super::{Event, Facts, Observer, RunFolder, RunOptions};
use crate::TrainError;
use crate::checkpoint::{Best, Checkpoints, DataIdentity, State};
use crate::data::{Dataset, Prepare, prepare_pairs};
use crate::export::export;
use crate::inspect::Inspector;
use crate::metrics::{Limits, MetricsLog, Outcome, StepRecord, Validation, Watch, read_jsonl};
use crate::objective::{Distillation, Objective, Preference};
use crate::optimizer::{Optimizer, StepSize};
use crate::parameters::{Kind, Parameters};
use crate::recipe::{Recipe, Reduction, WeightsChoice};
use crate::report::{self, RunSummary};
use crate::schedule::Progress;
use crate::step::mean_loss;
use crate::tokenizer::TokenizerFiles;

/// Records that alerts look back on.
const LOOK_BACK: usize = 200;

/// Tokens of a sample.
const SAMPLE_TOKENS: usize = 128;

pub(super) struct Trainer<'a> {
    options: &'a RunOptions,
    recipe: &'a Recipe,
    /// Where the run ends.
    limits: Limits,
    folder: RunFolder,
    checkpoints: Checkpoints,
    tokenizer: TokenizerFiles,
    data: Dataset,
    batches: Batches,
    replicas: Replicas,
    /// `None` only while a step changes it.
    model: Option<Transformer>,
    parameters: Parameters,
    optimizer: Optimizer,
    inspector: Inspector,
    log: MetricsLog,
    watch: Watch,
    state: State,
    valid: Option<Validation>,
    resumed_from: Option<u64>,
}

impl<'a> Trainer<'a> {
    pub(super) fn new(options: &'a RunOptions, observer: &mut dyn Observer) -> Result<Self, TrainError> {
        let (recipe, folder) = (&options.recipe, RunFolder::new(&options.out));
        if options.resume && !folder.is_begun() {
            return Err(TrainError::NothingToResume(options.out.clone()));
        }
        if folder.is_begun() && !options.resume && !options.overwrite {
            return Err(TrainError::Exists(options.out.clone()));
        }
        let tokenizer = if options.resume && folder.tokenizer().exists() {
            folder.read_tokenizer()?
        } else {
            TokenizerFiles::choose(recipe, &options.source, &mut |_| {})?
        };
        let data = prepare(options, &tokenizer, &folder.cache(), observer)?;
        observer.event(Event::DataReady(&data.origin));
        let batches = Batches::new(&data.train, recipe)?;
        match batches.cut_off() {
            0 => {}
            documents => observer.event(Event::CutOff { documents, of: data.train.documents() }),
        }
        let limits = limits(recipe, &batches);
        let mut model = first_model(recipe, &tokenizer, &options.device.clone().autodiff())?;
        model.set_precision(precision(recipe));
        if !options.resume && recipe.lora.is_none() {
            Formats::of(recipe).check(&model, &tokenizer, folder.path())?;
        }
        let objective = match (&recipe.preference, &recipe.distillation, &recipe.from) {
            (Some(preference), ..) => {
                let reference = runnable(&model, recipe)?;
                let preference = Preference::new(preference.beta, &reference, &data, recipe.model.context)?;
                Objective::Preference(preference)
            }
            (None, Some(distillation), Some(from)) => {
                let teacher = teacher(from, &options.device)?;
                if !teacher.has_sub_norms() && recipe.model.sub_norms {
                    model = calibrated(model, &teacher, &batches.batch(0, 0, recipe.batch.accumulate));
                }
                Objective::Distillation(Box::new(Distillation::new(distillation, teacher)))
            }
            _ => Objective::Likelihood { checkpoint_activations: recipe.batch.checkpoint_activations },
        };
        let replicas = Replicas::new(objective, recipe, &options.device, &options.more_devices)?;
        let identity = DataIdentity {
            train_tokens: data.train.tokens(),
            valid_tokens: data.valid.tokens(),
            vocab_size: tokenizer.tokenizer.vocab_size(),
        };
        let checkpoints = folder.checkpoints(recipe.run.keep);
        let parameters = Parameters::of(&model);
        let mut trainer = Self {
            options,
            recipe,
            limits,
            checkpoints,
            batches,
            replicas,
            parameters,
            optimizer: Optimizer::new(&recipe.optimizer),
            inspector: Inspector::default(),
            model: Some(model),
            log: match options.resume.then(|| folder.checkpoint(None)).transpose()?.flatten() {
                None => {
                    folder.clear()?;
                    MetricsLog::create(folder.path(), true)?
                }
                Some(loaded) => MetricsLog::resume(folder.path(), loaded.state.step)?,
            },
            watch: Watch::default(),
            state: State {
                step: 0,
                tokens: 0,
                elapsed_seconds: 0.0,
                train_loss: f64::NAN,
                best: None,
                data: identity,
                recipe: recipe.clone(),
            },
            valid: None,
            resumed_from: None,
            folder,
            tokenizer,
            data,
        };
        trainer.restore()?;
        trainer.tokenizer.write(&trainer.folder.tokenizer())?;
        let path = trainer.folder.recipe();
        crate::metrics::replace(&path, |file| std::io::Write::write_all(file, recipe.to_toml().as_bytes()))
            .map_err(TrainError::io(&path))?;
        Ok(trainer)
    }

    /// Takes the latest checkpoint up, if the run is to be resumed and has one.
    fn restore(&mut self) -> Result<(), TrainError> {
        let loaded = match self.options.resume.then(|| self.folder.checkpoint(None)).transpose()?.flatten() {
            Some(loaded) => loaded,
            None => return Ok(()),
        };
        let path = self.checkpoints.path(loaded.state.step);
        let refuse = |what: &str| TrainError::Checkpoint {
            path: path.clone(),
            reason: format!("{what} is not what this run has been trained with"),
        };
        let (old, new) = (&loaded.state.recipe, self.recipe);
        let same = [
            ("the model of the recipe", old.model == new.model),
            ("the quantization of the recipe", old.quantization == new.quantization),
            ("the batch of the recipe", old.batch == new.batch),
            ("the optimizer of the recipe", old.optimizer == new.optimizer),
            ("the seed", old.seed == new.seed),
            ("the model that the recipe begins with", old.from == new.from),
            ("the preference of the recipe", old.preference == new.preference),
            ("the adapter of the recipe", old.lora == new.lora),
            ("the distillation of the recipe", old.distillation == new.distillation),
            ("the data", loaded.state.data == self.state.data),
        ];
        if let Some((what, _)) = same.into_iter().find(|(_, same)| !same) {
            return Err(refuse(what));
        }
        let model = self.model.take().expect("no step is under way");
        self.model = Some(loaded.restore(model, &mut self.optimizer)?);
        self.inspector = loaded.inspector()?;
        self.state = State { recipe: self.recipe.clone(), ..loaded.state.clone() };
        self.resumed_from = Some(self.state.step);
        let records = read_jsonl(self.folder.records())?;
        for record in &records[records.len().saturating_sub(LOOK_BACK)..] {
            self.watch.see(record);
        }
        Ok(())
    }

    fn model(&self) -> &Transformer {
        self.model.as_ref().expect("no step is under way")
    }

    pub(super) fn run(mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome, TrainError> {
        let limits = self.limits;
        observer.event(Event::Begin(&Facts {
            parameters: self.parameters.total(),
            ternary: match self.recipe.quantization.weights {
                WeightsChoice::Ternary => self.parameters.count(Kind::Linear),
                WeightsChoice::None => 0,
            },
            tokens: [self.data.train.tokens(), self.data.valid.tokens()],
            vocab_size: self.state.data.vocab_size,
            tokens_per_step: (self.recipe.batch.rows * self.recipe.model.context) as u64,
            limits,
            resumed_from: self.resumed_from,
        }));
        let (begun, before) = (Instant::now(), self.state.elapsed_seconds);
        loop {
            let elapsed = before + begun.elapsed().as_secs_f64();
            let over = limits.steps.is_some_and(|steps| self.state.step >= steps)
                || limits.seconds.is_some_and(|seconds| elapsed >= seconds);
            if over || stop.load(Ordering::Relaxed) {
                break;
            }
            let started = Instant::now();
            let mut record = self.step(elapsed)?;
            let seconds = started.elapsed().as_secs_f64();
            self.look(&mut record)?;
            record.elapsed_seconds = before + begun.elapsed().as_secs_f64();
            record.tokens_per_second = (record.tokens - self.state.tokens) as f64 / seconds;
            self.state.tokens = record.tokens;
            self.state.elapsed_seconds = record.elapsed_seconds;
            self.log.write(&record)?;
            let improved = record.valid.is_some_and(|valid| self.improves(valid));
            observer.event(Event::Step(&record));
            self.watch.see(&record).iter().for_each(|alert| observer.event(Event::Alert(alert)));
            if improved || self.state.step.is_multiple_of(self.recipe.run.checkpoint_every.max(1)) {
                self.save(observer)?;
            }
        }
        self.finish(observer)
    }

    /// One optimizer step.
    fn step(&mut self, elapsed: f64) -> Result<StepRecord, TrainError> {
        let (recipe, step) = (self.recipe, self.state.step);
        let by_steps = self.limits.steps.map(|steps| Progress::of_steps(step, steps.max(step + 1)));
        let by_time = self.limits.seconds.map(|seconds| Progress::of_time(step, elapsed, seconds));
        let progress = match (by_steps, by_time) {
            (Some(by_steps), Some(by_time)) => by_steps.later(by_time),
            (Some(progress), None) | (None, Some(progress)) => progress,
            (None, None) => unreachable!("a recipe has a limit"),
        };
        let size = StepSize {
            learning_rate: recipe.optimizer.learning_rate.at(progress),
            weight_decay: recipe.optimizer.weight_decay.at(progress),
            gradient_scale: 1.0,
        };
        let lambda = recipe.quantization.lambda.at(progress);
        let mut model = self.model.take().expect("no step is under way");
        model.set_lambda(lambda as f32);

        let parts = self.replicas.parts(&self.batches, step, recipe);
        let (targets, terms) = self.replicas.count(&parts);
        let factor = match recipe.batch.reduction {
            Reduction::Mean => 1.0 / terms.max(1) as f64,
            Reduction::Sum => 1.0,
        };
        let (loss, gradients) = match self.replicas.gradients(&model, &parts, factor) {
            Ok(result) => result,
            Err(Failure::NotFinite(layer)) => return Err(self.checkpoints.not_finite(step + 1, &layer)?),
            Err(Failure::Lost(number, reason)) => {
                return Err(TrainError::DeviceLost { step: step + 1, number, reason });
            }
        };
        let norm = gradients.norm(&self.parameters);
        if !norm.is_finite() {
            let layer = gradients.first_not_finite(&self.parameters).unwrap_or_else(|| "their sum".to_string());
            return Err(self.checkpoints.not_finite(step + 1, &format!("the gradient of {layer}"))?);
        }
        let clip = recipe.optimizer.clip;
        let gradient_scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        let size = StepSize { gradient_scale, ..size };
        self.model = Some(self.optimizer.step(model, &self.parameters, gradients, size));
        self.state.step += 1;
        self.state.train_loss = loss / terms.max(1) as f64;
        Ok(StepRecord {
            step: self.state.step,
            tokens: self.state.tokens + targets as u64,
            train_loss: self.state.train_loss,
            learning_rate: size.learning_rate,
            weight_decay: size.weight_decay,
            lambda,
            grad_norm: norm,
            ..StepRecord::default()
        })
    }

    /// What is looked at after some steps.
    fn look(&mut self, record: &mut StepRecord) -> Result<(), TrainError> {
        let run = &self.recipe.run;
        let due = |every: u64| every > 0 && record.step.is_multiple_of(every);
        let (validate, inspect, sample) = (due(run.validate_every), due(run.inspect_every), due(run.sample_every));
        if inspect {
            let batch = self.batches.batch(record.step, 0, self.recipe.batch.rows);
            let layers = self.inspector.look(self.model.as_ref().expect("no step is under way"), &batch)?;
            record.layers = (!layers.is_empty()).then_some(layers);
        }
        if validate || sample {
            let model = self.runnable()?;
            if validate {
                record.valid = Some(self.validate(&model, Some(run.validate_tokens))?);
                self.valid = record.valid;
            }
            if sample {
                record.sample = Some(self.sample(model)?);
            }
        }
        Ok(())
    }

    /// The model as it would run now.
    fn runnable(&self) -> Result<Transformer, TrainError> {
        runnable(self.model(), self.recipe)
    }

    fn validate(&self, model: &Transformer, at_most: Option<u64>) -> Result<Validation, TrainError> {
        if let Objective::Preference(preference) = self.replicas.objective() {
            return Ok(preference.measure(model, &self.data.valid, self.recipe.model.context, at_most)?);
        }
        let batches = held_out(&self.data.valid, self.recipe, at_most)?;
        let (loss, tokens) = mean_loss(model, model.device(), batches);
        Ok(Validation { loss, bits_per_byte: self.data.valid.bits_per_byte(loss), tokens, accuracy: None })
    }

    fn sample(&self, model: Transformer) -> Result<String, TrainError> {
        let prompt = &self.recipe.run.sample_prompt;
        let mut ids = self.tokenizer.tokenizer.encode(prompt, true)?;
        if ids.is_empty() {
            // A text begins where another one ends.
            let newline = self.tokenizer.tokenizer.encode("\n", false)?;
            ids.extend(self.tokenizer.end_of_text().or(newline.first().copied()));
        }
        let room = self.recipe.model.context.saturating_sub(ids.len()).max(1);
        let config = GenerationConfig {
            max_new_tokens: SAMPLE_TOKENS.min(room),
            seed: Some(self.recipe.seed),
            ..GenerationConfig::default()
        };
        let model = LanguageModel::new(model, self.tokenizer.tokenizer.clone());
        let mut session = model.session(Some(self.recipe.model.context));
        let mut text = prompt.clone();
        for step in session.generate(&ids, &config)? {
            text.push_str(&step?.text);
        }
        Ok(text)
    }

    /// Whether a measurement is the best so far, which it then is.
    fn improves(&mut self, valid: Validation) -> bool {
        let better = self.state.best.is_none_or(|best| valid.loss < best.loss);
        if better {
            self.state.best = Some(Best { step: self.state.step, loss: valid.loss });
        }
        better
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        // A checkpoint refers to rows that must not be lost before it.
        self.log.flush()?;
        let model = self.model.as_ref().expect("no step is under way");
        let path = self.checkpoints.save(&self.state, model, &self.optimizer, &self.inspector)?;
        observer.event(Event::Checkpoint(&path));
        Ok(())
    }

    /// The last checkpoint, the files that run, the last measurement, and the report.
    fn finish(mut self, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
        if self.checkpoints.steps()?.last() != Some(&self.state.step) {
            self.save(observer)?;
        }
        let name = self.options.out.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
        let (path, model) = self.write(&name, observer)?;
        let valid = self.validate(&model, None)?;
        let outcome = Outcome {
            steps: self.state.step,
            tokens: self.state.tokens,
            train_loss: self.state.train_loss,
            valid_loss: Some(valid.loss),
            bits_per_byte: Some(valid.bits_per_byte),
            preference_accuracy: valid.accuracy,
            tokens_per_second: self.state.tokens as f64 / self.state.elapsed_seconds.max(f64::MIN_POSITIVE),
            seconds: self.state.elapsed_seconds,
            parameters: self.parameters.total(),
            model: path,
        };
        self.log.flush()?;
        let records = read_jsonl(self.folder.records())?;
        report::write(self.folder.report(), &self.summary(&name, outcome.clone()), &records, true)?;
        observer.finish();
        Ok(outcome)
    }

    /// Writes the files that run, and gives the first of them with the model that it makes, opened again as the program that
    /// runs it does; the float twin has no such file, and stays the model that it is.
    fn write(&self, name: &str, observer: &mut dyn Observer) -> Result<(PathBuf, Transformer), TrainError> {
        let device = &self.options.device;
        if let (Some(_), Some(from)) = (&self.recipe.lora, &self.recipe.from) {
            let path = self.folder.adapter();
            observer.event(Event::Export(&path));
            let base = from.to_string_lossy().into_owned();
            self.model().adapter(Some(base)).expect("its branches are what was trained").write(&path, true)?;
            let model = bitnet_model::load(&bitnet_format::open(from)?, device)?.model;
            return Ok((path.clone(), model.with_adapter(&Adapter::open(&path)?)?));
        }
        let (gguf, hf) = (self.folder.model(), self.folder.hugging_face());
        let formats = Formats::of(self.recipe);
        let write = |path: &Path, format| export(self.model(), &self.tokenizer, name, format, path, true);
        if let Some(format) = formats.gguf {
            observer.event(Event::Export(&gguf));
            write(&gguf, format)?;
        }
        observer.event(Event::Export(&hf));
        write(&hf, formats.hugging_face)?;
        let path = if formats.gguf.is_some() { gguf } else { hf };
        if self.recipe.quantization.weights == WeightsChoice::None {
            return Ok((path, self.runnable()?));
        }
        let model = bitnet_model::load(&bitnet_format::open(&path)?, device)?.model;
        Ok((path, model))
    }

    fn summary(&self, name: &str, outcome: Outcome) -> RunSummary {
        let model = &self.recipe.model;
        let text = |value: &dyn ToString| value.to_string();
        let pair = |name: &str, value: String| (name.to_string(), value);
        RunSummary {
            title: name.to_string(),
            command: self.options.command.clone(),
            recipe: Some(self.recipe.to_toml()),
            config: vec![
                pair("layers", text(&model.layers)),
                pair("hidden", text(&model.hidden)),
                pair("ffn", text(&model.ffn)),
                pair("heads", format!("{} ({} for keys and values)", model.heads, model.kv_heads)),
                pair("context", text(&model.context)),
                pair("activation", text(&model.activation)),
                pair("optimizer", text(&self.recipe.optimizer.kind)),
                pair("rows a step", text(&self.recipe.batch.rows)),
                pair("seed", text(&self.recipe.seed)),
            ],
            parameters: [
                ("linears", Kind::Linear),
                ("embedding", Kind::Dense),
                ("norms", Kind::Norm),
                ("adapter", Kind::Adapter),
            ]
            .map(|(name, kind)| (name.to_string(), self.parameters.count(kind)))
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect(),
            data: vec![
                pair("tokenizer", text(&self.recipe.tokenizer)),
                pair("vocabulary", text(&self.state.data.vocab_size)),
                pair("training tokens", text(&self.data.train.tokens())),
                pair("held-out tokens", text(&self.data.valid.tokens())),
                pair("epochs", format!("{:.2}", self.batches.epochs(self.state.step))),
            ],
            outcome,
        }
    }
}

/// The data, as the recipe looks at it.
fn prepare(
    options: &RunOptions,
    tokenizer: &TokenizerFiles,
    cache: &Path,
    observer: &mut dyn Observer,
) -> Result<Dataset, TrainError> {
    let (validation, one_in, context) = (options.validation.as_ref(), options.one_in, options.recipe.model.context);
    if options.recipe.preference.is_some() {
        return Ok(prepare_pairs(&options.source, validation, &tokenizer.tokenizer, context, one_in, cache)?);
    }
    let all = Prepare::new(&options.source, &tokenizer.tokenizer, &tokenizer.tokenizer_json, cache);
    let prepare = Prepare { validation, one_in, ..all };
    Ok(prepare.run(&mut |progress| observer.event(Event::Data(progress)))?)
}

/// Where a run ends, on this data.
fn limits(recipe: &Recipe, batches: &Batches) -> Limits {
    let run = &recipe.run;
    let by_epochs = (run.epochs > 0.0).then(|| batches.steps(run.epochs));
    Limits {
        steps: (run.max_steps > 0).then_some(run.max_steps).or(by_epochs),
        seconds: (run.max_seconds > 0.0).then_some(run.max_seconds),
    }
}

/// A model in training as it would run now.
fn runnable(model: &Transformer, recipe: &Recipe) -> Result<Transformer, TrainError> {
    let quantized = recipe.quantization.weights == WeightsChoice::Ternary;
    let whole = model.linears().filter_map(|(_, l)| l.latent_weights()).all(|w| w.is_fully_quantized());
    Ok(if quantized && whole { model.pack()? } else { model.without_gradients() })
}
