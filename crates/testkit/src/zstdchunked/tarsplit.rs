//! What Podman keeps beside the files to restore the archive they came in, as the Go library `tar-split` writes it: a
//! line of JSON for each piece of raw archive and for each file.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The lines so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    text: String,
    count: usize,
}

impl Lines {
    /// Raw bytes of the archive: padding and headers.
    pub(super) fn segment(&mut self, raw: &[u8]) {
        self.push(format_args!("{{\"type\":2,\"payload\":\"{}\"", STANDARD.encode(raw)));
    }

    /// A member, whose content is not kept but for its CRC-64.
    pub(super) fn file(&mut self, name: &[u8], content: &[u8]) {
        let name = Value::from(String::from_utf8_lossy(name));
        if content.is_empty() {
            self.push(format_args!("{{\"type\":1,\"name\":{name},\"payload\":null"));
        } else {
            let crc = STANDARD.encode(crc64(content).to_be_bytes());
            let size = content.len();
            self.push(format_args!("{{\"type\":1,\"name\":{name},\"size\":{size},\"payload\":\"{crc}\""));
        }
    }

    fn push(&mut self, fields: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{fields},\"position\":{}}}", self.count)
            .expect("writing to a String cannot fail");
        self.count += 1;
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.text.into_bytes()
    }
}

/// The CRC-64 of ISO 3309.
fn crc64(bytes: &[u8]) -> u64 {
    const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;
    const TABLE: [u64; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut crc = index as u64;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc: u64, byte| TABLE[(crc as u8 ^ byte) as usize] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_go() {
        // The check value of CRC-64/GO-ISO.
        assert_eq!(crc64(b"123456789"), 0xb909_56c7_75a4_1001);
    }
}
