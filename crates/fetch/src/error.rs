// SPDX-License-Identifier: Apache-2.0
//! What can go wrong while bytes are fetched, and what a person can do about it.
//!
//! One enum for the room, because its callers ask three questions only: is it worth another try ([`Error::is_transient`]),
//! what do I tell the person ([`Error::hint`]), and is the thing simply not there ([`Error::is_not_found`]). Readers are
//! `std::io::Read`, so an error may travel inside an [`io::Error`]; [`Error::of_io`] takes it out again.
//!
//! No text here holds a credential, a token, or the query of an address (a signed address is a credential).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use wolffia_image::Digest;
use wolffia_image::manifest::ManifestError;

use crate::credentials::CredentialError;
use crate::http::Fault;
use crate::registries::RegistriesError;

/// Why bytes did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The exchange with a host failed below HTTP.
    #[error("{doing} from {host}")]
    Exchange {
        /// What was being fetched.
        doing: String,
        /// The host that was asked.
        host: String,
        /// What failed.
        source: Fault,
    },
    /// The registry has not got it (404).
    #[error("{doing} from {host}: not found")]
    NotFound {
        /// What was being fetched.
        doing: String,
        /// The host that was asked.
        host: String,
    },
    /// The registry does not let us (401, 403).
    #[error("{doing} from {host}: access denied ({status}{})", spaced(.reason))]
    Denied {
        /// What was being fetched.
        doing: String,
        /// The host that was asked.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says, shortened.
        reason: String,
        /// Whether credentials were given.
        authenticated: bool,
    },
    /// The registry asks us to slow down (429) for longer than is worth waiting.
    #[error("{doing} from {host}: too many requests{}", spaced(.reason))]
    RateLimited {
        /// What was being fetched.
        doing: String,
        /// The host that was asked.
        host: String,
        /// What the registry says, shortened.
        reason: String,
        /// How long the registry wants us to wait, if it says so.
        retry_after: Option<Duration>,
    },
    /// The registry answered with another status than it should.
    #[error("{doing} from {host}: the registry answered {status}{}", spaced(.reason))]
    Status {
        /// What was being fetched.
        doing: String,
        /// The host that was asked.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What the registry says, shortened.
        reason: String,
        /// How long the registry wants us to wait, if it says so.
        retry_after: Option<Duration>,
    },
    /// The answer breaks the protocol.
    #[error("{doing} from {host}: {problem}")]
    Protocol {
        /// What was being fetched.
        doing: String,
        /// The host that was asked.
        host: String,
        /// What is wrong with the answer.
        problem: &'static str,
    },
    /// The bytes are not those that were asked for.
    #[error("{doing}: the bytes that arrived have digest {actual} instead of {expected}")]
    Digest {
        /// What was being fetched.
        doing: String,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// There are more or fewer bytes than announced.
    #[error("{doing}: {actual} bytes instead of {expected}")]
    Size {
        /// What was being fetched.
        doing: String,
        /// The size that the manifest announces.
        expected: u64,
        /// The size that came, or that the sender announces.
        actual: u64,
    },
    /// A document is larger than we are willing to hold.
    #[error("{doing}: more than {limit} bytes")]
    TooLarge {
        /// What was being fetched.
        doing: String,
        /// The most that is taken.
        limit: usize,
    },
    /// The same request failed too often.
    #[error("{doing}: given up after {tries} tries")]
    GivenUp {
        /// What was being fetched.
        doing: String,
        /// How often it was tried since the last byte that arrived.
        tries: u32,
        /// The last failure.
        source: LastFailure,
    },
    /// The registry does not accept a name and password that were to be stored.
    #[error("logging in to {host}: name or password is wrong")]
    Login {
        /// The registry.
        host: String,
    },
    /// The connection broke again and again, with a little progress each time.
    #[error("{doing}: given up after the connection broke {resumes} times")]
    Restless {
        /// What was being fetched.
        doing: String,
        /// How often the download was resumed.
        resumes: u32,
    },
    /// A span was asked for, and the whole blob was answered. The reader of a blob does without spans then.
    #[error("the source serves no spans")]
    NoSpans,
    /// Bytes that a source holds cannot be read.
    #[error("{doing}")]
    Read {
        /// What was being fetched.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// A manifest or index cannot be read.
    #[error("reading the manifest of {reference}")]
    Manifest {
        /// The image.
        reference: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// An index has no image for the wanted platform.
    #[error("{reference} has no image for {wanted} (it has: {offered})")]
    NoPlatform {
        /// The image.
        reference: String,
        /// The wanted platform.
        wanted: String,
        /// The platforms that there are.
        offered: String,
    },
    /// Indexes lead to further indexes without end.
    #[error("reading the manifest of {reference}: indexes nested too deeply")]
    Nesting {
        /// The image.
        reference: String,
    },
    /// `registries.conf` forbids this registry.
    #[error("fetching {reference}: registries.conf blocks this registry")]
    Blocked {
        /// The image.
        reference: String,
    },
    /// A configuration file of registries cannot be read.
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    /// Credentials cannot be read or written.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// A name of a source cannot be read.
    #[error("{0:?} names no image")]
    Name(
        /// What was given.
        String,
        /// Why it is none.
        #[source]
        wolffia_image::reference::ReferenceError,
    ),
    /// A local file cannot be read.
    #[error("reading {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A local file cannot be written.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A document that was to be attached cannot be.
    #[error("writing a document to attach: {problem}")]
    Document {
        /// Why not.
        problem: String,
    },
    /// A local OCI layout does not hold what was asked for.
    #[error("reading the OCI layout {path}: {problem}")]
    Layout {
        /// The layout's directory.
        path: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
}

/// The failure after which a request was given up, told without repeating what was being done.
#[derive(Debug)]
pub struct LastFailure(Box<Error>);

impl LastFailure {
    pub(crate) fn new(error: Error) -> Self {
        Self(Box::new(error))
    }

    /// Returns the failure itself.
    pub fn error(&self) -> &Error {
        &self.0
    }
}

impl std::fmt::Display for LastFailure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.0 {
            Error::Exchange { host, source, .. } => write!(formatter, "{host}: {source}"),
            error => error.fmt(formatter),
        }
    }
}

impl std::error::Error for LastFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Error::Exchange { source, .. } => source.source(),
            error => error.source(),
        }
    }
}

impl Error {
    /// Takes an error of this room out of an [`io::Error`] that a reader returned.
    ///
    /// # Errors
    /// Returns the input where it is of another kind.
    pub fn of_io(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }

    /// Tells whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Exchange { source, .. } => source.is_transient(),
            Self::RateLimited { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Tells whether the thing does not exist, rather than not being reachable.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Tells whether nobody listens there.
    pub(crate) fn is_refused_connection(&self) -> bool {
        matches!(self, Self::Exchange { source: Fault::Connect(error), .. }
            if error.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Returns how long the other side asked us to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Status { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exchange { source, host, .. } => return source.hint(host),
            Self::GivenUp { source, .. } => return source.error().hint(),
            Self::Login { .. } => {
                "some registries want a token made on their web pages instead of the password".to_owned()
            }
            Self::NotFound { host, .. } => format!(
                "check the spelling and the tag; if the image is private, `wolffia login {host}` first"
            ),
            Self::Denied {
                host,
                authenticated: false,
                ..
            } => format!(
                "check the spelling of the name; if the image is private, `wolffia login {host}` first"
            ),
            Self::Denied { host, .. } => format!(
                "the stored credentials for {host} do not suffice; `wolffia login {host}` replaces them"
            ),
            Self::RateLimited { host, .. } => format!(
                "wait a little, or `wolffia login {host}`: registries allow more to those they know"
            ),
            Self::Status { status, .. } if *status >= 500 => {
                "the registry is in trouble; try again later".to_owned()
            }
            Self::Digest { .. } | Self::Size { .. } => {
                "the registry, or a proxy on the way, changes or damages data; nothing of it was kept".to_owned()
            }
            Self::NoPlatform { .. } => "choose one of these with --platform".to_owned(),
            Self::Blocked { .. } => {
                "remove `blocked = true` from registries.conf, or use another registry".to_owned()
            }
            Self::Credentials(error) => return error.hint(),
            _ => return None,
        })
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

/// Returns `: text`, or nothing for an empty text.
fn spaced(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}
