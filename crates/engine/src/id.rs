// SPDX-License-Identifier: Apache-2.0
//! What containers are called: 64 hexadecimal digits, and a name a person can say.
//!
//! Ids are 32 random bytes; a unique prefix stands for one. Names that nobody chose are an adjective and a plant.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Digits of an id that are shown.
pub const SHORT_DIGITS: usize = 12;

/// Names longer than this are refused: a name is also a file name and, by default, part of a host name.
pub const NAME_BYTES_MAX: usize = 128;

const DIGITS: usize = 64;

/// The id of a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// The name of a container: letters, digits, `_`, `.`, `-`, starting with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

/// A text that names no container.
#[derive(Debug, Error)]
pub enum BadName {
    /// Not 64 hexadecimal digits.
    #[error("{0:?} is not a container id: 64 hexadecimal digits")]
    Id(String),
    /// Letters that a name may not have.
    #[error(
        "{0:?} is not a container name: letters, digits, '_', '.', '-', the first a letter or digit, at most {NAME_BYTES_MAX}"
    )]
    Name(String),
    /// The kernel gave no random bytes.
    #[error("reading random bytes for a container id")]
    Random(#[source] rustix::io::Errno),
}

impl ContainerId {
    /// Makes a new id from the kernel's random bytes.
    pub fn generate() -> Result<ContainerId, BadName> {
        let bytes: [u8; DIGITS / 2] = random()?;
        Ok(ContainerId(hex(&bytes)))
    }

    /// Returns all 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the 12 digits that are shown.
    pub fn short(&self) -> &str {
        &self.0[..SHORT_DIGITS]
    }
}

impl ContainerName {
    /// Makes up a name; `attempt` above zero adds a number, for when the plain ones are taken.
    pub fn generate(attempt: u32) -> Result<ContainerName, BadName> {
        let bytes: [u8; 4] = random()?;
        let pick = |low: u8, high: u8, words: &[&'static str]| {
            words[usize::from(u16::from_le_bytes([low, high])) % words.len()]
        };
        let adjective = pick(bytes[0], bytes[1], ADJECTIVES);
        let plant = pick(bytes[2], bytes[3], PLANTS);
        Ok(ContainerName(match attempt {
            0 => format!("{adjective}_{plant}"),
            _ => format!("{adjective}_{plant}{attempt}"),
        }))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], BadName> {
    let mut bytes = [0; BYTES];
    let mut filled = 0;
    while filled < BYTES {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(BadName::Random(error)),
        }
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(LETTERS[usize::from(digit)]))
        .collect()
}

impl FromStr for ContainerId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<ContainerId, BadName> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == DIGITS && text.bytes().all(is_digit) {
            Ok(ContainerId(text.to_owned()))
        } else {
            Err(BadName::Id(text.to_owned()))
        }
    }
}

impl FromStr for ContainerName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<ContainerName, BadName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let starts = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if starts && text.len() <= NAME_BYTES_MAX && text.bytes().all(allowed) {
            Ok(ContainerName(text.to_owned()))
        } else {
            Err(BadName::Name(text.to_owned()))
        }
    }
}

impl TryFrom<String> for ContainerId {
    type Error = BadName;
    fn try_from(text: String) -> Result<ContainerId, BadName> {
        text.parse()
    }
}

impl TryFrom<String> for ContainerName {
    type Error = BadName;
    fn try_from(text: String) -> Result<ContainerName, BadName> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0
    }
}

impl From<ContainerName> for String {
    fn from(name: ContainerName) -> String {
        name.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

const ADJECTIVES: &[&str] = &[
    "airy", "amber", "ample", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid",
    "clear", "clever", "cosy", "crisp", "curious", "dapper", "deft", "eager", "early", "easy",
    "fair", "fleet", "fond", "fresh", "gentle", "glad", "golden", "grand", "green", "happy",
    "hardy", "honest", "humble", "jolly", "keen", "kind", "light", "lively", "lucid", "lucky",
    "mellow", "merry", "mild", "mossy", "neat", "nimble", "noble", "patient", "placid", "plucky",
    "polite", "proud", "quick", "quiet", "ready", "rosy", "serene", "shy", "silent", "silver",
    "sleek", "smart", "snug", "steady", "still", "sunny", "swift", "tender", "thrifty", "tidy",
    "tiny", "true", "upright", "vivid", "warm", "wary", "wild", "windy", "wise", "witty", "young",
    "zesty",
];

const PLANTS: &[&str] = &[
    "acacia",
    "alder",
    "aloe",
    "anemone",
    "apple",
    "arnica",
    "ash",
    "aspen",
    "aster",
    "azalea",
    "balsam",
    "bamboo",
    "basil",
    "beech",
    "begonia",
    "birch",
    "bluebell",
    "borage",
    "bracken",
    "bramble",
    "briar",
    "broom",
    "burdock",
    "cactus",
    "camellia",
    "campion",
    "cedar",
    "celandine",
    "cherry",
    "chestnut",
    "chicory",
    "clover",
    "columbine",
    "comfrey",
    "cornel",
    "cowslip",
    "cress",
    "crocus",
    "cypress",
    "dahlia",
    "daisy",
    "dill",
    "dogwood",
    "duckweed",
    "elder",
    "elm",
    "fennel",
    "fern",
    "fig",
    "flax",
    "foxglove",
    "fuchsia",
    "gentian",
    "ginger",
    "ginkgo",
    "gorse",
    "hawthorn",
    "hazel",
    "heather",
    "hellebore",
    "hemlock",
    "holly",
    "hornbeam",
    "horsetail",
    "hosta",
    "hyacinth",
    "iris",
    "ivy",
    "jasmine",
    "juniper",
    "kelp",
    "larch",
    "larkspur",
    "laurel",
    "lavender",
    "lemon",
    "lichen",
    "lilac",
    "lily",
    "linden",
    "lotus",
    "lupin",
    "magnolia",
    "mallow",
    "maple",
    "marigold",
    "marjoram",
    "melissa",
    "mimosa",
    "mint",
    "mistletoe",
    "moss",
    "mulberry",
    "myrtle",
    "nettle",
    "oak",
    "oleander",
    "olive",
    "orchid",
    "osier",
    "oxalis",
    "palm",
    "pansy",
    "peony",
    "pine",
    "plantain",
    "plum",
    "poplar",
    "poppy",
    "primrose",
    "privet",
    "quince",
    "reed",
    "rosemary",
    "rowan",
    "rush",
    "saffron",
    "sage",
    "sedge",
    "sorrel",
    "spruce",
    "sumac",
    "sundew",
    "tamarisk",
    "tansy",
    "teasel",
    "thistle",
    "thyme",
    "trefoil",
    "tulip",
    "valerian",
    "verbena",
    "vetch",
    "vine",
    "viola",
    "walnut",
    "willow",
    "wisteria",
    "wolffia",
    "woodruff",
    "yarrow",
    "yew",
    "yucca",
    "zinnia",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_digits_and_differ() {
        let (one, other) = (
            ContainerId::generate().unwrap(),
            ContainerId::generate().unwrap(),
        );
        assert_ne!(one, other);
        assert_eq!(one.as_str().parse::<ContainerId>().unwrap(), one);
        assert_eq!(one.short().len(), SHORT_DIGITS);
        assert!("abc".parse::<ContainerId>().is_err());
    }

    #[test]
    fn names_are_file_names() {
        for good in ["a", "web-1", "A.b_c"] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good}");
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for bad in ["", "-a", ".hidden", "a/b", "a b", "ä", long.as_str()] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad}");
        }
        for attempt in 0..200 {
            let name = ContainerName::generate(attempt % 3).unwrap();
            assert!(name.as_str().parse::<ContainerName>().is_ok(), "{name}");
        }
    }
}
