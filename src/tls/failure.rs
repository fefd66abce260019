//! Why a handshake failed, as metrics count it.

use std::io;

use rustls::{CertificateError, Error, InvalidMessage, PeerIncompatible};

use crate::metrics::TlsFailure;

pub(super) fn reason(error: &io::Error) -> TlsFailure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    inner.map_or(TlsFailure::Closed, of_protocol)
}

fn of_protocol(error: &Error) -> TlsFailure {
    match error {
        Error::AlertReceived(_) => TlsFailure::AlertReceived,
        Error::InvalidCertificate(error) => of_certificate(error),
        // What is no record at all, such as a request in clear text.
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            TlsFailure::NotTls
        }
        Error::NoApplicationProtocol => TlsFailure::NoProtocol,
        Error::NoCertificatesPresented => TlsFailure::CertificateMissing,
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            // Came with 1.2, and is in every hello since.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => TlsFailure::Version,
        Error::PeerIncompatible(_) => TlsFailure::Incompatible,
        _ => TlsFailure::Invalid,
    }
}

fn of_certificate(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::ApplicationVerificationFailure => TlsFailure::SubjectRefused,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsFailure::CertificateExpired,
        CertificateError::Revoked => TlsFailure::CertificateRevoked,
        _ => TlsFailure::CertificateRefused,
    }
}
