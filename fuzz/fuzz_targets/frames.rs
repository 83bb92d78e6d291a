// SPDX-License-Identifier: Apache-2.0
//! Any bytes as frames from a guest: no panic, and nothing kept beyond the bounds.
//!
//! Each frame is a length of two bytes, a byte that says what the virtio header is like, and content. Sums count as checked.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wolffia_packet::{
    Config, Datagram, Echo, Event, Gso, Limits, Network4, Network6, Offload, Sent, Sink, Stack,
    Time, VirtioHeader,
};

struct Nobody;

impl Sink for Nobody {
    fn udp(&mut self, _: Datagram<'_>) {}

    fn echo(&mut self, _: Echo<'_>) {}
}

fuzz_target!(|input: &[u8]| {
    let limits = Limits {
        flows_max: 64,
        half_open_max: 32,
        memory_bytes_max: 4 << 20,
        ..Limits::default()
    };
    let mut stack = Stack::new(Config {
        mtu: 1500,
        mac: [0x52, 0x55, 10, 0, 2, 2],
        v4: Some(Network4::new([10, 0, 2, 0].into(), 24).expect("a network")),
        v6: Some(Network6::new("fd00::".parse().expect("an address"), 64).expect("a network")),
        offload: Offload::ALL,
        limits,
        secret: [7; 16],
    })
    .expect("a configuration that can be");
    let mut rest = input;
    let mut now = 0;
    while let [high, low, kind, behind @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(behind.len());
        let (frame, others) = behind.split_at(length);
        rest = others;
        now += u64::from(*kind) << 20;
        let gso = [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp][usize::from(kind % 4)];
        let header = VirtioHeader {
            checksum_is_valid: true,
            gso,
            segment_bytes: 1400,
            ..VirtioHeader::default()
        };
        let time = Time::from_nanos(now);
        stack.receive(time, &header, frame, &mut Nobody);
        while let Some(event) = stack.next_event() {
            match event {
                Event::TcpConnect { flow, .. } => stack.accept(time, flow),
                Event::TcpReadable(flow) => stack.consume(flow, usize::from(*low)),
                _ => {}
            }
        }
        stack.advance(time);
        stack.transmit(time, &mut |_, _| Sent::Taken);
        let usage = stack.usage();
        assert!(usage.flows <= 64 && usage.memory_bytes <= 4 << 20);
    }
});
