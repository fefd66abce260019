//! What a head says of another protocol: a WebSocket and nothing else, or nothing that anybody here speaks.

const UPGRADE: &[u8] = b"upgrade";

/// The fields `Upgrade` and `Connection` of one head, as far as they have been read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Upgrade {
    named: Named,
    /// Whether `Connection` says that the `Upgrade` beside it is meant for this hop.
    in_connection: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Named {
    #[default]
    Nothing,
    Other,
    WebSocket,
}

impl Upgrade {
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) {
        match name.len() {
            7 if name.eq_ignore_ascii_case(UPGRADE) => {
                // A choice of protocols is no request for this one.
                self.named = match self.named {
                    Named::Nothing if value.eq_ignore_ascii_case(b"websocket") => Named::WebSocket,
                    _ => Named::Other,
                };
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                self.in_connection |= options.any(|option| option.eq_ignore_ascii_case(UPGRADE));
            }
            _ => {}
        }
    }

    /// RFC 6455 §4.1: one `Upgrade` of one token, which `Connection` names.
    pub(super) fn is_to_websocket(&self) -> bool {
        self.in_connection && matches!(self.named, Named::WebSocket)
    }
}
