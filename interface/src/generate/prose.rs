//! Descriptions inside of generated text. They can be hostile: a reader must see what is there, a compiler must see a comment, and a
//! tool that makes documentation of it must see words.

/// Ranges of what cannot be seen, or changes the order in which other letters are, in ascending order: the property
/// Default_Ignorable_Code_Point of Unicode 16.0 (DerivedCoreProperties.txt of <https://www.unicode.org/Public/16.0.0/ucd/>), which has all
/// bidirectional controls and fillers; and where it says so, what is as invisible without it.
const INVISIBLE: [(char, char); 20] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    // Separators of lines and paragraphs, without the property.
    ('\u{2028}', '\u{2029}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    // The empty pattern of Braille, without the property.
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fff8}'),
    // Marks of annotations, without the property.
    ('\u{fff9}', '\u{fffb}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

fn is_invisible(c: char) -> bool {
    let after = INVISIBLE.partition_point(|(first, _)| *first <= c);
    after.checked_sub(1).and_then(|at| INVISIBLE.get(at)).is_some_and(|(_, last)| c <= *last)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_shown() {
        assert!(INVISIBLE.is_sorted_by(|(_, last), (first, _)| last < first), "it is searched");
        for c in "\u{ad}\u{115f}\u{1160}\u{17b5}\u{180b}\u{180e}\u{200b}\u{202e}\u{2066}\u{2800}\u{3164}\u{fe0f}\u{feff}\u{ffa0}\u{fff0}\u{fffb}\u{1d173}\u{e0000}\u{e0100}\u{e0fff}".chars() {
            assert_eq!(line(&format!("a{c}b")), format!("a<U+{:04X}>b", u32::from(c)));
        }
        for c in "a~é\u{ac}\u{ae}\u{115e}\u{1161}\u{1810}\u{2010}\u{3163}\u{3165}\u{fe10}\u{fffc}\u{1d172}\u{e1000}\u{10ffff}".chars() {
            assert!(!is_invisible(c), "{c:?}");
        }
    }
}
