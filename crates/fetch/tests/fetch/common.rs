// SPDX-License-Identifier: Apache-2.0
//! What the tests of this room share.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wolffia_fetch::{Download, Environment, Error, Limits, Source, sources};
use wolffia_image::{Descriptor, Platform};
use wolffia_testkit::image_builder::{Image, ImageBuilder, Packing, noise};

/// Bounds that make a test of failures short.
pub(crate) fn limits() -> Limits {
    Limits {
        resolve: Duration::from_secs(2),
        connect: Duration::from_secs(2),
        answer: Duration::from_secs(2),
        stall: Duration::from_millis(300),
        trickle: Duration::from_millis(600),
        tries: 4,
        resumes: 20,
        pause: Duration::from_millis(1),
        pause_max: Duration::from_millis(5),
        retry_after_max: Duration::from_secs(2),
    }
}

/// An environment in which nothing of this machine counts.
pub(crate) fn environment(home: &Path) -> Environment {
    Environment::below(home).with("HOME", home)
}

pub(crate) fn open(name: &str, environment: &Environment) -> Arc<dyn Source> {
    Arc::from(sources::open(name, environment, limits()).unwrap())
}

/// An image of layers of these sizes that nothing compresses.
pub(crate) fn image(sizes: &[usize]) -> Image {
    let mut builder = ImageBuilder::new();
    for (seed, size) in (1..).zip(sizes) {
        builder = builder.layer(noise(seed, *size), Packing::Plain);
    }
    builder.build()
}

/// Reads a blob as a pull does.
pub(crate) fn read(source: &Arc<dyn Source>, blob: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut download = Download::new(Arc::clone(source), blob);
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match download.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(error) => return Err(Error::of_io(error).unwrap()),
        }
    }
}

/// Fetches everything of an image and compares it with what was put in.
pub(crate) fn pull(source: &Arc<dyn Source>, image: &Image) -> Result<(), Error> {
    let resolved = source.resolve(&Platform::host())?;
    assert_eq!(resolved.top.digest, image.digest());
    assert_eq!(
        *image.blobs[&resolved.config.digest],
        *resolved.config_bytes
    );
    for layer in &resolved.layers {
        assert!(
            read(source, layer)? == *image.blobs[&layer.digest],
            "{}",
            layer.digest
        );
    }
    Ok(())
}

/// An error with all its causes and its hint, as a person sees it.
pub(crate) fn story(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    format!("{text} | {error:?} | {:?}", error.hint())
}
