//! Errors in files that people write: each one says what is wrong, where, and what to do.
//!
//! A [`Reporter`] knows the texts and collects; [`Diagnostics`] is what it hands over when something was wrong.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::error::ErrorKind;

/// Part of a file, to point at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// Index of the file in its [`Reporter`].
    pub file: usize,
    /// Bytes from the start of the text.
    pub offset: usize,
    /// Bytes.
    pub length: usize,
    /// From 1.
    pub line: usize,
    /// Characters, from 1.
    pub column: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// Characters, from 1.
    pub column: usize,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line it stands in, or the part of it around the column if it is long; fit for a terminal.
    pub source_line: String,
    /// Characters of `source_line` before what is pointed at.
    #[serde(skip)]
    pub caret_start: usize,
    /// Characters of `source_line` that are pointed at, 1 at least.
    #[serde(skip)]
    pub caret_length: usize,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { file, line, column, message, source_line, .. } = self;
        let margin = " ".repeat(line.to_string().len());
        writeln!(f, "error: {message}")?;
        writeln!(f, "{margin}--> {file}:{line}:{column}")?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{line} | {source_line}")?;
        write!(f, "{margin} | {}{}", " ".repeat(self.caret_start), "^".repeat(self.caret_length))?;
        match &self.help {
            Some(help) => write!(f, "\n{margin} = help: {help}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong in some files, by file and position; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// How many more there were than are worth keeping.
    omitted: usize,
}

impl Diagnostics {
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostics {
    /// Every one in full, a blank line between two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            write!(f, "{}{diagnostic}", if index == 0 { "" } else { "\n\n" })?;
        }
        if self.omitted > 0 {
            write!(f, "\n\nerror: and {} more than these {}", self.omitted, self.list.len())?;
        }
        Ok(())
    }
}

impl Serialize for Diagnostics {
    /// The list of the diagnostics.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list.serialize(serializer)
    }
}

/// More diagnostics than a person would read; keeps hostile files from costing memory.
const KEPT_MAX: usize = 200;
/// Longest part of a source line that is shown, in characters.
const SOURCE_LINE_MAX: usize = 140;
/// Longest message, in characters; only quoted input makes one longer.
const MESSAGE_MAX: usize = 600;

/// Collects what is wrong in some files.
#[derive(Debug, Default)]
pub struct Reporter<'a> {
    files: Vec<(&'a str, &'a str)>,
    errors: Vec<(Span, String, Option<String>)>,
    omitted: usize,
}

impl<'a> Reporter<'a> {
    /// Makes a file known, so that spans can point into it; a byte order mark is no part of the text.
    pub fn add_file(&mut self, path: &'a str, text: &'a str) -> usize {
        self.files.push((path, text.strip_prefix('\u{feff}').unwrap_or(text)));
        self.files.len() - 1
    }

    pub fn text(&self, file: usize) -> &'a str {
        self.files.get(file).map_or("", |(_, text)| text)
    }

    /// `file:line:column`, for messages that name a second place.
    pub fn place(&self, span: Span) -> String {
        let path = self.files.get(span.file).map_or("", |(path, _)| path);
        format!("{path}:{}:{}", span.line, span.column)
    }

    /// The word at a line and a column, both from 1, of a text that is written at `span`.
    ///
    /// Gives `span` itself where the text is written in such a way that its lines are not those of the file.
    pub fn within(&self, span: Span, (line, column): (usize, usize)) -> Span {
        let written = self.text(span.file).get(span.offset..).unwrap_or_default();
        let quote = usize::from(written.starts_with(['"', '\'']));
        let skipped: usize = written.split_inclusive('\n').take(line - 1).map(str::len).sum();
        // The lines of a block are indented alike.
        let before = if line == 1 { column - 1 + quote } else { span.column - 1 + column - 1 };
        let rest = written.get(skipped..).unwrap_or_default();
        let text_line = rest.lines().next().unwrap_or_default();
        let Some((at, _)) = text_line.char_indices().nth(before) else { return span };
        let word = text_line[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum();
        Span {
            file: span.file,
            offset: span.offset + skipped + at,
            length: usize::max(word, 1),
            line: span.line + line - 1,
            column: if line == 1 { span.column + before } else { before + 1 },
        }
    }

    /// Whether further errors are only counted, so that working out help for them is in vain.
    pub fn is_full(&self) -> bool {
        self.errors.len() >= KEPT_MAX
    }

    pub fn error(&mut self, span: Span, message: impl Into<String>) {
        self.push(span, message.into(), None);
    }

    pub fn error_with_help(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.push(span, message.into(), Some(help.into()));
    }

    fn push(&mut self, span: Span, message: String, help: Option<String>) {
        if self.is_full() {
            self.omitted += 1;
            return;
        }
        let (message, help) = (printable(&message, MESSAGE_MAX), help.map(|help| printable(&help, MESSAGE_MAX)));
        // An alias repeats what is wrong at its anchor.
        if !self.errors.iter().any(|(at, text, _)| *at == span && *text == message) {
            self.errors.push((span, message, help));
        }
    }

    pub fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// # Errors
    /// All that was reported, if anything was.
    pub fn finish(mut self) -> Result<(), Diagnostics> {
        if self.errors.is_empty() {
            return Ok(());
        }
        self.errors.sort_by_key(|(span, ..)| (span.file, span.line, span.column));
        let list = std::mem::take(&mut self.errors);
        let list = list.into_iter().map(|(span, message, help)| self.diagnostic(span, message, help)).collect();
        Err(Diagnostics { list, omitted: self.omitted })
    }

    fn diagnostic(&self, span: Span, message: String, help: Option<String>) -> Diagnostic {
        let (path, text) = self.files.get(span.file).copied().unwrap_or_default();
        let (source_line, caret_start, caret_length) = snippet(text, span);
        Diagnostic {
            file: path.to_owned(),
            line: span.line,
            column: span.column,
            message,
            help,
            source_line,
            caret_start,
            caret_length,
        }
    }
}

/// The line of a span, cut to a window around it, and the characters of it to point at.
fn snippet(text: &str, span: Span) -> (String, usize, usize) {
    let offset = span.offset.min(text.len());
    let (Some(before), Some(after)) = (text.get(..offset), text.get(offset..)) else {
        return (String::new(), 0, 1);
    };
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = after.find('\n').map_or(text.len(), |newline| offset + newline);
    let (before, after) = (&text[line_start..offset], text[offset..line_end].trim_end_matches('\r'));

    let skipped = before.chars().count().saturating_sub(SOURCE_LINE_MAX / 2);
    let marker = if skipped > 0 { "…" } else { "" };
    let before: String = before.chars().skip(skipped).collect();
    let start = marker.chars().count() + before.chars().count();
    let line = format!("{marker}{}{}", printable(&before, usize::MAX), printable(after, SOURCE_LINE_MAX - start));
    let pointed = after.get(..span.length.min(after.len())).unwrap_or(after).trim_end().chars().count();
    let length = pointed.clamp(1, SOURCE_LINE_MAX - start);
    (line, start, length)
}

/// The text without characters that would move the cursor or turn the direction of writing, and not too long.
fn printable(text: &str, chars_max: usize) -> String {
    let harmful = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let shown = |c: char| match c {
        '\t' => ' ',
        c if harmful(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    let mut chars = text.chars();
    let mut printable: String = chars.by_ref().take(chars_max).map(shown).collect();
    if chars.next().is_some() {
        printable.push('…');
    }
    printable
}

/// Longest name that is compared with others; what is longer was not mistyped.
const NEAREST_MAX: usize = 200;

/// The candidate nearest to `name` in spelling, if one is near enough to be meant: at most a third of its letters
/// differ, so that one letter never stands for another.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NEAREST_MAX {
        return None;
    }
    let name = name.to_lowercase();
    let letters = name.chars().count();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= NEAREST_MAX)
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= letters.max(candidate.chars().count()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Help for a name that is not among the known ones: the nearest, else what there is.
///
/// `plural` says what they are, as in "the entities are …".
pub fn help_with_names(name: &str, plural: &str, known: &[&str]) -> String {
    const LISTED_MAX: usize = 15;
    if let Some(candidate) = nearest(name, known.iter().copied()) {
        return format!("did you mean `{candidate}`?");
    }
    match known.len() {
        0 => format!("there are no {plural}"),
        1 => format!("there is only `{}`", known[0]),
        2..=LISTED_MAX => format!("the {plural} are {}", quoted_list(known)),
        more => format!("the {plural} are {} and {} more", quoted_list(&known[..LISTED_MAX]), more - LISTED_MAX),
    }
}

fn quoted_list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, span: Span, message: &str, help: &str) -> String {
        let mut reporter = Reporter::default();
        reporter.add_file("defs/a.yaml", text);
        reporter.error_with_help(span, message, help);
        reporter.finish().unwrap_err().to_string()
    }

    #[test]
    fn an_error_is_drawn_under_its_line() {
        let span = Span { file: 0, offset: 13, length: 7, line: 2, column: 1 };
        insta::assert_snapshot!(
            rendered("sources: []\r\n\u{e9}ntites: []\r\n", Span { length: 8, ..span }, "unknown key `éntites`", "did you mean `entities`?"),
            @r"
        error: unknown key `éntites`
         --> defs/a.yaml:2:1
          |
        2 | éntites: []
          | ^^^^^^^
          = help: did you mean `entities`?
        "
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_column_and_control_characters_are_not_printed() {
        let text = format!("{}\u{1b}[31mBAD{}", "x".repeat(1000), "y".repeat(1000));
        let span = Span { file: 0, offset: 1000, length: 8, line: 1, column: 1001 };
        let rendered = rendered(&text, span, "what \u{1b}[0m", "h");
        assert!(rendered.contains("defs/a.yaml:1:1001"));
        assert!(!rendered.contains('\u{1b}'));
        assert!(rendered.lines().all(|line| line.chars().count() < 160), "{rendered}");
        let caret_line = rendered.lines().nth(4).unwrap();
        assert_eq!(caret_line.trim_start_matches([' ', '|']), "^^^^^^^^");
    }

    #[test]
    fn a_word_within_a_text_is_found_in_its_file() {
        let text = "sql: |\n  SELECT a,\n    café + b\nother: \"x + yy\"\nfolded: >\n  x\n  y\n";
        let mut reporter = Reporter::default();
        reporter.add_file("a.yaml", text);
        let span =
            |word: &str, line, column| Span { file: 0, offset: text.find(word).unwrap(), length: 1, line, column };
        let place = |span, at| {
            let Span { offset, length, line, column, .. } = reporter.within(span, at);
            (&text[offset..offset + length], line, column)
        };
        let block = span("SELECT", 2, 3);
        assert_eq!(place(block, (1, 8)), ("a", 2, 10));
        assert_eq!(place(block, (2, 3)), ("café", 3, 5));
        assert_eq!(place(block, (2, 10)), ("b", 3, 12));
        assert_eq!(place(span("\"x", 4, 8), (1, 5)), ("yy", 4, 13));
        assert_eq!(place(span("x\n", 6, 3), (1, 3)), ("x", 6, 3), "the folded line is not that of the file");
        assert_eq!(place(block, (9, 1)), ("S", 2, 3), "there is no such line");
    }

    #[test]
    fn only_so_many_errors_are_kept() {
        let mut reporter = Reporter::default();
        reporter.add_file("a", "");
        for line in 0..KEPT_MAX + 5 {
            reporter.error(Span { line, ..Span::default() }, "no");
        }
        let diagnostics = reporter.finish().unwrap_err();
        assert_eq!(diagnostics.iter().count(), KEPT_MAX);
        assert!(diagnostics.to_string().ends_with("error: and 5 more than these 200"));
    }

    #[test]
    fn spans_that_do_not_fit_the_text_are_harmless() {
        for (offset, length) in [(1, 1), (2, 100), (100, 3)] {
            let span = Span { file: 0, offset, length, line: 9, column: 9 };
            assert!(rendered("\u{1f600}a\n", span, "m", "h").contains("defs/a.yaml:9:9"));
        }
    }

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(nearest("entites", ["sources", "entities"]), Some("entities"));
        assert_eq!(nearest("x", ["sources", "entities"]), None);
        assert_eq!(nearest("x", ["k", "kx", "X"]), Some("X"));
        assert_eq!((nearest("x", ["k"]), nearest("ab", ["ac"]), nearest("nam", ["name"])), (None, None, Some("name")));
        assert_eq!(nearest(&"x".repeat(1 << 20), ["x"]), None);
    }
}
