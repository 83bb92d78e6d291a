// SPDX-License-Identifier: Apache-2.0
//! What runs inside and in which surroundings: the image's words and the person's, put together as docker does.
//!
//! `--entrypoint` removes the image's command as well as its entrypoint; words behind the image replace its command. The environment starts with
//! PATH, HOSTNAME and TERM, then come the image's variables, then the person's; HOME is added inside, where the user is known, unless it is set.

use thiserror::Error;
use wolffia_image::config::RunConfig;

use crate::options::Options;

/// Where programs are looked for when an image does not say.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Nothing was said about what to run.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("nothing to run: the image names no program and none was given")]
pub struct NoProgram;

/// Returns program and arguments.
pub fn args(image: &RunConfig, options: &Options) -> Result<Vec<String>, NoProgram> {
    let (entrypoint, inherited) = match &options.entrypoint {
        Some(given) => (given.clone(), &[][..]),
        None => (image.entrypoint.clone(), &image.cmd[..]),
    };
    let command = if options.command.is_empty() {
        inherited
    } else {
        &options.command
    };
    let args: Vec<String> = entrypoint
        .into_iter()
        .chain(command.iter().cloned())
        .collect();
    if args.first().is_none_or(String::is_empty) {
        Err(NoProgram)
    } else {
        Ok(args)
    }
}

/// Returns the environment as `KEY=VALUE`, each key once, in the order of its first mention.
pub fn environment(image: &[String], given: &[String], hostname: &str, tty: bool) -> Vec<String> {
    let mut variables: Vec<String> = vec![
        format!("PATH={DEFAULT_PATH}"),
        format!("HOSTNAME={hostname}"),
    ];
    if tty {
        variables.push("TERM=xterm".to_owned());
    }
    for variable in image.iter().chain(given) {
        let key = key(variable);
        match variables.iter_mut().find(|known| self::key(known) == key) {
            Some(known) => known.clone_from(variable),
            None => variables.push(variable.clone()),
        }
    }
    variables
}

/// Returns the environment of a container with more variables.
pub fn merged(container: &[String], given: &[String], tty: bool) -> Vec<String> {
    let mut variables = container.to_vec();
    if tty && !variables.iter().any(|variable| key(variable) == "TERM") {
        variables.push("TERM=xterm".to_owned());
    }
    for variable in given {
        match variables
            .iter_mut()
            .find(|known| key(known) == key(variable))
        {
            Some(known) => known.clone_from(variable),
            None => variables.push(variable.clone()),
        }
    }
    variables
}

fn key(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

/// Returns the user to run as: the person's word, else the image's, else root.
pub fn user<'a>(image: &'a str, given: Option<&'a str>) -> &'a str {
    match given {
        Some(given) if !given.is_empty() => given,
        _ if image.is_empty() => "0",
        _ => image,
    }
}

/// Returns the directory to start in.
pub fn directory<'a>(image: &'a str, given: Option<&'a str>) -> &'a str {
    match given {
        Some(given) if !given.is_empty() => given,
        _ if image.is_empty() => "/",
        _ => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn entrypoint_and_command_as_docker_joins_them() {
        for (entrypoint, cmd, given_entrypoint, given, expected) in [
            ("", "sh", None, "", "sh"),
            ("", "sh", None, "ls -l", "ls -l"),
            ("/entry", "serve", None, "", "/entry serve"),
            ("/entry", "serve", None, "help", "/entry help"),
            ("/entry", "serve", Some("sh"), "", "sh"),
            ("/entry", "serve", Some("sh"), "-c x", "sh -c x"),
            ("/entry", "serve", Some(""), "ls", "ls"),
        ] {
            let image = RunConfig {
                entrypoint: words(entrypoint),
                cmd: words(cmd),
                ..RunConfig::default()
            };
            let options = Options {
                entrypoint: given_entrypoint.map(words),
                command: words(given),
                ..Options::default()
            };
            assert_eq!(
                args(&image, &options).unwrap(),
                words(expected),
                "{entrypoint}|{cmd}|{given}"
            );
        }
        assert_eq!(
            args(&RunConfig::default(), &Options::default()),
            Err(NoProgram)
        );
    }

    #[test]
    fn each_variable_once_and_the_last_word_counts() {
        let image = words("PATH=/x A=1 B=2");
        let made = environment(&image, &words("B=3 TERM=dumb"), "host", true);
        assert_eq!(
            made,
            ["PATH=/x", "HOSTNAME=host", "TERM=dumb", "A=1", "B=3"]
        );
    }
}
