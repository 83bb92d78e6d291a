// SPDX-License-Identifier: Apache-2.0
//! Descriptors handed to others over a socket of theirs: a terminal, a seccomp listener.
//!
//! Sources: runc's docs/terminals.md ("detached new terminal"); OCI runtime-spec, config-linux.md, "The Container Process
//! State".

use std::{io::IoSlice, mem::MaybeUninit, os::fd::BorrowedFd, path::Path};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use serde::Serialize;
use wolffia_sys::Errno;

use super::OciError;
use crate::{seccomp::LinuxSeccomp, spec::VERSION, state::State};

/// Hands the terminal's controlling end over.
pub(super) fn console(path: &Path, console: BorrowedFd<'_>) -> Result<(), OciError> {
    send(path, b"/dev/pts/ptmx", console).map_err(|source| OciError::Handover {
        what: "the terminal",
        path: path.to_owned(),
        source,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: Option<u32>,
    metadata: &'a str,
    state: &'a State,
}

/// Hands the listener of a filter to the agent that its configuration names.
pub(super) fn listener(
    section: &LinuxSeccomp,
    state: &State,
    listener: BorrowedFd<'_>,
) -> Result<(), OciError> {
    let path = Path::new(section.listener_path.as_deref().unwrap_or_default());
    let message = ContainerProcessState {
        oci_version: VERSION,
        fds: ["seccompFd"],
        pid: state.pid,
        metadata: section.listener_metadata.as_deref().unwrap_or_default(),
        state,
    };
    let text = serde_json::to_vec(&message)
        .expect("strings, numbers and a map with string keys have a JSON form");
    send(path, &text, listener).map_err(|source| OciError::Handover {
        what: "the seccomp listener",
        path: path.to_owned(),
        source,
    })
}

fn send(path: &Path, text: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = sendmsg(
        &socket,
        &[IoSlice::new(text)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    if sent == text.len() {
        Ok(())
    } else {
        Err(Errno::MSGSIZE)
    }
}
