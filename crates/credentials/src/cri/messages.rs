//! The few fields of `runtime.v1` messages that are looked at, and the frames of gRPC around them.

use prost::Message;
use registry::{Credential, Secret};

use crate::docker_auth::AuthEntry;

/// Length of what precedes a message: a flag and the message's length.
const FRAME_HEADER: usize = 5;

/// The one message in `frames`; None if it is compressed, not whole, or not alone.
pub(super) fn only_message(frames: &[u8]) -> Option<&[u8]> {
    let (header, message) = frames.split_at_checked(FRAME_HEADER)?;
    let (flag, length) = header.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    (*flag == 0 && length as usize == message.len()).then_some(message)
}

/// What a `PullImageRequest` says.
#[derive(Debug)]
pub(super) struct Pull {
    pub image: String,
    pub auth: Option<Auth>,
}

/// The `AuthConfig` of a pull.
#[derive(Debug)]
pub(super) struct Auth {
    /// The host that the credential is for; empty if for whichever serves the image.
    pub server: String,
    /// The credential, or what is wrong with it.
    pub credential: Result<Option<Credential>, &'static str>,
}

impl Pull {
    pub fn decode(message: &[u8]) -> Option<Pull> {
        let request = PullImageRequest::decode(message).ok()?;
        let auth = request.auth.map(|auth| {
            let server = auth.server_address;
            let entry = AuthEntry {
                username: auth.username,
                password: Secret::new(auth.password),
                auth: Secret::new(auth.auth),
                identity_token: Secret::new(auth.identity_token),
                registry_token: Secret::new(auth.registry_token),
            };
            Auth { server, credential: entry.credential() }
        });
        Some(Pull { image: request.image.unwrap_or_default().image, auth })
    }
}

/// The image that a `PullImageResponse` says was pulled: its ID.
pub(super) fn pulled_image(message: &[u8]) -> Option<String> {
    let response = PullImageResponse::decode(message).ok()?;
    Some(response.image_ref).filter(|id| !id.is_empty())
}

/// The image that a `RemoveImageRequest` names, by reference or by ID.
pub(super) fn removed_image(message: &[u8]) -> Option<String> {
    let image = RemoveImageRequest::decode(message).ok()?.image?.image;
    Some(image).filter(|image| !image.is_empty())
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<AuthConfig>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct AuthConfig {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    password: String,
    #[prost(string, tag = "3")]
    auth: String,
    #[prost(string, tag = "4")]
    server_address: String,
    #[prost(string, tag = "5")]
    identity_token: String,
    #[prost(string, tag = "6")]
    registry_token: String,
}

#[derive(Clone, PartialEq, Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

#[derive(Clone, PartialEq, Message)]
struct RemoveImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(auth: AuthConfig) -> Vec<u8> {
        let image = Some(ImageSpec { image: "reg.io/a:1".into() });
        PullImageRequest { image, auth: Some(auth) }.encode_to_vec()
    }

    #[test]
    fn frames_hold_one_message() {
        assert_eq!(only_message(&[0, 0, 0, 0, 2, 7, 8]), Some(&[7, 8][..]));
        assert_eq!(only_message(&[0, 0, 0, 0, 0]), Some(&[][..]));
        for wrong in
            [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 1, 7], &[0, 0, 0, 0, 2, 7], &[0, 0, 0, 0, 1, 7, 8]]
        {
            assert_eq!(only_message(wrong), None);
        }
    }

    #[test]
    fn a_pull_with_its_credential() {
        let auth = AuthConfig {
            username: "u".into(),
            password: "hunter2".into(),
            server_address: "https://reg.io".into(),
            ..AuthConfig::default()
        };
        let mut bytes = request(auth);
        // A field that is not known: 99, a varint.
        bytes.extend([0x98, 0x06, 1]);
        let pull = Pull::decode(&bytes).unwrap();
        assert_eq!(pull.image, "reg.io/a:1");
        assert!(!format!("{pull:?}").contains("hunter2"));
        let auth = pull.auth.unwrap();
        assert_eq!(auth.server, "https://reg.io");
        let secret = Secret::new("hunter2".into());
        assert_eq!(auth.credential, Ok(Some(Credential::Password { user: "u".into(), secret })));
        let empty = Pull::decode(&request(AuthConfig::default())).unwrap();
        assert_eq!(empty.auth.unwrap().credential, Ok(None));
        assert!(Pull::decode(&[0xff]).is_none());
    }

    #[test]
    fn any_bytes_are_taken() {
        use proptest::prelude::*;
        proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..200))| {
            let _ = only_message(&bytes);
            let _ = Pull::decode(&bytes);
            let _ = pulled_image(&bytes);
            let _ = removed_image(&bytes);
        });
    }
}
