//! Descriptions inside of generated text. They can be hostile: a reader must see what is there, a compiler must see a comment, and a
//! tool that makes documentation of it must see words.

/// A letter that cannot be seen, or that changes the order in which others are.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// The text line by line, without what cannot be seen. One blank stands for several, so that no line is indented.
pub(super) fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().fold(String::with_capacity(line.len()), |mut shown, c| {
            match is_invisible(c) || c.is_control() {
                true => shown.push_str(&format!("<U+{:04X}>", u32::from(c))),
                false => shown.push(c),
            }
            shown
        })
    })
}

/// The same in one line.
pub(super) fn line(text: &str) -> String {
    lines(text).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A line for a comment between `/*` and `*/`, with neither of them in it.
pub(super) fn in_block_comment(line: &str) -> String {
    line.replace("/*", "/ *").replace("*/", "* /")
}

/// A line as Markdown that shows it as it is: no HTML, no entities, no links, no headings, no blocks of code (which rustdoc would compile and run).
/// Lists stay lists, and plain code spans code spans.
pub(super) fn markdown(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    // It would make a heading of the line before.
    if line.starts_with(['-', '=']) && line.chars().all(|c| matches!(c, '-' | '=' | ' ')) {
        shown.push('\\');
    }
    let (mut before, mut rest) = (' ', line);
    while let Some(c) = rest.chars().next() {
        if let Some(span) = code_span(rest).filter(|_| before != '`') {
            shown.push_str(span);
            (before, rest) = ('`', rest.get(span.len()..).unwrap_or_default());
            continue;
        }
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        let is_entity = c == '&' && after.starts_with(|c: char| c.is_ascii_alphanumeric());
        if is_entity || matches!(c, '\\' | '`' | '<' | '>' | '[' | ']' | '~' | '|' | '#') {
            shown.push('\\');
        }
        shown.push(c);
        (before, rest) = (c, after);
    }
    shown
}

/// The code span that the text begins with: between two single backticks, and without anything that ends it elsewhere.
fn code_span(text: &str) -> Option<&str> {
    let length = text.strip_prefix('`')?.find('`')?;
    let (span, rest) = text.split_at_checked(length + 2)?;
    let inside = span.get(1..=length)?;
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-' | ' ' | '(' | ')');
    (!inside.trim().is_empty() && inside.chars().all(is_plain) && !rest.starts_with('`')).then_some(span)
}
