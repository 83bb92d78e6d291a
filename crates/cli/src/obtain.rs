// SPDX-License-Identifier: Apache-2.0
//! An image, fetched if it must be: what `pull`, `run` and `create` share.

use wolffia_engine::{
    helper::{self, HelperError},
    identity,
};
use wolffia_fetch::{Environment, credentials, sources::credential_by_helper};
use wolffia_image::Platform;
use wolffia_pull::{
    ImageOutcome, Lazy, Policy, PullRequest,
    convert::{Brought, ConvertRequest, LayerForm},
    job::{Job, Outcome, Task},
};
use wolffia_sys::idmap::{Mapping, WhySingle};

use crate::{context::Context, failure::Failure, human, progress::Line};

/// Chooses the ids of containers, and says once a day where it is only one.
pub(crate) fn mapping(context: &Context) -> Result<Mapping, Failure> {
    // The state root first: started by root, that is where we become somebody else.
    context.home()?;
    let (mapping, why) = identity::mapping()
        .map_err(|error| Failure::from_error(&error).help("wolffia doctor says what is missing"))?;
    if let Some(why) = why {
        say_once(context, &why)?;
    }
    Ok(mapping)
}

fn say_once(context: &Context, why: &WhySingle) -> Result<(), Failure> {
    let said = context.home()?.root().join("said-single-id");
    let first = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&said)
        .is_ok();
    if !first && context.verbosity == 0 {
        return Ok(());
    }
    let text = match why {
        WhySingle::Asked => "note: containers have one id, as asked",
        WhySingle::NoSubIds { user } => &format!(
            "note: {user} has no sub-ids, so containers have the one id 0: programs that change their user will fail\nhelp: an administrator can give some: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
        ),
        WhySingle::NoHelper { program } => &format!(
            "note: {program} is not installed, so containers have the one id 0: programs that change their user will fail\nhelp: install the package uidmap (Debian) or shadow-utils"
        ),
        WhySingle::Nested => "note: this user namespace has one id, so containers have one too",
    };
    context.note(text);
    Ok(())
}

/// Has the helper do something.
pub(crate) fn ask(
    context: &Context,
    mapping: &Mapping,
    task: Task,
    line: &mut Line,
) -> Result<Outcome, Failure> {
    let job = Job {
        store: context.home()?.store(),
        owners: helper::owners(mapping),
        task,
    };
    helper::ask(mapping, &job, &mut |progress| line.show(progress)).map_err(|error| match error {
        HelperError::Failed(failed) => from_job(failed),
        HelperError::Start(error) => {
            let failure = Failure::from_error(&error);
            error.hint().into_iter().fold(failure, Failure::help)
        }
        error => Failure::from_error(&error),
    })
}

/// Returns a helper's failure as it is said at the door.
pub(crate) fn from_job(failed: wolffia_pull::job::Failure) -> Failure {
    let failure = failed
        .causes
        .into_iter()
        .fold(Failure::new(failed.message), Failure::cause);
    failed.hint.into_iter().fold(failure, Failure::help)
}

/// How layers may stay where they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    /// Whether.
    pub(crate) lazy: Lazy,
    /// Refuse those that nothing in the manifest answers for.
    pub(crate) strict: bool,
}

/// Pulls an image.
pub(crate) fn pull(
    context: &Context,
    mapping: &Mapping,
    name: &str,
    platform: Option<&str>,
    policy: Policy,
    wishes: Wishes,
    quiet: bool,
) -> Result<ImageOutcome, Failure> {
    let platform = match platform {
        None => Platform::host(),
        Some(text) => Platform::parse(text).map_err(|error| Failure::usage(format!("{error}")))?,
    };
    // Asked here: inside the user namespace a keyring would not know its user.
    let credential = credential_by_helper(name, &Environment::of_process());
    let request = PullRequest {
        name: name.to_owned(),
        platform,
        policy,
        unpacked: context.configuration()?.unpacked.clone(),
        lazy: wishes.lazy,
        strict: wishes.strict,
        credential,
    };
    let mut line = Line::new(name, quiet);
    let outcome = ask(context, mapping, Task::Pull(request), &mut line)
        .map_err(|failure| offline(context, closed_credentials(failure), name))?;
    let Outcome::Image(image) = outcome else {
        return Err(Failure::new(format!(
            "pulling {name}: the helper answered something else"
        )));
    };
    if image.lazy_bytes > 0 {
        let name = image.name.as_deref().unwrap_or("the image");
        line.finish_lazy(name, image.fetched_bytes, image.lazy_bytes);
    } else {
        line.finish(&summary(&image));
    }
    if !quiet {
        image
            .notes()
            .iter()
            .for_each(|note| context.note(&format!("note: {note}")));
    }
    Ok(image)
}

/// Where a registry wants credentials: those that we have no right to read.
fn closed_credentials(failure: Failure) -> Failure {
    if !failure.to_text().contains("wolffia login") {
        return failure;
    }
    let closed = credentials::closed(&Environment::of_process()).into_iter();
    closed.fold(failure, |failure, path| {
        let path = path.display();
        failure.help(format!(
            "credentials in {path} are not used: Permission denied; REGISTRY_AUTH_FILE names another file"
        ))
    })
}

/// Brings an image somewhere, perhaps in another format.
pub(crate) fn bring(
    context: &Context,
    from: &str,
    to: &str,
    form: Option<LayerForm>,
    platform: Option<&str>,
    quiet: bool,
) -> Result<Brought, Failure> {
    let platform = match platform {
        None => Platform::host(),
        Some(text) => Platform::parse(text).map_err(|error| Failure::usage(format!("{error}")))?,
    };
    let mapping = mapping(context)?;
    let environment = Environment::of_process();
    let request = ConvertRequest {
        from: absolute_layout(from),
        to: absolute_layout(to),
        form,
        platform,
        credentials: (
            credential_by_helper(from, &environment),
            credential_by_helper(to, &environment),
        ),
    };
    let mut line = Line::new(from, quiet);
    match ask(context, &mapping, Task::Convert(request), &mut line)? {
        Outcome::Brought(brought) => {
            let size = human::size(brought.bytes_after);
            let was = match form {
                Some(_) => format!(", was {}", human::size(brought.bytes_before)),
                None => String::new(),
            };
            line.finish(&format!("Brought {} ({size}{was})", brought.name));
            Ok(brought)
        }
        _ => Err(Failure::new(format!(
            "bringing {from} to {to}: the helper answered something else"
        ))),
    }
}

/// Makes the directory of `oci:DIRECTORY` absolute: messages name it, and the helper may stand elsewhere.
fn absolute_layout(text: &str) -> String {
    match text.strip_prefix("oci:").map(std::path::absolute) {
        Some(Ok(path)) => format!("oci:{}", path.display()),
        _ => text.to_owned(),
    }
}

/// Where a name could not be fetched: what is here that was perhaps meant.
fn offline(context: &Context, failure: Failure, name: &str) -> Failure {
    let Ok(images) = context.store().and_then(|store| {
        store
            .images()
            .map_err(|error| crate::applets::store_failure(&error))
    }) else {
        return failure;
    };
    let names: Vec<String> = images
        .iter()
        .flat_map(|image| image.names.iter().map(wolffia_image::Reference::familiar))
        .collect();
    match crate::suggest::nearest(name, names.iter().map(String::as_str)) {
        Some(near) => failure.help(format!("{near} is here")),
        None => failure,
    }
}

fn summary(image: &ImageOutcome) -> String {
    let name = image.name.as_deref().unwrap_or("the image");
    if image.up_to_date && image.fetched_bytes == 0 {
        return format!("{name} is up to date: asked the registry");
    }
    let fresh = image.layers.saturating_sub(image.layers_present);
    let plural = if image.layers == 1 { "layer" } else { "layers" };
    format!(
        "Pulled {name} ({}, {fresh} of {} {plural} new)",
        human::size(image.fetched_bytes),
        image.layers
    )
}
