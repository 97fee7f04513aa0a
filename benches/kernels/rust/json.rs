//! Parsing and printing: JSON to a tree of enums, vectors and strings, and back.
mod common;

use std::fmt::Write;

enum Value {
    Null,
    Bool(bool),
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&mut self) -> u8 {
        while let Some(b' ' | b'\n') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str, value: Value) -> Option<Value> {
        self.text[self.at..].starts_with(word.as_bytes()).then(|| {
            self.at += word.len();
            value
        })
    }

    fn text(&mut self) -> Option<String> {
        let mut out = Vec::new();
        self.at += 1;
        loop {
            match *self.text.get(self.at)? {
                b'"' => break,
                b'\\' => {
                    self.at += 1;
                    out.push(match *self.text.get(self.at)? {
                        b'n' => b'\n',
                        other => other,
                    });
                }
                other => out.push(other),
            }
            self.at += 1;
        }
        self.at += 1;
        String::from_utf8(out).ok()
    }

    fn value(&mut self) -> Option<Value> {
        match self.peek() {
            b'n' => self.word("null", Value::Null),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'"' => self.text().map(Value::Text),
            b'[' => {
                let mut items = Vec::new();
                self.at += 1;
                while !self.take(b']') {
                    items.push(self.value()?);
                    self.take(b',');
                }
                Some(Value::List(items))
            }
            b'{' => {
                let mut items = Vec::new();
                self.at += 1;
                while !self.take(b'}') {
                    self.peek();
                    let key = self.text()?;
                    if !self.take(b':') {
                        return None;
                    }
                    items.push((key, self.value()?));
                    self.take(b',');
                }
                Some(Value::Object(items))
            }
            _ => {
                let negative = self.take(b'-');
                let (start, mut n) = (self.at, 0i64);
                while let Some(digit @ b'0'..=b'9') = self.text.get(self.at) {
                    n = n * 10 + i64::from(digit - b'0');
                    self.at += 1;
                }
                (self.at > start).then_some(Value::Number(if negative { -n } else { n }))
            }
        }
    }
}

fn print(value: &Value, out: &mut String) {
    let text = |s: &str, out: &mut String| {
        out.push('"');
        for c in s.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                _ => out.push(c),
            }
        }
        out.push('"');
    };
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => write!(out, "{n}").unwrap(),
        Value::Text(s) => text(s, out),
        Value::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                print(item, out);
            }
            out.push(']');
        }
        Value::Object(items) => {
            out.push('{');
            for (i, (key, item)) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                text(key, out);
                out.push(':');
                print(item, out);
            }
            out.push('}');
        }
    }
}

fn generate(random: &mut common::Random, depth: u32) -> Value {
    let word = |random: &mut common::Random| -> String {
        (0..3 + random.below(14)).map(|_| char::from(b"etaoin shr\"dlu\\cm\nfwyp"[random.below(22) as usize])).collect()
    };
    match random.below(if depth < 5 { 10 } else { 5 }) {
        0 => Value::Null,
        1 => Value::Bool(random.below(2) == 0),
        2 | 3 => Value::Number(random.below(1 << 40) as i64 - (1 << 39)),
        4 => Value::Text(word(random)),
        5..=7 => Value::List((0..2 + random.below(6)).map(|_| generate(random, depth + 1)).collect()),
        _ => Value::Object((0..2 + random.below(6)).map(|_| (word(random), generate(random, depth + 1))).collect()),
    }
}

fn main() {
    let mut random = common::Random::new();
    let mut document = String::new();
    print(&Value::List((0..1200).map(|_| generate(&mut random, 1)).collect()), &mut document);
    let mut sum = document.len() as u64;
    for _ in 0..24 {
        let tree = Parser { text: document.as_bytes(), at: 0 }.value().unwrap();
        let mut again = String::with_capacity(document.len());
        print(&tree, &mut again);
        assert!(again == document);
        for bytes in again.as_bytes().chunks(64) {
            sum = common::mix(sum, u64::from(bytes[0]));
        }
    }
    common::report(sum);
}
