// SPDX-License-Identifier: Apache-2.0
//! Containers and images as docker's `inspect` shows them: the fields that scripts read.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use wolffia_store::ImageRecord;

use crate::{
    containers::Container,
    mounts::{MountRequest, Propagation, Source},
    networks::Network,
    ports::{self, Exposed, Published, Request},
    record::Status,
    time::Timestamp,
};

/// Docker's word for a point in time that never came.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Returns everything about a container.
pub fn container(container: &Container) -> Value {
    let (record, state) = (&container.record, &container.state);
    let options = &record.options;
    let time = |at: Option<Timestamp>| at.map_or_else(|| NEVER.to_owned(), |at| at.to_string());
    json!({
        "Id": record.id,
        "Created": record.created.to_string(),
        "Path": record.program.args.first().map_or("", String::as_str),
        "Args": record.program.args.get(1..).unwrap_or_default(),
        "State": {
            "Status": state.status.word(),
            "Running": state.status == Status::Running,
            "Paused": false,
            "Restarting": false,
            "OOMKilled": false,
            "Dead": false,
            "Pid": state.pid,
            "ConductorPid": state.conductor_pid,
            "ExitCode": state.exit_code,
            "Error": state.error,
            "StartedAt": time(state.started),
            "FinishedAt": time(state.finished),
        },
        "Image": record.image.id(),
        "ResolvConfPath": container.folder.join("resolv.conf"),
        "HostnamePath": container.folder.join("hostname"),
        "HostsPath": container.folder.join("hosts"),
        "LogPath": container.folder.join("log"),
        "Name": format!("/{}", record.name),
        "RestartCount": 0,
        "Platform": "linux",
        "HostConfig": {
            "Binds": binds(&options.mounts),
            "NetworkMode": options.network.to_string(),
            "PortBindings": bindings(&options.publish),
            "PublishAllPorts": options.publish_all,
            "AutoRemove": options.remove,
            "CapAdd": options.cap_add,
            "CapDrop": options.cap_drop,
            "ExtraHosts": options.add_hosts.iter().map(|host| format!("{}:{}", host.name, host.address)).collect::<Vec<_>>(),
            "Privileged": false,
            "ReadonlyRootfs": options.read_only,
            "SecurityOpt": security(&options.security),
            "Tmpfs": tmpfs(&options.mounts),
            "Ulimits": options.ulimits.iter().map(|limit| json!({"Name": limit.resource, "Soft": limit.soft, "Hard": limit.hard})).collect::<Vec<_>>(),
            "Init": options.init,
            "LogConfig": {"Type": "json-file", "Config": {}},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        },
        "Mounts": options.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": {
            "Hostname": hostname(container),
            "User": record.program.user,
            "ExposedPorts": exposed(container).into_iter().map(|port| (port.to_string(), json!({}))).collect::<Map<_, _>>(),
            "AttachStdin": options.interactive,
            "Tty": options.tty,
            "OpenStdin": options.interactive,
            "Env": record.program.env,
            "Cmd": options.command,
            "Image": record.image.name(),
            "WorkingDir": record.program.directory,
            "Entrypoint": options.entrypoint,
            "Labels": options.labels,
            "StopSignal": record.program.stop_signal,
            "StopTimeout": options.stop_timeout_seconds,
        },
        "NetworkSettings": network_settings(container),
    })
}

/// Returns the ports that are exposed or published.
fn exposed(container: &Container) -> BTreeSet<Exposed> {
    let options = &container.record.options;
    let published = options.publish.iter().map(|request| Exposed {
        port: request.port,
        protocol: request.protocol,
    });
    options.exposed.iter().copied().chain(published).collect()
}

/// Docker's form of what was asked for.
fn bindings(requests: &[Request]) -> Map<String, Value> {
    let mut bindings = Map::new();
    for request in requests {
        let port = format!("{}/{}", request.port, ports::word(request.protocol));
        let outer = request.ports.map_or_else(String::new, |(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        });
        let address = request
            .address
            .map_or_else(String::new, |ip| ip.to_string());
        let list = bindings.entry(port).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(json!({"HostIp": address, "HostPort": outer}));
        }
    }
    bindings
}

fn network_settings(container: &Container) -> Value {
    let (options, state) = (&container.record.options, &container.state);
    let runs = state.status == Status::Running;
    let mut ports = Map::new();
    if runs {
        for port in exposed(container) {
            let is_it =
                |told: &&Published| (told.port, told.protocol) == (port.port, port.protocol);
            let at: Vec<Value> = state
                .ports
                .iter()
                .filter(is_it)
                .map(|told| json!({"HostIp": told.at.ip().to_string(), "HostPort": told.at.port().to_string()}))
                .collect();
            let at = if at.is_empty() {
                Value::Null
            } else {
                json!(at)
            };
            ports.insert(port.to_string(), at);
        }
    }
    let mut network = json!({
        "IPAddress": "", "IPPrefixLen": 0, "Gateway": "", "MacAddress": "",
        "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPv6Gateway": "",
    });
    if let (Network::User(user), true) = (&options.network, runs) {
        let (own, gateway) = (user.container(), user.gateway());
        network["IPAddress"] = json!(own.0);
        network["IPPrefixLen"] = json!(user.v4.length);
        network["Gateway"] = json!(gateway.0);
        network["GlobalIPv6Address"] = json!(own.1);
        network["GlobalIPv6PrefixLen"] = json!(64);
        network["IPv6Gateway"] = json!(gateway.1);
    }
    let mut settings = network.clone();
    settings["Ports"] = Value::Object(ports);
    settings["Networks"] = json!({ options.network.to_string(): network });
    settings
}

/// Returns the host name inside: the one that was asked for, else the short id.
pub fn hostname(container: &Container) -> &str {
    let record = &container.record;
    record
        .options
        .hostname
        .as_deref()
        .unwrap_or_else(|| record.id.short())
}

/// Returns everything about an image.
pub fn image(image: &ImageRecord) -> Value {
    let (document, run) = (image.config.document(), image.config.run());
    let names = image.names.iter().filter(|name| name.tag().is_some());
    let digests = image
        .names
        .iter()
        .map(|name| format!("{}@{}", name.familiar_name(), image.manifest_digest));
    let none_if_empty = |list: &[String]| {
        if list.is_empty() {
            Value::Null
        } else {
            json!(list)
        }
    };
    json!({
        "Id": image.id.to_string(),
        "RepoTags": names.map(wolffia_image::Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": digests.collect::<Vec<_>>(),
        "Created": image.created,
        "Author": document.author.as_deref().unwrap_or_default(),
        "Architecture": document.architecture,
        "Variant": document.variant.as_deref().unwrap_or_default(),
        "Os": document.os,
        "Size": image.size_bytes,
        "Config": {
            "User": run.user,
            "ExposedPorts": run.exposed_ports.iter().map(|port| (port.clone(), json!({}))).collect::<serde_json::Map<_, _>>(),
            "Env": run.env,
            "Entrypoint": none_if_empty(&run.entrypoint),
            "Cmd": none_if_empty(&run.cmd),
            "Volumes": run.volumes.iter().map(|path| (path.clone(), json!({}))).collect::<serde_json::Map<_, _>>(),
            "WorkingDir": run.working_dir,
            "Labels": run.labels,
            "StopSignal": run.stop_signal,
        },
        "RootFS": {
            "Type": "layers",
            "Layers": image.layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>(),
        },
        "Metadata": {"PulledSeconds": image.pulled_seconds},
        "Descriptor": {"digest": image.manifest_digest.to_string(), "size": image.manifest.len()},
    })
}

fn binds(mounts: &[MountRequest]) -> Vec<String> {
    mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            Source::Bind { path, .. } => {
                let end = if mount.read_only { ":ro" } else { "" };
                Some(format!(
                    "{}:{}{end}",
                    path.display(),
                    mount.target.display()
                ))
            }
            Source::Tmpfs { .. } => None,
        })
        .collect()
}

fn tmpfs(mounts: &[MountRequest]) -> serde_json::Map<String, Value> {
    mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            Source::Tmpfs { flags, .. } => {
                Some((mount.target.display().to_string(), json!(flags.join(","))))
            }
            Source::Bind { .. } => None,
        })
        .collect()
}

fn mount(mount: &MountRequest) -> Value {
    let (kind, source, propagation) = match &mount.source {
        Source::Bind {
            path, propagation, ..
        } => (
            "bind",
            path.display().to_string(),
            if *propagation == Propagation::Slave {
                "rslave"
            } else {
                "rprivate"
            },
        ),
        Source::Tmpfs { .. } => ("tmpfs", String::new(), ""),
    };
    json!({
        "Type": kind,
        "Source": source,
        "Destination": mount.target,
        "Mode": if mount.read_only { "ro" } else { "" },
        "RW": !mount.read_only,
        "Propagation": propagation,
    })
}

fn security(security: &crate::options::Security) -> Vec<String> {
    let mut options = Vec::new();
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    if security.seccomp_unconfined {
        options.push("seccomp=unconfined".to_owned());
    }
    if security.nesting {
        options.push("nesting".to_owned());
    }
    options
}
