//! Where a command writes: data to standard output, everything else to standard error, and what suits the reader there.

use super::exit::{Refusal, output_failed};
use crate::program::table::lay_out;
use std::io::{self, BufWriter, IsTerminal as _, Write};

/// How data is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Format {
    /// Columns under headings.
    Table,
    /// One record a line, its fields separated by tabs, no headings.
    Plain,
    /// One JSON object a line.
    Json,
}

/// The two streams of a command.
pub(super) struct Console {
    pub(super) out: Box<dyn Write>,
    pub(super) err: Box<dyn Write>,
    pub(super) format: Format,
    /// Is a person reading standard output?
    pub(super) out_is_terminal: bool,
    /// Is a person reading standard error?
    pub(super) err_is_terminal: bool,
    /// May standard output be coloured?
    colours: bool,
}

impl Console {
    /// The process's own streams. Without a wish, a table for a person and plain lines for a program.
    pub(super) fn of_process(format: Option<Format>) -> Console {
        let out_is_terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Console {
            out: Box::new(BufWriter::with_capacity(64 << 10, io::stdout().lock())),
            err: Box::new(io::stderr()),
            format: format.unwrap_or(if out_is_terminal { Format::Table } else { Format::Plain }),
            out_is_terminal,
            err_is_terminal: io::stderr().is_terminal(),
            colours: out_is_terminal && !no_colour,
        }
    }

    /// Writes bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.out.write_all(bytes).map_err(|error| output_failed(&error))
    }

    /// Writes a line.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Refusal> {
        self.raw(line.as_bytes())?;
        self.raw(b"\n")
    }

    /// Writes one object on a line.
    pub(super) fn json(&mut self, object: &impl serde::Serialize) -> Result<(), Refusal> {
        let line = serde_json::to_string(object).expect("output has text keys and no failing types");
        self.line(&line)
    }

    /// Writes rows under their headings, or, in plain format, separated by tabs without them.
    pub(super) fn rows<const N: usize>(
        &mut self,
        headings: [&str; N],
        rows: &[[String; N]],
    ) -> Result<(), Refusal> {
        if self.format != Format::Table {
            return rows.iter().try_for_each(|row| self.line(&row.join("\t")));
        }
        let table = lay_out(headings, rows);
        let (head, body) = table.split_once('\n').expect("a table begins with its headings");
        let head = self.paint("1", head);
        self.line(&head)?;
        self.raw(body.as_bytes())
    }

    /// Good news in green.
    pub(super) fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Bad news in red.
    pub(super) fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }

    /// A line on standard error. If nobody can read it there, there is nowhere else to say so.
    pub(super) fn note(&mut self, line: &str) {
        writeln!(self.err, "{line}").ok();
    }

    /// Everything written so far is on its way.
    pub(super) fn flush(&mut self) -> Result<(), Refusal> {
        self.out.flush().map_err(|error| output_failed(&error))
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What a command wrote.
    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A console with its output.
    fn captured(format: Format, terminal: bool) -> (Console, Captured) {
        let out = Captured::default();
        let console = Console {
            out: Box::new(out.clone()),
            err: Box::new(io::sink()),
            format,
            out_is_terminal: terminal,
            err_is_terminal: false,
            colours: terminal,
        };
        (console, out)
    }

    #[test]
    fn rows_have_headings_and_colour_only_for_people() {
        let rows = [["a".to_owned(), "1".to_owned()]];
        let (mut console, out) = captured(Format::Table, true);
        console.rows(["NAME", "N"], &rows).unwrap();
        assert_eq!(out.text(), "\x1b[1mNAME  N\x1b[0m\na     1\n");
        let (mut console, out) = captured(Format::Plain, false);
        console.rows(["NAME", "N"], &rows).unwrap();
        assert_eq!(out.text(), "a\t1\n");
        assert_eq!((console.good("x"), console.bad("y")), ("x".to_owned(), "y".to_owned()));
    }
}
