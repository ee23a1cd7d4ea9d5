//! What can go wrong between here and the hub, in terms of what to do about it.

use std::io;

use hf_hub::api::sync::ApiError;

use super::{HubOptions, Spec};
use crate::FormatError;

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hub answered with this HTTP status.
    Status(u16),
    /// No answer, or one that broke off.
    Unreachable(String),
    /// The answer, the cache or the disk is at fault.
    Other(String),
}

impl Failure {
    /// Whether trying again can help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Status(408 | 429 | 500..=599))
    }

    /// The line a user reads.
    pub(super) fn explain(&self, spec: &Spec, options: &HubOptions<'_>) -> FormatError {
        let endpoint = &options.endpoint;
        let page = format!("{endpoint}/{}", spec.repository);
        let reason = match self {
            Self::Status(401) => format!(
                "not found, or not public (HTTP 401): check the name; for a private or gated model accept its terms at \
                 {page} and set HF_TOKEN"
            ),
            Self::Status(403) => {
                format!("access denied (HTTP 403): accept the model's terms at {page} with the account of HF_TOKEN")
            }
            Self::Status(404) => format!("not found (HTTP 404): check the name and revision at {page}"),
            Self::Status(429) => format!("{endpoint} asks to slow down (HTTP 429): try again later, or set HF_TOKEN"),
            Self::Status(status) => format!("{endpoint} answered HTTP {status}: try again later"),
            Self::Unreachable(what) => format!(
                "cannot be fetched from {endpoint} ({what}): check the network or HF_ENDPOINT; what has arrived is kept"
            ),
            Self::Other(what) => what.clone(),
        };
        spec.error(reason)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::RequestError(error) => of_request(&error),
            ApiError::IoError(error) => of_io(&error),
            ApiError::LockAcquisition(path) => {
                Self::Other(format!("another program is downloading it (lock {})", path.display()))
            }
            other => Self::Other(format!("unusable answer: {other}")),
        }
    }
}

fn of_request(error: &ureq::Error) -> Failure {
    use ureq::Error;
    match error {
        Error::StatusCode(status) => Failure::Status(*status),
        Error::Io(_)
        | Error::Timeout(_)
        | Error::HostNotFound
        | Error::ConnectionFailed
        | Error::Protocol(_)
        | Error::Tls(_) => Failure::Unreachable(error.to_string()),
        other => Failure::Other(format!("unusable answer: {other}")),
    }
}

/// Reading the network and writing the disk meet in one call; the kind of error tells which it was.
fn of_io(error: &io::Error) -> Failure {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, NotConnected, TimedOut, UnexpectedEof};
    let from_network = error.get_ref().is_some_and(|inner| inner.is::<ureq::Error>())
        || matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected | TimedOut | UnexpectedEof);
    if from_network {
        Failure::Unreachable(error.to_string())
    } else {
        Failure::Other(format!("cannot be written to the cache: {error}"))
    }
}
