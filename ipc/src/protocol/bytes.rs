//! Byte strings that cross in one piece.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes. On the wire the same as a list of them, but copied as a whole and not one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{HEADER_BYTES, decode, encode};

    #[test]
    fn bytes_look_like_a_list_of_them() {
        for length in [0, 1, 127, 128, 70_000] {
            let list: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let wire = encode(&Bytes(list.clone())).expect("encode");
            assert_eq!(wire, encode(&list).expect("encode"));
            assert_eq!(decode::<Bytes>(&wire[HEADER_BYTES..]).expect("decode"), Bytes(list));
        }
        assert!(decode::<Bytes>(&[5, 1, 2]).is_err(), "a length that lies");
    }
}
