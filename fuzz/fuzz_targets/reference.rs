// SPDX-License-Identifier: Apache-2.0
//! Any text as a reference, a platform or a digest: no panic, and what is read is the same when written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wolffia_image::{Digest, ObjectName, Platform, Reference};

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(
            Reference::parse(&reference.to_string()),
            Ok(reference.clone())
        );
        assert_eq!(
            Reference::parse(&reference.familiar()),
            Ok(reference.clone())
        );
        assert!(!reference.repository().contains(".."));
    }
    if let Ok(platform) = Platform::parse(text) {
        assert_eq!(Platform::parse(&platform.to_string()), Ok(platform));
    }
    if let Ok(digest) = Digest::parse(text) {
        assert_eq!(digest.to_string(), text);
    }
    if let Some(name) = ObjectName::parse(text) {
        assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
    }
});
