//! One model on several devices.

use bitnet_model::DeviceKind;
use bitnet_training::metrics::StepRecord;
use bitnet_training::metrics::read_jsonl;
use bitnet_training::{RunFolder, RunOptions, TrainError};

use crate::support::{options, run, small};

fn records(options: &RunOptions) -> Vec<StepRecord> {
    run(options).unwrap();
    read_jsonl(RunFolder::new(&options.out).records()).unwrap()
}

/// The two CPU backends have the same kernels, so what differs is only the order of the sums.
#[test]
#[cfg(all(feature = "flex", feature = "ndarray"))]
fn two_devices_train_what_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = small();
    (recipe.run.max_steps, recipe.batch.rows) = (12, 7);
    let other = bitnet_model::device(DeviceKind::NdArray.name()).unwrap();
    let on = |name: &str, accumulate: usize, more: &[burn::tensor::Device]| {
        let mut options = options(folder.path(), name, &recipe);
        (options.recipe.batch.accumulate, options.more_devices) = (accumulate, more.to_vec());
        options
    };
    let others = [other];
    let one = records(&on("one", 1, &[]));
    for (name, accumulate) in [("two", 1), ("two in parts", 3)] {
        let two = records(&on(name, accumulate, &others));
        for (one, two) in one.iter().zip(&two) {
            let apart = |x: f64, y: f64| (x / y - 1.0).abs();
            assert_eq!(one.tokens, two.tokens, "the same targets");
            // Seven rows are no even share: a mean over devices would be another number.
            assert!(apart(one.train_loss, two.train_loss) < 1e-5, "{} {}", one.train_loss, two.train_loss);
            assert!(apart(one.grad_norm, two.grad_norm) < 1e-3, "{} {}", one.grad_norm, two.grad_norm);
        }
        assert!((one[0].grad_norm / two[0].grad_norm - 1.0).abs() < 1e-6);
    }
    let again = on("again", 1, &others);
    run(&again).unwrap();
    let csv = |name: &str| std::fs::read_to_string(folder.path().join(name).join("metrics.csv")).unwrap();
    assert_eq!(csv("two"), csv("again"), "the same devices are the same run");
}

#[test]
fn devices_that_cannot_share_a_step_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut twice = options(folder.path(), "twice", &small());
    twice.more_devices = vec![twice.device.clone()];
    let error = run(&twice).unwrap_err();
    assert!(matches!(&error, TrainError::Devices(reason) if reason.contains("number 2")), "{error}");
    assert!(!RunFolder::new(&twice.out).records().exists());

    #[cfg(all(feature = "flex", feature = "ndarray"))]
    {
        let mut few = options(folder.path(), "few", &small());
        few.recipe.batch.accumulate = 4;
        few.more_devices = vec![bitnet_model::device(DeviceKind::NdArray.name()).unwrap()];
        let error = run(&few).unwrap_err().to_string();
        assert!(error.contains("6 rows") && error.contains("8 parts"), "{error}");
    }
}
