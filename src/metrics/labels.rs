//! The closed sets of label values: what can be counted is written here, and nothing a client sends can add to it.

/// Declares an enum whose variants are label values, with `EVERY` variant and its text.
macro_rules! labels {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$note:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name { $($(#[$note])* $variant,)* }

        impl $name {
            pub const EVERY: &'static [Self] = &[$(Self::$variant,)*];
            pub(super) const COUNT: usize = Self::EVERY.len();

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

labels! {
    /// What became of one request: one value for each way in and each reason to refuse.
    pub enum Outcome {
        AddressLimited = "address_limited",
        Admitted = "admitted",
        /// Without a key, on a public route.
        AdmittedPublic = "admitted_public",
        BodyBroken = "body_broken",
        BodyTimeout = "body_timeout",
        BodyTooLarge = "body_too_large",
        CredentialsConflicting = "credentials_conflicting",
        CredentialsMalformed = "credentials_malformed",
        CredentialsMissing = "credentials_missing",
        CrossSite = "cross_site",
        ExpectationFailed = "expectation_failed",
        HostRefused = "host_refused",
        ImmutableScopes = "immutable_scopes",
        Internal = "internal",
        InvalidBody = "invalid_body",
        InvalidQuery = "invalid_query",
        KeyConcurrencyLimited = "key_concurrency_limited",
        KeyNotFound = "key_not_found",
        KeyRateLimited = "key_rate_limited",
        KeyUnknown = "key_unknown",
        KeysFull = "keys_full",
        LastAdminKey = "last_admin_key",
        MalformedPath = "malformed_path",
        MalformedRequest = "malformed_request",
        MethodNotAllowed = "method_not_allowed",
        RequestTimeout = "request_timeout",
        RouteClosed = "route_closed",
        RouteRateLimited = "route_rate_limited",
        RouteUnknown = "route_unknown",
        ScopeExceedsCaller = "scope_exceeds_caller",
        ScopeMissing = "scope_missing",
        Stale = "stale",
        StoreUnavailable = "store_unavailable",
        TimedOut = "timed_out",
        UpstreamBusy = "upstream_busy",
        UpstreamInvalid = "upstream_invalid",
        UpstreamTimeout = "upstream_timeout",
        UpstreamUnavailable = "upstream_unavailable",
        UpstreamUnreachable = "upstream_unreachable",
    }
}

labels! {
    /// Why a request that ran under a key was ended.
    pub enum Cut {
        KeyDeleted = "key_deleted",
        /// The key holds no longer what the route needs.
        ScopeLost = "scope_lost",
    }
}

labels! {
    /// Which limiter refused.
    pub enum LimitKind {
        Address = "address",
        KeyConcurrency = "key_concurrency",
        KeyRate = "key_rate",
        RouteRate = "route_rate",
    }
}

labels! {
    /// Why a connection was closed at once.
    pub enum ConnectionRefusal {
        /// Its address has as many as it may have.
        AddressFull = "address_full",
    }
}

labels! {
    /// Why a connection to a listener of the PROXY protocol came to nothing.
    pub enum ProxyHeaderFailure {
        Malformed = "malformed",
        TimedOut = "timed_out",
        /// The peer is not one that is believed.
        Untrusted = "untrusted",
    }
}

labels! {
    /// Where clients come in.
    pub enum Listener {
        Ops = "ops",
        Public = "public",
    }
}

labels! {
    /// Why a TLS handshake came to nothing.
    pub enum TlsFailure {
        /// The client refused: our certificate, for the most part.
        AlertReceived = "alert_received",
        /// The client's certificate is no longer valid, or not yet.
        CertificateExpired = "certificate_expired",
        CertificateMissing = "certificate_missing",
        /// The client's certificate is none of the trusted authorities', or not for this use.
        CertificateRefused = "certificate_refused",
        /// The client's certificate is on its authority's list of revoked ones.
        CertificateRevoked = "certificate_revoked",
        /// The client went away.
        Closed = "closed",
        /// No cipher suite, key exchange or signature in common.
        Incompatible = "incompatible",
        /// Broken or misplaced messages.
        Invalid = "invalid",
        /// No application protocol in common.
        NoProtocol = "no_protocol",
        NotTls = "not_tls",
        /// The client's certificate is valid and not on the list.
        SubjectRefused = "subject_refused",
        Timeout = "timeout",
        /// The client speaks older versions alone.
        Version = "version",
    }
}

labels! {
    /// What went wrong with an upstream.
    pub enum UpstreamFailure {
        /// The response body ended before its end.
        BodyCut = "body_cut",
        Connect = "connect",
        ConnectTimeout = "connect_timeout",
        /// A response that cannot be framed safely.
        InvalidResponse = "invalid_response",
        PoolExhausted = "pool_exhausted",
        /// As many requests as allowed were running and waiting.
        QueueFull = "queue_full",
        /// No place came free in time.
        QueueTimeout = "queue_timeout",
        /// The connection ended before the response began.
        Reset = "reset",
        ResponseTimeout = "response_timeout",
        /// No connection could be secured.
        Tls = "tls",
        /// Every target was left out, so none was asked.
        Unavailable = "unavailable",
    }
}

impl UpstreamFailure {
    /// Whether it befalls one target, and not the upstream as a whole.
    pub(super) fn is_of_target(self) -> bool {
        !matches!(self, Self::BodyCut | Self::QueueFull | Self::QueueTimeout | Self::Unavailable)
    }
}

labels! {
    /// What became of a request that was worth another attempt.
    pub enum Retry {
        /// The attempt brought a response.
        Answered = "answered",
        Failed = "failed",
        /// The attempt was not made: too many requests needed one.
        OverBudget = "over_budget",
    }
}

labels! {
    /// What was asked of the store.
    pub enum StoreOperation {
        ChangeCommit = "change_commit",
        KeyRead = "key_read",
        KeyScan = "key_scan",
        LastUsedFlush = "last_used_flush",
    }
}

labels! {
    /// How the store failed.
    pub enum StoreFault {
        /// It was refused a read or a write, or part of it has died.
        Error = "error",
        /// There is no room on the disk, or no more may be used.
        Full = "full",
        /// Its files are gone.
        Gone = "gone",
        /// A call did not come back.
        Hang = "hang",
        Panic = "panic",
    }
}

labels! {
    /// What an audited change did to a key.
    pub enum AuditOperation {
        Create = "create",
        Delete = "delete",
        Update = "update",
    }
}

labels! {
    /// What a client connection speaks.
    pub enum Protocol {
        Http1 = "http1",
        Http2 = "http2",
    }
}

labels! {
    /// What a client did that ended its HTTP/2 connection.
    pub enum Http2Cut {
        /// Frames that move nothing came too fast.
        ControlFrames = "control_frames",
        /// The protocol library's own limits: headers, small pieces of bodies, faults.
        Excess = "excess",
        Protocol = "protocol_error",
        /// Requests were cancelled too fast.
        Resets = "resets",
        SettingsTimeout = "settings_timeout",
        /// Nothing was taken of any response.
        Stalled = "stalled",
        /// More streams were opened than are even refused.
        Streams = "streams",
    }
}
