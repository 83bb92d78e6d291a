// SPDX-License-Identifier: Apache-2.0
//! `run`: a container from an image, or from this machine's own files.

use std::{env, fs, io::Write, os::unix::fs::OpenOptionsExt};

use wolffia_engine::{
    containers::{Containers, Held},
    create::{self, From},
    options::Options,
    start::{self, Clock, Mode, RootFs, Started},
};
use wolffia_image::Reference;
use wolffia_pull::{
    Lazy, Policy,
    job::{Outcome, Task},
};
use wolffia_store::{ImageRecord, StoreError};
use wolffia_sys::idmap::Mapping;

use super::container_flags;
use crate::{
    command::{Command, Group, switch},
    context::Context,
    failure::{Failure, OWN_FAILURE},
    obtain,
    parse::Arguments,
    progress::Line,
};

pub(crate) static COMMAND: Command = Command {
    name: "run",
    aliases: &[],
    usage: "[FLAGS] [IMAGE | host] [PROGRAM [ARGUMENT...]]",
    summary: "Run a program in a new container; without an image, in one made of this machine's files",
    group: Group::Containers,
    flags: &[
        container_flags::SHARED,
        &[
            switch("detach", Some('d'), "return when it runs, and print its id"),
            switch(
                "sig-proxy",
                None,
                "pass signals on (=false is not served: they would have nowhere to go)",
            ),
        ],
    ],
    stops_at_operand: true,
    operands: (0, usize::MAX),
    failure_code: OWN_FAILURE,
    serve,
};

/// The name that stands for this machine's own files.
const HOST: &str = "host";

fn serve(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let mut clock = Clock::new(context.verbosity > 0 || env::var_os("WOLFFIA_TIMING").is_some());
    let operands = arguments.operand_texts()?;
    let (image, command) = operands
        .split_first()
        .map_or((HOST, &[][..]), |(first, rest)| (*first, rest));
    let mut options = container_flags::options(arguments, command)?;
    if operands.is_empty() {
        greet(context, &mut options);
    }
    let mode = if arguments.is("detach") {
        Mode::Detached
    } else {
        Mode::Foreground
    };
    if options.tty && options.interactive && mode == Mode::Foreground && !start::has_terminal() {
        return Err(
            Failure::usage("-t needs a terminal, and standard input is not one")
                .help("leave -t away: output and exit code come through as they are"),
        );
    }
    let made = make(context, arguments, image, options, &mut clock)?;
    if arguments.text("network")?.is_none() {
        context.detail("note: the network inside is `none` for now; --network host is the other that is served");
    }
    let id = made.held.container.record.id.clone();
    let remove = made.held.container.record.options.remove;
    let started = start::start(
        &made.containers,
        made.held,
        made.root,
        &made.mapping,
        mode,
        &mut clock,
        &mut |note| context.note(&format!("note: {note}")),
    );
    let code = finish(context, &made.containers, started, remove)?;
    if mode == Mode::Detached && code == 0 {
        context.say(&format!("{id}\n"));
    }
    tell_times(context, &clock);
    Ok(code)
}

/// A container that was made, and what it takes to start it.
pub(super) struct Made {
    pub(super) containers: Containers,
    pub(super) held: Held,
    pub(super) root: RootFs,
    pub(super) mapping: Mapping,
}

/// Makes a container as `run` and `create` do.
pub(super) fn make(
    context: &Context,
    arguments: &Arguments,
    image: &str,
    options: Options,
    clock: &mut Clock,
) -> Result<Made, Failure> {
    let name = container_flags::name(arguments)?;
    let mapping = obtain::mapping(context)?;
    let containers = Containers::of(context.home()?);
    clock.lap("command line and ids");
    let (held, root) = if image == HOST {
        let held = create::create(
            &containers,
            From::Host,
            options,
            name.as_ref(),
            &mapping.key(),
        );
        (held, RootFs::Host)
    } else {
        let record = image_for(context, arguments, image, &mapping)?;
        let store = context.store()?;
        let root = image_root(context, &record, &mapping)?;
        clock.lap("image");
        let from = From::Image(store, &record, image);
        (
            create::create(&containers, from, options, name.as_ref(), &mapping.key()),
            RootFs::Image(root),
        )
    };
    let held = held.map_err(|error| match &error {
        create::CreateError::Container(inner) => super::failure(inner),
        create::CreateError::Store(inner) => super::store_failure(inner),
        _ => Failure::from_error(&error),
    })?;
    clock.lap("container's record");
    if let Some(file) = arguments.last("cidfile")
        && let Err(error) = write_id(file.as_ref(), held.container.record.id.as_str())
    {
        let failure =
            Failure::new(format!("--cidfile: writing {}", file.display())).cause(error.to_string());
        containers
            .remove(held)
            .map_err(|error| super::failure(&error))?;
        return Err(failure);
    }
    Ok(Made {
        containers,
        held,
        root,
        mapping,
    })
}

/// As docker has it, the file must not be there yet.
fn write_id(file: &std::path::Path, id: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(file)?;
    file.write_all(id.as_bytes())
}

/// Finds the image, fetching it where `--pull` says so.
fn image_for(
    context: &Context,
    arguments: &Arguments,
    name: &str,
    mapping: &Mapping,
) -> Result<ImageRecord, Failure> {
    let store = context.store()?;
    let policy = match arguments.text("pull")? {
        None | Some("missing") => None,
        Some("always") => Some(Policy::Always),
        Some("never") => {
            return store
                .resolve(name)
                .map_err(|error| super::store_failure(&error));
        }
        Some(other) => {
            return Err(Failure::usage(format!(
                "--pull {other}: missing, always or never"
            )));
        }
    };
    let platform = arguments.text("platform")?;
    if policy.is_none() {
        match find(store, name) {
            Ok(record) => {
                check_platform(&record, platform)?;
                return Ok(record);
            }
            Err(StoreError::NoImage(_)) => {}
            Err(error) => return Err(super::store_failure(&error)),
        }
    }
    let quiet = arguments.is("quiet");
    let pulled = obtain::pull(
        context,
        mapping,
        name,
        platform,
        policy.unwrap_or_default(),
        wishes(context, arguments)?,
        quiet,
    )?;
    let record = store
        .image(&pulled.image)
        .map_err(|error| super::store_failure(&error))?;
    record.ok_or_else(|| Failure::new(format!("{name} was removed while it was pulled")))
}

/// Reads `--lazy` and `--verify`, else the configuration.
fn wishes(context: &Context, arguments: &Arguments) -> Result<obtain::Wishes, Failure> {
    let configured = context.configuration()?.lazy.word();
    let lazy = match arguments.text("lazy")?.unwrap_or(configured) {
        "auto" => Lazy::Auto,
        "always" => Lazy::Always,
        "never" => Lazy::Never,
        other => {
            return Err(Failure::usage(format!(
                "--lazy {other}: auto, always or never"
            )));
        }
    };
    let strict = match arguments.text("verify")? {
        None => false,
        Some("strict") => true,
        Some(other) => return Err(Failure::usage(format!("--verify {other}: strict"))),
    };
    Ok(obtain::Wishes { lazy, strict })
}

/// A whole name is looked up alone; what may be an id is resolved among all.
fn find(store: &wolffia_store::Store, name: &str) -> Result<ImageRecord, StoreError> {
    if let Ok(reference) = Reference::parse(name)
        && let Some(record) = store.find(&reference)?
    {
        return Ok(record);
    }
    store.resolve(name)
}

fn check_platform(record: &ImageRecord, platform: Option<&str>) -> Result<(), Failure> {
    let Some(wanted) = platform else {
        return Ok(());
    };
    let wanted = wolffia_image::Platform::parse(wanted)
        .map_err(|error| Failure::usage(error.to_string()))?;
    match record.config.platform() {
        Some(here) if wanted.fitness(&here).is_none() => Err(Failure::new(format!(
            "the image that is here is for {here}, not for {wanted}"
        ))
        .help("--pull always fetches the other one")),
        _ => Ok(()),
    }
}

/// Returns the stub tree of an image for these ids, made where it is missing.
pub(super) fn image_root(
    context: &Context,
    record: &ImageRecord,
    mapping: &Mapping,
) -> Result<wolffia_store::ImageRoot, Failure> {
    let store = context.store()?;
    match store.rootfs(record, &mapping.key()) {
        Ok(root) => return filled(context, root),
        Err(StoreError::NoStubs { .. }) => {}
        Err(error) => return Err(super::store_failure(&error)),
    }
    let mut line = Line::new(&record.display_name(), false);
    let Outcome::Image(_) = obtain::ask(
        context,
        mapping,
        Task::Stubs { image: record.id },
        &mut line,
    )?
    else {
        return Err(Failure::new(
            "making a tree: the helper answered something else",
        ));
    };
    let root = store
        .rootfs(record, &mapping.key())
        .map_err(|error| super::store_failure(&error))?;
    filled(context, root)
}

/// Says how what nobody asks for is fetched: only where the configuration gives it bounds.
pub(super) fn filled(
    context: &Context,
    mut root: wolffia_store::ImageRoot,
) -> Result<wolffia_store::ImageRoot, Failure> {
    if let Some(lazy) = &mut root.lazy {
        let configuration = context.configuration()?;
        let bounds = wolffia_store::Fill {
            bytes_per_second: configuration.background_rate,
            bytes_max: configuration.background_total,
        };
        lazy.fill = (bounds != wolffia_store::Fill::default()).then_some(bounds);
    }
    Ok(root)
}

/// Turns what came of a start into an exit code, and puts away what a failed one left.
pub(super) fn finish(
    context: &Context,
    containers: &Containers,
    started: Result<Started, start::StartError>,
    remove: bool,
) -> Result<u8, Failure> {
    let started = started.map_err(|error| {
        sweep(context, containers, remove);
        error
            .hint()
            .into_iter()
            .fold(Failure::from_error(&error), Failure::help)
    })?;
    match started {
        Started::Detached => Ok(0),
        Started::Ended(code) => Ok(code),
        Started::Failed(problem) => {
            sweep(context, containers, remove);
            let failure = problem
                .causes
                .into_iter()
                .fold(Failure::new(problem.message), Failure::cause);
            Err(problem
                .hints
                .into_iter()
                .fold(failure, Failure::help)
                .code(problem.code))
        }
        Started::Lost => {
            sweep(context, containers, remove);
            Err(
                Failure::new("the container's conductor was killed, and everything in it with it")
                    .code(137),
            )
        }
    }
}

/// Finishes what a start that failed could not put away itself.
fn sweep(context: &Context, containers: &Containers, _remove: bool) {
    if let Err(error) = containers.sweep() {
        context.note(&Failure::from_error(&error).to_text().replacen(
            "error:",
            "note: cleaning up:",
            1,
        ));
    }
}

/// `wolffia run` alone: a shell where a person sits, else a look around.
fn greet(context: &Context, options: &mut Options) {
    if context.is_terminal() {
        context.note("A container of this machine's own files: root inside, you outside; all of it is thrown away at the end.");
        options.interactive = true;
        options.tty = true;
        options.command = vec![
            "/bin/sh".into(),
            "-c".into(),
            "command -v bash >/dev/null && exec bash || exec sh".into(),
        ];
    } else {
        context.note("Hello from a container of this machine's own files. Give it a terminal for a shell, or an image: wolffia run IMAGE.");
        options.command = vec!["id".into()];
    }
    options.remove = true;
}

/// Says where the time went.
pub(super) fn tell_times(context: &Context, clock: &Clock) {
    for (name, milliseconds) in clock.report() {
        context.note(&format!("timing: {name}: {milliseconds:.2} ms"));
    }
}
