//! Typed values as text: the arguments and results of an export that is invoked from a command line.

use crate::report::Value;

/// Types of [`Value`]s that have a text form to parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberType {
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
}

impl std::fmt::Display for NumberType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NumberType::I32 => "i32",
            NumberType::I64 => "i64",
            NumberType::F32 => "f32",
            NumberType::F64 => "f64",
        })
    }
}

/// A text that is no value of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an {expected}: it must be {what}")]
pub struct ParseValueError {
    /// The text, shortened and escaped.
    pub text: String,
    /// The type it should have.
    pub expected: NumberType,
    /// What such a value looks like.
    pub what: &'static str,
}

/// Parses one value: integers in decimal or hexadecimal (`0x`), signed or unsigned; floats in decimal, `inf`, `nan`.
pub fn parse(text: &str, expected: NumberType) -> Result<Value, ParseValueError> {
    let error = |what| ParseValueError {
        text: text.chars().take(40).flat_map(char::escape_debug).collect(),
        expected,
        what,
    };
    match expected {
        NumberType::I32 => integer(text)
            .and_then(|n| i32::try_from(n).ok().or_else(|| u32::try_from(n).ok().map(|n| n as i32)))
            .map(Value::I32)
            .ok_or_else(|| error("a decimal or 0x number from -2147483648 to 4294967295")),
        NumberType::I64 => integer(text)
            .and_then(|n| i64::try_from(n).ok().or_else(|| u64::try_from(n).ok().map(|n| n as i64)))
            .map(Value::I64)
            .ok_or_else(|| error("a decimal or 0x number from -9223372036854775808 to 18446744073709551615")),
        NumberType::F32 => {
            text.parse::<f32>().map(|x| Value::F32(x.to_bits())).map_err(|_| error("a number, inf or nan"))
        }
        NumberType::F64 => {
            text.parse::<f64>().map(|x| Value::F64(x.to_bits())).map_err(|_| error("a number, inf or nan"))
        }
    }
}

fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // `from_str_radix` would accept another sign here.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) if !hex.starts_with(['+', '-']) => u64::from_str_radix(hex, 16).ok()?,
        Some(_) => return None,
        None => digits.parse::<u64>().ok()?,
    };
    Some(if negative { -i128::from(magnitude) } else { i128::from(magnitude) })
}

/// The text of a value: integers signed and in decimal, floats in the shortest form that reads back to the same
/// number, vectors as one hexadecimal number, references as `<funcref>`, `<externref>`, `<exnref>` and their null forms.
pub fn format(value: &Value) -> String {
    match value {
        Value::I32(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        Value::F32(bits) => f32::from_bits(*bits).to_string(),
        Value::F64(bits) => f64::from_bits(*bits).to_string(),
        Value::FuncRef(false) => String::from("<null funcref>"),
        Value::FuncRef(true) => String::from("<funcref>"),
        Value::ExternRef(None) => String::from("<null externref>"),
        Value::ExternRef(Some(_)) => String::from("<externref>"),
        Value::ExnRef(false) => String::from("<null exnref>"),
        Value::ExnRef(true) => String::from("<exnref>"),
        Value::V128(bits) => format!("{bits:#034x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_in_every_notation_up_to_both_ends_and_no_further() {
        let i32s = [
            ("0", 0),
            ("-1", -1),
            ("4294967295", -1),
            ("0xffffffff", -1),
            ("-2147483648", i32::MIN),
            ("-0x10", -16),
        ];
        for (text, n) in i32s {
            assert_eq!(parse(text, NumberType::I32), Ok(Value::I32(n)), "{text}");
        }
        for text in
            ["", "-", "0x", "+-1", "--1", "-+1", "0x-1", "1.5", " 1", "4294967296", "-2147483649", "one"]
        {
            assert!(parse(text, NumberType::I32).is_err(), "{text}");
        }
        assert_eq!(parse("18446744073709551615", NumberType::I64), Ok(Value::I64(-1)));
        assert_eq!(parse("-9223372036854775808", NumberType::I64), Ok(Value::I64(i64::MIN)));
        assert!(parse("18446744073709551616", NumberType::I64).is_err());
        assert!(parse("-9223372036854775809", NumberType::I64).is_err());
    }

    #[test]
    fn the_error_names_text_and_type_on_one_line() {
        let message = parse("x\ny", NumberType::F64).expect_err("not a number").to_string();
        assert_eq!(message, r"`x\ny` is not an f64: it must be a number, inf or nan");
        assert!(parse(&"9".repeat(1000), NumberType::I32).expect_err("too big").to_string().len() < 200);
    }

    #[test]
    fn text_of_results_reads_back() {
        for (value, text) in [
            (Value::I32(-5), "-5"),
            (Value::I64(i64::MIN), "-9223372036854775808"),
            (Value::F32(1.5f32.to_bits()), "1.5"),
            (Value::F64(1e21f64.to_bits()), "1000000000000000000000"),
            (Value::F64(0.1f64.to_bits()), "0.1"),
            (Value::F64(f64::NEG_INFINITY.to_bits()), "-inf"),
        ] {
            assert_eq!(format(&value), text);
        }
        assert_eq!(format(&Value::FuncRef(false)), "<null funcref>");
        assert_eq!(format(&Value::ExternRef(Some(3))), "<externref>");
    }
}
