//! Records of CSV: an empty cell is null, `""` is the empty string. Readers at hand do not tell these two apart.

use std::borrow::Cow;

use super::TextProblem;

/// A cell of a record; None: it is empty, and not quoted.
pub type Cell<'t> = Option<Cow<'t, str>>;

/// Reads a text record by record. Blank lines are none.
#[derive(Debug)]
pub struct Records<'t> {
    rest: &'t str,
    line: usize,
}

/// A quoted cell that does not end, and the line it begins on.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenQuote {
    pub line: usize,
}

enum End {
    Cell,
    Record,
}

impl<'t> Records<'t> {
    /// `line`: that the text begins on.
    pub fn new(text: &'t str, line: usize) -> Self {
        Records { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line }
    }

    /// Puts the cells of the next record into `cells`; gives the line it begins on, None after the last.
    ///
    /// # Errors
    /// A quote that is never closed.
    pub fn read(&mut self, cells: &mut Vec<Cell<'t>>) -> Result<Option<usize>, OpenQuote> {
        loop {
            cells.clear();
            if self.rest.is_empty() {
                return Ok(None);
            }
            let line = self.line;
            loop {
                let (cell, end) = self.cell()?;
                cells.push(cell);
                if matches!(end, End::Record) {
                    break;
                }
            }
            if !matches!(cells.as_slice(), [None]) {
                return Ok(Some(line));
            }
        }
    }

    /// The text after the records that were read, and the line it begins on.
    pub fn rest(&self) -> (&'t str, usize) {
        (self.rest, self.line)
    }

    fn cell(&mut self) -> Result<(Cell<'t>, End), OpenQuote> {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let (text, end) = self.plain();
            return Ok(((!text.is_empty()).then_some(Cow::Borrowed(text)), end));
        };
        let mut text = self.quoted(quoted)?;
        let (after, end) = self.plain();
        if !after.is_empty() {
            text.to_mut().push_str(after);
        }
        Ok((Some(text), end))
    }

    /// The text up to the end of the cell.
    fn plain(&mut self) -> (&'t str, End) {
        let length = self.rest.bytes().position(|byte| byte == b',' || byte == b'\n');
        let Some(length) = length else { return (std::mem::take(&mut self.rest), End::Record) };
        let (text, rest) = self.rest.split_at(length);
        let is_record = rest.starts_with('\n');
        self.rest = &rest[1..];
        self.line += usize::from(is_record);
        if is_record { (text.strip_suffix('\r').unwrap_or(text), End::Record) } else { (text, End::Cell) }
    }

    /// What is quoted at the beginning of `text`, which follows a quote.
    fn quoted(&mut self, mut text: &'t str) -> Result<Cow<'t, str>, OpenQuote> {
        let mut content = Cow::Borrowed("");
        let opened = self.line;
        loop {
            let Some(length) = text.bytes().position(|byte| byte == b'"') else {
                return Err(OpenQuote { line: opened });
            };
            let piece = &text[..length];
            self.line += piece.bytes().filter(|byte| *byte == b'\n').count();
            if content.is_empty() {
                content = Cow::Borrowed(piece);
            } else {
                content.to_mut().push_str(piece);
            }
            text = &text[length + 1..];
            let Some(after_quote) = text.strip_prefix('"') else {
                self.rest = text;
                return Ok(content);
            };
            content.to_mut().push('"');
            text = after_quote;
        }
    }
}

/// Finds the ends of records in bytes that come in pieces.
#[derive(Debug, Default)]
pub(super) struct RecordEnds {
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    CellStart,
    Plain,
    Quoted,
    /// After a quote within quotes: it may be the first of two.
    QuoteInQuoted,
}

impl RecordEnds {
    /// One past the last record that ends in the next piece.
    pub fn last(&mut self, piece: &[u8]) -> Option<usize> {
        let mut last = None;
        for (position, byte) in piece.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::CellStart, b'"') | (State::QuoteInQuoted, b'"') => State::Quoted,
                (State::Quoted, b'"') => State::QuoteInQuoted,
                (State::Quoted, _) => State::Quoted,
                (_, b',') => State::CellStart,
                (_, b'\n') => {
                    last = Some(position + 1);
                    State::CellStart
                }
                _ => State::Plain,
            };
        }
        last
    }
}

/// The names of a header's columns.
///
/// # Errors
/// A name that stands twice.
pub(super) fn header_names(cells: &[Cell<'_>]) -> Result<Vec<String>, TextProblem> {
    let mut names: Vec<String> = Vec::with_capacity(cells.len());
    for cell in cells {
        let name = cell.as_deref().unwrap_or_default();
        // Columns without a name cannot be asked for.
        if !name.is_empty() && names.iter().any(|known| known == name) {
            return Err(TextProblem::ColumnTwice { column: name.to_owned() });
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rows = Vec<(usize, Vec<Option<String>>)>;

    fn records(text: &str) -> Result<Rows, OpenQuote> {
        let mut records = Records::new(text, 1);
        let mut cells = Vec::new();
        let mut rows = Vec::new();
        while let Some(line) = records.read(&mut cells)? {
            rows.push((line, cells.iter().map(|cell| cell.as_ref().map(|cell| cell.to_string())).collect()));
        }
        Ok(rows)
    }

    /// The records, and the same ones out of every split of the text at an end of a record that is found piece by
    /// piece.
    fn check(text: &str, expected: &[(usize, &[Option<&str>])]) {
        let owned = |cells: &[Option<&str>]| cells.iter().map(|cell| cell.map(str::to_owned)).collect();
        let expected: Rows = expected.iter().map(|(line, cells)| (*line, owned(cells))).collect();
        assert_eq!(records(text).as_ref(), Ok(&expected), "{text:?}");
        for size in 1..=text.len() {
            let mut ends = RecordEnds::default();
            let mut seen = 0;
            for piece in text.as_bytes().chunks(size) {
                if let Some(end) = ends.last(piece) {
                    let (before, after) = text.split_at(seen + end);
                    let parts = records(before).unwrap().len() + records(after).unwrap().len();
                    assert_eq!(parts, expected.len(), "{text:?} cut after {before:?}");
                }
                seen += piece.len();
            }
        }
    }

    #[test]
    fn an_empty_cell_is_null_and_an_empty_quote_is_the_empty_string() {
        check("a,b\n,\"\"\n", &[(1, &[Some("a"), Some("b")]), (2, &[None, Some("")])]);
        check("a,\n", &[(1, &[Some("a"), None])]);
        check("", &[]);
        check("\n\r\n", &[]);
    }

    #[test]
    fn quotes_hold_separators_and_lines() {
        check("a\r\n\"x,\"\"y\n\"\r\n\r\nz", &[(1, &[Some("a")]), (2, &[Some("x,\"y\n")]), (5, &[Some("z")])]);
        check("5\" pipe,\"a\"b\n\"\"\"\",x", &[(1, &[Some("5\" pipe"), Some("ab")]), (2, &[Some("\""), Some("x")])]);
        check("\"ü\n\",\"\n\"\nz", &[(1, &[Some("ü\n"), Some("\n")]), (4, &[Some("z")])]);
        assert_eq!(records("\u{feff}\"a\"").unwrap(), [(1, vec![Some("a".to_owned())])]);
    }

    #[test]
    fn a_quote_that_is_not_closed_tells_its_line() {
        assert_eq!(records("a\n\"b\n"), Err(OpenQuote { line: 2 }));
        assert_eq!(records("a\n\"b\n\"\"\n"), Err(OpenQuote { line: 2 }));
    }
}
