//! `bitnet lend`.

use std::io::{Write, stdout};

use bitnet::model::{DeviceKind, device};
use bitnet_kernels::{LendError, lend};
use clap::Args;

use super::CliError;

/// Lends devices of this machine to other processes, as `remote:HOST:PORT`, until Ctrl-C or SIGTERM.
///
/// The first line on stdout is the name of the first device. The others have its name with /1, /2, ... What goes over the
/// network is not encrypted; with the environment variable BITNET_REMOTE_TOKEN set on both sides, only who knows it can use
/// the devices.
#[derive(Args)]
pub struct Lend {
    /// The devices, all of one backend
    #[arg(long, value_name = "DEVICE,...", value_delimiter = ',', default_value = DeviceKind::default_name())]
    devices: Vec<String>,

    /// Where to listen; port 0 is any that is free
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7158")]
    listen: String,
}

impl Lend {
    pub fn run(self) -> Result<(), CliError> {
        let devices = self.devices.iter().map(|name| device(name)).collect::<Result<Vec<_>, _>>()?;
        let ready = |address| {
            // Whoever does not read the line still gets the devices.
            let _ = writeln!(stdout(), "remote:{address}").and_then(|()| stdout().flush());
        };
        lend(devices, &self.listen, ready).map_err(|error: LendError| CliError::Usage(error.to_string()))
    }
}
