// SPDX-License-Identifier: Apache-2.0
//! A container is made: image and options become a record.

use std::{env, path::PathBuf};

use thiserror::Error;
use wolffia_image::config::RunConfig;
use wolffia_store::{ImageRecord, Store, StoreError};

use crate::{
    containers::{ContainerError, Containers, Held},
    id::ContainerName,
    options::Options,
    ports,
    program::{self, NoProgram},
    record::{Image, Program, RECORD_VERSION, Record},
    signal::Signal,
    time::Timestamp,
};

/// What a container is made from.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// An image of the store, by the name that was given.
    Image(&'a Store, &'a ImageRecord, &'a str),
    /// This machine's own files.
    Host,
}

/// Why a container was not made.
#[derive(Debug, Error)]
pub enum CreateError {
    /// Its records.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// There is nothing to run.
    #[error(transparent)]
    Program(#[from] NoProgram),
    /// The image could not be kept for it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signal that is none.
    #[error("--stop-signal")]
    Signal(#[from] crate::options::BadOption),
}

/// The shell of a container made from this machine's own files.
const HOST_SHELL: &str = "/bin/sh";

/// Adds what the image exposes, and with `-P` publishes whatever is exposed and not published already.
fn expose<'a>(options: &mut Options, image: impl Iterator<Item = &'a String>) {
    // An image's own nonsense is no reason not to run it.
    let image = image.filter_map(|word| ports::parse_exposed(word).ok());
    options.exposed.extend(image.flatten());
    options.exposed.sort_unstable();
    options.exposed.dedup();
    if !options.publish_all {
        return;
    }
    for exposed in &options.exposed {
        let is_it = |request: &ports::Request| {
            (request.port, request.protocol) == (exposed.port, exposed.protocol)
        };
        if !options.publish.iter().any(is_it) {
            options.publish.push(ports::Request {
                address: None,
                ports: None,
                port: exposed.port,
                protocol: exposed.protocol,
            });
        }
    }
}

/// Makes a container. `mapping` is the key of its ids.
pub fn create(
    containers: &Containers,
    from: From<'_>,
    options: Options,
    name: Option<&ContainerName>,
    mapping: &str,
) -> Result<Held, CreateError> {
    let host = RunConfig {
        cmd: vec![HOST_SHELL.to_owned()],
        ..RunConfig::default()
    };
    let (image, config) = match from {
        From::Image(_, record, name) => (
            Image::Stored {
                name: name.to_owned(),
                id: record.id.to_string(),
            },
            record.config.run(),
        ),
        From::Host => (Image::Host, &host),
    };
    let args = program::args(config, &options)?;
    let stop_signal = match options.stop_signal.as_deref() {
        Some(given) => given.parse::<Signal>()?,
        // An image's own nonsense is no reason not to run it.
        None => config.stop_signal.parse().unwrap_or(Signal::TERM),
    };
    let held = containers.create(name, |id, name| {
        let hostname = options.hostname.as_deref().unwrap_or_else(|| id.short());
        let program = Program {
            args,
            env: program::environment(&config.env, &options.env, hostname, options.tty),
            user: program::user(&config.user, options.user.as_deref()).to_owned(),
            directory: program::directory(&config.working_dir, options.workdir.as_deref())
                .to_owned(),
            stop_signal: stop_signal.to_string(),
        };
        let mut options = options;
        expose(&mut options, config.exposed_ports.iter());
        for (label, value) in &config.labels {
            options
                .labels
                .entry(label.clone())
                .or_insert_with(|| value.clone());
        }
        Record {
            version: RECORD_VERSION,
            id,
            name,
            created: Timestamp::now(),
            image,
            options,
            program,
            mapping: mapping.to_owned(),
            current_directory: env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        }
    })?;
    if let From::Image(store, record, _) = from
        && let Err(error) = store.pin(held.container.record.id.as_str(), record)
    {
        containers.remove(held)?;
        return Err(error.into());
    }
    Ok(held)
}
