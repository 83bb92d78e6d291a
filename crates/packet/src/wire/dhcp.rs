// SPDX-License-Identifier: Apache-2.0
//! DHCP over IPv4: what a guest asks, and what it is answered (RFC 2131, RFC 2132).

use std::net::Ipv4Addr;

/// Port of the server.
pub const SERVER_PORT: u16 = 67;
/// Port of the client.
pub const CLIENT_PORT: u16 = 68;

/// Length of the fixed part, the cookie included.
const FIXED_BYTES: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Some clients take no message shorter than BOOTP's.
const REPLY_BYTES_MIN: usize = 300;

const OPTION_PAD: u8 = 0;
const OPTION_NETMASK: u8 = 1;
const OPTION_ROUTER: u8 = 3;
const OPTION_DNS: u8 = 6;
const OPTION_MTU: u8 = 26;
const OPTION_BROADCAST: u8 = 28;
const OPTION_ADDRESS: u8 = 50;
const OPTION_LEASE: u8 = 51;
const OPTION_KIND: u8 = 53;
const OPTION_SERVER: u8 = 54;
const OPTION_END: u8 = 255;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who gives addresses?
    Discover,
    /// We do: this one.
    Offer,
    /// May I have it?
    Request,
    /// You have it.
    Acknowledge,
    /// You do not.
    Refuse,
    /// I no longer need it.
    Release,
    /// I have an address; tell me the rest.
    Inform,
}

const KINDS: [(u8, Kind); 7] = [
    (1, Kind::Discover),
    (2, Kind::Offer),
    (3, Kind::Request),
    (5, Kind::Acknowledge),
    (6, Kind::Refuse),
    (7, Kind::Release),
    (8, Kind::Inform),
];

/// What a guest asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What it is; BOOTP without options counts as [`Kind::Discover`].
    pub kind: Kind,
    /// The client's number for the exchange.
    pub transaction: [u8; 4],
    /// The flags, to be repeated.
    pub flags: [u8; 2],
    /// The address that it has.
    pub has: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The address that it wants.
    pub wants: Option<Ipv4Addr>,
    /// Whom it asks, if not everybody.
    pub server: Option<Ipv4Addr>,
}

impl Request {
    /// Reads a request; `None` if it is short, or no request for an Ethernet.
    pub fn parse(bytes: &[u8]) -> Option<Request> {
        let (fixed, mut options) = bytes.split_first_chunk::<FIXED_BYTES>()?;
        if fixed[..3] != [1, 1, 6] || fixed[236..240] != COOKIE {
            return None;
        }
        let address = |bytes: &[u8]| {
            bytes
                .first_chunk::<4>()
                .map(|octets| Ipv4Addr::from(*octets))
        };
        let mut request = Request {
            kind: Kind::Discover,
            transaction: std::array::from_fn(|n| fixed[4 + n]),
            flags: [fixed[10], fixed[11]],
            has: address(&fixed[12..])?,
            mac: std::array::from_fn(|n| fixed[28 + n]),
            wants: None,
            server: None,
        };
        while let [code, rest @ ..] = options {
            match *code {
                OPTION_PAD => {
                    options = rest;
                    continue;
                }
                OPTION_END => break,
                _ => {}
            }
            let (length, rest) = rest.split_first()?;
            let (value, rest) = rest.split_at_checked(usize::from(*length))?;
            options = rest;
            match (*code, value) {
                (OPTION_KIND, [number]) => {
                    request.kind = KINDS.iter().find(|(code, _)| code == number)?.1;
                }
                (OPTION_ADDRESS, [_, _, _, _]) => request.wants = address(value),
                (OPTION_SERVER, [_, _, _, _]) => request.server = address(value),
                _ => {}
            }
        }
        Some(request)
    }
}

/// What a guest is answered.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// What it is.
    pub kind: Kind,
    /// The address that it gets; unspecified in a refusal.
    pub gets: Ipv4Addr,
    /// Our address.
    pub server: Ipv4Addr,
    /// The network's mask.
    pub netmask: Ipv4Addr,
    /// The network's address of everybody.
    pub broadcast: Ipv4Addr,
    /// The name server.
    pub dns: Option<Ipv4Addr>,
    /// The MTU of the link.
    pub mtu: u16,
    /// For how long.
    pub lease_seconds: u32,
}

impl Reply {
    /// Writes the answer to a request.
    pub fn to_bytes(self, request: &Request) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_BYTES];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&request.transaction);
        bytes[10..12].copy_from_slice(&request.flags);
        if self.kind != Kind::Refuse {
            bytes[12..16].copy_from_slice(&request.has.octets());
            bytes[16..20].copy_from_slice(&self.gets.octets());
            bytes[20..24].copy_from_slice(&self.server.octets());
        }
        bytes[28..34].copy_from_slice(&request.mac);
        bytes[236..240].copy_from_slice(&COOKIE);
        let mut put = |code: u8, value: &[u8]| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "options of at most four bytes"
            )]
            bytes.extend([code, value.len() as u8]);
            bytes.extend_from_slice(value);
        };
        let number = KINDS
            .iter()
            .find(|(_, kind)| *kind == self.kind)
            .map_or(0, |(code, _)| *code);
        put(OPTION_KIND, &[number]);
        put(OPTION_SERVER, &self.server.octets());
        if self.kind != Kind::Refuse {
            put(OPTION_LEASE, &self.lease_seconds.to_be_bytes());
            put(OPTION_NETMASK, &self.netmask.octets());
            put(OPTION_BROADCAST, &self.broadcast.octets());
            put(OPTION_ROUTER, &self.server.octets());
            if let Some(dns) = self.dns {
                put(OPTION_DNS, &dns.octets());
            }
            put(OPTION_MTU, &self.mtu.to_be_bytes());
        }
        bytes.push(OPTION_END);
        bytes.resize(bytes.len().max(REPLY_BYTES_MIN), OPTION_PAD);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_BYTES];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        bytes[236..240].copy_from_slice(&COOKIE);
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn requests_are_read_and_short_ones_are_none() {
        let whole = request(&[
            53, 1, 3, 0, 50, 4, 10, 0, 2, 16, 54, 4, 10, 0, 2, 2, 255, 9, 9,
        ]);
        let read = Request::parse(&whole).unwrap();
        assert_eq!((read.kind, read.mac), (Kind::Request, [2, 0, 0, 0, 0, 9]));
        assert_eq!(read.wants, Some(Ipv4Addr::new(10, 0, 2, 16)));
        assert_eq!(read.server, Some(Ipv4Addr::new(10, 0, 2, 2)));
        for length in 0..FIXED_BYTES {
            assert_eq!(Request::parse(&whole[..length]), None, "{length}");
        }
        for options in [
            &[53][..],
            &[53, 1],
            &[53, 9, 1],
            &[53, 1, 77],
            &[12, 255, 1],
        ] {
            assert_eq!(Request::parse(&request(options)), None, "{options:?}");
        }
        assert_eq!(
            Request::parse(&request(&[])).map(|one| one.kind),
            Some(Kind::Discover)
        );
    }

    #[test]
    fn replies_say_everything_a_guest_needs() {
        let asked = Request::parse(&request(&[53, 1, 1, 255])).unwrap();
        let reply = Reply {
            kind: Kind::Offer,
            gets: Ipv4Addr::new(10, 0, 2, 15),
            server: Ipv4Addr::new(10, 0, 2, 2),
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            broadcast: Ipv4Addr::new(10, 0, 2, 255),
            dns: Some(Ipv4Addr::new(10, 0, 2, 3)),
            mtu: 1500,
            lease_seconds: 86_400,
        };
        let bytes = reply.to_bytes(&asked);
        assert_eq!(
            (bytes[0], &bytes[4..8], &bytes[16..20]),
            (2, &[1, 2, 3, 4][..], &[10, 0, 2, 15][..])
        );
        for option in [
            &[53, 1, 2][..],
            &[3, 4, 10, 0, 2, 2],
            &[6, 4, 10, 0, 2, 3],
            &[26, 2, 5, 220],
        ] {
            assert!(
                bytes.windows(option.len()).any(|window| window == option),
                "{option:?}"
            );
        }
        assert!(bytes.len() >= REPLY_BYTES_MIN);
    }
}
