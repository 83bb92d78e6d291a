// SPDX-License-Identifier: Apache-2.0
//! Layers without an index: they are claimed last, and must come whole.

use super::{Answer, Claim, Companion, FormatError, Indexer, LayerFormat, Step};
use crate::manifest::Descriptor;

/// The name of what claims every layer.
pub(super) const NAME: &str = "whole";

/// Any layer.
#[derive(Debug)]
pub struct Whole;

impl LayerFormat for Whole {
    fn name(&self) -> &'static str {
        NAME
    }

    fn claim(&self, layer: &Descriptor, _: &[Companion]) -> Option<Claim> {
        Some(Claim {
            format: &Whole,
            certain: true,
            layer: layer.clone(),
            companion: None,
            companion_is_named: false,
        })
    }

    fn indexer(&self, _: &Claim) -> Box<dyn Indexer> {
        Box::new(NoIndex)
    }
}

#[derive(Debug)]
struct NoIndex;

impl Indexer for NoIndex {
    fn step(&mut self, _: Vec<Answer>) -> Result<Step, FormatError> {
        Err(FormatError::NeedsWhole("no index is known for it"))
    }
}
