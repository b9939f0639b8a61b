//! `ringcore config`: the settings as a TOML file, as an example or as they are in force. Judges nothing.

use std::fmt::Write as _;

use super::setting::{Fallback, Form, Group, SETTINGS, Setting, setting};
use super::settings::Settings;

/// Widest line of a comment.
const WIDTH: usize = 100;

/// A file with every setting, each with its default or an example, all commented out.
pub fn example() -> String {
    let mut text = String::from(
        "# ringcore.toml: settings of a node. Read with: ringcore start --config ringcore.toml\n\
         # A flag goes before an environment variable, that before this file, this file before the default.\n\
         # Lines that begin with \"#key\" show the default, or an example where the default is none.\n",
    );
    let mut group = None;
    for row in &SETTINGS {
        if group != Some(row.group) {
            group = Some(row.group);
            write!(text, "\n# --- {} ---\n", row.group.heading()).expect("a string takes all");
            if row.group == Group::Limits {
                text.push_str("# What a request may ask for.\n[limits]\n");
            }
        }
        text.push('\n');
        let fallback = match row.fallback {
            Fallback::Text(_) => String::new(),
            Fallback::Words(words, _) => format!(" Default: {words}."),
        };
        comment(&mut text, &format!("{}{fallback} [{}]", row.help, names(row)));
        writeln!(text, "#{}", line(row, sample(row))).expect("a string takes all");
    }
    text
}

/// The settings in force as a file that gives the same, with each one's origin behind it if asked for.
pub fn print(settings: &Settings, origin: bool) -> String {
    let mut lines = Vec::new();
    let mut limits = false;
    for entry in settings.entries() {
        let row = setting(entry.key);
        if row.group == Group::Limits && !limits {
            limits = true;
            lines.push((String::from("\n[limits]"), String::new()));
        }
        let line = match (&entry.text, row.fallback) {
            (Some(text), _) => line(row, text),
            (None, Fallback::Words(words, _)) => format!("#{} = {words}", row.key),
            (None, Fallback::Text(_)) => unreachable!("a default that is a text stands for itself"),
        };
        lines.push((line, if origin { format!("# {}", entry.origin) } else { String::new() }));
    }
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    lines.into_iter().fold(String::new(), |mut text, (line, origin)| {
        if origin.is_empty() {
            writeln!(text, "{line}").expect("a string takes all");
        } else {
            writeln!(text, "{line:width$}  {origin}").expect("a string takes all");
        }
        text
    })
}

/// One line of the file. A limit's stands in its table.
pub(super) fn line(row: &Setting, text: &str) -> String {
    format!("{} = {}", row.key, literal(row.form, text))
}

/// The default, or the example where it is none.
pub(super) fn sample(row: &Setting) -> &'static str {
    match row.fallback {
        Fallback::Text(text) | Fallback::Words(_, text) => text,
    }
}

fn literal(form: Form, text: &str) -> String {
    let quote = |text: &str| toml::Value::from(text).to_string();
    match form {
        Form::Text | Form::Choice(_) => quote(text),
        Form::Number | Form::Switch => text.to_owned(),
        Form::NumberOrText if text.bytes().all(|byte| byte.is_ascii_digit()) => text.to_owned(),
        Form::NumberOrText => quote(text),
        Form::List => {
            let items: Vec<_> = text.split(',').map(|item| quote(item.trim())).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

fn names(row: &Setting) -> String {
    match row.flag() {
        Some(flag) => format!("--{flag}, {}", row.variable()),
        None => row.variable(),
    }
}

/// Breaks a sentence into comment lines.
fn comment(text: &mut String, sentence: &str) {
    let mut width = 0;
    for word in sentence.split(' ') {
        if width == 0 || width + 1 + word.len() > WIDTH {
            text.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        text.push(' ');
        text.push_str(word);
        width += 1 + word.len();
    }
    text.push('\n');
}
