//! The language of `sandboxctl session`: one command a line.

use ipc::report::Value;
use ipc::text::{self, NumberType};
use ipc::types::{Export, ExportType, ValueType};

/// What can be typed.
pub const HELP: &str = "\
call NAME [ARGS]...             call an export and print its results
read MEMORY OFFSET LENGTH [text]    bytes of a memory, in hexadecimal or as quoted text
write MEMORY OFFSET hex BYTES   write bytes, as in: write memory 16 hex 00ff10
write MEMORY OFFSET text TEXT   write text, as in: write memory 16 text \"hello\\n\"
global NAME [VALUE]             print an exported global, or give it a value
memory [MEMORY]                 sizes of memories in bytes
exports                         what the module exports
usage                           what the session has used so far
reset                           start afresh in a new instance
end, quit                       end the session
help                            this text
MEMORY is the name of an export or a number. Numbers are decimal or 0x hexadecimal; words with blanks are written in double
quotes, with the escapes \\n \\t \\r \\0 \\\\ \\\" \\xHH. A line that begins with # is a comment.
";

/// A command.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Call an export.
    Call { name: String, args: Vec<String> },
    /// Read memory.
    Read { memory: String, offset: u64, length: usize, as_text: bool },
    /// Write memory.
    Write { memory: String, offset: u64, bytes: Vec<u8> },
    /// Read a global, or write it.
    Global { name: String, value: Option<String> },
    /// Sizes of memories.
    Memory(Option<String>),
    /// What there is.
    Exports,
    /// What was used.
    Usage,
    /// A fresh instance.
    Reset,
    /// The end.
    End,
    /// The text above.
    Help,
}

impl Command {
    /// Its first word.
    pub fn word(&self) -> &'static str {
        match self {
            Command::Call { .. } => "call",
            Command::Read { .. } => "read",
            Command::Write { .. } => "write",
            Command::Global { .. } => "global",
            Command::Memory(_) => "memory",
            Command::Exports => "exports",
            Command::Usage => "usage",
            Command::Reset => "reset",
            Command::End => "end",
            Command::Help => "help",
        }
    }

    /// The command of a line; `None` for one that says nothing. An error says what was expected.
    pub fn parse(line: &str) -> Result<Option<Self>, String> {
        if line.trim_start().starts_with('#') {
            return Ok(None);
        }
        let words = words(line)?;
        let mut words = words.into_iter();
        let Some(first) = words.next() else { return Ok(None) };
        let first = string(first)?;
        let mut rest: Vec<Vec<u8>> = words.collect();
        let form = |form: &str| Err(format!("the form is: {form}"));
        let command = match (first.as_str(), rest.len()) {
            ("call", 1..) => {
                let mut strings = rest.into_iter().map(string);
                let name = strings.next().unwrap_or_else(|| Ok(String::new()))?;
                Command::Call { name, args: strings.collect::<Result<_, _>>()? }
            }
            ("read", 3 | 4) => {
                let as_text = match rest.get(3).map(Vec::as_slice) {
                    None | Some(b"hex") => false,
                    Some(b"text") => true,
                    Some(_) => return form("read MEMORY OFFSET LENGTH [text]"),
                };
                rest.truncate(3);
                let [memory, offset, length] = three(rest)?;
                let length = usize::try_from(number(&length)?).map_err(|e| e.to_string())?;
                Command::Read { memory, offset: number(&offset)?, length, as_text }
            }
            ("write", 4) => {
                let last = rest.pop().unwrap_or_default();
                let [memory, offset, form_of] = three(rest)?;
                let bytes = match form_of.as_str() {
                    "text" => last,
                    "hex" => hexadecimal(&last)?,
                    _ => return form("write MEMORY OFFSET hex|text BYTES"),
                };
                Command::Write { memory, offset: number(&offset)?, bytes }
            }
            ("global", 1 | 2) => {
                let value = if rest.len() == 2 { rest.pop().map(string).transpose()? } else { None };
                let name = string(rest.pop().unwrap_or_default())?;
                Command::Global { name, value }
            }
            ("memory", 0 | 1) => Command::Memory(rest.pop().map(string).transpose()?),
            ("exports", 0) => Command::Exports,
            ("usage", 0) => Command::Usage,
            ("reset", 0) => Command::Reset,
            ("end" | "quit" | "exit", 0) => Command::End,
            ("help" | "?", _) => Command::Help,
            ("call", _) => return form("call NAME [ARGS]..."),
            ("read", _) => return form("read MEMORY OFFSET LENGTH [text]"),
            ("write", _) => return form("write MEMORY OFFSET hex|text BYTES"),
            ("global", _) => return form("global NAME [VALUE]"),
            ("memory", _) => return form("memory [MEMORY]"),
            ("exports" | "usage" | "reset" | "end" | "quit" | "exit", _) => {
                return Err(format!("{first} takes no arguments"));
            }
            _ => return Err(format!("there is no command {first:?}; try help")),
        };
        Ok(Some(command))
    }
}

/// The arguments of a function as values of its parameters' types.
pub fn arguments(exports: &[Export], name: &str, args: &[String]) -> Result<Vec<Value>, String> {
    let ty = exports.iter().find(|export| export.name == name).map(|export| &export.ty);
    let Some(ExportType::Function { params, .. }) = ty else {
        return Err(format!("the module exports no function {name:?}; try exports"));
    };
    if params.len() != args.len() {
        return Err(format!("{name:?} takes {} arguments, not {}", params.len(), args.len()));
    }
    params.iter().zip(args).map(|(ty, arg)| value(*ty, arg)).collect()
}

/// A value for a global.
pub fn global_value(exports: &[Export], name: &str, text: &str) -> Result<Value, String> {
    let ty = exports.iter().find(|export| export.name == name).map(|export| &export.ty);
    let Some(ExportType::Global { value: ty, .. }) = ty else {
        return Err(format!("the module exports no global {name:?}; try exports"));
    };
    value(*ty, text)
}

/// A text as a value. References can be null.
fn value(ty: ValueType, text: &str) -> Result<Value, String> {
    let number = match (ty, text) {
        (ValueType::I32, _) => NumberType::I32,
        (ValueType::I64, _) => NumberType::I64,
        (ValueType::F32, _) => NumberType::F32,
        (ValueType::F64, _) => NumberType::F64,
        (ValueType::FuncRef, "null") => return Ok(Value::FuncRef(false)),
        (ValueType::ExternRef, "null") => return Ok(Value::ExternRef(None)),
        (ValueType::ExnRef, "null") => return Ok(Value::ExnRef(false)),
        (ValueType::ExternRef, number) => {
            let number =
                number.parse().map_err(|_| format!("`{number}` is not an externref: null or a number"))?;
            return Ok(Value::ExternRef(Some(number)));
        }
        (ty, _) => return Err(format!("a value of type {ty} cannot be typed here")),
    };
    text::parse(text, number).map_err(|error| error.to_string())
}

/// Bytes as text in double quotes that reads back.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\0' => text.push_str("\\0"),
                c if c.is_control() => {
                    let mut utf8 = [0; 4];
                    c.encode_utf8(&mut utf8).bytes().for_each(|b| text.push_str(&format!("\\x{b:02x}")));
                }
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| text.push_str(&format!("\\x{b:02x}")));
    }
    text.push('"');
    text
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn string(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| String::from("a name or number that is no UTF-8"))
}

fn three(words: Vec<Vec<u8>>) -> Result<[String; 3], String> {
    let words = words.into_iter().map(string).collect::<Result<Vec<_>, _>>()?;
    words.try_into().map_err(|_| String::from("three words are expected"))
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is no offset or length: a decimal or 0x number"))
}

fn hexadecimal(text: &[u8]) -> Result<Vec<u8>, String> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    let pair = |pair: &[u8]| match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.chunks(2).map(pair).collect();
    bytes.ok_or_else(|| String::from("bytes are pairs of hexadecimal digits, as in 00ff10"))
}

/// The words of a line: separated by blanks, or in double quotes with escapes.
fn words(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(&first) = chars.peek() else { return Ok(words) };
        let mut word = Vec::new();
        let mut push = |c: char| word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        if first != '"' {
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                push(c);
            }
            words.push(word);
            continue;
        }
        chars.next();
        loop {
            match chars.next() {
                None => return Err(String::from("a double quote is not closed")),
                Some('"') => break,
                Some('\\') => {
                    let byte = match chars.next() {
                        Some('n') => b'\n',
                        Some('t') => b'\t',
                        Some('r') => b'\r',
                        Some('0') => 0,
                        Some('\\') => b'\\',
                        Some('"') => b'"',
                        Some('x') => {
                            let mut digit = || chars.next().and_then(|c| c.to_digit(16)).map(|d| d as u8);
                            match (digit(), digit()) {
                                (Some(high), Some(low)) => high << 4 | low,
                                _ => return Err(String::from("\\x takes two hexadecimal digits")),
                            }
                        }
                        other => return Err(format!("there is no escape \\{}", other.unwrap_or(' '))),
                    };
                    word.push(byte);
                }
                Some(c) => word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_commands() {
        let parse = |line: &str| Command::parse(line).expect("a command");
        assert_eq!(parse("  "), None);
        assert_eq!(parse("# call f"), None);
        let call = Command::Call { name: "a b".into(), args: vec!["-1".into(), "0x10".into()] };
        assert_eq!(parse(r#"call "a b" -1  0x10"#), Some(call));
        let read = |as_text| Command::Read { memory: "m".into(), offset: 16, length: 3, as_text };
        assert_eq!(parse("read m 0x10 3"), Some(read(false)));
        assert_eq!(parse("read m 16 3 text"), Some(read(true)));
        let write = |bytes: &[u8]| Command::Write { memory: "0".into(), offset: 0, bytes: bytes.to_vec() };
        assert_eq!(parse("write 0 0 hex 00fF"), Some(write(&[0, 255])));
        assert_eq!(parse(r#"write 0 0 text "a\n\xff\"é""#), Some(write(b"a\n\xff\"\xc3\xa9")));
        assert_eq!(parse("global g"), Some(Command::Global { name: "g".into(), value: None }));
        assert_eq!(parse("global g 7"), Some(Command::Global { name: "g".into(), value: Some("7".into()) }));
        assert_eq!(parse("quit"), Some(Command::End));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, needle) in [
            ("jump", "no command"),
            ("call", "call NAME"),
            ("read m 0", "read MEMORY"),
            ("read m x 1", "\"x\" is no offset"),
            ("read m -1 1", "no offset"),
            ("read m 0 1 octal", "read MEMORY"),
            ("write m 0 hex 0", "pairs"),
            ("write m 0 hex zz", "pairs"),
            ("write m 0 raw x", "hex|text"),
            ("global", "global NAME"),
            ("reset now", "no arguments"),
            ("call \"f", "not closed"),
            (r#"call "\q""#, "no escape"),
            (r#"call "\x1""#, "two hexadecimal digits"),
            (r#"call "\xff""#, "no UTF-8"),
        ] {
            let error = Command::parse(line).expect_err(line);
            assert!(error.contains(needle), "{line}: {error}");
        }
    }

    #[test]
    fn values_are_read_as_the_types_of_exports() {
        let ty = ExportType::Function {
            params: vec![ValueType::I32, ValueType::F64, ValueType::ExternRef],
            results: vec![],
        };
        let global = ExportType::Global { value: ValueType::I64, mutable: true };
        let exports = [Export { name: "f".into(), ty }, Export { name: "g".into(), ty: global }];
        let args = |args: &[&str]| {
            arguments(&exports, "f", &args.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let expected = vec![Value::I32(-1), Value::F64(1.5f64.to_bits()), Value::ExternRef(None)];
        assert_eq!(args(&["-1", "1.5", "null"]), Ok(expected));
        assert!(args(&["1"]).expect_err("too few").contains("takes 3 arguments, not 1"));
        assert!(args(&["x", "1", "null"]).is_err() && args(&["1", "1", "x"]).is_err());
        assert!(arguments(&exports, "g", &[]).expect_err("a global").contains("no function"));
        assert_eq!(global_value(&exports, "g", "0x10"), Ok(Value::I64(16)));
        assert!(global_value(&exports, "f", "1").is_err());
    }

    #[test]
    fn quoted_text_reads_back() {
        for bytes in [&b"plain"[..], b"a\"b\\c\n\t\r\0", b"\xff\x80\xc3\xa9\x1b[31m", "ü\u{85}".as_bytes()] {
            let line = format!("write m 0 text {}", quoted(bytes));
            let Ok(Some(Command::Write { bytes: read, .. })) = Command::parse(&line) else {
                panic!("{line}")
            };
            assert_eq!(read, bytes, "{line}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }
}
