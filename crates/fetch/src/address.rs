// SPDX-License-Identifier: Apache-2.0
//! An http or https address, as far as a registry client needs one.
//!
//! Its `Debug` and its texts leave out the query: registries redirect to signed addresses, and such an address is a
//! credential. Source: RFC 3986 5 (relative references), of which the forms that servers send in `Location` are read.

use std::fmt;

use ureq::http::Uri;

/// An absolute http or https address with a host.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address(Uri);

impl Address {
    /// Reads an absolute address; a fragment is dropped, a name with a password in it refused.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.split('#').next()?;
        let uri: Uri = text.parse().ok()?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority()?.as_str();
        (is_http && !authority.is_empty() && !authority.contains('@')).then_some(Self(uri))
    }

    /// Returns what a `Location` in an answer from this address means.
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let location = location.trim();
        let scheme = self.0.scheme_str()?;
        if location.starts_with("http://") || location.starts_with("https://") {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let authority = self.authority();
        if location.starts_with('/') {
            return Self::parse(&format!("{scheme}://{authority}{location}"));
        }
        let path = self.0.path();
        let directory = path.rsplit_once('/').map_or("", |(before, _)| before);
        Self::parse(&format!("{scheme}://{authority}{directory}/{location}"))
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Returns `host` or `host:port`, as written.
    pub(crate) fn authority(&self) -> &str {
        self.0
            .authority()
            .map_or("", |authority| authority.as_str())
    }

    /// Returns the host without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.0.host().unwrap_or("").trim_matches(['[', ']'])
    }

    pub(crate) fn port(&self) -> u16 {
        let default_port = if self.is_https() { 443 } else { 80 };
        self.0.port_u16().unwrap_or(default_port)
    }

    /// Tells whether both addresses are of one scheme, host and port: the border that credentials do not cross.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        self.is_https() == other.is_https()
            && self.host().eq_ignore_ascii_case(other.host())
            && self.port() == other.port()
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        write!(
            formatter,
            "{scheme}://{}{}",
            self.authority(),
            self.0.path()
        )
    }
}

/// Appends `text` to a query or form, everything but unreserved characters written as `%XX` (RFC 3986 2.3).
pub(crate) fn push_encoded(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined_as_rfc_3986_says() {
        let base = Address::parse("https://a.test:5000/v2/x/blobs/y?z=1").unwrap();
        let cases = [
            ("http://b.test/c?sig=1#f", Some("http://b.test/c?sig=1")),
            ("//b.test/c", Some("https://b.test/c")),
            ("/c?d", Some("https://a.test:5000/c?d")),
            ("c", Some("https://a.test:5000/v2/x/blobs/c")),
            ("https://user:word@b.test/", None),
            ("http:///x", None),
        ];
        for (location, expected) in cases {
            let joined = base.join(location).map(|address| address.uri().to_string());
            assert_eq!(joined.as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn debug_shows_no_query() {
        let address = Address::parse("https://a.test/b?signature=hunter2").unwrap();
        assert_eq!(format!("{address:?}"), "https://a.test/b");
    }

    #[test]
    fn origin_is_scheme_host_and_port() {
        let origin = |text| Address::parse(text).unwrap();
        let base = origin("https://a.test/x");
        assert!(base.same_origin(&origin("https://A.test:443/y")));
        for other in ["http://a.test/x", "https://a.test:444/", "https://b.test/"] {
            assert!(!base.same_origin(&origin(other)), "{other}");
        }
    }
}
