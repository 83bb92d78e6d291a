// SPDX-License-Identifier: Apache-2.0
//! Fetches an image's layers side by side, throws the bytes away, and says what it cost.
//!
//! `cargo run --release -p wolffia-fetch --example fetch -- localhost:5000/debian:12`

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::io::Read as _;
use std::sync::Arc;
use std::time::Instant;

use wolffia_fetch::{Download, Environment, Limits, Source, sources};
use wolffia_image::Platform;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: fetch IMAGE")?;
    let begun = Instant::now();
    let environment = Environment::of_process();
    let source: Arc<dyn Source> = Arc::from(sources::open(&name, &environment, Limits::default())?);
    let image = source.resolve(&Platform::host())?;
    println!("{} is {}", source.name(), image.top.digest);
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| {
            let mut download = Download::new(Arc::clone(&source), layer);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                while download.read(&mut buffer)? > 0 {}
                std::io::Result::Ok(download.position())
            })
        })
        .collect();
    let mut bytes = 0;
    for layer in layers {
        bytes += layer.join().map_err(|_| "a thread failed")??;
    }
    println!("{bytes} bytes in {:?}", begun.elapsed());
    Ok(())
}
