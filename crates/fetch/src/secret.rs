// SPDX-License-Identifier: Apache-2.0
//! A text that must not be seen: a password, a token, a header that holds one.
//!
//! It has no `Display`, and its `Debug` is blank, so that it reaches neither a log nor an error by accident. Whoever
//! needs the text says so with [`Secret::expose`], which makes the places easy to find.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text whose `Debug` is blank. Serialised it is plain: for pipes between processes of ours.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself, for the wire, a credential file or a helper's standard input.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Tells whether a text quotes this one.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        !self.0.is_empty() && text.contains(&self.0)
    }

    /// Tells whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_blank() {
        let shown = format!(
            "{:?} {:#?}",
            Secret::new("hunter2"),
            Some(Secret::new("hunter2"))
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
