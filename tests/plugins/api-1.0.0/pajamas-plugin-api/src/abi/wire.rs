//! Encoding of structured data at the boundary: MessagePack with field names.

use crate::{Error, Result};
use abi_stable::std_types::{RResult, RVec};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Encodes `value`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    // The contract's types hold nothing that MessagePack cannot; an empty message is refused by every decoder.
    rmp_serde::to_vec_named(value).unwrap_or_default()
}

/// Decodes a `what`.
///
/// # Errors
/// When the bytes are anything else.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|error| Error::other(format!("{what} cannot be read")).with_cause(&error))
}

/// A result as it crosses.
pub fn reply<T: Serialize>(result: Result<T>) -> super::Reply {
    match result {
        Ok(value) => RResult::ROk(encode(&value).into()),
        Err(error) => RResult::RErr(encode(&error).into()),
    }
}

/// A result that crossed.
///
/// # Errors
/// The error that crossed, or that it cannot be read.
pub fn read_reply<T: DeserializeOwned>(reply: super::Reply, what: &str) -> Result<T> {
    match reply {
        RResult::ROk(bytes) => decode(&bytes, what),
        RResult::RErr(bytes) => Err(read_error(&bytes)),
    }
}

/// An error that crossed.
pub fn read_error(bytes: &RVec<u8>) -> Error {
    decode(bytes, "the plugin's error").unwrap_or_else(|error| error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::*;
    use serde::Deserialize;

    #[test]
    fn a_field_added_later_is_ignored_and_a_missing_one_defaulted() {
        #[derive(Serialize, Deserialize, Debug, PartialEq)]
        struct Newer {
            name: String,
            class: DeviceClass,
            added: Vec<u8>,
        }
        let bytes = encode(&Newer { name: "x".into(), class: DeviceClass::Npu, added: vec![1] });
        let device: Device = decode(&bytes, "device").unwrap();
        assert_eq!((device.name.as_str(), device.class, device.memory_total_bytes), ("x", DeviceClass::Npu, 0));
    }

    #[test]
    fn a_variant_that_this_build_does_not_know_becomes_other() {
        assert_eq!(decode::<ErrorKind>(&encode("quantum_decoherence"), "kind").unwrap(), ErrorKind::Other);
        assert_eq!(decode::<DeviceClass>(&encode("abacus"), "class").unwrap(), DeviceClass::Other);
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut request = LoadRequest::new("/m.gguf");
        request.options.set("a", OptionValue::Int(-3));
        request.options.set("b", OptionValue::Text("q8_0".into()));
        request.options.set("c", OptionValue::Float(0.5));
        assert_eq!(decode::<LoadRequest>(&encode(&request), "request").unwrap(), request);
        let event = Event::Token { id: 7, bytes: vec![0xff, 0], logprob: None, top: vec![(1, -0.5)] };
        assert_eq!(decode::<Event>(&encode(&event), "event").unwrap(), event);
    }

    #[test]
    fn garbage_is_an_error_and_no_panic() {
        assert!(decode::<LoadRequest>(&[0xc1, 0xff], "request").is_err());
        assert!(decode::<LoadRequest>(&[], "request").is_err());
    }
}
