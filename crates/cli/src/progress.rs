// SPDX-License-Identifier: Apache-2.0
//! One line that says how far a pull is.
//!
//! On a terminal it is drawn over itself and vanishes at the end; elsewhere a line is printed at most every few seconds, so that a log stays short.
//! `NO_COLOR` and `TERM=dumb` are heeded; `CLICOLOR_FORCE` is not needed, because a line that moves makes no sense where colour must be forced.

use std::{
    env,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use wolffia_pull::{Progress, Stage};

use crate::human;

/// How often a line is printed where there is no terminal.
const PLAIN_PERIOD: Duration = Duration::from_secs(5);

/// How often the line is drawn on a terminal.
const DRAW_PERIOD: Duration = Duration::from_millis(100);

/// Letters of the bar.
const BAR_LETTERS: u64 = 24;

/// Columns of a terminal that does not say how many it has.
const COLUMNS: u16 = 80;

/// The line.
#[derive(Debug)]
pub(crate) struct Line {
    name: String,
    style: Style,
    began: Instant,
    last: Option<Instant>,
    drawn: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Quiet,
    Plain,
    Drawn { colour: bool },
}

impl Line {
    /// Makes the line for an image.
    pub(crate) fn new(name: &str, quiet: bool) -> Line {
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        let colour = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let style = match (quiet, io::stderr().is_terminal() && !dumb) {
            (true, _) => Style::Quiet,
            (false, true) => Style::Drawn { colour },
            (false, false) => Style::Plain,
        };
        Line {
            name: name.to_owned(),
            style,
            began: Instant::now(),
            last: None,
            drawn: false,
        }
    }

    /// Shows how far it is, if it is time to.
    pub(crate) fn show(&mut self, progress: Progress) {
        let period = match self.style {
            Style::Quiet => return,
            Style::Plain => PLAIN_PERIOD,
            Style::Drawn { .. } => DRAW_PERIOD,
        };
        let now = Instant::now();
        // A plain log gets its first line after the first period: a quick pull says only how it ended.
        let since = self.last.unwrap_or(match self.style {
            Style::Plain => self.began,
            _ => now.checked_sub(period).unwrap_or(now),
        });
        if now.duration_since(since) < period {
            return;
        }
        self.last = Some(now);
        let text = self.text(&progress);
        let mut out = io::stderr().lock();
        // Progress that cannot be shown is no failure of the pull.
        drop(match self.style {
            Style::Drawn { .. } => write!(out, "\r\x1b[K{text}").and_then(|()| out.flush()),
            _ => writeln!(out, "{text}"),
        });
        self.drawn = true;
    }

    /// Takes the line away and says how it ended.
    pub(crate) fn finish(mut self, text: &str) {
        self.clear();
        if self.style != Style::Quiet {
            let took = self.began.elapsed().as_secs_f64();
            drop(writeln!(io::stderr().lock(), "{text} in {took:.1} s"));
        }
    }

    /// Takes the line away and says that a program can start, with how much of its image here.
    pub(crate) fn finish_lazy(mut self, name: &str, fetched_bytes: u64, lazy_bytes: u64) {
        self.clear();
        if self.style != Style::Quiet {
            let took = self.began.elapsed().as_secs_f64();
            let percent = fetched_bytes * 100 / (fetched_bytes + lazy_bytes).max(1);
            drop(writeln!(
                io::stderr().lock(),
                "{name}: ready in {took:.1} s, {percent} % fetched"
            ));
        }
    }

    fn clear(&mut self) {
        if self.drawn && matches!(self.style, Style::Drawn { .. }) {
            let mut out = io::stderr().lock();
            drop(write!(out, "\r\x1b[K").and_then(|()| out.flush()));
            self.drawn = false;
        }
    }

    fn text(&self, progress: &Progress) -> String {
        let Progress {
            bytes_total,
            bytes_done,
            layers_total,
            layers_done,
            stage,
        } = *progress;
        let layers = format!("layers {layers_done}/{layers_total}");
        let seconds = self.began.elapsed().as_secs_f64();
        let text = match stage {
            Stage::Resolving => format!("{}: asking the registry", self.name),
            Stage::Writing => format!("{}: writing the tree, {layers}", self.name),
            Stage::Fetching => {
                let (done, total) = (human::size(bytes_done), human::size(bytes_total));
                #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
                let rate = if seconds > 0.2 {
                    bytes_done as f64 / seconds
                } else {
                    0.0
                };
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rate is positive and far below the bound"
                )]
                let rate_text = human::size(rate as u64);
                let percent = (bytes_done * 100)
                    .checked_div(bytes_total)
                    .unwrap_or(0)
                    .min(100);
                let bar = bar(bytes_done, bytes_total, self.style);
                format!(
                    "{}: {bar}{percent:>3}% {done}/{total}, {rate_text}/s, {layers}",
                    self.name
                )
            }
        };
        match self.style {
            Style::Drawn { .. } => cut(&text),
            _ => text,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: u64, total: u64, style: Style) -> String {
    let Style::Drawn { colour } = style else {
        return String::new();
    };
    let filled = (done.min(total) * BAR_LETTERS)
        .checked_div(total)
        .unwrap_or(0);
    let bar: String = (0..BAR_LETTERS)
        .map(|at| if at < filled { '█' } else { '░' })
        .collect();
    if colour {
        format!("\x1b[32m{bar}\x1b[0m ")
    } else {
        format!("{bar} ")
    }
}

/// Cuts a line to the terminal, so that drawing over it works; colour codes have no width.
fn cut(text: &str) -> String {
    let columns = rustix::termios::tcgetwinsize(io::stderr()).map_or(COLUMNS, |size| {
        if size.ws_col > 0 {
            size.ws_col
        } else {
            COLUMNS
        }
    });
    let mut cut = String::new();
    let (mut width, mut escape) = (0, false);
    for letter in text.chars() {
        match (escape, letter) {
            (false, '\x1b') => escape = true,
            (true, 'm') => escape = false,
            (true, _) => {}
            (false, _) => width += 1,
        }
        if width >= columns {
            return cut + "\x1b[0m";
        }
        cut.push(letter);
    }
    cut
}
