//! Gathers the texts of all settings from flags, environment and file, in this order of precedence, and remembers where
//! each came from. Knows which settings there are, not what their values mean.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, builder::PossibleValuesParser};
use toml::de::{DeTable, DeValue};

use super::exit::{Exit, Refusal};
use super::setting::{Fallback, Form, Group, Key, SETTINGS, Setting};

/// Longest configuration file, bytes: longer is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The configuration file.
    File {
        /// As it was given.
        path: String,
        /// From 1.
        line: usize,
    },
    /// A `RINGCORE_*` variable.
    Environment,
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::Environment => f.write_str("environment"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// A text that somebody gave for a setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given {
    /// Not yet judged. Lists are joined with commas.
    pub text: String,
    /// Who gave it.
    pub origin: Origin,
}

impl Given {
    /// The setting as the one who gave it wrote it, so that it can be found again.
    pub fn subject(&self, row: &Setting) -> String {
        let text = if self.text.is_empty() { "\"\"" } else { self.text.as_str() };
        match (&self.origin, row.flag()) {
            (Origin::Flag, Some(flag)) if row.form == Form::Switch && text == "true" => format!("--{flag}"),
            (Origin::Flag, Some(flag)) => format!("--{flag} {text}"),
            (Origin::Environment, _) => format!("{}={text}", row.variable()),
            (Origin::File { path, line }, _) => format!("{path}:{line}: {} = {text}", row.path()),
            (Origin::Default | Origin::Flag, _) => format!("{} = {text} (default)", row.path()),
        }
    }
}

/// The settings among the arguments of a command.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Texts by setting; a switch without a value is "true".
    pub texts: BTreeMap<Key, String>,
}

/// What was given for every setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gathered {
    /// The configuration file that was read.
    pub config: Option<PathBuf>,
    /// What seemed odd but harms nothing, a sentence each.
    pub notes: Vec<String>,
    given: Vec<Option<Given>>,
}

impl Gathered {
    /// Gathers from the arguments, the variables and the file that one of them names. An empty variable counts as none.
    ///
    /// # Errors
    /// A variable that is not UTF-8; a file that cannot be read or understood, or that names unknown settings.
    pub fn new(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Gathered, Vec<Refusal>> {
        let (mut variables, mut refusals) = read_environment(environment);
        let config = match variables.remove("RINGCORE_CONFIG") {
            Some(path) if flags.config.is_none() => Some(PathBuf::from(path)),
            _ => flags.config.clone(),
        };
        let mut given: Vec<Option<Given>> = vec![None; SETTINGS.len()];
        if let Some(path) = &config {
            match read_file(path) {
                Ok(found) => found.into_iter().for_each(|(key, value)| given[key as usize] = Some(value)),
                Err(more) => refusals.extend(more),
            }
        }
        for row in &SETTINGS {
            if let Some(text) = variables.remove(&row.variable()) {
                given[row.id as usize] = Some(Given { text, origin: Origin::Environment });
            }
            if let Some(text) = flags.texts.get(&row.id) {
                given[row.id as usize] = Some(Given { text: text.clone(), origin: Origin::Flag });
            }
        }
        let notes = variables.into_keys().filter(|name| !is_service_link(name));
        let notes = notes.map(|name| format!("{name} is no setting of ringcore: ignored")).collect();
        if refusals.is_empty() { Ok(Gathered { config, notes, given }) } else { Err(refusals) }
    }

    /// What was given for a setting, else the text of its default; None where the default is none.
    pub fn get(&self, key: Key) -> Option<Given> {
        let fallback = || match SETTINGS[key as usize].fallback {
            Fallback::Text(text) => Some(Given { text: text.to_owned(), origin: Origin::Default }),
            Fallback::Words(..) => None,
        };
        self.given[key as usize].clone().or_else(fallback)
    }
}

/// Reads the text of a configuration file. `path` is what its lines are named by.
///
/// # Errors
/// Everything in it that is not a setting, each with its line.
pub fn parse_file(path: &str, text: &str) -> Result<Vec<(Key, Given)>, Vec<Refusal>> {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = line_of(text, error.span().unwrap_or_default());
            let what = error.message().replace('\n', ", ");
            return Err(vec![Refusal::new(Exit::SETTING, format!("{path}:{line}: not TOML: {what}"))]);
        }
    };
    let mut file = File { path, text, found: Vec::new(), refusals: Vec::new() };
    for (key, value) in document.get_ref().iter() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("limits", DeValue::Table(limits)) => {
                for (key, value) in limits.iter() {
                    file.take(&format!("limits.{}", key.get_ref()), key.span(), value.get_ref());
                }
            }
            (name, value) => file.take(name, key.span(), value),
        }
    }
    if file.refusals.is_empty() { Ok(file.found) } else { Err(file.refusals) }
}

struct File<'a> {
    path: &'a str,
    text: &'a str,
    found: Vec<(Key, Given)>,
    refusals: Vec<Refusal>,
}

impl File<'_> {
    fn take(&mut self, name: &str, span: Range<usize>, value: &DeValue<'_>) {
        let line = line_of(self.text, span);
        let place = format!("{}:{line}", self.path);
        let Some(row) = SETTINGS.iter().find(|row| row.path() == name) else {
            self.refusals.push(unknown_key(&place, name));
            return;
        };
        match text_of(row, value) {
            Some(text) => {
                let origin = Origin::File { path: self.path.to_owned(), line };
                self.found.push((row.id, Given { text, origin }));
            }
            None => {
                let what = format!("{place}: {name} is {}, not {}", article(value), wanted(row.form));
                self.refusals.push(Refusal::new(Exit::SETTING, what).fix(format!(
                    "fix: write it as in: {}",
                    super::config::line(row, super::config::sample(row))
                )));
            }
        }
    }
}

fn unknown_key(place: &str, name: &str) -> Refusal {
    let refusal = Refusal::new(Exit::SETTING, format!("{place}: unknown key \"{name}\""));
    let bare = name.rsplit('.').next().unwrap_or(name).replace('-', "_");
    match SETTINGS.iter().find(|row| row.key == bare) {
        Some(row) => refusal.fix(format!("fix: write it as {}", row.path())),
        None => refusal.fix("fix: `ringcore config example` shows every key"),
    }
}

fn text_of(row: &Setting, value: &DeValue<'_>) -> Option<String> {
    match (value, row.form) {
        (DeValue::Boolean(value), Form::Switch) => Some(value.to_string()),
        (DeValue::String(text), form) if form != Form::Switch => Some(text.to_string()),
        (DeValue::Integer(number), Form::Number | Form::NumberOrText) if number.radix() == 10 => {
            Some(number.as_str().to_owned())
        }
        (DeValue::Array(items), Form::List) => {
            let items = items.iter().map(|item| item.get_ref().as_str());
            Some(items.collect::<Option<Vec<_>>>()?.join(","))
        }
        _ => None,
    }
}

fn article(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

fn wanted(form: Form) -> &'static str {
    match form {
        Form::Text | Form::Choice(_) => "a string",
        Form::Number => "a whole number",
        Form::NumberOrText => "a whole number or a string",
        Form::Switch => "true or false",
        Form::List => "an array of strings",
    }
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    let before = &text.as_bytes()[..span.start.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn read_file(path: &Path) -> Result<Vec<(Key, Given)>, Vec<Refusal>> {
    let refused = |what: String| {
        let what = format!("the configuration file {} {what}", path.display());
        vec![Refusal::new(Exit::SETTING, what).fix("fix: name another with --config (RINGCORE_CONFIG)")]
    };
    let size = fs::metadata(path).map_err(|error| refused(format!("cannot be read: {error}")))?.len();
    if size > FILE_BYTES_MAX {
        return Err(refused(format!("has {size} bytes; more than {FILE_BYTES_MAX} are not read")));
    }
    let text = fs::read_to_string(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    parse_file(&path.display().to_string(), &text)
}

fn read_environment(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> (BTreeMap<String, String>, Vec<Refusal>) {
    let (mut variables, mut refusals) = (BTreeMap::new(), Vec::new());
    for (name, text) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with("RINGCORE_")) else { continue };
        match text.into_string() {
            Ok(text) if text.is_empty() => {}
            Ok(text) => {
                variables.insert(name.to_owned(), text);
            }
            Err(_) => {
                refusals.push(Refusal::new(Exit::SETTING, format!("{name} (environment) is not UTF-8")))
            }
        }
    }
    (variables, refusals)
}

/// Kubernetes gives every pod variables for each service whose name begins so: `RINGCORE_SERVICE_HOST`,
/// `RINGCORE_PEERS_PORT_7718_TCP`.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
}

impl clap::Args for Flags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = Arg::new("config").long("config").short('c').value_name("FILE").help_heading("Node");
        let config = config.value_parser(clap::value_parser!(PathBuf));
        let config = config.help("Read settings from this TOML file. [env: RINGCORE_CONFIG]");
        SETTINGS.iter().filter_map(flag).fold(command.arg(config), clap::Command::arg)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Flags::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Flags, clap::Error> {
        let text = |row: &Setting| Some((row.id, matches.get_one::<String>(row.key)?.clone()));
        let flags = SETTINGS.iter().filter(|row| row.group != Group::Limits);
        Ok(Flags {
            config: matches.get_one::<PathBuf>("config").cloned(),
            texts: flags.filter_map(text).collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Flags::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(row: &Setting) -> Option<Arg> {
    let fallback = match row.fallback {
        Fallback::Text(_) if row.form == Form::Switch => String::new(),
        Fallback::Text(text) => format!(" [default: {text}]"),
        Fallback::Words(words, _) => format!(" [default: {words}]"),
    };
    let help = format!("{} [env: {}]{fallback}", row.help, row.variable());
    let flag = Arg::new(row.key).long(row.flag()?).help(help).help_heading(row.group.heading());
    let flag = flag.action(ArgAction::Set).overrides_with(row.key);
    Some(match row.form {
        Form::Switch => flag
            .value_parser(PossibleValuesParser::new(["true", "false"]))
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_possible_values(true)
            .value_name("true|false"),
        Form::Choice(choices) => flag
            .value_parser(PossibleValuesParser::new(choices))
            .hide_possible_values(true)
            .value_name(row.value),
        Form::Text | Form::Number | Form::NumberOrText | Form::List => flag.value_name(row.value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Vec<(Key, Given)>, Vec<String>> {
        let words =
            |refusals: Vec<Refusal>| refusals.into_iter().map(|refusal| refusal.to_string()).collect();
        parse_file("f.toml", text).map_err(words)
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, text)| (name.into(), text.into())).collect()
    }

    #[test]
    fn every_form_of_a_value_is_read_with_its_line() {
        let text = "\n# a comment\nname = \"n1\"\nreplication = 5\nbootstrap = true\ncores = \"0-3\"\n\
                    join = [\n  \"a:1\",\n  \"b:2\",\n]\n[limits]\nbatch_keys_max = 10_000\nttl_max = \"1d\"\n";
        let mut found = file(text).unwrap();
        found.sort_by_key(|(_, given)| match given.origin {
            Origin::File { line, .. } => line,
            Origin::Default | Origin::Environment | Origin::Flag => 0,
        });
        let found: Vec<_> =
            found.into_iter().map(|(key, given)| (key, given.text, given.origin.to_string())).collect();
        let expected = [
            (Key::Name, "n1", "f.toml:3"),
            (Key::Replication, "5", "f.toml:4"),
            (Key::Bootstrap, "true", "f.toml:5"),
            (Key::Cores, "0-3", "f.toml:6"),
            (Key::Join, "a:1,b:2", "f.toml:7"),
            (Key::BatchKeysMax, "10000", "f.toml:12"),
            (Key::TtlMax, "1d", "f.toml:13"),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(key, text, origin)| (key, text.to_owned(), origin.to_owned()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_setting_is_refused_with_its_line() {
        let cases = [
            ("name = \"n\"\nlisen = \"x\"\n", "error: f.toml:2: unknown key \"lisen\""),
            ("data-dir = \"x\"\n", "f.toml:1: unknown key \"data-dir\"\n  fix: write it as data_dir"),
            ("key_max = 1\n", "f.toml:1: unknown key \"key_max\"\n  fix: write it as limits.key_max"),
            ("[limits]\nname = \"x\"\n", "f.toml:2: unknown key \"limits.name\"\n  fix: write it as name"),
            ("[node]\nname = \"x\"\n", "f.toml:1: unknown key \"node\""),
            ("limits = 3\n", "f.toml:1: unknown key \"limits\""),
            ("\nname = 7\n", "f.toml:2: name is an integer, not a string"),
            ("insecure = \"yes\"\n", "f.toml:1: insecure is a string, not true or false"),
            ("replication = 3.0\n", "f.toml:1: replication is a float, not a whole number"),
            ("join = [1]\n", "f.toml:1: join is an array, not an array of strings"),
            ("name = \"a\"\nname = \"b\"\n", "f.toml:2: not TOML: duplicate key"),
            ("name = \n", "f.toml:1: not TOML: "),
        ];
        for (text, expected) in cases {
            let refusals = file(text).expect_err(text).join("\n");
            assert!(refusals.contains(expected), "{text}: {refusals}");
        }
        assert_eq!(file("a = 1\nb = 2\n").unwrap_err().len(), 2, "all of them at once");
    }

    #[test]
    fn unknown_variables_are_told_but_not_those_of_services() {
        let variables = [
            ("RINGCORE_LISEN", "x"),
            ("RINGCORE_SERVICE_HOST", "x"),
            ("RINGCORE_PEERS_PORT_7717_TCP", "x"),
            ("RINGCORE_NAME", "n1"),
            ("RINGCORE_ZONE", ""),
            ("OTHER", "x"),
        ];
        let gathered = Gathered::new(&Flags::default(), environment(&variables)).unwrap();
        assert_eq!(gathered.notes, ["RINGCORE_LISEN is no setting of ringcore: ignored"]);
        assert_eq!(gathered.get(Key::Name), Some(Given { text: "n1".into(), origin: Origin::Environment }));
        assert_eq!(gathered.get(Key::Zone), Some(Given { text: "default".into(), origin: Origin::Default }));
    }

    #[test]
    fn a_variable_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let variables = [(OsString::from("RINGCORE_NAME"), OsString::from_vec(vec![0xFF]))];
        let refusals = Gathered::new(&Flags::default(), variables).unwrap_err();
        assert_eq!((refusals[0].exit, refusals[0].what.contains("RINGCORE_NAME")), (Exit::SETTING, true));
    }

    #[test]
    fn an_absent_file_is_refused_by_its_name() {
        let flags = Flags { config: Some("/nonexistent/f.toml".into()), ..Flags::default() };
        let refusals = Gathered::new(&flags, []).unwrap_err();
        assert_eq!(refusals[0].exit, Exit::SETTING);
        assert!(refusals[0].what.contains("/nonexistent/f.toml"), "{}", refusals[0]);
    }
}
