// SPDX-License-Identifier: Apache-2.0
//! The control socket as slirp4netns has it: one JSON request per connection, one answer, closed.
//!
//! # Theory of operation
//! Requests are `{"execute": NAME, "arguments": {..}}`; names are `add_hostfwd`, `list_hostfwd`, `remove_hostfwd`. Answers and texts of errors are
//! those of the peer, which programs compare. Two things are mended: a list is given under `return.entries`, where the protocol puts it, and
//! under `entries`, where programs have learnt to look; and a request that lacks something is refused, whatever it lacks, and never ends us.
//!
//! A client has [`PATIENCE`] and [`REQUEST_BYTES_MAX`]; there are [`CLIENTS_MAX`] at once. Nothing here waits: packets move on meanwhile.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
    net::{SendFlags, send},
};
use serde_json::{Value, json};
use wolffia_packet::Time;

use super::{
    datagram::Datagrams,
    forward::{self, Forward, Forwards},
    token,
};
use crate::ports::Protocol;

/// A request's length, as the peer has it.
const REQUEST_BYTES_MAX: usize = 4096;
/// Clients at once.
const CLIENTS_MAX: usize = 16;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket and who is connected to it.
#[derive(Debug)]
pub(crate) struct Control {
    listener: OwnedFd,
    clients: Vec<Option<Client>>,
    guest: Ipv4Addr,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    said: Vec<u8>,
    since: Time,
}

impl Control {
    /// Serves this listener; `guest` is meant where a request names no address inside.
    pub(crate) fn new(listener: OwnedFd, guest: Ipv4Addr) -> Control {
        Control {
            listener,
            clients: Vec::new(),
            guest,
        }
    }

    pub(crate) fn listener(&self) -> &OwnedFd {
        &self.listener
    }

    /// Takes a client.
    pub(crate) fn accept(&mut self, epoll: &OwnedFd, now: Time) {
        let Ok(socket) = forward::accept(&self.listener) else {
            return;
        };
        let slot = match self.clients.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if self.clients.len() < CLIENTS_MAX => {
                self.clients.push(None);
                self.clients.len() - 1
            }
            None => return,
        };
        let data = EventData::new_u64(token::client(slot));
        if epoll::add(epoll, &socket, data, EventFlags::IN | EventFlags::RDHUP).is_ok() {
            self.clients[slot] = Some(Client {
                socket,
                said: Vec::new(),
                since: now,
            });
        }
    }

    /// Ends who says nothing.
    pub(crate) fn sweep(&mut self, now: Time) {
        for client in &mut self.clients {
            if client
                .as_ref()
                .is_some_and(|client| now.since(client.since) > PATIENCE)
            {
                *client = None;
            }
        }
    }

    /// Hears a client, and answers when it has said all.
    pub(crate) fn ready(
        &mut self,
        epoll: &OwnedFd,
        now: Time,
        slot: usize,
        forwards: &mut Forwards,
        datagrams: &mut Datagrams,
    ) {
        let Some(client) = self.clients.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let mut buffer = [0; REQUEST_BYTES_MAX];
        let count = match rustix::io::read(&client.socket, &mut buffer[..]) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => {
                self.clients[slot] = None;
                return;
            }
        };
        client.said.extend_from_slice(&buffer[..count]);
        let parsed = serde_json::from_slice::<Value>(&client.said);
        let is_unfinished = matches!(&parsed, Err(error) if error.is_eof());
        if is_unfinished && count > 0 && client.said.len() < REQUEST_BYTES_MAX {
            return;
        }
        let answer = if client.said.len() >= REQUEST_BYTES_MAX {
            refuse("bad request: too large message")
        } else {
            match parsed {
                Ok(request) => serve(&request, self.guest, forwards, &mut |forwards, forward| {
                    forwards.add(epoll, now, datagrams, forward)
                }),
                Err(_) => refuse("bad request: cannot parse JSON"),
            }
        };
        let answer = match answer {
            Answer::Now(value) => value,
            Answer::Remove(number) => {
                if forwards.remove(datagrams, number) {
                    json!({"return": {}})
                } else {
                    json!({"error": {"desc": "bad request: remove_hostfwd: bad arguments.id"}})
                }
            }
        };
        // A client that does not read a line of answer is not waited for.
        let text = answer.to_string();
        let _ = send(
            &client.socket,
            text.as_bytes(),
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
        self.clients[slot] = None;
    }
}

enum Answer {
    Now(Value),
    Remove(u64),
}

fn refuse(description: &str) -> Answer {
    Answer::Now(json!({"error": {"desc": description}}))
}

type Add<'a> = dyn FnMut(&mut Forwards, Forward) -> Result<u64, Errno> + 'a;

fn serve(request: &Value, guest: Ipv4Addr, forwards: &mut Forwards, add: &mut Add<'_>) -> Answer {
    let Some(request) = request.as_object() else {
        return refuse("bad request: json_object() failed");
    };
    let Some(name) = request.get("execute").and_then(Value::as_str) else {
        return refuse("bad request: no execute found");
    };
    let nothing = Value::Null;
    let arguments = request.get("arguments").unwrap_or(&nothing);
    match name {
        "add_hostfwd" => match read_forward(arguments, guest) {
            Err(which) => refuse(&format!("bad request: add_hostfwd: bad arguments.{which}")),
            Ok(forward) => match add(forwards, forward) {
                Ok(number) => Answer::Now(json!({"return": {"id": number}})),
                Err(_) => refuse("bad request: add_hostfwd: slirp_add_hostfwd failed"),
            },
        },
        "list_hostfwd" => {
            let entries: Vec<Value> = forwards.list().map(describe).collect();
            Answer::Now(json!({"return": {"entries": entries}, "entries": entries}))
        }
        "remove_hostfwd" => match arguments.get("id").and_then(Value::as_u64) {
            Some(number) => Answer::Remove(number),
            None => refuse("bad request: remove_hostfwd: bad arguments.id"),
        },
        _ => refuse("bad request: unknown execute"),
    }
}

fn describe((number, forward): (u64, Forward)) -> Value {
    json!({
        "id": number,
        "proto": forward.protocol,
        "host_addr": forward.host.ip().to_string(),
        "host_port": forward.host.port(),
        "guest_addr": forward.guest.ip().to_string(),
        "guest_port": forward.guest.port(),
    })
}

/// Reads what is to be forwarded; fails with the name of what is wrong.
fn read_forward(arguments: &Value, guest: Ipv4Addr) -> Result<Forward, &'static str> {
    let protocol = match arguments.get("proto").and_then(Value::as_str) {
        Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        _ => return Err("proto"),
    };
    let address = |name, otherwise| match arguments.get(name) {
        None | Some(Value::Null) => Some(otherwise),
        Some(Value::String(text)) if text.is_empty() => Some(otherwise),
        Some(value) => value.as_str()?.parse().ok(),
    };
    let port = |name| {
        let number = arguments.get(name).and_then(Value::as_u64)?;
        u16::try_from(number).ok().filter(|port| *port > 0)
    };
    let host = address("host_addr", Ipv4Addr::UNSPECIFIED).ok_or("host_addr")?;
    let host_port = port("host_port").ok_or("host_port")?;
    let guest = address("guest_addr", guest).ok_or("guest_addr")?;
    let guest_port = port("guest_port").ok_or("guest_port")?;
    Ok(Forward {
        protocol,
        host: SocketAddrV4::new(host, host_port),
        guest: SocketAddrV4::new(guest, guest_port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(request: &str) -> String {
        let guest = Ipv4Addr::new(10, 0, 2, 100);
        let request = serde_json::from_str(request).expect(request);
        let mut forwards = Forwards::default();
        match serve(&request, guest, &mut forwards, &mut |_, forward| {
            if forward.host.port() == 1 {
                return Err(Errno::ADDRINUSE);
            }
            Ok(u64::from(forward.guest.port()))
        }) {
            Answer::Now(value) => value.to_string(),
            Answer::Remove(number) => format!("remove {number}"),
        }
    }

    #[test]
    fn requests_are_answered_as_the_peer_answers_them_and_none_is_fatal() {
        let add = |rest: &str| format!(r#"{{"execute":"add_hostfwd","arguments":{{{rest}}}}}"#);
        let error = |text: &str| format!(r#"{{"error":{{"desc":"bad request: {text}"}}}}"#);
        let wrong = |which: &str| error(&format!("add_hostfwd: bad arguments.{which}"));
        let cases = [
            ("[]".to_owned(), error("json_object() failed")),
            ("7".to_owned(), error("json_object() failed")),
            ("{}".to_owned(), error("no execute found")),
            (r#"{"execute":7}"#.to_owned(), error("no execute found")),
            (r#"{"execute":"x"}"#.to_owned(), error("unknown execute")),
            (r#"{"execute":"add_hostfwd"}"#.to_owned(), wrong("proto")),
            (
                r#"{"execute":"add_hostfwd","arguments":[]}"#.to_owned(),
                wrong("proto"),
            ),
            (add(r#""host_port":8,"guest_port":8"#), wrong("proto")),
            (
                add(r#""proto":7,"host_port":8,"guest_port":8"#),
                wrong("proto"),
            ),
            (
                add(r#""proto":"sctp","host_port":8,"guest_port":8"#),
                wrong("proto"),
            ),
            (
                add(r#""proto":"tcp","host_addr":"x","host_port":8,"guest_port":8"#),
                wrong("host_addr"),
            ),
            (
                add(r#""proto":"tcp","host_addr":"::1","host_port":8,"guest_port":8"#),
                wrong("host_addr"),
            ),
            (add(r#""proto":"tcp","guest_port":8"#), wrong("host_port")),
            (
                add(r#""proto":"tcp","host_port":0,"guest_port":8"#),
                wrong("host_port"),
            ),
            (
                add(r#""proto":"tcp","host_port":"8","guest_port":8"#),
                wrong("host_port"),
            ),
            (
                add(r#""proto":"tcp","host_port":74000,"guest_port":8"#),
                wrong("host_port"),
            ),
            (
                add(r#""proto":"tcp","host_port":8,"guest_addr":7,"guest_port":8"#),
                wrong("guest_addr"),
            ),
            (
                add(r#""proto":"tcp","host_port":8,"guest_port":-1"#),
                wrong("guest_port"),
            ),
            (
                add(r#""proto":"tcp","host_port":1,"guest_port":8"#),
                error("add_hostfwd: slirp_add_hostfwd failed"),
            ),
            (
                add(r#""proto":"tcp","host_port":8,"guest_port":9"#),
                r#"{"return":{"id":9}}"#.to_owned(),
            ),
            (
                add(r#""proto":"udp","host_addr":"","host_port":8,"guest_addr":"","guest_port":9"#),
                r#"{"return":{"id":9}}"#.to_owned(),
            ),
            (
                r#"{"execute":"list_hostfwd"}"#.to_owned(),
                r#"{"return":{"entries":[]},"entries":[]}"#.to_owned(),
            ),
            (
                r#"{"execute":"remove_hostfwd"}"#.to_owned(),
                error("remove_hostfwd: bad arguments.id"),
            ),
            (
                r#"{"execute":"remove_hostfwd","arguments":{"id":"x"}}"#.to_owned(),
                error("remove_hostfwd: bad arguments.id"),
            ),
            (
                r#"{"execute":"remove_hostfwd","arguments":{"id":3}}"#.to_owned(),
                "remove 3".to_owned(),
            ),
        ];
        for (request, answer) in cases {
            assert_eq!(answered(&request), answer, "{request}");
        }
    }

    #[test]
    fn a_forward_is_shown_as_the_peer_shows_it() {
        let forward = Forward {
            protocol: Protocol::Udp,
            host: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 8080),
            guest: SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 100), 80),
        };
        assert_eq!(
            describe((1, forward)).to_string(),
            r#"{"id":1,"proto":"udp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80}"#
        );
    }
}
