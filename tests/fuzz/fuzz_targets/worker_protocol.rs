//! What a worker that a plugin has taken over may write to its host, and a host to its worker: frames of messages. Each is
//! read, or is an error; what was read is written and read again as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pajamas::worker::protocol::{self, Reply, Request};
use pajamas_fuzz as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fuzz_target!(|input: &[u8]| {
    every::<Reply>(input);
    every::<Request>(input);
});

fn every<T: Serialize + DeserializeOwned + Debug>(mut input: &[u8]) {
    while let Ok(Some(message)) = protocol::read::<T>(&mut input) {
        let mut written = Vec::new();
        protocol::write(&mut written, &message).expect("what was read can be written");
        let again = protocol::read::<T>(&mut written.as_slice()).expect("what was written can be read");
        assert_eq!(format!("{:?}", again.expect("a message")), format!("{message:?}"));
    }
}
