//! Devices and instruction sets, as the program names and refuses them.

mod program;

use program::{bitnet, json, run, stdout};

#[test]
fn too_little_memory_of_a_device_is_said_before_it_is_used() {
    for device in json(&["devices", "--json"]).as_array().unwrap() {
        let device = device["name"].as_str().unwrap();
        let generate = |bytes: u64, more: &[&str]| {
            let mut command = bitnet();
            command
                .env("BITNET_DEVICE_MEMORY", bytes.to_string())
                .args(["generate", "x", "-n", "2", "--device", device]);
            let output = command.args(more).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            // What a library of the display says where OpenGL's adapters are looked for and nobody is logged in.
            let own = text.split_inclusive('\n').filter(|line| !line.contains("XDG_RUNTIME_DIR"));
            (output.status.code(), own.collect::<String>())
        };
        let (code, text) = generate(1, &[]);
        let needed = text
            .strip_prefix("error: the weights need ")
            .and_then(|rest| rest.split_once(" MB, and the device has 0 MB"));
        let megabytes: u64 = needed.unwrap_or_else(|| panic!("{text}")).0.parse().unwrap();
        assert_eq!((code, text.lines().count()), (Some(1), 1), "{text}");
        // The weights, but not the cache of the whole context; a smaller one goes.
        let (code, text) = generate(megabytes * 1_000_000, &[]);
        assert!(text.starts_with("error: the weights and a cache for 1024 tokens need "), "{text}");
        assert!(text.ends_with(&format!("and the device has {megabytes} MB: ask for a smaller context\n")), "{text}");
        assert_eq!((code, text.lines().count()), (Some(1), 1), "{text}");
        let (code, text) = generate((megabytes + 1) * 1_000_000, &["--context", "64"]);
        assert_eq!(code, Some(0), "{text}");
    }
}

#[test]
fn devices_are_listed_with_what_they_do_themselves_and_each_writes_a_text() {
    let listed = json(&["devices", "--json"]);
    let listed = listed.as_array().unwrap();
    let names: Vec<&str> = listed.iter().map(|device| device["name"].as_str().unwrap()).collect();
    // Those that need no driver.
    let always =
        [("flex", cfg!(feature = "flex")), ("ndarray", cfg!(feature = "ndarray")), ("cpu", cfg!(feature = "cpu"))];
    for (name, there) in always {
        assert_eq!(names.contains(&name), there, "{names:?}");
    }
    let lines = stdout(&["devices"]);
    assert_eq!(lines.lines().count(), listed.len(), "{lines}");
    for ((line, device), name) in lines.lines().zip(listed).zip(names) {
        let kernels = device["kernels"].as_str().unwrap();
        let natively: Vec<&str> = device["natively"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        assert_eq!(line, [&[&*format!("{name:8} {kernels}")], &natively[..]].concat().join(", "));
        let native = ["flex", "ndarray"].contains(&name);
        assert!(kernels.starts_with(if native { "native, " } else { "CubeCL " }), "{line}");
        if native || name == "cpu" {
            assert!(!natively.contains(&"dp4a") && !natively.contains(&"replay"), "{line}");
        }
        if name.starts_with("webgpu") {
            assert!(natively.contains(&"replay"), "{line}");
        }

        let output = run(&["generate", "Call me", "-n", "4", "--temperature", "0", "-v", "--device", name]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{name}: {said}");
        assert!(said.contains(&format!("device {name}, kernels {kernels}")), "{said}");
        // Nothing of a decoder is done without a kernel.
        assert!(!said.contains("has no kernel"), "{said}");
        assert!(!output.stdout.trim_ascii().is_empty(), "{name}");
    }
}

#[test]
#[cfg(all(feature = "webgpu", target_os = "linux"))]
fn a_device_without_a_driver_is_said_in_one_line() {
    let mut command = bitnet();
    // Where Vulkan and OpenGL look for what there is.
    command.env_remove("VK_DRIVER_FILES").env("VK_ICD_FILENAMES", "/absent");
    command.env("__EGL_VENDOR_LIBRARY_FILENAMES", "/absent").args(["generate", "x", "--device", "webgpu"]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "error: there is no device webgpu: this machine has 0 with a driver for webgpu\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn variables_of_the_environment_that_cannot_be_understood_are_named_in_one_line() {
    let mut wrong = vec![
        ("BITNET_ISA", "mmx", "not an instruction set of this processor"),
        ("BITNET_DEVICE_MEMORY", "2G", "it takes a number of bytes"),
        ("BITNET_REPLAY", "no", "it takes 0 or 1"),
    ];
    if cfg!(any(feature = "cpu", feature = "webgpu")) {
        wrong.extend([("BITNET_TUNED", "yes", "it takes 0 or 1"), ("BITNET_PRODUCTS", "words", "it takes floats, ")]);
        wrong.push(("BITNET_ROWS", "3x1", "it takes units and rows, "));
    }
    for ((name, value, why), command) in wrong.into_iter().flat_map(|w| [(w, "generate"), (w, "devices")]) {
        let arguments = if command == "generate" { &["generate", "x"][..] } else { &["devices"] };
        let output = bitnet().env(name, value).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with(&format!("error: {name}={value}: {why}")) && said.lines().count() == 1, "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
}
