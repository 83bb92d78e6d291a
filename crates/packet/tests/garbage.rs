// SPDX-License-Identifier: Apache-2.0
//! Whatever a guest sends: no panic, and nothing kept beyond the bounds. Among it the packets that felled other stacks.

#![expect(
    clippy::cast_possible_truncation,
    reason = "numbers that make up content"
)]
#![expect(clippy::unwrap_used, reason = "of constants, in what the tests share")]

use std::net::SocketAddr;

use proptest::prelude::*;
use wolffia_packet::{
    Config, Datagram, Echo, Event, FlowId, Gso, Limits, Network4, Network6, Offload, Sent, Sink,
    Stack, Time, VirtioHeader,
};

const OURS: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 100];

#[derive(Default)]
struct Counter {
    bytes: usize,
    datagrams: usize,
    echoes: usize,
}

impl Sink for Counter {
    fn tcp(&mut self, _: FlowId, payload: &[u8]) -> usize {
        self.bytes += payload.len();
        payload.len() / 2
    }

    fn udp(&mut self, datagram: Datagram<'_>) {
        assert!(datagram.payload.len() < 65_536);
        self.datagrams += 1;
    }

    fn echo(&mut self, _: Echo<'_>) {
        self.echoes += 1;
    }
}

fn stack() -> Stack {
    let limits = Limits {
        flows_max: 64,
        half_open_max: 32,
        memory_bytes_max: 4 << 20,
        ..Limits::default()
    };
    Stack::new(Config {
        mtu: 1500,
        mac: OURS,
        v4: Some(Network4::new([10, 0, 2, 0].into(), 24).unwrap()),
        v6: Some(Network6::new("fd00::".parse().unwrap(), 64).unwrap()),
        offload: Offload::ALL,
        limits,
        secret: [7; 16],
    })
    .unwrap()
}

/// Plays frames to a stack whose caller accepts everything; returns how much was answered.
fn play(stack: &mut Stack, frames: &[(VirtioHeader, Vec<u8>)]) -> (usize, Counter) {
    let mut counter = Counter::default();
    let mut answers = 0;
    for (n, (header, frame)) in frames.iter().enumerate() {
        let now = Time::from_millis(n as u64 * 3);
        stack.receive(now, header, frame, &mut counter);
        while let Some(event) = stack.next_event() {
            if let Event::TcpConnect { flow, .. } = event {
                stack.accept(now, flow);
                stack.produce(flow, 0);
            }
        }
        stack.advance(now);
        stack.transmit(now, &mut |_, slices| {
            answers += slices.iter().map(|slice| slice.len()).sum::<usize>();
            Sent::Taken
        });
        let usage = stack.usage();
        assert!(
            usage.flows <= 64 && usage.memory_bytes <= 4 << 20,
            "{usage:?}"
        );
    }
    (answers, counter)
}

fn ip4(protocol: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&OURS[..], &GUEST, &[8, 0]].concat();
    let mut header = [
        0x45, 0, 0, 0, 0, 9, 0, 0, 64, protocol, 0, 0, 10, 0, 2, 100, 192, 0, 2, 1,
    ];
    header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    header[6..8].copy_from_slice(&flags.to_be_bytes());
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes.extend(header);
    bytes.extend(payload);
    bytes
}

fn ip6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&OURS[..], &GUEST, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([protocol, 64]);
    bytes.extend("fd00::100".parse::<std::net::Ipv6Addr>().unwrap().octets());
    bytes.extend(
        "2001:db8::1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    bytes.extend(payload);
    bytes
}

fn tcp(sequence: u32, flags: u8, urgent: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x40, 0, 0, 80];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0]);
    bytes.extend(urgent.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn unchecked() -> VirtioHeader {
    VirtioHeader {
        checksum_is_valid: true,
        ..VirtioHeader::default()
    }
}

#[test]
fn packets_that_felled_other_stacks_do_no_harm() {
    let udp = |from: u16, to: u16, length: u16, payload: &[u8]| {
        let words = [from, to, length, 0];
        [
            &words
                .iter()
                .flat_map(|word| word.to_be_bytes())
                .collect::<Vec<u8>>(),
            payload,
        ]
        .concat()
    };
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        (
            "CVE-2019-14378, CVE-2019-15890, CVE-2020-1983: first fragment larger than the rest",
            vec![
                ip4(17, 0x2000, &[1; 1480]),
                ip4(17, 0x2001, &[2; 1480]),
                ip4(17, 0x00b9, &[3; 9]),
            ],
        ),
        (
            "last fragment alone, at the very end",
            vec![ip4(6, 0x1fff, &[1; 100]), ip4(6, 0x3fff, &[1; 1480])],
        ),
        (
            "CVE-2019-6778, CVE-2020-7039: ident and IRC, which some stacks rewrite",
            vec![
                ip4(6, 0, &tcp(1, 2, 0, b"")),
                ip4(6, 0, &tcp(2, 16, 0, b"DCC SEND x 1 1 1\r\n113,113\r\n")),
            ],
        ),
        (
            "CVE-2020-10756: an echo of ICMPv6 shorter than it says",
            vec![ip6(58, &[128, 0, 0, 0]), ip6(58, &[]), ip6(58, &[128; 7])],
        ),
        (
            "CVE-2020-29130: a short ARP",
            vec![[&[0xff; 6][..], &GUEST, &[8, 6, 0, 1, 8, 0, 6, 4, 0]].concat()],
        ),
        (
            "CVE-2021-3592..3595: short bootp, udp, udp6, tftp",
            vec![
                ip4(17, 0, &udp(68, 67, 12, &[1, 1, 6, 0])),
                ip4(17, 0, &[0, 68, 0]),
                ip6(17, &[0, 68, 0, 69, 0]),
                ip4(17, 0, &udp(1000, 69, 9, &[0])),
                ip6(17, &udp(1000, 69, 60_000, &[0])),
            ],
        ),
        (
            "CVE-2026-9539: an urgent pointer beyond what there is",
            vec![
                ip4(6, 0, &tcp(1, 2, 0, b"")),
                ip4(6, 0, &tcp(2, 0x30, 0xffff, b"x")),
                ip4(6, 0, &tcp(3, 0x30, 1, b"")),
            ],
        ),
        (
            "pasta: broadcast and multicast",
            vec![
                [&[0xff; 6][..], &ip4(17, 0, &udp(1, 2, 8, &[]))[6..]].concat(),
                [
                    &[0x33, 0x33, 0, 0, 0, 1][..],
                    &ip6(17, &udp(1, 2, 8, &[]))[6..],
                ]
                .concat(),
            ],
        ),
    ];
    for (what, frames) in cases {
        let mut stack = stack();
        let frames: Vec<_> = frames
            .into_iter()
            .map(|frame| (unchecked(), frame))
            .collect();
        let (_, counter) = play(&mut stack, &frames);
        // Two of the short ones are whole for UDP, and are for strangers: it is not for us to judge their content.
        let passed_on = if what.contains("bootp") { 2 } else { 0 };
        assert_eq!(
            (counter.datagrams, counter.echoes),
            (passed_on, 0),
            "{what}"
        );
    }
}

#[test]
fn a_flood_of_syns_stays_within_the_bounds_and_leaves_others_alone() {
    let mut stack = stack();
    let mut counter = Counter::default();
    for n in 0..20_000_u32 {
        let mut frame = ip4(6, 0, &tcp(n, 2, 0, b""));
        frame[34..36].copy_from_slice(&(n as u16 | 1).to_be_bytes());
        stack.receive(
            Time::from_nanos(n.into()),
            &unchecked(),
            &frame,
            &mut counter,
        );
        assert!(stack.usage().flows <= 32 && stack.usage().memory_bytes <= 4 << 20);
    }
    let from: SocketAddr = "10.0.2.2:1".parse().unwrap();
    assert!(
        stack
            .connect(Time::ZERO, from, "10.0.2.100:80".parse().unwrap())
            .is_ok()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn garbage_can_neither_panic_nor_grow(
        pieces in prop::collection::vec(
            (any::<u8>(), prop::collection::vec(any::<u8>(), 0..120), any::<u16>(), any::<[u8; 4]>()),
            1..60,
        ),
    ) {
        let mut stack = stack();
        let frames: Vec<_> = pieces.into_iter().map(|(kind, bytes, word, noise)| {
            let mut frame = match kind % 8 {
                0 => bytes,
                1 => ip4(6, 0, &tcp(u32::from(word % 64), noise[0] & 0x3f, word, &bytes)),
                2 => ip4(6, 0, &tcp(u32::from(word), noise[0], word, &bytes)),
                3 => ip4(17, word & 0x3fff, &bytes),
                4 => ip6(noise[1], &bytes),
                5 => ip4(noise[1], word, &bytes),
                6 => ip6(44, &[&[17, 0][..], &word.to_be_bytes(), &noise, &bytes].concat()),
                _ => [&OURS[..], &GUEST, &[8, 6], &bytes].concat(),
            };
            if kind & 0x80 != 0 && frame.len() > 20 {
                let at = usize::from(word) % frame.len();
                frame[at] ^= noise[2];
            }
            let gso = [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp, Gso::Unknown][usize::from(noise[3]) % 5];
            (VirtioHeader { gso, segment_bytes: word, ..unchecked() }, frame)
        }).collect();
        play(&mut stack, &frames);
    }
}
