//! Devices that another process lends, over Burn's remote backend.
//!
//! The transport is WebSocket, which is not encrypted: it is for one machine, or for a network that is trusted.

use std::net::{SocketAddr, TcpListener};

use burn::remote::{ConnectError, RemoteHost};
use burn::server::{RemoteServer, TokenAuthorizer, WebSocketTransport};
use burn::tensor::Device;

/// The environment variable with the token that a server asks for, and that its clients show.
pub const TOKEN: &str = "BITNET_REMOTE_TOKEN";

/// The device at `address`: `host:port`, and `/n` for another than the first of its server.
pub(crate) fn connect(address: &str) -> Result<Device, ConnectError> {
    let invalid = |reason: String| ConnectError::InvalidConfiguration { reason };
    let address = address.strip_prefix("ws://").unwrap_or(address);
    let (address, index) = match address.split_once('/') {
        Some((address, index)) => {
            let index = index.parse::<usize>().map_err(|_| invalid(format!("{index:?} is no number of a device")))?;
            (address, index)
        }
        None => (address, 0),
    };
    if !address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
        return Err(invalid(format!("{address:?} is not host:port")));
    }
    let host = RemoteHost::websocket(&format!("ws://{address}"));
    let host = match std::env::var(TOKEN) {
        Ok(token) => host.with_credential(token.as_str()),
        Err(_) => host,
    };
    Device::remote_options(&host).device_index(index).init()
}

/// Lends `devices`, which must belong to one backend, at `address` until Ctrl-C or SIGTERM. `ready` is told the address that
/// was bound, as port 0 stands for any that is free. Where the environment has a [`TOKEN`], clients must show it.
///
/// # Errors
/// When the address cannot be bound, the devices cannot be lent, or the network fails.
pub fn lend(devices: Vec<Device>, address: &str, ready: impl FnOnce(SocketAddr)) -> Result<(), LendError> {
    let bind = |error: std::io::Error| LendError::Bind { address: address.to_string(), error };
    let listener = TcpListener::bind(address).map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let server = RemoteServer::new(devices);
    let server = match std::env::var(TOKEN) {
        Ok(token) => server.with_authorizer(TokenAuthorizer::new(token.as_str()).map_err(|_| LendError::EmptyToken)?),
        Err(_) => server,
    };
    ready(bound);
    server.serve(WebSocketTransport::from_listener(listener)).map_err(|error| LendError::Serve(error.to_string()))
}

/// Why devices cannot be lent.
#[derive(Debug, thiserror::Error)]
pub enum LendError {
    /// The address is not to be had.
    #[error("cannot listen at {address}: {error}")]
    Bind {
        /// What was asked for.
        address: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The token is there, and empty.
    #[error("{TOKEN} is empty")]
    EmptyToken,
    /// Burn's server gave up.
    #[error("{0}")]
    Serve(String),
}
