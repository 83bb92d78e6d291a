// SPDX-License-Identifier: Apache-2.0
//! The name of bytes: a SHA-256 digest, its running computation, and the short name under which stores keep it.
//!
//! OCI registers sha256 and sha512; every registry and builder in use writes sha256, and one algorithm keeps a
//! digest a plain `Copy` value of 32 bytes. Another algorithm is refused by name, never read as something else.
//!
//! An [`ObjectName`] is what a stub's `user.overlay.redirect` holds. With 256-byte inodes ext4 keeps that value inside
//! the inode up to 24 bytes (measured on kernel 6.18); one byte more costs a 4 KiB block per file. Hence `/x/` and
//! 21 characters of the base64url digest: 132 bits (why not `/xx/` and 20: `docs/decisions/001-object-shards.md`). The full digest is kept beside the object; should two
//! digests ever share these bits, the second gets the long form of all 43 characters.
//!
//! Sources: OCI image-spec, descriptor.md "Digests"; RFC 4648 section 5; `docs/formats/object-names.md`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The SHA-256 of some bytes, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; Digest::BYTES]);

/// Why a text is no digest that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon between an algorithm and a value.
    #[error("reading digest {0:?}: expected sha256: and 64 hexadecimal digits")]
    Form(String),
    /// The algorithm is another one than sha256.
    #[error("reading digest with algorithm {0:?}: only sha256 is supported")]
    Algorithm(String),
    /// The value is not 64 lower-case hexadecimal digits.
    #[error("reading digest {0:?}: the value must be 64 lower-case hexadecimal digits")]
    Value(String),
}

impl Digest {
    /// Length of the value in bytes.
    pub const BYTES: usize = 32;
    /// The only algorithm, as written before the colon.
    pub const ALGORITHM: &'static str = "sha256";

    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns the digest whose value is `bytes`, as read back from a record of ours.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns the value.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Reads `sha256:` and 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, value)) = text.split_once(':') else {
            return Err(DigestError::Form(excerpt(text)));
        };
        if algorithm != Self::ALGORITHM {
            return Err(DigestError::Algorithm(excerpt(algorithm)));
        }
        Self::parse_hex(value).ok_or_else(|| DigestError::Value(excerpt(text)))
    }

    /// Reads the 64 lower-case hexadecimal digits alone, as file names have them.
    #[must_use]
    pub fn parse_hex(value: &str) -> Option<Self> {
        let value = value.as_bytes();
        if value.len() != 2 * Self::BYTES {
            return None;
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(value.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// Returns the 64 hexadecimal digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(2 * Self::BYTES);
        for byte in self.0 {
            text.push(char::from(HEX_DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(HEX_DIGITS[usize::from(byte & 15)]));
        }
        text
    }

    /// Returns the first twelve hexadecimal digits: what people see.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.hex();
        text.truncate(12);
        text
    }

    /// Returns the name under which every store keeps these bytes.
    #[must_use]
    pub fn object_name(&self) -> ObjectName {
        ObjectName::of(self)
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Cuts what a stranger wrote to a length that fits an error line.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 96;
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", Self::ALGORITHM, self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(input)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A SHA-256 in progress: fed piece by piece, read at the end.
#[derive(Clone, Default)]
pub struct Hasher {
    state: Sha256,
    fed_bytes: u64,
}

impl Hasher {
    /// Returns a hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.fed_bytes += bytes.len() as u64;
    }

    /// Returns how many bytes were taken so far.
    #[must_use]
    pub const fn fed_bytes(&self) -> u64 {
        self.fed_bytes
    }

    /// Returns the digest of all bytes taken.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Hasher")
            .field("fed_bytes", &self.fed_bytes)
            .finish_non_exhaustive()
    }
}

/// The name of an object below a store's `objects/`: one character, a slash, and the rest.
///
/// The same digest has the same name in every store, or two data layers of one mount would give each other's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Zero behind the last character: both forms are told apart by that.
    text: [u8; ObjectName::LONG_CHARS],
}

impl ObjectName {
    /// Characters of the usual form, without slashes.
    pub const SHORT_CHARS: usize = 22;
    /// Characters of the form that a clash gets: the whole digest.
    pub const LONG_CHARS: usize = 43;
    /// Characters of the directory's name.
    pub const SHARD_CHARS: usize = 1;

    /// Returns the usual name of the object with this digest.
    #[must_use]
    pub fn of(digest: &Digest) -> Self {
        let mut name = Self::long(digest);
        // Equal names must have equal bytes: what is not shown is zero.
        name.text[Self::SHORT_CHARS..].fill(0);
        name
    }

    /// Returns the name with all characters, for an object whose usual name is taken by another digest.
    #[must_use]
    pub fn long(digest: &Digest) -> Self {
        let mut text = [0; Self::LONG_CHARS];
        for (place, slot) in text.iter_mut().enumerate() {
            *slot = NAME_DIGITS[usize::from(six_bits(digest.as_bytes(), place))];
        }
        Self { text }
    }

    /// Reads `x/rest`, or `/x/rest` as a redirect has it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let (shard, rest) = text.split_once('/')?;
        let chars = shard.len() + rest.len();
        if shard.len() != Self::SHARD_CHARS
            || (chars != Self::SHORT_CHARS && chars != Self::LONG_CHARS)
            || !shard
                .bytes()
                .chain(rest.bytes())
                .all(|byte| NAME_DIGITS.contains(&byte))
        {
            return None;
        }
        let mut name = Self {
            text: [0; Self::LONG_CHARS],
        };
        for (slot, byte) in name.text.iter_mut().zip(shard.bytes().chain(rest.bytes())) {
            *slot = byte;
        }
        Some(name)
    }

    fn as_str(&self) -> &str {
        let chars = if self.text[Self::SHORT_CHARS] == 0 {
            Self::SHORT_CHARS
        } else {
            Self::LONG_CHARS
        };
        std::str::from_utf8(&self.text[..chars]).unwrap_or_default()
    }

    /// Returns the directory's name: the first character.
    #[must_use]
    pub fn shard(&self) -> &str {
        &self.as_str()[..Self::SHARD_CHARS]
    }

    /// Returns the file's name in that directory.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.as_str()[Self::SHARD_CHARS..]
    }

    /// Returns the value of `user.overlay.redirect`: `/x/rest`, 24 bytes in the usual form.
    #[must_use]
    pub fn redirect(&self) -> String {
        format!("/{self}")
    }
}

/// RFC 4648 section 5, in the order of the values.
const NAME_DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Returns the six bits of `bytes` that the base64 character at `place` stands for; past the end they are zero.
fn six_bits(bytes: &[u8], place: usize) -> u8 {
    let first_bit = place * 6;
    let at = |byte: usize| u16::from(bytes.get(byte).copied().unwrap_or(0));
    let window = at(first_bit / 8) << 8 | at(first_bit / 8 + 1);
    let [_, low] = (window >> (10 - first_bit % 8)).to_be_bytes();
    low & 0x3f
}

impl fmt::Display for ObjectName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.shard(), self.rest())
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_is_written_as_it_is_read() {
        let digest = Digest::parse(EMPTY).unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(
            serde_json::to_string(&digest).unwrap(),
            format!("{EMPTY:?}")
        );
        assert_eq!(
            serde_json::from_str::<Digest>(&format!("{EMPTY:?}")).unwrap(),
            digest
        );
    }

    #[test]
    fn a_text_that_is_no_digest_is_refused() {
        for text in [
            "",
            "sha256",
            "sha256:",
            "sha256:e3b0",
            "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "SHA256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 ",
            "sha256:../../c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert!(
                Digest::parse(text).is_err(),
                "{text:?} was taken for a digest"
            );
        }
    }

    #[test]
    fn hashing_in_pieces_equals_hashing_at_once() {
        let mut hasher = Hasher::new();
        for piece in [&b"wolf"[..], b"", b"fia"] {
            hasher.update(piece);
        }
        assert_eq!(hasher.fed_bytes(), 7);
        assert_eq!(hasher.finish(), Digest::of(b"wolffia"));
    }

    #[test]
    fn object_name_fits_the_inode() {
        let name = Digest::of(b"").object_name();
        assert_eq!(name.redirect(), "/4/7DEQpj8HBSa-_TImW-5JC");
        assert_eq!(name.redirect().len(), 24);
        assert_eq!((name.shard(), name.rest()), ("4", "7DEQpj8HBSa-_TImW-5JC"));
        let long = ObjectName::long(&Digest::of(b""));
        assert_eq!(
            long.to_string(),
            "4/7DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
        );
        for name in [name, long] {
            assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
            assert_eq!(ObjectName::parse(&name.redirect()), Some(name));
        }
    }

    #[test]
    fn a_text_that_is_no_object_name_is_refused() {
        for text in [
            "",
            "47",
            "47/",
            "47/DEQpj8HBSa-_TImW-5JC",
            "../DEQpj8HBSa-_TImW-5JC",
            "4/7DEQpj8HBSa-_TImW-5J/",
        ] {
            assert_eq!(ObjectName::parse(text), None, "{text:?}");
        }
    }
}
