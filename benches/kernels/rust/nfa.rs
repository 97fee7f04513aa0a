//! Regular expressions: parsed to a program, matched by a set of threads that all advance together.
mod common;

#[derive(Clone)]
enum Step {
    Byte(u8),
    Any,
    Class(Box<[bool; 256]>),
    Split(usize, usize),
    Jump(usize),
    Match,
}

/// Precedence climbing over alternatives, sequences and repetitions.
struct Parser<'a> {
    pattern: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.pattern.get(self.at).copied()
    }

    fn alternatives(&mut self) -> Vec<Step> {
        let mut left = self.sequence();
        while self.peek() == Some(b'|') {
            self.at += 1;
            let right = self.sequence();
            let mut both = vec![Step::Split(1, left.len() + 2)];
            append(&mut both, &left);
            let end = both.len() + 1 + right.len();
            both.push(Step::Jump(end));
            append(&mut both, &right);
            left = both;
        }
        left
    }

    fn sequence(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(byte) = self.peek() {
            if byte == b'|' || byte == b')' {
                break;
            }
            let part = self.repeated();
            append(&mut steps, &part);
        }
        steps
    }

    fn repeated(&mut self) -> Vec<Step> {
        let part = self.atom();
        let mut steps = Vec::new();
        match self.peek() {
            Some(b'*') => {
                steps.push(Step::Split(1, part.len() + 2));
                append(&mut steps, &part);
                steps.push(Step::Jump(0));
            }
            Some(b'+') => {
                append(&mut steps, &part);
                steps.push(Step::Split(0, part.len() + 1));
            }
            Some(b'?') => {
                steps.push(Step::Split(1, part.len() + 1));
                append(&mut steps, &part);
            }
            _ => return part,
        }
        self.at += 1;
        steps
    }

    fn atom(&mut self) -> Vec<Step> {
        let byte = self.pattern[self.at];
        self.at += 1;
        match byte {
            b'(' => {
                let inner = self.alternatives();
                self.at += 1;
                inner
            }
            b'[' => {
                let mut class = Box::new([false; 256]);
                while self.pattern[self.at] != b']' {
                    let (first, range) = (self.pattern[self.at], self.pattern[self.at + 1] == b'-');
                    let last = if range { self.pattern[self.at + 2] } else { first };
                    (first..=last).for_each(|b| class[usize::from(b)] = true);
                    self.at += if range { 3 } else { 1 };
                }
                self.at += 1;
                vec![Step::Class(class)]
            }
            b'.' => vec![Step::Any],
            _ => vec![Step::Byte(byte)],
        }
    }
}

/// Appends a program, whose targets are relative to its start.
fn append(to: &mut Vec<Step>, part: &[Step]) {
    let base = to.len();
    to.extend(part.iter().map(|step| match *step {
        Step::Split(a, b) => Step::Split(a + base, b + base),
        Step::Jump(a) => Step::Jump(a + base),
        ref other => other.clone(),
    }));
}

struct Threads {
    list: Vec<usize>,
    seen: Vec<u32>,
}

impl Threads {
    fn add(&mut self, program: &[Step], at: usize, mark: u32) {
        if std::mem::replace(&mut self.seen[at], mark) == mark {
            return;
        }
        match program[at] {
            Step::Split(a, b) => {
                self.add(program, a, mark);
                self.add(program, b, mark);
            }
            Step::Jump(a) => self.add(program, a, mark),
            _ => self.list.push(at),
        }
    }
}

/// Number of positions at which a match ends, and the last one.
fn search(program: &[Step], text: &[u8]) -> (u64, usize) {
    let threads = || Threads { list: Vec::new(), seen: vec![0; program.len()] };
    let (mut now, mut next) = (threads(), threads());
    let (mut count, mut last) = (0, 0);
    for (i, &byte) in text.iter().enumerate() {
        let mark = i as u32 + 1;
        now.add(program, 0, mark);
        next.list.clear();
        let mut matched = false;
        for &at in &now.list {
            let advance = match &program[at] {
                Step::Byte(b) => *b == byte,
                Step::Any => byte != b'\n',
                Step::Class(class) => class[usize::from(byte)],
                _ => {
                    matched = true;
                    false
                }
            };
            if advance {
                next.add(program, at + 1, mark + 1);
            }
        }
        if matched {
            count += 1;
            last = i;
        }
        std::mem::swap(&mut now, &mut next);
    }
    (count, last)
}

fn main() {
    let mut random = common::Random::new();
    let text: Vec<u8> = (0..1_000_000).map(|_| b"abcdef0123 xyz\nghij@.-ko"[random.below(24) as usize]).collect();
    let mut sum = 0;
    for pattern in ["a[b-d]+e", "(ab|cd|ef)*0", "[a-z]+@[a-z0-9]+.(com|ab|x)", "x.*y.?z", "[0-9]+-[0-9]+", "(a|b)*(c|d)?(e|f)+g"] {
        let mut program = Parser { pattern: pattern.as_bytes(), at: 0 }.alternatives();
        program.push(Step::Match);
        let (count, last) = search(&program, &text);
        sum = common::mix(common::mix(sum, count), last as u64);
    }
    common::report(sum);
}
