// SPDX-License-Identifier: Apache-2.0
//! The flags that `run` and `create` share, and how they become [`Options`].

use std::{collections::BTreeMap, env, fs, path::Path};

use wolffia_engine::{
    id::ContainerName,
    mounts::MountRequest,
    networks::Network,
    options::{AddHost, Options, Security, Ulimit, parse_env_file},
    ports,
};

use crate::{
    command::{Flag, list, refused, switch, value},
    failure::Failure,
    parse::Arguments,
};

const CGROUP: &str =
    "limits come with cgroups; a limit that is not enforced would be worse than none";
const NETWORK: &str = "the user-mode network gives addresses and answers names itself; --network user:cidr=NET is served";
const DEVICE: &str = "devices come later; a user namespace has /dev/null and its like";
const HEALTH: &str = "health checks need somebody to run them; they come later";
const IDS: &str = "it comes with the ids: a mounted directory of your own is root's inside and yours outside already";

/// What `run` and `create` share.
pub(crate) const SHARED: &[Flag] = &[
    list(
        "add-host",
        None,
        "NAME:ADDRESS",
        "one more line of /etc/hosts",
    ),
    list(
        "cap-add",
        None,
        "CAPABILITY",
        "give a capability inside, or ALL",
    ),
    list("cap-drop", None, "CAPABILITY", "take a capability, or ALL"),
    value(
        "cidfile",
        None,
        "FILE",
        "write the container's id to a new file",
    ),
    value(
        "entrypoint",
        None,
        "PROGRAM",
        "instead of the image's entrypoint; empty for none",
    ),
    list(
        "env",
        Some('e'),
        "KEY[=VALUE]",
        "set a variable, or pass yours on",
    ),
    list(
        "env-file",
        None,
        "FILE",
        "variables from a file of KEY=VALUE lines",
    ),
    list(
        "expose",
        None,
        "PORT[/udp]",
        "say that the container serves a port, for -P",
    ),
    value(
        "hostname",
        Some('h'),
        "NAME",
        "the name of the machine inside",
    ),
    switch(
        "init",
        None,
        "a small init as process 1: it reaps zombies and forwards signals",
    ),
    switch("interactive", Some('i'), "keep standard input open"),
    list(
        "label",
        Some('l'),
        "KEY[=VALUE]",
        "a label of the container",
    ),
    list(
        "label-file",
        None,
        "FILE",
        "labels from a file of KEY=VALUE lines",
    ),
    list(
        "mount",
        None,
        "type=bind|tmpfs,...",
        "mount a path of this machine, or memory",
    ),
    value("name", None, "NAME", "the container's name"),
    value(
        "lazy",
        None,
        "auto|always|never",
        "start before the image has come",
    ),
    value(
        "network",
        None,
        "user[:OPTION,...]|none|host",
        "the network inside",
    )
    .or(&["net"]),
    value(
        "platform",
        None,
        "OS/ARCH",
        "choose among the platforms of an image",
    ),
    value(
        "pull",
        None,
        "missing|always|never",
        "when to fetch the image",
    ),
    list(
        "publish",
        Some('p'),
        "[[ADDRESS:]PORT:]PORT[/udp]",
        "make a port of the container one of this machine",
    ),
    switch(
        "publish-all",
        Some('P'),
        "publish every exposed port at a free one",
    ),
    switch("quiet", Some('q'), "no progress of a pull"),
    switch("read-only", None, "the root file system cannot be written"),
    switch("rm", None, "remove the container when it ends"),
    value(
        "verify",
        None,
        "strict",
        "start before the image has come only where its manifest answers for every layer's index",
    ),
    list(
        "security-opt",
        None,
        "OPTION",
        "no-new-privileges, seccomp=unconfined|FILE, nesting, unmask=ALL",
    ),
    value("stop-signal", None, "SIGNAL", "what `stop` sends"),
    value("stop-timeout", None, "SECONDS", "how long `stop` waits"),
    list("tmpfs", None, "PATH[:OPTIONS]", "memory at a path inside"),
    switch("tty", Some('t'), "a terminal inside"),
    list("ulimit", None, "NAME=SOFT[:HARD]", "a resource limit"),
    value(
        "user",
        Some('u'),
        "USER[:GROUP]",
        "who the program runs as, inside",
    ),
    list(
        "volume",
        Some('v'),
        "SOURCE:PATH[:ro]",
        "mount a path of this machine",
    ),
    value("workdir", Some('w'), "DIR", "where the program starts"),
    refused(
        "annotation",
        None,
        "annotations reach the runtime when something reads them; --label is served",
    ),
    refused(
        "attach",
        Some('a'),
        "`run` is attached to all streams, -d to none",
    ),
    refused("blkio-weight", None, CGROUP),
    refused("blkio-weight-device", None, CGROUP),
    refused("cgroup-parent", None, CGROUP),
    refused("cgroupns", None, "a container has its own cgroup namespace"),
    refused("cgroups", None, CGROUP),
    refused("cpu-period", None, CGROUP),
    refused("cpu-quota", None, CGROUP),
    refused("cpu-rt-period", None, CGROUP),
    refused("cpu-rt-runtime", None, CGROUP),
    refused("cpu-shares", Some('c'), CGROUP),
    refused("cpus", None, CGROUP),
    refused("cpuset-cpus", None, CGROUP),
    refused("cpuset-mems", None, CGROUP),
    refused(
        "detach-keys",
        None,
        "there is no `attach` to come back with yet",
    ),
    refused("device", None, DEVICE),
    refused(
        "device-cgroup-rule",
        None,
        "device rules need root on the machine; only what is mounted exists inside",
    ),
    refused("device-read-bps", None, CGROUP),
    refused("device-read-iops", None, CGROUP),
    refused("device-write-bps", None, CGROUP),
    refused("device-write-iops", None, CGROUP),
    refused("dns", None, NETWORK),
    refused("dns-option", None, NETWORK).or(&["dns-opt"]),
    refused("dns-search", None, NETWORK),
    refused("disable-content-trust", None, "signatures come later"),
    refused("domainname", None, NETWORK),
    refused("gpus", None, DEVICE),
    refused("group-add", None, "give the group with --user USER:GROUP"),
    refused("health-cmd", None, HEALTH),
    refused("health-interval", None, HEALTH),
    refused("health-retries", None, HEALTH),
    refused("health-start-interval", None, HEALTH),
    refused("health-start-period", None, HEALTH),
    refused("health-timeout", None, HEALTH),
    refused("ip", None, NETWORK),
    refused("ip6", None, NETWORK),
    refused("ipc", None, "a container has its own IPC namespace"),
    refused("isolation", None, "it is a flag of Windows"),
    refused("link", None, NETWORK),
    refused("link-local-ip", None, NETWORK),
    refused(
        "log-driver",
        None,
        "the log is json-file, bounded and turned by itself",
    ),
    refused(
        "log-opt",
        None,
        "the log is json-file, bounded and turned by itself",
    ),
    refused("mac-address", None, NETWORK),
    refused("memory", Some('m'), CGROUP),
    refused("memory-reservation", None, CGROUP),
    refused("kernel-memory", None, CGROUP),
    refused("memory-swap", None, CGROUP),
    refused("memory-swappiness", None, CGROUP),
    refused("network-alias", None, NETWORK).or(&["net-alias"]),
    refused("no-healthcheck", None, HEALTH),
    refused("oom-kill-disable", None, CGROUP),
    refused("oom-score-adj", None, CGROUP),
    refused(
        "pid",
        None,
        "a container has its own PID namespace: that is how all of it ends when it ends",
    ),
    refused("pids-limit", None, CGROUP),
    refused("pod", None, "there are no pods"),
    refused(
        "privileged",
        None,
        "an ordinary user has no more to give; --security-opt nesting and --cap-add are served",
    ),
    refused("replace", None, "wolffia rm -f NAME first"),
    refused(
        "restart",
        None,
        "nobody is there to restart it; it comes later",
    ),
    refused(
        "rootfs",
        None,
        "`wolffia import` makes an image of a directory's tar",
    ),
    refused(
        "runtime",
        None,
        "the runtime is our own; `wolffia oci` is it",
    ),
    refused(
        "secret",
        None,
        "mount a file read-only: --mount type=bind,source=FILE,target=/run/secrets/NAME,ro",
    ),
    refused("shm-size", None, "--tmpfs /dev/shm:size=SIZE does it"),
    refused("storage-opt", None, "there is no quota of ours"),
    refused("sysctl", None, "it comes with networking"),
    refused("use-api-socket", None, "there is no daemon"),
    refused("userns", None, IDS),
    refused("uts", None, "a container has its own UTS namespace"),
    refused("volume-driver", None, "named volumes come later"),
    refused("volumes-from", None, "named volumes come later"),
];

/// Reads the shared flags.
pub(crate) fn options(arguments: &Arguments, command: &[&str]) -> Result<Options, Failure> {
    let texts = |flag: &str| -> Result<Vec<String>, Failure> {
        Ok(arguments
            .texts(flag)?
            .into_iter()
            .map(String::from)
            .collect())
    };
    let text = |flag: &str| -> Result<Option<String>, Failure> {
        Ok(arguments.text(flag)?.map(String::from))
    };
    let entrypoint = arguments.text("entrypoint")?.map(|program| match program {
        "" => Vec::new(),
        _ => vec![program.to_owned()],
    });
    let network = network(arguments.text("network")?)?;
    if network == Network::None && !arguments.texts("publish")?.is_empty() {
        return Err(Failure::usage("--publish needs a network")
            .cause("with --network none nobody can be joined to the container"));
    }
    let mut publish = Vec::new();
    for given in arguments.texts("publish")? {
        let read = ports::parse(given);
        publish.extend(read.map_err(|error| Failure::usage(format!("--publish {error}")))?);
    }
    let mut exposed = Vec::new();
    for given in arguments.texts("expose")? {
        let read = ports::parse_exposed(given);
        exposed.extend(read.map_err(|error| Failure::usage(format!("--expose {error}")))?);
    }
    let stop_timeout_seconds = match arguments.text("stop-timeout")? {
        None => None,
        Some(seconds) => Some(seconds.parse().map_err(|_| {
            Failure::usage(format!("--stop-timeout {seconds}: not a number of seconds"))
        })?),
    };
    Ok(Options {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        entrypoint,
        interactive: arguments.is("interactive"),
        tty: arguments.is("tty"),
        remove: arguments.is("rm"),
        init: arguments.is("init"),
        read_only: arguments.is("read-only"),
        env: variables(arguments)?,
        workdir: workdir(arguments)?,
        user: text("user")?,
        hostname: hostname(arguments)?,
        add_hosts: parsed::<AddHost>(arguments, "add-host")?,
        cap_add: texts("cap-add")?,
        cap_drop: texts("cap-drop")?,
        security: security(&arguments.texts("security-opt")?)?,
        stop_signal: text("stop-signal")?,
        stop_timeout_seconds,
        ulimits: parsed::<Ulimit>(arguments, "ulimit")?,
        labels: labels(arguments)?,
        network,
        publish,
        publish_all: arguments.is("publish-all"),
        exposed,
        mounts: mounts(arguments)?,
    })
}

/// Reads `--network`.
fn network(given: Option<&str>) -> Result<Network, Failure> {
    let (word, rest) = given.map_or(("", ""), |given| {
        given.split_once(':').unwrap_or((given, ""))
    });
    match (word, rest) {
        ("" | "none", "") => Ok(Network::None),
        ("host", "") => Ok(Network::Host),
        ("user", options) => options
            .parse()
            .map(Network::User)
            .map_err(|error| Failure::usage(error.to_string()).help(NETWORK_OPTIONS)),
        _ => Err(Failure::usage(format!(
            "--network {} is not served yet",
            given.unwrap_or_default()
        ))
        .cause("named networks come later")
        .help("--network user, --network none or --network host")),
    }
}

const NETWORK_OPTIONS: &str =
    "there are mtu=N, cidr=NET, cidr6=NET, host-loopback, allow=NET[:PORT] (as often as you like)";

/// Reads `--name`.
pub(crate) fn name(arguments: &Arguments) -> Result<Option<ContainerName>, Failure> {
    arguments
        .text("name")?
        .map(|name| {
            name.parse()
                .map_err(|error| Failure::usage(format!("{error}")))
        })
        .transpose()
}

fn parsed<T: std::str::FromStr>(arguments: &Arguments, flag: &str) -> Result<Vec<T>, Failure>
where
    T::Err: std::fmt::Display,
{
    let parse = |text: &str| {
        text.parse()
            .map_err(|error: T::Err| Failure::usage(error.to_string()))
    };
    arguments.texts(flag)?.into_iter().map(parse).collect()
}

/// `-e` counts above `--env-file`, whatever the order, as docker has it.
pub(crate) fn variables(arguments: &Arguments) -> Result<Vec<String>, Failure> {
    let mut variables = Vec::new();
    for file in arguments.texts("env-file")? {
        let text = read_text("--env-file", file)?;
        let lines = parse_env_file(file, &text, |key| env::var(key).ok());
        variables.extend(lines.map_err(|error| Failure::usage(error.to_string()))?);
    }
    for given in arguments.texts("env")? {
        match given.split_once('=') {
            Some(("", _)) => {
                return Err(Failure::usage(format!("--env {given}: the name is empty")));
            }
            Some(_) => variables.push(given.to_owned()),
            None => variables.extend(env::var(given).ok().map(|value| format!("{given}={value}"))),
        }
    }
    Ok(variables)
}

fn read_text(flag: &str, file: &str) -> Result<String, Failure> {
    fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{flag}: reading {file}")).cause(error.to_string()))
}

fn labels(arguments: &Arguments) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    let mut add = |line: &str| {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        labels.insert(key.to_owned(), value.to_owned());
    };
    for file in arguments.texts("label-file")? {
        read_text("--label-file", file)?
            .lines()
            .filter(|line| !line.is_empty())
            .for_each(&mut add);
    }
    arguments.texts("label")?.into_iter().for_each(add);
    Ok(labels)
}

pub(crate) fn workdir(arguments: &Arguments) -> Result<Option<String>, Failure> {
    match arguments.text("workdir")? {
        Some(path) if !path.starts_with('/') => Err(Failure::usage(format!(
            "--workdir {path}: the directory inside must be absolute"
        ))),
        path => Ok(path.map(String::from)),
    }
}

fn hostname(arguments: &Arguments) -> Result<Option<String>, Failure> {
    /// sethostname(2).
    const HOSTNAME_BYTES_MAX: usize = 64;
    match arguments.text("hostname")? {
        Some(name) if name.len() > HOSTNAME_BYTES_MAX || name.contains(char::is_whitespace) => {
            Err(Failure::usage(format!(
                "--hostname {name}: at most {HOSTNAME_BYTES_MAX} letters, without spaces"
            )))
        }
        name => Ok(name.map(String::from)),
    }
}

fn mounts(arguments: &Arguments) -> Result<Vec<MountRequest>, Failure> {
    let current = env::current_dir()
        .map_err(|error| Failure::new("finding the current directory").cause(error.to_string()))?;
    mounts_below(arguments, &current)
}

fn mounts_below(arguments: &Arguments, current: &Path) -> Result<Vec<MountRequest>, Failure> {
    let mut mounts: Vec<MountRequest> = Vec::new();
    for (flag, given) in arguments.in_order(&["volume", "mount", "tmpfs"]) {
        let given = crate::parse::utf8(given, flag)?;
        let mount = match flag {
            "volume" => MountRequest::parse_volume(given, current),
            "mount" => MountRequest::parse_mount(given, current),
            _ => MountRequest::parse_tmpfs(given),
        };
        let mount = mount.map_err(|error| Failure::usage(error.to_string()))?;
        if mounts.iter().any(|other| other.target == mount.target) {
            return Err(Failure::usage(format!(
                "--{flag} {given}: {} is mounted twice",
                mount.target.display()
            )));
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

fn security(given: &[&str]) -> Result<Security, Failure> {
    let mut security = Security::default();
    for option in given {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        let refuse = |reason: &str| {
            Err(Failure::usage(format!("--security-opt {option} is not served")).cause(reason))
        };
        match (key, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => security.seccomp_unconfined = true,
            ("nesting", "" | "true") => security.nesting = true,
            ("unmask", "ALL" | "all") | ("systempaths", "unconfined") => security.unmasked = true,
            // There is no AppArmor or SELinux confinement of ours to take away.
            ("apparmor", "unconfined") | ("label", "disable") | ("seccomp", "builtin" | "") => {}
            ("seccomp", file) => {
                security.seccomp_profile = Some(read_text("--security-opt", file)?);
            }
            ("apparmor", _) => return refuse("AppArmor profiles come later"),
            ("label", _) => return refuse("SELinux labels come later"),
            ("mask" | "unmask", _) => return refuse("unmask=ALL is served"),
            _ => {
                return Err(Failure::usage(format!(
                    "--security-opt {option}: there is no such option"
                ))
                .help("no-new-privileges, seccomp=unconfined|FILE, nesting, unmask=ALL"));
            }
        }
    }
    Ok(security)
}
