// SPDX-License-Identifier: Apache-2.0
//! A socket address as a program handed it to the kernel: bytes to a [`SocketAddr`].
//!
//! Sources: ip(7), ipv6(7), `include/uapi/linux/{in,in6}.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest address that the kernel looks at (`struct sockaddr_storage`), bytes.
pub(super) const ADDRESS_BYTES_MAX: usize = 128;

const INET: u16 = 2;
const INET6: u16 = 10;
/// `sizeof(struct sockaddr_in)`: the kernel refuses less.
const INET_BYTES: usize = 16;
/// `SIN6_LEN_RFC2133`: the kernel refuses less, and takes the scope where there is more.
const INET6_BYTES_MIN: usize = 24;
const INET6_BYTES: usize = 28;

/// Returns the address, IPv4 in its plain form also where it was written as a mapped one; `None` for all other families and for
/// what the kernel would refuse. An address that is only of meaning together with a device is none either.
pub(super) fn read(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match family {
        INET if bytes.len() >= INET_BYTES => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv4Addr::from(octets).into(), port))
        }
        INET6 if bytes.len() >= INET6_BYTES_MIN => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope = bytes.get(24..INET6_BYTES).unwrap_or(&[0; 4]);
            if scope != [0; 4] {
                return None;
            }
            let address = IpAddr::V6(Ipv6Addr::from(octets)).to_canonical();
            Some(SocketAddr::new(address, port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v6(octets: [u8; 16], scope: u32) -> Vec<u8> {
        let mut bytes = INET6.to_ne_bytes().to_vec();
        bytes.extend(80_u16.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(octets);
        bytes.extend(scope.to_ne_bytes());
        bytes
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let mut v4 = INET.to_ne_bytes().to_vec();
        v4.extend(443_u16.to_be_bytes());
        v4.extend([192, 0, 2, 9]);
        v4.extend([0; 8]);
        assert_eq!(read(&v4), Some("192.0.2.9:443".parse().unwrap()));
        assert_eq!(read(&v4[..15]), None);
        let plain: Ipv6Addr = "2001:db8::7".parse().unwrap();
        assert_eq!(
            read(&v6(plain.octets(), 0)),
            Some("[2001:db8::7]:80".parse().unwrap())
        );
        assert_eq!(
            read(&v6(plain.octets(), 0)[..24]),
            Some("[2001:db8::7]:80".parse().unwrap())
        );
        assert_eq!(read(&v6(plain.octets(), 0)[..23]), None);
        // A way round a rule about 127.0.0.1.
        let mapped: Ipv6Addr = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!(
            read(&v6(mapped.octets(), 0)),
            Some("127.0.0.1:80".parse().unwrap())
        );
        let scoped: Ipv6Addr = "fe80::1".parse().unwrap();
        assert_eq!(read(&v6(scoped.octets(), 2)), None);
        for other in [[0, 0], [1, 0], [16, 0]] {
            assert_eq!(read(&[other.as_slice(), &[0; 26]].concat()), None);
        }
        assert_eq!(read(&[2]), None);
    }
}
